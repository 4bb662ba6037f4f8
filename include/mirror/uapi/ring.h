/* SPDX-License-Identifier: LGPL-2.1-or-later WITH Linux-syscall-note */
#ifndef MIRROR_UAPI_RING_H
#define MIRROR_UAPI_RING_H

/*
 * Mirror ring: shared memory layout
 *
 * A ring carries records from mirrord to one consumer.  It is two memfds.
 *
 *   producer memfd, written by mirrord only:
 *
 *     0                 slots_off
 *     | mirror_ring_hdr | entries * entry_size |
 *
 *   consumer memfd, written by the consumer only:
 *
 *     0
 *     | mirror_ring_cons |
 *
 * mirrord maps the producer memfd and seals it with F_SEAL_FUTURE_WRITE before
 * it sends it, so no consumer can map it writable.  The consumer memfd is input
 * from an adversary: mirrord loads each word once, bounds it, and revokes the
 * ring of a consumer whose head is impossible.
 *
 * Indices are free-running u32; the slot of index i is i & (entries - 1).  Step
 * by entry_size, not by sizeof(struct mirror_event), and read only what you
 * know: records may grow.
 *
 * Ordering
 *   producer: write slot; store-release tail
 *             pairs with the consumer's load-acquire of tail
 *   consumer: copy the slot; store-release head
 *             pairs with the producer's load-acquire of head
 *   sleep:    consumer: wait_gen++ (now odd); full fence; load flags and tail;
 *             if OVERFLOW is clear and there is nothing, poll the wake socket;
 *             afterwards wait_gen++ (even)
 *             producer: store-release tail, or flags; full fence; load wait_gen;
 *             if it is odd and not the one signalled last, send a byte through
 *             the wake socket, for a record that was lost as for one that was not.
 *             A generation and not a flag, since the producer cannot clear a
 *             flag in memory that it must not write.
 *   overflow: records that do not fit are dropped, counted in `lost`, and
 *             OVERFLOW is set in flags *before* the change is let go.  A
 *             consumer that finds the flag drains, then sends a byte through kick;
 *             mirrord publishes one OVERFLOW record, then drops the flag, then
 *             wakes.  Until it has seen that record a consumer trusts nothing:
 *             to know that it has seen everything it loads flags (acquire), then
 *             tail, drains, and starts over unless OVERFLOW was clear before.
 */

#include <linux/types.h>

#define MIRROR_RING_MAGIC	0x474e524dU /* "MRNG", little endian */
#define MIRROR_RING_VERSION	1
#define MIRROR_RING_COMPAT	1

/* mirror_ring_hdr.flags */
#define MIRROR_RING_F_OVERFLOW	0x1 /* an OVERFLOW record is owed */
#define MIRROR_RING_F_REVOKED	0x2 /* mirrord let go of it; nothing will follow */

/**
 * struct mirror_ring_hdr - head of the producer memfd
 * @magic: MIRROR_RING_MAGIC
 * @version: layout the producer writes
 * @compat_version: oldest reader that understands it
 * @hdr_size: sizeof(struct mirror_ring_hdr) at the producer
 * @entry_size: stride of a slot, a power of two >= 64
 * @entries: number of slots, a power of two
 * @slots_off: bytes to the first slot
 * @size: bytes of the whole memfd
 * @tail: index after the newest record
 * @flags: MIRROR_RING_F_*
 * @lost: records lost to overflow, ever
 */
struct mirror_ring_hdr {
	__u32	magic;
	__u32	version;
	__u32	compat_version;
	__u32	hdr_size;
	__u32	entry_size;
	__u32	entries;
	__u64	slots_off;
	__u64	size;
	__u64	__reserved0[3];

	/* second cache line: the words that change */
	__u32	tail;
	__u32	flags;
	__u64	lost;
	__u64	__reserved1[6];
};

/**
 * struct mirror_ring_cons - the consumer memfd
 * @head: index of the oldest record not yet consumed
 * @wait_gen: odd while the consumer sleeps or is about to
 * @acked_seq: every record up to this one has been acted upon
 * @gate_waiters: threads of the consumer that wait for a gate word
 * @device_bytes: bytes in the consumer's device page tables, for people to see
 */
struct mirror_ring_cons {
	__u32	head;
	__u32	wait_gen;
	__u64	acked_seq;
	__u32	gate_waiters;
	__u32	__reserved0;
	__u64	device_bytes;
	__u64	__reserved1[4];
};

#endif /* MIRROR_UAPI_RING_H */
