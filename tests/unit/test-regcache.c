/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The registration cache from inside: events that no source of this machine makes,
 * numbers nobody lives to see, and allocations that fail.
 */
#include <string.h>
#include <sys/mman.h>
#include "regcache-private.h"
#include "unit.h"

#define P PAGE_BYTES
#define SIZE (8ULL << 20)
#define R MIRROR_REGION_READ
#define W MIRROR_REGION_WRITE

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_regcache *cache;
static uint64_t base;
static unsigned int n_registered, n_deregistered;

static void ok(int r)
{
	ck_assert_msg(r >= 0, "%s", strerror(-r));
}

static int register_region(struct mirror_region *region, void *userdata _unused_)
{
	n_registered++;
	region->handle = &n_registered;
	return 0;
}

static void deregister_region(struct mirror_region *region, void *userdata _unused_)
{
	/* nothing of Check's here: it allocates */
	n_deregistered += region->handle == &n_registered;
}

static int cache_new(void)
{
	struct mirror_regcache_ops ops = { sizeof(ops), register_region, deregister_region };

	return mirror_regcache_new(&cache, target, &ops, NULL, NULL);
}

static void setup(void)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	void *p;

	opts.flags = MIRROR_OPEN_EMBEDDED;
	ok(mirror_open(&ctx, &opts));
	ok(mirror_target_attach_self(&target, ctx, NULL));
	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(p, MAP_FAILED);
	base = (uintptr_t)p;
	ok(cache_new());
}

static void finish(void)
{
	mirror_regcache_free(cache);
	ck_assert_uint_eq(n_registered, n_deregistered);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

static const struct mirror_region *get(uint64_t from, uint64_t to, uint32_t rights)
{
	const struct mirror_region *region;

	ok(mirror_regcache_get(cache, base + from * P, base + to * P, rights, &region));
	return region;
}

static struct mirror_regcache_stats stats(void)
{
	struct mirror_regcache_stats s = { .sz = sizeof(s) };

	ok(mirror_regcache_get_stats(cache, &s));
	return s;
}

/* Is the region of one page gone after this? */
static bool takes(unsigned int type, uint32_t rights, uint32_t prot)
{
	struct mirror_event ev = {
		.type = (uint8_t)type, .start = base + P, .end = base + 3 * P,
		.arg.protection = { .prot_new = prot, .prot_old = ~0U },
	};
	const struct mirror_region *region = get(2, 3, rights);
	uint64_t n = stats().invalidated;

	regcache_on_event(cache->extents[0].notifier, &ev, cache);
	mirror_regcache_put(cache, region);
	n = stats().invalidated - n;
	mirror_regcache_flush(cache);
	return n;
}

START_TEST(events)
{
	static const bool taken[] = {
		[MIRROR_EVENT_NONE] = true, [MIRROR_EVENT_UNMAP] = true,
		[MIRROR_EVENT_CLEAR] = true, [MIRROR_EVENT_RELEASE] = true,
		[MIRROR_EVENT_MIGRATE] = true, [MIRROR_EVENT_EXCLUSIVE] = true,
		[MIRROR_EVENT_REMAP] = true, [MIRROR_EVENT_OVERFLOW] = true,
		[MIRROR_EVENT_TYPES] = true,	/* not known yet */
		/* the rest is nothing to memory that is pinned */
	};

	setup();
	for (unsigned int i = 0; i <= MIRROR_EVENT_TYPES; i++)
		if (i != MIRROR_EVENT_PROTECTION_VMA)
			ck_assert_msg(takes(i, R | W, 0) == taken[i], "event %u", i);
	ck_assert(takes(200, R, 0));
	finish();
}
END_TEST

START_TEST(rights_lost)
{
	const unsigned int type = MIRROR_EVENT_PROTECTION_VMA;

	setup();
	ck_assert(takes(type, R, PROT_NONE));
	ck_assert(!takes(type, R, PROT_READ));
	ck_assert(!takes(type, R, PROT_READ | PROT_WRITE));
	ck_assert(takes(type, W, PROT_NONE));
	ck_assert(takes(type, W, PROT_READ));
	ck_assert(takes(type, R | W, PROT_READ));
	ck_assert(takes(type, R | W, PROT_WRITE));
	ck_assert(!takes(type, R | W, PROT_READ | PROT_WRITE | PROT_EXEC));
	finish();
}
END_TEST

/* Which regions an event takes, by its range. */
START_TEST(event_ranges)
{
	struct mirror_event ev = { .type = MIRROR_EVENT_UNMAP };

	setup();
	for (uint64_t i = 0; i < 8; i++)
		mirror_regcache_put(cache, get(2 * i, 2 * i + 2, R));
	ev.start = base + 3 * P;
	ev.end = base + 4 * P;
	regcache_on_event(cache->extents[0].notifier, &ev, cache);
	ck_assert_uint_eq(stats().invalidated, 1);
	ev.start = base + 5 * P;
	ev.end = base + 9 * P;
	regcache_on_event(cache->extents[0].notifier, &ev, cache);
	ck_assert_uint_eq(stats().invalidated, 4);
	ev.start = base + 16 * P;
	ev.end = UINT64_MAX & ~(P - 1);
	regcache_on_event(cache->extents[0].notifier, &ev, cache);
	ck_assert_uint_eq(stats().invalidated, 4);
	/* these two concern all that the notifier watches, whatever they say */
	ev.type = MIRROR_EVENT_RELEASE;
	regcache_on_event(cache->extents[0].notifier, &ev, cache);
	ck_assert_uint_eq(stats().invalidated, 8);
	mirror_regcache_put(cache, get(0, 1, R));
	ev.type = MIRROR_EVENT_OVERFLOW;
	ev.start = ev.end = 0;
	regcache_on_event(cache->extents[0].notifier, &ev, cache);
	ck_assert_uint_eq(stats().invalidated, 9);
	finish();
}
END_TEST

static struct regslot *slot_of(const struct mirror_region *region)
{
	return container_of((struct mirror_region *)(uintptr_t)region, struct regslot, region);
}

/* More hits than its word has room for. */
START_TEST(many_hits)
{
	const struct mirror_region *region;
	struct regslot *slot;

	setup();
	region = get(0, 1, R);
	slot = slot_of(region);
	__atomic_fetch_add(&slot->state, REGION_HITS_HIGH - 2 * REGION_HIT, __ATOMIC_RELAXED);
	for (unsigned int i = 1; i <= 100; i++) {
		mirror_regcache_put(cache, get(0, 1, R));
		ck_assert_uint_eq(stats().hits, (REGION_HITS_HIGH >> REGION_HIT_SHIFT) - 2 + i);
	}
	ck_assert_uint_lt(slot->state & REGION_HITS, 100 * REGION_HIT);
	ck_assert_uint_eq(stats().idle, 0);
	mirror_regcache_put(cache, region);
	ck_assert_uint_eq(stats().idle, 1);
	ck_assert_uint_eq(n_registered, 1);
	finish();
}
END_TEST

/* As many users as it has room for. */
START_TEST(many_users)
{
	const struct mirror_region *region, *other;
	struct regslot *slot;

	setup();
	region = get(0, 1, R);
	slot = slot_of(region);
	__atomic_fetch_add(&slot->state, REGION_USERS - 1, __ATOMIC_RELAXED);
	ck_assert_int_eq(mirror_regcache_get(cache, base, base + P, R, &other), -EAGAIN);
	__atomic_fetch_sub(&slot->state, REGION_USERS - 1, __ATOMIC_RELAXED);
	ck_assert_ptr_eq(get(0, 1, R), region);
	mirror_regcache_put(cache, region);
	mirror_regcache_put(cache, region);
	finish();
}
END_TEST

/* An entry that is read just before its region goes leads to one that is not valid. */
START_TEST(old_entry)
{
	const struct mirror_region *region = NULL;
	struct regslot *slot;

	setup();
	slot = slot_of(get(0, 1, R));
	__atomic_fetch_and(&slot->state, ~REGION_VALID, __ATOMIC_RELAXED);
	ck_assert_int_eq(mirror_regcache_get(cache, base, base + P, R, &region), -EAGAIN);
	ck_assert_ptr_null(region);
	__atomic_fetch_or(&slot->state, REGION_VALID, __ATOMIC_RELAXED);
	ck_assert_ptr_eq(slot_of(get(0, 1, R)), slot);
	mirror_regcache_put(cache, &slot->region);
	mirror_regcache_put(cache, &slot->region);
	finish();
}
END_TEST

/* What has moved since a version was taken must not be kept as that version. */
START_TEST(versions)
{
	const struct mirror_region *region;
	uint64_t version, from, to;
	struct regslot *slot;

	setup();
	region = get(0, SIZE / P, R);
	slot = slot_of(region);
	from = region->start + P;
	to = region->end - P;
	version = slot_version(slot, from, to);
	memset(slot->versions, 0xff, 4 * sizeof(uint64_t));
	slot_set_version(slot, from, to, version - 1);
	ck_assert_uint_eq(slot->versions[0], UINT64_MAX);
	ck_assert_uint_eq(slot->versions[3], UINT64_MAX);
	slot_set_version(slot, from, to, version);
	ck_assert_uint_eq(slot_version(slot, from, to), version);
	ck_assert_ptr_eq(get(0, SIZE / P, R), region);
	mirror_regcache_put(cache, region);
	mirror_regcache_put(cache, region);
	finish();
}
END_TEST

static pthread_barrier_t barrier;

static void *lock_thread(void *data _unused_)
{
	pthread_mutex_lock(&ctx->lock);
	pthread_mutex_lock(&cache->lock);
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	pthread_mutex_unlock(&cache->lock);
	pthread_mutex_unlock(&ctx->lock);
	return NULL;
}

START_TEST(no_lock)
{
	pthread_t thread;

	setup();
	pthread_barrier_init(&barrier, NULL, 2);
	mirror_regcache_put(cache, get(0, SIZE / P, R));
	pthread_create(&thread, NULL, lock_thread, NULL);
	pthread_barrier_wait(&barrier);
	for (uint64_t i = 0; i < SIZE / P; i++)
		mirror_regcache_put(cache, get(i, SIZE / P, R));
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(stats().hits, SIZE / P);
	finish();
}
END_TEST

static int use_one(void)
{
	const struct mirror_region *region;
	int r;

	r = cache_new();
	if (r < 0)
		return r;
	for (uint64_t at = base; at < base + SIZE && r == 0; at += SIZE / 2) {
		r = mirror_regcache_get(cache, at, at + SIZE / 2, R, &region);
		if (r == 0)
			mirror_regcache_put(cache, region);
	}
	cache = mirror_regcache_free(cache);
	return n_registered == n_deregistered ? r : -EIO;
}

START_TEST(no_memory)
{
	setup();
	cache = mirror_regcache_free(cache);
	unit_oom(use_one);
	finish();
}
END_TEST

UNIT_MAIN("regcache", events, rights_lost, event_ranges, many_hits, many_users, old_entry,
	  versions, no_lock, no_memory)
