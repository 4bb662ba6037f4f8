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

/* @flags as for sendmsg(2).  0 or -errno; the descriptors are not consumed. */
int packet_send(int sock, const struct packet *p, int flags);

/*
 * 1 if a packet came, 0 at end of file, -EAGAIN, -EBADMSG for a packet whose form
 * is wrong (it has been consumed, and packet_clear() was done), -EMFILE likewise
 * when its descriptors could not be taken, or another -errno.
 */
int packet_recv(int sock, struct packet *p, int flags);

/* The same, but descriptors are the caller's to close, whatever is returned. */
int packet_recv_raw(int sock, struct packet *p, int flags);

/* The payload of @op: its size, or 0 for an unknown operation. */
size_t op_payload_size(uint32_t op);
