/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include "core/gate.h"
#include "shm.h"
#include "unit.h"

static void *gate_memory(void)
{
	void *p = mmap(NULL, GATE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(p, MAP_FAILED);
	return p;
}

static uint64_t started_of(const struct gate *g, uint64_t address)
{
	return g->stripes[gate_index(address >> GATE_STRIPE_SHIFT, GATE_STRIPES)].started;
}

static bool is_quiet(const struct gate *g, uint64_t address)
{
	const struct mirror_gate_stripe *s =
		&g->stripes[gate_index(address >> GATE_STRIPE_SHIFT, GATE_STRIPES)];

	return s->started == s->ended;
}

START_TEST(a_change_step_by_step)
{
	struct gate g;
	uint64_t a = 0x7f0000000000, far = a + (8ULL << GATE_STRIPE_SHIFT), v, w;

	gate_init(&g, gate_memory(), 7, 1234);
	ck_assert_uint_eq(g.shm->life, 0);
	ck_assert_uint_eq(g.shm->state, MIRROR_GATE_RELEASED);
	gate_revive(&g);
	ck_assert_uint_eq(gate_head_load(g.shm).life, 1234);
	ck_assert_uint_eq(gate_head_load(g.shm).seq & 1, 0);

	v = started_of(&g, a);
	w = started_of(&g, far);
	gate_unknown_begin(&g);
	ck_assert_uint_eq(gate_head_load(g.shm).seq & 1, 1);
	gate_start(&g, a, a + PAGE_BYTES);
	ck_assert_uint_eq(started_of(&g, a), v + 1);
	ck_assert_uint_eq(started_of(&g, far), w);
	ck_assert(!is_quiet(&g, a) && is_quiet(&g, far));
	gate_unknown_end(&g);
	ck_assert_uint_eq(gate_head_load(g.shm).seq & 1, 0);
	gate_end(&g, a, a + PAGE_BYTES);
	ck_assert(is_quiet(&g, a));
	ck_assert_uint_eq(started_of(&g, a), v + 1);

	gate_release(&g, MIRROR_GATE_RELEASED);
	ck_assert_uint_ne(gate_head_load(g.shm).life, 1234);
}
END_TEST

static void check_cover(struct gate *g, uint64_t first_block, uint64_t blocks)
{
	static uint64_t before[GATE_STRIPES];
	uint64_t start = (first_block << GATE_STRIPE_SHIFT) + PAGE_BYTES;
	uint64_t end = ((first_block + blocks) << GATE_STRIPE_SHIFT) - PAGE_BYTES;
	bool missed = false;

	for (int i = 0; i < GATE_STRIPES; i++)
		before[i] = g->stripes[i].started;
	gate_start(g, start, end);
	for (uint64_t b = first_block; b < first_block + blocks; b++) {
		uint32_t i = gate_index(b, GATE_STRIPES);

		missed = missed || g->stripes[i].started == before[i];
	}
	ck_assert_msg(!missed, "first block %lu, %lu blocks", first_block, blocks);
	gate_end(g, start, end);
	for (int i = 0; i < GATE_STRIPES; i++)
		missed = missed || g->stripes[i].started != g->stripes[i].ended;
	ck_assert(!missed);
}

/* Every block of a range has its stripe moved, however large and wherever it begins. */
START_TEST(ranges_cover_their_blocks)
{
	struct gate g;

	gate_init(&g, gate_memory(), 1, 1);
	for (uint64_t blocks = 1; blocks <= 3 * GATE_STRIPES; blocks += 1 + blocks / 5)
		for (uint64_t i = 0; i < 40; i++)
			check_cover(&g, GATE_STRIPES * (5 + i * 3) - blocks / 2 + i, blocks);
}
END_TEST

/* All that was valid before an address space came is not valid in it. */
START_TEST(revival_invalidates)
{
	struct gate g;

	gate_init(&g, gate_memory(), 1, 1);
	gate_revive(&g);
	for (int i = 0; i < GATE_STRIPES; i++) {
		ck_assert_uint_ge(g.stripes[i].started, 1);
		ck_assert_uint_eq(g.stripes[i].started, g.stripes[i].ended);
	}
}
END_TEST

struct shared {
	struct gate g;
	uint64_t truth;		/* what the address translates to, changed by the writer */
	uint64_t let_go;	/* the newest change whose target was let go */
	bool stop;
};

static void *changer(void *arg)
{
	struct shared *s = arg;

	for (uint64_t i = 1; i <= 200000; i++) {
		store_release(&s->truth, i);		/* the change itself */
		gate_unknown_begin(&s->g);
		store_release(&s->let_go, i);		/* the read that lets the target go */
		gate_start(&s->g, 0, PAGE_BYTES);
		gate_unknown_end(&s->g);
		gate_end(&s->g, 0, PAGE_BYTES);
	}
	store_release(&s->stop, true);
	return NULL;
}

/* ORDERED, with real threads: a lookup after "let go" never returns older truth. */
START_TEST(lookups_are_ordered)
{
	struct shared s = { .truth = 0 };
	uint64_t cached = 0, version = 0, hits = 0;
	bool valid = false;
	pthread_t thread;

	gate_init(&s.g, gate_memory(), 1, 1);
	gate_revive(&s.g);
	ck_assert_int_eq(pthread_create(&thread, NULL, changer, &s), 0);
	while (!load_acquire(&s.stop)) {
		uint64_t let_go = load_acquire(&s.let_go);
		struct gate_head head = gate_head_load(s.g.shm);
		struct mirror_gate_stripe *stripe = s.g.stripes;

		if (head.seq & 1)
			continue;
		if (valid && load_relaxed(&stripe->started) == version) {
			ck_assert_uint_ge(cached, let_go);
			hits++;
			continue;
		}
		valid = false;
		version = load_acquire(&stripe->started);
		if (load_acquire(&stripe->ended) != version)
			continue;
		cached = load_acquire(&s.truth);
		head = gate_head_load(s.g.shm);
		valid = !(head.seq & 1) && load_relaxed(&stripe->started) == version;
	}
	pthread_join(thread, NULL);
	(void)hits;
}
END_TEST

UNIT_MAIN("gate", a_change_step_by_step, ranges_cover_their_blocks, revival_invalidates,
	  lookups_are_ordered)
