/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What mirrorctl verify calls a difference: made-up pages, one a line
 */
#include <string.h>
#include "tools/compare.h"
#include "unit.h"

/* the table's side, as "present rwx file shared written ..." in short */
#define V	MIRROR_ENTRY_VALID
#define P	(V | MIRROR_PTE_PRESENT)
#define S	(V | MIRROR_PTE_SWAPPED)
#define R	MIRROR_PTE_READ
#define W	MIRROR_PTE_WRITE
#define X	MIRROR_PTE_EXEC
#define FIL	MIRROR_PTE_FILE
#define SHD	MIRROR_PTE_SHARED
#define WRI	MIRROR_PTE_WRITTEN
#define HUG	MIRROR_PTE_HUGE
#define ZER	MIRROR_PTE_ZERO
#define NODE3	(4ULL << MIRROR_PTE_NODE_SHIFT)

/* the kernel's */
#define PRES	TRUTH_PRESENT
#define SWAP	TRUTH_SWAP
#define FILEP	TRUTH_FILE
#define GUARD	TRUTH_GUARD
#define CLEAN	TRUTH_UFFD_WP

enum mapping {
	HOLE,
	ANON_RW, ANON_R, ANON_NONE, ANON_RX,
	PRIVATE_RW, PRIVATE_RX,			/* of a file */
	SHARED_RW, SHARED_R,
	SYSV_RW,
};

static const struct truth_map maps[] = {
	[ANON_RW] = { .read = true, .write = true, .name = "" },
	[ANON_R] = { .read = true, .name = "" },
	[ANON_NONE] = { .name = "" },
	[ANON_RX] = { .read = true, .exec = true, .name = "" },
	[PRIVATE_RW] = { .read = true, .write = true, .file = true, .name = "/f" },
	[PRIVATE_RX] = { .read = true, .exec = true, .file = true, .name = "/f" },
	[SHARED_RW] = { .read = true, .write = true, .shared = true, .file = true, .name = "/f" },
	[SHARED_R] = { .read = true, .shared = true, .file = true, .name = "/f" },
	[SYSV_RW] = { .read = true, .write = true, .shared = true, .file = true, .sysv = true,
		      .name = "/SYSV00000000 (deleted)" },
};

#define SAME		COMPARE_SAME, UNTOLD_NOT
#define NOTHING		COMPARE_NOTHING, UNTOLD_NOT
#define UNKNOWN		COMPARE_UNKNOWN, UNTOLD_NOT
#define WRONG(_what)	COMPARE_##_what, UNTOLD_NOT
#define SILENT(_what, _why) COMPARE_##_what, UNTOLD_##_why

static const struct {
	uint64_t entry, word;
	enum mapping map;
	enum compare what;
	enum untold why;
} pages[] = {
	/* nothing is known: never wrong */
	{ 0, 0, HOLE, NOTHING },
	{ 0, 0, ANON_RW, NOTHING },
	{ 0, SWAP, ANON_RW, NOTHING },
	{ 0, PRES, ANON_RW, UNKNOWN },
	{ 0, PRES | FILEP, SHARED_RW, UNKNOWN },
	{ V | R, PRES, ANON_RW, UNKNOWN },
	{ MIRROR_ENTRY_LINK | R, PRES, ANON_RW, UNKNOWN },

	/* as it is */
	{ P | R | W, PRES, ANON_RW, SAME },
	{ P | R | W | WRI, PRES, ANON_RW, SAME },
	{ P | R, PRES, ANON_R, SAME },
	{ P, PRES, ANON_NONE, SAME },
	{ P | R | X, PRES, ANON_RX, SAME },
	{ P | R | X | FIL, PRES | FILEP, PRIVATE_RX, SAME },
	{ P | R | FIL, PRES | FILEP, PRIVATE_RW, SAME },
	{ P | R | W, PRES, PRIVATE_RW, SAME },
	{ P | R | W | FIL | SHD, PRES | FILEP, SHARED_RW, SAME },
	{ P | R | FIL | SHD, PRES | FILEP, SHARED_R, SAME },
	{ P | R | W | FIL | SHD, PRES | FILEP, SYSV_RW, SAME },
	{ S | R | W, SWAP, ANON_RW, SAME },

	/* less than there is to know */
	{ P | R, PRES, ANON_RW, SAME },
	{ P | R | W, PRES, ANON_RW, SAME },
	{ P | R | W, PRES | CLEAN, ANON_RW, SAME },
	{ P | R | ZER, PRES, ANON_RW, SAME },
	{ P | R | W | HUG, PRES, ANON_RW, SAME },
	{ P | R | W | NODE3, PRES, ANON_RW, SAME },
	{ S, PRES, ANON_RW, SAME },
	{ S, 0, ANON_RW, SAME },
	{ S | SHD, 0, ANON_RW, SAME },

	/* nothing is mapped */
	{ P | R | W, 0, HOLE, WRONG(UNMAPPED) },
	{ P | R | FIL, 0, HOLE, WRONG(UNMAPPED) },
	{ S | R, 0, HOLE, WRONG(UNMAPPED) },
	{ P | R | W, PRES, HOLE, WRONG(UNMAPPED) },
	{ P | R | FIL | SHD, 0, HOLE, SILENT(UNMAPPED, SHM) },
	{ S | SHD, 0, HOLE, SILENT(UNMAPPED, SHM) },

	/* something else is mapped */
	{ P | R | W | FIL | SHD, PRES, ANON_RW, SILENT(SHARED, SHM) },
	{ P | R | W | FIL | SHD, 0, ANON_R, SILENT(SHARED, SHM) },
	{ P | R | W, PRES | FILEP, SYSV_RW, SILENT(SHARED, SHM) },
	{ P | R | W, PRES | FILEP, SHARED_RW, WRONG(SHARED) },
	{ P | R | W | FIL, PRES | FILEP, SHARED_RW, WRONG(SHARED) },
	{ P | R | W, 0, SHARED_RW, WRONG(SHARED) },

	/* the page is gone */
	{ P | R | W, 0, ANON_RW, WRONG(GONE) },
	{ P | R | ZER, 0, ANON_RW, WRONG(GONE) },
	{ P | R | W, CLEAN, ANON_RW, WRONG(GONE) },
	{ P | R | W, SWAP, ANON_RW, SILENT(GONE, SWAP) },
	{ P | R | W, SWAP | GUARD, ANON_RW, SILENT(GONE, GUARD) },
	{ P | R | FIL, SWAP | GUARD, PRIVATE_RW, SILENT(GONE, GUARD) },
	{ P | R | FIL, 0, PRIVATE_RW, SILENT(GONE, FILE) },
	{ P | R | W, 0, PRIVATE_RW, SILENT(GONE, FILE) },
	{ P | R | W | FIL | SHD, 0, SHARED_RW, SILENT(GONE, FILE) },
	{ P | R | W | FIL | SHD, SWAP | CLEAN, SHARED_RW, SILENT(GONE, FILE) },
	{ P | R | FIL, 0, ANON_R, SILENT(GONE, FILE) },

	/* of another kind */
	{ P | R | FIL, PRES, PRIVATE_RW, SILENT(KIND, COPY) },
	{ P | R, PRES | FILEP, PRIVATE_RW, SILENT(KIND, FILE) },
	{ P | R | FIL, PRES, ANON_RW, WRONG(KIND) },
	{ P | R, PRES | FILEP, ANON_RW, WRONG(KIND) },
	{ P | R | SHD, PRES | FILEP, SHARED_RW, WRONG(KIND) },
	{ P | R | SHD | FIL, PRES, SHARED_RW, WRONG(KIND) },

	/* with other rights */
	{ P | R | W, PRES, ANON_R, SILENT(RIGHTS, MPROTECT) },
	{ P | R, PRES, ANON_NONE, SILENT(RIGHTS, MPROTECT) },
	{ P, PRES, ANON_RW, SILENT(RIGHTS, MPROTECT) },
	{ P | R | X, PRES, ANON_RW, SILENT(RIGHTS, MPROTECT) },
	{ P | R, PRES, ANON_RX, SILENT(RIGHTS, MPROTECT) },
	{ P | R | W | FIL | SHD, PRES | FILEP, SHARED_R, SILENT(RIGHTS, MPROTECT) },

	/* not written */
	{ P | R | W | WRI, PRES | CLEAN, ANON_RW, WRONG(WRITTEN) },
	{ P | R | W | WRI | FIL | SHD, PRES | FILEP | CLEAN, SHARED_RW, WRONG(WRITTEN) },

	/* two things at once: what somebody should have told counts more */
	{ P | R | W | WRI, PRES | CLEAN, ANON_R, WRONG(WRITTEN) },
	{ P | R | W, 0, ANON_R, WRONG(GONE) },
	{ P | R | W, PRES | FILEP, ANON_R, WRONG(KIND) },
	{ P | R | W | FIL, 0, PRIVATE_RX, SILENT(RIGHTS, MPROTECT) },
};

static struct compare_result result_of(size_t i, bool rights, bool whole)
{
	const struct compare_rules rules = { .rights = rights, .pages = whole };

	return compare_page(&rules, pages[i].entry, pages[i].word,
			    pages[i].map == HOLE ? NULL : &maps[pages[i].map]);
}

START_TEST(userfaultfd_alone)
{
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		struct compare_result result = result_of(i, false, false);

		ck_assert_msg(result.what == pages[i].what && result.why == pages[i].why,
			      "line %zu: %s/%s, not %s/%s", i, compare_to_key(result.what),
			      untold_to_key(result.why), compare_to_key(pages[i].what),
			      untold_to_key(pages[i].why));
	}
}
END_TEST

/* With a source that tells everything the same pages are wrong, and nothing is untold. */
START_TEST(everything_is_told)
{
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		struct compare_result result = result_of(i, true, true);

		ck_assert_msg(result.why == UNTOLD_NOT, "line %zu", i);
		ck_assert_msg((result.what >= COMPARE_UNMAPPED) ==
			      (pages[i].what >= COMPARE_UNMAPPED), "line %zu", i);
	}
}
END_TEST

/* Each of the two answers for its own. */
START_TEST(one_of_two_is_told)
{
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		bool mprotect = pages[i].why == UNTOLD_MPROTECT;

		if (pages[i].why == UNTOLD_NOT || (pages[i].what == COMPARE_RIGHTS &&
						   !(pages[i].word & PRES)))
			continue;
		ck_assert_msg((result_of(i, true, false).why == UNTOLD_NOT) == mprotect,
			      "line %zu", i);
		ck_assert_msg((result_of(i, false, true).why == UNTOLD_NOT) == !mprotect,
			      "line %zu", i);
	}
}
END_TEST

START_TEST(everything_has_a_name)
{
	for (int i = 0; i < _COMPARE_N; i++) {
		ck_assert_uint_gt(strlen(compare_to_string((enum compare)i)), 0);
		ck_assert_uint_gt(strlen(compare_to_key((enum compare)i)), 0);
	}
	for (int i = UNTOLD_NOT + 1; i < _UNTOLD_N; i++) {
		ck_assert_uint_gt(strlen(untold_to_string((enum untold)i)), 0);
		ck_assert_uint_gt(strlen(untold_to_key((enum untold)i)), 0);
	}
}
END_TEST

UNIT_MAIN("compare", userfaultfd_alone, everything_is_told, one_of_two_is_told,
	  everything_has_a_name)
