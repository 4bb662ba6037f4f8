/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A program that does one operation on its memory, for scenario.py
 *
 *	ops OPERATION anon|shmem|file [DIRECTORY]
 *
 * It knows nothing of mirrord.  Two pages, each a mapping of its own, are unmapped
 * right before and right after the operation: these marks tell the reader of the
 * events where it begins and ends.  All addresses are said beforehand:
 *
 *	pid PID
 *	range START END
 *	other START
 *	mark ADDRESS
 *	mark ADDRESS
 *
 * and "to ADDRESS" afterwards, if the kernel chose one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "ops.h"

#define ARENA	(1UL << 32)

void fail(const char *what)
{
	say("failed %s: %s", what, strerror(errno));
	_exit(99);
}

void say(const char *format, ...)
{
	char line[256];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line) - 1, format, args);
	va_end(args);
	line[n++] = '\n';
	if (write(STDOUT_FILENO, line, (size_t)n) != n)
		_exit(98);
}

void map_at(struct room *room, char *at, size_t pages, int touch)
{
	int flags = room->memory == SHMEM ? MAP_SHARED : MAP_PRIVATE;
	void *p;

	if (room->memory == ANON)
		flags |= MAP_ANONYMOUS;
	p = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE,
		 room->fd, 0);
	if (p != at)
		fail("mmap");
	if (touch)
		memset(at, 1, pages * PAGE);
}

static int open_file(const char *dir)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/ops-XXXXXX", dir);
	fd = mkstemp(path);
	if (fd < 0 || unlink(path) < 0 || ftruncate(fd, 4 * N * PAGE) < 0)
		fail(dir);
	return fd;
}

static void room_init(struct room *room, const char *memory, const char *dir)
{
	char *arena;

	room->fd = -1;
	if (!strcmp(memory, "anon")) {
		room->memory = ANON;
	} else if (!strcmp(memory, "shmem")) {
		room->memory = SHMEM;
		room->fd = memfd_create("ops", MFD_CLOEXEC);
		if (room->fd < 0 || ftruncate(room->fd, 4 * N * PAGE) < 0)
			fail("memfd");
	} else if (!strcmp(memory, "file") && dir) {
		room->memory = FILE_PRIVATE;
		room->fd = open_file(dir);
	} else {
		fail("memory");
	}
	/* the middle of a large hole: nobody else's mappings get here */
	arena = mmap(NULL, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (arena == MAP_FAILED || munmap(arena, ARENA) < 0)
		fail("arena");
	room->base = arena + ARENA / 2;
	room->other = room->base + 64 * N * PAGE;
}

static char *make_mark(char *at)
{
	char *p;

	p = mmap(at, PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != at)
		fail("mark");
	*p = 1;
	say("mark %p", (void *)at);
	return at;
}

static const struct op *find(const char *name)
{
	const struct op *const tables[] = { ops_that_map, ops_that_run };

	for (int i = 0; i < 2; i++)
		for (const struct op *op = tables[i]; op->name; op++)
			if (!strcmp(op->name, name))
				return op;
	errno = EINVAL;
	fail(name);
}

int main(int argc, char **argv)
{
	struct room room = { .self = argv[0] };
	const struct op *op;
	char *first, *second;

	if (argc < 3)
		fail("usage");
	op = find(argv[1]);
	room_init(&room, argv[2], argv[3]);
	say("pid %d", (int)getpid());
	if (op->prepare)
		op->prepare(&room);
	else
		map_at(&room, room.base, N, 1);
	say("range %p %p", (void *)room.base, (void *)(room.base + N * PAGE));
	say("other %p", (void *)room.other);
	first = make_mark(room.base + 256 * N * PAGE);
	second = make_mark(room.base + 260 * N * PAGE);

	munmap(first, PAGE);
	op->run(&room);
	munmap(second, PAGE);
	return 0;
}
