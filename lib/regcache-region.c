/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Registration cache: its regions
 *
 * Their slots, the radix by which they are found, limits, and their end.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include "memfd.h"
#include "regcache-private.h"

#define CHUNK_SMALL (32U << 10)
#define CHUNK_LARGE (2U << 20)	/* in a huge page: there are many, found at random */
#define CHUNKS_SMALL 16		/* so many first */
#define NODES_MAX (1U << 22)

struct chunk {
	struct chunk *next;
	uint32_t n_used, n_slots;
	struct regslot slots[] __attribute__((__aligned__(SLOT_ALIGN)));
};

/* ---- memory ---- */

static void discard(struct radix *radix, void *memory, size_t size)
{
	(void)radix;
	/*
	 * Punches a hole.  Nobody waits for the daemon in it, as nobody watches memory
	 * of this name.
	 */
	if (madvise(memory, size, MADV_REMOVE) < 0)
		memset(memory, 0, size);
}

/* Few kernels map anything beyond 48 bits, and a level less is a load less. */
static unsigned int levels_needed(void)
{
	void *hint = (void *)(uintptr_t)(1ULL << 48), *p;

	p = mmap(hint, PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return 5;
	munmap(p, PAGE_BYTES);
	return (uintptr_t)p >> 47 ? 5 : 4;
}

/* Shared memory, of which a child of fork() gets nothing, not even a mapping. */
static int map_memory(struct mirror_regcache *cache, size_t size)
{
	_cleanup_(fd_closep) int fd = -1;
	struct rlimit limit;
	void *p;
	int r;

	/* it is sparse, but who exceeds this limit gets a signal */
	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < size)
		return -EFBIG;
	r = memfd_new("mirror-regcache", size, &fd);
	if (r < 0)
		return r;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	cache->memory = p;
	cache->memory_size = size;
	if (madvise(p, size, MADV_DONTFORK) < 0)
		return -errno;
	madvise(p, size, MADV_DONTDUMP);
	return 0;
}

/* Nodes above a region of its own, at both ends; more of them share. */
static uint32_t nodes_for(uint64_t n_regions)
{
	return (uint32_t)MIN(n_regions * 4 + 4096, NODES_MAX);
}

int regions_init(struct mirror_regcache *cache)
{
	uint32_t n_nodes = nodes_for(cache->max_regions);
	int r;

	list_init(&cache->valid);
	list_init(&cache->garbage);
	list_init(&cache->pending);
	list_init(&cache->spare);
	r = map_memory(cache, radix_bytes(n_nodes));
	if (r < 0)
		return r;
	r = radix_init(&cache->radix, cache->memory, n_nodes, levels_needed(), 0, false);
	if (r < 0)
		return r;
	cache->radix.discard = discard;
	cache->limit = MIN(radix_limit(&cache->radix), USER_END);
	cache->table = cache->radix.head;
	return 0;
}

void regions_deinit(struct mirror_regcache *cache)
{
	struct chunk *chunk;

	while ((chunk = cache->chunks)) {
		cache->chunks = chunk->next;
		for (uint32_t i = 0; i < chunk->n_used; i++)
			free(chunk->slots[i].versions);
		free(chunk);
	}
	radix_deinit(&cache->radix);
	/* a child has no such mapping, but may have another one there */
	if (cache->memory && !regcache_forked(cache))
		munmap(cache->memory, cache->memory_size);
}

/* ---- slots ---- */

static struct chunk *chunk_new(struct mirror_regcache *cache)
{
	bool large = cache->n_chunks >= CHUNKS_SMALL;
	size_t size = large ? CHUNK_LARGE : CHUNK_SMALL;
	struct chunk *chunk;

	chunk = aligned_alloc(large ? CHUNK_LARGE : SLOT_ALIGN, size);
	if (!chunk)
		return NULL;
	if (large)
		madvise(chunk, size, MADV_HUGEPAGE);
	memset(chunk, 0, size);
	chunk->n_slots = (uint32_t)((size - sizeof(*chunk)) / sizeof(*chunk->slots));
	chunk->next = cache->chunks;
	cache->chunks = chunk;
	cache->n_chunks++;
	return chunk;
}

static struct regslot *slot_carve(struct mirror_regcache *cache)
{
	struct chunk *chunk = cache->chunks;

	if (!chunk || chunk->n_used == chunk->n_slots)
		chunk = chunk_new(cache);
	return chunk ? &chunk->slots[chunk->n_used++] : NULL;
}

/* Until the range fits into the limits: then it is counted. */
static int reserve(struct mirror_regcache *cache, uint64_t size)
{
	if (size > cache->max_bytes)
		return -ENOSPC;
	while (cache->n_reserved >= cache->max_regions ||
	       size > cache->max_bytes - cache->bytes_reserved) {
		if (!list_is_empty(&cache->garbage) || region_evict(cache))
			garbage_drain(cache);
		else if (cache->n_dying > 0)
			pthread_cond_wait(&cache->buried, &cache->lock);
		else
			return -ENOSPC;
	}
	cache->n_reserved++;
	cache->bytes_reserved += size;
	return 0;
}

static void unreserve(struct mirror_regcache *cache, uint64_t size)
{
	cache->n_reserved--;
	cache->bytes_reserved -= size;
}

/*
 * A hit asks about as much as it wants of a region, and not about all of it, if that is
 * more than one stripe.  What spans the whole gate is asked about as a whole.
 */
static int versions_new(const struct gate *gate, const struct range *range,
			uint64_t **ret_versions)
{
	uint64_t n = ((range->end - 1) >> gate->shift) - (range->start >> gate->shift) + 1;
	uint64_t *versions = NULL;

	if (n > 1 && n < gate->n_stripes) {
		versions = malloc(2 * n * sizeof(*versions));
		if (!versions)
			return -ENOMEM;
		memset(versions, 0xff, n * sizeof(*versions));	/* good for nothing */
	}
	*ret_versions = versions;
	return 0;
}

void slot_set_version(struct regslot *slot, uint64_t start, uint64_t end, uint64_t version)
{
	const struct gate *gate = &slot->extent->notifier->gate;
	uint64_t first = start >> gate->shift, n = ((end - 1) >> gate->shift) - first + 1;
	uint64_t base = slot->region.start >> gate->shift, *to, *scratch, sum = 0;

	if (!slot->versions) {
		store_relaxed(&slot->version, version);
		return;
	}
	to = slot->versions + (first - base);
	scratch = slot->versions + ((slot->region.end - 1) >> gate->shift) - base + 1;
	for (uint64_t i = 0; i < n; i++) {
		scratch[i] = load_relaxed(&gate->stripes[gate_index(first + i,
								    gate->n_stripes)].started);
		sum += scratch[i];
	}
	/* If one has moved since, the next hit will have to look again. */
	for (uint64_t i = 0; sum == version && i < n; i++)
		store_relaxed(&to[i], scratch[i]);
}

static struct regslot *slot_take_spare(struct mirror_regcache *cache)
{
	struct regslot *slot;

	if (list_is_empty(&cache->spare))
		return slot_carve(cache);
	slot = list_entry(cache->spare.next, struct regslot, link);
	list_unlink(&slot->link);
	return slot;
}

int slot_new(struct mirror_regcache *cache, const struct range *range,
	     struct regslot **ret_slot)
{
	_cleanup_(freep) uint64_t *versions = NULL;
	struct regslot *slot;
	int r;

	r = versions_new(&cache->target->gate, range, &versions);
	if (r < 0)
		return r;
	r = reserve(cache, range->end - range->start);
	if (r < 0)
		return r;
	slot = slot_take_spare(cache);
	if (!slot) {
		unreserve(cache, range->end - range->start);
		return -ENOMEM;
	}
	slot->region = (struct mirror_region) {
		.start = range->start, .end = range->end, .rights = range->rights,
	};
	slot->versions = TAKE_PTR(versions);
	slot->extent = NULL;
	slot->touched = slot->registered = false;
	list_init(&slot->link);
	list_append(&cache->pending, &slot->link);
	*ret_slot = slot;
	return 0;
}

void slot_free(struct mirror_regcache *cache, struct regslot *slot)
{
	uint64_t size = slot->region.end - slot->region.start;

	cache->hits += (load_relaxed(&slot->state) & REGION_HITS) >> REGION_HIT_SHIFT;
	store_relaxed(&slot->state, 0);
	unreserve(cache, size);
	if (slot->registered) {
		cache->stats.regions--;
		cache->stats.bytes -= size;
		slot->registered = false;
	}
	if (slot->extent)
		extent_put(slot->extent);
	free(slot->versions);
	slot->versions = NULL;
	list_unlink(&slot->link);
	list_append(&cache->spare, &slot->link);
}

/* ---- regions ---- */

struct regslot *region_next(struct mirror_regcache *cache, uint64_t start, uint64_t end)
{
	struct radix_run run;

	end = MIN(end, cache->limit);
	if (start >= end || !radix_next(&cache->radix, start, end, &run))
		return NULL;
	return slot_of_entry(run.entry);
}

int region_publish(struct mirror_regcache *cache, struct regslot *slot, uint64_t version)
{
	struct regslot *other;
	int r;

	while ((other = region_next(cache, slot->region.start, slot->region.end))) {
		region_take_out(cache, other);
		cache->stats.merged++;
	}
	do {
		r = radix_fill(&cache->radix, slot->region.start, slot->region.end,
			       entry_of_slot(slot));
	} while (r == -ENOSPC && region_evict(cache));
	if (r < 0)
		return r;
	list_unlink(&slot->link);
	list_append(&cache->valid, &slot->link);
	cache->n_valid++;
	slot->seen = 0;
	slot->notifier = slot->extent->notifier;
	slot_set_version(slot, slot->region.start, slot->region.end, version);
	/*
	 * Release: who finds it valid finds the rest as well.  Pairs with the acquire
	 * in hold().
	 */
	store_release(&slot->state, REGION_VALID | 1);
	return 0;
}

/* Of a region that is not valid any more. */
static void forget(struct mirror_regcache *cache, struct regslot *slot)
{
	radix_clear(&cache->radix, slot->region.start, slot->region.end, true, NULL);
	list_unlink(&slot->link);
	cache->n_valid--;
}

void region_bury(struct mirror_regcache *cache, struct regslot *slot)
{
	list_unlink(&slot->link);
	list_append(&cache->garbage, &slot->link);
	store_relaxed(&cache->n_garbage, cache->n_garbage + 1);
}

void region_take_out(struct mirror_regcache *cache, struct regslot *slot)
{
	uint64_t state;

	/* Acquire: pairs with the release in mirror_regcache_put(); its users are done. */
	state = __atomic_fetch_and(&slot->state, ~REGION_VALID, __ATOMIC_ACQUIRE);
	forget(cache, slot);
	if (!(state & REGION_USERS))
		region_bury(cache, slot);
}

/* The same, unless it is in use. */
static bool take_out_idle(struct mirror_regcache *cache, struct regslot *slot)
{
	uint64_t state = load_relaxed(&slot->state);

	do {
		if (state & REGION_USERS)
			return false;
	} while (!__atomic_compare_exchange_n(&slot->state, &state, state & ~REGION_VALID, true,
					      __ATOMIC_ACQUIRE, __ATOMIC_RELAXED));
	forget(cache, slot);
	region_bury(cache, slot);
	return true;
}

/* Second chance: who was hit since the last look is looked at again later. */
bool region_evict(struct mirror_regcache *cache)
{
	for (uint64_t n = 2 * cache->n_valid; n > 0; n--) {
		struct regslot *slot;
		uint64_t hits;

		slot = list_entry(cache->valid.next, struct regslot, link);
		hits = load_relaxed(&slot->state) & REGION_HITS;
		if (hits == slot->seen && take_out_idle(cache, slot)) {
			cache->stats.evicted++;
			return true;
		}
		slot->seen = hits;
		list_unlink(&slot->link);
		list_append(&cache->valid, &slot->link);
	}
	return false;
}

int region_evict_all(struct mirror_regcache *cache)
{
	int n = 0;

	list_for_each_safe(l, &cache->valid)
		n += take_out_idle(cache, list_entry(l, struct regslot, link));
	return n;
}

void garbage_drain(struct mirror_regcache *cache)
{
	uint32_t n = cache->n_garbage;

	while (n-- > 0 && !list_is_empty(&cache->garbage) && !regcache_forked(cache)) {
		struct regslot *slot;

		slot = list_entry(cache->garbage.next, struct regslot, link);
		list_unlink(&slot->link);
		store_relaxed(&cache->n_garbage, cache->n_garbage - 1);
		cache->n_dying++;
		cache->stats.deregistered++;
		regcache_unlock(cache);
		cache->ops.deregister_region(&slot->region, cache->userdata);
		regcache_lock(cache);
		slot_free(cache, slot);
		cache->n_dying--;
		cache->n_buried++;
		pthread_cond_broadcast(&cache->buried);
	}
}

void regions_count(struct mirror_regcache *cache, uint64_t *ret_hits, uint64_t *ret_in_use)
{
	uint64_t hits = cache->hits, n_in_use = 0, state;

	for (struct chunk *chunk = cache->chunks; chunk; chunk = chunk->next) {
		for (uint32_t i = 0; i < chunk->n_used; i++) {
			state = load_relaxed(&chunk->slots[i].state);
			hits += (state & REGION_HITS) >> REGION_HIT_SHIFT;
			n_in_use += (state & REGION_USERS) > 0;
		}
	}
	*ret_hits = hits;
	*ret_in_use = n_in_use;
}

void regions_deregister(struct mirror_regcache *cache)
{
	for (struct chunk *chunk = cache->chunks; chunk; chunk = chunk->next)
		for (uint32_t i = 0; i < chunk->n_used; i++)
			if (chunk->slots[i].registered)
				cache->ops.deregister_region(&chunk->slots[i].region,
							     cache->userdata);
}
