/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lookups in a device page table
 *
 * Model
 *   Three answers, each by the one before it:
 *
 *	a thread's TLB	   inline in device.h: no call
 *	the table	   lookup_fast(): no lock, no system call
 *	after a change	   lookup_slow(): waits, dispatches, arms, takes the lock
 *
 *   The table is kept by reactions, and these run when somebody dispatches.  So what
 *   it says counts only if every change that the gate knows of has been reacted to.
 *   `seen` says up to where that is so, by stripe:
 *
 *	seen[s] == v: every change that the stripe's `started` counted when it was v
 *	has had its reaction
 *
 * What makes an entry good
 *   The gate is quiet, started of its stripe is v, seen is v, and the table has the
 *   entry.  For a change of that page that was over before the lookup began:
 *
 *   - it is counted in v, by the gate's ordering (gate.c);
 *   - so its reaction has run, and took the entry away, if it was in the table then;
 *   - and if it was put there later: mirror_device_map() compares the version under
 *     the lock that reactions take.  A version of before the change is refused, as
 *     `started` moved before the record was there to react to.  One of after it is
 *     of a lookup that began when the change had ended.
 *
 *	daemon		dispatcher		mapping thread		lookup
 *						read_begin: v = 1
 *						resolve the page
 *	started = 2
 *	let go
 *	publish		lock
 *			take the entry away
 *			unlock			lock
 *						retry: 2, not 1
 *						unlock, begin again
 *			seen = 2 (release)				started is 2
 *									seen is 2 (acquire)
 *									walk
 *
 *   With lock and unlock of the last two the other way round, the entry is entered
 *   and then taken away; whoever finds seen at 2 comes after that.
 *
 * Who may raise seen
 *   Who has called mirror_read_begin(): it returns v and has dispatched all that v
 *   counts, losses included.  That holds for every page of the stripe, not only for
 *   the one it was called for.  It does not hold inside a callback: the record that
 *   is being told has not been reacted to by those whose turn comes later.  So there
 *   nothing is concluded, and a lookup that needs it gets -EAGAIN.
 *
 *   seen may go back, when two threads are here: it costs a slow lookup, as an older
 *   value never equals started again.
 *
 * What a TLB remembers
 *   The entry, v, and `generation`, an even one, which was there before the entry
 *   was read.  While started is v, no change has come; while generation is that one,
 *   nobody has taken anything away by himself.  generation is odd, or another, before
 *   the device is told of a removal (device.c).
 *
 * STRICT
 *   Probe, then the gate, as in mirror_read_retry(), at each lookup.  The inline part
 *   cannot probe; for it such a target is never alive.
 *
 * Children
 *   The inline part fails by *here before it reads generation, and what it reads is
 *   no memory that fork() takes away.  The rest looks at ctx_forked() first.
 */
#include <string.h>
#include "uffd.h"
#include "device-private.h"

_Static_assert(MISS_SHARDS == 8, "three bits of a hash");

#define TRIES 64

struct found {
	uint64_t entry;		/* of the page */
	unsigned int shift;	/* of the leaf */
	uint64_t started;
	uint64_t generation;
};

static uint32_t stripe_of(const struct mirror_device *device, uint64_t address)
{
	const struct gate *gate = &device->target->gate;
	uint64_t block = address >> gate->shift;

	return (uint32_t)(block ^ block >> gate->bits) & (gate->n_stripes - 1);
}

static uint64_t walk(const struct mirror_device *device, uint64_t address,
		     unsigned int *ret_shift)
{
	uint64_t entry, size;

	entry = mirror_table_walk(device->radix.head, address, ret_shift);
	size = 1ULL << *ret_shift;
	return entry ? entry + (address & (size - 1) & ~(PAGE_BYTES - 1)) : 0;
}

/* false: nothing is known, ask lookup_slow(). */
static bool lookup_fast(struct mirror_device *device, uint64_t address, struct found *found)
{
	const struct gate *gate = &device->target->gate;
	uint32_t i = stripe_of(device, address);
	struct gate_head head;

	/* the ioctl is a barrier to what follows */
	if (device->strict && uffd_probe(load_relaxed(&device->target->fds[TARGET_FD_UFFD])))
		return false;
	head = gate_head_load(gate->head);
	if (head.life != gate_life(gate, device->ctx->here) || head.seq & 1)
		return false;
	found->started = load_relaxed(&gate->stripes[i].started);
	/* Acquire: pairs with the release in lookup_slow(); the reactions are done. */
	if (load_acquire(&device->seen[i]) != found->started)
		return false;
	/* Acquire: pairs with the release in device_end(); the removal is done. */
	found->generation = load_acquire(&device->generation);
	if (found->generation & 1)
		return false;
	found->entry = walk(device, address, &found->shift);
	/* Pairs with the fence in removal_begin(): what the walk saw, this sees too. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	return found->entry && load_relaxed(&device->generation) == found->generation;
}

static int lookup_slow(struct mirror_device *device, uint64_t address, struct found *found)
{
	uint64_t page = address & ~(PAGE_BYTES - 1);
	int r;

	if (ctx_in_callback(device->ctx))
		return -EAGAIN;
	for (unsigned int i = 0; i < TRIES; i++) {
		r = mirror_read_begin(device->notifier, page, page + PAGE_BYTES, &found->started);
		if (device_forked(device))	/* a callback did */
			return -ECHILD;
		if (load_relaxed(&device->frozen))
			return -ESRCH;
		if (r < 0)	/* -EFAULT comes after the reactions */
			return r == -EFAULT ? -ENOENT : r;
		pthread_mutex_lock(&device->lock);
		found->generation = device->generation;
		found->entry = walk(device, address, &found->shift);
		pthread_mutex_unlock(&device->lock);
		if (mirror_read_retry(device->notifier, page, page + PAGE_BYTES, found->started))
			continue;
		/* Release: the reactions, ours and those we waited for, come before. */
		store_release(&device->seen[stripe_of(device, address)], found->started);
		return found->entry ? 0 : -ENOENT;
	}
	return -EAGAIN;
}

/* No life is all ones. */
static uint32_t tlb_live(const struct mirror_device *device)
{
	return device->strict ? UINT32_MAX : gate_live(&device->target->gate);
}

/* Each thread has another stack. */
static void count_miss(struct mirror_device *device)
{
	uint64_t stack = (uint64_t)(uintptr_t)__builtin_frame_address(0) >> 20;
	unsigned int shard = (unsigned int)(stack * 0x9e3779b97f4a7c15ULL >> 61);

	__atomic_fetch_add(&device->misses[shard].n, 1, __ATOMIC_RELAXED);
}

static int lookup(struct mirror_device *device, uint64_t address, uint32_t rights,
		  struct found *ret_found)
{
	int r;

	if (device_forked(device))
		return -ECHILD;
	if (address < device->start || address >= device->end ||
	    rights & ~(uint32_t)RIGHTS_KNOWN)
		return -EINVAL;
	count_miss(device);
	if (load_relaxed(&device->frozen))
		return -ESRCH;
	r = lookup_fast(device, address, ret_found) ? 0 : lookup_slow(device, address, ret_found);
	if (r < 0)
		return r;
	return (ret_found->entry & rights) == rights ? 0 : -EACCES;
}

/* What one version vouches for is one block; the leaf can be larger. */
static struct mirror_device_range range_around(const struct mirror_device *device,
					       uint64_t address, const struct found *found)
{
	uint64_t size = 1ULL << MIN(found->shift, device->target->gate.shift);
	uint64_t page = address & ~(PAGE_BYTES - 1);
	struct radix_run run = {
		.start = MAX(address & ~(size - 1), device->start),
		.end = MIN((address & ~(size - 1)) + size, device->end),
	};

	run.entry = found->entry - (page - run.start);
	return device_range_of(&run);
}

MIRROR_PUBLIC int mirror_device_translate(struct mirror_device *device, uint64_t address,
					  uint32_t rights, struct mirror_device_range *ret_range)
{
	struct found found;
	int r;

	r = lookup(device, address, rights, &found);
	if (r == 0)
		*ret_range = range_around(device, address, &found);
	return r;
}

MIRROR_PUBLIC void mirror_tlb_init(struct mirror_tlb *tlb, struct mirror_device *device)
{
	const struct gate *gate = &device->target->gate;

	*tlb = (struct mirror_tlb) {
		.device = device,
		.gate = (const uint64_t *)(const void *)gate->head,
		.stripes = gate->stripes,
		.generation = &device->generation,
		.here = device->ctx->here,
		.live = tlb_live(device),
		.shift = gate->shift,
		.bits = gate->bits,
	};
	for (unsigned int i = 0; i < MIRROR_TLB_SLOTS; i++)
		tlb->slots[i].page = ~0ULL;
}

MIRROR_PUBLIC int mirror_tlb_miss(struct mirror_tlb *tlb, uint64_t address, uint32_t rights,
				  uint64_t *ret_address)
{
	uint64_t page = address & ~(PAGE_BYTES - 1);
	struct found found;
	int r;

	r = lookup(tlb->device, address, rights, &found);
	if (r < 0)
		return r;
	/* another one after a restart; the slots from before have other versions */
	tlb->live = tlb_live(tlb->device);
	tlb->slots[page / PAGE_BYTES % MIRROR_TLB_SLOTS] = (struct mirror_tlb_slot) {
		.page = page,
		.entry = found.entry,
		.started = found.started,
		.generation = found.generation,
	};
	*ret_address = (found.entry & ~MIRROR_ENTRY_FLAGS) | (address - page);
	return 0;
}
