/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs of pages
 *
 * Two walks, one inside the other: mappings, and the pages of each.  Whether the
 * kernel has an ioctl is found by trying; where it has not, the same is put together
 * from /proc's older files, as far as they tell.
 *
 *			PAGEMAP_SCAN		/proc/PID/pagemap
 *	present, file	yes			bits 63, 61
 *	swapped		yes			bit 62
 *	exclusive	no: a second look	bit 56
 *	huge, zero	yes			no
 *	written		under userfaultfd-wp	no: older than asynchronous wp
 *
 * What comes out passes through one place, emit(), which joins what looks alike: the
 * kernel ends a run where its buffer ends, and that is nothing to tell.
 *
 * Neither walk sees the pages of a device's mapping (VM_PFNMAP): they look absent.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include "pagescan.h"
#include "procfs.h"

/* 6.7: struct pm_scan_arg, struct page_region, PAGEMAP_SCAN */
struct pm_scan_arg_abi {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;
	uint64_t vec;
	uint64_t vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};

struct page_region_abi {
	uint64_t start;
	uint64_t end;
	uint64_t categories;
};

#define PAGEMAP_SCAN_ABI	_IOWR('f', 16, struct pm_scan_arg_abi)

#define PAGE_WPALLOWED	(1U << 0)
#define PAGE_WRITTEN	(1U << 1)
#define PAGE_FILE	(1U << 2)
#define PAGE_PRESENT	(1U << 3)
#define PAGE_SWAPPED	(1U << 4)
#define PAGE_PFNZERO	(1U << 5)
#define PAGE_HUGE	(1U << 6)
#define PAGE_GUARD	(1U << 8)	/* 6.15 */

#define PM_EXCLUSIVE	(1ULL << 56)
#define PM_GUARD	(1ULL << 58)	/* 6.15 */
#define PM_FILE		(1ULL << 61)
#define PM_SWAPPED	(1ULL << 62)
#define PM_PRESENT	(1ULL << 63)

#define CHUNK_PAGES 512ULL
#define REGIONS 128
#define NEAR_BYTES (32 * PAGE_BYTES)	/* to read over a gap is cheaper than to read twice */
#define WINDOW_BYTES (1ULL << 30)	/* of one ioctl: it bounds how long a lock is held */

struct scanner {
	struct pagescan *scan;
	pagescan_fn fn;
	void *userdata;
	uint64_t end, budget, spent;
	uint64_t done;
	struct vma vma;			/* where we are */
	bool pending;
	struct pagescan_run run;	/* not told yet, as it may grow */
	struct vma_walk walk;
	uint64_t soon;			/* up to here pages are looked at closely next */
	uint64_t ahead_start, ahead_end; /* what was read of them at once */
	uint64_t ahead[CHUNK_PAGES];
};

int pagescan_open(struct pagescan *scan, pid_t pid, int maps_fd)
{
	char path[32];
	int fd;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	else
		snprintf(path, sizeof(path), "/proc/self/pagemap");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	*scan = (struct pagescan) {
		.pid = pid, .maps_fd = maps_fd, .pagemap_fd = fd, .no_query = maps_fd < 0,
	};
	return 0;
}

void pagescan_close(struct pagescan *scan)
{
	scan->pagemap_fd = fd_close(scan->pagemap_fd);
}

/* Passes on what is pending.  After a failure @done is where that begins. */
static int tell(struct scanner *s)
{
	int r = 0;

	if (s->pending) {
		s->pending = false;
		s->spent++;
		s->done = s->run.start;
		r = s->fn(&s->run, s->userdata);
		if (r == 0)
			s->done = s->run.end;
	}
	return r;
}

/* @vma: NULL for a hole. */
static int emit(struct scanner *s, uint64_t start, uint64_t end, uint64_t entry,
		const struct vma *vma)
{
	struct pagescan_run run = { .start = start, .end = end, .entry = entry };
	int r;

	if (vma) {
		run.mapped = true;
		run.special = vma->special;
		run.vma_start = vma->start;
		run.vma_end = vma->end;
		run.rights = vma->rights;
	}
	if (s->pending && s->run.end == start && s->run.entry == entry &&
	    s->run.mapped == run.mapped && s->run.vma_start == run.vma_start &&
	    s->run.vma_end == run.vma_end && s->run.rights == run.rights) {
		s->run.end = end;
		return 0;
	}
	r = tell(s);
	if (r == 0) {
		s->run = run;
		s->pending = true;
	}
	return r;
}

static uint64_t budget_left(const struct scanner *s)
{
	if (!s->budget)
		return UINT64_MAX;
	return s->spent < s->budget ? s->budget - s->spent : 0;
}

/* How many nodes there are, roughly: one, or more. */
static void count_nodes(struct pagescan *scan)
{
	_cleanup_(fd_closep) int fd = open("/sys/devices/system/node/online", O_RDONLY | O_CLOEXEC);
	char buf[64] = "";

	scan->n_nodes = 1;
	scan->first_node = 0;
	if (fd < 0 || read(fd, buf, sizeof(buf) - 1) <= 0)
		return;
	scan->first_node = (unsigned int)atoi(buf);
	if (strpbrk(buf, ",-"))
		scan->n_nodes = 2;
}

static uint64_t node_bits(unsigned int node)
{
	return ((uint64_t)node + 1) << MIRROR_PTE_NODE_SHIFT & MIRROR_PTE_NODE_MASK;
}

/* Adds the node of each page to @bits. */
static void ask_nodes(const struct pagescan *scan, uint64_t start, size_t n, uint64_t *bits)
{
	void *pages[CHUNK_PAGES];
	int status[CHUNK_PAGES];

	for (size_t i = 0; i < n; i++)
		pages[i] = (void *)(uintptr_t)(start + i * PAGE_BYTES);
	/* a page that just went, or a refusal: not known */
	if (syscall(SYS_move_pages, scan->pid, n, pages, NULL, status, 0) < 0)
		return;
	for (size_t i = 0; i < n; i++)
		bits[i] |= status[i] >= 0 ? node_bits((unsigned int)status[i]) : 0;
}

/* Up to CHUNK_PAGES words of pagemap.  At least one, or -errno. */
static ssize_t read_pagemap(const struct pagescan *scan, uint64_t start, uint64_t end,
			    uint64_t *words)
{
	size_t n = MIN((end - start) / PAGE_BYTES, CHUNK_PAGES);
	ssize_t got;

	do {
		got = pread(scan->pagemap_fd, words, n * 8, (off_t)(start / PAGE_BYTES * 8));
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	return got < 8 ? -ESRCH : got / 8;	/* it is empty if there are no mappings any more */
}

/* Does the entry depend on the page's being exclusive? */
static bool exclusive_counts(const struct scanner *s, uint64_t entry)
{
	return entry & MIRROR_PTE_WRITE && !(s->vma.rights & MIRROR_PTE_SHARED);
}

/* As read_pagemap(), but scattered pages are not read one by one. */
static ssize_t look_closely(struct scanner *s, uint64_t start, uint64_t end,
			    const uint64_t **ret_words)
{
	ssize_t n;

	if (start < s->ahead_start || start >= s->ahead_end) {
		n = read_pagemap(s->scan, start, MAX(end, s->soon), s->ahead);
		if (n < 0)
			return n;
		s->ahead_start = start;
		s->ahead_end = start + (uint64_t)n * PAGE_BYTES;
	}
	*ret_words = &s->ahead[(start - s->ahead_start) / PAGE_BYTES];
	return (ssize_t)((MIN(end, s->ahead_end) - start) / PAGE_BYTES);
}

/* Pages that look alike so far, [start, end), looked at more closely. */
static int emit_closely(struct scanner *s, uint64_t start, uint64_t end, uint64_t entry,
			bool exclusive, bool nodes)
{
	uint64_t bits[CHUNK_PAGES], at;
	const uint64_t *words = NULL;
	ssize_t n;
	int r = 0;

	for (; r == 0 && start < end; start += (uint64_t)n * PAGE_BYTES) {
		n = (ssize_t)MIN((end - start) / PAGE_BYTES, CHUNK_PAGES);
		if (exclusive) {
			n = look_closely(s, start, end, &words);
			if (n < 0)
				return (int)n;
		}
		for (ssize_t i = 0; i < n; i++)
			bits[i] = exclusive && !(words[i] & PM_EXCLUSIVE) ?
					  entry & ~MIRROR_PTE_WRITE : entry;
		if (nodes)
			ask_nodes(s->scan, start, (size_t)n, bits);
		for (ssize_t i = 0, j; r == 0 && i < n; i = j) {
			for (j = i + 1; j < n && bits[j] == bits[i]; j++)
				;
			at = start + (uint64_t)i * PAGE_BYTES;
			r = emit(s, at, at + (uint64_t)(j - i) * PAGE_BYTES, bits[i], &s->vma);
		}
	}
	return r;
}

static int emit_pages(struct scanner *s, uint64_t start, uint64_t end, uint64_t entry)
{
	struct pagescan *scan = s->scan;
	bool exclusive = scan->exclusive && !scan->no_scan && exclusive_counts(s, entry);
	bool nodes = false;

	s->spent += (end - start) / PAGE_BYTES;
	if (scan->nodes && entry & MIRROR_PTE_PRESENT) {
		if (!scan->n_nodes)
			count_nodes(scan);
		nodes = scan->n_nodes > 1;
		if (!nodes)
			entry |= node_bits(scan->first_node);
	}
	if (exclusive || nodes)
		return emit_closely(s, start, end, entry, exclusive, nodes);
	return emit(s, start, end, entry, &s->vma);
}

/* The kernel says written of all that is not write-protected: a write would have copied. */
static bool is_pristine(const struct vma *vma, uint64_t categories)
{
	return categories & PAGE_PFNZERO ||
	       (categories & PAGE_FILE && !(vma->rights & MIRROR_PTE_SHARED));
}

static uint64_t entry_of_region(const struct vma *vma, uint64_t categories)
{
	uint64_t entry = MIRROR_ENTRY_VALID | vma->rights;

	if (categories & PAGE_GUARD || !(categories & (PAGE_PRESENT | PAGE_SWAPPED)))
		return 0;
	entry |= categories & PAGE_PRESENT ? MIRROR_PTE_PRESENT : MIRROR_PTE_SWAPPED;
	entry |= categories & PAGE_FILE ? MIRROR_PTE_FILE : 0;
	entry |= categories & PAGE_PFNZERO ? MIRROR_PTE_ZERO : 0;
	entry |= categories & PAGE_HUGE ? MIRROR_PTE_HUGE : 0;
	if ((categories & (PAGE_WPALLOWED | PAGE_WRITTEN)) == (PAGE_WPALLOWED | PAGE_WRITTEN) &&
	    !is_pristine(vma, categories))
		entry |= MIRROR_PTE_WRITTEN;
	if (!(vma->rights & MIRROR_PTE_SHARED) &&
	    (categories & PAGE_FILE || !(categories & PAGE_PRESENT)))
		entry &= ~MIRROR_PTE_WRITE;
	if (categories & PAGE_PFNZERO)	/* also in a shared mapping: a hole of DAX's */
		entry &= ~MIRROR_PTE_WRITE;
	return entry;
}

/* How far to read ahead: as long as it is less than to read each by itself. */
static uint64_t close_by(const struct page_region_abi *regions, long n)
{
	uint64_t limit = regions[0].start + CHUNK_PAGES * PAGE_BYTES;
	long i = 0;

	while (i + 1 < n && regions[i + 1].end <= limit &&
	       regions[i + 1].start - regions[i].end <= NEAR_BYTES)
		i++;
	return regions[i].end;
}

static int emit_regions(struct scanner *s, const struct page_region_abi *regions, long n,
			uint64_t *at)
{
	int r = 0;

	for (long i = 0; r == 0 && i < n; i++) {
		uint64_t entry = entry_of_region(&s->vma, regions[i].categories);

		if (regions[i].start >= s->soon)
			s->soon = close_by(regions + i, n - i);
		if (regions[i].start > *at)
			r = emit(s, *at, regions[i].start, 0, &s->vma);
		if (r == 0)
			r = emit_pages(s, regions[i].start, regions[i].end, entry);
		*at = regions[i].end;
	}
	return r;
}

/* One ioctl's worth from *at on; nothing, if it turns out that the kernel has none. */
static int scan_some(struct scanner *s, uint64_t end, uint64_t *at)
{
	struct page_region_abi regions[REGIONS];
	struct pm_scan_arg_abi arg = {
		.size = sizeof(arg),
		.start = *at,
		.end = MIN(end, *at + WINDOW_BYTES),
		.vec = (uintptr_t)regions,
		.vec_len = REGIONS,
		.max_pages = s->budget ? budget_left(s) : 0,
		.category_anyof_mask = PAGE_PRESENT | PAGE_SWAPPED,
		.return_mask = PAGE_WPALLOWED | PAGE_WRITTEN | PAGE_PRESENT | PAGE_SWAPPED |
			       PAGE_PFNZERO | PAGE_HUGE | PAGE_FILE,
	};
	long n;
	int r;

	/* without a file no page is one's, and the kernel need not look at each */
	if (!s->vma.file)
		arg.return_mask &= ~(uint64_t)PAGE_FILE;
	if (!s->scan->no_guard)
		arg.return_mask |= PAGE_GUARD;
	do {
		n = ioctl(s->scan->pagemap_fd, PAGEMAP_SCAN_ABI, &arg);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && errno == ENOTTY && !s->scan->no_scan) {
		s->scan->no_scan = true;
		return 0;
	}
	if (n < 0 && errno == EINVAL && !s->scan->no_guard) {
		s->scan->no_guard = true;	/* an unknown category is refused */
		return 0;
	}
	if (n < 0)
		return -errno;
	s->spent++;
	r = emit_regions(s, regions, n, at);
	if (r == 0 && arg.walk_end > *at) {
		r = emit(s, *at, MIN(arg.walk_end, end), 0, &s->vma);
		*at = MIN(arg.walk_end, end);
	}
	return r;
}

static uint64_t entry_of_word(const struct vma *vma, uint64_t word)
{
	uint64_t entry = MIRROR_ENTRY_VALID | vma->rights;

	if (word & PM_GUARD || !(word & (PM_PRESENT | PM_SWAPPED)))
		return 0;
	entry |= word & PM_PRESENT ? MIRROR_PTE_PRESENT : MIRROR_PTE_SWAPPED;
	/* the huge page of zeros looks like a file's */
	entry |= word & PM_FILE && vma->file ? MIRROR_PTE_FILE : 0;
	if (!(vma->rights & MIRROR_PTE_SHARED) &&
	    (word & PM_FILE || (word & (PM_PRESENT | PM_EXCLUSIVE)) != (PM_PRESENT | PM_EXCLUSIVE)))
		entry &= ~MIRROR_PTE_WRITE;
	return entry;
}

/* The same by reading. */
static int read_some(struct scanner *s, uint64_t end, uint64_t *at)
{
	uint64_t words[CHUNK_PAGES], start = *at;
	ssize_t n;
	int r = 0;

	end = MIN(end, start + MIN(budget_left(s), CHUNK_PAGES) * PAGE_BYTES);
	n = read_pagemap(s->scan, start, end, words);
	if (n < 0)
		return (int)n;
	for (ssize_t i = 0; i < n; i++)
		words[i] = entry_of_word(&s->vma, words[i]);
	for (ssize_t i = 0, j; r == 0 && i < n; i = j) {
		for (j = i + 1; j < n && words[j] == words[i]; j++)
			;
		*at = start + (uint64_t)j * PAGE_BYTES;
		r = words[i] ? emit_pages(s, start + (uint64_t)i * PAGE_BYTES, *at, words[i]) :
			       emit(s, start + (uint64_t)i * PAGE_BYTES, *at, 0, &s->vma);
	}
	s->spent++;
	return r;
}

static int scan_vma(struct scanner *s, uint64_t start, uint64_t end)
{
	uint64_t at = start;
	int r = 0;

	if (s->vma.special)
		return emit(s, start, end, 0, &s->vma);
	while (r == 0 && at < end && budget_left(s))
		r = s->scan->no_scan ? read_some(s, end, &at) : scan_some(s, end, &at);
	return r;
}

/* The first mapping that ends after @address: 1; 0: there is none. */
static int next_vma(struct scanner *s, uint64_t address)
{
	int r;

	if (!s->scan->no_query) {
		r = vma_query(s->scan->maps_fd, address, &s->vma);
		if (r != -ENOTTY)
			return r == 0 ? 1 : r == -ENOENT ? 0 : r;
		s->scan->no_query = true;
	}
	if (s->walk.fd < 0) {
		r = vma_walk_begin(&s->walk, s->scan->pid);
		if (r < 0)
			return r == -ENOENT ? -ESRCH : r;
	}
	do {
		r = vma_walk_next(&s->walk, &s->vma);
	} while (r > 0 && s->vma.end <= address);
	return r;
}

static int scan_all(struct scanner *s, uint64_t at)
{
	int r = 0;

	while (r == 0 && at < s->end && budget_left(s)) {
		r = next_vma(s, at);
		if (r < 0)
			break;
		if (r == 0 || s->vma.start >= s->end)
			return emit(s, at, s->end, 0, NULL);
		r = 0;
		if (s->vma.start > at) {
			r = emit(s, at, s->vma.start, 0, NULL);
			at = s->vma.start;
		}
		if (r == 0)
			r = scan_vma(s, at, MIN(s->vma.end, s->end));
		at = s->vma.end;
	}
	return r;
}

int pagescan_range(struct pagescan *scan, uint64_t start, uint64_t end, uint64_t budget,
		   pagescan_fn fn, void *userdata, uint64_t *ret_done)
{
	struct scanner s = {
		.scan = scan,
		.fn = fn,
		.userdata = userdata,
		.end = end,
		.budget = budget,
		.done = start,
		.walk.fd = -1,
	};
	uint64_t word;
	int r, q;

	r = scan_all(&s, start);
	if (s.walk.fd >= 0) {
		vma_walk_end(&s.walk);
		/* the maps of whom?  pagemap, opened long ago, is empty if he is gone */
		if (r == 0 && read_pagemap(scan, start, start + PAGE_BYTES, &word) < 0)
			r = -ESRCH;
	}
	if (s.pending && r != -ESRCH) {
		q = tell(&s);	/* what is known is told, whatever came after it */
		r = r ? r : q;
	}
	*ret_done = s.done;
	return r;
}
