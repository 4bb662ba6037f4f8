/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <mirror/table.h>
#include <sys/mman.h>
#include "radix-model.h"
#include "unit.h"

#define KIB4 PAGE_BYTES
#define MIB2 (1ULL << 21)
#define GIB (1ULL << 30)
#define BASE (7ULL << 39) /* an entry of the root of its own */
#define R (MIRROR_ENTRY_VALID | MIRROR_DEVICE_READ)
#define W (R | MIRROR_DEVICE_WRITE)

static size_t discarded, discards;

static void discard(struct radix *radix, void *memory, size_t size)
{
	(void)radix;
	ck_assert_int_eq(madvise(memory, size, MADV_DONTNEED), 0);
	discarded += size;
	discards++;
}

static struct radix make(uint32_t n_nodes, unsigned int levels, bool linear)
{
	struct radix radix = RADIX_NULL;
	void *memory = mmap(NULL, radix_bytes(n_nodes), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ck_assert_ptr_ne(memory, MAP_FAILED);
	ck_assert_int_eq(radix_init(&radix, memory, n_nodes, levels, 3, linear), 0);
	discarded = discards = 0;
	return radix;
}

static void end(struct radix *radix)
{
	struct mirror_table *head = radix->head;

	ck_assert_int_eq(radix_check(radix), 0);
	radix_deinit(radix);
	munmap(head, head->size);
}

static void fill(struct radix *radix, uint64_t start, uint64_t size, uint64_t entry)
{
	ck_assert_int_eq(radix_fill(radix, start, start + size, entry), 0);
}

static unsigned int shift_at(const struct radix *radix, uint64_t address)
{
	unsigned int shift;

	mirror_table_walk(radix->head, address, &shift);
	return shift;
}

static void has_run(const struct radix *radix, uint64_t start, uint64_t end, uint64_t run_start,
		    uint64_t run_end, uint64_t entry)
{
	struct radix_run run;

	ck_assert(radix_next(radix, start, end, &run));
	ck_assert_uint_eq(run.start, run_start);
	ck_assert_uint_eq(run.end, run_end);
	ck_assert_uint_eq(run.entry, entry);
}

static bool is_empty(const struct radix *radix)
{
	struct radix_run run;

	return !radix_next(radix, 0, UINT64_MAX, &run);
}

START_TEST(one_page)
{
	struct radix radix = make(10, 4, false);

	ck_assert_uint_eq(radix_limit(&radix), 1ULL << 48);
	ck_assert_uint_eq(radix_get(&radix, BASE), 0);
	ck_assert_uint_eq(shift_at(&radix, BASE), 39);
	fill(&radix, BASE + KIB4, KIB4, R);
	ck_assert_uint_eq(radix.head->live, 4);
	ck_assert_uint_eq(radix_get(&radix, BASE), 0);
	ck_assert_uint_eq(radix_get(&radix, BASE + KIB4 + 5), R);
	ck_assert_uint_eq(radix_get(&radix, BASE + 2 * KIB4), 0);
	ck_assert_uint_eq(shift_at(&radix, BASE), 12);
	has_run(&radix, 0, UINT64_MAX, BASE + KIB4, BASE + 2 * KIB4, R);
	fill(&radix, BASE + KIB4, KIB4, W);
	ck_assert_uint_eq(radix_get(&radix, BASE + KIB4), W);

	radix_clear(&radix, BASE, BASE + MIB2, false, NULL);
	ck_assert(is_empty(&radix));
	ck_assert_uint_eq(radix.head->live, 4);
	fill(&radix, BASE, KIB4, R);
	radix_clear(&radix, BASE, BASE + KIB4, true, NULL);
	ck_assert_uint_eq(radix.head->live, 1);
	ck_assert_uint_eq(radix_get(&radix, 1ULL << 60), 0);
	end(&radix);
}
END_TEST

START_TEST(bad_arguments)
{
	struct radix radix = make(10, 4, false);
	uint64_t limit = radix_limit(&radix);

	ck_assert_int_eq(radix_fill(&radix, BASE, BASE, R), -EINVAL);
	ck_assert_int_eq(radix_fill(&radix, BASE + 1, BASE + KIB4, R), -EINVAL);
	ck_assert_int_eq(radix_fill(&radix, limit - KIB4, limit + KIB4, R), -EINVAL);
	ck_assert_int_eq(radix_fill(&radix, BASE, BASE + KIB4, 0), -EINVAL);
	ck_assert_int_eq(radix_fill(&radix, BASE, BASE + KIB4, R | MIRROR_ENTRY_LINK), -EINVAL);
	ck_assert_int_eq(radix_move(&radix, BASE, BASE + KIB4, 2 * KIB4), -EINVAL);
	ck_assert_int_eq(radix_move(&radix, BASE, limit - KIB4, 2 * KIB4), -EINVAL);
	ck_assert_int_eq(radix_init(&radix, radix.head, 10, 3, 0, false), -EINVAL);
	fill(&radix, limit - KIB4, KIB4, R);
	/* Flags that would make an entry something else are no flags. */
	radix_downgrade(&radix, 0, UINT64_MAX, MIRROR_ENTRY_VALID, 0, NULL);
	radix_mark(&radix, 0, UINT64_MAX, MIRROR_ENTRY_LINK | 1ULL << 20);
	ck_assert_uint_eq(radix_get(&radix, limit - 1), R);
	end(&radix);
}
END_TEST

START_TEST(leaves_as_high_as_can_be)
{
	/* A linear leaf is where its pages are aligned, whatever it points to. */
	for (unsigned int linear = 0; linear < 2; linear++) {
		struct radix radix = make(20, 4, linear);
		uint64_t entry = linear ? (123 * KIB4) | R : R;

		fill(&radix, BASE, GIB, entry);
		ck_assert_uint_eq(radix.head->live, 2);
		ck_assert_uint_eq(shift_at(&radix, BASE + GIB - KIB4), 30);
		ck_assert_uint_eq(radix_get(&radix, BASE + 5 * KIB4),
				  entry + (linear ? 5 * KIB4 : 0));
		fill(&radix, BASE + 2 * GIB - KIB4, GIB + MIB2 + 2 * KIB4, entry);
		ck_assert_uint_eq(shift_at(&radix, BASE + 2 * GIB - KIB4), 12);
		ck_assert_uint_eq(shift_at(&radix, BASE + 2 * GIB), 30);
		ck_assert_uint_eq(shift_at(&radix, BASE + 3 * GIB), 21);
		ck_assert_uint_eq(shift_at(&radix, BASE + 3 * GIB + MIB2), 12);
		ck_assert_uint_eq(radix.head->live, 6);
		has_run(&radix, BASE + GIB, BASE + 5 * GIB, BASE + 2 * GIB - KIB4,
			BASE + 3 * GIB + MIB2 + KIB4, entry);
		/* What stood below goes. */
		fill(&radix, BASE, 4 * GIB, entry);
		ck_assert_uint_eq(radix.head->live, 2);
		end(&radix);
	}
}
END_TEST

START_TEST(merged_when_alike)
{
	struct radix radix = make(600, 4, true);

	/* Last the page that completes it, of the first node and of the last. */
	for (uint64_t i = 1; i < 512; i++)
		fill(&radix, BASE + i * KIB4, KIB4, (i * KIB4) | R);
	ck_assert_uint_eq(shift_at(&radix, BASE), 12);
	fill(&radix, BASE, KIB4, (1 << 30) | R);
	ck_assert_uint_eq(shift_at(&radix, BASE), 12);
	fill(&radix, BASE, KIB4, R);
	ck_assert_uint_eq(shift_at(&radix, BASE), 21);
	for (uint64_t i = 511; i; i--)
		fill(&radix, BASE + i * MIB2, MIB2, (i * MIB2) | R);
	ck_assert_uint_eq(shift_at(&radix, BASE), 30);
	ck_assert_uint_eq(radix.head->live, 2);

	/* Both ends of a range can complete a node. */
	fill(&radix, BASE + 4 * GIB, MIB2 / 2, R);
	fill(&radix, BASE + 4 * GIB + MIB2 * 3 / 2, MIB2 / 2, (MIB2 * 3 / 2) | R);
	fill(&radix, BASE + 4 * GIB + MIB2 / 2, MIB2, (MIB2 / 2) | R);
	ck_assert_uint_eq(shift_at(&radix, BASE + 4 * GIB), 21);
	ck_assert_uint_eq(shift_at(&radix, BASE + 4 * GIB + MIB2), 21);
	radix_clear(&radix, BASE + 4 * GIB, BASE + 5 * GIB, true, NULL);

	/* A page of it, and back again: split and merged, twice. */
	radix_clear(&radix, BASE + 5 * KIB4, BASE + 6 * KIB4, false, NULL);
	ck_assert_uint_eq(radix.head->live, 4);
	ck_assert_uint_eq(radix_get(&radix, BASE + 4 * KIB4), (4 * KIB4) | R);
	ck_assert_uint_eq(radix_get(&radix, BASE + 5 * KIB4), 0);
	ck_assert_uint_eq(radix_get(&radix, BASE + GIB - 1), (GIB - KIB4) | R);
	fill(&radix, BASE + 5 * KIB4, KIB4, (5 * KIB4) | R);
	ck_assert_uint_eq(radix.head->live, 2);
	ck_assert_uint_eq(radix.n_touched, 5);
	ck_assert_uint_eq(shift_at(&radix, BASE), 30);
	end(&radix);
}
END_TEST

START_TEST(no_node_to_clear_with)
{
	struct radix radix = make(2, 4, false);
	struct radix_hull hull;

	fill(&radix, BASE, 2 * GIB, R);
	radix_clear(&radix, BASE + MIB2, BASE + 2 * MIB2, true, &hull);
	ck_assert_uint_eq(hull.start, BASE);
	ck_assert_uint_eq(hull.end, BASE + GIB);
	has_run(&radix, 0, UINT64_MAX, BASE + GIB, BASE + 2 * GIB, R);
	end(&radix);

	/* With one node the leaf is the smaller one. */
	radix = make(3, 4, false);
	fill(&radix, BASE, GIB, W);
	radix_downgrade(&radix, BASE + MIB2 + KIB4, BASE + MIB2 + 2 * KIB4, MIRROR_DEVICE_WRITE, 0,
			&hull);
	ck_assert_uint_eq(hull.start, BASE + MIB2);
	ck_assert_uint_eq(hull.end, BASE + 2 * MIB2);
	ck_assert_uint_eq(radix_get(&radix, BASE + MIB2 - 1), W);
	ck_assert_uint_eq(radix_get(&radix, BASE + MIB2), R);
	ck_assert_uint_eq(radix_get(&radix, BASE + 2 * MIB2), W);
	end(&radix);
}
END_TEST

START_TEST(no_node_to_fill_with)
{
	struct radix radix = make(5, 4, false);

	fill(&radix, BASE, KIB4, R);
	/* Needs two more, and there is one. */
	ck_assert_int_eq(radix_fill(&radix, BASE + GIB, BASE + GIB + KIB4, W), -ENOSPC);
	ck_assert_uint_eq(radix.head->live, 4);
	ck_assert_int_eq(radix_fill(&radix, BASE + KIB4, BASE + 2 * MIB2 + KIB4, W), 0);
	ck_assert_uint_eq(radix.head->live, 5);
	/* What is so already needs none. */
	ck_assert_int_eq(radix_fill(&radix, BASE + MIB2 - KIB4, BASE + MIB2 + KIB4, W), 0);
	/* Would have to split the leaf of 2 MiB: it goes. */
	ck_assert_int_eq(radix_fill(&radix, BASE + 3 * KIB4, BASE + MIB2 + KIB4, R), -ENOSPC);
	has_run(&radix, 0, UINT64_MAX, BASE, BASE + KIB4, R);
	has_run(&radix, BASE + KIB4, UINT64_MAX, BASE + KIB4, BASE + 3 * KIB4, W);
	has_run(&radix, BASE + 3 * KIB4, UINT64_MAX, BASE + 2 * MIB2, BASE + 2 * MIB2 + KIB4, W);
	ck_assert_int_eq(radix_move(&radix, BASE, BASE + 5 * GIB, 2 * KIB4), -ENOSPC);
	has_run(&radix, 0, UINT64_MAX, BASE + 2 * KIB4, BASE + 3 * KIB4, W);
	end(&radix);
}
END_TEST

START_TEST(rights_and_flags)
{
	struct radix radix = make(20, 4, false);
	uint64_t dirty = MIRROR_DEVICE_DIRTY;
	struct radix_hull hull;

	fill(&radix, BASE, 4 * MIB2, W);
	radix_downgrade(&radix, BASE + KIB4, BASE + 3 * KIB4, MIRROR_DEVICE_WRITE,
			MIRROR_DEVICE_RIGHTS, &hull);
	ck_assert(hull.start == BASE + KIB4 && hull.end == BASE + 3 * KIB4);
	has_run(&radix, BASE, BASE + GIB, BASE, BASE + KIB4, W);
	has_run(&radix, BASE + KIB4, BASE + GIB, BASE + KIB4, BASE + 3 * KIB4, R);
	has_run(&radix, BASE + 3 * KIB4, BASE + GIB, BASE + 3 * KIB4, BASE + 4 * MIB2, W);
	/* Then of all: alike, and merged. */
	radix_downgrade(&radix, BASE, BASE + MIB2, MIRROR_DEVICE_WRITE, 0, NULL);
	ck_assert_uint_eq(shift_at(&radix, BASE), 21);

	ck_assert(!radix_test(&radix, 0, UINT64_MAX, dirty));
	radix_mark(&radix, BASE + KIB4, BASE + 2 * KIB4, dirty);
	ck_assert_uint_eq(shift_at(&radix, BASE), 21);
	ck_assert(radix_test(&radix, BASE + 9 * KIB4, BASE + 10 * KIB4, dirty));
	ck_assert(!radix_test(&radix, BASE + MIB2, BASE + 9 * MIB2, dirty));
	ck_assert(!radix_unmark(&radix, BASE + MIB2, UINT64_MAX, dirty));
	ck_assert(radix_unmark(&radix, BASE, UINT64_MAX, dirty));
	ck_assert(!radix_unmark(&radix, BASE, UINT64_MAX, dirty));
	ck_assert_uint_eq(radix_get(&radix, BASE), R);
	/* Marked by pages, and unmarked: one leaf again. */
	fill(&radix, BASE + KIB4, KIB4, W);
	radix_mark(&radix, BASE, BASE + KIB4, dirty);
	fill(&radix, BASE + KIB4, KIB4, R);
	ck_assert_uint_eq(shift_at(&radix, BASE), 12);
	ck_assert(radix_unmark(&radix, BASE, BASE + KIB4, dirty));
	ck_assert_uint_eq(shift_at(&radix, BASE), 21);

	/* Without any right nothing is left. */
	radix_downgrade(&radix, BASE, BASE + 4 * MIB2, MIRROR_DEVICE_READ, MIRROR_DEVICE_RIGHTS,
			NULL);
	has_run(&radix, 0, UINT64_MAX, BASE + MIB2, BASE + 4 * MIB2,
		W & ~(uint64_t)MIRROR_DEVICE_READ);
	end(&radix);
}
END_TEST

START_TEST(nodes_are_relinked)
{
	struct radix radix = make(600, 4, true);
	uint64_t to = BASE + 100 * 512 * GIB, gens[8];
	struct radix_run run;

	for (uint64_t i = 0; i < 4 * 512; i += 2)
		fill(&radix, BASE + i * KIB4, KIB4, (i * KIB4) | W);
	fill(&radix, BASE + GIB, MIB2, W);
	ck_assert_uint_eq(radix.head->live, 8);
	for (unsigned int i = 0; i < 8; i++)
		gens[i] = radix.tags[i].gen;
	/* All of it: one node is linked elsewhere, with what is below, and readers who
	 * are in one of them can tell. */
	ck_assert_int_eq(radix_move(&radix, BASE, to, 512 * GIB), 0);
	ck_assert_uint_eq(radix.head->live, 8);
	ck_assert_uint_eq(radix.n_touched, 8);
	for (unsigned int i = 1; i < 8; i++)
		ck_assert_uint_eq(radix.tags[i].gen, gens[i] + 2);
	ck_assert_uint_eq(radix_get(&radix, to + 2 * KIB4), (2 * KIB4) | W);
	ck_assert_uint_eq(shift_at(&radix, to + GIB), 21);
	ck_assert_uint_eq(shift_at(&radix, BASE), 39);
	ck_assert(!radix_next(&radix, 0, to, &run));
	end(&radix);
}
END_TEST

START_TEST(runs_are_moved)
{
	struct radix radix = make(600, 4, true);
	uint64_t to = BASE + 3 * GIB + 5 * KIB4;

	/* Not alike: entered anew, and what was there goes, where holes come, too. */
	fill(&radix, BASE, 2 * MIB2, R);
	fill(&radix, BASE + 3 * MIB2, KIB4, W);
	fill(&radix, to - KIB4, 8 * MIB2, (9 * GIB) | R);
	ck_assert_int_eq(radix_move(&radix, BASE + KIB4, to, 4 * MIB2), 0);
	has_run(&radix, 0, UINT64_MAX, BASE, BASE + KIB4, R);
	has_run(&radix, BASE + KIB4, UINT64_MAX, to - KIB4, to, (9 * GIB) | R);
	has_run(&radix, to, UINT64_MAX, to, to + 2 * MIB2 - KIB4, KIB4 | R);
	has_run(&radix, to + 2 * MIB2 - KIB4, UINT64_MAX, to + 3 * MIB2 - KIB4, to + 3 * MIB2, W);
	has_run(&radix, to + 3 * MIB2, UINT64_MAX, to + 4 * MIB2, to + 8 * MIB2 - KIB4,
		(9 * GIB + 4 * MIB2 + KIB4) | R);
	ck_assert_uint_eq(shift_at(&radix, to + MIB2), 21);

	/* A part of a large leaf to a place where it can be one again. */
	fill(&radix, BASE, GIB, R);
	ck_assert_int_eq(radix_move(&radix, BASE + KIB4, BASE + 8 * GIB, MIB2), 0);
	ck_assert_uint_eq(shift_at(&radix, BASE + 8 * GIB), 21);
	ck_assert_uint_eq(radix_get(&radix, BASE + 8 * GIB), KIB4 | R);
	ck_assert_uint_eq(radix_get(&radix, BASE), R);
	ck_assert_uint_eq(radix_get(&radix, BASE + KIB4), 0);
	end(&radix);
}
END_TEST

START_TEST(five_levels)
{
	struct radix radix = make(20, 5, false);
	uint64_t high = (1ULL << 56) - GIB;

	ck_assert_uint_eq(radix_limit(&radix), 1ULL << 57);
	ck_assert_uint_eq(shift_at(&radix, high), 48);
	fill(&radix, high, GIB, R);
	fill(&radix, 0, KIB4, W);
	ck_assert_uint_eq(radix.head->live, 3 + 4);
	ck_assert_uint_eq(shift_at(&radix, high), 30);
	ck_assert_uint_eq(radix_get(&radix, high % (1ULL << 48)), 0);
	ck_assert_int_eq(radix_move(&radix, high, high - (1ULL << 50), GIB), 0);
	has_run(&radix, KIB4, UINT64_MAX, high - (1ULL << 50), high - (1ULL << 50) + GIB, R);
	radix_clear(&radix, 0, UINT64_MAX, true, NULL);
	ck_assert_uint_eq(radix.head->live, 1);
	end(&radix);
}
END_TEST

static size_t resident(const struct radix *radix)
{
	static unsigned char map[1 << 20];
	size_t n = radix->head->size / PAGE_BYTES, sum = 0;

	ck_assert_uint_le(n, sizeof(map));
	ck_assert_int_eq(mincore(radix->head, radix->head->size, map), 0);
	for (size_t i = 0; i < n; i++)
		sum += map[i] & 1;
	return sum;
}

/* A page here and there of 64 TiB: what is touched costs, and nothing else. */
START_TEST(sparse)
{
	struct radix radix = make(1 << 19, 4, false);

	radix.discard = discard;
	for (uint64_t i = 0; i < 128; i++)
		fill(&radix, i << 39 | i << 30 | i << 21 | i << 12, KIB4, R);
	ck_assert_uint_eq(radix.head->live, 1 + 3 * 128);
	ck_assert_uint_le(resident(&radix), 3 + 3 * 128 + 2);
	ck_assert_uint_le(radix_memory(&radix), (3 + 3 * 128 + 2) * PAGE_BYTES);
	has_run(&radix, KIB4, 1ULL << 46, 1ULL << 39 | 1ULL << 30 | 1 << 21 | 1 << 12,
		(1ULL << 39 | 1ULL << 30 | 1 << 21 | 1 << 12) + KIB4, R);
	radix_clear(&radix, 0, 1ULL << 46, true, NULL);
	ck_assert_uint_eq(radix.head->live, 1);
	ck_assert_uint_le(resident(&radix), 64 + 4);
	end(&radix);
}
END_TEST

START_TEST(memory_shrinks)
{
	struct radix radix = make(2000, 4, false);
	size_t before;

	radix.discard = discard;
	for (uint64_t i = 0; i < GIB / KIB4; i += 64)
		fill(&radix, BASE + i * KIB4, KIB4, R);
	before = resident(&radix);
	ck_assert_uint_ge(before, 512);
	/* Without trim the nodes stay. */
	radix_clear(&radix, BASE, BASE + GIB, false, NULL);
	ck_assert_uint_eq(discards, 0);
	radix_clear(&radix, BASE, BASE + GIB, true, NULL);
	ck_assert_uint_eq(discards, 1);
	ck_assert_uint_ge(discarded, (514 - 64) * PAGE_BYTES);
	ck_assert_uint_le(resident(&radix), before - (514 - 64));
	ck_assert_uint_eq(radix_memory(&radix) / PAGE_BYTES, 3 + 1 + radix.n_resident_free);

	/* And nodes that come back, from wherever, are empty. */
	for (uint64_t i = 0; i < GIB / MIB2; i++)
		fill(&radix, BASE + i * MIB2 + i % 512 * KIB4, KIB4, W);
	for (uint64_t i = 1; i < GIB / MIB2; i++)
		has_run(&radix, BASE + i * MIB2, BASE + (i + 1) * MIB2,
			BASE + i * MIB2 + i % 512 * KIB4,
			BASE + i * MIB2 + (i % 512 + 1) * KIB4, W);
	ck_assert_uint_le(radix.n_touched, 516);
	ck_assert_int_eq(radix_check(&radix), 0);

	/* What is freed now and then does not cost a call each time. */
	discards = 0;
	for (uint64_t i = 0; i < GIB / MIB2; i++)
		radix_clear(&radix, BASE + i * MIB2, BASE + (i + 1) * MIB2, true, NULL);
	ck_assert_uint_le(discards, 20);
	ck_assert_uint_le(resident(&radix), 64 + 4);
	end(&radix);
}
END_TEST

/* Nodes that are given out again hold what they held: it must not come back. */
START_TEST(reused_without_discard)
{
	struct radix radix = make(6, 4, true);
	uint64_t gen = 0;

	for (unsigned int i = 0; i < 4; i++) {
		fill(&radix, BASE, MIB2 / 2, R);
		fill(&radix, BASE, MIB2, R);
		fill(&radix, BASE + i * MIB2 + KIB4, KIB4, (77 * KIB4) | W);
		radix_clear(&radix, BASE + i * MIB2 + 2 * KIB4, BASE + (i + 1) * MIB2, false, NULL);
		radix_clear(&radix, 0, UINT64_MAX, true, NULL);
		fill(&radix, BASE + GIB + 9 * KIB4, KIB4, R);
		has_run(&radix, 0, UINT64_MAX, BASE + GIB + 9 * KIB4, BASE + GIB + 10 * KIB4, R);
		/* Its gen is never again what it was; odd while it is free. */
		ck_assert_uint_gt(radix.tags[1].gen, gen + 2);
		gen = radix.tags[1].gen;
		ck_assert_uint_eq(gen & 1, 0);
		radix_clear(&radix, 0, UINT64_MAX, true, NULL);
		ck_assert_uint_eq(radix.tags[1].gen, gen + 1);
		ck_assert(is_empty(&radix));
	}
	end(&radix);
}
END_TEST

START_TEST(nodes_that_suffice)
{
	struct radix radix = make(radix_nodes_for(100 * KIB4), 5, false);

	for (uint64_t i = 0; i < 100; i++)
		fill(&radix, i * 0x9e3779b97f4a7c15ULL % radix_limit(&radix) & ~0xfffULL, KIB4, R);
	ck_assert_uint_eq(radix_nodes_for(0), 1);
	ck_assert_uint_eq(radix_nodes_for(1), 5);
	ck_assert_uint_eq(radix_nodes_for(UINT64_MAX), UINT32_MAX);
	end(&radix);
}
END_TEST

START_TEST(check_finds_it)
{
	struct radix radix = make(10, 4, false);
	uint64_t saved;
	uint64_t *slot;

	fill(&radix, BASE, KIB4, R);
	fill(&radix, BASE + MIB2, KIB4, R);
	slot = &radix.nodes[2 * 512];	/* of 2 MiB */
	saved = *slot;
	ck_assert(saved & MIRROR_ENTRY_LINK && slot[1] & MIRROR_ENTRY_LINK);
	*slot = slot[1];
	ck_assert_int_ne(radix_check(&radix), 0);
	*slot = (uint64_t)9 << 12 | MIRROR_ENTRY_LINK;
	ck_assert_int_ne(radix_check(&radix), 0);
	*slot = 0;
	ck_assert_int_ne(radix_check(&radix), 0);
	*slot = saved;
	radix.nodes[3 * 512 + 5] = R;
	ck_assert_int_ne(radix_check(&radix), 0);
	radix.nodes[3 * 512 + 5] = 0;
	radix.nodes[1] = R;
	radix.counts[0]++;
	ck_assert_int_ne(radix_check(&radix), 0);
	radix.counts[0]--;
	radix.nodes[1] = 0;
	radix.tags[3].where++;
	ck_assert_int_ne(radix_check(&radix), 0);
	radix.tags[3].where--;
	radix.tags[3].gen++;
	ck_assert_int_ne(radix_check(&radix), 0);
	radix.tags[3].gen++;
	end(&radix);
}
END_TEST

static int body(void)
{
	_cleanup_(model_freep) struct model *model = model_new(0, 10);

	return model ? 0 : -ENOMEM;
}

START_TEST(no_memory)
{
	unit_oom(body);
}
END_TEST

static uint64_t rnd_state;

static uint32_t rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return (uint32_t)(rnd_state >> 20);
}

/* @bits as of model_new(). */
static void random_run(unsigned int bits, uint32_t n_nodes, unsigned int n)
{
	_cleanup_(model_freep) struct model *model = model_new(bits, n_nodes);
	const char *why = NULL;

	ck_assert_ptr_nonnull(model);
	for (unsigned int i = 1; i <= n && !why; i++) {
		struct model_op op = {
			.kind = (uint8_t)rnd(), .where = (uint8_t)rnd(), .shape = (uint8_t)rnd(),
			.value = (uint8_t)rnd(), .start = rnd(), .n = rnd(), .to = rnd(),
		};

		why = model_apply(model, &op, NULL);
		if (!why && (i == n || i % 512 == 0))
			why = model_check(model);
	}
	if (!why)
		why = model_end(model);
	ck_assert_msg(!why, "%s (bits %u, %u nodes)", why, bits, n_nodes);
}

START_TEST(random_operations)
{
	const char *text = getenv("MIRROR_SEED");
	uint64_t seed = text ? strtoull(text, NULL, 0) : 1;

	printf("# MIRROR_SEED=%lu\n", seed);
	fflush(stdout);
	rnd_state = seed * 0x9e3779b97f4a7c15ULL | 1;
	for (unsigned int bits = 0; bits < 8; bits++) {
		random_run(bits, 20000, 5000);
		for (uint32_t few = 1; few < 40; few += 1 + few / 4)
			random_run(bits, few, 500);
	}
}
END_TEST

UNIT_MAIN("radix", one_page, bad_arguments, leaves_as_high_as_can_be, merged_when_alike,
	  no_node_to_clear_with, no_node_to_fill_with, rights_and_flags, nodes_are_relinked,
	  runs_are_moved, five_levels, sparse, memory_shrinks, reused_without_discard,
	  nodes_that_suffice, check_finds_it, no_memory, random_operations)
