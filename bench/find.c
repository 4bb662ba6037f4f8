/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * bench-find: what it costs to find an address among many regions
 *
 *	how=NAME	who looks, see find.h
 *	regions=N	of one page each, side by side in one mapping
 *
 * Times are in picoseconds a look-up, of BATCH together; each figure ends with the
 * number of threads that look at the same time.
 *
 *	near-1, near-2	among at most 32 regions that are neighbours, over and over
 *	far-1, far-2	all over the place
 *	miss-1, miss-2	what is not there: a cache registers it, a table says so
 *	drop		the memory of those misses is unmapped: until all of it is
 *			deregistered, for each region
 *	stale		of so many regions whose memory was unmapped and mapped anew, by
 *			system calls that do not go through the C library: how many
 *			are found as if nothing had happened
 */

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "find.h"

#define BATCH 500
#define NEAR 32
#define FAR (1U << 18)
#define OTHERS 100000U

static const struct find *const ways[] = {
#ifdef FIND_UCX
	&find_ucx_rcache, &find_ucx_pgtable,
#elif defined(FIND_FABRIC)
	&find_fabric,
#else
	&find_tlb, &find_device, &find_regcache,
#endif
};

struct worker {
	pthread_t thread;
	unsigned int index, count, n_threads;
	void (*work)(struct worker *);
	char *fresh;			/* BATCH pages, in a room of its own; for caches */
	char **near, **far, **miss;
	size_t far_at;
	unsigned int n_drops;
	uint64_t value[SAMPLES_MAX], drop[SAMPLES_MAX];
};

static const struct find *way;
static char *memory;
static size_t n_regions;
static unsigned int n_together, n_arrived;
static struct worker workers[FIND_THREADS_MAX];
static uint64_t n_stale;
static char *others;
static unsigned int n_others;

/* All threads of a run meet here.  They must be at work at the same time, so none sleeps. */
static void meet(void)
{
	unsigned int n = __atomic_add_fetch(&n_arrived, 1, __ATOMIC_ACQ_REL);
	unsigned int all = (n + n_together - 1) / n_together * n_together;

	while (__atomic_load_n(&n_arrived, __ATOMIC_ACQUIRE) < all)
		sched_yield();
}

static uint64_t look_up(struct worker *w, char *const *pages, size_t expected)
{
	uint64_t t = now_ns();
	size_t n = way->look_up(w->index, pages, BATCH);

	t = now_ns() - t;
	if (n != expected)
		fail("found %zu of %zu", n, expected);
	return t * 1000 / BATCH;
}

static void work_near(struct worker *w)
{
	look_up(w, w->near, BATCH);
	for (unsigned int i = 0; i < w->count; i++)
		w->value[i] = look_up(w, w->near, BATCH);
}

static void work_far(struct worker *w)
{
	for (unsigned int i = 0; i < w->count; i++) {
		if (w->far_at + BATCH > FAR)
			w->far_at = 0;
		w->value[i] = look_up(w, w->far + w->far_at, BATCH);
		w->far_at += BATCH;
	}
}

/* By system calls, which nobody's wrappers see. */
static void map_fresh(char *where, size_t bytes)
{
	char *p = (char *)syscall(SYS_mmap, where, bytes, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_POPULATE, -1, 0L);

	if (p != where)
		fail("mmap: %s", strerror(errno));
}

static void unmap(char *where, size_t bytes)
{
	must(syscall(SYS_munmap, where, bytes) < 0 ? -errno : 0, "munmap");
}

static void work_miss(struct worker *w)
{
	uint64_t t;

	for (unsigned int i = 0; i < w->count; i++) {
		if (way->registered)
			map_fresh(w->fresh, BATCH * PAGE);
		meet();
		w->value[i] = look_up(w, w->miss, way->registered ? BATCH : 0);
		meet();
		if (!way->gone)
			continue;
		t = now_ns();
		unmap(w->fresh, BATCH * PAGE);
		way->gone(w->fresh, BATCH * PAGE);
		w->drop[w->n_drops++] = (now_ns() - t) * 1000 / BATCH;
	}
}

static void *thread(void *arg)
{
	struct worker *w = arg;

	pin(cpu_at((int)w->index));
	meet();
	w->work(w);
	return NULL;
}

static void run(const char *name, unsigned int n_threads, unsigned int count,
		void (*work)(struct worker *))
{
	static struct samples s;

	n_together = n_threads;
	n_arrived = 0;
	for (unsigned int i = 0; i < n_threads; i++) {
		workers[i].count = count;
		workers[i].n_drops = 0;
		workers[i].work = work;
	}
	for (unsigned int i = 1; i < n_threads; i++)
		must(-pthread_create(&workers[i].thread, NULL, thread, &workers[i]),
		     "pthread_create");
	thread(&workers[0]);
	for (unsigned int i = 1; i < n_threads; i++)
		pthread_join(workers[i].thread, NULL);
	s.name = name;
	for (unsigned int i = 0; i < n_threads; i++)
		for (unsigned int k = 0; k < count; k++)
			samples_add(&s, workers[i].value[k]);
	samples_say(&s);
}

static void run_hit(unsigned int count)
{
	uint64_t before = way->registered ? way->registered() : 0;

	run("near-1", 1, count, work_near);
	run("near-2", 2, count, work_near);
	if (n_regions > NEAR) {
		run("far-1", 1, count, work_far);
		run("far-2", 2, count, work_far);
	}
	if (way->registered && way->registered() != before)
		fail("%llu hits were none", (unsigned long long)(way->registered() - before));
}

static void check_misses(uint64_t before, unsigned int n)
{
	if (way->registered && way->registered() != before + (uint64_t)n * BATCH)
		fail("%llu registrations for %u misses",
		     (unsigned long long)(way->registered() - before), n * BATCH);
}

static void run_miss(unsigned int count)
{
	uint64_t before = way->registered ? way->registered() : 0;
	uint64_t dropped = way->deregistered ? way->deregistered() : 0;
	static struct samples s = { .name = "drop" };

	run("miss-1", 1, count, work_miss);
	check_misses(before, count);
	if (way->gone && way->deregistered() != dropped + (uint64_t)count * BATCH)
		fail("%llu of %u registrations were undone",
		     (unsigned long long)(way->deregistered() - dropped), count * BATCH);
	for (unsigned int i = 0; i < workers[0].n_drops; i++)
		samples_add(&s, workers[0].drop[i]);
	samples_say(&s);
	run("miss-2", 2, count, work_miss);
	check_misses(before, 3 * count);
}

/* Is the region at @page found again, once its memory was replaced? */
static bool is_stale(char *page)
{
	uint64_t before;
	bool found;

	map_fresh(page, PAGE);
	if (!way->registered)
		way->add(page, 1);
	else
		way->look_up(0, &page, 1);
	before = way->registered ? way->registered() : 0;
	unmap(page, PAGE);
	map_fresh(page, PAGE);
	found = way->look_up(0, &page, 1);
	unmap(page, PAGE);
	if (way->gone)
		way->gone(page, PAGE);
	return found && (!way->registered || way->registered() == before);
}

static void run_stale(unsigned int count)
{
	static struct samples s = { .name = "stale" };
	uint64_t n = 0;

	if (!way->gone && !way->never_stale)
		return;
	for (unsigned int i = 0; i < count; i++)
		n += is_stale(workers[0].miss[i % BATCH]);
	if (n && way->never_stale)
		fail("%llu regions found that were gone", (unsigned long long)n);
	n_stale += n;
	samples_add(&s, n);
	samples_say(&s);
}

char *other_page(void)
{
	return others + __atomic_fetch_add(&n_others, 1, __ATOMIC_RELAXED) % OTHERS * PAGE;
}

static void *room(size_t bytes, int prot)
{
	char *p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	return p;
}

/* What each thread looks up, and in which order. */
static void prepare(struct worker *w)
{
	size_t n_near = n_regions < NEAR ? n_regions : NEAR;
	char *middle = memory + (n_regions - n_near) / 2 * PAGE;
	char *misses = memory + n_regions * PAGE;
	uint64_t random = 88172645463325252ULL + w->index;

	w->near = calloc(BATCH, sizeof(*w->near));
	w->far = calloc(FAR, sizeof(*w->far));
	w->miss = calloc(BATCH, sizeof(*w->miss));
	if (!w->near || !w->far || !w->miss)
		fail("out of memory");
	if (way->registered)
		/* a page of nobody's on either side: it is never merged with a neighbour */
		misses = w->fresh = (char *)room((BATCH + 2) * PAGE, PROT_NONE) + PAGE;
	for (size_t i = 0; i < BATCH; i++) {
		w->near[i] = middle + (i + w->index * 7) % n_near * PAGE;
		w->miss[i] = misses + i * PAGE;
	}
	for (size_t i = 0; i < FAR; i++) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		w->far[i] = memory + random % n_regions * PAGE;
	}
}

int main(int argc, char **argv)
{
	static const struct turn turns[] = {
		{ "hit", run_hit }, { "miss", run_miss }, { "stale", run_stale },
	};
	const char *name = option_text(argv, "how", "");
	size_t bytes;

	(void)argc;
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
		if (!strcmp(ways[i]->name, name))
			way = ways[i];
	if (!way)
		fail("how=%s is not known", name);
	n_regions = (size_t)option_number(argv, "regions", 1);
	if (n_regions < 1 || n_regions > 1000000)
		fail("1 to 1000000 regions");
	cpu_at(FIND_THREADS_MAX - 1);
	bytes = (n_regions + BATCH) * PAGE;
	memory = room(bytes, PROT_READ | PROT_WRITE);
	others = room(OTHERS * PAGE, PROT_READ | PROT_WRITE);
	for (unsigned int i = 0; i < FIND_THREADS_MAX; i++) {
		workers[i].index = i;
		prepare(&workers[i]);
	}
	way->start(argv, memory, bytes);
	way->add(memory, n_regions);
	take_turns(turns, ARRAY_SIZE(turns));
	printf("done stale=%llu\n", (unsigned long long)n_stale);
	fflush(stdout);
	_exit(0);
}
