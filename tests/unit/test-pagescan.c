/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Runs of pages: by the ioctls, by reading, and from another process. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "pagescan.h"
#include "uffd.h"
#include "unit.h"

#define N 16		/* pages of a piece */
#define HUGE (2ULL << 20)
#define BASIC (MIRROR_ENTRY_VALID | MIRROR_PTE_PRESENT)
#define R MIRROR_PTE_READ
#define W MIRROR_PTE_WRITE

#ifndef MADV_GUARD_INSTALL	/* 6.13 */
#define MADV_GUARD_INSTALL 102
#endif

/* One page each, with holes between pieces; what the scan must say of each. */
enum { P_TOUCHED, P_ZERO, P_ABSENT, P_FORKED, P_NONE, P_RDONLY, P_MEMFD, P_FILE, P_COPIED, _P_N };

static const uint64_t expected[_P_N] = {
	[P_TOUCHED] = BASIC | R | W,
	[P_ZERO] = BASIC | R | MIRROR_PTE_ZERO,
	[P_ABSENT] = 0,
	[P_FORKED] = BASIC | R,
	[P_NONE] = BASIC,
	[P_RDONLY] = BASIC | R,
	[P_MEMFD] = BASIC | R | W | MIRROR_PTE_FILE | MIRROR_PTE_SHARED,
	[P_FILE] = BASIC | R | MIRROR_PTE_FILE,
	[P_COPIED] = BASIC | R | W,
};

struct world {
	char *base;		/* of _P_N pages, then one that is not mapped */
	int maps_fd;
	struct pagescan scan;
};

struct seen {
	uint64_t at, end, entry[4096], first;
	size_t n_runs, n_holes, stop_after;
	struct pagescan_run last;
	bool special;
};

static void not_tested(const char *what, const char *why)
{
	printf("# SKIP %s: %s\n", what, why);
	fflush(stdout);
}

static int see(const struct pagescan_run *run, void *userdata)
{
	struct seen *seen = userdata;
	const struct pagescan_run *last = &seen->last;

	ck_assert_uint_lt(run->start, run->end);
	ck_assert_uint_eq(run->start, seen->at);
	ck_assert_uint_le(run->end, seen->end);
	if (seen->n_runs && last->mapped && run->mapped && last->vma_start == run->vma_start)
		ck_assert_uint_ne(last->entry, run->entry);
	if (run->mapped)
		ck_assert(run->vma_start <= run->start && run->end <= run->vma_end);
	else
		ck_assert(!run->entry && !run->rights);
	if (seen->stop_after && seen->n_runs == seen->stop_after)
		return 7;
	for (uint64_t i = (run->start - seen->first) / PAGE_BYTES;
	     i < 4096 && i < (run->end - seen->first) / PAGE_BYTES; i++)
		seen->entry[i] = run->entry;
	seen->at = run->end;
	seen->n_runs++;
	seen->n_holes += !run->mapped;
	seen->special |= run->special;
	seen->last = *run;
	return 0;
}

static void seen_init(struct seen *seen, const void *p, uint64_t size)
{
	memset(seen, 0, sizeof(*seen));
	seen->first = seen->at = (uintptr_t)p;
	seen->end = seen->at + size;
}

/* All of it, in as many calls as it takes. */
static unsigned int scan_all(struct pagescan *scan, const void *p, uint64_t size,
			     uint64_t budget, struct seen *seen)
{
	uint64_t at = (uintptr_t)p, end = at + size, done;
	unsigned int calls = 0;

	seen_init(seen, p, size);
	for (; at < end; at = done, calls++) {
		ck_assert_int_eq(pagescan_range(scan, at, end, budget, see, seen, &done), 0);
		ck_assert_uint_gt(done, at);
		ck_assert_uint_eq(done, seen->at);
		seen->n_runs = budget ? 0 : seen->n_runs;	/* it may go on where it was */
		if (!budget)
			ck_assert_uint_eq(done, end);
	}
	return calls;
}

static void map_at(char *p, int prot, int flags, int fd, off_t offset)
{
	ck_assert_ptr_eq(mmap(p, PAGE_BYTES, prot, MAP_FIXED | flags, fd, offset), p);
}

static void touch_read(const char *p)
{
	(void)*(const volatile char *)p;
}

/* A child that keeps its half of the forked page, and dies with us. */
static pid_t start_child(void)
{
	pid_t parent = getpid(), pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == parent)
		pause();
	_exit(0);
}

static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

/*
 * The kernel takes the highest gap there is, so with much room above nobody's mapping
 * gets into a hole of ours.
 */
static char *reserve(size_t size)
{
	size_t above = 1UL << 30;
	char *p = mmap(NULL, size + HUGE + above, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ck_assert_ptr_ne(p, MAP_FAILED);
	munmap(p + size + HUGE, above);
	return p + (HUGE - (uintptr_t)p % HUGE) % HUGE;
}

static pid_t world_init(struct world *w)
{
	char *p = w->base = reserve((_P_N + 1) * PAGE_BYTES);
	int fd = memfd_create("x", MFD_CLOEXEC);
	pid_t child;

	ck_assert_int_eq(ftruncate(fd, 4 * PAGE_BYTES), 0);
	ck_assert_int_eq(pwrite(fd, "1", 1, PAGE_BYTES), 1);
	for (int i = 0; i <= P_RDONLY; i++)
		map_at(p + i * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	map_at(p + P_MEMFD * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	map_at(p + P_FILE * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, PAGE_BYTES);
	map_at(p + P_COPIED * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	munmap(p + _P_N * PAGE_BYTES, PAGE_BYTES);
	close(fd);
	p[P_FORKED * PAGE_BYTES] = 1;
	child = start_child();
	p[P_TOUCHED * PAGE_BYTES] = p[P_NONE * PAGE_BYTES] = p[P_RDONLY * PAGE_BYTES] = 1;
	p[P_MEMFD * PAGE_BYTES] = p[P_COPIED * PAGE_BYTES] = 1;
	touch_read(p + P_ZERO * PAGE_BYTES);
	touch_read(p + P_FILE * PAGE_BYTES);
	mprotect(p + P_NONE * PAGE_BYTES, PAGE_BYTES, PROT_NONE);
	mprotect(p + P_RDONLY * PAGE_BYTES, PAGE_BYTES, PROT_READ);
	w->maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(pagescan_open(&w->scan, 0, w->maps_fd), 0);
	w->scan.exclusive = true;
	return child;
}

static void world_end(struct world *w, pid_t child)
{
	end_child(child);
	pagescan_close(&w->scan);
	ck_assert_int_eq(w->scan.pagemap_fd, -1);
	close(w->maps_fd);
}

static void expect(const struct seen *seen, uint64_t less)
{
	for (int i = 0; i < _P_N; i++)
		ck_assert_msg(seen->entry[i] == (expected[i] & ~less),
			      "page %d: 0x%llx, not 0x%llx", i,
			      (unsigned long long)seen->entry[i],
			      (unsigned long long)(expected[i] & ~less));
	ck_assert_uint_eq(seen->n_holes, 1);
}

START_TEST(each_kind_is_told)
{
	struct world w;
	struct seen seen;
	pid_t child = world_init(&w);

	scan_all(&w.scan, w.base, (_P_N + 1) * PAGE_BYTES, 0, &seen);
	expect(&seen, w.scan.no_scan ? MIRROR_PTE_ZERO : 0);
	ck_assert(!seen.special);
	world_end(&w, child);
}
END_TEST

START_TEST(each_kind_is_told_by_reading)
{
	struct world w;
	struct seen seen;
	pid_t child = world_init(&w);

	w.scan.no_scan = true;
	scan_all(&w.scan, w.base, (_P_N + 1) * PAGE_BYTES, 0, &seen);
	expect(&seen, MIRROR_PTE_ZERO);
	w.scan.no_query = true;
	scan_all(&w.scan, w.base, (_P_N + 1) * PAGE_BYTES, 0, &seen);
	expect(&seen, MIRROR_PTE_ZERO);
	w.scan.no_scan = false;
	scan_all(&w.scan, w.base, (_P_N + 1) * PAGE_BYTES, 0, &seen);
	expect(&seen, w.scan.no_scan ? MIRROR_PTE_ZERO : 0);
	world_end(&w, child);
}
END_TEST

/* Without the second look a page shared after fork() looks writable. */
START_TEST(exclusive_is_asked_for)
{
	struct world w;
	struct seen seen;
	pid_t child = world_init(&w);

	w.scan.exclusive = false;
	scan_all(&w.scan, w.base, _P_N * PAGE_BYTES, 0, &seen);
	if (!w.scan.no_scan)
		ck_assert_uint_eq(seen.entry[P_FORKED], BASIC | R | W);
	ck_assert_uint_eq(seen.entry[P_ZERO] & W, 0);
	ck_assert_uint_eq(seen.entry[P_TOUCHED], BASIC | R | W);
	ck_assert_uint_eq(seen.entry[P_FILE], expected[P_FILE]);
	end_child(child);
	w.scan.exclusive = true;
	scan_all(&w.scan, w.base, _P_N * PAGE_BYTES, 0, &seen);
	ck_assert_uint_eq(seen.entry[P_FORKED], BASIC | R | W);
	child = start_child();
	world_end(&w, child);
}
END_TEST

/* Every other page, in more runs than the kernel is asked for at a time. */
static char *map_striped(size_t pages)
{
	char *p = reserve(pages * PAGE_BYTES);

	ck_assert_int_eq(mprotect(p, pages * PAGE_BYTES, PROT_READ | PROT_WRITE), 0);
	madvise(p, pages * PAGE_BYTES, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i += 2)
		p[i * PAGE_BYTES] = 1;
	return p;
}

static void open_self(struct pagescan *scan, int *ret_maps_fd)
{
	*ret_maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(pagescan_open(scan, 0, *ret_maps_fd), 0);
	scan->exclusive = true;
}

static void expect_stripes(const struct seen *seen, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		ck_assert_uint_eq(seen->entry[i], i % 2 ? 0 : BASIC | R | W);
}

START_TEST(a_budget_is_kept)
{
	char *p = map_striped(2048);
	struct pagescan scan;
	struct seen seen;
	int maps_fd;

	open_self(&scan, &maps_fd);
	for (int by_reading = 0; by_reading < 2; by_reading++) {
		scan.no_scan = by_reading;
		ck_assert_uint_eq(scan_all(&scan, p, 2048 * PAGE_BYTES, 0, &seen), 1);
		ck_assert_uint_eq(seen.n_runs, 2048);
		expect_stripes(&seen, 2048);
		ck_assert_uint_gt(scan_all(&scan, p, 2048 * PAGE_BYTES, 100, &seen), 5);
		expect_stripes(&seen, 2048);
		ck_assert_uint_gt(scan_all(&scan, p, 2048 * PAGE_BYTES, 1, &seen), 500);
		expect_stripes(&seen, 2048);
	}
	pagescan_close(&scan);
	close(maps_fd);
}
END_TEST

START_TEST(a_refusal_ends_it)
{
	char *p = map_striped(64);
	uint64_t done, start = (uintptr_t)p;
	struct pagescan scan;
	struct seen seen;
	int maps_fd;

	open_self(&scan, &maps_fd);
	seen_init(&seen, p, 64 * PAGE_BYTES);
	seen.stop_after = 5;
	ck_assert_int_eq(pagescan_range(&scan, start, seen.end, 0, see, &seen, &done), 7);
	ck_assert_uint_eq(done, start + 5 * PAGE_BYTES);
	ck_assert_uint_eq(seen.n_runs, 5);
	pagescan_close(&scan);
	close(maps_fd);
}
END_TEST

START_TEST(all_of_a_process)
{
	struct pagescan scan;
	struct seen seen;
	int maps_fd;

	open_self(&scan, &maps_fd);
	scan_all(&scan, NULL, 1ULL << 47, 0, &seen);
	ck_assert(seen.special);	/* the vdso */
	scan.no_query = true;
	scan_all(&scan, NULL, 1ULL << 47, 0, &seen);
	ck_assert(seen.special);
	pagescan_close(&scan);
	close(maps_fd);
}
END_TEST

/* How a huge page is told: all its pages are, or none (there was none to be had). */
START_TEST(huge_pages)
{
	char *p = reserve(2 * HUGE);
	struct pagescan scan;
	struct seen seen;
	int maps_fd;

	open_self(&scan, &maps_fd);
	ck_assert_int_eq(mprotect(p, 2 * HUGE, PROT_READ | PROT_WRITE), 0);
	ck_assert_int_eq(madvise(p, 2 * HUGE, MADV_HUGEPAGE), 0);
	touch_read(p + HUGE);		/* the huge page of zeros */
	p[0] = 1;
	scan_all(&scan, p, 2 * HUGE, 0, &seen);
	if (!scan.no_scan && seen.entry[0] & MIRROR_PTE_HUGE) {
		ck_assert_uint_eq(seen.n_runs, 2);
		ck_assert_uint_eq(seen.entry[0], BASIC | R | W | MIRROR_PTE_HUGE);
	} else {
		not_tested("huge pages", "the kernel has given none, or does not tell");
	}
	ck_assert_uint_eq(seen.entry[512] & W, 0);
	ck_assert(seen.entry[512] & MIRROR_PTE_PRESENT);
	scan.no_scan = true;
	scan_all(&scan, p, 2 * HUGE, 0, &seen);
	ck_assert_uint_eq(seen.entry[0], BASIC | R | W);
	ck_assert_uint_eq(seen.entry[512], BASIC | R);
	pagescan_close(&scan);
	close(maps_fd);
}
END_TEST

/* Only below userfaultfd-wp is it known which pages were written. */
START_TEST(written_pages)
{
	char *p = map_striped(8);
	struct uffdio_writeprotect wp = {
		.range = { .start = (uintptr_t)p, .len = 8 * PAGE_BYTES },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct pagescan scan;
	struct seen seen;
	int maps_fd, uffd;
	bool user_only;

	open_self(&scan, &maps_fd);
	scan_all(&scan, p, 8 * PAGE_BYTES, 0, &seen);
	expect_stripes(&seen, 8);
	ck_assert_int_eq(uffd_new(&uffd, &user_only), 0);
	if (scan.no_scan || uffd_api(uffd, UFFD_FEAT_WP_ASYNC | UFFD_FEAT_WP_UNPOPULATED) < 0) {
		not_tested("written pages", "before 6.7 nobody tells");
		return;
	}
	ck_assert_int_eq(uffd_register(uffd, (uintptr_t)p, (uintptr_t)p + 8 * PAGE_BYTES), 0);
	ck_assert_int_eq(ioctl(uffd, UFFDIO_WRITEPROTECT, &wp), 0);
	p[0] = p[2 * PAGE_BYTES] = 2;
	scan_all(&scan, p, 8 * PAGE_BYTES, 0, &seen);
	ck_assert_uint_eq(seen.entry[0], BASIC | R | W | MIRROR_PTE_WRITTEN);
	ck_assert_uint_eq(seen.entry[2], BASIC | R | W | MIRROR_PTE_WRITTEN);
	ck_assert_uint_eq(seen.entry[4], BASIC | R | W);
	close(uffd);
	pagescan_close(&scan);
	close(maps_fd);
}
END_TEST

START_TEST(guard_pages)
{
	char *p = map_striped(8);
	struct pagescan scan;
	struct seen seen;
	int maps_fd;

	open_self(&scan, &maps_fd);
	if (madvise(p, PAGE_BYTES, MADV_GUARD_INSTALL) == 0) {
		scan_all(&scan, p, 8 * PAGE_BYTES, 0, &seen);
		if (!scan.no_guard && !scan.no_scan)
			ck_assert_uint_eq(seen.entry[0], 0);
		ck_assert_uint_eq(seen.entry[0] & MIRROR_PTE_PRESENT, 0);
		ck_assert_uint_eq(seen.entry[2], BASIC | R | W);
	} else {
		not_tested("guard pages", strerror(errno));
	}
	pagescan_close(&scan);
	close(maps_fd);
}
END_TEST

/* A single node costs nothing to tell; two_nodes has move_pages() asked all the same. */
START_TEST(nodes)
{
	char *p = map_striped(2048);
	struct pagescan scan;
	struct seen seen, asked;
	int maps_fd;

	open_self(&scan, &maps_fd);
	scan.nodes = true;
	scan_all(&scan, p, 2048 * PAGE_BYTES, 0, &seen);
	ck_assert_int_gt(scan.n_nodes, 0);
	scan.n_nodes = 2;
	scan.first_node = 99;		/* it is not what is told then */
	scan_all(&scan, p, 2048 * PAGE_BYTES, 0, &asked);
	for (size_t i = 0; i < 2048; i++) {
		ck_assert_uint_eq(seen.entry[i], asked.entry[i]);
		ck_assert(!(asked.entry[i] & MIRROR_PTE_NODE_MASK) == !!(i % 2));
	}
	pagescan_close(&scan);
	close(maps_fd);
}
END_TEST

/* Another process, that runs on with its half of the page, and its end. */
START_TEST(another_process)
{
	struct world w;
	struct pagescan scan;
	struct seen seen;
	char path[64];
	int maps_fd;
	pid_t child = world_init(&w);
	uint64_t done, start = (uintptr_t)w.base;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)child);
	maps_fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(pagescan_open(&scan, child, maps_fd), 0);
	scan.exclusive = true;
	for (int i = 0; i < 4; i++) {
		scan.no_scan = i & 1;
		scan.no_query = i & 2;
		scan_all(&scan, w.base, _P_N * PAGE_BYTES, 0, &seen);
		ck_assert_uint_eq(seen.entry[P_FORKED], BASIC | R);
		ck_assert_uint_eq(seen.entry[P_TOUCHED], 0);
	}
	kill(child, SIGKILL);
	for (int i = 0; i < 8; i++) {
		scan.no_scan = i & 1;
		scan.no_query = i & 2;
		if (i == 4)
			ck_assert_int_eq(waitpid(child, NULL, 0), child);
		else if (i == 0)
			waitid(P_PID, (id_t)child, NULL, WEXITED | WNOWAIT);
		seen_init(&seen, w.base, _P_N * PAGE_BYTES);
		ck_assert_int_eq(pagescan_range(&scan, start, seen.end, 0, see, &seen, &done),
				 -ESRCH);
		ck_assert_uint_eq(done, start);
	}
	pagescan_close(&scan);
	ck_assert_int_eq(pagescan_open(&scan, child, maps_fd), -ESRCH);
	close(maps_fd);
	pagescan_close(&w.scan);
	close(w.maps_fd);
}
END_TEST

START_TEST(strangers_are_refused)
{
	struct pagescan scan = PAGESCAN_NULL;
	pid_t parent = getpid(), pid;
	int status, r;

	if (geteuid() != 0) {
		not_tested("strangers", "only root can become somebody else");
		return;
	}
	pid = fork();
	if (!pid) {
		if (setgid(65534) < 0 || setuid(65534) < 0)
			_exit(2);
		r = pagescan_open(&scan, parent, -1);
		_exit(r == -EPERM || r == -EACCES ? 0 : 1);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

UNIT_MAIN("pagescan", each_kind_is_told, each_kind_is_told_by_reading, exclusive_is_asked_for,
	  a_budget_is_kept, a_refusal_ends_it, all_of_a_process, huge_pages, written_pages,
	  guard_pages, nodes, another_process, strangers_are_refused)
