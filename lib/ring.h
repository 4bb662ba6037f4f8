/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Reading a ring.  All calls but ring_flags() are under the lock of the ring's
 * context.
 */

#include <mirror/uapi/event.h>
#include <mirror/uapi/ring.h>
#include "base.h"
#include "shm.h"

struct ring {
	const struct mirror_ring_hdr *hdr;
	const uint8_t *slots;
	struct mirror_ring_cons *cons;
	size_t hdr_bytes, cons_bytes;
	uint32_t entries;
	uint32_t stride;
	uint32_t head;		/* the true one; cons->head only tells the producer */
	uint32_t wait_gen;
};

#define RING_NULL { .hdr = NULL, .slots = NULL, .cons = NULL }

int ring_map(struct ring *ring, int producer_fd, int consumer_fd);
void ring_unmap(struct ring *ring);

/* Index after the newest record, or -EPROTO if the producer has gone mad. */
int ring_tail(const struct ring *ring, uint32_t *ret_tail);

/* 1 and the oldest record if it is before @tail, else 0.  Its slot is given back. */
int ring_take(struct ring *ring, uint32_t tail, struct mirror_event *ret_event);

void ring_ack(struct ring *ring, uint64_t seq);

/* Announces a sleep, with a full fence: look at the tail once more afterwards. */
void ring_sleep(struct ring *ring);
void ring_wake(struct ring *ring);

static inline bool ring_is_mapped(const struct ring *ring)
{
	return ring->hdr != NULL;
}

static inline uint32_t ring_flags(const struct ring *ring)
{
	/*
	 * Acquire: pairs with the daemon's release when it drops OVERFLOW: who does
	 * not see the flag sees the record, provided it loads the tail afterwards.
	 */
	return load_acquire(&ring->hdr->flags);
}
