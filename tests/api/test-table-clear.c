/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mirror tables and pages that go
 *
 * The event of madvise() is read before the pages go.  Who fills a table then sees
 * pages that nothing will take away from it later.  And when all went, the table goes.
 */
#include <mirror/table.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <time.h>
#include "harness.h"

#define N 16
#define SIZE (N * PAGE)
#define PATIENCE_S 10

static unsigned int known(const struct mirror_table *table, const char *p, size_t size)
{
	unsigned int shift, n = 0;

	for (size_t i = 0; i < size; i += PAGE)
		n += !!(mirror_table_walk(table, (uintptr_t)p + i, &shift) & MIRROR_PTE_PRESENT);
	return n;
}

static const struct mirror_table *table_of(struct mirror_target *target)
{
	const struct mirror_table *table = NULL;

	ok(mirror_target_get_table(target, &table));
	return table;
}

/*
 * A thread whose event has been read goes on when it gets a processor, and its pages
 * are there until then.  It shares one with a thread that never sleeps.
 */
struct clearing {
	char *mem;
	sem_t go, done;
	bool stop;
};

static void bind_to(unsigned int nth)
{
	cpu_set_t set, one;

	CPU_ZERO(&one);
	ck_assert_int_eq(sched_getaffinity(getpid(), sizeof(set), &set), 0);
	for (unsigned int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &set) && !nth--)
			CPU_SET(cpu, &one);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
}

static void *spin_main(void *data)
{
	const struct clearing *c = data;

	bind_to(0);
	while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED))
		;
	return NULL;
}

static void *clear_main(void *data)
{
	struct clearing *c = data;

	bind_to(0);
	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 19);
	for (;;) {
		while (sem_wait(&c->go) < 0)
			;
		if (c->stop || madvise(c->mem, SIZE, MADV_DONTNEED) < 0)
			return NULL;
		sem_post(&c->done);
	}
}

static uint64_t n_events(struct mirror_ctx *ctx)
{
	struct mirror_stats stats = { .size = sizeof(stats) };

	ok(mirror_daemon_get_stats(ctx, &stats));
	return stats.events;
}

/* One turn: filled while they go.  The table is there before, or is made only then. */
static void fill_what_goes(struct mirror_ctx *other, struct clearing *c, bool before)
{
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	const struct mirror_table *table = NULL;
	time_t end = time(NULL) + PATIENCE_S;
	uint64_t events;
	int r;

	memset(c->mem, 1, SIZE);
	ok(mirror_target_arm(target, (uintptr_t)c->mem, (uintptr_t)c->mem + SIZE));
	if (before)
		table = table_of(target);
	events = n_events(other);
	sem_post(&c->go);
	while (n_events(other) == events)
		ck_assert(time(NULL) <= end);
	table = table_of(target);
	r = mirror_target_fill(target, (uintptr_t)c->mem, (uintptr_t)c->mem + SIZE, NULL);
	ck_assert(r == 0 || r == -EAGAIN);
	while (sem_wait(&c->done) < 0)
		;
	settle(ctx);
	ck_assert_uint_eq(known(table, c->mem, SIZE), 0);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

static void clear_while_filled(bool before)
{
	struct clearing c = { .stop = false };
	struct mirror_ctx *other = open_ctx();
	pthread_t clearer, spinner;

	c.mem = map_pages(SIZE);
	sem_init(&c.go, 0, 0);
	sem_init(&c.done, 0, 0);
	ck_assert_int_eq(pthread_create(&clearer, NULL, clear_main, &c), 0);
	ck_assert_int_eq(pthread_create(&spinner, NULL, spin_main, &c), 0);
	bind_to(sysconf(_SC_NPROCESSORS_ONLN) > 1);
	for (unsigned int i = 0; i < 8; i++)
		fill_what_goes(other, &c, before);
	__atomic_store_n(&c.stop, true, __ATOMIC_RELAXED);
	sem_post(&c.go);
	pthread_join(clearer, NULL);
	pthread_join(spinner, NULL);
	mirror_ctx_unref(other);
}

START_TEST(clear_of_a_table)
{
	clear_while_filled(true);
}
END_TEST

START_TEST(clear_before_the_table)
{
	clear_while_filled(false);
}
END_TEST

/* ---- all of them ---- */

#define BLOCKS 300U
#define MANY (BLOCKS * BLOCK)

/* Fills and empties a table of many nodes. */
static void many_come_and_go(struct mirror_target *target, struct mirror_ctx *ctx)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	char *mem = mmap(NULL, MANY, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t pages = 0;

	ck_assert_ptr_ne(mem, MAP_FAILED);
	ck_assert_int_eq(madvise(mem, MANY, MADV_NOHUGEPAGE), 0);
	for (size_t i = 0; i < MANY; i += BLOCK)
		mem[i] = 1;
	ok(mirror_target_fill(target, (uintptr_t)mem, (uintptr_t)mem + MANY, &pages));
	ck_assert_uint_eq(pages, BLOCKS);
	ok(mirror_query_target(ctx, mirror_target_get_id(target), 0, &info));
	ck_assert_uint_gt(info.table_bytes, BLOCKS * PAGE);
	unmap(mem, MANY);
	settle(ctx);
	ck_assert_uint_eq(known(table_of(target), mem, MANY), 0);
}

START_TEST(empty_moves_the_table)
{
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops), .flags = MIRROR_NOTIFIER_FILL, .invalidate = log_event,
	};
	struct mirror_target_info info = { .size = sizeof(info) };
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	const struct mirror_table *table = table_of(target), *again;
	struct log seen = { .n = 0 };
	struct mirror_notifier *n;
	char *mem = map_pages(SIZE);
	char *quiet = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t a = (uintptr_t)mem, q = (uintptr_t)quiet, pages = 0;

	/* somebody wants a range of it kept filled, be there nothing now: it stays */
	ok(mirror_notifier_insert(&n, target, q, q + PAGE, &ops, &seen));
	many_come_and_go(target, ctx);
	ck_assert_uint_eq(table->state, MIRROR_TABLE_LIVE);
	ck_assert_ptr_eq(table_of(target), table);
	mirror_notifier_remove(n);

	many_come_and_go(target, ctx);
	ck_assert_uint_eq(table->state, MIRROR_TABLE_MOVED);
	again = table_of(target);
	ck_assert_ptr_ne(again, table);
	ok(mirror_target_fill(target, a, a + SIZE, &pages));
	ck_assert_uint_eq(pages, N);
	ck_assert_uint_eq(known(again, mem, SIZE), N);
	ck_assert_uint_eq(known(table, mem, SIZE), 0);
	ok(mirror_query_target(ctx, mirror_target_get_id(target), 0, &info));
	ck_assert_uint_lt(info.table_bytes, 100 * PAGE);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

static void fill_suite(Suite *suite)
{
	TCase *tc = harness_case(suite, "table");

	tcase_add_test(tc, clear_of_a_table);
	tcase_add_test(tc, clear_before_the_table);
	tcase_add_test(tc, empty_moves_the_table);
}

int main(void)
{
	return harness_main("table-clear", fill_suite);
}
