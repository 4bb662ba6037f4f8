/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A gate as a consumer sees it.  What was in its head was checked once and copied
 * here; of the shared memory only the words that change are looked at again.
 */

#include <mirror/uapi/gate.h>
#include "base.h"
#include "shm.h"

struct gate {
	const struct mirror_gate *head;
	const struct mirror_gate_stripe *stripes;
	uint32_t live;
	uint32_t shift;		/* log2 of the bytes of one block */
	uint32_t bits;		/* log2 of the number of stripes */
	uint32_t n_stripes;
	size_t size;
};

#define GATE_NULL { .head = NULL, .stripes = NULL }

/* -EPROTO if this is no gate, or not one for target @target. */
int gate_map(struct gate *gate, int fd, uint32_t target);
void gate_unmap(struct gate *gate);

/* Dead, and not only closed for a moment? */
static inline bool gate_is_gone(const struct gate *gate)
{
	return gate_head_load(gate->head).life != gate->live;
}
