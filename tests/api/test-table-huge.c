/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Huge pages in the mirror table, and pages very far apart. */
#include <mirror/table.h>
#include <sys/mman.h>
#include "world.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25	/* since 6.1 */
#endif

#define PRESENT MIRROR_PTE_PRESENT
#define HUGE MIRROR_PTE_HUGE
#define PATH_NODES 3		/* below the root, for one page */

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static const struct mirror_table *table;
static unsigned int shift;

static void setup(void)
{
	ctx = open_ctx();
	target = attach_self(ctx, 0);
	ok(mirror_target_get_table(target, &table));
}

static void finish(void)
{
	target = mirror_target_unref(target);
	ctx = mirror_ctx_unref(ctx);
}

static uint64_t walk(const void *p)
{
	return mirror_table_walk(table, (uintptr_t)p, &shift);
}

static uint64_t fill_table(const void *p, size_t size)
{
	uint64_t pages = 0;

	ok(mirror_target_fill(target, (uintptr_t)p, (uintptr_t)p + size, &pages));
	return pages;
}

static uint64_t live(void)
{
	return __atomic_load_n(&table->live, __ATOMIC_RELAXED);
}

/* All of a block are there, as one leaf, whether the CPU has one page or many. */
static void is_there(const char *mem, uint64_t huge)
{
	for (size_t i = 0; i < BLOCK; i += PAGE) {
		ck_assert_uint_eq(walk(mem + i) & (PRESENT | HUGE), PRESENT | huge);
		ck_assert_uint_eq(shift, 21);
	}
}

static void split(char *mem)
{
	struct log seen = { .n = 0 };
	struct mirror_notifier *n = watch(target, mem, BLOCK, &seen);
	char *page = mem + 4 * PAGE;
	uint64_t version;

	ck_assert_int_eq(madvise(page, PAGE, MADV_DONTNEED), 0);
	ok(begin(n, page, PAGE, &version));
	ck_assert_uint_eq(walk(page), 0);
	ck_assert_uint_eq(shift, 12);
	ck_assert_uint_eq(walk(page + PAGE) & PRESENT, PRESENT);
	ck_assert_uint_eq(live(), 1 + PATH_NODES);
	*(volatile char *)page = 1;
	ck_assert_uint_eq(fill_table(mem, BLOCK), BLOCK / PAGE);
	is_there(mem, 0);	/* small pages, and all alike again */
	ck_assert_uint_eq(live(), PATH_NODES);
	mirror_notifier_remove(n);
}

START_TEST(split_and_collapse)
{
	char *mem = mmap(NULL, 3 * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);

	setup();
	mem += (BLOCK - (uintptr_t)mem % BLOCK) % BLOCK;
	madvise(mem, BLOCK, MADV_HUGEPAGE);
	memset(mem, 1, BLOCK);
	ck_assert_uint_eq(fill_table(mem, BLOCK), BLOCK / PAGE);
	if (!(walk(mem) & HUGE)) {
		not_tested("split and collapse", "the kernel has given no huge page");
		return;
	}
	is_there(mem, HUGE);
	ck_assert_uint_eq(live(), PATH_NODES);	/* the lowest level is not needed */
	split(mem);
	if (madvise(mem, BLOCK, MADV_COLLAPSE) == 0) {
		ck_assert_uint_eq(fill_table(mem, BLOCK), BLOCK / PAGE);
		is_there(mem, HUGE);
		ck_assert_uint_eq(live(), PATH_NODES);
	} else {
		not_tested("collapse", strerror(errno));
	}
	munmap(mem, BLOCK);
	settle(ctx);
	ck_assert_uint_eq(walk(mem), 0);
	ck_assert_uint_eq(live(), 1);
	finish();
}
END_TEST

START_TEST(hugetlb)
{
	char *mem = hugetlb_page();

	if (!mem) {
		not_tested("hugetlb in the table", "no page in the pool");
		return;
	}
	setup();
	ck_assert_uint_eq(fill_table(mem, BLOCK), 0);
	ck_assert_uint_eq(walk(mem), 0);
	*(volatile char *)mem = 1;
	ck_assert_uint_eq(fill_table(mem, BLOCK), BLOCK / PAGE);
	is_there(mem, HUGE);
	munmap(mem, BLOCK);
	settle(ctx);
	ck_assert_uint_eq(walk(mem), 0);
	finish();
}
END_TEST

#define SPAN (64ULL << 40)
#define FAR 1000ULL		/* pages */

static const char *far_page(const char *mem, uint64_t i)
{
	return mem + i * (SPAN / FAR / BLOCK * BLOCK) + i * 7 % 512 * PAGE;
}

START_TEST(far_apart)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	char *mem = mmap(NULL, SPAN, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED) {
		not_tested("a span of 64 TiB", strerror(errno));
		return;
	}
	setup();
	madvise(mem, SPAN, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < FAR; i++)
		*(volatile char *)(uintptr_t)far_page(mem, i) = 1;
	ck_assert_uint_eq(fill_table(mem, SPAN), FAR);
	for (uint64_t i = 0; i < FAR; i++) {
		const char *p = far_page(mem, i);

		ck_assert_uint_eq(walk(p) & (PRESENT | HUGE), PRESENT);
		ck_assert_uint_eq(walk(p + PAGE), 0);
		if (i)
			ck_assert_uint_eq(walk(p - PAGE), 0);
	}
	ck_assert_uint_le(live(), 1 + FAR * PATH_NODES);
	ok(mirror_query_target(ctx, mirror_target_get_id(target), 0, &info));
	ck_assert_uint_le(info.table_bytes, (2 + FAR * PATH_NODES) * (PAGE + 16) + 2 * PAGE);

	munmap(mem, SPAN);
	settle(ctx);
	/* so much of it was used that it was given up, and begun anew */
	ok(mirror_target_get_table(target, &table));
	ck_assert_uint_eq(walk(far_page(mem, 5)), 0);
	ck_assert_uint_eq(live(), 1);
	info.size = sizeof(info);
	ok(mirror_query_target(ctx, mirror_target_get_id(target), 0, &info));
	ck_assert_uint_le(info.table_bytes, 4 * PAGE);
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "table-huge");

	tcase_add_test(tcase, split_and_collapse);
	tcase_add_test(tcase, hugetlb);
	tcase_add_test(tcase, far_apart);
}

int main(void)
{
	return harness_main("table-huge", fill);
}
