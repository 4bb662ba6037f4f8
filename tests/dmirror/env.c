/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "cpu.h"

#define ONLY_ROOT	"only root may see the numbers of page frames"
#define HUGE_PAGES	12	/* area, what replaces it, what is held, and copies */

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

const char *const memory_names[MEMORY_TYPES] = {
	[MEMORY_ANON]		= "anonymous",
	[MEMORY_THP]		= "transparent huge pages",
	[MEMORY_MEMFD]		= "memfd",
	[MEMORY_FILE_PRIVATE]	= "private file",
	[MEMORY_FILE_SHARED]	= "shared file",
	[MEMORY_HUGETLB]	= "hugetlb",
};

/* ---- huge pages of the machine ---- */

/*
 * Taken and given back by difference, so that several of these programs can run at
 * the same time.
 */
static long hugepages_taken;

/* Only what a signal handler may do, but for the numbers.  What it changed by. */
static long change_hugepages(long by)
{
	char text[32] = "";
	long before = 0, after = 0;
	int fd = open("/proc/sys/vm/nr_hugepages", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return 0;
	flock(fd, LOCK_EX);	/* until it is closed */
	if (pread(fd, text, sizeof(text) - 1, 0) > 0) {
		before = after = strtol(text, NULL, 10);
		snprintf(text, sizeof(text), "%ld\n", before + by);
		if (pwrite(fd, text, strlen(text), 0) > 0 &&
		    pread(fd, text, sizeof(text) - 1, 0) > 0)
			after = strtol(text, NULL, 10);
	}
	close(fd);
	return after - before;
}

static void restore_hugepages(void)
{
	change_hugepages(-hugepages_taken);
}

void env_prepare(void)
{
	/* Not having them is no mistake: then mmap() fails, and the scenarios say so. */
	hugepages_taken = change_hugepages(HUGE_PAGES);
	if (hugepages_taken)
		tap_at_end(restore_hugepages);
	tap_file("file");
}

/* ---- memory ---- */

static bool is_shared(const struct env *e)
{
	return OF_SHARED & BIT(e->type);
}

static void open_file(struct env *e)
{
	switch (e->type) {
	case MEMORY_MEMFD:
		e->fd = memfd_create("device", MFD_CLOEXEC);
		break;
	case MEMORY_FILE_PRIVATE:
	case MEMORY_FILE_SHARED:
		e->fd = open(tap_file("file"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		break;
	default:
		e->fd = -1;
		return;
	}
	check_ok(e->fd);
	check_ok(ftruncate(e->fd, (off_t)(4 * e->size)));
}

/* By its frames: it is one, or looks like one to every device. */
void need_thp(struct env *e, uint64_t at)
{
	uint64_t entries[2] = { 0, 0 };
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)cpu_pid(e));
	fd = open(path, O_RDONLY | O_CLOEXEC);
	check_ok(fd);
	for (unsigned int i = 0; i < 2; i++)
		check_is(pread(fd, &entries[i], 8, (off_t)((at / PAGE + i * 511) * 8)), 8,
			 "pagemap");
	close(fd);
	if (entries[0] % 512 || entries[1] != entries[0] + 511)
		tap_skip_case("no transparent huge page could be had");
}

void map_memory(struct env *e, uint64_t at, uint64_t size, uint64_t offset,
		unsigned int generation)
{
	int flags = is_shared(e) ? MAP_SHARED : MAP_PRIVATE;
	void *copy;
	long got;

	if (e->fd < 0)
		flags |= MAP_ANONYMOUS;
	if (e->type == MEMORY_HUGETLB)
		flags |= MAP_HUGETLB;
	if (e->type == MEMORY_FILE_PRIVATE) {
		/* stored by the CPU it would be a copy, and not the file's */
		copy = malloc(size);
		check(copy, "out of memory");
		pattern_fill(copy, size, generation, 0);
		check_is(pwrite(e->fd, copy, size, (off_t)offset), size, "writing the file");
		free(copy);
	}
	got = cpu_call(e, SYS_mmap, at, size, PROT_READ | PROT_WRITE,
		       (uint64_t)(flags | MAP_FIXED), (uint64_t)e->fd, offset);
	if (e->type == MEMORY_HUGETLB && got == -ENOMEM)
		tap_skip_case("no huge pages are to be had");
	check_is(got, at, "mmap");
	if (e->type == MEMORY_THP &&
	    cpu_call(e, SYS_madvise, at, size, MADV_HUGEPAGE) < 0)
		tap_skip_case("no transparent huge pages in this kernel");
	if (!generation)
		return;
	if (e->type != MEMORY_FILE_PRIVATE)
		cpu_fill(e, at, size, generation, 0);
	check(cpu_has(e, at, size, generation, 0), "the CPU does not have it");
	for (uint64_t i = 0; e->type == MEMORY_THP && i < size; i += HUGE)
		need_thp(e, at + i);
}

void unmap_memory(struct env *e, uint64_t at, uint64_t size)
{
	check_ok(cpu_call(e, SYS_munmap, at, size));
}

/*
 * Far from where the kernel puts what has no address, so that nothing else gets into
 * the holes that scenarios make.
 */
static uint64_t find_window(struct env *e)
{
	uint64_t hint = 0x7eb000000000ULL, size = WINDOW + HUGE;
	long at = cpu_call(e, SYS_mmap, hint, size, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, (uint64_t)-1);

	check_ok(at);
	unmap_memory(e, (uint64_t)at, size);
	return ((uint64_t)at + HUGE - 1) / HUGE * HUGE;
}

/*
 * Compaction and khugepaged move pages when they like.  A source that does not tell
 * of copies does not tell of that either, and then a frame is not what it was.
 */
static uint64_t moved_before;

static uint64_t moved_by_kernel(void)
{
	char line[128];
	unsigned long long n;
	uint64_t sum = 0;
	FILE *file = fopen("/proc/vmstat", "re");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "pgmigrate_success %llu", &n) == 1 ||
		    sscanf(line, "thp_collapse_alloc %llu", &n) == 1)
			sum += n;
	if (file)
		fclose(file);
	return sum;
}

static const char *kernel_moved_pages(void)
{
	return moved_by_kernel() == moved_before ? NULL :
	       "the kernel moved pages meanwhile, which the source does not tell";
}

/* ---- target and device ---- */

static struct mirror_ctx *open_ctx(uint32_t flags)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_ctx *ctx;

	opts.path = tap_socket();
	opts.flags = MIRROR_OPEN_NO_EMBEDDED | flags;
	check_ok(mirror_open(&ctx, &opts));
	return ctx;
}

struct mirror_ctx *env_open_ctx(void)
{
	return open_ctx(0);
}

static struct mirror_target *attach_self(struct mirror_ctx *ctx, bool strict)
{
	struct mirror_attach_opts opts = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_target *target;
	int r;

	opts.flags = strict ? MIRROR_ATTACH_STRICT : 0;
	r = mirror_target_attach_self(&target, ctx, &opts);
	if (r == -EOPNOTSUPP && strict)
		tap_skip_case("lookups cannot be strict here");
	check_ok(r);
	return target;
}

/* In a target that is another process: it is observed, but observes nothing. */
static void begin_target(void)
{
	attach_self(open_ctx(MIRROR_OPEN_NO_RING), false);
}

void env_attach(struct env *e)
{
	if (e->way->remote)
		check_ok(mirror_target_attach(&e->target, e->ctx, cpu_pidfd(e->cpu), -1, NULL));
	else
		e->target = attach_self(e->ctx, e->way->strict);
}

void env_begin_target(struct env *e, unsigned int type, const struct way *way, bool vouched)
{
	bool huge = type == MEMORY_THP || type == MEMORY_HUGETLB;

	*e = (struct env) { .type = type, .way = way, .vouched = vouched };
	e->unit = huge ? HUGE : PAGE;
	e->size = huge ? 2 * HUGE : 16 * PAGE;
	if (geteuid() != 0 && !is_shared(e))
		tap_skip_case(ONLY_ROOT);
	open_file(e);
	e->cpu = cpu_new(way->remote, begin_target);
	e->ctx = env_open_ctx();
	env_attach(e);
	moved_before = moved_by_kernel();
	if (!is_shared(e) && !tells_copies(e))
		tap_set_excuse(kernel_moved_pages);
	e->window = find_window(e);
	e->window_size = WINDOW;
	e->area = e->window + 4 * HUGE;
	e->spare = e->window + 16 * HUGE;
	e->victim = huge ? e->area : e->area + 4 * PAGE;
	e->victim_end = e->victim + (huge ? HUGE : 4 * PAGE);
	e->buffer = malloc(2 * e->size);
	check(e->buffer, "out of memory");
}

static void on_between(void *userdata)
{
	struct env *e = userdata;
	void (*between)(struct env *e) = e->between;

	e->between = NULL;
	if (between)
		between(e);
}

void env_device(struct env *e, bool careful)
{
	struct dmirror_opts opts = {
		.walk = e->way->walk, .broken = e->way->broken, .careful = careful,
		.vouched = e->vouched, .between = on_between, .userdata = e,
	};

	check_ok(dmirror_new(&e->dm, e->target, e->window, e->window + e->window_size, &opts));
	if (e->fd >= 0)
		check_ok(dmirror_add_file(e->dm, e->fd));
	check_ok(dmirror_queue_new(&e->q, e->dm));
}

void env_swap_device(struct env *e, struct dmirror **dm, struct dmirror_queue **q)
{
	struct dmirror *other_dm = *dm;
	struct dmirror_queue *other_q = *q;

	*dm = e->dm;
	*q = e->q;
	e->dm = other_dm;
	e->q = other_q;
}

void env_begin(struct env *e, unsigned int type, const struct way *way, bool vouched)
{
	env_begin_target(e, type, way, vouched);
	map_memory(e, e->area, e->size, 0, 1);
	env_device(e, false);
}

void env_end(struct env *e)
{
	struct dmirror_told told = dmirror_told(e->dm);

	check_is(told.stale, 0, "accesses through stale translations");
	check_is(told.contradictions, 0, "callbacks that contradict others");
	check_is(dmirror_compare(e->dm), 0, "differences of the device's table and libmirror's");
	e->q = dmirror_queue_free(e->q);
	e->dm = dmirror_free(e->dm);
	mirror_target_unref(e->target);
	mirror_ctx_unref(e->ctx);
}

/* ---- the device ---- */

/* What a page holds, for whoever reads that a test failed. */
static const char *content_of(const uint8_t *page, uint64_t from)
{
	static char text[32];

	for (unsigned int generation = 0; generation < 64; generation++) {
		if (pattern_is(page, PAGE, generation, from)) {
			snprintf(text, sizeof(text), "generation %u", generation);
			return text;
		}
	}
	return page[0] == DMIRROR_GARBAGE ? "garbage, as it was stale" : "something else";
}

static void check_content(struct env *e, uint64_t at, uint64_t size, unsigned int generation,
			  uint64_t from)
{
	uint64_t i = 0;

	if (pattern_is(e->buffer, size, generation, from))
		return;
	while (i + PAGE < size && pattern_is(e->buffer + i, PAGE, generation, from + i))
		i += PAGE;
	check(false, "the device does not read generation %u at %#llx: in page %llu of %llu it "
	      "finds %s", generation, (unsigned long long)at, (unsigned long long)(i / PAGE),
	      (unsigned long long)((size + PAGE - 1) / PAGE), content_of(e->buffer + i, from + i));
}

static void need_right(int r, uint64_t at, const char *does)
{
	if (r == -EPERM && geteuid() != 0)	/* anonymous memory */
		tap_skip_case(ONLY_ROOT);
	check_is(r, 0, "the device %s %#llx", does, (unsigned long long)at);
}

uint64_t device_read(struct env *e, uint64_t at, uint64_t size, unsigned int generation,
		     uint64_t from)
{
	struct dmirror_cmd cmd = { .address = at, .buffer = e->buffer, .bytes = size };

	memset(e->buffer, 0xee, size);
	need_right(dmirror_read(e->q, &cmd), at, "reads");
	check_is(cmd.n_done, size, "bytes the device read");
	check_content(e, at, size, generation, from);
	return cmd.n_faults;
}

uint64_t device_write(struct env *e, uint64_t at, uint64_t size, unsigned int generation,
		      uint64_t from)
{
	struct dmirror_cmd cmd = { .address = at, .buffer = e->buffer, .bytes = size };
	uint64_t stale = dmirror_told(e->dm).stale;

	pattern_fill(e->buffer, size, generation, from);
	need_right(dmirror_write(e->q, &cmd), at, "writes");
	check_is(cmd.n_done, size, "bytes the device wrote");
	check_is(dmirror_told(e->dm).stale, stale, "pages that were not the target's when written");
	return cmd.n_faults;
}

void device_fails(struct env *e, uint64_t at, uint64_t size, bool write, int error)
{
	struct dmirror_cmd cmd = { .address = at, .buffer = e->buffer, .bytes = size };

	memset(e->buffer, 0xee, size);
	check_is(write ? dmirror_write(e->q, &cmd) : dmirror_read(e->q, &cmd), error,
		 "the device %s what it must not", write ? "writes" : "reads");
	check_is(cmd.n_done, 0, "bytes it got");
}

void rest_is_untouched(struct env *e, unsigned int generation)
{
	uint64_t before = e->victim - e->area, after = e->area + e->size - e->victim_end;
	uint64_t faults = 0;

	if (before)
		faults += device_read(e, e->area, before, generation, 0);
	faults += device_read(e, e->victim_end, after, generation, e->victim_end - e->area);
	check_is(faults, 0, "faults of the device on what was not changed");
}

uint64_t invalidations(struct env *e, uint64_t at, uint64_t size)
{
	return dmirror_invalidations(e->dm, at, at + size);
}

/* ---- what can be asked for ---- */

void need_event(struct env *e, unsigned int type, const char *what)
{
	int guarantee = mirror_target_get_guarantee(e->target, type);

	check_ok(guarantee);
	if (guarantee < MIRROR_GUARANTEE_ORDERED)
		tap_skip_case("the source does not tell %s", what);
}

bool tells_copies(struct env *e)
{
	/*
	 * Copies are CLEAR, but so is madvise(), and who tells of that need not tell of
	 * them.  Write protection for reasons of the kernel's is told by nobody but
	 * the kernel's notifier, which tells everything.
	 */
	return mirror_target_get_guarantee(e->target, MIRROR_EVENT_PROTECTION_PAGE) >=
	       MIRROR_GUARANTEE_ORDERED;
}

unsigned int random_below(unsigned int n)
{
	static uint64_t state;
	const char *text;

	if (!state) {
		text = getenv("MIRROR_SEED");
		state = (text ? strtoull(text, NULL, 0) : 20) * 0x9e3779b97f4a7c15ULL | 1;
	}
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (unsigned int)(state >> 32) % n;
}

void need_kernel(struct env *e, const char *what)
{
	if (!tells_copies(e))
		tap_skip_case("the source does not tell %s", what);
}
