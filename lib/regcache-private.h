/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Registration cache inside; regcache.c has the model
 */

#include <mirror/regcache.h>
#include <mirror/table.h>
#include "radix.h"
#include "mirror-private.h"

/*
 * The state of a region, one word:
 *
 *	63	VALID: may be found
 *	24-62	hits so far; also tells whether it was used since the last look
 *	0-23	users
 *
 * Registered, but neither valid nor in use, is garbage.  Both ways to get there are
 * one atomic operation on the word, so exactly one thread sees it happen, and it is
 * that thread's to put the region on the list.
 */
#define REGION_VALID (1ULL << 63)
#define REGION_HIT_SHIFT 24
#define REGION_HIT (1ULL << REGION_HIT_SHIFT)
#define REGION_HITS_HIGH (1ULL << 62)
#define REGION_USERS (REGION_HIT - 1)
#define REGION_HITS (REGION_VALID - REGION_HIT)

/* Addresses of slots are entries of the radix: shifted up by this, they leave room
 * for the flags. */
#define SLOT_ALIGN 64
#define SLOT_SHIFT 6

/* A slot is never freed before the cache, so whoever reads an old entry of the radix
 * finds a slot still, and sees by its content that it is another's. */
struct regslot {
	/* what a hit needs: one cache line; constant while there are users */
	struct mirror_region region;
	uint64_t state;
	uint64_t version;	/* of the whole region, if it lies in one stripe */
	uint64_t *versions;	/* else one for each stripe, and as many to work with */
	struct mirror_notifier *notifier;

	/* the rest is the cache lock's */
	struct extent *extent __attribute__((__aligned__(SLOT_ALIGN)));
	struct list link;	/* of valid ones, garbage, pending or spare */
	uint64_t seen;		/* hits at the last look */
	bool registered;
	bool touched;		/* while pending: a change was told */
};

/* A notifier, wider than the regions in it, so that the next one finds it there. */
struct extent {
	uint64_t start, end;
	struct mirror_notifier *notifier;	/* NULL: free, or being made */
	uint32_t n_regions;
	uint64_t used;			/* when */
};

#define EXTENTS_MAX 1024

struct range {
	uint64_t start, end;
	uint32_t rights;
};

struct mirror_regcache {
	const uint64_t *here;		/* the context's */
	const struct mirror_table *table;
	struct mirror_target *target;
	uint32_t n_garbage;		/* written under the lock, read without */

	pthread_mutex_t lock __attribute__((__aligned__(64)));
	pthread_cond_t buried;		/* n_dying became less */
	struct mirror_regcache_ops ops;
	void *userdata;
	uint32_t flags;
	uint64_t max_regions, max_bytes;

	struct radix radix;
	uint64_t limit;			/* first address the radix cannot hold */
	void *memory;
	size_t memory_size;

	struct list valid;		/* longest idle first, more or less */
	struct list garbage, pending, spare;
	struct chunk *chunks;
	uint32_t n_chunks;
	uint64_t n_valid;
	uint64_t n_reserved, bytes_reserved;	/* what the limits are about */
	uint64_t n_dying;		/* being deregistered */
	uint64_t n_buried;		/* that were */

	struct extent *extents;
	uint64_t clock;
	struct work work;

	uint64_t hits;			/* of slots that were given up */
	uint64_t no_hits;		/* counted as a hit, wrongly */
	struct mirror_regcache_stats stats;
};

static inline bool regcache_forked(const struct mirror_regcache *cache)
{
	return unlikely(load_relaxed(cache->here) == HERE_FORKED);
}

/*
 * In a child of fork(), which can come here out of a callback that forked, another
 * thread of the parent may have had the lock.  There is nobody to lock out, either.
 */
static inline void regcache_lock(struct mirror_regcache *cache)
{
	if (!regcache_forked(cache))
		pthread_mutex_lock(&cache->lock);
}

static inline void regcache_unlock(struct mirror_regcache *cache)
{
	if (!regcache_forked(cache))
		pthread_mutex_unlock(&cache->lock);
}

static inline struct regslot *slot_of_entry(uint64_t entry)
{
	return (struct regslot *)(uintptr_t)((entry & ~MIRROR_ENTRY_FLAGS) >> SLOT_SHIFT);
}

static inline uint64_t entry_of_slot(const struct regslot *slot)
{
	return (uint64_t)(uintptr_t)slot << SLOT_SHIFT | MIRROR_ENTRY_VALID;
}

static inline bool region_serves(const struct mirror_region *region, uint64_t start,
				 uint64_t end, uint32_t rights)
{
	return region->start <= start && end <= region->end && !(rights & ~region->rights);
}

/*
 * The version of a part of a region of many stripes.  Versions add up: each is a number
 * that only grows.
 */
static inline uint64_t slot_version(const struct regslot *slot, uint64_t start, uint64_t end)
{
	unsigned int shift = slot->notifier->gate.shift;
	uint64_t base = slot->region.start >> shift, sum = 0;

	for (uint64_t i = start >> shift; i <= (end - 1) >> shift; i++)
		sum += load_relaxed(&slot->versions[i - base]);
	return sum;
}

/* regcache-region.c; the first three without the cache lock, the rest under it */
int regions_init(struct mirror_regcache *cache);
/* All there are, when nobody else is in the cache any more. */
void regions_deregister(struct mirror_regcache *cache);
void regions_deinit(struct mirror_regcache *cache);

int slot_new(struct mirror_regcache *cache, const struct range *range,
	     struct regslot **ret_slot);
void slot_free(struct mirror_regcache *cache, struct regslot *slot);
/* Keeps what mirror_read_begin() returned for a part of it. */
void slot_set_version(struct regslot *slot, uint64_t start, uint64_t end, uint64_t version);

/* The first valid region in the range, or NULL. */
struct regslot *region_next(struct mirror_regcache *cache, uint64_t start, uint64_t end);
/* Makes a pending slot valid, with one user. */
int region_publish(struct mirror_regcache *cache, struct regslot *slot, uint64_t version);
/* Nobody finds it any more. */
void region_take_out(struct mirror_regcache *cache, struct regslot *slot);
void region_bury(struct mirror_regcache *cache, struct regslot *slot);
/* The one that is idle for longest.  false: all are in use. */
bool region_evict(struct mirror_regcache *cache);
/* All that are not in use: how many. */
int region_evict_all(struct mirror_regcache *cache);

/* Deregisters as much garbage as there is now.  The lock is dropped meanwhile. */
void garbage_drain(struct mirror_regcache *cache);
void regions_count(struct mirror_regcache *cache, uint64_t *ret_hits, uint64_t *ret_in_use);

/* regcache-event.c */
void regcache_on_event(struct mirror_notifier *notifier, const struct mirror_event *event,
		       void *userdata);
bool region_is_hit(const struct mirror_region *region, const struct mirror_event *event);
/* An extent that holds the range.  Under the lock, which is dropped meanwhile. */
int extent_get(struct mirror_regcache *cache, uint64_t start, uint64_t end,
	       struct extent **ret_extent);
void extent_put(struct extent *extent);
void extents_deinit(struct mirror_regcache *cache);

DEFINE_CLEANUP(struct mirror_regcache *, mirror_regcache_free)
