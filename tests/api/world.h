/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * One page of each kind, and what /proc says of them by its oldest files
 */

#include <mirror/fault.h>
#include "harness.h"

enum {
	W_ANON,
	W_ZERO,		/* read, never written */
	W_ABSENT,	/* never touched */
	W_FORKED,	/* shared with a child */
	W_SHM,
	W_SHM_ABSENT,
	W_FILE,		/* private, read */
	W_FILE_ABSENT,
	W_COPIED,	/* private, written */
	W_WRITABLE,	/* that many */
	W_RDONLY = W_WRITABLE,
	W_NONE,
	W_HOLE,
	W_LAST,		/* like the first */
	W_PAGES,
};

/* What the first byte of a page is, then and ever after. */
extern const char world_byte[W_PAGES];

/* It ends with the process; so does the child of W_FORKED. */
char *world_make(void);

/*
 * PRESENT, SWAPPED, FILE, SHARED and the rights of one page, with VALID, by
 * /proc/PID/pagemap and maps; 0 if there is none.
 */
uint64_t proc_entry(pid_t pid, const void *p);
#define PROC_MASK (MIRROR_ENTRY_VALID | MIRROR_PTE_PRESENT | MIRROR_PTE_READ | MIRROR_PTE_WRITE | \
		   MIRROR_PTE_EXEC | MIRROR_PTE_FILE | MIRROR_PTE_SHARED | MIRROR_PTE_SWAPPED)

/* What we were told is what /proc says. */
void check_entries(pid_t pid, const char *p, const uint64_t *entries, size_t n);

struct mirror_fault fault_of(const void *p, size_t size, uint32_t flags, uint64_t *entries);
/* Of what is done. */
bool is_good(struct mirror_notifier *notifier, const struct mirror_fault *fault);
/* Says on the output that something was not tested. */
void not_tested(const char *what, const char *why);

/* Touched by nobody yet, of the kernel's pool; NULL if there is none to be had. */
char *hugetlb_page(void);
