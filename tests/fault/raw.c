/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/userfaultfd.h>
#include <mirror/uapi/ring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "raw.h"

#define REPLY_MS	20000

union control {
	struct cmsghdr align;
	uint8_t raw[CMSG_SPACE(64 * sizeof(int))];
};

int raw_try_connect(const char *path, int *ret_fd)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd;

	strncpy(sa.sun_path, path, sizeof(sa.sun_path) - 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		int r = -errno;

		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

int raw_connect(const char *path)
{
	int fd, r;

	r = raw_try_connect(path, &fd);
	if (r < 0)
		bail("cannot connect to %s: %s", path, strerror(-r));
	return fd;
}

int raw_send(int sock, const void *bytes, size_t n, const int *fds, unsigned int n_fds)
{
	union control control = { .raw = { 0 } };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = n };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n_fds) {
		struct cmsghdr *c;

		msg.msg_control = control.raw;
		msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	return sendmsg(sock, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void take_fds(struct msghdr *msg, struct reply *reply)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		unsigned int n = (unsigned int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		if (c->cmsg_type != SCM_RIGHTS || n > RAW_FDS)
			continue;
		memcpy(reply->fds, CMSG_DATA(c), n * sizeof(int));
		reply->n_fds = n;
	}
}

int raw_recv(int sock, struct reply *ret_reply)
{
	struct pollfd pfd = { .fd = sock, .events = POLLIN };
	union control control;
	struct iovec iov[] = {
		{ .iov_base = &ret_reply->msg, .iov_len = sizeof(ret_reply->msg) },
		{ .iov_base = ret_reply->payload, .iov_len = sizeof(ret_reply->payload) },
	};
	struct msghdr msg = {
		.msg_iov = iov, .msg_iovlen = 2,
		.msg_control = control.raw, .msg_controllen = sizeof(control.raw),
	};
	ssize_t n;

	memset(ret_reply, 0, sizeof(*ret_reply));
	if (poll(&pfd, 1, REPLY_MS) <= 0)
		return -ETIMEDOUT;
	n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n == 0)
		return 0;
	if (n < 0)
		return errno == ECONNRESET ? 0 : -errno;
	take_fds(&msg, ret_reply);
	if ((size_t)n < sizeof(ret_reply->msg) || ret_reply->msg.size != (size_t)n)
		return -EPROTO;
	ret_reply->n = (size_t)n - sizeof(ret_reply->msg);
	return 1;
}

void reply_close(struct reply *reply)
{
	for (unsigned int i = 0; i < reply->n_fds; i++)
		close(reply->fds[i]);
	reply->n_fds = 0;
}

int raw_call(int sock, uint32_t op, void *payload, size_t n, const int *fds, unsigned int n_fds,
	     struct reply *ret_reply)
{
	static uint32_t serial = 100;
	struct {
		struct mirror_msg msg;
		uint8_t payload[MIRROR_MSG_MAX];
	} request = { .msg = { .size = (uint32_t)(sizeof(request.msg) + n), .op = op } };
	struct reply own, *reply = ret_reply ? ret_reply : &own;
	int r;

	request.msg.serial = ++serial;
	memcpy(request.payload, payload, n);
	r = raw_send(sock, &request, request.msg.size, fds, n_fds);
	if (r < 0)
		return r;
	r = raw_recv(sock, reply);
	if (r <= 0)
		return r < 0 ? r : -EPIPE;
	if (!ret_reply)
		reply_close(reply);
	if (reply->msg.op != op || reply->msg.serial != serial)
		return -EPROTO;
	if (reply->msg.error)
		return reply->n || reply->n_fds || reply->msg.error < 0 ? -EPROTO :
		       -reply->msg.error;
	if (reply->n != n)
		return -EPROTO;
	memcpy(payload, reply->payload, n);
	return 0;
}

int raw_pidfd(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (fd < 0)
		bail("pidfd_open: %s", strerror(errno));
	return fd;
}

int raw_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd < 0)
		bail("userfaultfd: %s", strerror(errno));
	return fd;
}

int raw_attach_self(int sock, int *ret_gate)
{
	struct mirror_attach attach = {
		.size = sizeof(attach),
		.flags = MIRROR_ATTACH_F_SELF | MIRROR_ATTACH_F_UFFD,
	};
	int fds[] = { raw_pidfd(getpid()), raw_uffd() }, r;
	struct reply reply;

	r = raw_call(sock, MIRROR_OP_ATTACH, &attach, sizeof(attach), fds, 2, &reply);
	close(fds[0]);
	close(fds[1]);
	if (r < 0)
		return r;
	if (ret_gate && reply.n_fds) {
		*ret_gate = reply.fds[0];
		reply.fds[0] = -1;
	}
	reply_close(&reply);
	return (int)attach.target;
}

int raw_insert(int sock, uint32_t target, uint64_t start, uint64_t end, uint32_t *ret_id)
{
	struct mirror_notifier_insert insert = {
		.size = sizeof(insert), .target = target, .start = start, .end = end,
		.user_data = 4711,
	};
	int r;

	r = raw_call(sock, MIRROR_OP_NOTIFIER_INSERT, &insert, sizeof(insert), NULL, 0, NULL);
	if (r == 0 && ret_id)
		*ret_id = insert.notifier;
	return r;
}

int raw_channel(int sock, uint32_t entries, struct reply *ret_reply)
{
	struct mirror_channel channel = { .size = sizeof(channel), .entries = entries };

	return raw_call(sock, MIRROR_OP_CHANNEL, &channel, sizeof(channel), NULL, 0, ret_reply);
}

/* In a child: 0, or the number of the step that went wrong. */
static int serve(const struct daemon *d)
{
	const struct mirror_ring_hdr *hdr;
	const struct mirror_event *ev;
	struct reply ring;
	uint64_t at;
	int sock, target;
	char *p;

	p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 1;
	at = (uintptr_t)p + PAGE;
	if (raw_try_connect(d->socket, &sock) < 0)
		return 2;
	if (raw_channel(sock, 16, &ring) < 0 || ring.n_fds != 4)
		return 3;
	target = raw_attach_self(sock, NULL);
	if (target <= 0)
		return 4;
	if (raw_insert(sock, (uint32_t)target, at, at + PAGE, NULL) < 0)
		return 5;
	/* the daemon must be able to let us go, or SIGALRM's default ends us */
	if (munmap(p + PAGE, PAGE) < 0)
		return 6;
	hdr = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, ring.fds[0], 0);
	if (hdr == MAP_FAILED)
		return 7;
	/* a request is answered in order: the record is there when the reply is */
	if (raw_insert(sock, (uint32_t)target, at, at + PAGE, NULL) < 0)
		return 8;
	ev = (const struct mirror_event *)(const void *)((const char *)hdr + hdr->slots_off);
	if (__atomic_load_n(&hdr->tail, __ATOMIC_ACQUIRE) != 1 || ev->type != MIRROR_EVENT_UNMAP ||
	    ev->start != at || ev->end != at + PAGE || ev->user_data != 4711 || ev->seq != 1)
		return 9;
	return 0;
}

void check_service(const struct daemon *d, const char *after, uid_t uid)
{
	int status;
	pid_t pid;

	pid = child_fork();
	if (!pid) {
		alarm(30);
		if (uid && (setgroups(0, NULL) < 0 || setgid(uid) < 0 || setuid(uid) < 0))
			_exit(77);
		_exit(serve(d));
	}
	status = child_wait(pid, 30000);
	if (!ok(status == 0, "%s: others are served%s", after, uid ? ", another user too" : ""))
		note("status %#x (the number of the step)", (unsigned int)status);
}

void check_empty(int sock, const char *after)
{
	uint64_t end = now_ms() + 20000;
	struct mirror_stats s = { 0 };
	bool empty = false;
	int r = 0;

	while (!empty && r == 0 && now_ms() < end) {
		s = (struct mirror_stats) { .size = sizeof(s) };
		r = raw_call(sock, MIRROR_OP_STATS, &s, sizeof(s), NULL, 0, NULL);
		empty = r == 0 && !s.targets && s.clients == 1 && !s.notifiers && !s.channels &&
			!s.removes_pending;
		if (!empty)
			nap_ms(2);
	}
	if (!ok(empty, "%s: nothing is left in the daemon", after))
		note("error %d: %u targets, %u clients, %u notifiers, %u channels", -r, s.targets,
		     s.clients, s.notifiers, s.channels);
}
