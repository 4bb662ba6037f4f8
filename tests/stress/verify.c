/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror table against the kernel, after many random changes
 *
 * Eight threads map, unmap, move, clear, touch, protect and fork, each in an arena of
 * its own and now and then in one of another's, while the main thread has the daemon
 * look at random parts.  Again and again
 * all stand still, and every page of all arenas is compared, as mirrorctl verify does
 * it.  The table is never emptied by hand, so what is not told once stays wrong.
 *
 * mprotect() and the copies of private file pages are not told by userfaultfd: a page
 * may be wrong for these reasons, and for no other.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <mirror/table.h>
#include "tools/check.h"
#include "harness.h"

#define THREADS		8
#define ROUND_OPS	1000		/* of all threads, between two comparisons */
#define ARENA_PAGES	2048
#define ARENA		(ARENA_PAGES * PAGE)
#define ARENAS		(THREADS * ARENA)
#define HUGE_PAGES	512
#define FILE_PAGES	1024
#define DONTUNMAP	4		/* MREMAP_DONTUNMAP */
#define POPULATE_READ	22		/* MADV_POPULATE_READ and WRITE */
#define POPULATE_WRITE	23

struct worker {
	pthread_t thread;
	unsigned int own;	/* its arena */
	char *arena;		/* where it works now */
	bool may_share;
	uint64_t seed;
	unsigned long n_forks, n_failed;
};

static struct daemon d;
static struct worker workers[THREADS];
static char *arenas;
static int file_fd;		/* what is mapped privately */
static int byte_fd;		/* what is touched is read from and written to here */
static pthread_barrier_t barrier;
static atomic_uint n_done;	/* threads that have ended their round */
static atomic_bool stop;

/* ---- operations ---- */

static uint64_t w_rnd(struct worker *w, uint64_t below)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return w->seed % below;
}

static size_t some_pages(struct worker *w)
{
	switch (w_rnd(w, 16)) {
	case 0:
		return 1 + w_rnd(w, HUGE_PAGES + 100);
	case 1 ... 5:
		return 1 + w_rnd(w, 64);
	}
	return 1 + w_rnd(w, 8);
}

/* Some of its arena, aligned or not. */
static char *somewhere(struct worker *w, size_t n_pages)
{
	return w->arena + w_rnd(w, ARENA_PAGES - n_pages + 1) * PAGE;
}

static void map_anon(struct worker *w, char *p, size_t size)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;

	if (!w_rnd(w, 4))
		flags |= MAP_POPULATE;
	w->n_failed += mmap(p, size, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED;
}

/*
 * A memfd of its own for each: pages go with the last mapping, and a hole punched
 * through one mapping (MADV_REMOVE) is not one in any other.
 */
static void map_shared(struct worker *w, char *p, size_t size)
{
	int fd = memfd_create("verify", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
	    mmap(p, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		w->n_failed++;
	if (fd >= 0)
		close(fd);
}

static void map_file(struct worker *w, char *p, size_t size)
{
	off_t at = (off_t)(w_rnd(w, FILE_PAGES / 2) * PAGE);

	w->n_failed += mmap(p, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file_fd,
			    at) == MAP_FAILED;
}

static void map_huge(struct worker *w)
{
	size_t size = HUGE_PAGES * PAGE;
	char *p = w->arena + w_rnd(w, ARENA_PAGES / HUGE_PAGES) * size;

	map_anon(w, p, size);
	madvise(p, size, MADV_HUGEPAGE);
	madvise(p, PAGE, POPULATE_WRITE);
}

static void move(struct worker *w, char *p, size_t n_pages, int flags)
{
	char *to = somewhere(w, n_pages);
	size_t size = n_pages * PAGE;

	(void)!mremap(p, size, size, MREMAP_MAYMOVE | MREMAP_FIXED | flags, to);
}

static void resize(struct worker *w, char *p, size_t n_pages)
{
	size_t room = (size_t)(w->arena + ARENA - p) / PAGE, n = some_pages(w);

	if (n > room)
		n = room;
	(void)!mremap(p, n_pages * PAGE, n * PAGE, 0);
}

/* By the kernel, which finds out itself if there is something to touch. */
static void touch(struct worker *w, char *p, size_t n_pages, bool write)
{
	size_t step = 1 + w_rnd(w, 3);

	for (size_t i = 0; i < n_pages; i += step) {
		if (write)
			(void)!pread(byte_fd, p + i * PAGE, 1, 0);
		else
			(void)!pwrite(byte_fd, p + i * PAGE, 1, 1);
	}
}

static void protect(struct worker *w, char *p, size_t size)
{
	static const int prots[] = {
		PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
		PROT_READ | PROT_EXEC,
	};

	mprotect(p, size, prots[w_rnd(w, sizeof(prots) / sizeof(prots[0]))]);
}

static void fork_child(struct worker *w, char *p)
{
	pid_t pid = fork();

	if (pid == 0) {
		(void)!pread(byte_fd, p, 1, 0);	/* a copy for the child */
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
	w->n_forks++;
}

/*
 * In every other arena there is shared memory, and in the rest mappings are left
 * behind by mremap().  Both together would have a page of a memfd mapped twice, and a
 * hole that is punched at one place (MADV_REMOVE) is not told at the other.
 */
static void choose_arena(struct worker *w)
{
	unsigned int i = w_rnd(w, 8) ? w->own : (unsigned int)w_rnd(w, THREADS);

	w->arena = arenas + i * ARENA;
	w->may_share = i % 2;
}

static void one_op(struct worker *w)
{
	size_t n_pages = some_pages(w), size = n_pages * PAGE;
	unsigned int op = (unsigned int)w_rnd(w, 2000);
	char *p;

	choose_arena(w);
	p = somewhere(w, n_pages);

	if (op < 1) {
		fork_child(w, p);
		return;
	}
	switch (op % 40) {
	case 0 ... 3:
		map_anon(w, p, size);
		break;
	case 4 ... 6:
		if (w->may_share)
			map_shared(w, p, size);
		else
			move(w, p, n_pages, DONTUNMAP);
		break;
	case 7 ... 9:
		map_file(w, p, size);
		break;
	case 10 ... 12:
		munmap(p, size);
		break;
	case 13 ... 16:
		move(w, p, n_pages, 0);
		break;
	case 17 ... 19:
		resize(w, p, n_pages);
		break;
	case 20 ... 22:
		madvise(p, size, MADV_DONTNEED);
		break;
	case 23:
		madvise(p, size, MADV_FREE);
		break;
	case 24:
		madvise(p, size, MADV_REMOVE);
		break;
	case 25:
		madvise(p, size, POPULATE_READ);
		break;
	case 26:
		madvise(p, size, POPULATE_WRITE);
		break;
	case 27 ... 30:
		touch(w, p, n_pages, false);
		break;
	case 31 ... 37:
		touch(w, p, n_pages, true);
		break;
	case 38:
		protect(w, p, size);
		break;
	case 39:
		if (op < 400)
			map_huge(w);
		else
			protect(w, p, size);
		break;
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	for (;;) {
		pthread_barrier_wait(&barrier);
		if (stop)
			return NULL;
		for (unsigned int i = 0; i < ROUND_OPS / THREADS; i++)
			one_op(w);
		n_done++;
		pthread_barrier_wait(&barrier);
	}
}

/* ---- the table ---- */

static unsigned long n_fills, n_busy;

static void fill(struct mirror_target *target, uint64_t start, uint64_t end, bool at_rest)
{
	int r;

	r = mirror_target_fill(target, start, end, NULL);
	n_fills++;
	n_busy += r == -EAGAIN;
	if (r < 0 && (r != -EAGAIN || at_rest))
		bail("mirror_target_fill: %s", strerror(-r));
}

static void fill_some(struct mirror_target *target, bool at_rest)
{
	uint64_t at = (uintptr_t)arenas, n = ARENAS / PAGE, first = rnd(n), pages;

	pages = 1 + rnd(rnd(64) ? 300 : n - first);
	if (pages > n - first)
		pages = n - first;
	fill(target, at + first * PAGE, at + (first + pages) * PAGE, at_rest);
}

static void note_wrong(const struct check *c)
{
	static unsigned int n_noted;

	for (size_t i = 0; i < c->n_wrong && n_noted < 20; i++) {
		const struct check_wrong *wrong = &c->wrong[i];

		if (wrong->result.why == UNTOLD_MPROTECT || wrong->result.why == UNTOLD_COPY)
			continue;
		n_noted++;
		note("%llx-%llx: %s (%s): entry %llx, pagemap %llx",
		     (unsigned long long)wrong->start, (unsigned long long)wrong->end,
		     compare_to_string(wrong->result.what), untold_to_key(wrong->result.why),
		     (unsigned long long)wrong->entry, (unsigned long long)wrong->word);
	}
}

/* What no thread here does without its being told. */
static uint64_t n_unexcused(const struct check *c)
{
	return c->different + c->n_untold - c->untold[UNTOLD_MPROTECT] -
	       c->untold[UNTOLD_COPY];
}

struct sums {
	uint64_t wrong, compared, untold, changing, wrong_rounds;
};

static void compare(struct check *c, struct sums *sums)
{
	uint64_t at = (uintptr_t)arenas;
	int r;

	check_reset(c);
	r = check_range(c, at, at + ARENAS);
	if (r < 0)
		bail("the comparison: %s", strerror(-r));
	note_wrong(c);
	sums->wrong += n_unexcused(c);
	sums->wrong_rounds += n_unexcused(c) != 0;
	sums->compared += c->compared;
	sums->untold += c->n_untold;
	sums->changing += c->changing;
}

/*
 * One call over a thousand mappings sends a thousand events, and its thread waits for
 * each.  The daemon can prove the end of some dozens at a time.
 */
static void many_mappings(struct check *c, struct mirror_target *target)
{
	uint64_t at = (uintptr_t)arenas;
	struct sums sums = { 0 };

	if (mmap(arenas, ARENA, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0) == MAP_FAILED)
		bail("mmap: %s", strerror(errno));
	for (size_t i = 0; i < ARENA_PAGES; i += 2)
		mprotect(arenas + i * PAGE, PAGE, PROT_READ);
	fill(target, at, at + ARENA, true);
	compare(c, &sums);
	same((long long)c->compared, ARENA_PAGES, "many mappings are known");
	same(madvise(arenas, ARENA, MADV_DONTNEED), 0, "one call clears them all");
	compare(c, &sums);
	same((long long)sums.wrong, 0, "no difference after it");
	same((long long)c->compared, 0, "as nothing is known");
}

/* ---- the test ---- */

/*
 * Far below everything else, where the kernel puts nothing by itself as long as there
 * is room above: holes in the arenas must stay holes.  The second is for programs with
 * a sanitizer that has the first.
 */
static void make_arenas(void)
{
	static const uintptr_t places[] = { 0x1000000000, 0x200000000000 };

	for (unsigned int i = 0; i < 2; i++) {
		void *p = mmap((void *)places[i], ARENAS, PROT_NONE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
			       MAP_FIXED_NOREPLACE, -1, 0);

		if (p == (void *)places[i]) {
			arenas = p;
			return;
		}
		if (p != MAP_FAILED)
			munmap(p, ARENAS);
	}
	bail("no room for the arenas");
}

static void make_files(void)
{
	char page[PAGE];

	memset(page, 'x', sizeof(page));
	file_fd = memfd_create("verify-file", MFD_CLOEXEC);
	byte_fd = memfd_create("verify-byte", MFD_CLOEXEC);
	if (file_fd < 0 || byte_fd < 0)
		bail("memfd_create: %s", strerror(errno));
	for (unsigned int i = 0; i < FILE_PAGES; i++)
		if (write(file_fd, page, sizeof(page)) != sizeof(page))
			bail("write: %s", strerror(errno));
	if (write(byte_fd, "ab", 2) != 2)
		bail("write: %s", strerror(errno));
}

static void start_workers(void)
{
	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	for (unsigned int i = 0; i < THREADS; i++) {
		workers[i].own = i;
		/* not the next number itself: that would be the next one's first */
		workers[i].seed = rnd(UINT64_MAX) * 0x9e3779b97f4a7c15 | 1;
		if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]))
			bail("cannot make a thread");
	}
}

/*
 * One round of all threads.  In every other one the daemon looks at this and that
 * meanwhile; but a look also mends what is wrong, so not in all.
 */
static void run_round(struct mirror_ctx *ctx, struct mirror_target *target, bool looking)
{
	n_done = 0;
	pthread_barrier_wait(&barrier);
	while (n_done < THREADS) {
		if (looking)
			fill_some(target, false);
		else
			nap_ms(1);
		if (mirror_dispatch(ctx) < 0)
			bail("the daemon is gone");
	}
	pthread_barrier_wait(&barrier);
}

static void storm(struct mirror_ctx *ctx, struct mirror_target *target)
{
	uint64_t at = (uintptr_t)arenas, begun = now_ms();
	unsigned int n = (unsigned int)test_size(20, 200, 1000), i;
	struct check check = CHECK_NULL;
	unsigned long n_forks = 0;
	struct sums sums = { 0 };
	int r;

	r = check_init(&check, ctx, target, at, at + ARENAS);
	if (r < 0)
		bail("check_init: %s", strerror(-r));
	many_mappings(&check, target);
	for (i = 0; i < n && sums.wrong_rounds < 5; i++) {
		run_round(ctx, target, i % 2);
		compare(&check, &sums);	/* what is there from before */
		/* nothing is hidden by it now, and much is to be kept right by events alone */
		if (i % 2)
			fill(target, at, at + ARENAS, true);
		else
			fill_some(target, true);
		compare(&check, &sums);
	}
	stop = true;
	pthread_barrier_wait(&barrier);
	for (unsigned int k = 0; k < THREADS; k++) {
		pthread_join(workers[k].thread, NULL);
		n_forks += workers[k].n_forks;
	}
	note("%u operations, %lu forks, %lu fills, of which %lu busy, %llu ms", i * ROUND_OPS,
	     n_forks, n_fills, n_busy, (unsigned long long)(now_ms() - begun));
	note("%llu pages compared, %llu untold", (unsigned long long)sums.compared,
	     (unsigned long long)sums.untold);
	same((long long)sums.wrong, 0, "no difference after %u operations", n * ROUND_OPS);
	same((long long)sums.changing, 0, "nothing changed while nobody changed anything");

	sums = (struct sums) { 0 };
	fill(target, at, at + ARENAS, true);
	compare(&check, &sums);
	same((long long)sums.wrong, 0, "no difference after looking at everything");
	same((long long)check.unknown, 0, "and everything is known");
	ok(check.compared > ARENA_PAGES, "which is much");
	check_deinit(&check);
}

int main(int argc, char **argv)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_target *target = NULL;
	struct mirror_ctx *ctx = NULL;
	int r;

	test_begin(argc, argv, 120, 290);
	daemon_init(&d);
	daemon_start(&d, NULL);
	make_arenas();
	make_files();
	opts.path = d.socket;
	r = mirror_open(&ctx, &opts);
	if (r == 0)
		r = mirror_target_attach_self(&target, ctx, NULL);
	if (r < 0)
		bail("cannot attach: %s", strerror(-r));
	start_workers();
	storm(ctx, target);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
	ok(daemon_is_alive(&d), "the daemon lives");
	same(daemon_stop(&d), 0, "the daemon ends well");
	return test_end();
}
