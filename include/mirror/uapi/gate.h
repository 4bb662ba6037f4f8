/* SPDX-License-Identifier: LGPL-2.1-or-later WITH Linux-syscall-note */
#ifndef MIRROR_UAPI_GATE_H
#define MIRROR_UAPI_GATE_H

/*
 * Mirror gate: shared memory layout
 *
 * By the gate a consumer knows, without a system call, that nothing it uses
 * has changed.  There is one for each target: a memfd that mirrord writes and
 * that everybody else can only map read-only (it is sealed).
 *
 *     0               stripes_off
 *     | mirror_gate | mirror_gate_stripe[n_stripes] |
 *
 * Two grains.  mirror_gate.seq is odd while a change is in flight whose range
 * mirrord does not know yet.  Once the range is known, the stripes it covers
 * take over: a stripe has begun `started` changes and finished `ended` of them.
 * An address has the stripe
 *
 *     block = address >> stripe_shift;
 *     index = (block ^ (block / n_stripes)) % n_stripes;
 *
 * and only changes that touch a range somebody watches count at all.
 *
 * A translation made at a time when its stripe's `started` was v is good iff
 *
 *     life == live  and  seq is even  and  started == v
 *
 * in this order: life and seq by ONE 64 bit load-acquire, then started.  A
 * range that covers several stripes uses the sum of their `started`.
 *
 * `life` is a robust futex word of mirrord's: however it dies, the kernel
 * changes the word before the death lets any target run on.  Not equal to
 * `live` means: nothing is known any more, everything is invalid.
 *
 * Where a service manager keeps mirrord's descriptors (MIRROR_INFO_KEPT), another
 * mirrord goes on with the same gate.  It counts a change of every stripe, so that no
 * version from before is good, then writes its own `live`, then `life`, which is a
 * release: who loads that life, loads what was counted.  Whoever keeps a copy of `live`
 * takes it anew when life does not match.  Both are ids of threads: none of the bits
 * above FUTEX_TID_MASK.
 *
 * A consumer may FUTEX_WAIT on seq, and on the low half of `ended`; it counts
 * itself in mirror_ring_cons.gate_waiters meanwhile.
 */

#include <linux/types.h>

#define MIRROR_GATE_MAGIC	0x4554474d /* "MGTE", little endian */
#define MIRROR_GATE_VERSION	1

/* mirror_gate.state */
#define MIRROR_GATE_LIVE	0
#define MIRROR_GATE_RELEASED	1 /* the address space is gone */
#define MIRROR_GATE_CLOSED	2 /* mirrord let the target go, or ends */

/**
 * struct mirror_gate - head of the gate
 * @life: robust futex word: @live while mirrord lives and serves this target
 * @seq: started + ended of changes whose range is not known yet
 * @state: MIRROR_GATE_*, valid when @life != @live
 * @changes: changes that touched a watched range, ever; grows before any stripe
 * @magic: MIRROR_GATE_MAGIC
 * @version: MIRROR_GATE_VERSION
 * @live: what @life is while all is well; changes when mirrord is restarted
 * @target: id of the target
 * @stripes_off: bytes from here to the first stripe
 * @n_stripes: power of two
 * @stripe_shift: log2 of the bytes of one block
 * @size: bytes of the whole gate
 */
struct mirror_gate {
	/* the words that change: one cache line, the first eight bytes one load */
	__u32	life;
	__u32	seq;
	__u32	state;
	__u32	__reserved0;
	__u64	changes;
	__u64	__reserved1[5];

	/* constant */
	__u32	magic;
	__u32	version;
	__u32	live;
	__u32	target;
	__u32	stripes_off;
	__u32	n_stripes;
	__u32	stripe_shift;
	__u32	size;
	__u64	__reserved2[4];
};

/**
 * struct mirror_gate_stripe - changes of the blocks that share this stripe
 * @started: changes that began; grows before anybody can act on the change
 * @ended: changes known to be over, their records published
 */
struct mirror_gate_stripe {
	__u64	started;
	__u64	ended;
};

#endif /* MIRROR_UAPI_GATE_H */
