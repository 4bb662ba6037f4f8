/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory goes, or its content does. */
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "scenario.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static uint64_t victim_size(struct env *e)
{
	return e->victim_end - e->victim;
}

/* From the start of the area. */
static uint64_t victim_from(struct env *e)
{
	return e->victim - e->area;
}

static void advise(struct env *e, uint64_t at, uint64_t size, unsigned int advice)
{
	long r = cpu_call(e, SYS_madvise, at, size, advice);

	if (r == -EOPNOTSUPP || r == -EINVAL)
		tap_skip_case("the kernel does not do that to such memory");
	check_ok(r);
}

/* The device was told of the victim, of each page once, and of nothing else. */
static void only_the_victim_went(struct env *e)
{
	check_is(invalidations(e, e->victim, victim_size(e)), victim_size(e) / PAGE,
		 "pages of the victim that the device was told to forget");
	check_is(invalidations(e, e->area, e->size), victim_size(e) / PAGE,
		 "pages of all that it was told to forget");
}

static void unmapped(struct env *e)
{
	struct dmirror_cmd cmd = { .buffer = e->buffer };

	device_read(e, e->area, e->size, 1, 0);
	unmap_memory(e, e->victim, victim_size(e));
	device_fails(e, e->victim, victim_size(e), false, -EFAULT);
	device_fails(e, e->victim, PAGE, true, -EFAULT);
	rest_is_untouched(e, 1);
	only_the_victim_went(e);
	if (e->victim == e->area)
		return;
	/* a command that gets to it on its way stops there */
	cmd.address = e->area;
	cmd.bytes = e->size;
	check_is(dmirror_read(e->q, &cmd), -EFAULT, "the device reads over the hole");
	check_is(cmd.n_done, victim_from(e), "bytes before the hole");
}

static void unmapped_all(struct env *e)
{
	device_write(e, e->area, e->size, 2, 0);
	unmap_memory(e, e->area, e->size);
	device_fails(e, e->area, e->size, false, -EFAULT);
	device_fails(e, e->area, e->size, true, -EFAULT);
	check_is(dmirror_mapped(e->dm), 0, "pages the device has");
	check_is(invalidations(e, e->area, e->size), e->size / PAGE, "pages it was told");
}

static void unmapped_in_pieces(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	for (uint64_t at = 0; at < e->size; at += 2 * e->unit)
		unmap_memory(e, e->area + at, e->unit);
	for (uint64_t at = 0; at < e->size; at += 2 * e->unit) {
		device_fails(e, e->area + at, e->unit, false, -EFAULT);
		check_is(device_read(e, e->area + at + e->unit, e->unit, 1, at + e->unit), 0,
			 "faults between the holes");
	}
	check_is(dmirror_mapped(e->dm), e->size / PAGE / 2, "pages the device has");
}

static void mapped_again(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	cpu_hold(e, e->victim, victim_size(e));
	unmap_memory(e, e->victim, victim_size(e));
	map_memory(e, e->victim, victim_size(e), 2 * e->size, 2);
	check(device_read(e, e->victim, victim_size(e), 2, 0) > 0, "no fault");
	rest_is_untouched(e, 1);
	only_the_victim_went(e);
}

static void mapped_over(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	cpu_hold(e, e->victim, victim_size(e));
	map_memory(e, e->victim, victim_size(e), 2 * e->size, 2);
	check(device_read(e, e->victim, victim_size(e), 2, 0) > 0, "no fault");
	device_write(e, e->victim, victim_size(e), 3, 0);
	check(cpu_has(e, e->victim, victim_size(e), 3, 0), "the CPU does not see it");
	rest_is_untouched(e, 1);
}

/* The pages of before must not be written by the device either. */
static void written_after_mapped_over(struct env *e)
{
	device_write(e, e->area, e->size, 2, 0);
	cpu_hold(e, e->victim, victim_size(e));
	map_memory(e, e->victim, victim_size(e), 2 * e->size, 3);
	device_write(e, e->victim, victim_size(e), 4, 0);
	check(cpu_has(e, e->victim, victim_size(e), 4, 0), "the CPU does not see it");
	rest_is_untouched(e, 2);
	if (!(OF_SHARED & BIT(e->type)))
		return;
	check_is(pread(e->fd, e->buffer, e->size, 0), e->size, "reading the file");
	check(pattern_is(e->buffer, e->size, 2, 0), "the device wrote to what was unmapped");
}

/* Anonymous memory takes its place; then memory of its own kind that of that. */
static void mapped_over_by_others(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	cpu_hold(e, e->victim, victim_size(e));
	check_is(cpu_call(e, SYS_mmap, e->victim, victim_size(e), PROT_READ | PROT_WRITE,
			  MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1), e->victim,
		 "mmap");
	cpu_fill(e, e->victim, victim_size(e), 3, 0);
	device_read(e, e->victim, victim_size(e), 3, 0);
	rest_is_untouched(e, 1);
	map_memory(e, e->victim, victim_size(e), 2 * e->size, 4);
	device_read(e, e->victim, victim_size(e), 4, 0);
	rest_is_untouched(e, 1);
}

static void mapped_over_often(struct env *e)
{
	for (unsigned int i = 2; i < 40; i++) {
		device_read(e, e->area, e->size, i - 1, 0);
		map_memory(e, e->area, e->size, (i + 1) % 2 * 2 * e->size, i);
	}
	device_read(e, e->area, e->size, 39, 0);
}

/* What is behind the victim once it is dropped. */
static unsigned int generation_behind(struct env *e)
{
	return OF_ANON & BIT(e->type) ? 0 : 1;
}

static void dropped(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	cpu_hold(e, e->victim, victim_size(e));
	advise(e, e->victim, victim_size(e), MADV_DONTNEED);
	check(device_read(e, e->victim, victim_size(e), generation_behind(e),
			  victim_from(e)) > 0, "no fault");
	rest_is_untouched(e, 1);
	only_the_victim_went(e);
}

static void dropped_then_written(struct env *e)
{
	map_memory(e, e->area, e->size, 0, 1);
	env_device(e, true);
	device_read(e, e->area, e->size, 1, 0);
	for (unsigned int i = 2; i < 6; i++) {
		cpu_hold(e, e->victim, victim_size(e));
		advise(e, e->victim, victim_size(e), MADV_DONTNEED);
		if (i % 2)	/* the device is first, or the CPU */
			device_read(e, e->victim, victim_size(e),
				    OF_SHARED & BIT(e->type) ? i - 1 : generation_behind(e),
				    victim_from(e));
		cpu_fill(e, e->victim, victim_size(e), i, victim_from(e));
		device_read(e, e->victim, victim_size(e), i, victim_from(e));
	}
	rest_is_untouched(e, 1);
}

/* Copies go, and the file's pages are there again. */
static void copies_dropped(struct env *e)
{
	device_write(e, e->area, e->size, 2, 0);
	cpu_hold(e, e->victim, victim_size(e));
	advise(e, e->victim, victim_size(e), MADV_DONTNEED);
	device_read(e, e->victim, victim_size(e), 1, victim_from(e));
	rest_is_untouched(e, 2);
	only_the_victim_went(e);
}

static void removed(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	advise(e, e->victim, victim_size(e), MADV_REMOVE);
	check(device_read(e, e->victim, victim_size(e), 0, 0) > 0, "no fault");
	only_the_victim_went(e);
	cpu_fill(e, e->victim, victim_size(e), 3, 0);
	device_read(e, e->victim, victim_size(e), 3, 0);
	rest_is_untouched(e, 1);
}

static void freed(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	advise(e, e->victim, victim_size(e), MADV_FREE);
	cpu_fill(e, e->victim, victim_size(e), 2, 0);
	check(device_read(e, e->victim, victim_size(e), 2, 0) > 0, "no fault");
	rest_is_untouched(e, 1);
	only_the_victim_went(e);
}

/* ---- changes between the driver's look-up and its entry ---- */

/* Another thread of the driver's hears of it: the reaction has been, and comes no more. */
static void hear(struct env *e)
{
	struct mirror_notifier *notifier = mirror_device_get_notifier(dmirror_device(e->dm));
	uint64_t version;
	int r;

	r = mirror_read_begin(notifier, e->victim, e->victim_end, &version);
	check(r == 0 || r == -EFAULT, "hearing of it: %s", tap_errno(r));
}

static void between_unmap(struct env *e)
{
	unmap_memory(e, e->victim, victim_size(e));
	hear(e);
}

/* Of what is mapped over it: never the same twice. */
static unsigned int between_generation = 1;

static void between_map_over(struct env *e)
{
	between_generation++;
	cpu_hold(e, e->victim, victim_size(e));
	map_memory(e, e->victim, victim_size(e), (2 + between_generation % 2) * e->size,
		   between_generation);
}

static void between_map_over_heard(struct env *e)
{
	between_map_over(e);
	hear(e);
}

static void between_drop(struct env *e)
{
	cpu_hold(e, e->victim, victim_size(e));
	advise(e, e->victim, victim_size(e), MADV_DONTNEED);
	hear(e);
}

static void unmapped_between(struct env *e)
{
	e->between = between_unmap;
	device_fails(e, e->victim, victim_size(e), false, -EFAULT);
	check(!e->between, "there was no look-up");
	check_is(dmirror_mapped(e->dm), 0, "pages the device has");
}

static void mapped_over_between(struct env *e)
{
	for (unsigned int i = 0; i < 4; i++) {
		unsigned int wanted = between_generation + 1;

		e->between = i < 2 ? between_map_over : between_map_over_heard;
		if (i % 2)
			device_write(e, e->victim, victim_size(e), 9, 0);
		else
			device_read(e, e->victim, victim_size(e), wanted, 0);
		check(!e->between, "there was no look-up");
		check(cpu_has(e, e->victim, victim_size(e), i % 2 ? 9 : wanted, 0),
		      "the CPU has something else");
		check_ok(mirror_device_unmap(dmirror_device(e->dm), e->victim, e->victim_end));
	}
}

static void dropped_between(struct env *e)
{
	e->between = between_drop;
	device_read(e, e->victim, victim_size(e), generation_behind(e), victim_from(e));
	check(!e->between, "there was no look-up");
}

static void file_cut(struct env *e)
{
	struct dmirror_cmd cmd = { .address = e->victim, .buffer = e->buffer, .bytes = PAGE };

	need_kernel(e, "truncation");
	device_read(e, e->area, e->size, 1, 0);
	check_ok(ftruncate(e->fd, (off_t)victim_from(e)));
	check(dmirror_read(e->q, &cmd) < 0, "the device reads behind the end of the file");
	check_is(device_read(e, e->area, victim_from(e), 1, 0), 0, "faults before its end");
	check_ok(ftruncate(e->fd, (off_t)e->size));
	device_read(e, e->victim, victim_size(e), 0, 0);
}

/* ---- huge pages in part ---- */

static void split(struct env *e)
{
	uint64_t hole = e->area + HUGE / 2;

	device_read(e, e->area, e->size, 1, 0);
	unmap_memory(e, hole, PAGE);
	device_fails(e, hole, PAGE, false, -EFAULT);
	check_is(device_read(e, e->area, HUGE / 2, 1, 0), 0, "faults before the hole");
	check_is(device_read(e, hole + PAGE, e->size - HUGE / 2 - PAGE, 1, HUGE / 2 + PAGE), 0,
		 "faults after it");
	check_is(invalidations(e, hole, PAGE), 1, "invalidations of the hole");
	check_is(dmirror_mapped(e->dm), e->size / PAGE - 1, "pages the device has");
}

static void split_by_drop(struct env *e)
{
	uint64_t hole = e->area + HUGE / 2;

	device_read(e, e->area, e->size, 1, 0);
	cpu_hold(e, e->area, HUGE);
	advise(e, hole, 4 * PAGE, MADV_DONTNEED);
	device_read(e, hole, 4 * PAGE, 0, 0);
	check_is(device_read(e, e->area, HUGE / 2, 1, 0), 0, "faults before the hole");
	check_is(device_read(e, hole + 4 * PAGE, e->size - HUGE / 2 - 4 * PAGE, 1,
			     HUGE / 2 + 4 * PAGE), 0, "faults after it");
}

static void collapsed(struct env *e)
{
	long r;

	need_kernel(e, "that small pages became a huge one");
	check_is(cpu_call(e, SYS_mmap, e->area, HUGE, PROT_READ | PROT_WRITE,
			  MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, (uint64_t)-1), e->area, "mmap");
	check_ok(cpu_call(e, SYS_madvise, e->area, HUGE, MADV_NOHUGEPAGE));
	cpu_fill(e, e->area, HUGE, 1, 0);
	env_device(e, false);
	device_read(e, e->area, HUGE, 1, 0);
	check_ok(cpu_call(e, SYS_madvise, e->area, HUGE, MADV_HUGEPAGE));
	r = cpu_call(e, SYS_madvise, e->area, HUGE, MADV_COLLAPSE);
	if (r < 0)
		tap_skip_case("MADV_COLLAPSE: %s", tap_errno(r));
	device_read(e, e->area, HUGE, 1, 0);
	cpu_fill(e, e->area, HUGE, 2, 0);
	device_read(e, e->area, HUGE, 2, 0);
}

/* ---- brk ---- */

/* The C library must not want the heap to grow while we are playing with its end. */
static long do_calm_malloc(const uint64_t *args)
{
	(void)args;
	mallopt(M_TOP_PAD, 4 << 20);
	mallopt(M_TRIM_THRESHOLD, 64 << 20);
	free(malloc(64 << 10));
	return 0;
}

static void brk_to(struct env *e, uint64_t end)
{
	check_is(cpu_call(e, SYS_brk, end), end, "brk");
}

static void heap(struct env *e)
{
	uint64_t n = 16 * PAGE, start;
	long r;

	cpu_run(e, do_calm_malloc, cpu_args(0));
	r = cpu_call(e, SYS_brk, 0);
	check_ok(r);
	start = ((uint64_t)r + PAGE - 1) / PAGE * PAGE;
	e->window = start;
	env_device(e, false);
	brk_to(e, start + n);
	cpu_fill(e, start, n, 1, 0);
	check_is(device_read(e, start, n, 1, 0), 1, "faults");
	brk_to(e, start + 2 * n);
	cpu_fill(e, start + n, n, 2, 0);
	check_is(device_read(e, start, n, 1, 0), 0, "faults in what was there before");
	check(device_read(e, start + n, n, 2, 0) > 0, "no fault in what is new");
	cpu_hold(e, start + n / 2, n);
	brk_to(e, start + n / 2);
	device_fails(e, start + n / 2, n / 2, false, -EFAULT);
	device_fails(e, start + n, n, true, -EFAULT);
	check_is(device_read(e, start, n / 2, 1, 0), 0, "faults in what stayed");
	brk_to(e, start + n);
	cpu_fill(e, start + n / 2, n / 2, 3, 0);
	check(device_read(e, start + n / 2, n / 2, 3, 0) > 0, "no fault");
	check_is(device_read(e, start, n / 2, 1, 0), 0, "faults in what stayed");
	brk_to(e, start);
	device_fails(e, start, n, false, -EFAULT);
	check_is(dmirror_mapped(e->dm), 0, "pages the device has");
}

/* ---- much ---- */

static void huge_range(struct env *e)
{
	uint64_t size = 64ULL << 30, step = 1ULL << 30;
	long r;

	e->window_size = size;
	r = cpu_call(e, SYS_mmap, e->window, size, PROT_READ | PROT_WRITE,
		     MAP_FIXED_NOREPLACE | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		     (uint64_t)-1);
	if (r < 0)
		tap_skip_case("so much cannot be mapped: %s", tap_errno(r));
	env_device(e, false);
	for (uint64_t at = 0; at < size; at += step)
		cpu_fill(e, e->window + at + at / step * PAGE, 2 * PAGE, 1, at);
	for (uint64_t at = 0; at < size; at += step)
		device_read(e, e->window + at + at / step * PAGE, 2 * PAGE, 1, at);
	check_is(dmirror_mapped(e->dm), 2 * size / step, "pages the device has");
	unmap_memory(e, e->window + size / 4, size / 2);
	for (uint64_t at = 0; at < size; at += step) {
		if (at >= size / 4 && at < size / 4 * 3)
			device_fails(e, e->window + at + at / step * PAGE, PAGE, false, -EFAULT);
		else
			check_is(device_read(e, e->window + at + at / step * PAGE, PAGE, 1, at), 0,
				 "faults in what stayed");
	}
	check_is(dmirror_mapped(e->dm), size / step, "pages the device has");
}

const struct scenario unmap_scenarios[] = {
	{ "munmap", unmapped, OF_ALL, 0 },
	{ "munmap of all", unmapped_all, OF_ALL, 0 },
	{ "munmap in pieces", unmapped_in_pieces, OF_ALL, 0 },
	{ "munmap, and mmap at the same address", mapped_again, OF_ALL, 0 },
	{ "mmap over it", mapped_over, OF_ALL, 0 },
	{ "mmap over it, the device writes", written_after_mapped_over, OF_ALL, 0 },
	{ "mmap over it of another kind, and back", mapped_over_by_others, OF_ALL, 0 },
	{ "mmap over it, often", mapped_over_often, OF_ALL & ~BIT(MEMORY_HUGETLB), 0 },
	{ "MADV_DONTNEED", dropped, OF_ALL, 0 },
	{ "MADV_DONTNEED, then writes", dropped_then_written, OF_ALL, OWN_MEMORY },
	{ "MADV_DONTNEED of copies", copies_dropped, BIT(MEMORY_FILE_PRIVATE), 0 },
	{ "MADV_REMOVE", removed, OF_SHARED, 0 },
	{ "MADV_FREE", freed, BIT(MEMORY_ANON) | BIT(MEMORY_THP), 0 },
	{ "munmap while it is looked up", unmapped_between, OF_ALL, 0 },
	{ "mmap over it while it is looked up", mapped_over_between, OF_ALL, 0 },
	{ "MADV_DONTNEED while it is looked up", dropped_between, OF_ALL, 0 },
	{ "truncation", file_cut, OF_SHARED | BIT(MEMORY_FILE_PRIVATE), 0 },
	{ "munmap of a part of a huge page", split, BIT(MEMORY_THP), 0 },
	{ "MADV_DONTNEED of a part of a huge page", split_by_drop, BIT(MEMORY_THP), 0 },
	{ "MADV_COLLAPSE", collapsed, BIT(MEMORY_THP), OWN_MEMORY },
	{ "brk", heap, BIT(MEMORY_ANON), OWN_MEMORY },
	{ "64 GiB", huge_range, BIT(MEMORY_ANON), OWN_MEMORY },
	{ NULL, NULL, 0, 0 },
};
