/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * bench-snapshot: what does the page table say of a range?
 *
 *	socket=PATH	of the daemon
 *	mib=N		of each dense range (1024)
 *
 * Four ranges, each looked at in four ways, of the same memory in the same turn.
 *
 *	4k		pages of 4 KiB, all touched
 *	thp		the same by huge pages
 *	half		every second page of 4 KiB
 *	sparse		1 TiB, SPARSE pages of which are touched
 *
 *	raw.*		PAGEMAP_SCAN alone: counts what is present
 *	fault.*		mirror_fault(), a snapshot, with an entry for each page; of the
 *			sparse range without, for they would take 2 GiB
 *	fill.*		mirror_target_fill(): the daemon looks
 *	walk.*		mirror_table_walk() of all that it entered, each leaf once
 *	*.memory	of the mirror table for this range: 1/1000 bytes a present page
 *
 * Each way must find as many pages as were touched.
 */

#include <fcntl.h>
#include <mirror/fault.h>
#include <mirror/table.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "session.h"

#define SPARSE 1000
#define TIB (1UL << 40)
#define HUGE (2UL << 20)
#define N_REGIONS 4096

/* Headers of older kernels lack these. */
struct page_region {
	uint64_t start, end, categories;
};

struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN		_IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_WRITTEN		(1 << 1)
#define PAGE_IS_FILE		(1 << 2)
#define PAGE_IS_PRESENT		(1 << 3)
#define PAGE_IS_SWAPPED		(1 << 4)
#define PAGE_IS_PFNZERO		(1 << 5)
#define PAGE_IS_HUGE		(1 << 6)
#endif

enum way { RAW, FAULT, FILL, WALK, MEMORY, N_WAYS };

struct kind {
	const char *name[N_WAYS];
	char *memory;
	size_t bytes;
	uint64_t n_pages;
	struct mirror_notifier *notifier;
	uint64_t table_bytes;
};

#define KIND(_name) \
	{ .name = { "raw." _name, "fault." _name, "fill." _name, "walk." _name, _name ".memory" } }

static struct kind kinds[] = { KIND("4k"), KIND("thp"), KIND("half"), KIND("sparse") };
static struct mirror_ctx *ctx;
static struct mirror_target *target;
static const struct mirror_table *table;
static uint64_t *entries;
static int pagemap_fd = -1, table_error;

static void on_change(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	(void)n;
	(void)ev;
	(void)userdata;
}

static void found(const struct kind *kind, enum way way, uint64_t n)
{
	if (n != kind->n_pages)
		fail("%s finds %llu pages of %llu", kind->name[way], (unsigned long long)n,
		     (unsigned long long)kind->n_pages);
}

static uint64_t present_in(const struct page_region *regions, long n)
{
	uint64_t n_pages = 0;

	for (long i = 0; i < n; i++)
		if (regions[i].categories & PAGE_IS_PRESENT)
			n_pages += (regions[i].end - regions[i].start) / PAGE;
	return n_pages;
}

static uint64_t scan_raw(struct kind *kind)
{
	static struct page_region regions[N_REGIONS];
	uint64_t at = (uintptr_t)kind->memory, end = at + kind->bytes, n_pages = 0;

	while (at < end) {
		struct pm_scan_arg arg = {
			.size = sizeof(arg), .start = at, .end = end,
			.vec = (uintptr_t)regions, .vec_len = N_REGIONS,
			.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
			.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_WRITTEN |
				       PAGE_IS_FILE | PAGE_IS_PFNZERO | PAGE_IS_HUGE,
		};
		long n = ioctl(pagemap_fd, PAGEMAP_SCAN, &arg);

		if (n < 0 && errno == ENOTTY)
			return (uint64_t)-ENOTTY;
		must((int)(n < 0 ? -errno : 0), "PAGEMAP_SCAN");
		n_pages += present_in(regions, n);
		/* with more than 512 regions the kernel may say that it ended before the last */
		at = arg.walk_end;
		if (n && regions[n - 1].end > at)
			at = regions[n - 1].end;
	}
	found(kind, RAW, n_pages);
	return 0;
}

static int fault_range(struct kind *kind, size_t offset, size_t bytes, uint64_t *at_entries)
{
	struct mirror_fault fault = MIRROR_FAULT_INIT;

	fault.start = (uintptr_t)kind->memory + offset;
	fault.end = fault.start + bytes;
	fault.entries = at_entries;
	return mirror_fault(kind->notifier, &fault);
}

static uint64_t count_entries(size_t bytes)
{
	uint64_t n = 0;

	for (size_t i = 0; i < bytes / PAGE; i++)
		n += entries[i] & MIRROR_PTE_PRESENT ? 1 : 0;
	return n;
}

/* Not timed: does it find what is there? */
static int check_fault(struct kind *kind)
{
	size_t step = kind->bytes == TIB ? TIB / SPARSE / HUGE * HUGE : kind->bytes;
	size_t bytes = kind->bytes == TIB ? HUGE : kind->bytes;
	uint64_t n = 0;
	int r;

	for (size_t at = 0; at + bytes <= kind->bytes; at += step) {
		r = fault_range(kind, at, bytes, entries);
		if (r < 0)
			return r;
		n += count_entries(bytes);
	}
	found(kind, FAULT, n);
	return 0;
}

static uint64_t walk(struct kind *kind)
{
	uint64_t at = (uintptr_t)kind->memory, end = at + kind->bytes, n = 0, next;
	unsigned int shift;

	while (at < end) {
		uint64_t entry = mirror_table_walk(table, at, &shift);

		next = ((at >> shift) + 1) << shift;
		if (next > end)
			next = end;
		if (entry & MIRROR_PTE_PRESENT)
			n += (next - at) / PAGE;
		at = next;
	}
	return n;
}

static int fill(struct kind *kind)
{
	uint64_t start = (uintptr_t)kind->memory, n;
	int r = mirror_target_fill(target, start, start + kind->bytes, &n);

	if (r >= 0)
		found(kind, FILL, n);
	return r;
}

static int look(struct kind *kind, enum way way)
{
	switch (way) {
	case RAW:
		return (int)scan_raw(kind);
	case FAULT:
		return fault_range(kind, 0, kind->bytes, kind->bytes == TIB ? NULL : entries);
	case FILL:
		return table_error ? table_error : fill(kind);
	case WALK:
		if (table_error)
			return table_error;
		found(kind, WALK, walk(kind));
		return 0;
	default:
		return -EINVAL;
	}
}

static void run_scan(unsigned int count)
{
	static struct samples s;
	uint64_t t;
	int r;

	for (struct kind *kind = kinds; kind < kinds + ARRAY_SIZE(kinds); kind++)
		for (enum way way = RAW; way <= WALK; way++) {
			s.name = kind->name[way];
			for (unsigned int i = 0; i < count; i++) {
				t = now_ns();
				r = look(kind, way);
				if (r < 0) {
					not_measured(s.name, r);
					break;
				}
				samples_add(&s, now_ns() - t);
			}
			samples_say(&s);
		}
}

static void run_memory(unsigned int count)
{
	static struct samples s;

	(void)count;
	for (struct kind *kind = kinds; kind < kinds + ARRAY_SIZE(kinds); kind++) {
		s.name = kind->name[MEMORY];
		if (table_error)
			not_measured(s.name, table_error);
		else
			samples_add(&s, kind->table_bytes * 1000 / kind->n_pages);
		samples_say(&s);
	}
}

/* Of its own, and aligned; pages of 4 KiB, unless asked otherwise. */
static void make(struct kind *kind, size_t bytes, size_t step, size_t n_touched, bool huge)
{
	char *p = mmap(NULL, bytes + 2 * HUGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	kind->memory = (char *)(((uintptr_t)p + HUGE) & ~(HUGE - 1));
	kind->bytes = bytes;
	must(madvise(kind->memory, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) < 0 ?
	     -errno : 0, "madvise");
	for (size_t i = 0; i < n_touched; i++)
		kind->memory[i * step] = 1;
	kind->n_pages = huge ? bytes / PAGE : n_touched;
}

static void watch(struct kind *kind)
{
	uint64_t before;

	kind->notifier = session_watch(target, kind->memory, kind->bytes, on_change, NULL);
	session_arm(target, kind->memory, kind->bytes);
	if (!table_error && !table)
		table_error = mirror_target_get_table(target, &table);
	if (table_error)
		return;
	before = __atomic_load_n(&table->live, __ATOMIC_RELAXED);
	table_error = fill(kind);
	kind->table_bytes = (__atomic_load_n(&table->live, __ATOMIC_RELAXED) - before) *
			    (PAGE + sizeof(struct mirror_table_tag));
}

int main(int argc, char **argv)
{
	static const struct turn turns[] = { { "scan", run_scan }, { "memory", run_memory } };
	size_t bytes = (size_t)option_number(argv, "mib", 1024) << 20;

	(void)argc;
	pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	must(pagemap_fd < 0 ? -errno : 0, "/proc/self/pagemap");
	make(&kinds[0], bytes, PAGE, bytes / PAGE, false);
	make(&kinds[1], bytes, HUGE, bytes / HUGE, true);
	make(&kinds[2], bytes, 2 * PAGE, bytes / PAGE / 2, false);
	make(&kinds[3], TIB, TIB / SPARSE / HUGE * HUGE, SPARSE, false);
	entries = map_pages(bytes / PAGE * sizeof(*entries));
	touch(entries, bytes / PAGE * sizeof(*entries));
	ctx = session_open(argv, 0);
	target = session_attach(ctx, 0);
	for (struct kind *kind = kinds; kind < kinds + ARRAY_SIZE(kinds); kind++) {
		watch(kind);
		check_fault(kind);
	}
	take_turns(turns, ARRAY_SIZE(turns));
	puts("done");
	fflush(stdout);
	_exit(0);
}
