/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The registration cache when memory changes, and when something ends. */
#include <mirror/regcache.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include "cache-scene.h"

/* ---- events ---- */

START_TEST(unmap_invalidates)
{
	const struct mirror_region *region = NULL;

	setup();
	touch(0, 4);
	touch(8, 9);
	unmap(mem + PAGE, PAGE);
	fails(try_get(0, 4, &region), EFAULT);
	ck_assert_uint_eq(device.n_deregistered, 1);
	touch(0, 1);		/* of what is left, a new one */
	ck_assert_uint_eq(device.last.end, (uintptr_t)mem + PAGE);
	ck_assert_ptr_eq(map_over(mem, 4 * PAGE), mem);
	touch(0, 4);
	ck_assert_uint_eq(device.n_registered, 4);
	ck_assert_uint_eq(device.n_deregistered, 2);
	touch(8, 9);		/* another page, the same stripe of the gate */
	ck_assert_uint_eq(device.n_registered, 4);
	ck_assert_uint_eq(stats().invalidated, 2);
	finish();
}
END_TEST

/* Every page at once: large leaves of the radix, and many regions by one event. */
START_TEST(many_by_one_event)
{
	const struct mirror_region *region;
	char *large = map_pages(4 * BLOCK);
	uint64_t at = (uintptr_t)large;

	setup();
	ok(mirror_regcache_get(cache, at, at + 2 * BLOCK + PAGE, R, &region));
	put(region);
	for (unsigned int i = 1; i < 512; i++) {
		ok(mirror_regcache_get(cache, at + 2 * BLOCK + i * PAGE,
				       at + 2 * BLOCK + (i + 1) * PAGE, R, &region));
		put(region);
	}
	ck_assert_uint_eq(stats().regions, 512);
	unmap(large + BLOCK, 3 * BLOCK);
	settle(ctx);
	while (mirror_dispatch(ctx) > 0)
		;
	ck_assert_uint_eq(stats().invalidated, 512);
	ck_assert_uint_eq(device.n_deregistered, 512);
	ok(mirror_regcache_get(cache, at, at + BLOCK, R, &region));
	put(region);
	fails(mirror_regcache_get(cache, at, at + BLOCK + PAGE, R, &region), EFAULT);
	finish();
}
END_TEST

static const struct mirror_region *get_at(const char *p, size_t size)
{
	const struct mirror_region *region = NULL;

	ok(mirror_regcache_get(cache, (uintptr_t)p, (uintptr_t)p + size, R, &region));
	device_check(&device, region);
	return region;
}

/* A large region is looked at only where it is wanted. */
START_TEST(large_region)
{
	char *large = map_pages(8 * BLOCK);
	const struct mirror_region *region, *other;
	struct mirror_ctx_stats s = { .sz = sizeof(s) };
	uint64_t n_retries;

	setup();
	region = get_at(large + PAGE, 8 * BLOCK - PAGE);
	ok(mirror_ctx_get_stats(ctx, &s));
	n_retries = s.retries;
	for (unsigned int i = 0; i < 64; i++) {
		ck_assert_ptr_eq(get_at(large + i * (BLOCK / 8) + PAGE, PAGE), region);
		put(region);
		ck_assert_ptr_eq(get_at(large + PAGE, (i + 1) * (BLOCK / 8) - PAGE), region);
		put(region);
	}
	ok(mirror_ctx_get_stats(ctx, &s));
	ck_assert_uint_eq(s.retries, n_retries);

	/* nothing is told yet, so the rest is as it was */
	ck_assert_int_eq(madvise(large + 5 * BLOCK, PAGE, MADV_DONTNEED), 0);
	settle(ctx);
	put(get_at(large + 6 * BLOCK, PAGE));
	put(get_at(large + PAGE, 5 * BLOCK - PAGE));
	ck_assert_uint_eq(device.n_registered, 1);
	other = get_at(large + 5 * BLOCK + PAGE, PAGE);
	ck_assert_ptr_ne(other, region);
	ck_assert_uint_eq(device.n_registered, 2);
	put(other);
	put(region);
	ck_assert_uint_eq(device.n_deregistered, 1);
	put(get_at(large + 6 * BLOCK, PAGE));
	ck_assert_uint_eq(device.n_registered, 3);
	finish();
}
END_TEST

START_TEST(dontneed_invalidates)
{
	setup();
	for (unsigned int i = 1; i <= 20; i++) {
		touch(0, 4);
		ck_assert_uint_eq(device.n_registered, i);
		dontneed(3, 5);
	}
	finish();
}
END_TEST

START_TEST(mremap_invalidates)
{
	const struct mirror_region *region = NULL;
	char *to = map_pages(SIZE);

	setup();
	touch(0, 4);
	ck_assert_ptr_eq(mremap(mem, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	fails(try_get(0, 4, &region), EFAULT);
	ok(mirror_regcache_get(cache, (uintptr_t)to, (uintptr_t)to + PAGE, R, &region));
	put(region);
	ck_assert_uint_eq(device.n_deregistered, 1);
	ck_assert_uint_eq(device.n_registered, 2);
	finish();
}
END_TEST

/* Registered memory is pinned: a child of fork() gets the copy. */
START_TEST(fork_leaves_it)
{
	pid_t pid;

	setup();
	touch(0, 4);
	pid = fork();
	if (pid == 0)
		_exit(0);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	mem[0] = 2;
	settle(ctx);
	touch(0, 4);
	ck_assert_uint_eq(device.n_registered, 1);
	finish();
}
END_TEST

/* Not found any more, but alive until its last user gives it back. */
START_TEST(invalid_in_use)
{
	const struct mirror_region *a, *b;

	setup();
	a = get(0, 4);
	ck_assert_ptr_eq(get(1, 2), a);
	dontneed(0, 1);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	b = get(0, 4);
	ck_assert_ptr_ne(a, b);
	ck_assert_uint_eq(stats().regions, 2);
	ck_assert_uint_eq(stats().idle, 0);
	put(a);
	device_check(&device, a);
	ck_assert_uint_eq(device.n_deregistered, 0);
	put(a);
	ck_assert_uint_eq(device.n_deregistered, 1);
	put(b);
	ck_assert_uint_eq(device.n_deregistered, 1);
	finish();
}
END_TEST

/* Who only dispatches deregisters as well. */
START_TEST(dispatch_deregisters)
{
	setup();
	touch(0, 4);
	unmap(mem, PAGE);
	while (device.n_deregistered == 0)
		ok(mirror_wait(ctx, -1));
	ck_assert_uint_eq(device.n_deregistered, 1);
	touch(4, 8);
	unmap(mem + 4 * PAGE, PAGE);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert_uint_eq(device.n_deregistered, 2);
	finish();
}
END_TEST

/*
 * Nobody is told of that.  But once it is looked at again, for whatever reason, the
 * region must not be taken for good because nobody was told.
 */
START_TEST(unwatched_change)
{
	const struct mirror_region *region = NULL;
	char *p;
	int id;

	setup();
	id = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);
	ck_assert_int_ge(id, 0);
	unmap(mem, PAGE);
	p = shmat(id, mem, 0);
	shmctl(id, IPC_RMID, NULL);
	ck_assert_ptr_eq(p, mem);
	touch(0, 1);
	touch(2, 3);
	ck_assert_int_eq(shmdt(p), 0);
	dontneed(2, 3);
	fails(try_get(0, 1, &region), EFAULT);
	ck_assert_uint_eq(device.n_deregistered, 2);
	ck_assert_ptr_eq(map_over(mem, PAGE), mem);
	touch(0, 1);
	ck_assert_uint_eq(device.n_registered, 3);
	finish();
}
END_TEST

START_TEST(overflow)
{
	char *far_off = map_pages(SIZE);
	const struct mirror_region *region;
	uint64_t at = (uintptr_t)far_off;

	setup_with(0, 4);
	touch(0, 4);
	ok(mirror_regcache_get(cache, at, at + PAGE, R, &region));
	put(region);
	for (unsigned int i = 0; i < 100; i++)
		dontneed(8, 9);
	touch(0, 4);
	ck_assert_uint_eq(device.n_registered, 3);
	ck_assert_uint_eq(device.n_deregistered, 2);
	ck_assert_uint_eq(stats().invalidated, 2);
	finish();
}
END_TEST

/* Two libraries in one process. */
START_TEST(two_contexts)
{
	struct mirror_ctx *other_ctx;
	struct mirror_target *other_target;
	struct mirror_regcache *other, *first;
	struct device other_device = { .max_regions = 0 };

	setup();
	other_ctx = open_ctx();
	other_target = attach_self(other_ctx, MIRROR_ATTACH_STRICT);
	other = device_cache(&other_device, other_target, NULL);
	first = cache;
	for (unsigned int i = 1; i <= 10; i++) {
		touch(0, 4);
		cache = other;
		touch(2, 6);
		ck_assert_uint_eq(device.n_registered, i);
		ck_assert_uint_eq(other_device.n_registered, i);
		dontneed(3, 4);
		cache = first;
	}
	mirror_regcache_free(other);
	ck_assert_uint_eq(other_device.n_deregistered, 10);
	mirror_target_unref(other_target);
	mirror_ctx_unref(other_ctx);
	touch(0, 4);
	finish();
}
END_TEST

/* ---- ends ---- */

static const struct mirror_region *in_use;

static void in_child(struct peer *me)
{
	const struct mirror_region *region = NULL;

	fails(try_get(0, 4, &region), ECHILD);
	fails(try_get(8, 9, &region), ECHILD);
	fails(mirror_regcache_flush(cache), ECHILD);
	put(in_use);
	unmap(mem, PAGE);
	cache = mirror_regcache_free(cache);
	ck_assert_uint_eq(device.n_registered, 2);
	ck_assert_uint_eq(device.n_deregistered, 0);
	target = mirror_target_unref(target);
	ctx = mirror_ctx_unref(ctx);
	peer_tell(me, 1);
}

START_TEST(fork_child)
{
	struct peer peer;

	setup();
	in_use = get(0, 4);
	touch(6, 7);
	peer_start(&peer, in_child);
	ck_assert_uint_eq(peer_hear(&peer), 1);
	peer_end(&peer);
	/* the parent has noticed nothing */
	ck_assert_ptr_eq(get(0, 4), in_use);
	put(in_use);
	put(in_use);
	ck_assert_uint_eq(device.n_registered, 2);
	finish();
}
END_TEST

static pid_t forked = -1;

static void fork_inside(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	(void)n;
	(void)ev;
	(void)userdata;
	if (forked < 0)
		forked = fork();
}

/* The child comes out of the parent's call of get. */
START_TEST(fork_in_callback)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = fork_inside };
	const struct mirror_region *region = NULL;
	struct mirror_notifier *n;
	int r, status;

	setup();
	ok(mirror_notifier_insert(&n, target, (uintptr_t)mem, (uintptr_t)mem + SIZE, &ops, NULL));
	in_use = get(0, 4);
	dontneed(0, 1);
	r = try_get(0, 8, &region);
	if (forked == 0) {
		put(in_use);
		mirror_regcache_free(cache);
		mirror_notifier_remove(n);
		mirror_target_unref(target);
		mirror_ctx_unref(ctx);
		_exit(r == -ECHILD && device.n_deregistered == 0 ? 0 : 1);
	}
	ok(r);
	ck_assert_int_gt(forked, 0);
	ck_assert_int_eq(waitpid(forked, &status, 0), forked);
	ck_assert_int_eq(status, 0);
	put(region);
	put(in_use);
	ck_assert_uint_eq(device.n_deregistered, 1);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

START_TEST(daemon_dies)
{
	const struct mirror_region *a, *region = NULL;

	setup();
	a = get(0, 4);
	touch(8, 9);
	daemon_kill(SIGKILL);
	fails(try_get(0, 4, &region), EPIPE);
	fails(try_get(10, 11, &region), EPIPE);
	ck_assert_uint_eq(device.n_deregistered, 1);
	put(a);
	ck_assert_uint_eq(device.n_deregistered, 2);
	ck_assert_int_eq(mirror_regcache_flush(cache), 0);
	unmap(mem, SIZE);
	ck_assert_uint_eq(stats().regions, 0);
	finish();
}
END_TEST

static void other_process(struct peer *me)
{
	char *p = map_pages(SIZE);

	ctx = open_ctx_with(MIRROR_OPEN_NO_RING, 0);
	target = attach_self(ctx, 0);
	peer_tell(me, (uintptr_t)p);
	peer_hear(me);
	unmap(p, PAGE);
	peer_tell(me, 1);
	if (peer_hear(me))	/* in the middle of its life */
		execl("/bin/cat", "cat", NULL);
	_exit(0);
}

static void release_of_other(uint64_t exec)
{
	const struct mirror_region *region = NULL;
	struct peer peer;

	peer_start(&peer, other_process);
	ctx = open_ctx();
	mem = (char *)(uintptr_t)peer_hear(&peer);
	ok(mirror_target_attach(&target, ctx, peer.pidfd, -1, NULL));
	cache = device_cache(&device, target, NULL);
	touch(0, 2);
	touch(4, 6);
	in_use = get(8, 10);
	peer_tell(&peer, 1);
	peer_hear(&peer);
	fails(try_get(0, 2, &region), EFAULT);
	touch(4, 6);
	ck_assert_uint_eq(device.n_registered, 3);
	ck_assert_uint_eq(device.n_deregistered, 1);
	peer_tell(&peer, exec);
	while (device.n_deregistered < 2)
		ok(mirror_wait(ctx, -1));
	fails(try_get(4, 6, &region), ESRCH);
	ck_assert_uint_eq(stats().regions, 1);
	put(in_use);
	kill(peer.pid, SIGKILL);
	waitpid(peer.pid, NULL, 0);
	finish();
}

START_TEST(other_exits)
{
	release_of_other(0);
}
END_TEST

START_TEST(other_executes)
{
	release_of_other(1);
}
END_TEST

/* To exceed that limit would be the end of this process. */
START_TEST(no_file_size)
{
	struct mirror_regcache *none = NULL;
	struct rlimit before, limit;

	setup();
	ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
	limit = before;
	limit.rlim_cur = 1 << 20;
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	fails(mirror_regcache_new(&none, target, &device_ops, NULL, NULL), EFBIG);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
	ck_assert_ptr_null(none);
	finish();
}
END_TEST

START_TEST(no_descriptors)
{
	struct mirror_regcache *none = NULL;
	struct rlimit before, limit;

	setup();
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	limit = before;
	limit.rlim_cur = 3;	/* less than there are */
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	fails(mirror_regcache_new(&none, target, &device_ops, NULL, NULL), EMFILE);
	touch(0, 1);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	ck_assert_ptr_null(none);
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "events");

	tcase_add_test(tcase, unmap_invalidates);
	tcase_add_test(tcase, many_by_one_event);
	tcase_add_test(tcase, large_region);
	tcase_add_test(tcase, dontneed_invalidates);
	tcase_add_test(tcase, mremap_invalidates);
	tcase_add_test(tcase, fork_leaves_it);
	tcase_add_test(tcase, invalid_in_use);
	tcase_add_test(tcase, dispatch_deregisters);
	tcase_add_test(tcase, unwatched_change);
	tcase_add_test(tcase, overflow);
	tcase_add_test(tcase, two_contexts);
	tcase = harness_case(suite, "ends");
	tcase_add_test(tcase, fork_child);
	tcase_add_test(tcase, fork_in_callback);
	tcase_add_test(tcase, daemon_dies);
	tcase_add_test(tcase, other_exits);
	tcase_add_test(tcase, other_executes);
	tcase_add_test(tcase, no_file_size);
	tcase_add_test(tcase, no_descriptors);
}

int main(void)
{
	return harness_main("regcache-change", fill);
}
