/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Packets of the control socket
 *
 * One packet is struct mirror_msg and a payload, with up to MIRROR_MSG_FDS
 * descriptors.  What is received is checked for its form here, for its meaning
 * by the receiver.  Descriptors that nobody took are closed by packet_clear().
 */

#include <mirror/uapi/ioctl.h>
#include <sys/types.h>
#include "base.h"

struct packet {
	union {
		struct mirror_msg msg;
		uint8_t raw[MIRROR_MSG_MAX];
	} u;
	int fds[MIRROR_MSG_FDS];
	unsigned int n_fds;
	/* the fds arrived and may have lost company: the peer sent more than allowed */
	bool truncated;
};

#define PACKET_NULL { .u = { .raw = { 0 } }, .fds = { -1, -1, -1, -1 } }

static inline void *packet_payload(struct packet *p)
{
	return p->u.raw + sizeof(p->u.msg);
}

static inline size_t packet_payload_size(const struct packet *p)
{
	return p->u.msg.size - sizeof(p->u.msg);
}

void packet_clear(struct packet *p);

/*
 * Who gets a descriptor that came and that nobody asked for.  Closing one can take long,
 * as it can be the last of a file that somebody else serves.  NULL: it is just closed.
 */
struct dropper {
	void (*drop)(void *userdata, int fd);
	void *userdata;
};

/*
 * As recvmsg(2), but nothing that comes is closed by the kernel on our behalf: all
 * descriptors are dropped.
 */
ssize_t socket_recv(int sock, void *buf, size_t size, int flags, const struct dropper *dropper);

/* @flags as for sendmsg(2).  0 or -errno; the descriptors are not consumed. */
int packet_send(int sock, const struct packet *p, int flags);

/*
 * 1 if a packet came, 0 at end of file, -EAGAIN, -EBADMSG for a packet whose form
 * is wrong (it has been consumed, and packet_clear() was done), -EMFILE likewise
 * when its descriptors could not be taken, or another -errno.
 */
int packet_recv(int sock, struct packet *p, int flags);

/*
 * The same, but descriptors are the caller's to close, whatever is returned.  Those that
 * are too many are dropped.
 */
int packet_recv_raw(int sock, struct packet *p, int flags, const struct dropper *dropper);

/* The payload of @op: its size, or 0 for an unknown operation. */
size_t op_payload_size(uint32_t op);
