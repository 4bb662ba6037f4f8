/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A program that knows nothing of mirrord and changes its memory in every way
 * that shows: run it under 'mirrorctl run'
 */

#define _GNU_SOURCE 1
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES(_n)	((size_t)(_n) * (size_t)sysconf(_SC_PAGESIZE))

static void fail(const char *what)
{
	perror(what);
	exit(EXIT_FAILURE);
}

static char *map(size_t size)
{
	char *p;

	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		fail("mmap");
	memset(p, 1, size);

	return p;
}

/* stdout in one write(2) a line: no buffer of stdio's to be mapped in between */
static void say(const char *text, const void *at)
{
	char line[128];
	int n;

	n = snprintf(line, sizeof(line), "target: %-28s at %p\n", text, at);
	if (write(STDOUT_FILENO, line, (size_t)n) < 0)
		exit(EXIT_FAILURE);
}

static void change_mappings(void)
{
	char *p, *room, *moved;

	p = map(PAGES(16));
	room = map(PAGES(64));

	say("munmap, a hole of 4 pages", p + PAGES(4));
	if (munmap(p + PAGES(4), PAGES(4)) < 0)
		fail("munmap");

	say("madvise, DONTNEED 4 pages", p + PAGES(8));
	if (madvise(p + PAGES(8), PAGES(4), MADV_DONTNEED) < 0)
		fail("madvise");
	if (p[PAGES(8)] != 0)
		fail("old contents");

	say("mremap, move 4 pages", p);
	moved = mremap(p, PAGES(4), PAGES(4), MREMAP_MAYMOVE | MREMAP_FIXED, room + PAGES(32));
	if (moved == MAP_FAILED)
		fail("mremap");

	say("mmap, MAP_FIXED over 4 pages", room);
	if (mmap(room, PAGES(4), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
	    room)
		fail("mmap");

	say("munmap, all of it", room);
	munmap(p + PAGES(8), PAGES(8));
	munmap(room, PAGES(64));
}

static void change_heap(void)
{
	char *top;

	/* sbrk(3) and malloc(3) share the heap; nothing is allocated meanwhile */
	top = sbrk((intptr_t)PAGES(16));
	if (top == (void *)-1)
		fail("sbrk");
	memset(top, 1, PAGES(16));

	say("brk, shrink by 16 pages", top);
	if (brk(top) < 0)
		fail("brk");
}

static void make_child(void)
{
	pid_t child;
	char *p;

	say("fork", NULL);
	child = fork();
	if (child < 0)
		fail("fork");
	if (!child) {
		p = map(PAGES(8));
		say("munmap, in the child", p);
		munmap(p, PAGES(8));
		_exit(0);
	}
	if (waitpid(child, NULL, 0) < 0)
		fail("waitpid");
}

int main(void)
{
	change_mappings();
	change_heap();
	make_child();
	say("exit", NULL);

	return EXIT_SUCCESS;
}
