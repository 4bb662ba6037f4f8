/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Readers beside the writer of a radix
 *
 * The address in each entry tells of which page it is, and its flags of which
 * region: so nothing but an entry of the page that was asked for passes.
 *
 *	HOME	pages come and go, in leaves of all sizes
 *	TRIP	as HOME, and from time to time all of it moves to AWAY and back
 *	KEPT	pages that never change, among some that are taken off leaves and put
 *		back, which splits and merges: they must be found at all times
 *
 * A node that was freed last is used again first, so freed ones come back soon.
 */
#include <mirror/table.h>
#include <pthread.h>
#include <sys/mman.h>
#include "radix.h"
#include "unit.h"

#define STEPS 100000
#define NODES 1100
#define GIB (1ULL << 30)
#define MIB2 (1ULL << 21)
#define HOME (5 * GIB)
#define TRIP (600 * GIB)
#define AWAY (40 * 512 * GIB + 88 * GIB)
#define KEPT (3 * 512 * GIB)
#define KEPT_SIZE (4 * MIB2)

#define OF_HOME (MIRROR_ENTRY_VALID | 0x100)
#define OF_TRIP (MIRROR_ENTRY_VALID | 0x200)
#define OF_KEPT (MIRROR_ENTRY_VALID | 0x400)

struct shared {
	struct radix radix;
	void *memory;
	bool over;
	uint64_t wrong;		/* an address, plus 1 */
	uint64_t hits[2];
};

struct random {
	uint64_t state;
};

static uint64_t rnd(struct random *random, uint64_t below)
{
	random->state ^= random->state << 13;
	random->state ^= random->state >> 7;
	random->state ^= random->state << 17;
	return (random->state >> 11) % below;
}

static void discard(struct radix *radix, void *memory, size_t size)
{
	(void)radix;
	madvise(memory, size, MADV_DONTNEED);
}

static bool is_kept(uint64_t offset)
{
	return offset % MIB2 < MIB2 / 2;
}

/* The address is below 2^48, so the bits above it are those of no address. */
static uint64_t value(uint64_t page, uint64_t flags)
{
	return page | 1ULL << 60 | flags;
}

static void fill(struct radix *radix, uint64_t start, uint64_t size, uint64_t flags)
{
	/* There are nodes enough; else clearing might take pages that are kept. */
	ck_assert_int_eq(radix_fill(radix, start, start + size, value(start, flags)), 0);
}

static void change(struct radix *radix, struct random *random, uint64_t base, uint64_t flags)
{
	uint64_t start = base + rnd(random, GIB / MIB2) * MIB2, size = MIB2 * (rnd(random, 3) + 1);

	switch (rnd(random, 12)) {
	case 0:
		fill(radix, base, GIB, flags);
		return;
	case 1:
		radix_clear(radix, base, base + GIB, rnd(random, 2), NULL);
		return;
	case 2 ... 4:
		fill(radix, start, size, flags);
		return;
	case 5:
		radix_clear(radix, start, start + size, true, NULL);
		return;
	}
	start += rnd(random, 512) * PAGE_BYTES;
	if (rnd(random, 2))
		fill(radix, start, PAGE_BYTES * (rnd(random, 8) + 1), flags);
	else
		radix_clear(radix, start, start + PAGE_BYTES, rnd(random, 2), NULL);
}

static void keep(struct radix *radix, struct random *random)
{
	uint64_t start = KEPT + rnd(random, KEPT_SIZE / MIB2) * MIB2 + MIB2 / 2;

	switch (rnd(random, 4)) {
	case 0:
		radix_clear(radix, start, start + MIB2 / 2, rnd(random, 2), NULL);
		return;
	case 1:
		/* Alike all over again: merged. */
		fill(radix, start - MIB2 / 2, MIB2, OF_KEPT);
		return;
	case 2:
		fill(radix, start, MIB2 / 2, OF_KEPT);
		return;
	default:
		start += rnd(random, 256) * PAGE_BYTES;
		radix_downgrade(radix, start, start + PAGE_BYTES, 0x400, 0x400, NULL);
	}
}

/* What was asked for, and where an entry of it may have been made. */
static bool is_right(uint64_t address, uint64_t entry)
{
	if (address >= AWAY && address < AWAY + 2 * GIB)
		return entry == value(address - AWAY + TRIP, OF_TRIP);
	if (address >= TRIP && address < TRIP + 2 * GIB)
		return entry == value(address, OF_TRIP);
	if (address >= KEPT && address < KEPT + KEPT_SIZE)
		return entry == value(address, OF_KEPT);
	return entry == value(address, OF_HOME);
}

struct reader {
	struct shared *shared;
	unsigned int number;
	pthread_t thread;
};

static void *read_all_the_time(void *arg)
{
	static const uint64_t bases[] = { HOME, TRIP, AWAY, KEPT };
	struct reader *reader = arg;
	struct shared *shared = reader->shared;
	struct random random = { .state = 88172645463325252ULL + reader->number };
	uint64_t hits = 0, entry, address;
	unsigned int shift, i;

	while (!__atomic_load_n(&shared->over, __ATOMIC_RELAXED)) {
		i = (unsigned int)rnd(&random, 4);
		address = rnd(&random, (i == 3 ? KEPT_SIZE : 2 * GIB) / PAGE_BYTES);
		address = bases[i] + address * PAGE_BYTES;
		entry = mirror_table_walk(shared->memory, address, &shift);
		if (entry)
			entry += address & ((1ULL << shift) - 1);
		hits += !!entry;
		if (entry ? is_right(address, entry) : i != 3 || !is_kept(address))
			continue;
		__atomic_store_n(&shared->wrong, address + 1, __ATOMIC_RELAXED);
		break;
	}
	__atomic_store_n(&shared->hits[reader->number], hits, __ATOMIC_RELAXED);
	return NULL;
}

static void write_for_a_while(struct shared *shared, struct random *random, unsigned int steps)
{
	struct radix *radix = &shared->radix;
	bool away = false;

	for (unsigned int i = 0; i < steps; i++) {
		if (__atomic_load_n(&shared->wrong, __ATOMIC_RELAXED))
			break;
		keep(radix, random);
		change(radix, random, HOME, OF_HOME);
		if (i % 64 < 48 && !away)
			change(radix, random, TRIP, OF_TRIP);
		if (i % 64 != 50)
			continue;
		ck_assert_int_eq(radix_move(radix, away ? AWAY : TRIP, away ? TRIP : AWAY, 2 * GIB),
				 0);
		away = !away;
	}
}

START_TEST(readers_see_the_page_they_ask_for)
{
	const char *text = getenv("MIRROR_SEED");
	struct random random = { .state = text ? strtoull(text, NULL, 0) : 1 };
	struct shared shared = { .radix = RADIX_NULL };
	struct reader readers[2];
	size_t size = radix_bytes(NODES);
	uint64_t wrong;

	printf("# MIRROR_SEED=%lu\n", random.state);
	fflush(stdout);
	random.state = random.state * 0x9e3779b97f4a7c15ULL | 1;
	shared.memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			     0);
	ck_assert_ptr_ne(shared.memory, MAP_FAILED);
	ck_assert_int_eq(radix_init(&shared.radix, shared.memory, NODES, 4, 1, true), 0);
	shared.radix.discard = discard;
	fill(&shared.radix, KEPT, KEPT_SIZE, OF_KEPT);
	for (unsigned int i = 0; i < 2; i++) {
		readers[i] = (struct reader) { .shared = &shared, .number = i };
		ck_assert_int_eq(pthread_create(&readers[i].thread, NULL, read_all_the_time,
						&readers[i]), 0);
	}
	write_for_a_while(&shared, &random, STEPS);
	__atomic_store_n(&shared.over, true, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(readers[i].thread, NULL);
	wrong = __atomic_load_n(&shared.wrong, __ATOMIC_RELAXED);
	ck_assert_msg(!wrong, "a wrong entry for %#lx", wrong - 1);
	ck_assert_uint_gt(shared.hits[0] + shared.hits[1], 0);
	ck_assert_int_eq(radix_check(&shared.radix), 0);
	radix_clear(&shared.radix, 0, UINT64_MAX, true, NULL);
	ck_assert_uint_eq(shared.radix.head->live, 1);
	ck_assert_int_eq(radix_check(&shared.radix), 0);
	radix_deinit(&shared.radix);
	munmap(shared.memory, size);
}
END_TEST

UNIT_MAIN("radix-readers", readers_see_the_page_they_ask_for)
