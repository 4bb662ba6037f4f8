/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What the CPU's page table says of a range
 *
 * By PAGEMAP_SCAN (6.7) and PROCMAP_QUERY (6.11), or where the kernel lacks them by
 * reading /proc/PID/pagemap and maps.  Never tells physical addresses.
 */

#include <mirror/uapi/table.h>
#include <sys/types.h>
#include "base.h"

/*
 * MIRROR_PTE_WRITE of a page: the mapping may be written and the page needs no copy
 * first.  That is any page of a shared mapping, and of a private one any that is
 * anonymous, but never the page of zeros.  A private one can still be shared with
 * another process after fork(), which PAGEMAP_SCAN does not tell and @exclusive costs:
 * a second look, at pagemap's "exclusively mapped", which takes more than the first.
 * Without it, MIRROR_PTE_WRITE of a private page is true as long as the process has
 * not been on either side of a fork().
 * Where pagemap is read anyway, it is always looked at.  What neither tells is a page
 * that the kernel merged with others (KSM) and that one process has alone.
 */
struct pagescan {
	pid_t pid;		/* 0: the calling process */
	int maps_fd;		/* /proc/PID/maps, borrowed */
	int pagemap_fd;		/* /proc/PID/pagemap */
	bool no_scan;		/* no PAGEMAP_SCAN here: read instead */
	bool no_query;		/* no PROCMAP_QUERY here, or no maps_fd: read instead */
	bool no_guard;		/* PAGEMAP_SCAN of before 6.15 */
	bool nodes;		/* tell NUMA nodes */
	bool exclusive;		/* tell private pages that are shared after fork() */
	int n_nodes;		/* of the machine, at least; 0: not looked yet */
	unsigned int first_node;
};

#define PAGESCAN_NULL { .maps_fd = -1, .pagemap_fd = -1 }

/*
 * Pages that look alike; two runs that follow each other in one mapping differ.
 * @entry has the rights only of a page that is there or swapped out.
 */
struct pagescan_run {
	uint64_t start, end;
	uint64_t entry;		/* MIRROR_ENTRY_VALID and MIRROR_PTE_*; 0: no page */
	bool mapped;		/* false: a hole */
	bool special;		/* the kernel's own: not to be watched, nothing told.  A
				 * device's mapping is not known as such: it has no pages */
	uint64_t vma_start, vma_end;	/* of the mapping, if @mapped */
	uint64_t rights;	/* MIRROR_PTE_READ, WRITE (VM_WRITE here), EXEC, SHARED of it */
};

/* What a caller does with a run; not 0 ends the scan and is returned. */
typedef int (*pagescan_fn)(const struct pagescan_run *run, void *userdata);

/*
 * -EPERM or -EACCES: the caller may not look into that process; -ESRCH.
 * @maps_fd: -1 to read maps anew each time.  Sets all of *@scan.
 */
int pagescan_open(struct pagescan *scan, pid_t pid, int maps_fd);
void pagescan_close(struct pagescan *scan);

/*
 * Tells every run of [start, end) in order, holes and pages that are not there
 * included, in bounded memory.  *ret_done: first byte that was not told, also on
 * failure; the run that @fn refused was not.  It stops after about @budget pages looked
 * at or runs told (0: no limit); each GiB without a page counts as one.
 *
 * Nothing is locked meanwhile: each page was so at some moment of the call.
 * -ESRCH: the process is gone, or runs another program now.
 */
int pagescan_range(struct pagescan *scan, uint64_t start, uint64_t end, uint64_t budget,
		   pagescan_fn fn, void *userdata, uint64_t *ret_done);
