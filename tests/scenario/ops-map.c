/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Operations on mappings
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "ops.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static void unmap(char *base, long from, long to)
{
	if (munmap(base + from * (long)PAGE, (size_t)(to - from) * PAGE) < 0)
		fail("munmap");
}

/* Past the C library, so that nobody sees it come: an unwatched neighbour. */
static void map_unseen(char *at, size_t pages)
{
	long p = syscall(SYS_mmap, at, pages * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0L);

	if (p != (long)(uintptr_t)at)
		fail("mmap of a neighbour");
	memset(at, 2, pages * PAGE);
}

/* ---- munmap ---- */

static void munmap_whole(struct room *room)
{
	unmap(room->base, 0, N);
}

static void munmap_head(struct room *room)
{
	unmap(room->base, 0, 4);
}

static void munmap_hole(struct room *room)
{
	unmap(room->base, 4, 8);
}

static void with_neighbours(struct room *room)
{
	map_at(room, room->base, N, 1);
	map_unseen(room->base - 2 * PAGE, 2);
	map_unseen(room->base + N * PAGE, 2);
}

static void munmap_superset(struct room *room)
{
	unmap(room->base, -4, N + 4);
}

static void with_hole(struct room *room)
{
	map_at(room, room->base, N, 1);
	unmap(room->base, 6, 10);
}

static void munmap_nothing(struct room *room)
{
	unmap(room->other, 0, N);
}

/* ---- mmap ---- */

static void map_fixed(struct room *room, long from, long to)
{
	char *at = room->base + from * (long)PAGE;

	if (mmap(at, (size_t)(to - from) * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at)
		fail("mmap");
	memset(at, 3, (size_t)(to - from) * PAGE);
}

static void fixed_whole(struct room *room)
{
	map_fixed(room, 0, N);
}

static void fixed_hole(struct room *room)
{
	map_fixed(room, 4, 8);
}

/* What replaced a watched mapping is watched as well. */
static void fixed_again(struct room *room)
{
	map_fixed(room, 0, N);
	unmap(room->base, 0, N);
}

static void mmap_new(struct room *room)
{
	map_at(room, room->other, N, 1);
}

static void noreplace(struct room *room)
{
	void *p = mmap(room->base, PAGE, PROT_READ,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p != MAP_FAILED || errno != EEXIST)
		fail("MAP_FIXED_NOREPLACE");
}

/* ---- brk ---- */

static void with_heap(struct room *room)
{
	uintptr_t top = (uintptr_t)sbrk(0);

	room->base = (char *)((top + PAGE - 1) & ~(PAGE - 1));
	if (brk(room->base + N * PAGE) < 0)
		fail("brk");
	memset(room->base, 1, N * PAGE);
}

static void brk_shrink(struct room *room)
{
	if (brk(room->base + 4 * PAGE) < 0)
		fail("brk");
}

static void brk_grow(struct room *room)
{
	if (brk(room->base + 2 * N * PAGE) < 0)
		fail("brk");
	memset(room->base + N * PAGE, 1, N * PAGE);
}

/* ---- mremap ---- */

static char *move(struct room *room, size_t pages, int flags, char *to)
{
	char *p = mremap(room->base, N * PAGE, pages * PAGE, flags, to);

	if (p == MAP_FAILED)
		fail("mremap");
	return p;
}

static void mremap_shrink(struct room *room)
{
	move(room, 4, 0, NULL);
}

static void with_blocker(struct room *room)
{
	map_at(room, room->base, N, 1);
	map_unseen(room->base + N * PAGE, 1);
}

static void mremap_move(struct room *room)
{
	say("to %p", (void *)move(room, 2 * N, MREMAP_MAYMOVE, NULL));
}

static void mremap_fixed(struct room *room)
{
	move(room, N, MREMAP_MAYMOVE | MREMAP_FIXED, room->other);
}

static void with_both(struct room *room)
{
	map_at(room, room->base, N, 1);
	map_at(room, room->other, N, 1);
}

static void mremap_again(struct room *room)
{
	mremap_fixed(room);
	unmap(room->other, 0, N);
}

static void mremap_dontunmap(struct room *room)
{
	say("to %p", (void *)move(room, N, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL));
}

static void mremap_grow(struct room *room)
{
	if (move(room, N + 4, 0, NULL) != room->base)
		fail("mremap moved it");
}

/* ---- madvise ---- */

static void advise(char *base, long from, long to, int advice)
{
	if (madvise(base + from * (long)PAGE, (size_t)(to - from) * PAGE, advice) < 0)
		fail("madvise");
}

static void dontneed_whole(struct room *room)
{
	advise(room->base, 0, N, MADV_DONTNEED);
}

static void dontneed_part(struct room *room)
{
	advise(room->base, 4, 8, MADV_DONTNEED);
}

static void with_two(struct room *room)
{
	map_at(room, room->base, N, 1);
	if (mprotect(room->base + N / 2 * PAGE, N / 2 * PAGE, PROT_READ) < 0)
		fail("mprotect");
}

static void with_untouched(struct room *room)
{
	map_at(room, room->base, N, 0);
}

static void advise_free(struct room *room)
{
	advise(room->base, 0, N, MADV_FREE);
}

static void advise_remove(struct room *room)
{
	advise(room->base, 0, N, MADV_REMOVE);
}

static void willneed(struct room *room)
{
	advise(room->base, 0, N, MADV_WILLNEED);
}

static void cold(struct room *room)
{
	advise(room->base, 0, N, MADV_COLD);
}

/* ---- what changes nothing ---- */

static void protect(struct room *room)
{
	if (mprotect(room->base, N * PAGE, PROT_READ) < 0 ||
	    mprotect(room->base, N * PAGE, PROT_READ | PROT_WRITE) < 0)
		fail("mprotect");
}

static void lock(struct room *room)
{
	if (mlock(room->base, N * PAGE) < 0 || munlock(room->base, N * PAGE) < 0)
		fail("mlock");
}

static void faults(struct room *room)
{
	volatile char *p = room->base;

	for (size_t i = 0; i < N; i++)
		(void)p[i * PAGE];
	for (size_t i = 0; i < N; i++)
		p[i * PAGE] = 1;
}

const struct op ops_that_map[] = {
	{ "munmap-whole", NULL, munmap_whole },
	{ "munmap-head", NULL, munmap_head },
	{ "munmap-hole", NULL, munmap_hole },
	{ "munmap-superset", with_neighbours, munmap_superset },
	{ "munmap-two", with_hole, munmap_whole },
	{ "munmap-nothing", NULL, munmap_nothing },
	{ "fixed-whole", NULL, fixed_whole },
	{ "fixed-hole", NULL, fixed_hole },
	{ "fixed-again", NULL, fixed_again },
	{ "mmap-new", NULL, mmap_new },
	{ "noreplace", NULL, noreplace },
	{ "brk-shrink", with_heap, brk_shrink },
	{ "brk-grow", with_heap, brk_grow },
	{ "mremap-shrink", NULL, mremap_shrink },
	{ "mremap-move", with_blocker, mremap_move },
	{ "mremap-fixed", NULL, mremap_fixed },
	{ "mremap-over", with_both, mremap_fixed },
	{ "mremap-again", NULL, mremap_again },
	{ "mremap-dontunmap", NULL, mremap_dontunmap },
	{ "mremap-grow", NULL, mremap_grow },
	{ "dontneed-whole", NULL, dontneed_whole },
	{ "dontneed-part", NULL, dontneed_part },
	{ "dontneed-two", with_two, dontneed_whole },
	{ "dontneed-untouched", with_untouched, dontneed_whole },
	{ "free", NULL, advise_free },
	{ "remove", NULL, advise_remove },
	{ "willneed", NULL, willneed },
	{ "cold", NULL, cold },
	{ "mprotect", NULL, protect },
	{ "mlock", NULL, lock },
	{ "faults", with_untouched, faults },
	{ NULL, NULL, NULL },
};
