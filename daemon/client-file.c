/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Open files as clients
 *
 * An open file of the device is a client like a connection to the socket.  What it
 * asks for by ioctl(2) goes the way of a packet, through request_serve().  Its ring
 * is read by ourselves, for read(2): nobody else has the descriptors, and nobody
 * learns of gates and tables by this way.
 *
 * Who asks
 *   The client is the process that opened the file, and who may do what depends on
 *   that process's rights.  But an open file can be inherited and passed on:
 *	another user's process: EPERM, whoever of the two has more rights
 *	another process of this user: served as that process, by the rights that both
 *		have.  Only F_SELF is refused: who is the target is told to have
 *		gone by the last close, and it would not be its own.
 *   What is named by number, pidfds, userfaultfds and sockets, is looked up in the
 *   descriptors of the calling thread.  Records are read by whoever can read the file.
 *
 * Nothing here waits for a client.  Descriptors of theirs are closed by the loop, since
 * they can be of our own device.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include "client.h"
#include "client-device.h"
#include "client-file.h"
#include "io/device.h"
#include "manager.h"
#include "permission.h"
#include "procfs.h"
#include "request.h"
#include "sys/state.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL	/* 6.9 */
#endif

struct client_file {
	struct device_file file;
	struct client *client;
};

static struct client *client_of(struct device_file *file)
{
	return container_of(file, struct client_file, file)->client;
}

/* ---- who calls ---- */

/* For which process the client speaks during one call. */
struct actor {
	pid_t pid;
	bool privileged;
	bool is_opener;
};

/* A thread of the process that opened the file, which is the same process still? */
static bool is_opener(const struct client *c, pid_t tid)
{
	struct pollfd pfd = { .fd = c->conn.pidfd, .events = POLLIN };

	if (pfd.fd < 0)
		return false;
	if (tid != c->conn.pid && syscall(SYS_tgkill, c->conn.pid, tid, 0) < 0 && errno != EPERM)
		return false;
	return poll(&pfd, 1, 0) == 0;
}

static int find_actor(const struct client *c, const struct device_caller *caller,
		      struct actor *ret_actor)
{
	struct actor a = { .pid = c->conn.pid, .privileged = c->privileged };
	int r;

	if (!caller->tid)
		return -EXDEV;
	if (caller->uid != c->conn.uid)
		return -EPERM;
	a.is_opener = is_opener(c, caller->tid);
	if (!a.is_opener) {
		r = proc_tgid(caller->tid, &a.pid);
		if (r < 0)
			return r;
		a.privileged = c->privileged && permission_for_all(a.pid, caller->uid);
	}
	*ret_actor = a;
	return 0;
}

/* A thread need not share the descriptors of its process. */
static int thread_pidfd(pid_t tid, pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD);

	if (fd < 0 && errno == EINVAL)
		fd = (int)syscall(SYS_pidfd_open, pid, 0);
	return fd < 0 ? -errno : fd;
}

static int take_fd(int pidfd, int number, int *ret_fd)
{
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

/* ---- requests ---- */

static void ring_readable(struct ring *ring _unused_, void *userdata)
{
	struct client_file *file = userdata;

	device_file_wake(&file->file);
}

static void read_ring_ourselves(struct client_file *file)
{
	struct ring *ring = file->client->ring;

	if (!ring)
		return;
	ring->readable = ring_readable;
	ring->readable_data = file;
}

static void packet_begin(struct packet *p, const struct device_call *call, uint32_t op,
			 const void *payload, size_t size)
{
	*p = (struct packet) PACKET_NULL;
	p->u.msg = (struct mirror_msg) {
		.size = (uint32_t)(sizeof(p->u.msg) + size), .op = op,
		.serial = device_call_get_serial(call),
	};
	memcpy(packet_payload(p), payload, size);
}

/* The ring with its defaults: who only wants to read need not know of it. */
static int make_ring(struct client_file *file, const struct device_call *call)
{
	struct mirror_channel channel = { .size = sizeof(channel) };
	struct packet request, reply = PACKET_NULL;

	packet_begin(&request, call, MIRROR_OP_CHANNEL, &channel, sizeof(channel));
	request_serve(file->client, &request, &reply);
	read_ring_ourselves(file);
	request_sent(file->client, &reply);
	return -reply.u.msg.error;
}

/* What the numbers in an ATTACH mean, as if they had come in a packet. */
static int take_attach_fds(struct client *c, const struct device_call *call,
			   const struct actor *actor, struct packet *request)
{
	struct mirror_attach *in = packet_payload(request);
	_cleanup_(fd_closep) int pidfd = -1;
	bool is_self = in->flags & MIRROR_ATTACH_F_SELF, by_number = false;
	int r = 0;

	if (is_self && !actor->is_opener)
		return -EPERM;
	if (in->flags & MIRROR_ATTACH_F_FDS) {
		if (!(in->flags & MIRROR_ATTACH_F_UFFD) && in->uffd)
			return -E2BIG;
		pidfd = thread_pidfd(device_call_get_caller(call)->tid, actor->pid);
		if (pidfd < 0)
			return pidfd;
		by_number = !is_self || in->pidfd != -1;
		if (by_number)
			r = take_fd(pidfd, in->pidfd, &request->fds[0]);
		if (r == 0 && (in->flags & MIRROR_ATTACH_F_UFFD))
			r = take_fd(pidfd, in->uffd, &request->fds[1]);
		in->flags &= ~(uint32_t)MIRROR_ATTACH_F_FDS;
		in->pidfd = in->uffd = 0;
	}
	if (r == 0 && is_self && !by_number) {
		request->fds[0] = fcntl(c->conn.pidfd, F_DUPFD_CLOEXEC, 3);
		r = request->fds[0] < 0 ? -errno : 0;
	}
	request->n_fds = request->fds[1] >= 0 ? 2 : request->fds[0] >= 0;
	return r;
}

static int prepare(struct client_file *file, struct device_call *call, const struct actor *actor,
		   struct packet *request)
{
	switch (request->u.msg.op) {
	case MIRROR_OP_ATTACH:
		return take_attach_fds(file->client, call, actor, request);
	case MIRROR_OP_NOTIFIER_INSERT:
		return file->client->ring ? 0 : make_ring(file, call);
	case MIRROR_OP_TABLE:
		return -EOPNOTSUPP;	/* a descriptor, and nothing else */
	}
	return 0;
}

static void serve(struct client_file *file, struct device_call *call, const struct actor *actor,
		  struct packet *request)
{
	struct client *c = file->client;
	uint32_t *in_flags = (uint32_t *)packet_payload(request) + 1, flags = *in_flags;
	struct packet reply = PACKET_NULL;
	uint32_t *out_flags = (uint32_t *)packet_payload(&reply) + 1;
	int r;

	r = prepare(file, call, actor, request);
	if (r < 0) {
		device_answer(call, r, NULL, 0);
	} else {
		request_serve(c, request, &reply);
		read_ring_ourselves(file);
		if (request->u.msg.op == MIRROR_OP_ATTACH)
			*out_flags = flags & ~(uint32_t)MIRROR_ATTACH_F_UFFD;
		device_answer(call, -reply.u.msg.error, packet_payload(&reply),
			      packet_payload_size(&reply));
		request_sent(c, &reply);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(request->fds); i++)
		if (request->fds[i] >= 0)
			loop_close(c->manager->loop, request->fds[i]);
}

/* ---- a socket of the caller's ---- */

static int int_option(int fd, int option, int *ret_value)
{
	socklen_t len = sizeof(*ret_value);

	return getsockopt(fd, SOL_SOCKET, option, ret_value, &len) < 0 ? -EBADMSG : 0;
}

static int check_socket(int fd, const struct device_caller *caller, const struct actor *actor)
{
	int domain, type, listening, r;
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	struct ucred cred;

	r = int_option(fd, SO_DOMAIN, &domain);
	if (r == 0)
		r = int_option(fd, SO_TYPE, &type);
	if (r == 0)
		r = int_option(fd, SO_ACCEPTCONN, &listening);
	if (r < 0)
		return r;
	if (domain != AF_UNIX || type != SOCK_SEQPACKET || listening ||
	    getpeername(fd, (struct sockaddr *)&peer, &len) < 0)
		return -EBADMSG;
	len = sizeof(cred);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	/* Of a socketpair that is who made it: no other's may be served as the caller's. */
	return cred.pid == actor->pid && cred.uid == caller->uid ? 0 : -EPERM;
}

static int connect_fd(struct client *c, const struct device_call *call,
		      const struct actor *actor, int number)
{
	const struct device_caller *caller = device_call_get_caller(call);
	_cleanup_(fd_closep) int pidfd = thread_pidfd(caller->tid, actor->pid);
	struct client *connected;
	int fd = -1, r;

	if (pidfd < 0)
		return pidfd;
	r = take_fd(pidfd, number, &fd);
	if (r < 0)
		return r;
	r = check_socket(fd, caller, actor);
	if (r == 0)
		r = client_new(&connected, c->manager, fd);
	if (r < 0)
		loop_close(c->manager->loop, fd);
	return r;
}

static void serve_connect(struct client *c, struct device_call *call, const struct actor *actor,
			  const struct mirror_connect *in)
{
	struct mirror_connect out = { .size = sizeof(out) };
	int r;

	if (in->size != sizeof(*in) || in->flags || in->__reserved0 ||
	    !request_is_zero(in->__reserved, sizeof(in->__reserved)))
		r = -E2BIG;
	else
		r = connect_fd(c, call, actor, in->socket);
	out.socket = in->socket;
	device_answer(call, r, &out, sizeof(out));
}

/* ---- what the device asks for ---- */

static const uint32_t commands[] = {
	[MIRROR_OP_INFO] = MIRROR_IOC_INFO,
	[MIRROR_OP_CHANNEL] = MIRROR_IOC_CHANNEL,
	[MIRROR_OP_ATTACH] = MIRROR_IOC_ATTACH,
	[MIRROR_OP_DETACH] = MIRROR_IOC_DETACH,
	[MIRROR_OP_NOTIFIER_INSERT] = MIRROR_IOC_NOTIFIER_INSERT,
	[MIRROR_OP_NOTIFIER_REMOVE] = MIRROR_IOC_NOTIFIER_REMOVE,
	[MIRROR_OP_ARM] = MIRROR_IOC_ARM,
	[MIRROR_OP_TARGET_INFO] = MIRROR_IOC_TARGET_INFO,
	[MIRROR_OP_STATS] = MIRROR_IOC_STATS,
	[MIRROR_OP_TABLE] = MIRROR_IOC_TABLE,
	[MIRROR_OP_FILL] = MIRROR_IOC_FILL,
	[MIRROR_OP_CONSUMER_INFO] = MIRROR_IOC_CONSUMER_INFO,
	[MIRROR_OP_CONNECT] = MIRROR_IOC_CONNECT,
};

void client_file_ioctl(struct device_file *f, struct device_call *call, uint32_t cmd, void *arg,
		       size_t size)
{
	struct client_file *file = container_of(f, struct client_file, file);
	struct client *c = file->client;
	struct actor actor, opener = { .pid = c->conn.pid, .privileged = c->privileged };
	uint32_t op = _IOC_NR(cmd);
	struct packet request;
	int r;

	r = op < ARRAY_SIZE(commands) && commands[op] == cmd ? 0 : -ENOTTY;
	if (r == 0 && size != op_payload_size(op))
		r = -EBADMSG;
	if (r == 0)
		r = find_actor(c, device_call_get_caller(call), &actor);
	if (r < 0) {
		device_answer(call, r, NULL, 0);
		return;
	}
	if (op == MIRROR_OP_CONNECT) {
		serve_connect(c, call, &actor, arg);
		return;
	}
	packet_begin(&request, call, op, arg, size);
	c->conn.pid = actor.pid;
	c->privileged = actor.privileged;
	c->is_calling = true;
	serve(file, call, &actor, &request);
	c->is_calling = false;
	c->conn.pid = opener.pid;
	c->privileged = opener.privileged;
}

static int file_new(struct client_file **ret_file, struct client *c, uint64_t fh)
{
	struct client_file *file;

	file = malloc(sizeof(*file));
	if (!file)
		return -ENOMEM;
	*file = (struct client_file) { .client = c };
	device_file_init(&file->file, fh);
	c->file = file;
	*ret_file = file;
	return 0;
}

struct client_file *client_file_free(struct client_file *file)
{
	if (!file)
		return NULL;
	device_file_deinit(&file->file);
	file->client->file = NULL;
	free(file);
	return NULL;
}

/* An open that another mirrord began: the kernel never heard of its number. */
static void drop_half_open(struct manager *m, const struct device_call *call)
{
	const struct state_device *st = state_get_device(m->state);

	if (!device_call_is_resent(call) || device_call_get_serial(call) != st->open_serial)
		return;
	list_for_each(l, &m->clients) {
		struct client *c = list_entry(l, struct client, link);

		if (c->file && c->file->file.fh == st->next_fh) {
			client_free(c);
			return;
		}
	}
}

int client_file_open(void *userdata, struct device_call *call, uint32_t flags,
		     struct device_file **ret_file)
{
	struct manager *m = userdata;
	const struct device_caller *caller = device_call_get_caller(call);
	struct state_device *st = state_get_device(m->state);
	_cleanup_(fd_closep) int pidfd = -1;
	struct client_file *file;
	struct client *c;
	pid_t pid;
	int r;

	drop_half_open(m, call);
	/* In a namespace of processes that is not below ours: nobody we could look at. */
	if (!caller->tid)
		return -EXDEV;
	r = proc_tgid(caller->tid, &pid);
	if (r < 0)
		return r;
	pidfd = proc_pidfd(pid);
	if (pidfd < 0)
		return pidfd;
	r = client_new_file(&c, m, pid, pidfd, caller->uid, caller->gid);
	if (r < 0) {
		m->refused++;
		return r;
	}
	TAKE_FD(pidfd);
	r = file_new(&file, c, ++st->next_fh);
	if (r < 0) {
		client_free(c);
		return r;
	}
	st->open_serial = device_call_get_serial(call);
	client_keep_file(c, file->file.fh, flags);
	*ret_file = &file->file;
	return 0;
}

void client_file_release(struct device_file *f)
{
	client_hung_up(client_of(f));
}

ssize_t client_file_read(struct device_file *f, void *buf, size_t size)
{
	struct client *c = client_of(f);
	uint32_t n;

	if (size < sizeof(struct mirror_event))
		return -EINVAL;
	if (!c->ring)
		return 0;
	if (c->ring->revoked)
		return -EIO;
	n = ring_take(c->ring, buf, (uint32_t)(size / sizeof(struct mirror_event)));
	if (n)
		client_put_owed(c);
	return (ssize_t)(n * sizeof(struct mirror_event));
}

uint32_t client_file_poll(struct device_file *f)
{
	const struct ring *ring = client_of(f)->ring;

	if (!ring)
		return 0;
	if (ring->revoked)
		return POLLERR | POLLHUP;
	return ring_is_readable(ring) ? POLLIN | POLLRDNORM : 0;
}

int client_device_adopt(struct client *c, uint64_t fh, uint32_t open_flags _unused_)
{
	struct client_file *file;
	int r;

	r = file_new(&file, c, fh);
	if (r == 0)
		read_ring_ourselves(file);
	return r;
}

struct device_file *client_file_get(struct client_file *file)
{
	return &file->file;
}
