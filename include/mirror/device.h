/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef MIRROR_DEVICE_H
#define MIRROR_DEVICE_H

/*
 * Device page table: a secondary MMU, ready made
 *
 * Keeps the translations of one device for one range of a target, and does for
 * each event of the target what that event asks for, see enum mirror_reaction.
 * The consumer fills it and says how its hardware is told:
 *
 *	again:
 *		r = mirror_read_begin(mirror_device_get_notifier(device), start, end, &version);
 *		if (r < 0)
 *			return r;
 *		address = make_ready_for_the_device(start, end);
 *		r = mirror_device_map(device, start, end, address, rights, version);
 *		if (r == -EAGAIN)
 *			goto again;
 *
 * and asks it, from any thread, in some nanoseconds:
 *
 *		struct mirror_tlb tlb;		// one for each thread
 *
 *		mirror_tlb_init(&tlb, device);
 *		r = mirror_tlb_translate(&tlb, address, MIRROR_DEVICE_WRITE, &device_address);
 *
 * Locks: the device has one of its own.  The operations of struct mirror_device_ops
 * run under it (but for event), and so must not call functions of the device, nor
 * any that dispatches: mirror_dispatch(), mirror_wait(), mirror_read_begin().
 */

#include <mirror/common.h>
#include <mirror/mirror.h>
#include <mirror/uapi/gate.h>
#include <mirror/uapi/table.h>

MIRROR_BEGIN_DECLS

struct mirror_device;

/**
 * enum mirror_reaction - what the table does about an event
 *
 * @MIRROR_REACTION_DEFAULT: what the event's contract asks for, as below
 * @MIRROR_REACTION_NONE: nothing, and nothing is counted (SOFT_DIRTY, FORK)
 * @MIRROR_REACTION_FREE: drop translations and the nodes above them (UNMAP,
 *	OVERFLOW, and any event that is not known)
 * @MIRROR_REACTION_CLEAR: drop translations, keep the nodes (CLEAR, MIGRATE,
 *	EXCLUSIVE, FAULT)
 * @MIRROR_REACTION_READ_ONLY: drop the right to write, the translations stay
 *	(PROTECTION_PAGE)
 * @MIRROR_REACTION_PROTECT: as the record's new rights say: CLEAR, READ_ONLY or
 *	nothing (PROTECTION_VMA)
 * @MIRROR_REACTION_MOVE: move translations to the new range without asking for
 *	them again; what leaves the device's range is dropped (REMAP).  See below.
 * @MIRROR_REACTION_FREEZE: drop everything, and take nothing any more (RELEASE)
 *
 * A stronger reaction than the default is always correct.  For MIGRATE and
 * EXCLUSIVE the default is NONE if the record's owner is the device's own.
 *
 * The default moves only if the record says MIRROR_REMAP_ALONE: nobody else can have
 * changed memory meanwhile.  Otherwise the translations of both ranges are dropped.  Who
 * asks for MIRROR_REACTION_MOVE explicitly vouches for the target: no thread of it
 * changes either range while another one moves it.
 */
enum mirror_reaction {
	MIRROR_REACTION_DEFAULT		= 0,
	MIRROR_REACTION_NONE		= 1,
	MIRROR_REACTION_FREE		= 2,
	MIRROR_REACTION_CLEAR		= 3,
	MIRROR_REACTION_READ_ONLY	= 4,
	MIRROR_REACTION_PROTECT		= 5,
	MIRROR_REACTION_MOVE		= 6,
	MIRROR_REACTION_FREEZE		= 7,
};

#define MIRROR_REACTIONS		8

/**
 * struct mirror_device_range - translations that are alike and adjacent, merged
 * @start: first byte, of the target's
 * @end: first byte after the range
 * @address: device address of @start
 * @rights: MIRROR_DEVICE_READ, WRITE, EXEC, as they are from now on; 0 in unmap
 * @flags: MIRROR_DEVICE_ACCESSED, DIRTY and USER bits, as they were
 */
struct mirror_device_range {
	uint64_t	start;
	uint64_t	end;
	uint64_t	address;
	uint32_t	rights;
	uint32_t	flags;
};

/**
 * struct mirror_device_ops - how the hardware is told
 * @sz: size of this struct
 * @map: translations were added; may be NULL
 * @unmap: translations go: when it, or @flush if there is one, returns, the device
 *	must not use them any more; may be NULL
 * @downgrade: rights were dropped; may be NULL
 * @flush: the end of a batch of the three above; may be NULL
 * @event: called before the reaction to each event, without the device's lock,
 *	for who wants to see them; may be NULL
 *
 * All but @event are called under the device's lock: they must not call functions of
 * the device, nor dispatch.  For a move they are told that translations go, and then
 * that there are others.
 */
struct mirror_device_ops {
	size_t	sz;
	void	(*map)(struct mirror_device *device, const struct mirror_device_range *range,
		       void *userdata);
	void	(*unmap)(struct mirror_device *device, const struct mirror_device_range *range,
			 void *userdata);
	void	(*downgrade)(struct mirror_device *device,
			     const struct mirror_device_range *range, void *userdata);
	void	(*flush)(struct mirror_device *device, void *userdata);
	void	(*event)(struct mirror_device *device, const struct mirror_event *event,
			 void *userdata);
};

/**
 * struct mirror_device_opts - options of mirror_device_new()
 * @sz: size of this struct
 * @flags: must be 0
 * @owner: cookie of this device: MIGRATE and EXCLUSIVE with it are its own doing
 * @max_bytes: memory for the table at most, 0 for 1/64 of the range, but not less
 *	than 1 MiB and not more than 64 GiB.  It is reserved, not used.  What does
 *	not fit is refused with -ENOSPC.
 * @reaction: &enum mirror_reaction by event type
 */
struct mirror_device_opts {
	size_t		sz;
	uint32_t	flags;
	uint32_t	__reserved;
	uint64_t	owner;
	uint64_t	max_bytes;
	uint8_t		reaction[16];
};

#define MIRROR_DEVICE_OPTS_INIT { sizeof(struct mirror_device_opts), 0, 0, 0, 0, { 0 } }

/**
 * mirror_device_new() - make an empty device page table
 * @ret_device: new device, the caller's
 * @target: target
 * @start: first byte of what the device may use, page aligned
 * @end: first byte after it, page aligned
 * @ops: copied; may be NULL
 * @opts: options, or NULL
 * @userdata: for @ops
 *
 * Return: as mirror_notifier_insert(), which it uses.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_device_new(struct mirror_device **ret_device, struct mirror_target *target,
		      uint64_t start, uint64_t end, const struct mirror_device_ops *ops,
		      const struct mirror_device_opts *opts, void *userdata);

/**
 * mirror_device_free() - drop all translations, and the device
 * @device: device or NULL; no other thread may use it any more
 *
 * Unmap is called for what is mapped still.  Must not be called from a callback.
 *
 * Return: NULL.  Since 0.1.
 */
struct mirror_device *mirror_device_free(struct mirror_device *device);

/** mirror_device_get_notifier() - its notifier, for lookups.  Since 0.1. */
struct mirror_notifier *mirror_device_get_notifier(struct mirror_device *device);

/**
 * mirror_device_map() - add translations
 * @device: device
 * @start: first byte, page aligned
 * @end: first byte after the range, page aligned
 * @address: device address of @start, page aligned; the rest follows it
 * @rights: MIRROR_DEVICE_READ, WRITE, EXEC, and USER bits
 * @version: of the mirror_read_begin() of this very range, before the pages were looked
 *	up
 *
 * Replaces what is there: where it differs it is unmapped first.  Where it does not,
 * nobody is told, and what was marked there stays.
 *
 * Return: 0; -EAGAIN if the range changed meanwhile: begin again; -EINVAL; -ENOSPC
 * or -ENOMEM, and then nothing of the range is mapped; -ESRCH after RELEASE; -EPIPE;
 * -ECHILD.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_device_map(struct mirror_device *device, uint64_t start, uint64_t end,
		      uint64_t address, uint32_t rights, uint64_t version);

/**
 * mirror_device_map_pages() - add translations of pages that the device finds anywhere
 * @device: device
 * @start: first byte, page aligned
 * @end: first byte after the range, page aligned
 * @entries: for each page its device address, page aligned, and MIRROR_DEVICE_READ,
 *	WRITE, EXEC and USER bits; 0 for a page that stays as it is
 * @version: of the mirror_read_begin() or mirror_fault() of this very range
 *
 * As mirror_device_map() for each of them, but all or none: a version is good for its
 * own range only, and not for parts of it.
 *
 * Return: as mirror_device_map().  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_device_map_pages(struct mirror_device *device, uint64_t start, uint64_t end,
			    const uint64_t *entries, uint64_t version);

/**
 * mirror_device_unmap() - drop translations
 *
 * Holes are allowed.  Frees the nodes that are empty then.
 *
 * Return: 0; -EINVAL; -ECHILD.  Since 0.1.
 */
int mirror_device_unmap(struct mirror_device *device, uint64_t start, uint64_t end);

/**
 * mirror_device_downgrade() - take rights away
 * @rights: rights that may stay
 *
 * A translation without any right left is unmapped.  Return: as above.  Since 0.1.
 */
int mirror_device_downgrade(struct mirror_device *device, uint64_t start, uint64_t end,
			    uint32_t rights);

/**
 * mirror_device_move() - move translations, without the device asking for them anew
 * @from: first byte, page aligned
 * @to: its new place, page aligned; what is there is dropped
 * @len: bytes, page aligned; the two ranges must not overlap
 *
 * Whether they are right at @to is the caller's to know.
 *
 * Return: 0; -EINVAL; -ENOSPC, and then what was not moved is dropped; -ECHILD.
 * Since 0.1.
 */
int mirror_device_move(struct mirror_device *device, uint64_t from, uint64_t to, uint64_t len);

/**
 * mirror_device_translate() - look an address up, and make sure that it is good
 * @device: device
 * @address: address of the target's
 * @rights: MIRROR_DEVICE_* that are needed
 * @ret_range: the largest range around @address that is mapped alike, or part of it
 *
 * After a change it waits, dispatches and arms as mirror_read_begin() does, so it
 * must not be called under a lock that a callback takes.
 *
 * Return: 0; -ENOENT if nothing is mapped there; -EACCES if @rights are missing;
 * -ESRCH after RELEASE; -EPIPE if the daemon is gone; -EINVAL outside of the
 * device's range; -EAGAIN if changes did not end, and in a callback of the context,
 * where it may not be known yet what has changed; -ECHILD; or another error of
 * mirror_read_begin().  Since 0.1.
 */
int mirror_device_translate(struct mirror_device *device, uint64_t address, uint32_t rights,
			    struct mirror_device_range *ret_range);

/**
 * mirror_device_for_each() - walk translations in order, adjacent ones merged
 * @callback: runs under the device's lock; what it returns if not 0 ends the walk
 *
 * Return: 0; -EINVAL; -ECHILD; or what @callback returned.  Since 0.1.
 */
int mirror_device_for_each(struct mirror_device *device, uint64_t start, uint64_t end,
			   int (*callback)(const struct mirror_device_range *range,
					   void *userdata), void *userdata);

/* ---- aging and dirty tracking ---- */

/**
 * mirror_device_mark() - the device has used pages
 * @flags: MIRROR_DEVICE_ACCESSED, MIRROR_DEVICE_DIRTY
 *
 * As in hardware, a large translation has one bit for all of it.
 *
 * Return: 0; -EINVAL; -ECHILD.  Since 0.1.
 */
int mirror_device_mark(struct mirror_device *device, uint64_t start, uint64_t end,
		       uint32_t flags);

/** mirror_device_test_young() - was any of it used?  Return: 0, 1, or as above.  Since 0.1. */
int mirror_device_test_young(struct mirror_device *device, uint64_t start, uint64_t end);

/** mirror_device_clear_young() - the same, and forget it.  Since 0.1. */
int mirror_device_clear_young(struct mirror_device *device, uint64_t start, uint64_t end);

/** mirror_device_test_dirty() - was any of it written by the device?  Since 0.1. */
int mirror_device_test_dirty(struct mirror_device *device, uint64_t start, uint64_t end);

/** mirror_device_clear_dirty() - the same, and forget it.  Since 0.1. */
int mirror_device_clear_dirty(struct mirror_device *device, uint64_t start, uint64_t end);

/* ---- statistics ---- */

/**
 * struct mirror_device_stats - counters of a device
 * @sz: size of this struct
 * @mapped: bytes mapped now
 * @nodes: nodes of the table now
 * @bytes: memory of the table now
 * @maps: calls of mirror_device_map() that succeeded
 * @retries: calls of it that returned -EAGAIN
 * @unmaps: ranges unmapped, but for those moved
 * @downgrades: ranges downgraded
 * @moves: moves, each of one range
 * @flushes: batches in which the operations were told something
 * @misses: lookups that did not end in a thread's TLB
 * @reactions: how often, by &enum mirror_reaction; MOVE also where it dropped
 */
struct mirror_device_stats {
	size_t		sz;
	uint64_t	mapped;
	uint64_t	nodes;
	uint64_t	bytes;
	uint64_t	maps;
	uint64_t	retries;
	uint64_t	unmaps;
	uint64_t	downgrades;
	uint64_t	moves;
	uint64_t	flushes;
	uint64_t	misses;
	uint64_t	reactions[16];
};

/** mirror_device_get_stats() - Return: 0; -E2BIG; -ECHILD.  Since 0.1. */
int mirror_device_get_stats(struct mirror_device *device,
			    struct mirror_device_stats *ret_stats);

/* ---- the hot path ---- */

#define MIRROR_TLB_SLOTS 64

/**
 * struct mirror_tlb_slot - one translation that a thread remembers
 * @page: address of the target's, of its first byte, or ~0 for none
 * @entry: device address of that page and MIRROR_DEVICE_* flags
 * @started: of the page's stripe, when the translation was found good
 * @generation: of the device's table, likewise; even
 */
struct mirror_tlb_slot {
	uint64_t	page;
	uint64_t	entry;
	uint64_t	started;
	uint64_t	generation;
};

/**
 * struct mirror_tlb - what one thread remembers of a device's translations
 *
 * Filled by mirror_tlb_init() and libmirror only.  One thread may use it at a time.
 * It must not be used after mirror_device_free().
 */
struct mirror_tlb {
	struct mirror_device		*device;
	const uint64_t			*gate;		/* life and seq */
	const struct mirror_gate_stripe	*stripes;
	const uint64_t			*generation;	/* of the table */
	const uint64_t			*here;		/* all ones while all is well */
	uint32_t			live;
	uint32_t			shift;
	uint32_t			bits;
	uint32_t			flags;
	struct mirror_tlb_slot		slots[MIRROR_TLB_SLOTS];
};

/** mirror_tlb_init() - an empty TLB for @device.  Since 0.1. */
void mirror_tlb_init(struct mirror_tlb *tlb, struct mirror_device *device);

/** mirror_tlb_miss() - the slow path of mirror_tlb_translate().  Since 0.1. */
int mirror_tlb_miss(struct mirror_tlb *tlb, uint64_t address, uint32_t rights,
		    uint64_t *ret_address);

/**
 * mirror_tlb_translate() - translate one address, validated
 * @tlb: TLB of this thread
 * @address: address of the target's, any byte
 * @rights: MIRROR_DEVICE_* that are needed
 * @ret_address: device address of that byte
 *
 * Does all that mirror_device_translate() does, but asks its memory first: five loads
 * and no system call if that holds the page.  The guarantee is the target's.  On a
 * target attached with MIRROR_ATTACH_STRICT each call takes the slow path, as
 * only the kernel can say what is in flight.
 *
 * Return: as mirror_device_translate().  Since 0.1.
 */
static inline int mirror_tlb_translate(struct mirror_tlb *tlb, uint64_t address,
				       uint32_t rights, uint64_t *ret_address)
{
	const struct mirror_tlb_slot *slot = &tlb->slots[(address >> 12) % MIRROR_TLB_SLOTS];
	uint64_t block = address >> tlb->shift, life_seq;
	uint32_t index = (uint32_t)(block ^ block >> tlb->bits) & ((1U << tlb->bits) - 1);
	uint32_t life, seq;

	/* life is the first of the two in memory; acquire: before the stripe */
	life_seq = __atomic_load_n(tlb->gate, __ATOMIC_ACQUIRE);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	life = (uint32_t)(life_seq >> 32);
	seq = (uint32_t)life_seq;
#else
	life = (uint32_t)life_seq;
	seq = (uint32_t)(life_seq >> 32);
#endif
	if (slot->page == address >> 12 << 12 &&
	    life == (tlb->live | ~(uint32_t)__atomic_load_n(tlb->here, __ATOMIC_RELAXED)) &&
	    !(seq & 1) &&
	    __atomic_load_n(&tlb->stripes[index].started, __ATOMIC_RELAXED) == slot->started &&
	    __atomic_load_n(tlb->generation, __ATOMIC_ACQUIRE) == slot->generation &&
	    (slot->entry & rights) == rights) {
		*ret_address = (slot->entry & ~MIRROR_ENTRY_FLAGS) | (address & 4095);
		return 0;
	}
	return mirror_tlb_miss(tlb, address, rights, ret_address);
}

MIRROR_END_DECLS

#endif /* MIRROR_DEVICE_H */
