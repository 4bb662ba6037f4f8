/* SPDX-License-Identifier: LGPL-2.1-or-later WITH Linux-syscall-note */
#ifndef MIRROR_UAPI_EVENT_H
#define MIRROR_UAPI_EVENT_H

/*
 * Mirror event record
 *
 * One record tells one notifier of one change of its target's address space.
 * Records live in memory shared between mirrord and its consumers and in
 * read(2) buffers of /dev/mirror, so this file is wire format: fixed width
 * members, no implicit padding, no enums as members, no pointers, the same
 * layout for 32 and 64 bit programs.
 *
 * Ranges are half-open, [start, end), in bytes, page aligned, in the target's
 * virtual address space.  A range is that of the change: it can be larger than
 * what the notifier watches, and it can cover holes.
 *
 * The *event* says what a consumer must do.  The *cause* says why it happened
 * and is for people, statistics and optimisation; it may be UNKNOWN.
 */

#include <linux/types.h>

/**
 * enum mirror_event_type - what happens to the range
 *
 * The first eight after NONE are the kernel's enum mmu_notifier_event, by the
 * same names, and mean the same.
 *
 * @MIRROR_EVENT_NONE: never published; catches records that were never written
 * @MIRROR_EVENT_UNMAP: the range stops being valid.  Contract: free device
 *	translations and the table nodes above them.
 * @MIRROR_EVENT_CLEAR: the backing goes, the addresses stay valid
 *	(MADV_DONTNEED, copy-on-write, ...).  Contract: drop translations between
 *	START and END; a later fault finds other pages.
 * @MIRROR_EVENT_PROTECTION_VMA: rights of the mapping change; the new ones are
 *	in arg.protection.  Contract: no access: as CLEAR; read: drop the write
 *	bit; read and write: nothing to do.
 * @MIRROR_EVENT_PROTECTION_PAGE: rights of single pages change for reasons of
 *	the kernel's (fork, KSM, write-back).  Contract: drop the write bit, the
 *	translation stays.
 * @MIRROR_EVENT_SOFT_DIRTY: dirty tracking was reset.  Contract: nothing.
 * @MIRROR_EVENT_RELEASE: the address space goes: exit, exec or detach.  Contract:
 *	free everything.  Carries MIRROR_EVENT_F_LAST if the notifier ends with it.
 * @MIRROR_EVENT_MIGRATE: pages move to other memory.  Contract: as CLEAR, unless
 *	arg.owner.cookie is the consumer's own.
 * @MIRROR_EVENT_EXCLUSIVE: somebody takes the pages exclusively.  Contract: as
 *	MIGRATE.
 * @MIRROR_EVENT_REMAP: the range moved to arg.remap.to (mremap).  Contract: treat as
 *	UNMAP, or move translations, if arg.remap.flags has MIRROR_REMAP_ALONE.
 *	Changes that threads make side by side need not be told in the order in
 *	which they happened: what was in the old range *before* can be told to go
 *	after this, or what is at the new place *now* before this.  Of two
 *	invalidations the order does not matter; of a move it does.  An UNMAP of
 *	the old range follows unless the target asked for MREMAP_DONTUNMAP.
 * @MIRROR_EVENT_FORK: the target forked; arg.fork names the child.  The range is
 *	empty.  Contract: nothing for the parent.
 * @MIRROR_EVENT_FAULT: the target touched a page a consumer holds, and waits.
 *	Contract: give the page back, then answer.
 * @MIRROR_EVENT_OVERFLOW: records were lost.  Contract: everything every notifier
 *	of this ring watches is invalid.
 *
 * Values are ABI, new ones are appended.  A consumer that meets a type it does
 * not know treats the range as invalid.
 */
enum mirror_event_type {
	MIRROR_EVENT_NONE		= 0,
	MIRROR_EVENT_UNMAP		= 1,
	MIRROR_EVENT_CLEAR		= 2,
	MIRROR_EVENT_PROTECTION_VMA	= 3,
	MIRROR_EVENT_PROTECTION_PAGE	= 4,
	MIRROR_EVENT_SOFT_DIRTY		= 5,
	MIRROR_EVENT_RELEASE		= 6,
	MIRROR_EVENT_MIGRATE		= 7,
	MIRROR_EVENT_EXCLUSIVE		= 8,
	MIRROR_EVENT_REMAP		= 9,
	MIRROR_EVENT_FORK		= 10,
	MIRROR_EVENT_FAULT		= 11,
	MIRROR_EVENT_OVERFLOW		= 12,
};

#define MIRROR_EVENT_TYPES		13	/* room to index an array by type */

/**
 * enum mirror_cause - why it happened
 *
 * @MIRROR_CAUSE_UNKNOWN: not known, or not looked for
 * @MIRROR_CAUSE_MUNMAP: munmap(2)
 * @MIRROR_CAUSE_MAP_FIXED: mmap(2) with MAP_FIXED over existing mappings
 * @MIRROR_CAUSE_BRK: brk(2) shrank the heap
 * @MIRROR_CAUSE_SHMDT: shmdt(2), shmat(2) with SHM_REMAP
 * @MIRROR_CAUSE_MREMAP: mremap(2): shrink, move, or its destination
 * @MIRROR_CAUSE_EXEC: execve(2)
 * @MIRROR_CAUSE_EXIT: the process ended
 * @MIRROR_CAUSE_DETACH: mirrord let the target go, or lost its source
 * @MIRROR_CAUSE_DONTNEED: MADV_DONTNEED, MADV_DONTNEED_LOCKED
 * @MIRROR_CAUSE_FREE: MADV_FREE
 * @MIRROR_CAUSE_REMOVE: MADV_REMOVE
 * @MIRROR_CAUSE_TRUNCATE: the file behind the mapping shrank
 * @MIRROR_CAUSE_PUNCH_HOLE: fallocate(2) punched a hole into that file
 * @MIRROR_CAUSE_PAGEOUT: reclaim, MADV_PAGEOUT
 * @MIRROR_CAUSE_MPROTECT: mprotect(2)
 * @MIRROR_CAUSE_PKEY: pkey_mprotect(2)
 * @MIRROR_CAUSE_FORK: fork(2) write-protected private memory
 * @MIRROR_CAUSE_COW: a copy-on-write was resolved
 * @MIRROR_CAUSE_KSM: same-page merging
 * @MIRROR_CAUSE_UFFD_WP: write-protection by userfaultfd or PAGEMAP_SCAN
 * @MIRROR_CAUSE_WRITEBACK: write-back cleaned a shared file page
 * @MIRROR_CAUSE_SOFT_DIRTY: /proc/PID/clear_refs
 * @MIRROR_CAUSE_NUMA: NUMA balancing, move_pages(2), mbind(2)
 * @MIRROR_CAUSE_COMPACTION: memory compaction
 * @MIRROR_CAUSE_HUGEPAGE_SPLIT: a huge page was split
 * @MIRROR_CAUSE_HUGEPAGE_COLLAPSE: small pages became a huge page
 * @MIRROR_CAUSE_MUNLOCK: munlock(2)
 * @MIRROR_CAUSE_DEVICE: a device took or gave back the page
 */
enum mirror_cause {
	MIRROR_CAUSE_UNKNOWN		= 0,
	MIRROR_CAUSE_MUNMAP		= 1,
	MIRROR_CAUSE_MAP_FIXED		= 2,
	MIRROR_CAUSE_BRK		= 3,
	MIRROR_CAUSE_SHMDT		= 4,
	MIRROR_CAUSE_MREMAP		= 5,
	MIRROR_CAUSE_EXEC		= 6,
	MIRROR_CAUSE_EXIT		= 7,
	MIRROR_CAUSE_DETACH		= 8,
	MIRROR_CAUSE_DONTNEED		= 9,
	MIRROR_CAUSE_FREE		= 10,
	MIRROR_CAUSE_REMOVE		= 11,
	MIRROR_CAUSE_TRUNCATE		= 12,
	MIRROR_CAUSE_PUNCH_HOLE		= 13,
	MIRROR_CAUSE_PAGEOUT		= 14,
	MIRROR_CAUSE_MPROTECT		= 15,
	MIRROR_CAUSE_PKEY		= 16,
	MIRROR_CAUSE_FORK		= 17,
	MIRROR_CAUSE_COW		= 18,
	MIRROR_CAUSE_KSM		= 19,
	MIRROR_CAUSE_UFFD_WP		= 20,
	MIRROR_CAUSE_WRITEBACK		= 21,
	MIRROR_CAUSE_SOFT_DIRTY		= 22,
	MIRROR_CAUSE_NUMA		= 23,
	MIRROR_CAUSE_COMPACTION		= 24,
	MIRROR_CAUSE_HUGEPAGE_SPLIT	= 25,
	MIRROR_CAUSE_HUGEPAGE_COLLAPSE	= 26,
	MIRROR_CAUSE_MUNLOCK		= 27,
	MIRROR_CAUSE_DEVICE		= 28,
};

#define MIRROR_CAUSES			29

/**
 * enum mirror_source - who told mirrord
 *
 * @MIRROR_SOURCE_NONE: mirrord itself (OVERFLOW, detach)
 * @MIRROR_SOURCE_UFFD: userfaultfd.  Delivers UNMAP, CLEAR (of madvise), REMAP
 *	and FORK of registered mappings.
 * @MIRROR_SOURCE_KERNEL: the kernel's own notifier calls.  Delivers everything
 *	but FAULT.
 * @MIRROR_SOURCE_SYSCALL: the target's memory system calls, before they run
 * @MIRROR_SOURCE_EXIT: pidfd and channel.  Delivers RELEASE.
 */
enum mirror_source {
	MIRROR_SOURCE_NONE		= 0,
	MIRROR_SOURCE_UFFD		= 1,
	MIRROR_SOURCE_KERNEL		= 2,
	MIRROR_SOURCE_SYSCALL		= 3,
	MIRROR_SOURCE_EXIT		= 4,
};

/**
 * enum mirror_guarantee - how early a change is known, weakest first
 *
 * @MIRROR_GUARANTEE_NONE: not delivered at all
 * @MIRROR_GUARANTEE_POINT: told soon after
 * @MIRROR_GUARANTEE_ORDERED: a lookup that begins after the target's system call
 *	returned, in that thread or one that synchronised with it, never uses
 *	the old translation
 * @MIRROR_GUARANTEE_STRICT: no lookup in any thread, begun after the change took
 *	effect, uses the old translation
 * @MIRROR_GUARANTEE_HOLD: the target waits, before the change, until every
 *	consumer acknowledged START
 */
enum mirror_guarantee {
	MIRROR_GUARANTEE_NONE		= 0,
	MIRROR_GUARANTEE_POINT		= 1,
	MIRROR_GUARANTEE_ORDERED	= 2,
	MIRROR_GUARANTEE_STRICT		= 3,
	MIRROR_GUARANTEE_HOLD		= 4,
};

/*
 * mirror_event.flags.  Exactly one of START, END and POINT is set: a change is
 * told either twice, when it begins and when it is known to be over, or once.
 */
#define MIRROR_EVENT_F_START		0x0001
#define MIRROR_EVENT_F_END		0x0002
#define MIRROR_EVENT_F_POINT		0x0004
#define MIRROR_EVENT_F_BLOCKABLE	0x0008 /* kernel: the notifier may sleep */
#define MIRROR_EVENT_F_CHANGE_PTE	0x0010 /* kernel: same page, new pte */
#define MIRROR_EVENT_F_NEED_ACK		0x0020 /* the target waits for an ack */
#define MIRROR_EVENT_F_MERGED		0x0040 /* the range is the hull of several */
#define MIRROR_EVENT_F_LAST		0x0080 /* nothing follows for this notifier */
#define MIRROR_EVENT_F_PHASE		0x0007 /* mask */

/* mirror_event.arg.remap.flags */
#define MIRROR_REMAP_ALONE		0x1 /* no other thread changed memory meanwhile */

/* mirror_event.flags also carries who told, and how strong that is. */
#define MIRROR_EVENT_SOURCE_SHIFT	8
#define MIRROR_EVENT_SOURCE_MASK	0x0f00
#define MIRROR_EVENT_GUARANTEE_SHIFT	12
#define MIRROR_EVENT_GUARANTEE_MASK	0x7000

#define MIRROR_EVENT_SOURCE(_flags) \
	(((_flags) & MIRROR_EVENT_SOURCE_MASK) >> MIRROR_EVENT_SOURCE_SHIFT)
#define MIRROR_EVENT_GUARANTEE(_flags) \
	(((_flags) & MIRROR_EVENT_GUARANTEE_MASK) >> MIRROR_EVENT_GUARANTEE_SHIFT)

/**
 * struct mirror_event - one record, one cache line
 * @seq: number in this ring, from 1, without gaps
 * @user_data: cookie of the notifier; 0 in OVERFLOW, which is for all of them
 * @type: &enum mirror_event_type
 * @cause: &enum mirror_cause
 * @flags: MIRROR_EVENT_F_*, source and guarantee
 * @target: id of the target, 0 in OVERFLOW
 * @start: first byte of the range
 * @end: first byte after the range
 * @arg: more, by @type; unused bytes are zero
 * @arg.remap: REMAP: new start of the range, MIRROR_REMAP_*
 * @arg.protection: PROTECTION_VMA: PROT_* after and before; old is ~0 if unknown
 * @arg.owner.cookie: MIGRATE, EXCLUSIVE: who does it, 0 if unknown
 * @arg.fork: FORK: id of the child target, 0 if it is not followed, and its pid,
 *	0 if it is not known (yet)
 * @arg.fault: FAULT: touched address, PROT_* wanted, number to answer with
 * @arg.overflow.lost: OVERFLOW: how many records were lost
 * @time_ns: CLOCK_MONOTONIC when mirrord learnt of it
 */
struct mirror_event {
	__u64	seq;
	__u64	user_data;
	__u8	type;
	__u8	cause;
	__u16	flags;
	__u32	target;
	__u64	start;
	__u64	end;
	union {
		struct {
			__u64	to;
			__u64	flags;
		} remap;
		struct {
			__u32	prot_new;
			__u32	prot_old;
			__u64	__reserved;
		} protection;
		struct {
			__u64	cookie;
			__u64	__reserved;
		} owner;
		struct {
			__u32	target;
			__s32	pid;
			__u64	__reserved;
		} fork;
		struct {
			__u64	address;
			__u32	prot;
			__u32	id;
		} fault;
		struct {
			__u64	lost;
			__u64	__reserved;
		} overflow;
		__u64	raw[2];
	} arg;
	__u64	time_ns;
};

#endif /* MIRROR_UAPI_EVENT_H */
