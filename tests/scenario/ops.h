/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * One operation on memory, for scenario.py; see ops.c
 */

#include <stddef.h>

#define PAGE	4096UL
#define N	16	/* pages of the range */

enum memory { ANON, SHMEM, FILE_PRIVATE };

struct room {
	enum memory memory;
	int fd;			/* of the file or memfd; -1 for anon */
	char *base;		/* the range: N pages, nothing near it */
	char *other;		/* a place of the same kind, where nothing is at first */
	char *self;		/* our program, to be executed again */
};

struct op {
	const char *name;
	void (*prepare)(struct room *room);	/* instead of a mapping of N touched pages */
	void (*run)(struct room *room);
};

/* Each ends with an entry without a name. */
extern const struct op ops_that_map[];
extern const struct op ops_that_run[];

void fail(const char *what) __attribute__((__noreturn__));
/* One line on stdout in one write(2), without any memory of stdio's. */
void say(const char *format, ...) __attribute__((__format__(__printf__, 1, 2)));
/* Maps @pages at @at, of the room's memory; touches them if asked. */
void map_at(struct room *room, char *at, size_t pages, int touch);
