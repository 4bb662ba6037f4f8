/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include "io/control.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define ROUND_PACKETS 16	/* of one client before others get their turn */
#define ROUND_CLIENTS 64	/* before those that are there get their turn */
#define RETRY_NS 100000000	/* after accept() found no descriptor left */

struct control {
	struct loop *loop;
	struct loop_op accept_op, retry_op;
	const struct control_ops *ops;
	void *userdata;
	int fd;
	int reserve_fd;		/* given up for a moment to tell a client EMFILE */
};

static void control_ready(struct loop_op *op, int res);

/*
 * Polled, and not accepted by io_uring: that is woken one at a time, and what a mirrord
 * that was killed had waiting stays a while after its end.  It would be woken, and not we.
 */
static int control_poll(struct control *c)
{
	return loop_poll(c->loop, &c->accept_op, c->fd, POLLIN, control_ready);
}

static void control_retry(struct loop_op *op, int res _unused_)
{
	struct control *c = container_of(op, struct control, retry_op);

	if (c->reserve_fd < 0)
		c->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (control_poll(c) < 0)
		loop_timeout(c->loop, &c->retry_op, RETRY_NS, control_retry);
}

/* No descriptor left: say so to who waits, instead of leaving it hanging. */
static void control_exhausted(struct control *c)
{
	int fd;

	c->reserve_fd = fd_close(c->reserve_fd);
	fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		conn_refuse(c->loop, fd, EMFILE);
	/* that one is closed soon, and makes room for the reserve: see control_retry() */
	loop_stop(&c->accept_op);
	loop_timeout(c->loop, &c->retry_op, RETRY_NS, control_retry);
}

static void control_ready(struct loop_op *op, int res)
{
	struct control *c = container_of(op, struct control, accept_op);
	int fd;

	if (res < 0)
		return;
	for (int i = 0; i < ROUND_CLIENTS; i++) {
		fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			c->ops->accepted(c->userdata, fd);
			continue;
		}
		if (errno == ECONNABORTED || errno == EINTR)
			continue;
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
			control_exhausted(c);
		return;
	}
	/* More may be waiting, and the poll tells only of what is new: ask again. */
	loop_stop(op);
	control_retry(&c->retry_op, 0);
}

int control_new(struct control **ret_control, struct loop *loop, int fd,
		const struct control_ops *ops, void *userdata)
{
	struct control *c;
	int r;

	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	*c = (struct control) {
		.loop = loop, .ops = ops, .userdata = userdata, .fd = -1,
		.accept_op = LOOP_OP_NULL, .retry_op = LOOP_OP_NULL,
	};
	c->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	c->fd = fd;
	r = fcntl(fd, F_GETFL);
	if (r >= 0)
		r = fcntl(fd, F_SETFL, r | O_NONBLOCK);
	r = r < 0 ? -errno : control_poll(c);
	if (r < 0) {
		c->fd = -1;	/* the caller's still */
		control_free(c);
		return r;
	}
	*ret_control = c;
	return 0;
}

struct control *control_free(struct control *c)
{
	if (!c)
		return NULL;
	loop_stop(&c->accept_op);
	loop_stop(&c->retry_op);
	fd_close(c->fd);
	fd_close(c->reserve_fd);
	free(c);
	return NULL;
}

/* Does anybody answer at this address? */
static bool is_live(const struct sockaddr_un *sa)
{
	_cleanup_(fd_closep) int fd = -1;
	struct ucred cred;
	socklen_t len = sizeof(cred);

	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) < 0)
		return false;
	/* io_uring keeps the socket of a process that was killed for a while after it */
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.pid > 0)
		return kill(cred.pid, 0) == 0 || errno != ESRCH;
	return true;
}

int control_listen(const char *path, mode_t mode, int *ret_fd)
{
	_cleanup_(fd_closep) int fd = -1;
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct stat st;

	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	strcpy(sa.sun_path, path);
	if (lstat(path, &st) == 0) {
		if (!S_ISSOCK(st.st_mode))
			return -EEXIST;
		if (is_live(&sa))
			return -EADDRINUSE;
		if (unlink(path) < 0)
			return -errno;
	}
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	if (chmod(path, mode) < 0 || listen(fd, 1024) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/*
 * Closing a file can wait for who serves it: a file system of the client's own
 * making, say.  The kernel's workers may wait, we may not.
 */
static void drop(void *userdata, int fd)
{
	loop_close(userdata, fd);
}

static void close_all(struct loop *loop, struct packet *packet)
{
	for (unsigned int i = 0; i < packet->n_fds; i++)
		if (packet->fds[i] >= 0)
			loop_close(loop, packet->fds[i]);
	packet->n_fds = 0;
}

bool conn_peek(struct conn *conn, struct mirror_msg *ret_msg)
{
	return recv(conn->fd, ret_msg, sizeof(*ret_msg), MSG_PEEK | MSG_DONTWAIT) ==
	       sizeof(*ret_msg);
}

static void conn_ready(struct loop_op *op, int res)
{
	struct conn *conn = container_of(op, struct conn, op);
	struct loop *loop = op->loop;
	struct dropper dropper = { .drop = drop, .userdata = loop };
	int r;

	if (res < 0) {
		conn->ops->hangup(conn);
		return;
	}
	for (int i = 0; i < ROUND_PACKETS; i++) {
		struct mirror_msg msg;
		struct packet packet;

		if (conn->ops->upcoming && conn_peek(conn, &msg) &&
		    !conn->ops->upcoming(conn, &msg)) {
			conn_pause(conn);
			return;
		}
		r = packet_recv_raw(conn->fd, &packet, MSG_DONTWAIT, &dropper);
		if (r == -EAGAIN)
			return;
		if (r == -EBADMSG || r == -EMFILE) {
			struct packet reply = PACKET_NULL;

			reply.u.msg = (struct mirror_msg) {
				.size = sizeof(reply.u.msg), .op = packet.u.msg.op,
				.serial = packet.u.msg.serial, .error = -r,
			};
			if (conn_reply(conn, &reply) == 0)
				r = 1;
			else
				r = -EPIPE;
		} else if (r > 0 && conn->ops->packet(conn, &packet) < 0) {
			r = -EPIPE;
		}
		close_all(loop, &packet);
		if (r <= 0) {
			conn->ops->hangup(conn);
			return;
		}
		if (!loop_op_is_active(op))
			return;		/* paused */
	}
	/* More may be waiting, and the poll tells only of what is new: ask again. */
	conn_pause(conn);
	if (conn_resume(conn) < 0)
		conn->ops->hangup(conn);
}

void conn_pause(struct conn *conn)
{
	loop_stop(&conn->op);
}

int conn_resume(struct conn *conn)
{
	if (loop_op_is_active(&conn->op))
		return 0;
	return loop_poll(conn->loop, &conn->op, conn->fd, POLLIN | POLLRDHUP, conn_ready);
}

int conn_init(struct conn *conn, struct loop *loop, int fd, const struct conn_ops *ops)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int pidfd = -1, r;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	len = sizeof(pidfd);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) < 0) {
		/* before 6.5: the pid may be somebody else's by now; cred.uid is not */
		pidfd = cred.pid > 0 ? (int)syscall(SYS_pidfd_open, cred.pid, 0) : -1;
	}
	*conn = (struct conn) {
		.op = LOOP_OP_NULL, .ops = ops, .fd = -1, .pidfd = pidfd,
		.pid = cred.pid, .uid = cred.uid, .gid = cred.gid,
	};
	r = loop_poll(loop, &conn->op, fd, POLLIN | POLLRDHUP, conn_ready);
	if (r < 0) {
		conn->pidfd = fd_close(conn->pidfd);
		return r;
	}
	conn->loop = loop;
	conn->fd = fd;
	return 0;
}

void conn_deinit(struct conn *conn)
{
	loop_stop(&conn->op);
	if (conn->fd >= 0)
		loop_close(conn->loop, TAKE_FD(conn->fd));
	conn->pidfd = fd_close(conn->pidfd);
}

int conn_reply(struct conn *conn, const struct packet *packet)
{
	return packet_send(conn->fd, packet, MSG_DONTWAIT);
}

void conn_refuse(struct loop *loop, int fd, int error)
{
	struct packet packet = PACKET_NULL;

	packet.u.msg = (struct mirror_msg) {
		.size = sizeof(packet.u.msg), .error = error,
	};
	packet_send(fd, &packet, MSG_DONTWAIT);
	if (loop)
		loop_close(loop, fd);
	else
		fd_close(fd);
}
