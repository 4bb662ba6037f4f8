/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A gate as a consumer sees it.  What was in its head was checked once and copied
 * here; of the shared memory only the words that change are looked at again.
 */

struct mirror_target;

#include <mirror/uapi/gate.h>
#include "base.h"
#include "shm.h"

struct gate {
	const struct mirror_gate *head;
	const struct mirror_gate_stripe *stripes;
	uint32_t not_live;	/* ~live; atomic: taken anew when mirrord was restarted */
	uint32_t shift;		/* log2 of the bytes of one block */
	uint32_t bits;		/* log2 of the number of stripes */
	uint32_t n_stripes;
	size_t size;
};

#define GATE_NULL { .head = NULL, .stripes = NULL }

/* -EPROTO if this is no gate, or not one for target @target. */
int gate_map(struct gate *gate, int fd, uint32_t target);
void gate_unmap(struct gate *gate);

static inline uint32_t gate_live(const struct gate *gate)
{
	return ~load_relaxed(&gate->not_live);
}

/*
 * What life must be for anything to be good.  *@here is all ones: ~live turns into
 * live.  Its low half is 0 in a child or without a daemon: ~live has the highest bit,
 * which no life has.
 */
static inline uint32_t gate_life(const struct gate *gate, const uint64_t *here)
{
	return load_relaxed(&gate->not_live) ^ (uint32_t)load_relaxed(here);
}

/* Another thread may be taking live anew. */
static inline void gate_copy(struct gate *gate, const struct gate *from)
{
	*gate = (struct gate) {
		.head = from->head,
		.stripes = from->stripes,
		.not_live = load_relaxed(&from->not_live),
		.shift = from->shift,
		.bits = from->bits,
		.n_stripes = from->n_stripes,
		.size = from->size,
	};
}

/*
 * What life says.  1: all is well, and live was taken anew, into @gate and the target;
 * 0: mirrord has died, and another may go on; -EPIPE, -ESRCH: it is over.
 */
int gate_look(struct mirror_target *target, struct gate *gate);
