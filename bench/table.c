/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * bench-table: a device page table is filled, and emptied
 *
 *	socket=PATH	of the daemon
 *
 * The same GiB in different shapes, and pages strewn over a TiB.  Device addresses are
 * scattered, so that what is mapped on its own stays on its own.
 *
 *	1g		one translation
 *	2m		of 2 MiB each
 *	4k		of 4 KiB each
 *	each		the same, but dropped page by page
 *	sparse		SPARSE pages of 4 KiB, anywhere
 *
 *	SHAPE.map	mirror_device_map() of all, and a version for each 2 MiB
 *	SHAPE.unmap	mirror_device_unmap() of all, in one call (each: one a page)
 *	SHAPE.memory	of the table when it is full: 1/1000 bytes a page; told once, as
 *			nodes that were used before are kept for the next time
 */

#include <mirror/device.h>
#include <sys/mman.h>
#include <unistd.h>
#include "device.h"

#define TIB (1UL << 40)
#define GIB (1UL << 30)
#define SPARSE 10000

struct shape {
	const char *map, *unmap, *memory;
	size_t unit;			/* 0: strewn */
	bool each;
};

#define SHAPE(_name, _unit, _each) \
	{ _name ".map", _name ".unmap", _name ".memory", _unit, _each }

static const struct shape shapes[] = {
	SHAPE("1g", GIB, false), SHAPE("2m", 2UL << 20, false), SHAPE("4k", PAGE, false),
	SHAPE("each", PAGE, true), SHAPE("sparse", 0, false),
};

static struct mirror_target *target;
static struct mirror_device *dense, *strewn;
static char *gib, *tib;
static unsigned int n_turns;
static uint64_t n_unmapped, strewn_at[SPARSE];

static void on_unmap(struct mirror_device *device, const struct mirror_device_range *range,
		     void *userdata)
{
	(void)device;
	(void)userdata;
	n_unmapped += range->end - range->start;
}

static uint64_t bytes_of(struct mirror_device *device)
{
	struct mirror_device_stats stats = { .sz = sizeof(stats) };

	must(mirror_device_get_stats(device, &stats), "mirror_device_get_stats");
	return stats.bytes;
}

static void must_unmap(struct mirror_device *device, const char *start, size_t bytes)
{
	must(mirror_device_unmap(device, (uintptr_t)start, (uintptr_t)start + bytes),
	     "mirror_device_unmap");
}

static void empty(const struct shape *shape)
{
	if (!shape->unit)
		must_unmap(strewn, tib, TIB);
	else if (!shape->each)
		must_unmap(dense, gib, GIB);
	else
		for (size_t i = 0; i < GIB; i += PAGE)
			must_unmap(dense, gib + i, PAGE);
}

static void fill(const struct shape *shape)
{
	if (shape->unit)
		device_fill(dense, gib, GIB, shape->unit);
	else
		for (size_t i = 0; i < SPARSE; i++)
			device_fill(strewn, tib + strewn_at[i], PAGE, PAGE);
}

static void tell_memory(const struct shape *shape, uint64_t n_pages)
{
	static struct samples s;

	s.name = shape->memory;
	samples_add(&s, bytes_of(shape->unit ? dense : strewn) * 1000 / n_pages);
	samples_say(&s);
}

static void run_shape(const struct shape *shape, unsigned int count)
{
	static struct samples map, unmap;
	uint64_t n_pages = shape->unit ? GIB / PAGE : SPARSE, t;

	map.name = shape->map;
	unmap.name = shape->unmap;
	for (unsigned int i = 0; i < count; i++) {
		n_unmapped = 0;
		t = now_ns();
		fill(shape);
		samples_add(&map, now_ns() - t);
		if (!n_turns && !i && !shape->each)
			tell_memory(shape, n_pages);
		t = now_ns();
		empty(shape);
		samples_add(&unmap, now_ns() - t);
		if (n_unmapped != n_pages * PAGE)
			fail("%s: %llu bytes of %llu", unmap.name, (unsigned long long)n_unmapped,
			     (unsigned long long)(n_pages * PAGE));
	}
	samples_say(&map);
	samples_say(&unmap);
}

static void run_drop(unsigned int count)
{
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++)
		run_shape(&shapes[i], count);
	n_turns++;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Different pages, in no order that means anything. */
static void strew(void)
{
	uint64_t random = 88172645463325252ULL, sorted[SPARSE];

	for (size_t i = 0; i < SPARSE; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		strewn_at[i] = sorted[i] = random % (TIB / PAGE) * PAGE;
	}
	qsort(sorted, SPARSE, sizeof(*sorted), compare);
	for (size_t i = 1; i < SPARSE; i++)
		if (sorted[i] == sorted[i - 1])
			fail("a page is strewn twice");
}

static struct mirror_device *new_device(char *start, size_t bytes)
{
	struct mirror_device_ops ops = { .sz = sizeof(ops), .unmap = on_unmap };
	struct mirror_device *device;

	must_be_there(mirror_device_new(&device, target, (uintptr_t)start,
					(uintptr_t)start + bytes, &ops, NULL, NULL),
		      "mirror_device_new");
	return device;
}

int main(int argc, char **argv)
{
	static const struct turn turns[] = { { "drop", run_drop } };

	(void)argc;
	gib = device_room(GIB, GIB, PROT_READ | PROT_WRITE);
	tib = device_room(TIB, GIB, PROT_READ | PROT_WRITE);
	strew();
	target = session_attach(session_open(argv, 0), 0);
	dense = new_device(gib, GIB);
	strewn = new_device(tib, TIB);
	take_turns(turns, ARRAY_SIZE(turns));
	puts("done");
	fflush(stdout);
	_exit(0);
}
