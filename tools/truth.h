/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * What the kernel itself says of a process
 *
 * Read plainly, from /proc/PID/maps and the words of /proc/PID/pagemap, and by code
 * that has nothing in common with the one that fills mirror tables: who checks must
 * not make the same mistake as who is checked.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A word of /proc/PID/pagemap */
#define TRUTH_PRESENT	(1ULL << 63)
#define TRUTH_SWAP	(1ULL << 62)	/* or whatever else is in a page table and no page */
#define TRUTH_FILE	(1ULL << 61)	/* of a file or of shared memory */
#define TRUTH_GUARD	(1ULL << 58)	/* MADV_GUARD_INSTALL */
#define TRUTH_UFFD_WP	(1ULL << 57)	/* not written since it was protected */

struct truth_map {
	uint64_t start, end;
	bool read, write, exec, shared;
	bool file;		/* has an inode, be it only that of shared memory */
	bool sysv;		/* of shmat(2) */
	bool watched;		/* by a userfaultfd; only if asked for */
	const char *name;	/* as in maps, "" if there is none */
};

struct truth {
	pid_t pid;
	int pagemap_fd;
	char *text;		/* of maps, in pieces by mapping */
	size_t text_size;
	struct truth_map *maps;
	size_t n_maps, maps_size;
};

#define TRUTH_NULL { .pagemap_fd = -1 }

/* -ESRCH; -EPERM or -EACCES if it may not be looked at */
int truth_open(struct truth *truth, pid_t pid);
void truth_close(struct truth *truth);

/* Reads the mappings anew.  @watched: also who is watched, which takes longer. */
int truth_read_maps(struct truth *truth, bool watched);

/* The first mapping that ends after @address, or NULL. */
const struct truth_map *truth_find(const struct truth *truth, uint64_t address);

/* A word for each page; 0 where there cannot be any. */
int truth_read_pages(struct truth *truth, uint64_t start, uint64_t end, uint64_t *words);
