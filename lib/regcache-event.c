/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Registration cache: what it is told, and by which notifiers
 *
 * To insert a notifier is a request to the daemon, so one serves many regions: an
 * extent is the range of a new region, rounded outward, and the regions that come to
 * lie in it later need no request.  An extent without regions stays, as the next
 * region may be there again, until its place is needed.
 *
 * An extent is also what a change has to hit for a record to be written and the
 * callback to run, so it is as small as it can be: the more there are, the more is
 * rounded.  The last one is the whole address space.
 */
#include <sys/mman.h>
#include "regcache-private.h"

#define EXTENT_SHIFT 21
#define EXTENT_STEP (EXTENTS_MAX / 4)
#define EXTENT_GROWTH 4		/* log2, for each step */

/* ---- events ---- */

/*
 * What makes a registration wrong.  Registered memory is pinned: the kernel lets the
 * rights of its pages change for fork(), tracking and write-back, and leaves the pages
 * where they are; a child of fork() gets copies.
 */
bool region_is_hit(const struct mirror_region *region, const struct mirror_event *ev)
{
	uint32_t lost = 0;

	switch (ev->type) {
	case MIRROR_EVENT_PROTECTION_PAGE:
	case MIRROR_EVENT_SOFT_DIRTY:
	case MIRROR_EVENT_FORK:
	case MIRROR_EVENT_FAULT:
		return false;
	case MIRROR_EVENT_PROTECTION_VMA:
		if (!(ev->arg.protection.prot_new & PROT_READ))
			lost |= MIRROR_REGION_READ;
		if (!(ev->arg.protection.prot_new & PROT_WRITE))
			lost |= MIRROR_REGION_WRITE;
		return region->rights & lost;
	}
	return true;	/* in doubt */
}

static void event_range(struct mirror_notifier *notifier, const struct mirror_event *ev,
			uint64_t *ret_start, uint64_t *ret_end)
{
	*ret_start = ev->start;
	*ret_end = ev->end;
	switch (ev->type) {
	case MIRROR_EVENT_RELEASE:
	case MIRROR_EVENT_OVERFLOW:
		*ret_start = mirror_notifier_get_start(notifier);
		*ret_end = mirror_notifier_get_end(notifier);
	}
}

/* Inside dispatch, so ctx->lock is held: whatever takes time is left to others. */
void regcache_on_event(struct mirror_notifier *notifier, const struct mirror_event *ev,
		       void *userdata)
{
	struct mirror_regcache *cache = userdata;
	struct regslot *slot;
	uint64_t start, end;

	event_range(notifier, ev, &start, &end);
	regcache_lock(cache);
	list_for_each(l, &cache->pending) {
		slot = list_entry(l, struct regslot, link);
		if (ranges_overlap(slot->region.start, slot->region.end, start, end) &&
		    region_is_hit(&slot->region, ev))
			slot->touched = true;
	}
	while ((slot = region_next(cache, start, end))) {
		start = slot->region.end;
		if (!region_is_hit(&slot->region, ev))
			continue;
		region_take_out(cache, slot);
		cache->stats.invalidated++;
	}
	if (!list_is_empty(&cache->garbage))
		work_due(&cache->work);
	regcache_unlock(cache);
}

/* ---- extents ---- */

static struct extent *extent_find(struct mirror_regcache *cache, uint64_t start, uint64_t end)
{
	for (unsigned int i = 0; i < EXTENTS_MAX; i++) {
		struct extent *e = &cache->extents[i];

		if (e->start <= start && end <= e->end && e->notifier)
			return e;
	}
	return NULL;
}

/* A free place, or the one that was idle for longest, whose notifier must go; or NULL. */
static struct extent *extent_place(struct mirror_regcache *cache)
{
	struct extent *oldest = NULL;

	for (unsigned int i = 0; i < EXTENTS_MAX - 1; i++) {
		struct extent *e = &cache->extents[i];

		if (e->n_regions)
			continue;
		if (!e->notifier)
			return e;
		if (!oldest || e->used < oldest->used)
			oldest = e;
	}
	return oldest;
}

static unsigned int extent_shift(const struct mirror_regcache *cache)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < EXTENTS_MAX; i++)
		n += cache->extents[i].n_regions > 0;
	return EXTENT_SHIFT + n / EXTENT_STEP * EXTENT_GROWTH;
}

static int extent_insert(struct mirror_regcache *cache, struct extent *e)
{
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops), .invalidate = regcache_on_event,
	};
	struct mirror_notifier *old = e->notifier, *notifier = NULL;
	uint64_t start = e->start, end = e->end;
	int r;

	/* not found by others meanwhile, and not free either */
	e->notifier = NULL;
	e->n_regions = 1;
	regcache_unlock(cache);
	mirror_notifier_remove(old);
	r = mirror_notifier_insert(&notifier, cache->target, start, end, &ops, cache);
	regcache_lock(cache);
	e->notifier = notifier;
	if (r < 0)
		e->n_regions = 0;
	return r;
}

static int extent_new(struct mirror_regcache *cache, uint64_t start, uint64_t end,
		      struct extent **ret_extent)
{
	uint64_t mask = (1ULL << extent_shift(cache)) - 1;
	struct extent *e = extent_place(cache);
	int r;

	if (!e) {
		e = &cache->extents[EXTENTS_MAX - 1];
		if (e->n_regions)	/* another thread is just making it */
			return -EDQUOT;
		mask = USER_END - 1;
	}
	e->start = start & ~mask;
	e->end = MIN((end + mask) & ~mask, USER_END);
	r = extent_insert(cache, e);
	if (r < 0)
		return r;
	*ret_extent = e;
	return 0;
}

/* Others need notifiers, too. */
static bool extent_drop_idle(struct mirror_regcache *cache)
{
	for (unsigned int i = 0; i < EXTENTS_MAX; i++) {
		struct extent *e = &cache->extents[i];
		struct mirror_notifier *notifier = e->notifier;

		if (!notifier || e->n_regions)
			continue;
		e->notifier = NULL;	/* the place is free at once */
		regcache_unlock(cache);
		mirror_notifier_remove(notifier);
		regcache_lock(cache);
		return true;
	}
	return false;
}

int extent_get(struct mirror_regcache *cache, uint64_t start, uint64_t end,
	       struct extent **ret_extent)
{
	struct extent *e;
	int r;

	do {
		e = extent_find(cache, start, end);
		if (e) {
			e->n_regions++;
			r = 0;
		} else {
			r = extent_new(cache, start, end, &e);
		}
	} while (r == -EDQUOT && extent_drop_idle(cache));
	if (r < 0)
		return r;
	e->used = ++cache->clock;
	*ret_extent = e;
	return 0;
}

void extent_put(struct extent *e)
{
	e->n_regions--;
}

void extents_deinit(struct mirror_regcache *cache)
{
	for (unsigned int i = 0; cache->extents && i < EXTENTS_MAX; i++)
		cache->extents[i].notifier = mirror_notifier_remove(cache->extents[i].notifier);
	free(cache->extents);
	cache->extents = NULL;
}
