/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory moves, grows and shrinks; and everything mixed
 *
 * Records come in the order of messages, not of changes, so libmirror moves
 * translations only where it can be sure that nothing came in between, or if the
 * device vouches for the target.  Where it is not sure, which is a matter of time as
 * well, the device has to ask again: then it is tested what it gets, and not how; but
 * in its own process, and looking after each change, it must be sure now and then.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "scenario.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define MOVE (MREMAP_MAYMOVE | MREMAP_FIXED)

static void move(struct env *e, uint64_t from, uint64_t to, uint64_t size)
{
	check_is(cpu_call(e, SYS_mremap, from, size, size, MOVE, to), to, "mremap");
}

/* Faults of the device on what has moved. */
static bool comes_along(struct env *e, uint64_t faults)
{
	if (e->vouched)
		check_is(faults, 0, "faults of the device on what has moved");
	return faults == 0;
}

static uint64_t victim_size(struct env *e)
{
	return e->victim_end - e->victim;
}

static void moved(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	move(e, e->area, e->spare, e->size);
	comes_along(e, device_read(e, e->spare, e->size, 1, 0));
	device_fails(e, e->area, e->size, false, -EFAULT);
	check_is(invalidations(e, e->area, e->size), e->size / PAGE,
		 "invalidations of the old place");
	check_is(invalidations(e, e->spare, e->size), 0, "invalidations of the new one");
	check_is(dmirror_mapped(e->dm), e->size / PAGE, "pages the device has");
	if (e->type == MEMORY_FILE_PRIVATE)
		return;		/* a copy on write */
	cpu_fill(e, e->spare, e->size, 2, 0);
	check_is(device_read(e, e->spare, e->size, 2, 0), 0, "faults after the CPU wrote");
}

static void moved_writable(struct env *e)
{
	device_write(e, e->area, e->size, 2, 0);
	move(e, e->area, e->spare, e->size);
	comes_along(e, device_write(e, e->spare, e->size, 3, 0));
	check(cpu_has(e, e->spare, e->size, 3, 0), "the CPU does not see it");
}

static void moved_in_part(struct env *e)
{
	uint64_t from = e->victim - e->area;

	device_read(e, e->area, e->size, 1, 0);
	move(e, e->victim, e->spare, victim_size(e));
	comes_along(e, device_read(e, e->spare, victim_size(e), 1, from));
	device_fails(e, e->victim, victim_size(e), false, -EFAULT);
	rest_is_untouched(e, 1);
}

/* There and back, to a place that was just left. */
static void moved_often(struct env *e)
{
	uint64_t at = e->area, to = e->spare;
	unsigned int n_along = 0;

	device_read(e, at, e->size, 1, 0);
	for (unsigned int i = 0; i < 9; i++) {
		move(e, at, to, e->size);
		n_along += comes_along(e, device_read(e, to, e->size, 1, 0));
		device_fails(e, at, e->size, false, -EFAULT);
		to = at;
		at = at == e->area ? e->spare : e->area;
	}
	check(n_along || e->way->remote, "no translation has ever moved");
}

/* Not looked at in between: the device hears of all of it at once. */
static void moved_unseen(struct env *e)
{
	uint64_t other = e->spare + 4 * HUGE;

	device_read(e, e->area, e->size, 1, 0);
	move(e, e->area, e->spare, e->size);
	move(e, e->spare, other, e->size);
	comes_along(e, device_read(e, other, e->size, 1, 0));
	device_fails(e, e->area, e->size, false, -EFAULT);
	device_fails(e, e->spare, e->size, false, -EFAULT);
}

static void moved_out(struct env *e)
{
	uint64_t outside = e->window + 4 * WINDOW;

	device_read(e, e->area, e->size, 1, 0);
	move(e, e->area, outside, e->size);
	device_fails(e, e->area, e->size, false, -EFAULT);
	check_is(dmirror_mapped(e->dm), 0, "pages the device has");
	move(e, outside, e->area, e->size);
	check(device_read(e, e->area, e->size, 1, 0) > 0, "no fault");
}

static void grown(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	check_is(cpu_call(e, SYS_mremap, e->area, e->size, 2 * e->size, 0), e->area, "mremap");
	cpu_fill(e, e->area + e->size, e->size, 2, 0);
	check_is(device_read(e, e->area, e->size, 1, 0), 0, "faults in what was there before");
	check(device_read(e, e->area + e->size, e->size, 2, 0) > 0, "no fault in what is new");
}

static void grown_elsewhere(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	check_is(cpu_call(e, SYS_mremap, e->area, e->size, 2 * e->size, MOVE, e->spare), e->spare,
		 "mremap");
	cpu_fill(e, e->spare + e->size, e->size, 2, 0);
	comes_along(e, device_read(e, e->spare, e->size, 1, 0));
	check(device_read(e, e->spare + e->size, e->size, 2, 0) > 0, "no fault in what is new");
	device_fails(e, e->area, e->size, false, -EFAULT);
}

static void shrunk(struct env *e)
{
	uint64_t half = e->size / 2;

	device_read(e, e->area, e->size, 1, 0);
	check_is(cpu_call(e, SYS_mremap, e->area, e->size, half, 0), e->area, "mremap");
	device_fails(e, e->area + half, half, false, -EFAULT);
	check_is(device_read(e, e->area, half, 1, 0), 0, "faults in what stayed");
	check_is(invalidations(e, e->area + half, half), half / PAGE, "invalidations");
	check_is(invalidations(e, e->area, half), 0, "invalidations of what stayed");
}

/* Memory that the device does not know comes to where it is. */
static void moved_onto(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	map_memory(e, e->spare, victim_size(e), 2 * e->size, 2);
	cpu_hold(e, e->victim, victim_size(e));
	move(e, e->spare, e->victim, victim_size(e));
	check(device_read(e, e->victim, victim_size(e), 2, 0) > 0, "no fault");
	rest_is_untouched(e, 1);
	device_fails(e, e->spare, victim_size(e), false, -EFAULT);
}

static void known_moved_onto(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	map_memory(e, e->spare, victim_size(e), 2 * e->size, 2);
	device_read(e, e->spare, victim_size(e), 2, 0);
	cpu_hold(e, e->victim, victim_size(e));
	move(e, e->spare, e->victim, victim_size(e));
	comes_along(e, device_read(e, e->victim, victim_size(e), 2, 0));
	rest_is_untouched(e, 1);
	device_fails(e, e->spare, victim_size(e), false, -EFAULT);
}

static void exchanged(struct env *e)
{
	uint64_t half = e->size / 2, other = e->area + half;

	device_read(e, e->area, e->size, 1, 0);
	move(e, e->area, e->spare, half);
	move(e, other, e->area, half);
	move(e, e->spare, other, half);
	comes_along(e, device_read(e, e->area, half, 1, half));
	comes_along(e, device_read(e, other, half, 1, 0));
}

static void moved_and_kept(struct env *e)
{
	unsigned int behind = OF_ANON & BIT(e->type) ? 0 : 1;
	long r;

	device_read(e, e->area, e->size, 1, 0);
	r = cpu_call(e, SYS_mremap, e->area, e->size, e->size, MOVE | MREMAP_DONTUNMAP, e->spare);
	if (r == -EINVAL)
		tap_skip_case("the kernel does not do that to such memory");
	check_is(r, e->spare, "mremap");
	/* the old place first: a move is a change of that, and the new one need not wait */
	check(device_read(e, e->area, e->size, behind, 0) > 0, "no fault at the old place");
	comes_along(e, device_read(e, e->spare, e->size, 1, 0));
}

/* ---- all at once ---- */

#define CELLS	16
#define STEPS	250
#define STEPS_HUGE 60

/* What a unit of the window ought to hold. */
struct cell {
	bool mapped;
	uint64_t offset;		/* in what is behind it */
	unsigned int generation;	/* 0: zeros */
	unsigned int behind;		/* after MADV_DONTNEED, if it is private */
};

struct mixture {
	struct cell cells[CELLS];
	unsigned int n;
	unsigned int generation;
};

static uint64_t cell_at(struct env *e, unsigned int i)
{
	return e->area + i * e->unit;
}

static bool offset_is_used(const struct mixture *m, uint64_t offset)
{
	for (unsigned int i = 0; i < m->n; i++)
		if (m->cells[i].mapped && m->cells[i].offset == offset)
			return true;
	return false;
}

static void mix_map(struct env *e, struct mixture *m, unsigned int i)
{
	uint64_t offset = 0;

	while (offset_is_used(m, offset))
		offset += e->unit;
	m->generation++;
	map_memory(e, cell_at(e, i), e->unit, offset, m->generation);
	m->cells[i] = (struct cell) {
		.mapped = true, .offset = offset, .generation = m->generation,
		.behind = e->fd < 0 ? 0 : m->generation,
	};
}

static void mix_write(struct env *e, struct mixture *m, unsigned int i, bool device)
{
	m->cells[i].generation = ++m->generation;
	if (device)
		device_write(e, cell_at(e, i), e->unit, m->generation, 0);
	else
		cpu_fill(e, cell_at(e, i), e->unit, m->generation, 0);
}

static void mix_step(struct env *e, struct mixture *m)
{
	unsigned int i = random_below(m->n), to = random_below(m->n);
	struct cell *cell = &m->cells[i];

	switch (random_below(8)) {
	case 0:
		if (cell->mapped)
			unmap_memory(e, cell_at(e, i), e->unit);
		cell->mapped = false;
		return;
	case 1:
	case 2:
		mix_map(e, m, i);
		return;
	}
	if (!cell->mapped)
		return;
	switch (random_below(5)) {
	case 0:
		check_ok(cpu_call(e, SYS_madvise, cell_at(e, i), e->unit, MADV_DONTNEED));
		if (!(OF_SHARED & BIT(e->type)))
			cell->generation = cell->behind;
		return;
	case 1:
		if (to == i)
			return;
		move(e, cell_at(e, i), cell_at(e, to), e->unit);
		m->cells[to] = *cell;
		cell->mapped = false;
		return;
	case 2:
		mix_write(e, m, i, false);
		return;
	default:
		mix_write(e, m, i, true);
	}
}

static void mixed(struct env *e)
{
	struct mixture m = { .n = e->unit == HUGE ? 4 : CELLS };
	unsigned int n_steps = e->unit == HUGE ? STEPS_HUGE : STEPS, i;

	env_device(e, true);
	for (unsigned int step = 0; step < n_steps; step++) {
		mix_step(e, &m);
		for (unsigned int k = 0; k < 2; k++) {
			i = random_below(m.n);
			if (m.cells[i].mapped)
				device_read(e, cell_at(e, i), e->unit, m.cells[i].generation, 0);
			else
				device_fails(e, cell_at(e, i), e->unit, k, -EFAULT);
		}
	}
	for (i = 0; i < m.n; i++)
		if (m.cells[i].mapped)
			check(cpu_has(e, cell_at(e, i), e->unit, m.cells[i].generation, 0),
			      "the CPU has something else than the model");
}

#define SMALL (OF_ALL & ~BIT(MEMORY_HUGETLB))

const struct scenario remap_scenarios[] = {
	{ "mremap", moved, OF_ALL, MOVES },
	{ "mremap of what the device wrote", moved_writable, OF_ALL, MOVES },
	{ "mremap of a part", moved_in_part, OF_ALL, MOVES },
	{ "mremap there and back", moved_often, OF_ALL, MOVES },
	{ "mremap twice, unseen", moved_unseen, OF_ALL, MOVES },
	{ "mremap out of the device's range, and back", moved_out, OF_ALL, MOVES },
	{ "mremap grows", grown, SMALL, MOVES },
	{ "mremap grows and moves", grown_elsewhere, SMALL, MOVES },
	{ "mremap shrinks", shrunk, OF_ALL, MOVES },
	{ "mremap onto it", moved_onto, OF_ALL, MOVES },
	{ "mremap onto it of what the device knows", known_moved_onto, OF_ALL, MOVES },
	{ "mremap exchanges", exchanged, OF_ALL, MOVES },
	{ "mremap that keeps the old place", moved_and_kept, OF_ALL, MOVES },
	{ "mixture", mixed, OF_ALL, OWN_MEMORY | MOVES },
	{ NULL, NULL, 0, 0 },
};
