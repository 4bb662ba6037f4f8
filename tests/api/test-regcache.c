/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The registration cache: what is found, what is kept, and for how long. */
#include <mirror/regcache.h>
#include <pthread.h>
#include <sys/prctl.h>
#include "registrar.h"

#define SIZE (16 * PAGE)
#define R MIRROR_REGION_READ
#define W MIRROR_REGION_WRITE

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_regcache *cache;
static struct device device;
static char *mem;

static void setup_with(uint32_t attach_flags, const struct mirror_regcache_opts *opts)
{
	ctx = open_ctx();
	target = attach_self(ctx, attach_flags);
	mem = map_pages(SIZE);
	cache = device_cache(&device, target, opts);
}

static void setup(void)
{
	setup_with(0, NULL);
}

static void finish(void)
{
	cache = mirror_regcache_free(cache);
	ck_assert_ptr_null(cache);
	ck_assert_uint_eq(device.n_registered, device.n_deregistered);
	target = mirror_target_unref(target);
	ctx = mirror_ctx_unref(ctx);
}

/* In pages of mem. */
static int try_get(unsigned int from, unsigned int to, uint32_t rights,
		   const struct mirror_region **ret_region)
{
	return mirror_regcache_get(cache, (uintptr_t)mem + from * PAGE, (uintptr_t)mem + to * PAGE,
				   rights, ret_region);
}

static const struct mirror_region *get(unsigned int from, unsigned int to, uint32_t rights)
{
	const struct mirror_region *region = NULL;

	ok(try_get(from, to, rights, &region));
	ck_assert_uint_le(region->start, (uintptr_t)mem + from * PAGE);
	ck_assert_uint_ge(region->end, (uintptr_t)mem + to * PAGE);
	ck_assert_uint_eq(region->rights & rights, rights);
	device_check(&device, region);
	return region;
}

static void put(const struct mirror_region *region)
{
	ck_assert_ptr_null(mirror_regcache_put(cache, region));
}

static void touch(unsigned int from, unsigned int to, uint32_t rights)
{
	put(get(from, to, rights));
}

static struct mirror_regcache_stats stats(void)
{
	struct mirror_regcache_stats s = { .sz = sizeof(s) };

	ok(mirror_regcache_get_stats(cache, &s));
	ck_assert_uint_eq(s.registered, device.n_registered);
	ck_assert_uint_eq(s.deregistered, device.n_deregistered);
	ck_assert_uint_eq(s.regions, device.n_registered - device.n_deregistered);
	ck_assert_uint_eq(s.bytes, device.bytes);
	return s;
}

START_TEST(refused)
{
	struct mirror_regcache_ops ops = { .sz = sizeof(ops) };
	struct mirror_regcache_opts opts = MIRROR_REGCACHE_OPTS_INIT;
	const struct mirror_region *region = NULL;
	struct mirror_regcache *none = NULL;

	setup();
	fails(mirror_regcache_new(&none, target, NULL, NULL, NULL), EINVAL);
	fails(mirror_regcache_new(&none, target, &ops, NULL, NULL), EINVAL);
	ops = device_ops;
	ops.deregister_region = NULL;
	fails(mirror_regcache_new(&none, target, &ops, NULL, NULL), EINVAL);
	ops = device_ops;
	ops.sz = 1;
	fails(mirror_regcache_new(&none, target, &ops, NULL, NULL), EINVAL);
	opts.flags = 0x80;
	fails(mirror_regcache_new(&none, target, &device_ops, &opts, NULL), E2BIG);
	opts.flags = 0;
	opts.sz = 1;
	fails(mirror_regcache_new(&none, target, &device_ops, &opts, NULL), EINVAL);
	ck_assert_ptr_null(none);
	ck_assert_ptr_null(mirror_regcache_free(NULL));

	fails(try_get(1, 1, R, &region), EINVAL);
	fails(try_get(2, 1, R, &region), EINVAL);
	fails(try_get(0, 1, 0x80, &region), EINVAL);
	fails(mirror_regcache_get(cache, 0, UINT64_MAX, R, &region), EINVAL);
	fails(mirror_regcache_get(cache, UINT64_MAX - 8, UINT64_MAX, R, &region), EINVAL);
	/* valid, and still */
	touch(0, 1, R);
	fails(try_get(1, 0, R, &region), EINVAL);
	fails(try_get(0, 1, R | 0x80, &region), EINVAL);
	ck_assert_ptr_null(region);
	put(NULL);
	ck_assert_uint_eq(device.n_registered, 1);
	finish();
}
END_TEST

START_TEST(no_ring)
{
	struct mirror_regcache *none = NULL;

	ctx = open_ctx_with(MIRROR_OPEN_NO_RING, 0);
	target = attach_self(ctx, 0);
	fails(mirror_regcache_new(&none, target, &device_ops, NULL, NULL), ENOTCONN);
	ck_assert_ptr_null(none);
	finish();
}
END_TEST

START_TEST(hit)
{
	const struct mirror_region *a, *b;
	struct mirror_regcache_stats s;
	uint64_t at;

	setup();
	at = (uintptr_t)mem;
	a = get(2, 6, R | W);
	ck_assert_uint_eq(a->start, at + 2 * PAGE);
	ck_assert_uint_eq(a->end, at + 6 * PAGE);
	ck_assert_uint_eq(a->rights, R | W);
	ck_assert_ptr_eq(get(3, 4, R), a);
	ck_assert_ptr_eq(get(5, 6, W), a);
	ok(mirror_regcache_get(cache, at + 2 * PAGE + 1, at + 6 * PAGE - 1, R, &b));
	ck_assert_ptr_eq(a, b);
	s = stats();
	ck_assert_uint_eq(s.hits, 3);
	ck_assert_uint_eq(s.misses, 1);
	ck_assert_uint_eq(s.regions, 1);
	ck_assert_uint_eq(s.idle, 0);
	for (int i = 0; i < 4; i++)
		put(a);
	s = stats();
	ck_assert_uint_eq(s.idle, 1);
	ck_assert_uint_eq(s.bytes, 4 * PAGE);
	for (int i = 0; i < 100000; i++)
		touch(3, 5, R);
	ck_assert_uint_eq(stats().hits, 100003);
	ck_assert_uint_eq(device.n_registered, 1);
	ck_assert_uint_eq(device.n_deregistered, 0);
	finish();
}
END_TEST

static volatile char selector;

/* While this is on, a system call is the end of the test. */
static bool forbid_system_calls(bool on)
{
	static bool possible;

	selector = SYSCALL_DISPATCH_FILTER_ALLOW;
	if (on)
		possible = prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0,
				 &selector) == 0;
	if (on && possible)
		selector = SYSCALL_DISPATCH_FILTER_BLOCK;
	else if (possible)
		prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0);
	return possible;
}

static const struct mirror_region *seen;

START_TEST(no_system_call)
{
	uint64_t at;
	bool good = true;

	setup();
	seen = get(0, 16, R);
	at = (uintptr_t)mem;
	if (!forbid_system_calls(true))
		puts("# this kernel cannot forbid them");
	for (unsigned int i = 0; i < 10000; i++) {
		const struct mirror_region *region = NULL;

		good &= mirror_regcache_get(cache, at + i % 16 * PAGE, at + SIZE, R,
					    &region) == 0 && region == seen;
		mirror_regcache_put(cache, region);
	}
	forbid_system_calls(false);
	ck_assert(good);
	put(seen);
	finish();
}
END_TEST

/* Bytes are rounded to pages when they are registered. */
START_TEST(unaligned)
{
	const struct mirror_region *region;
	uint64_t at;

	setup();
	at = (uintptr_t)mem + 3 * PAGE;
	ok(mirror_regcache_get(cache, at + 17, at + PAGE + 1, R, &region));
	ck_assert_uint_eq(region->start, at);
	ck_assert_uint_eq(region->end, at + 2 * PAGE);
	put(region);
	finish();
}
END_TEST

START_TEST(rights)
{
	const struct mirror_region *r, *rw;

	setup();
	r = get(0, 2, R);
	ck_assert_ptr_eq(get(0, 2, R), r);
	put(r);
	rw = get(0, 1, W);
	ck_assert_ptr_ne(rw, r);
	ck_assert_uint_eq(rw->rights, R | W);
	ck_assert_uint_eq(rw->end, r->end);
	ck_assert_uint_eq(device.n_deregistered, 0);
	put(r);
	ck_assert_uint_eq(device.n_deregistered, 1);
	put(rw);
	/* the caller's own */
	touch(0, 1, 0x4200);
	ck_assert_uint_eq(device.last.rights, R | W | 0x4200);
	touch(0, 1, 0x0200 | R);
	ck_assert_uint_eq(device.n_registered, 3);
	ck_assert_uint_eq(stats().merged, 2);
	finish();
}
END_TEST

START_TEST(merge)
{
	const struct mirror_region *a, *b, *c;

	setup();
	a = get(0, 3, R);
	b = get(4, 6, W);
	touch(6, 8, R);		/* next to it, but not over it */
	c = get(2, 5, R);
	ck_assert_uint_eq(c->start, (uintptr_t)mem);
	ck_assert_uint_eq(c->end, (uintptr_t)mem + 6 * PAGE);
	ck_assert_uint_eq(c->rights, R | W);
	ck_assert_uint_eq(stats().merged, 2);
	/* found no more, but alive as long as somebody has them */
	ck_assert_ptr_eq(get(0, 1, R), c);
	put(c);
	device_check(&device, a);
	device_check(&device, b);
	ck_assert_uint_eq(device.n_deregistered, 0);
	put(a);
	ck_assert_uint_eq(device.n_deregistered, 1);
	put(b);
	ck_assert_uint_eq(device.n_deregistered, 2);
	put(c);
	ck_assert_uint_eq(device.n_deregistered, 2);
	ck_assert_ptr_eq(get(0, 6, R | W), c);
	put(c);
	finish();
}
END_TEST

START_TEST(no_merge)
{
	struct mirror_regcache_opts opts = MIRROR_REGCACHE_OPTS_INIT;
	const struct mirror_region *a, *b;

	opts.flags = MIRROR_REGCACHE_NO_MERGE;
	setup_with(0, &opts);
	a = get(0, 4, R);
	b = get(2, 6, W);
	ck_assert_uint_eq(b->start, (uintptr_t)mem + 2 * PAGE);
	ck_assert_uint_eq(b->end, (uintptr_t)mem + 6 * PAGE);
	ck_assert_uint_eq(b->rights, W);
	device_check(&device, a);
	ck_assert_uint_eq(device.n_deregistered, 0);
	put(a);
	ck_assert_uint_eq(device.n_deregistered, 1);
	ck_assert_ptr_eq(get(3, 4, W), b);
	put(b);
	put(b);
	touch(0, 1, R);		/* nothing is left of the first one */
	ck_assert_uint_eq(device.n_registered, 3);
	finish();
}
END_TEST

/* If all together cannot be registered, then what was asked for. */
START_TEST(merge_fails)
{
	const struct mirror_region *a, *b;

	setup();
	device.max_bytes = 4 * PAGE;
	a = get(0, 3, R);
	b = get(2, 5, R);
	ck_assert_uint_eq(b->start, (uintptr_t)mem + 2 * PAGE);
	ck_assert_uint_eq(b->end, (uintptr_t)mem + 5 * PAGE);
	device_check(&device, a);
	put(a);
	put(b);
	ck_assert_uint_eq(device.n_failed, 1);
	ck_assert_uint_eq(device.n_deregistered, 1);
	finish();
}
END_TEST

START_TEST(register_fails)
{
	const struct mirror_region *region = NULL;

	setup();
	device.max_bytes = 2 * PAGE;
	fails(try_get(0, 3, R, &region), ENOBUFS);
	ck_assert_ptr_null(region);
	touch(0, 2, R);
	fails(try_get(1, 4, R, &region), ENOBUFS);
	touch(0, 2, R);
	ck_assert_uint_eq(device.n_registered, 1);
	ck_assert_uint_eq(stats().hits, 1);
	finish();
}
END_TEST

/* ---- limits ---- */

START_TEST(limit_regions)
{
	struct mirror_regcache_opts opts = MIRROR_REGCACHE_OPTS_INIT;
	const struct mirror_region *held[4], *region = NULL;

	opts.max_regions = 4;
	setup_with(0, &opts);
	device.max_regions = 4;		/* checked whenever it is asked to register */
	for (unsigned int i = 0; i < 4; i++)
		touch(i, i + 1, R);
	touch(0, 1, R);			/* has a second chance */
	touch(4, 5, R);
	ck_assert_uint_eq(stats().evicted, 1);
	touch(0, 1, R);
	touch(2, 3, R);
	ck_assert_uint_eq(device.n_registered, 5);
	touch(1, 2, R);			/* that one went */
	ck_assert_uint_eq(device.n_registered, 6);
	ck_assert_int_eq(mirror_regcache_flush(cache), 4);
	ck_assert_int_eq(mirror_regcache_flush(cache), 0);
	ck_assert_uint_eq(stats().regions, 0);

	for (unsigned int i = 0; i < 4; i++)
		held[i] = get(i, i + 1, R);
	fails(try_get(4, 5, R, &region), ENOSPC);
	fails(try_get(0, 2, R, &region), ENOSPC);
	ck_assert_int_eq(mirror_regcache_flush(cache), 0);
	put(held[2]);
	touch(4, 5, R);
	put(held[0]);
	put(held[1]);
	put(held[3]);
	for (unsigned int i = 0; i < 2000; i++)
		touch(i * 7 % 16, i * 7 % 16 + 1, R);
	ck_assert_uint_eq(stats().regions, 4);
	finish();
}
END_TEST

START_TEST(limit_bytes)
{
	struct mirror_regcache_opts opts = MIRROR_REGCACHE_OPTS_INIT;
	const struct mirror_region *a, *region = NULL;

	opts.max_bytes = 8 * PAGE;
	setup_with(0, &opts);
	device.max_total = 8 * PAGE;
	fails(try_get(0, 9, R, &region), ENOSPC);
	touch(0, 4, R);
	touch(4, 8, R);
	touch(8, 12, R);		/* one goes */
	ck_assert_uint_eq(device.n_deregistered, 1);
	touch(2, 10, R);		/* with what it overlaps it would be too large */
	ck_assert_uint_eq(device.last.start, (uintptr_t)mem + 2 * PAGE);
	ck_assert_uint_eq(stats().bytes, 8 * PAGE);
	a = get(2, 3, R);
	fails(try_get(12, 13, R, &region), ENOSPC);
	put(a);
	touch(12, 13, R);
	ck_assert_uint_eq(stats().bytes, PAGE);
	finish();
}
END_TEST

/* One notifier serves many regions, and there is an end to how many there are. */
static unsigned int count_notifiers(void)
{
	struct mirror_stats s = { .size = sizeof(s) };

	ok(mirror_daemon_get_stats(ctx, &s));
	return (unsigned int)s.notifiers;
}

START_TEST(extents)
{
	unsigned int n = 1500;
	char *arena;

	setup();
	for (unsigned int i = 0; i < 16; i++)
		touch(i, i + 1, R);
	ck_assert_uint_eq(device.n_registered, 16);
	ck_assert_uint_eq(count_notifiers(), 1);
	ok(mirror_regcache_flush(cache));
	touch(0, 1, R);
	ck_assert_uint_eq(count_notifiers(), 1);

	arena = mmap(NULL, (n + 1) * BLOCK, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		     -1, 0);
	ck_assert_ptr_ne(arena, MAP_FAILED);
	for (unsigned int i = 0; i < n; i++) {
		const struct mirror_region *region;
		uint64_t at = (uintptr_t)arena + i * BLOCK;

		ok(mirror_regcache_get(cache, at, at + PAGE, R, &region));
		put(region);
		if (i % 3)	/* most extents are idle after this */
			ok(mirror_regcache_flush(cache));
	}
	ck_assert_uint_gt(count_notifiers(), 500);
	ck_assert_uint_le(count_notifiers(), 1024);
	for (unsigned int i = 0; i < n; i++) {
		const struct mirror_region *region;
		uint64_t at = (uintptr_t)arena + i * BLOCK;

		ok(mirror_regcache_get(cache, at, at + PAGE, R, &region));
		put(region);
	}
	ck_assert_uint_le(count_notifiers(), 1024);
	ck_assert_uint_ge(stats().regions, n);
	unmap(arena, (n + 1) * BLOCK);
	finish();
	ctx = open_ctx();
	ck_assert_uint_eq(count_notifiers(), 0);
	mirror_ctx_unref(ctx);
}
END_TEST

/* ---- several threads ---- */

static void *get_thread(void *data)
{
	const struct mirror_region *region = get(0, 4, R);

	(void)data;
	return (void *)(uintptr_t)region;
}

/* Both are in register_region at the same time; both get one and the same. */
START_TEST(same_miss)
{
	pthread_t threads[2];
	void *region[2];

	setup();
	pthread_barrier_init(&device.barrier, NULL, 2);
	device.meet = true;
	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, get_thread, NULL);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], &region[i]);
	ck_assert_ptr_eq(region[0], region[1]);
	put(region[0]);
	put(region[1]);
	ck_assert_uint_eq(device.n_registered, 2);
	ck_assert_uint_eq(device.n_deregistered, 1);
	ck_assert_uint_eq(stats().hits, 1);
	ck_assert_uint_eq(stats().misses, 1);
	finish();
}
END_TEST

static void *churn_thread(void *data)
{
	unsigned int x = (unsigned int)(uintptr_t)data;

	for (unsigned int i = 0; i < 20000; i++) {
		x = x * 1664525 + 1013904223;
		touch(x >> 16 & 7, (x >> 16 & 7) + 1 + (x >> 24 & 7), x >> 30 & 1 ? R : W);
		if (i % 1000 == 0)
			ok(mirror_regcache_flush(cache));
	}
	return NULL;
}

START_TEST(churn)
{
	struct mirror_regcache_opts opts = MIRROR_REGCACHE_OPTS_INIT;
	struct mirror_regcache_stats s;
	pthread_t threads[4];

	opts.max_regions = 8;
	setup_with(MIRROR_ATTACH_STRICT, &opts);
	device.max_regions = 8;
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, churn_thread, (void *)(i + 1));
	for (unsigned int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	s = stats();
	ck_assert_uint_eq(s.hits + s.misses, 4 * 20000);
	ck_assert_uint_eq(s.idle, s.regions);
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "lookup");

	tcase_add_test(tcase, refused);
	tcase_add_test(tcase, no_ring);
	tcase_add_test(tcase, hit);
	tcase_add_test(tcase, no_system_call);
	tcase_add_test(tcase, unaligned);
	tcase_add_test(tcase, rights);
	tcase_add_test(tcase, merge);
	tcase_add_test(tcase, no_merge);
	tcase_add_test(tcase, merge_fails);
	tcase_add_test(tcase, register_fails);
	tcase = harness_case(suite, "limits");
	tcase_add_test(tcase, limit_regions);
	tcase_add_test(tcase, limit_bytes);
	tcase_add_test(tcase, extents);
	tcase = harness_case(suite, "threads");
	tcase_add_test(tcase, same_miss);
	tcase_add_test(tcase, churn);
}

int main(void)
{
	return harness_main("regcache", fill);
}
