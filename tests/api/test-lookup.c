/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Lookups, and how strong they are. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include "harness.h"

#define SIZE (16 * PAGE)

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static char *mem;
static struct log seen;

static void setup_with(uint32_t attach_flags)
{
	ctx = open_ctx();
	target = attach_self(ctx, attach_flags);
	mem = map_pages(SIZE);
}

static void setup(void)
{
	setup_with(0);
}

static void finish(void)
{
	target = mirror_target_unref(target);
	ctx = mirror_ctx_unref(ctx);
}

START_TEST(begin_refused)
{
	struct mirror_notifier *n;
	uint64_t v = 77;

	setup();
	n = watch(target, mem, SIZE, &seen);
	fails(begin(n, mem - PAGE, PAGE, &v), EINVAL);
	fails(begin(n, mem, SIZE + PAGE, &v), EINVAL);
	fails(begin(n, mem + 1, PAGE, &v), EINVAL);
	fails(begin(n, mem, 0, &v), EINVAL);
	ck_assert_uint_eq(v, 77);
	ok(begin(n, mem, SIZE, &v));
	ck_assert_int_eq(retry(n, mem, SIZE, v), 0);
	ck_assert_int_eq(retry(n, mem - PAGE, PAGE, v), 1);
	ck_assert_int_eq(retry(n, mem, SIZE + PAGE, v), 1);
	ck_assert_int_eq(retry(n, mem, 0, v), 1);
	ck_assert_int_eq(retry(n, mem, SIZE, v + 1), 1);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

START_TEST(munmap_is_told)
{
	struct mirror_notifier *n;
	uint64_t v;

	setup();
	n = watch(target, mem, SIZE, &seen);
	ok(begin(n, mem, SIZE, &v));
	unmap(mem + PAGE, 2 * PAGE);
	ck_assert_int_eq(retry(n, mem, SIZE, v), 1);
	ck_assert_uint_eq(seen.n, 0);
	fails(begin(n, mem, SIZE, &v), EFAULT);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], 1);
	ck_assert(log_covers(&seen, MIRROR_EVENT_UNMAP, mem + PAGE, 2 * PAGE));
	ck_assert_uint_eq(seen.last.target, mirror_target_get_id(target));
	ok(begin(n, mem, PAGE, &v));
	ck_assert_int_eq(retry(n, mem, PAGE, v), 0);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

START_TEST(dontneed_is_told)
{
	struct mirror_notifier *n;
	uint64_t v;

	setup();
	n = watch(target, mem, SIZE, &seen);
	for (int i = 0; i < 100; i++) {
		ok(begin(n, mem, SIZE, &v));
		ck_assert_int_eq(madvise(mem, PAGE, MADV_DONTNEED), 0);
		ck_assert_int_eq(retry(n, mem, SIZE, v), 1);
		ok(begin(n, mem, SIZE, &v));
		ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_CLEAR], (unsigned int)i + 1);
		ck_assert_int_eq(retry(n, mem, SIZE, v), 0);
	}
	mirror_notifier_remove(n);
	finish();
}
END_TEST

START_TEST(map_fixed_is_armed_again)
{
	struct mirror_notifier *n;
	uint64_t v;

	setup();
	n = watch(target, mem, SIZE, &seen);
	for (unsigned int i = 0; i < 3000; i++) {
		ok(begin(n, mem, SIZE, &v));
		ck_assert_ptr_eq(map_over(mem, SIZE), mem);
		ck_assert_int_eq(retry(n, mem, SIZE, v), 1);
		ok(begin(n, mem, SIZE, &v));
		ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], i + 1);
		ck_assert_int_eq(retry(n, mem, SIZE, v), 0);
	}
	mirror_notifier_remove(n);
	finish();
}
END_TEST

START_TEST(mremap_is_told)
{
	struct mirror_notifier *n;
	uint64_t v;
	char *to;

	setup();
	to = map_pages(SIZE);
	unmap(to, SIZE);
	n = watch(target, mem, SIZE, &seen);
	ok(begin(n, mem, SIZE, &v));
	ck_assert_ptr_eq(mremap(mem, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	ck_assert_int_eq(retry(n, mem, SIZE, v), 1);
	fails(begin(n, mem, SIZE, &v), EFAULT);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_REMAP], 1);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], 1);
	ck_assert_uint_eq(seen.first.arg.remap.to, (uintptr_t)to);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

START_TEST(unrelated_changes)
{
	struct mirror_notifier *n, *other;
	char *far_off;
	uint64_t v;

	setup();
	far_off = map_pages(2 * BLOCK);
	n = watch(target, mem, SIZE, &seen);
	other = watch(target, far_off, 2 * BLOCK, &seen);
	ok(begin(n, mem, SIZE, &v));
	unmap(far_off + BLOCK, BLOCK);
	settle(ctx);	/* until its range is known it could be any */
	ck_assert_int_eq(retry(n, mem, SIZE, v), 0);
	ck_assert_int_eq(mirror_dispatch(ctx), 1);
	mirror_notifier_remove(n);
	mirror_notifier_remove(other);
	finish();
}
END_TEST

/* More blocks than the gate has stripes: each of them must count. */
START_TEST(huge_range)
{
	size_t size = 2100 * BLOCK;
	struct mirror_notifier *n;
	uint64_t v;
	char *p;

	setup();
	p = mmap(NULL, size + BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(p, MAP_FAILED);
	p += BLOCK - (uintptr_t)p % BLOCK;
	n = watch(target, p, size, &seen);
	for (size_t i = 0; i < 2100; i += 3) {
		ok(begin(n, p, size, &v));
		ck_assert_int_eq(retry(n, p, size, v), 0);
		ck_assert_ptr_eq(map_over(p + i * BLOCK, PAGE), p + i * BLOCK);
		ck_assert_int_eq(retry(n, p, size, v), 1);
	}
	mirror_notifier_remove(n);
	finish();
}
END_TEST

/* One change of very much moves every stripe of it. */
START_TEST(huge_change)
{
	static uint64_t v[1100];
	size_t size = ARRAY_LENGTH(v) * BLOCK;
	struct mirror_notifier *n;
	char *p;

	setup();
	p = mmap(NULL, size + 2 * BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(p, MAP_FAILED);
	/* not at a multiple of what all stripes together cover */
	p += BLOCK - (uintptr_t)p % BLOCK;
	if ((uintptr_t)p % (1024 * BLOCK) == 0)
		p += BLOCK;
	n = watch(target, p, size, &seen);
	for (size_t i = 0; i < ARRAY_LENGTH(v); i++)
		ok(begin(n, p + i * BLOCK, PAGE, &v[i]));
	unmap(p, size);
	for (size_t i = 0; i < ARRAY_LENGTH(v); i++)
		ck_assert_int_eq(retry(n, p + i * BLOCK, PAGE, v[i]), 1);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

START_TEST(cannot_be_watched)
{
	struct mirror_notifier *n;
	unsigned long vdso = 0;
	char line[256];
	uint64_t v;
	FILE *maps;

	setup();
	maps = fopen("/proc/self/maps", "re");
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "[vdso]"))
			sscanf(line, "%lx", &vdso);
	fclose(maps);
	ck_assert_uint_ne(vdso, 0);
	n = watch(target, (void *)vdso, PAGE, &seen);
	fails(begin(n, (void *)vdso, PAGE, &v), EOPNOTSUPP);
	fails(mirror_target_arm(target, vdso, vdso + PAGE), EOPNOTSUPP);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

/* ---- how strong ---- */

#define LARGE (128UL << 20)

static char *large;

static void *drop_thread(void *data)
{
	(void)data;
	ck_assert_int_eq(madvise(large, LARGE, MADV_DONTNEED), 0);
	return NULL;
}

/*
 * CLEAR is told before it happens.  Once it is known to have begun, the last page
 * is there for a while still; who resolved it then would be wrong for ever.
 */
START_TEST(begin_waits_for_the_end)
{
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops), .flags = MIRROR_NOTIFIER_END, .invalidate = log_event,
	};
	struct mirror_notifier *n;
	pthread_t thread;
	char *last;
	uint64_t v;

	setup();
	if (mirror_target_get_guarantee(target, MIRROR_EVENT_CLEAR) < MIRROR_GUARANTEE_ORDERED) {
		finish();
		return;
	}
	large = map_pages(LARGE);
	last = large + LARGE - PAGE;
	ok(mirror_notifier_insert(&n, target, (uintptr_t)large, (uintptr_t)large + LARGE, &ops,
				  &seen));
	ok(begin(n, last, PAGE, &v));
	ck_assert_int_eq(*(volatile char *)last, 1);
	pthread_create(&thread, NULL, drop_thread, NULL);
	while (!retry(n, last, PAGE, v))
		;
	ok(begin(n, last, PAGE, &v));
	ck_assert_int_eq(*(volatile char *)last, 0);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_CLEAR], 2);
	ck_assert(seen.last.flags & MIRROR_EVENT_F_END);
	pthread_join(thread, NULL);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

static atomic_ulong published;
static atomic_int stop;

/*
 * Puts a new page in place of the old one, in it a number that only grows, and
 * says which number a lookup that begins from now on must at least find.
 */
static void *change_thread(void *data)
{
	static char *fresh;

	(void)data;
	for (uint64_t i = 2; !atomic_load(&stop); i++) {
		fresh = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
		*(volatile uint64_t *)fresh = i;
		if (mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, mem) != mem)
			abort();
		atomic_store(&published, i);
	}
	return NULL;
}

/*
 * @strict: what the processor sees at the address is in effect, published or not,
 * so a lookup that begins now must find nothing older.
 */
static void look_up_against(unsigned int n_lookups, bool strict)
{
	struct mirror_notifier *n = watch(target, mem, PAGE, &seen);
	uint64_t cached = 0, version = 0, expected;
	pthread_t thread;
	bool valid = false;
	int r;

	*(volatile uint64_t *)mem = 1;
	pthread_create(&thread, NULL, change_thread, NULL);
	for (unsigned int i = 0; i < n_lookups || atomic_load(&published) < 500; i++) {
		expected = strict ? *(volatile uint64_t *)mem : atomic_load(&published);
		while (!valid || retry(n, mem, PAGE, version)) {
			valid = false;
			r = begin(n, mem, PAGE, &version);
			if (r == -EFAULT)	/* between two mappings */
				continue;
			ok(r);
			cached = *(volatile uint64_t *)mem;
			valid = true;
		}
		ck_assert_msg(cached >= expected, "lookup gave %lu, but %lu had been published",
			      (unsigned long)cached, (unsigned long)expected);
	}
	atomic_store(&stop, 1);
	pthread_join(thread, NULL);
	mirror_notifier_remove(n);
}

START_TEST(lookups_are_ordered)
{
	setup();
	look_up_against(20000, false);
	finish();
}
END_TEST

START_TEST(lookups_are_ordered_strict)
{
	setup_with(MIRROR_ATTACH_STRICT);
	look_up_against(20000, true);
	finish();
}
END_TEST

static pid_t unmapper_tid;

static void *blocked_unmap_thread(void *data)
{
	(void)data;
	__atomic_store_n(&unmapper_tid, gettid(), __ATOMIC_SEQ_CST);
	unmap(mem, PAGE);
	return NULL;
}

/* The daemon is stopped, so that the change has happened and nobody was told. */
START_TEST(strict_knows_before_the_daemon)
{
	struct mirror_target *strict;
	struct mirror_notifier *n, *m;
	uint64_t v, w;
	pthread_t thread;

	setup();
	strict = attach_self(ctx, MIRROR_ATTACH_STRICT);
	ck_assert_int_eq(mirror_target_get_guarantee(target, MIRROR_EVENT_UNMAP),
			 MIRROR_GUARANTEE_ORDERED);
	ck_assert_int_eq(mirror_target_get_guarantee(strict, MIRROR_EVENT_UNMAP),
			 MIRROR_GUARANTEE_STRICT);
	n = watch(target, mem, SIZE, &seen);
	m = watch(strict, mem, SIZE, &seen);
	ok(begin(n, mem, PAGE, &v));
	ok(begin(m, mem, PAGE, &w));
	daemon_kill(SIGSTOP);
	pthread_create(&thread, NULL, blocked_unmap_thread, NULL);
	while (!__atomic_load_n(&unmapper_tid, __ATOMIC_SEQ_CST))
		sched_yield();
	ck_assert(wait_blocked(unmapper_tid));
	ck_assert_int_eq(retry(n, mem, PAGE, v), 0);	/* ORDERED promises nothing yet */
	ck_assert_int_eq(retry(m, mem, PAGE, w), 1);
	fails(begin(m, mem, PAGE, &w), EAGAIN);	/* after a second */
	daemon_kill(SIGCONT);
	pthread_join(thread, NULL);
	ck_assert_int_eq(retry(n, mem, PAGE, v), 1);
	fails(begin(m, mem, PAGE, &w), EFAULT);
	mirror_notifier_remove(n);
	mirror_notifier_remove(m);
	mirror_target_unref(strict);
	finish();
}
END_TEST

START_TEST(stats_count)
{
	struct mirror_ctx_stats stats = { .sz = sizeof(stats) };
	struct mirror_notifier *n;
	uint64_t v;

	setup();
	n = watch(target, mem, SIZE, &seen);
	ok(begin(n, mem, SIZE, &v));
	unmap(mem, PAGE);
	ck_assert_int_eq(retry(n, mem, SIZE, v), 1);
	fails(begin(n, mem, SIZE, &v), EFAULT);
	ok(mirror_ctx_get_stats(ctx, &stats));
	ck_assert_uint_eq(stats.lookups_begun, 2);
	ck_assert_uint_eq(stats.retries, 1);
	ck_assert_uint_eq(stats.records, 1);
	ck_assert_uint_ge(stats.armed, 1);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

#define MANY (128UL << 20)

static void *clear_many(void *data)
{
	char *many = data;

	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);	/* who looks is faster */
	/* the first page is watched, so that there is an event, and this is not */
	madvise(many + PAGE, MANY - PAGE, MADV_DONTNEED);
	return NULL;
}

static uint64_t n_events(void)
{
	struct mirror_stats stats = { .size = sizeof(stats) };

	ok(mirror_daemon_get_stats(ctx, &stats));
	return stats.events;
}

/* The pages that are found are about to go, and nobody will tell. */
START_TEST(clear_under_way)
{
	struct mirror_notifier *n, *late;
	struct log late_seen = { .n = 0 };
	pthread_t thread;
	uint64_t before, v;
	char *many, found;

	setup();
	many = mmap(NULL, MANY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(many, MAP_FAILED);
	madvise(many, MANY, MADV_NOHUGEPAGE);
	n = watch(target, many, PAGE, &seen);
	ok(begin(n, many, PAGE, &v));
	for (unsigned int round = 0; round < 10; round++) {
		for (size_t i = 0; i < MANY; i += PAGE)
			many[i] = 1;
		before = n_events();
		ck_assert_int_eq(pthread_create(&thread, NULL, clear_many, many), 0);
		while (n_events() == before)
			;
		late = watch(target, many + MANY - PAGE, PAGE, &late_seen);
		ok(begin(late, many + MANY - PAGE, PAGE, &v));
		found = many[MANY - PAGE];
		pthread_join(thread, NULL);
		if (!retry(late, many + MANY - PAGE, PAGE, v))
			ck_assert_int_eq(found, many[MANY - PAGE]);
		mirror_notifier_remove(late);
	}
	mirror_notifier_remove(n);
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "lookup");

	tcase_add_test(tcase, begin_refused);
	tcase_add_test(tcase, munmap_is_told);
	tcase_add_test(tcase, dontneed_is_told);
	tcase_add_test(tcase, map_fixed_is_armed_again);
	tcase_add_test(tcase, mremap_is_told);
	tcase_add_test(tcase, unrelated_changes);
	tcase_add_test(tcase, huge_range);
	tcase_add_test(tcase, huge_change);
	tcase_add_test(tcase, cannot_be_watched);
	tcase_add_test(tcase, begin_waits_for_the_end);
	tcase_add_test(tcase, lookups_are_ordered);
	tcase_add_test(tcase, lookups_are_ordered_strict);
	tcase_add_test(tcase, strict_knows_before_the_daemon);
	tcase_add_test(tcase, clear_under_way);
	tcase_add_test(tcase, stats_count);
}

int main(void)
{
	return harness_main("lookup", fill);
}
