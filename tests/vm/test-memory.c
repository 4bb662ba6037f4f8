/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What few machines have: two nodes of memory, and a kernel with soft-dirty bits
 */
#include <fcntl.h>
#include <mirror/device.h>
#include <mirror/table.h>
#include <numaif.h>
#include <sched.h>
#include "../api/harness.h"

#define N 16
#define SIZE (N * PAGE)
#define NODES 2
#define SOFT_DIRTY (1ULL << 55)		/* in /proc/PID/pagemap */

static struct log seen;

/* A processor of each node; the machine has one for each. */
static void run_on(int node)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(node, &set);
	ck_assert_int_eq(sched_setaffinity(0, sizeof(set), &set), 0);
}

static int node_of(const void *p)
{
	int node = -1;

	ck_assert_int_eq(*(const volatile char *)p, *(const volatile char *)p);
	ck_assert_int_eq(get_mempolicy(&node, NULL, 0, (void *)(uintptr_t)p,
				       MPOL_F_NODE | MPOL_F_ADDR), 0);
	return node;
}

/* Moves pages, as numactl or the kernel would. */
static void move(char *p, size_t n, int node)
{
	for (size_t i = 0; i < n; i++) {
		void *page = p + i * PAGE;
		int status = -1;

		ck_assert_int_eq(move_pages(0, 1, &page, &node, &status, MPOL_MF_MOVE), 0);
		ck_assert_int_eq(status, node);
	}
}

/* Where our mapping of the memory file @name begins. */
static void *find_mapping(const char *name)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start = 0;
	char line[512];

	ck_assert_ptr_nonnull(f);
	while (!start && fgets(line, sizeof(line), f))
		if (strstr(line, name))
			start = strtoul(line, NULL, 16);
	fclose(f);
	ck_assert_msg(start, "there is no mapping of %s", name);
	return (void *)start;
}

START_TEST(ring_is_where_it_was_asked_for)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_ctx *ctx;

	run_on(!_i);
	opts.path = daemon_path();
	opts.flags = MIRROR_OPEN_NO_EMBEDDED;
	opts.numa_node = 1 + (uint32_t)_i;
	ok(mirror_open(&ctx, &opts));
	ck_assert_int_eq(node_of(find_mapping("mirror-ring")), _i);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(table_is_where_its_target_runs)
{
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	char *mem = map_pages(SIZE);
	const struct mirror_table *table;

	run_on(_i);
	ok(mirror_target_get_table(target, &table));
	ok(mirror_target_fill(target, (uintptr_t)mem, (uintptr_t)mem + SIZE, NULL));
	ck_assert_int_eq(node_of((const char *)table + table->nodes_off), _i);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

static void check_nodes(struct mirror_target *target, const struct mirror_table *table, char *mem,
			const int nodes[N])
{
	unsigned int shift;

	ok(mirror_target_fill(target, (uintptr_t)mem, (uintptr_t)mem + SIZE, NULL));
	for (size_t i = 0; i < N; i++) {
		uint64_t entry = mirror_table_walk(table, (uintptr_t)mem + i * PAGE, &shift);

		ck_assert_uint_ne(entry & MIRROR_PTE_PRESENT, 0);
		ck_assert_uint_eq((entry & MIRROR_PTE_NODE_MASK) >> MIRROR_PTE_NODE_SHIFT,
				  1 + nodes[i]);
	}
}

START_TEST(table_knows_the_nodes)
{
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	const struct mirror_table *table;
	char *mem = map_pages(SIZE);
	int nodes[N];

	ok(mirror_target_get_table(target, &table));
	for (int i = 0; i < N; i++) {
		nodes[i] = i < N / 2 ? 0 : 1;
		move(mem + i * PAGE, 1, nodes[i]);
	}
	check_nodes(target, table, mem, nodes);
	/* mirrord is not told of this, and sees it when it looks again */
	for (int i = 0; i < N; i++) {
		nodes[i] = i % NODES;
		move(mem + i * PAGE, 1, nodes[i]);
	}
	check_nodes(target, table, mem, nodes);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

/* ---- soft-dirty ---- */

static uint64_t pagemap(const char *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t word = 0;

	ck_assert_int_eq(pread(fd, &word, sizeof(word), (off_t)((uintptr_t)p / PAGE * 8)), 8);
	close(fd);
	return word;
}

/* What checkpointing programs do, all the time. */
static void reset_soft_dirty(void)
{
	int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);

	ck_assert_int_eq(write(fd, "4", 1), 1);
	close(fd);
}

START_TEST(soft_dirty_is_no_change)
{
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	char *mem = map_pages(SIZE);
	struct mirror_notifier *n = watch(target, mem, SIZE, &seen);
	uint64_t version;

	ok(begin(n, mem, SIZE, &version));
	for (int i = 0; i < 3; i++) {
		ck_assert_uint_eq(pagemap(mem) & SOFT_DIRTY, SOFT_DIRTY);
		reset_soft_dirty();
		ck_assert_uint_eq(pagemap(mem) & SOFT_DIRTY, 0);
		memset(mem, i, SIZE);
		ck_assert_uint_eq(pagemap(mem) & SOFT_DIRTY, SOFT_DIRTY);
		settle(ctx);
		ck_assert_int_eq(mirror_dispatch(ctx), 0);
		ck_assert_int_eq(retry(n, mem, SIZE, version), 0);
	}
	ck_assert_uint_eq(seen.n, 0);

	/* it still hears of what is one */
	reset_soft_dirty();
	ck_assert_int_eq(madvise(mem, PAGE, MADV_DONTNEED), 0);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert(log_covers(&seen, MIRROR_EVENT_CLEAR, mem, PAGE));
	ck_assert_int_eq(retry(n, mem, SIZE, version), 1);
	mirror_notifier_remove(n);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tc = harness_case(suite, "nodes");

	tcase_add_loop_test(tc, ring_is_where_it_was_asked_for, 0, NODES);
	tcase_add_loop_test(tc, table_is_where_its_target_runs, 0, NODES);
	tcase_add_test(tc, table_knows_the_nodes);
	tc = harness_case(suite, "soft-dirty");
	tcase_add_test(tc, soft_dirty_is_no_change);
}

int main(void)
{
	return harness_main("memory", fill);
}
