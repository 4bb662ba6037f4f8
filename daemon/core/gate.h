/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Gate, the writing side
 *
 * The layout and the rule for readers are in uapi/gate.h.  This side keeps one
 * promise: whenever a target is let go after a change, the gate has moved before,
 * and it is quiet again only when every record of the change is published.
 *
 * With a userfaultfd the range of a change is known only by the read that also
 * lets the target go.  Hence the steps of one change:
 *
 *	daemon				target thread		any lookup
 *	------				-------------		----------
 *					munmap(): gone, blocked
 *	gate_unknown_begin(): seq odd				not quiet: waits
 *	read(): the range
 *					returns to user mode	not quiet: waits
 *	gate_start(): started++ of its stripes
 *	gate_unknown_end(): seq even				started moved: invalid
 *	publish records
 *	gate_end(): ended++					may establish again
 *
 * seq is odd for about a microsecond, and only that long does a change stop
 * lookups of memory that has nothing to do with it.
 *
 * A change whose end has to be proven (CLEAR) leaves its stripes open, ended <
 * started, until it is; others may begin and end meanwhile.
 *
 * One thread writes, so that increments are plain loads and stores; what matters
 * is their order.  No I/O here: the memory is the caller's.
 */

#include <mirror/uapi/gate.h>
#include "base.h"

struct gate {
	struct mirror_gate *shm;	/* NULL before gate_init() */
	struct mirror_gate_stripe *stripes;
};

#define GATE_STRIPES 1024
#define GATE_STRIPE_SHIFT 21
#define GATE_BYTES \
	((sizeof(struct mirror_gate) + GATE_STRIPES * sizeof(struct mirror_gate_stripe) + \
	  PAGE_BYTES - 1) & ~(PAGE_BYTES - 1))

/* @shm: GATE_BYTES of zeros.  The gate begins released: nothing is observed yet. */
void gate_init(struct gate *gate, void *shm, uint32_t target, uint32_t live);

/* A change is about to be read whose range is not known; may be undone at once. */
void gate_unknown_begin(struct gate *gate);
void gate_unknown_end(struct gate *gate);

void gate_start(struct gate *gate, uint64_t start, uint64_t end);
void gate_end(struct gate *gate, uint64_t start, uint64_t end);

/* @state says why; or the address space is there (again). */
void gate_release(struct gate *gate, uint32_t state);
void gate_revive(struct gate *gate);

/* Another mirrord's: GATE_BYTES at @shm.  -EPROTO if it is none of ours. */
int gate_adopt(struct gate *gate, void *shm, uint32_t target);
/* Is no change known of which not everything has been told? */
bool gate_is_quiet(const struct gate *gate);
/*
 * No version from before is good, and the gate is ours.  @revive: it lives, from the
 * last store on; else it is as dead as before.  @open: a change of every stripe has
 * begun, that gate_end() of all there is ends.
 */
void gate_renew(struct gate *gate, uint32_t live, bool revive, bool open);
