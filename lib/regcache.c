/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Registration cache
 *
 * Model
 *   A region is a registration and the version under which its memory was looked
 *   at.  It is found by address, in a radix whose entries point to its slot:
 *
 *	radix entry -> slot { region, state { VALID, hits, users }, version, notifier }
 *
 *   Valid regions do not overlap, so a page has one entry.  Slots are used again but
 *   not freed, so an old entry leads to some region's slot, which is looked at closely.
 *
 * States
 *	spare -> pending -> valid -> invalid, in use -> garbage -> dying -> spare
 *
 *   pending	being registered; nobody finds it, but events touch it
 *   valid	in the radix, and in the list of those that may be evicted
 *   invalid	out of the radix, by a change, a limit, or a region that takes it in;
 *		users still have it
 *   garbage	neither valid nor in use; the next to come by deregisters it
 *   dying	being deregistered, by one thread, without a lock
 *
 *   The limits count all but the spare ones.
 *
 * A hit
 *   takes no lock: walk the radix; one more user if the slot is VALID, by a
 *   compare-and-swap; now the slot cannot change, see if it holds the range and has
 *   the rights; ask the gate whether the version is good.
 *
 *	user				who invalidates
 *	load entry
 *					clear the radix
 *	users++ if VALID (acquire)	VALID off, and were there users?
 *	gate: changed? give back	no: garbage, mine to list
 *	...
 *	users-- (release)
 *	was it the last, of an invalid one?  garbage, mine to list
 *
 *   Either the user comes first, and is counted when VALID goes off; or it finds
 *   VALID off.  That a region found VALID is good, is the gate's answer and does not
 *   depend on when the callback runs.
 *
 *   A region of many stripes of the gate has a version for each, so that a hit costs
 *   by what it asks for and is not disturbed by changes elsewhere in the region.
 *
 * A hit whose version is old
 *   is the common case after a change of other memory near by.  mirror_read_begin()
 *   runs the callbacks; a region that none of them took out is good with the new
 *   version.  Versions may be stored in any order: an old one is never good.
 *
 * A miss
 *   registers what was asked for and the regions that overlaps, in the manner of
 *   mirror_read_begin() and mirror_read_retry().  But to register a large range takes
 *   long, and to do it again for a change near by could go on for ever.  So the slot
 *   is pending meanwhile, and the callback marks it if the change was its own:
 *
 *	untouched; mirror_read_begin(); still untouched (or no change since)
 *	register
 *	mirror_read_retry(), or else mirror_read_begin(); still untouched: valid
 *
 *   It must be pending before the first mirror_read_begin() and not only after it:
 *   a CLEAR is told before the pages go, and who is told in between must not be missed.
 *
 * Locks
 *   ctx->lock, then cache->lock: the callback comes with the first one and takes the
 *   second.  So nothing that dispatches is called under cache->lock.  Under neither of
 *   them anything is registered or deregistered: that may change memory, and then waits
 *   for the daemon.  Garbage made by callbacks is left to the thread that dispatches,
 *   see work in dispatch.c, or to a get or put that comes earlier.
 */
#include <string.h>
#include "regcache-private.h"

#define DEFAULT_REGIONS 65536
#define TRIES 64
#define RIGHTS (MIRROR_REGION_READ | MIRROR_REGION_WRITE | MIRROR_REGION_USER)

/* Not an error: look again. */
#define AGAIN 1

/* ---- hits ---- */

static void release(struct mirror_regcache *cache, struct regslot *slot)
{
	uint64_t state;

	/*
	 * Release: we are done with it.  Acquire, for the last one: so are the others.
	 */
	state = __atomic_sub_fetch(&slot->state, 1, __ATOMIC_ACQ_REL);
	if (unlikely(!(state & (REGION_VALID | REGION_USERS)))) {
		regcache_lock(cache);
		region_bury(cache, slot);
		regcache_unlock(cache);
	}
}

/* No hit after all. */
static __attribute__((__noinline__)) void hold_undo(struct mirror_regcache *cache,
						    struct regslot *slot)
{
	__atomic_fetch_add(&cache->no_hits, 1, __ATOMIC_RELAXED);
	release(cache, slot);
}

/* The region that serves, with one more user and one more hit, or NULL. */
static inline struct regslot *hold(struct mirror_regcache *cache, uint64_t start, uint64_t end,
				   uint32_t rights)
{
	struct regslot *slot;
	uint64_t entry, state;
	unsigned int shift;

	entry = mirror_table_walk(cache->table, start, &shift);
	if (!entry)
		return NULL;
	slot = slot_of_entry(entry);
	state = load_relaxed(&slot->state);
	do {
		if (unlikely(!(state & REGION_VALID) || (state & REGION_USERS) == REGION_USERS))
			return NULL;
		/* Acquire: pairs with the release in region_publish(). */
	} while (!__atomic_compare_exchange_n(&slot->state, &state, state + REGION_HIT + 1, true,
					      __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
	if (likely(region_serves(&slot->region, start, end, rights)))
		return slot;
	hold_undo(cache, slot);
	return NULL;
}

/* Good for the range; the rest of a region of many stripes is not looked at. */
static inline bool is_good(const struct regslot *slot, uint64_t start, uint64_t end)
{
	if (likely(!slot->versions))
		return !mirror_read_retry(slot->notifier, slot->region.start, slot->region.end,
					  load_relaxed(&slot->version));
	return !mirror_read_retry(slot->notifier, start, end, slot_version(slot, start, end));
}

/* Long before there are too many to count. */
static __attribute__((__noinline__)) void fold_hits(struct mirror_regcache *cache,
						     struct regslot *slot)
{
	uint64_t state;

	regcache_lock(cache);
	state = __atomic_fetch_and(&slot->state, ~REGION_HITS, __ATOMIC_RELAXED);
	cache->hits += (state & REGION_HITS) >> REGION_HIT_SHIFT;
	regcache_unlock(cache);
}

/* 0: the region is good; AGAIN: it is not any more; or why nothing is. */
static int revalidate(struct mirror_regcache *cache, struct regslot *slot,
		      const struct range *asked)
{
	uint64_t start = slot->versions ? asked->start : slot->region.start;
	uint64_t end = slot->versions ? asked->end : slot->region.end, version;
	int r;

	r = mirror_read_begin(slot->notifier, start, end, &version);
	if (r < 0 && r != -EFAULT && r != -EOPNOTSUPP && r != -EBUSY)
		return r;
	regcache_lock(cache);
	if (!(load_relaxed(&slot->state) & REGION_VALID)) {
		r = AGAIN;
	} else if (r < 0) {
		/* what is there now was not there then, though nobody was told */
		region_take_out(cache, slot);
		cache->stats.invalidated++;
		r = AGAIN;
	} else {
		slot_set_version(slot, start, end, version);
	}
	regcache_unlock(cache);
	return r;
}

/* ---- misses ---- */

/* What to register: the range, and what overlaps it. */
static struct range range_to_register(struct mirror_regcache *cache, const struct range *asked)
{
	struct range range = *asked;
	struct regslot *slot;
	uint64_t at = asked->start;

	if (cache->flags & MIRROR_REGCACHE_NO_MERGE)
		return range;
	while ((slot = region_next(cache, at, asked->end))) {
		range.start = MIN(range.start, slot->region.start);
		range.end = MAX(range.end, slot->region.end);
		range.rights |= slot->region.rights;
		at = slot->region.end;
	}
	return range;
}

/*
 * As mirror_read_begin().  Afterwards, either the slot is marked by every change that
 * the version does not count, or, if it cannot be known, -EAGAIN.  The lock is held,
 * and dropped meanwhile.
 */
static int pending_begin(struct mirror_regcache *cache, struct regslot *slot,
			 uint64_t *ret_version)
{
	struct mirror_notifier *n = slot->extent->notifier;
	uint64_t start = slot->region.start, end = slot->region.end, version;
	bool touched;
	int r;

	for (unsigned int i = 0; i < TRIES; i++) {
		slot->touched = false;
		regcache_unlock(cache);
		r = mirror_read_begin(n, start, end, &version);
		regcache_lock(cache);
		if (r < 0)
			return r;
		touched = slot->touched;
		slot->touched = false;
		if (!touched || !mirror_read_retry(n, start, end, version)) {
			*ret_version = version;
			return 0;
		}
	}
	return -EAGAIN;
}

/* The same, with what the caller's function does meanwhile; no lock is held then. */
static int pending_register(struct mirror_regcache *cache, struct regslot *slot)
{
	struct mirror_region region = slot->region;
	int r;

	regcache_unlock(cache);
	r = cache->ops.register_region(&region, cache->userdata);
	regcache_lock(cache);
	if (r < 0)
		return r;
	slot->region.handle = region.handle;
	slot->registered = true;
	cache->stats.registered++;
	cache->stats.regions++;
	cache->stats.bytes += slot->region.end - slot->region.start;
	return 0;
}

/* Did another thread register the same? */
static bool is_served(struct mirror_regcache *cache, const struct range *asked)
{
	struct regslot *slot = region_next(cache, asked->start, asked->end);

	return slot && region_serves(&slot->region, asked->start, asked->end, asked->rights);
}

/* Registered: may it be found?  0, AGAIN, or -errno. */
static int pending_end(struct mirror_regcache *cache, struct regslot *slot,
		       const struct range *asked, uint64_t version)
{
	struct mirror_notifier *n = slot->extent->notifier;
	uint64_t start = slot->region.start, end = slot->region.end;
	int r;

	if (mirror_read_retry(n, start, end, version)) {
		regcache_unlock(cache);
		r = mirror_read_begin(n, start, end, &version);
		regcache_lock(cache);
		if (r < 0)
			return r;
	}
	if (slot->touched || is_served(cache, asked))
		return AGAIN;
	return region_publish(cache, slot, version);
}

static int pending_run(struct mirror_regcache *cache, struct regslot *slot,
		       const struct range *asked)
{
	uint64_t version;
	int r;

	r = extent_get(cache, slot->region.start, slot->region.end, &slot->extent);
	if (r < 0)
		return r;
	r = pending_begin(cache, slot, &version);
	if (r < 0)
		return r;
	r = pending_register(cache, slot);
	if (r < 0)
		return r;
	return pending_end(cache, slot, asked, version);
}

/* Registers @range and gives the region one user.  The lock is held. */
static int try_register(struct mirror_regcache *cache, const struct range *range,
			const struct range *asked, struct regslot **ret_slot)
{
	struct regslot *slot;
	int r;

	r = slot_new(cache, range, &slot);
	if (r < 0)
		return r;
	r = pending_run(cache, slot, asked);
	if (r == 0) {
		cache->stats.misses++;
		*ret_slot = slot;
	} else if (slot->registered) {
		region_bury(cache, slot);
	} else {
		slot_free(cache, slot);
	}
	return r;
}

static int miss(struct mirror_regcache *cache, const struct range *asked,
		struct regslot **ret_slot)
{
	struct range range;
	int r;

	regcache_lock(cache);
	range = range_to_register(cache, asked);
	r = try_register(cache, &range, asked, ret_slot);
	/* more than was asked for: that could be why */
	if (r < 0 && r != -ECHILD &&
	    (range.end - range.start > asked->end - asked->start || range.rights != asked->rights))
		r = try_register(cache, asked, asked, ret_slot);
	regcache_unlock(cache);
	return r;
}

/* ---- the way that takes locks ---- */

static void on_work(struct work *work)
{
	struct mirror_regcache *cache = container_of(work, struct mirror_regcache, work);

	regcache_lock(cache);
	garbage_drain(cache);
	regcache_unlock(cache);
}

/* Deregisters what is due, if this thread may. */
static void tidy(struct mirror_regcache *cache)
{
	if (ctx_in_callback(cache->target->ctx))
		work_due(&cache->work);
	else
		on_work(&cache->work);
}

static int find_or_register(struct mirror_regcache *cache, struct regslot *slot,
			    const struct range *asked, struct regslot **ret_slot)
{
	int r;

	for (unsigned int i = 0; i < TRIES; i++) {
		if (!slot)
			slot = hold(cache, asked->start, asked->end, asked->rights);
		if (slot) {
			r = revalidate(cache, slot, asked);
			if (r == 0)
				*ret_slot = slot;
			else
				hold_undo(cache, slot);
			slot = NULL;
		} else if (ctx_in_callback(cache->target->ctx)) {
			r = -EDEADLK;
		} else {
			r = miss(cache, asked, ret_slot);
		}
		if (r != AGAIN)
			return r;
		tidy(cache);
	}
	return -EAGAIN;
}

static __attribute__((__noinline__)) int get_slow(struct mirror_regcache *cache,
						  struct regslot *slot, uint64_t start,
						  uint64_t end, uint32_t rights,
						  const struct mirror_region **ret_region)
{
	struct range asked = { .start = start & ~(PAGE_BYTES - 1), .rights = rights };
	int r = 0;

	if (!slot) {
		if (start >= end || end > cache->limit || rights & ~(uint32_t)RIGHTS)
			return -EINVAL;
		r = ctx_check(cache->target->ctx);
	}
	asked.end = (end + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	if (r == 0)
		r = find_or_register(cache, slot, &asked, &slot);
	if (r == 0)
		*ret_region = &slot->region;
	if (load_relaxed(&cache->n_garbage))
		tidy(cache);
	return r;
}

MIRROR_PUBLIC int mirror_regcache_get(struct mirror_regcache *cache, uint64_t start, uint64_t end,
				      uint32_t rights, const struct mirror_region **ret_region)
{
	struct regslot *slot;

	if (regcache_forked(cache))
		return -ECHILD;
	slot = likely(start < end) ? hold(cache, start, end, rights) : NULL;
	if (unlikely(!slot || !is_good(slot, start, end)))
		return get_slow(cache, slot, start, end, rights, ret_region);
	if (unlikely(load_relaxed(&slot->state) & REGION_HITS_HIGH))
		fold_hits(cache, slot);
	*ret_region = &slot->region;
	return 0;
}

MIRROR_PUBLIC const struct mirror_region *mirror_regcache_put(struct mirror_regcache *cache,
							      const struct mirror_region *region)
{
	if (!region || regcache_forked(cache))
		return NULL;
	release(cache, container_of((struct mirror_region *)(uintptr_t)region, struct regslot,
				    region));
	if (unlikely(load_relaxed(&cache->n_garbage)))
		tidy(cache);
	return NULL;
}

MIRROR_PUBLIC int mirror_regcache_flush(struct mirror_regcache *cache)
{
	uint64_t end;
	int n;

	if (regcache_forked(cache))
		return -ECHILD;
	regcache_lock(cache);
	region_evict_all(cache);
	n = (int)cache->n_garbage;
	end = cache->n_buried + cache->n_dying + cache->n_garbage;
	if (ctx_in_callback(cache->target->ctx)) {
		work_due(&cache->work);
	} else {
		garbage_drain(cache);
		/* other threads may have taken some of it */
		while (cache->n_buried < end)
			pthread_cond_wait(&cache->buried, &cache->lock);
	}
	regcache_unlock(cache);
	return n;
}

/* ---- the cache ---- */

static int read_ops(struct mirror_regcache *cache, struct mirror_target *target,
		    const struct mirror_regcache_ops *ops,
		    const struct mirror_regcache_opts *opts)
{
	struct mirror_regcache_opts o = MIRROR_REGCACHE_OPTS_INIT;
	int r;

	if (!ops)
		return -EINVAL;
	r = opts_read(&cache->ops, sizeof(cache->ops), ops, ops->sz);
	if (r == 0 && opts)
		r = opts_read(&o, sizeof(o), opts, opts->sz);
	if (r < 0)
		return r;
	if (o.flags & ~(uint32_t)MIRROR_REGCACHE_NO_MERGE)
		return -E2BIG;
	if (!cache->ops.register_region || !cache->ops.deregister_region)
		return -EINVAL;
	cache->flags = o.flags;
	cache->max_regions = o.max_regions ? o.max_regions : DEFAULT_REGIONS;
	cache->max_bytes = o.max_bytes ? o.max_bytes : UINT64_MAX;
	return ring_is_mapped(&target->ctx->ring) ? 0 : -ENOTCONN;
}

MIRROR_PUBLIC int mirror_regcache_new(struct mirror_regcache **ret_cache,
				      struct mirror_target *target,
				      const struct mirror_regcache_ops *ops,
				      const struct mirror_regcache_opts *opts, void *userdata)
{
	_cleanup_(mirror_regcache_freep) struct mirror_regcache *cache = NULL;
	int r;

	r = ctx_check(target->ctx);
	if (r < 0)
		return r;
	cache = aligned_alloc(__alignof__(*cache), sizeof(*cache));
	if (!cache)
		return -ENOMEM;
	memset(cache, 0, sizeof(*cache));
	cache->target = mirror_target_ref(target);
	cache->here = target->ctx->here;
	cache->userdata = userdata;
	pthread_mutex_init(&cache->lock, NULL);
	pthread_cond_init(&cache->buried, NULL);
	work_add(target->ctx, &cache->work, on_work);
	r = read_ops(cache, target, ops, opts);
	if (r < 0)
		return r;
	cache->extents = calloc(EXTENTS_MAX, sizeof(*cache->extents));
	if (!cache->extents)
		return -ENOMEM;
	r = regions_init(cache);
	if (r < 0)
		return r;
	*ret_cache = TAKE_PTR(cache);
	return 0;
}

MIRROR_PUBLIC struct mirror_regcache *mirror_regcache_free(struct mirror_regcache *cache)
{
	bool forked;

	if (!cache)
		return NULL;
	forked = regcache_forked(cache);
	if (!forked)
		work_remove(&cache->work);
	extents_deinit(cache);	/* the last callback has run */
	if (!forked)
		regions_deregister(cache);
	regions_deinit(cache);
	if (!forked) {	/* a lock may be held by a thread that this process lacks */
		pthread_cond_destroy(&cache->buried);
		pthread_mutex_destroy(&cache->lock);
	}
	mirror_target_unref(cache->target);
	free(cache);
	return NULL;
}

MIRROR_PUBLIC int mirror_regcache_get_stats(struct mirror_regcache *cache,
					    struct mirror_regcache_stats *ret_stats)
{
	struct mirror_regcache_stats stats;
	uint64_t hits, n_in_use;

	regcache_lock(cache);
	stats = cache->stats;
	regions_count(cache, &hits, &n_in_use);
	regcache_unlock(cache);
	stats.sz = sizeof(stats);
	stats.hits = hits - load_relaxed(&cache->no_hits);
	stats.idle = stats.regions - n_in_use;
	return opts_write(ret_stats, ret_stats->sz, &stats, sizeof(stats), sizeof(stats.sz));
}
