/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What events do to a mirror table, against a model that is an array of pages
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "core/quota.h"
#include "core/table.h"
#include "unit.h"

#define PAGES	2048U
#define NODES	512U
/* Across a border of 1 GiB, so that each level has one inside. */
#define BASE	((1ULL << 30) - PAGES / 2 * PAGE_BYTES)
#define VALID	MIRROR_ENTRY_VALID
#define RW	(VALID | MIRROR_PTE_PRESENT | MIRROR_PTE_READ | MIRROR_PTE_WRITE)

static struct table table;
static void *memory;
static size_t bytes;
static uint64_t model[PAGES];
static uint64_t seed = 88172645463325252ULL;

static uint64_t rnd(uint64_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % below;
}

static void begin(uint32_t n_nodes)
{
	bytes = radix_bytes(n_nodes);
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(memory, MAP_FAILED);
	ck_assert_int_eq(table_init(&table, memory, n_nodes, 7), 0);
	memset(model, 0, sizeof(model));
}

static void end(void)
{
	const struct mirror_table *head = memory;

	ck_assert_uint_eq(head->state, MIRROR_TABLE_LIVE);
	table_deinit(&table);
	ck_assert_uint_eq(head->state, MIRROR_TABLE_MOVED);
	munmap(memory, bytes);
}

static uint64_t at(uint64_t page)
{
	return BASE + page * PAGE_BYTES;
}

static uint64_t entry_of(uint64_t page)
{
	return radix_get(&table.radix, at(page));
}

/* Asserting costs, and pages are many. */
static void same(uint64_t page, uint64_t want)
{
	uint64_t entry = entry_of(page);

	if (entry != want)
		ck_abort_msg("page %u: %#llx, not %#llx", (unsigned int)page,
			     (unsigned long long)entry, (unsigned long long)want);
}

static struct event event(uint8_t type, uint64_t from, uint64_t to)
{
	return (struct event) {
		.type = type, .flags = MIRROR_EVENT_F_POINT, .start = at(from), .end = at(to),
	};
}

/* ---- each event, each kind of entry ---- */

static const uint64_t kinds[] = {
	RW,
	VALID | MIRROR_PTE_PRESENT | MIRROR_PTE_READ,
	RW | MIRROR_PTE_EXEC | MIRROR_PTE_WRITTEN,
	RW | MIRROR_PTE_FILE | MIRROR_PTE_SHARED,
	VALID | MIRROR_PTE_PRESENT | MIRROR_PTE_READ | MIRROR_PTE_ZERO,
	VALID | MIRROR_PTE_SWAPPED | MIRROR_PTE_READ,
	RW | MIRROR_PTE_HUGE | 3ULL << MIRROR_PTE_NODE_SHIFT,
};

/* What is left of an entry. */
static uint64_t left_over(const struct event *ev, uint64_t entry)
{
	uint32_t prot = (uint32_t)ev->arg[0];

	switch (ev->type) {
	case MIRROR_EVENT_SOFT_DIRTY:
	case MIRROR_EVENT_FAULT:
		return entry;
	case MIRROR_EVENT_PROTECTION_PAGE:
		return entry & ~MIRROR_PTE_WRITE;
	case MIRROR_EVENT_FORK:
		return entry & MIRROR_PTE_SHARED ? entry : entry & ~MIRROR_PTE_WRITE;
	case MIRROR_EVENT_PROTECTION_VMA:
		if (!(prot & (PROT_READ | PROT_WRITE | PROT_EXEC)))
			return 0;
		entry &= prot & PROT_READ ? ~0ULL : ~MIRROR_PTE_READ;
		entry &= prot & PROT_WRITE ? ~0ULL : ~MIRROR_PTE_WRITE;
		return entry & (prot & PROT_EXEC ? ~0ULL : ~MIRROR_PTE_EXEC);
	}
	return 0;
}

static void check_event(struct event ev, bool everywhere)
{
	for (unsigned int i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		begin(NODES);
		ck_assert_int_eq(table_enter(&table, at(0), at(PAGES), kinds[i]), 0);
		table_event(&table, &ev);
		for (unsigned int page = 0; page < PAGES; page++) {
			uint64_t want = kinds[i];

			if (everywhere || (at(page) >= ev.start && at(page) < ev.end))
				want = left_over(&ev, want);
			same(page, want);
		}
		ck_assert_int_eq(radix_check(&table.radix), 0);
		end();
	}
}

START_TEST(events_by_entries)
{
	static const uint8_t types[] = {
		MIRROR_EVENT_UNMAP, MIRROR_EVENT_CLEAR, MIRROR_EVENT_PROTECTION_PAGE,
		MIRROR_EVENT_SOFT_DIRTY, MIRROR_EVENT_MIGRATE, MIRROR_EVENT_EXCLUSIVE,
		MIRROR_EVENT_FAULT, MIRROR_EVENT_OVERFLOW, 200,
	};
	struct event ev;

	for (unsigned int i = 0; i < sizeof(types); i++) {
		check_event(event(types[i], 3, 5), false);
		check_event(event(types[i], 100, 1500), false);
		check_event(event(types[i], 0, PAGES), false);
	}
	for (uint32_t prot = 0; prot < 8; prot++) {
		ev = event(MIRROR_EVENT_PROTECTION_VMA, 511, 1025);
		ev.arg[0] = prot | ~0ULL << 32;	/* what it was before is not known */
		check_event(ev, false);
	}
	ev = event(MIRROR_EVENT_FORK, 0, 0);
	ev.start = ev.end = 0;
	check_event(ev, true);
	check_event(event(MIRROR_EVENT_RELEASE, 0, 1), true);
}
END_TEST

/* Pages move, but what is known of them does not: see core/table.c. */
START_TEST(remap_empties_both)
{
	struct event ev = event(MIRROR_EVENT_REMAP, 10, 20);

	begin(NODES);
	ck_assert_int_eq(table_enter(&table, at(0), at(PAGES), RW), 0);
	ev.arg[0] = at(600);
	table_event(&table, &ev);
	for (unsigned int page = 0; page < PAGES; page++)
		same(page, (page >= 10 && page < 20) || (page >= 600 && page < 610) ? 0 : RW);
	/* the kernel's word, but be it nonsense */
	ev.arg[0] = ~0ULL - PAGE_BYTES + 1;
	table_event(&table, &ev);
	ev.arg[0] = USER_END - PAGE_BYTES;
	table_event(&table, &ev);
	ck_assert_uint_eq(entry_of(30), RW);
	ck_assert_int_eq(radix_check(&table.radix), 0);
	end();
}
END_TEST

START_TEST(unmap_gives_nodes_back)
{
	struct event ev = event(MIRROR_EVENT_UNMAP, 0, PAGES);
	const struct mirror_table *head;

	begin(NODES);
	head = memory;
	for (unsigned int page = 0; page < PAGES; page += 2)
		ck_assert_int_eq(table_enter(&table, at(page), at(page + 1), RW), 0);
	ck_assert_uint_gt(head->live, 6);
	ev.start = 0;
	ev.end = USER_END;	/* of more than the table can hold */
	table_event(&table, &ev);
	ck_assert_uint_eq(head->live, 1);
	ck_assert_int_eq(table_enter(&table, 1ULL << 48, (1ULL << 48) + PAGE_BYTES, RW), 0);
	ck_assert_uint_eq(head->live, 1);
	end();
}
END_TEST

/* ---- between START and END ---- */

START_TEST(open_until_ended)
{
	struct event a = event(MIRROR_EVENT_CLEAR, 10, 20), b = event(MIRROR_EVENT_CLEAR, 15, 40);

	a.flags = b.flags = MIRROR_EVENT_F_START;
	begin(NODES);
	ck_assert_int_eq(table_enter(&table, at(0), at(100), RW), 0);
	ck_assert_uint_eq(table_first_open(&table, at(0), at(100)), at(100));
	table_event(&table, &a);
	ck_assert_uint_eq(entry_of(10), 0);
	ck_assert_uint_eq(entry_of(9), RW);
	ck_assert_uint_eq(table_first_open(&table, at(0), at(100)), at(10));
	ck_assert_uint_eq(table_first_open(&table, at(12), at(13)), at(12));
	ck_assert_uint_eq(table_first_open(&table, at(20), at(100)), at(100));
	ck_assert_uint_eq(table_first_open(&table, at(0), at(10)), at(10));
	table_event(&table, &b);
	ck_assert_uint_eq(table_first_open(&table, at(20), at(100)), at(20));
	/* somebody enters nevertheless: END takes it away */
	ck_assert_int_eq(table_enter(&table, at(10), at(12), RW), 0);
	table_end(&table, &a);
	ck_assert_uint_eq(entry_of(10), 0);
	ck_assert_uint_eq(table_first_open(&table, at(0), at(100)), at(15));
	table_end(&table, &b);
	ck_assert_uint_eq(table_first_open(&table, at(0), at(100)), at(100));
	end();
}
END_TEST

START_TEST(more_open_than_slots)
{
	struct event ev[TABLE_OPEN + 3];

	begin(NODES);
	for (unsigned int i = 0; i < TABLE_OPEN + 3; i++) {
		ev[i] = event(MIRROR_EVENT_CLEAR, 2 * i, 2 * i + 1);
		ev[i].flags = MIRROR_EVENT_F_START;
		table_event(&table, &ev[i]);
	}
	/* which ones is not known, so it may be any */
	ck_assert_uint_eq(table_first_open(&table, at(1), at(2)), at(1));
	for (unsigned int i = TABLE_OPEN; i < TABLE_OPEN + 3; i++)
		table_end(&table, &ev[i]);
	ck_assert_uint_eq(table_first_open(&table, at(1), at(2)), at(2));
	ck_assert_uint_eq(table_first_open(&table, at(0), at(2)), at(0));
	for (unsigned int i = 0; i < TABLE_OPEN; i++)
		table_end(&table, &ev[i]);
	ck_assert_uint_eq(table_first_open(&table, 0, USER_END), USER_END);
	end();
}
END_TEST

/* ---- many of each ---- */

static void model_event(const struct event *ev)
{
	uint64_t len = ev->end - ev->start;

	for (unsigned int page = 0; page < PAGES; page++) {
		bool inside = at(page) >= ev->start && at(page) < ev->end;

		if (ev->type == MIRROR_EVENT_REMAP && at(page) >= ev->arg[0] &&
		    at(page) < ev->arg[0] + len)
			model[page] = 0;
		if (inside || ev->type == MIRROR_EVENT_FORK || ev->type == MIRROR_EVENT_RELEASE)
			model[page] = left_over(ev, model[page]);
	}
}

/* Returns if what was entered is there. */
static bool random_enter(uint64_t from, uint64_t to)
{
	uint64_t entry = kinds[rnd(sizeof(kinds) / sizeof(kinds[0]))];
	int r = 0;

	switch (rnd(3)) {
	case 0:		/* alternating: the most nodes */
		to = MIN(to, from + 64);
		for (uint64_t page = from; r == 0 && page < to; page += 2) {
			r = table_enter(&table, at(page), at(page + 1), entry);
			model[page] = r == 0 ? entry : 0;
		}
		break;
	case 1:
		table_forget(&table, at(from), at(to), rnd(2));
		memset(model + from, 0, (to - from) * sizeof(model[0]));
		break;
	default:
		r = table_enter(&table, at(from), at(to), entry);
		for (uint64_t page = from; page < to; page++)
			model[page] = r == 0 ? entry : 0;
	}
	if (r && r != -ENOSPC)
		ck_abort_msg("error %d", -r);
	return r == 0;
}

static void random_step(void)
{
	uint64_t from = rnd(PAGES - 1), to = from + 1 + rnd(rnd(4) ? 40 : PAGES - from);
	struct event ev;

	to = MIN(to, PAGES);
	if (rnd(2)) {
		random_enter(from, to);
		return;
	}
	ev = event((uint8_t)(1 + rnd(MIRROR_EVENT_TYPES)), from, to);
	if (ev.type == MIRROR_EVENT_RELEASE && rnd(20))
		return;
	if (ev.type == MIRROR_EVENT_REMAP)
		ev.arg[0] = at(rnd(PAGES));
	else
		ev.arg[0] = rnd(8);
	table_event(&table, &ev);
	model_event(&ev);
}

START_TEST(random_against_model)
{
	begin(NODES);
	for (unsigned int i = 0; i < 2500; i++) {
		random_step();
		if (i % 40)
			continue;
		for (unsigned int page = 0; page < PAGES; page++)
			same(page, model[page]);
		ck_assert_int_eq(radix_check(&table.radix), 0);
	}
	end();
}
END_TEST

/* A table with too few nodes knows less, and nothing wrong. */
START_TEST(random_in_a_full_table)
{
	unsigned int less = 0;

	begin(6);
	for (unsigned int i = 0; i < 2500; i++) {
		random_step();
		if (i % 40)
			continue;
		for (unsigned int page = 0; page < PAGES; page++) {
			uint64_t entry = entry_of(page), most = model[page];

			/* a downgrade of more than was asked for takes rights, not the page */
			if (entry && (!most || (entry & ~most)))
				ck_abort_msg("page %u: %#llx of %#llx", page,
					     (unsigned long long)entry, (unsigned long long)most);
			less += entry != most;
		}
		ck_assert_int_eq(radix_check(&table.radix), 0);
	}
	ck_assert_uint_gt(less, 0);
	end();
}
END_TEST

/* So many runs that a fork does not tell them apart: shared ones lose WRITE, too. */
START_TEST(fork_of_many_runs)
{
	const uint64_t shared = RW | MIRROR_PTE_SHARED;
	const uint64_t page_step = 4, n = 3 * 4096;
	struct event ev = { .type = MIRROR_EVENT_FORK };
	unsigned int kept = 0;

	begin(2048);
	for (uint64_t i = 0; i < n; i++)
		if (table_enter(&table, at(i * page_step), at(i * page_step + 1),
				i % 2 ? shared : RW) < 0)
			ck_abort_msg("full");
	table_event(&table, &ev);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t entry = entry_of(i * page_step);

		if ((entry | MIRROR_PTE_WRITE) != (i % 2 ? shared : RW) ||
		    (i % 2 == 0 && (entry & MIRROR_PTE_WRITE)))
			ck_abort_msg("run %u: %#llx", (unsigned int)i, (unsigned long long)entry);
		kept += !!(entry & MIRROR_PTE_WRITE);
	}
	ck_assert_uint_gt(kept, 1000);
	end();
}
END_TEST

START_TEST(quota_of_many)
{
	struct quota_charge a = QUOTA_CHARGE_NULL, b = QUOTA_CHARGE_NULL;
	struct quota q;

	quota_init(&q);
	q.limit[QUOTA_TABLE_NODES] = 100;
	ck_assert_int_eq(quota_charge(&q, &a, 1000, QUOTA_TABLE_NODES), 0);
	ck_assert_int_eq(quota_charge(&q, &b, 1000, QUOTA_TABLE_NODES), 0);
	ck_assert_int_eq(quota_resize(&q, &a, 99), 0);
	ck_assert_int_eq(quota_resize(&q, &b, 2), -EDQUOT);
	ck_assert_int_eq(quota_resize(&q, &b, UINT32_MAX), -EDQUOT);
	ck_assert_uint_eq(b.n, 1);
	ck_assert_int_eq(quota_resize(&q, &a, 50), 0);
	ck_assert_int_eq(quota_resize(&q, &b, 50), 0);
	ck_assert_int_eq(quota_resize(&q, &b, 51), -EDQUOT);
	q.limit[QUOTA_TABLE_NODES] = 10;	/* made smaller: nobody gets more, less is fine */
	ck_assert_int_eq(quota_resize(&q, &b, 51), -EDQUOT);
	ck_assert_int_eq(quota_resize(&q, &b, 49), 0);
	quota_refund(&a);
	ck_assert_int_eq(quota_resize(&q, &b, 10), 0);
	quota_refund(&b);
	quota_deinit(&q);
}
END_TEST

UNIT_MAIN("table", events_by_entries, remap_empties_both, unmap_gives_nodes_back,
	  open_until_ended, more_open_than_slots, random_against_model, random_in_a_full_table,
	  fork_of_many_runs, quota_of_many)
