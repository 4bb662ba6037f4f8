/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Device page tables from inside: what each event does to one, whatever its cause. */
#include <string.h>
#include <sys/mman.h>
#include "device-scene.h"

struct expect {
	const char *what;
	unsigned int type;
	struct { uint32_t prot; uint64_t owner; } arg;
	unsigned int reaction;
	unsigned int unmaps, downgrades;
	uint64_t take;
	int nodes;		/* more than before; the two at the ends are split */
};

#define ALL MIRROR_DEVICE_RIGHTS
#define W MIRROR_DEVICE_WRITE
#define X MIRROR_DEVICE_EXEC

static const struct expect expects[] = {
	{ "none", 0, { 0, 0 }, MIRROR_REACTION_FREE, PIECES, 0, ALL, 1 },
	{ "unmap", MIRROR_EVENT_UNMAP, { 0, 0 }, MIRROR_REACTION_FREE, PIECES, 0, ALL, 1 },
	{ "clear", MIRROR_EVENT_CLEAR, { 0, 0 }, MIRROR_REACTION_CLEAR, PIECES, 0, ALL, 2 },
	{ "prot none", MIRROR_EVENT_PROTECTION_VMA, { PROT_NONE, 0 }, MIRROR_REACTION_PROTECT,
	  PIECES, 0, ALL, 2 },
	{ "prot r", MIRROR_EVENT_PROTECTION_VMA, { PROT_READ, 0 }, MIRROR_REACTION_PROTECT,
	  0, PIECES, W | X, 2 },
	{ "prot rx", MIRROR_EVENT_PROTECTION_VMA, { PROT_READ | PROT_EXEC, 0 },
	  MIRROR_REACTION_PROTECT, 0, PIECES, W, 2 },
	{ "prot rw", MIRROR_EVENT_PROTECTION_VMA, { PROT_READ | PROT_WRITE, 0 },
	  MIRROR_REACTION_PROTECT, 0, 1, X, 1 },
	{ "prot rwx", MIRROR_EVENT_PROTECTION_VMA, { PROT_READ | PROT_WRITE | PROT_EXEC, 0 },
	  MIRROR_REACTION_PROTECT, 0, 0, 0, 0 },
	{ "protection page", MIRROR_EVENT_PROTECTION_PAGE, { 0, 0 }, MIRROR_REACTION_READ_ONLY,
	  0, PIECES, W, 2 },
	{ "soft dirty", MIRROR_EVENT_SOFT_DIRTY, { 0, 0 }, MIRROR_REACTION_NONE, 0, 0, 0, 0 },
	{ "migrate", MIRROR_EVENT_MIGRATE, { 0, 0 }, MIRROR_REACTION_CLEAR, PIECES, 0, ALL, 2 },
	{ "migrate other", MIRROR_EVENT_MIGRATE, { 0, OWNER + 1 }, MIRROR_REACTION_CLEAR,
	  PIECES, 0, ALL, 2 },
	{ "migrate own", MIRROR_EVENT_MIGRATE, { 0, OWNER }, MIRROR_REACTION_NONE, 0, 0, 0, 0 },
	{ "exclusive", MIRROR_EVENT_EXCLUSIVE, { 0, 0 }, MIRROR_REACTION_CLEAR,
	  PIECES, 0, ALL, 2 },
	{ "exclusive own", MIRROR_EVENT_EXCLUSIVE, { 0, OWNER }, MIRROR_REACTION_NONE,
	  0, 0, 0, 0 },
	{ "fork", MIRROR_EVENT_FORK, { 0, 0 }, MIRROR_REACTION_NONE, 0, 0, 0, 0 },
	{ "fault", MIRROR_EVENT_FAULT, { 0, 0 }, MIRROR_REACTION_CLEAR, PIECES, 0, ALL, 2 },
	{ "unknown", 200, { 0, 0 }, MIRROR_REACTION_FREE, PIECES, 0, ALL, 1 },
};

/* Counts that a reaction may not touch are as they were. */
static void check_stats(const struct expect *e, const struct mirror_device_stats *before)
{
	struct mirror_device_stats now = stats(), want = *before;

	want.mapped = now.mapped;	/* checked by check_table() */
	want.bytes = now.bytes;
	want.nodes = (uint64_t)((int64_t)want.nodes + e->nodes);
	want.unmaps += e->unmaps;
	want.downgrades += e->downgrades;
	want.flushes += e->unmaps + e->downgrades > 0;
	if (e->reaction != MIRROR_REACTION_NONE)
		want.reactions[e->reaction]++;
	ck_assert_msg(now.nodes == want.nodes, "%s: %lu nodes, not %lu", e->what, now.nodes,
		      want.nodes);
	ck_assert_mem_eq(&now, &want, sizeof(now));
}

static void try_event(const struct expect *e, unsigned int cause)
{
	struct mirror_event ev = event_of(e->type, cause);
	struct mirror_device_stats before;
	uint64_t generation;
	bool takes = e->unmaps + e->downgrades > 0;

	device_begin_with(NULL);
	fill();
	if (e->type == MIRROR_EVENT_PROTECTION_VMA)
		ev.arg.protection.prot_new = e->arg.prot;
	else
		ev.arg.owner.cookie = e->arg.owner;
	before = stats();
	generation = s.device->generation;
	inject(ev);
	model_take(FROM, TO, e->take);
	ck_assert_uint_eq(s.n_event, 1);
	check_counts(0, e->unmaps, e->downgrades, takes);
	check_table();
	check_stats(e, &before);
	ck_assert_int_eq(s.device->generation != generation, takes);
	ck_assert(!s.device->frozen);

	/* an END asks for nothing, and the same again finds nothing */
	before = stats();
	ev.flags = MIRROR_EVENT_F_END;
	inject(ev);
	ck_assert_uint_eq(s.n_event, 0);
	ck_assert_uint_eq(stats().reactions[e->reaction], before.reactions[e->reaction]);
	ev.flags = MIRROR_EVENT_F_POINT;
	inject(ev);
	check_counts(0, 0, 0, 0);
	check_table();
	device_over();
}

START_TEST(events_have_their_reactions)
{
	scene_begin();
	for (size_t i = 0; i < ARRAY_SIZE(expects); i++)
		for (unsigned int cause = 0; cause <= MIRROR_CAUSES; cause++)
			try_event(&expects[i], cause);
	scene_end();
}
END_TEST

/* Those that are about everything, whatever range their record has. */
static void try_all(unsigned int type, unsigned int cause, bool freezes)
{
	struct mirror_event ev = event_of(type, cause);
	unsigned int reaction = freezes ? MIRROR_REACTION_FREEZE : MIRROR_REACTION_FREE;
	struct mirror_device_range range;
	uint64_t version;

	device_begin_with(NULL);
	fill();
	if (cause % 2)
		ev.start = ev.end = 0;
	inject(ev);
	model_take(0, SIZE, ALL);
	check_counts(0, PIECES + 1, 0, 1);
	check_table();
	ck_assert_uint_eq(stats().nodes, 1);
	ck_assert_uint_eq(stats().reactions[reaction], 1);
	ok(mirror_read_begin(s.device->notifier, s.base, s.base + P, &version));
	ck_assert_int_eq(mirror_device_map(s.device, s.base, s.base + P, 0, RW, version),
			 freezes ? -ESRCH : 0);
	ck_assert_int_eq(mirror_device_translate(s.device, s.base, 0, &range),
			 freezes ? -ESRCH : 0);
	device_over();
}

START_TEST(release_and_overflow)
{
	scene_begin();
	for (unsigned int cause = 0; cause <= MIRROR_CAUSES; cause++) {
		try_all(MIRROR_EVENT_RELEASE, cause, true);
		try_all(MIRROR_EVENT_OVERFLOW, cause, false);
	}
	scene_end();
}
END_TEST

START_TEST(reactions_by_option)
{
	uint8_t reaction[16];

	scene_begin();
	for (unsigned int r = MIRROR_REACTION_NONE; r < MIRROR_REACTIONS; r++) {
		/* for another event than its own, a move is a free, a protect a clear */
		bool all = r == MIRROR_REACTION_FREEZE, none = r == MIRROR_REACTION_NONE;
		bool down = r == MIRROR_REACTION_READ_ONLY;

		memset(reaction, (int)r, sizeof(reaction));
		device_begin_with(reaction);
		fill();
		inject(event_of(MIRROR_EVENT_SOFT_DIRTY, 0));
		model_take(all ? 0 : FROM, all ? SIZE : TO, none ? 0 : down ? W : ALL);
		check_counts(0, none || down ? 0 : all ? PIECES + 1 : PIECES, down ? PIECES : 0,
			     !none);
		check_table();
		ck_assert_int_eq(s.device->frozen, all);
		device_over();
	}
	reaction[3] = MIRROR_REACTIONS;
	ck_assert_int_eq(mirror_device_new(&s.device, s.target, s.base, s.base + P, &scene_ops,
					   &(struct mirror_device_opts) {
						.sz = sizeof(struct mirror_device_opts),
						.reaction = { 0, 0, 0, MIRROR_REACTIONS },
					   }, &s), -E2BIG);
	scene_end();
}
END_TEST

UNIT_MAIN("device-react", events_have_their_reactions, release_and_overflow,
	  reactions_by_option)
