/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A walk of the mirror table is never behind
 *
 * A process changes a few pages again and again: each has by turns another kind of
 * memory behind it, or none, and no two kinds look alike in a table.  Another process,
 * or a thread of its own, walks its table, while one more thread has it filled all the
 * time.
 *
 *	target				reader
 *	turn odd
 *	munmap, mmap, madvise ...
 *	turn even (release)		turn, even (acquire)
 *					walk, mirror_read_retry(): good
 *					the same turn still
 *
 * Then the walk began after the system calls of that turn had returned, and what it
 * found must be of this turn's kind, or nothing: the kind before is a stale entry.
 * Each page has a leaf node of its own, so that nodes are freed under the reader and
 * used again for other pages.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <mirror/mirror.h>
#include <mirror/table.h>
#include "harness.h"

#define PAGES		4U
#define APART		(2UL << 20)
#define FILE_PAGES	256U
#define PACE		400UL	/* walks for each turn, at least */
#define BATCH		64UL
#define SECONDS_QUICK	60
#define SECONDS_FULL	250

enum kind { KIND_ANON, KIND_HOLE, KIND_READ_ONLY, KIND_SHARED, KIND_CLEARED, KINDS };

#define LOOKS (MIRROR_PTE_PRESENT | MIRROR_PTE_READ | MIRROR_PTE_WRITE | MIRROR_PTE_FILE | \
	       MIRROR_PTE_SHARED)

static const uint64_t looks[KINDS] = {
	[KIND_ANON] = MIRROR_PTE_PRESENT | MIRROR_PTE_READ | MIRROR_PTE_WRITE,
	[KIND_READ_ONLY] = MIRROR_PTE_PRESENT | MIRROR_PTE_READ,
	[KIND_SHARED] = MIRROR_PTE_PRESENT | MIRROR_PTE_READ | MIRROR_PTE_WRITE |
			MIRROR_PTE_FILE | MIRROR_PTE_SHARED,
};

/* Shared with the target. */
struct stage {
	atomic_ulong turn;
	atomic_ulong n_walks;
	atomic_int ready;	/* 1, or -errno */
	atomic_bool stop;
};

static struct daemon d;
static struct stage *stage;
static char *base;
static int memfd;
static struct mirror_target *target;
static atomic_ulong n_fills;

static enum kind kind_of(unsigned long turn, unsigned int page)
{
	return (enum kind)((turn / 2 + page) % KINDS);
}

/* ---- the target ---- */

static bool put(unsigned int page, enum kind kind, unsigned long turn)
{
	int prot = PROT_READ | (kind == KIND_READ_ONLY ? 0 : PROT_WRITE);
	char *p = base + page * APART, *to;
	off_t off = (off_t)((turn + page) % FILE_PAGES * PAGE);

	/* by MAP_FIXED over what is there, or after munmap */
	if (turn / 2 / KINDS % 2 || kind == KIND_HOLE)
		munmap(p, PAGE);
	if (kind == KIND_HOLE)
		return true;
	to = mmap(p, PAGE, prot, MAP_FIXED | (kind == KIND_SHARED ? MAP_SHARED : MAP_PRIVATE |
						      MAP_ANONYMOUS),
		  kind == KIND_SHARED ? memfd : -1, kind == KIND_SHARED ? off : 0);
	if (to != p)
		return false;
	if (kind == KIND_READ_ONLY)
		*(volatile char *)p;
	else
		*(volatile char *)p = 1;
	return kind != KIND_CLEARED || madvise(p, PAGE, MADV_DONTNEED) == 0;
}

static void storm(void)
{
	unsigned long turn = 0, next = 0;

	while (!atomic_load_explicit(&stage->stop, memory_order_relaxed)) {
		atomic_store(&stage->turn, ++turn);
		for (unsigned int page = 0; page < PAGES; page++)
			if (!put(page, kind_of(turn, page), turn))
				bail("the target cannot change its memory");
		atomic_store(&stage->turn, ++turn);
		next = atomic_load(&stage->n_walks) + PACE;
		while (atomic_load(&stage->n_walks) < next && !atomic_load(&stage->stop))
			sched_yield();
	}
}

static void target_main(void)
{
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	struct mirror_target *self;
	struct mirror_ctx *ctx;
	int r;

	open.path = d.socket;
	r = mirror_open(&ctx, &open);
	if (r == 0)
		r = mirror_target_attach_self(&self, ctx, NULL);
	atomic_store(&stage->ready, r < 0 ? r : 1);
	if (r < 0)
		_exit(2);
	storm();
	mirror_target_unref(self);
	mirror_ctx_unref(ctx);
	_exit(0);
}

/* ---- the reader ---- */

static void *filler(void *data)
{
	uint64_t at, bad = 0;
	unsigned int page = 0;

	(void)data;
	while (!atomic_load_explicit(&stage->stop, memory_order_relaxed)) {
		at = (uintptr_t)base + page * APART;
		page = (page + 1) % PAGES;
		if (mirror_target_fill(target, at, at + PAGE, NULL) == 0)
			atomic_fetch_add(&n_fills, 1);
		else if (++bad > 1000000)
			break;
	}
	return NULL;
}

static void on_event(struct mirror_notifier *n, const struct mirror_event *ev, void *data)
{
	(void)n;
	(void)ev;
	(void)data;
}

struct sums {
	unsigned long stale, unknown, found[KINDS], begun, walks;
};

static void judge(struct sums *sums, uint64_t entry, enum kind kind, unsigned int page)
{
	if (!entry) {
		sums->unknown++;
	} else if (looks[kind] && (entry & LOOKS) == looks[kind]) {
		sums->found[kind]++;
	} else if (sums->stale++ < 5) {
		note("page %u: %#llx, but its kind is %u", page, (unsigned long long)entry, kind);
	}
}

static void read_all(const struct mirror_table *table, struct mirror_notifier *n,
		     unsigned long walks, unsigned long turns, struct sums *sums)
{
	uint64_t version[PAGES] = { 0 }, at, entry, end;
	bool good[PAGES] = { false };
	unsigned long turn;
	unsigned int shift;

	end = now_ms() + test_size(SECONDS_QUICK, SECONDS_QUICK, SECONDS_FULL) * 1000;
	for (unsigned int page = 0; sums->walks < walks || atomic_load(&stage->turn) / 2 < turns;
	     page = (page + 1) % PAGES) {
		at = (uintptr_t)base + page * APART;
		if (++sums->walks % BATCH == 0) {
			atomic_fetch_add(&stage->n_walks, BATCH);
			if (sums->walks % 65536 == 0 && now_ms() > end)
				break;
		}
		turn = atomic_load_explicit(&stage->turn, memory_order_acquire);
		entry = mirror_table_walk(table, at, &shift);
		if (!good[page] || mirror_read_retry(n, at, at + PAGE, version[page])) {
			sums->begun++;
			/* where nothing is mapped there is no version */
			good[page] = mirror_read_begin(n, at, at + PAGE, &version[page]) == 0;
			continue;
		}
		/* what was loaded above was before this */
		atomic_thread_fence(memory_order_acquire);
		if (!turn || turn & 1 ||
		    atomic_load_explicit(&stage->turn, memory_order_relaxed) != turn)
			continue;
		judge(sums, entry, kind_of(turn - 1, page), page);
	}
}

/* Walks the table of the target, which is there, until there was enough of it. */
static void watch(unsigned long walks, unsigned long turns, const char *who)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	const struct mirror_table *table;
	struct sums sums = { .stale = 0 };
	struct mirror_notifier *n;
	pthread_t thread;
	int r;

	r = mirror_notifier_insert(&n, target, (uintptr_t)base, (uintptr_t)base + PAGES * APART,
				   &ops, NULL);
	if (r == 0)
		r = mirror_target_get_table(target, &table);
	if (r < 0 || pthread_create(&thread, NULL, filler, NULL))
		bail("cannot watch: %s", strerror(-r));
	read_all(table, n, walks, turns, &sums);
	atomic_store(&stage->stop, true);
	pthread_join(thread, NULL);
	note("%s: %lu walks in %lu turns, %lu looks; %lu lookups begun", who, sums.walks,
	     atomic_load(&stage->turn) / 2, atomic_load(&n_fills), sums.begun);
	note("found: %lu anonymous, %lu read-only, %lu shared; %lu times nothing",
	     sums.found[KIND_ANON], sums.found[KIND_READ_ONLY], sums.found[KIND_SHARED],
	     sums.unknown);
	same((long long)sums.stale, 0, "%s: no walk was behind", who);
	ok(atomic_load(&stage->turn) / 2 >= turns / 20, "%s: there were many turns", who);
	ok(sums.found[KIND_ANON] && sums.found[KIND_READ_ONLY] && sums.found[KIND_SHARED],
	   "%s: each kind was found", who);
	ok(sums.unknown > 0, "%s: and nothing, at times", who);
	mirror_notifier_remove(n);
}

static void open_ctx(struct mirror_ctx **ret_ctx)
{
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	int r;

	open.path = d.socket;
	open.ring_entries = 65536;
	r = mirror_open(ret_ctx, &open);
	if (r < 0)
		bail("cannot open: %s", strerror(-r));
	atomic_store(&stage->turn, 0);
	atomic_store(&stage->n_walks, 0);
	atomic_store(&stage->stop, false);
	atomic_store(&n_fills, 0);
}

static void another_process(unsigned long walks, unsigned long turns)
{
	struct mirror_ctx *ctx;
	pid_t pid;
	int pidfd;

	open_ctx(&ctx);
	pid = child_fork();
	if (!pid)
		target_main();
	for (unsigned int i = 0; i < 20000 && !atomic_load(&stage->ready); i++)
		nap_ms(1);
	if (atomic_load(&stage->ready) != 1)
		bail("the target cannot attach: %s", strerror(-atomic_load(&stage->ready)));
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (mirror_target_attach(&target, ctx, pidfd, -1, NULL) < 0)
		bail("cannot attach");
	watch(walks, turns, "another process");
	same(child_wait(pid, 20000), 0, "the target ends well");
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
	close(pidfd);
}

static void *storm_main(void *data)
{
	(void)data;
	storm();
	return NULL;
}

static void same_process(unsigned long walks, unsigned long turns, bool strict)
{
	struct mirror_attach_opts opts = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_ctx *ctx;
	pthread_t thread;

	opts.flags = strict ? MIRROR_ATTACH_STRICT : 0;
	open_ctx(&ctx);
	if (mirror_target_attach_self(&target, ctx, &opts) < 0 ||
	    pthread_create(&thread, NULL, storm_main, NULL))
		bail("cannot attach");
	watch(walks, turns, strict ? "strict" : "same process");
	pthread_join(thread, NULL);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

int main(int argc, char **argv)
{
	unsigned long walks, turns;

	test_begin(argc, argv, 120, 280);
	walks = test_size(1000000, 8000000, 100000000);
	turns = test_size(300, 500, 1500);
	stage = mmap(NULL, sizeof(*stage), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		     -1, 0);
	base = mmap(NULL, (PAGES + 1) * APART, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memfd = (int)syscall(SYS_memfd_create, "pages", 0U);
	if (stage == MAP_FAILED || base == MAP_FAILED || ftruncate(memfd, FILE_PAGES * PAGE) < 0)
		bail("no memory");
	/* it stays: nothing else of this process comes where the pages are */
	base += (APART - (uintptr_t)base % APART) % APART;
	daemon_init(&d);
	daemon_start(&d, NULL);
	another_process(walks, turns);
	same_process(walks / 10, turns, false);
	same_process(walks / 10, turns, true);
	same(daemon_stop(&d), 0, "the daemon ends well");
	return test_end();
}
