/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The registration cache and the functions of its caller. */
#include <mirror/regcache.h>
#include <pthread.h>
#include <stdatomic.h>
#include "cache-scene.h"

/* ---- they change memory ---- */

static char *bounce;		/* watched, and unmapped by deregistering */
static atomic_int n_bounced;

static void unmap_bounce(struct device *d, const struct mirror_region *region)
{
	int i = atomic_fetch_add(&n_bounced, 1);

	(void)d;
	(void)region;
	unmap(bounce + i % 1024 * (int)PAGE, PAGE);
	ck_assert_ptr_eq(map_over(bounce + i % 1024 * (int)PAGE, PAGE),
			 bounce + i % 1024 * (int)PAGE);
}

static atomic_int stop;

static void *get_thread(void *data)
{
	const struct mirror_region *region;
	unsigned int at = 0;
	int r;

	(void)data;
	while (!atomic_load(&stop)) {
		at = (at + 5) % 13;
		r = try_get(at, at + 3, &region);
		ck_assert(r == 0 || r == -EAGAIN);
		if (r == 0)
			put(region);
	}
	return NULL;
}

static void *dispatch_thread(void *data)
{
	(void)data;
	while (!atomic_load(&stop))
		ok(mirror_wait(ctx, 1));
	return NULL;
}

/*
 * What deregistering does waits for the daemon.  If it were done under a lock that
 * others need to let the daemon's events through, all of these would stand still.
 */
START_TEST(deregister_unmaps)
{
	const struct mirror_region *region;
	pthread_t threads[3];
	uint64_t at;

	setup_with(MIRROR_ATTACH_STRICT, 0);
	bounce = map_pages(1024 * PAGE);
	at = (uintptr_t)bounce;
	device.on_deregister = unmap_bounce;
	ok(mirror_target_arm(target, at, at + 1024 * PAGE));
	pthread_create(&threads[0], NULL, get_thread, NULL);
	pthread_create(&threads[1], NULL, get_thread, NULL);
	pthread_create(&threads[2], NULL, dispatch_thread, NULL);
	for (unsigned int i = 0; i < 2000; i++) {
		region = get(i % 8, i % 8 + 8);
		dontneed(i % 16, i % 16 + 1);
		put(region);
		if (i % 64 == 0)
			ok(mirror_regcache_flush(cache));
	}
	atomic_store(&stop, 1);
	for (unsigned int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	ok(mirror_regcache_flush(cache));
	ck_assert_uint_eq(stats().regions, 0);
	ck_assert_uint_ge(device.n_deregistered, 1000);
	finish();
}
END_TEST

static bool inside;
static unsigned int n_others;

static void *other_thread(void *data)
{
	(void)data;
	touch(12, 13);
	dontneed(12, 13);
	touch(12, 14);
	ok(mirror_dispatch(ctx));
	return NULL;
}

/* A thread that needs every lock of the library's. */
static void run_another(struct device *d, const struct mirror_region *region)
{
	pthread_t thread;

	(void)d;
	(void)region;
	if (inside)
		return;
	inside = true;
	pthread_create(&thread, NULL, other_thread, NULL);
	pthread_join(thread, NULL);
	inside = false;
	n_others++;
}

START_TEST(no_lock_is_held)
{
	const struct mirror_region *region;

	setup();
	device.on_deregister = run_another;
	region = get(0, 1);
	dontneed(0, 1);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert_uint_eq(n_others, 0);
	put(region);
	ck_assert_uint_eq(n_others, 1);
	touch(0, 1);
	dontneed(0, 1);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert_uint_eq(n_others, 2);
	touch(0, 1);
	dontneed(0, 1);
	touch(0, 1);		/* by get */
	ck_assert_uint_eq(n_others, 3);
	ok(mirror_regcache_flush(cache));
	ck_assert_uint_ge(n_others, 4);
	device.on_deregister = NULL;
	device.on_register = run_another;
	n_others = 0;
	touch(4, 5);
	ck_assert_uint_eq(n_others, 1);
	device.on_register = NULL;
	finish();
}
END_TEST

static void map_near_by(struct device *d, const struct mirror_region *region)
{
	(void)d;
	(void)region;
	/* watched, and in the same stripe of the gate as the region */
	ck_assert_ptr_eq(map_over(mem + 15 * PAGE, PAGE), mem + 15 * PAGE);
	ck_assert_ptr_ne(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
			 MAP_FAILED);
}

/* That is no reason to register again. */
START_TEST(register_maps)
{
	setup();
	touch(14, 16);
	device.on_register = map_near_by;
	for (unsigned int i = 0; i < 12; i++)
		touch(i, i + 1);
	ck_assert_uint_eq(device.n_registered, 13);
	for (unsigned int i = 0; i < 12; i++)
		touch(i, i + 1);
	ck_assert_uint_eq(device.n_registered, 13);
	ck_assert_uint_eq(stats().invalidated, 1);
	finish();
}
END_TEST

static unsigned int n_bad;

static void change_itself(struct device *d, const struct mirror_region *region)
{
	char *p = (char *)(uintptr_t)region->start;

	(void)d;
	if (!n_bad)
		return;
	n_bad--;
	ck_assert_ptr_eq(map_over(p, PAGE), p);
}

/* Registered, but of what was there before. */
START_TEST(register_races)
{
	const struct mirror_region *region = NULL;

	setup();
	device.on_register = change_itself;
	n_bad = 3;
	touch(0, 2);
	ck_assert_uint_eq(device.n_registered, 4);
	ck_assert_uint_eq(device.n_deregistered, 3);
	ck_assert_uint_eq(stats().misses, 1);
	n_bad = 1000000;
	fails(try_get(4, 6, &region), EAGAIN);
	ck_assert_uint_eq(device.n_registered, device.n_deregistered + 1);
	finish();
}
END_TEST

/* ---- callbacks of notifiers of the caller's own ---- */

static const struct mirror_region *in_use;
static int get_in_callback;

static void put_inside(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	const struct mirror_region *region;

	(void)n;
	(void)ev;
	(void)userdata;
	put(in_use);
	/* not under a lock of the library's */
	ck_assert_uint_eq(device.n_deregistered, 0);
	get_in_callback = try_get(8, 9, &region);
}

START_TEST(put_in_callback)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = put_inside };
	struct mirror_notifier *n;

	setup();
	in_use = get(0, 4);
	ok(mirror_notifier_insert(&n, target, (uintptr_t)mem, (uintptr_t)mem + SIZE, &ops, NULL));
	dontneed(0, 1);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert_uint_eq(device.n_deregistered, 1);
	ck_assert_int_eq(get_in_callback, -EDEADLK);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "functions");

	tcase_add_test(tcase, deregister_unmaps);
	tcase_add_test(tcase, no_lock_is_held);
	tcase_add_test(tcase, register_maps);
	tcase_add_test(tcase, register_races);
	tcase_add_test(tcase, put_in_callback);
}

int main(void)
{
	return harness_main("regcache-calls", fill);
}
