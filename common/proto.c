/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>
#include <sys/socket.h>
#include "proto.h"

#define SCM_FDS_MAX 253	/* the kernel lets nobody send more */

union control {
	struct cmsghdr align;
	uint8_t raw[CMSG_SPACE(MIRROR_MSG_FDS * sizeof(int))];
};

union any_control {
	struct cmsghdr align;
	uint8_t raw[CMSG_SPACE(SCM_FDS_MAX * sizeof(int))];
};

void packet_clear(struct packet *p)
{
	for (unsigned int i = 0; i < p->n_fds; i++)
		p->fds[i] = fd_close(p->fds[i]);
	p->n_fds = 0;
}

int packet_send(int sock, const struct packet *p, int flags)
{
	union control control = { .raw = { 0 } };
	struct iovec iov = {
		.iov_base = (void *)(uintptr_t)p->u.raw,
		.iov_len = p->u.msg.size,
	};
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *cmsg;
	ssize_t n;

	if (p->n_fds) {
		msg.msg_control = control.raw;
		msg.msg_controllen = CMSG_SPACE(p->n_fds * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(p->n_fds * sizeof(int));
		memcpy(CMSG_DATA(cmsg), p->fds, p->n_fds * sizeof(int));
	}
	do {
		n = sendmsg(sock, &msg, flags | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

static void drop_fd(const struct dropper *dropper, int fd)
{
	if (dropper && dropper->drop)
		dropper->drop(dropper->userdata, fd);
	else
		fd_close(fd);
}

/* The first of them into @p, if there is one. */
static void take_fds(struct packet *p, struct msghdr *msg, const struct dropper *dropper)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		unsigned int n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (unsigned int i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (p && p->n_fds < MIRROR_MSG_FDS) {
				p->fds[p->n_fds++] = fd;
				continue;
			}
			drop_fd(dropper, fd);
			if (p)
				p->truncated = true;
		}
	}
}

/* Descriptors go to @p, which may be NULL.  The msg_flags come back too. */
static ssize_t receive(int sock, struct packet *p, void *buf, size_t size, int flags,
		       const struct dropper *dropper, int *ret_flags)
{
	union any_control control;
	struct iovec iov = { .iov_base = buf, .iov_len = size };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.raw, .msg_controllen = sizeof(control.raw),
	};
	ssize_t n;

	do {
		n = recvmsg(sock, &msg, flags | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	take_fds(p, &msg, dropper);
	*ret_flags = msg.msg_flags;
	return n;
}

ssize_t socket_recv(int sock, void *buf, size_t size, int flags, const struct dropper *dropper)
{
	int said;

	return receive(sock, NULL, buf, size, flags, dropper, &said);
}

int packet_recv(int sock, struct packet *p, int flags)
{
	int r = packet_recv_raw(sock, p, flags, NULL);

	if (r < 0)
		packet_clear(p);
	return r;
}

int packet_recv_raw(int sock, struct packet *p, int flags, const struct dropper *dropper)
{
	int said;
	ssize_t n;

	*p = (struct packet) PACKET_NULL;
	n = receive(sock, p, p->u.raw, sizeof(p->u.raw), flags, dropper, &said);
	if (n < 0)
		return (int)n;
	if (n == 0 && !p->n_fds)	/* an empty packet reads the same, and is no request */
		return 0;
	p->truncated |= said & (MSG_TRUNC | MSG_CTRUNC);
	/* if there was room in the buffer, it was this process that had none left */
	if ((said & MSG_CTRUNC) && p->n_fds < MIRROR_MSG_FDS)
		return -EMFILE;
	if (p->truncated || (size_t)n < sizeof(p->u.msg) || p->u.msg.size != (size_t)n)
		return -EBADMSG;
	return 1;
}

size_t op_payload_size(uint32_t op)
{
	switch (op) {
	case MIRROR_OP_INFO:
		return sizeof(struct mirror_info);
	case MIRROR_OP_CHANNEL:
		return sizeof(struct mirror_channel);
	case MIRROR_OP_ATTACH:
		return sizeof(struct mirror_attach);
	case MIRROR_OP_DETACH:
		return sizeof(struct mirror_detach);
	case MIRROR_OP_NOTIFIER_INSERT:
		return sizeof(struct mirror_notifier_insert);
	case MIRROR_OP_NOTIFIER_REMOVE:
		return sizeof(struct mirror_notifier_remove);
	case MIRROR_OP_ARM:
		return sizeof(struct mirror_arm);
	case MIRROR_OP_TARGET_INFO:
		return sizeof(struct mirror_target_info);
	case MIRROR_OP_STATS:
		return sizeof(struct mirror_stats);
	case MIRROR_OP_TABLE:
		return sizeof(struct mirror_table_get);
	case MIRROR_OP_FILL:
		return sizeof(struct mirror_fill);
	case MIRROR_OP_CONSUMER_INFO:
		return sizeof(struct mirror_consumer_info);
	case MIRROR_OP_CONNECT:
		return sizeof(struct mirror_connect);
	}
	return 0;
}
