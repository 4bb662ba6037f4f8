/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A storm: two threads of a device read while the CPU replaces pages
 *
 *	storm [--some|--full]
 *
 * Each page holds a number: which page it is, and of which generation.  The CPU makes
 * the next generation of a page elsewhere, maps it over the old one, and publishes the
 * number.  A read of the device that begins later must find that number or a later
 * one; with MIRROR_ATTACH_STRICT also every number that this thread has seen by its
 * own CPU before, though the mmap() of the other thread has not returned yet.
 *
 *	CPU				device
 *	started = 7			floor = published (acquire)
 *	mmap(generation 7)		floor = max(floor, what I see at the address)
 *	published = 7 (release)		read: not less than floor
 *					now = started
 *
 * A read that overlaps a replacement may find nothing: a frame that is gone, the zeros
 * of a page that is not filled yet.  That is a mistake only if now says that no
 * replacement has begun since the floor.  A generation below the floor always is one.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "env.h"

#define SLOTS		48
#define READERS		2
#define BURST		16		/* pages replaced without a read, at most */
#define QUICK		6000
#define SOME		30000
#define FULL		400000
#define CASE_NS		(9 * 1000000000ULL)	/* at most */
#define FILE_PAGES	16384ULL	/* used again after so many replacements */

static uint64_t wanted = QUICK;

struct storm {
	struct env env;
	bool strict, anonymous;
	uint64_t started[SLOTS], published[SLOTS];
	uint64_t n_replaced;
	bool over;
	uint64_t n_reads, n_faults, n_stale;
	uint64_t example[3];		/* of a stale read: floor, found, now */
	int error;
};

#define load(_p)	__atomic_load_n((_p), __ATOMIC_ACQUIRE)
#define store(_p, _v)	__atomic_store_n((_p), (_v), __ATOMIC_RELEASE)
#define add(_p, _n)	__atomic_fetch_add((_p), (_n), __ATOMIC_RELAXED)

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static uint64_t number(unsigned int slot, uint64_t generation)
{
	return (uint64_t)(slot + 1) << 48 | generation;
}

static uint64_t *slot_at(struct storm *s, unsigned int slot)
{
	return (uint64_t *)(uintptr_t)(s->env.area + slot * PAGE);
}

/* ---- CPU ---- */

static void replace(struct storm *s, unsigned int slot, uint64_t generation)
{
	uint64_t what = number(slot, generation), offset = generation % FILE_PAGES * PAGE;
	int flags = s->anonymous ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	long r;

	store(&s->started[slot], generation);
	if (!s->anonymous)
		check_is(pwrite(s->env.fd, &what, sizeof(what), (off_t)offset), sizeof(what),
			 "writing the file");
	/* the thread sanitizer would take mmap() for a write by this thread */
	r = syscall(SYS_mmap, slot_at(s, slot), PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED,
		    s->anonymous ? -1 : s->env.fd, s->anonymous ? 0 : offset);
	check(r == (long)(uintptr_t)slot_at(s, slot), "mmap: %s", strerror(errno));
	if (s->anonymous)
		store(slot_at(s, slot), what);
	store(&s->published[slot], generation);
	add(&s->n_replaced, 1);
}

/* ---- device ---- */

static bool is_stale(const struct storm *s, unsigned int slot, uint64_t floor, uint64_t found,
		     uint64_t before)
{
	if (found >= number(slot, floor) && found < number(slot + 1, 0))
		return false;
	if (load(&s->n_replaced) - before > FILE_PAGES / 2)
		return false;		/* so slow that its page is another's already */
	/* garbage, zeros, another's: only while it is being replaced; an old one: never */
	return load(&s->started[slot]) == floor || found >> 48 == slot + 1U;
}

static void read_one(struct storm *s, struct dmirror_queue *q, unsigned int slot)
{
	uint64_t found = 0, floor = load(&s->published[slot]), before = load(&s->n_replaced), seen;
	struct dmirror_cmd cmd = {
		.address = (uintptr_t)slot_at(s, slot), .buffer = &found, .bytes = sizeof(found),
	};
	int r;

	if (s->strict) {
		seen = load(slot_at(s, slot));
		if (seen > number(slot, floor))
			floor = seen - number(slot, 0);
	}
	r = dmirror_read(q, &cmd);
	if (r < 0) {
		s->error = r;
		store(&s->over, true);
		return;
	}
	add(&s->n_reads, 1);
	add(&s->n_faults, cmd.n_faults);
	if (is_stale(s, slot, floor, found, before) && add(&s->n_stale, 1) == 0) {
		s->example[0] = floor;
		s->example[1] = found;
		s->example[2] = load(&s->started[slot]);
	}
}

struct reader {
	struct storm *storm;
	uint64_t seed;
	pthread_t thread;
};

static void *reader_main(void *arg)
{
	struct reader *reader = arg;
	struct storm *s = reader->storm;
	struct dmirror_queue *q;
	int r;

	r = dmirror_queue_new(&q, s->env.dm);
	if (r < 0) {
		s->error = r;
		return NULL;
	}
	while (!load(&s->over)) {
		reader->seed = reader->seed * 6364136223846793005ULL + 1442695040888963407ULL;
		read_one(s, q, (unsigned int)((reader->seed >> 33) % SLOTS));
	}
	dmirror_queue_free(q);
	return NULL;
}

/* ---- cases ---- */

struct kind {
	const char *name;
	bool strict, anonymous;
	unsigned int broken;
};

static void make_device(struct storm *s, unsigned int broken)
{
	struct dmirror_opts opts = { .walk = DMIRROR_WALK_TLB, .broken = broken, .eager = true };
	struct env *e = &s->env;

	check_ok(dmirror_new(&e->dm, e->target, e->window, e->window + WINDOW, &opts));
	if (e->fd >= 0) {
		check_ok(ftruncate(e->fd, FILE_PAGES * PAGE));
		check_ok(dmirror_add_file(e->dm, e->fd));
	}
}

static void run_storm(const void *arg)
{
	const struct kind *kind = arg;
	struct way way = { kind->name, DMIRROR_WALK_TLB, 0, false, kind->strict };
	struct storm s = { .strict = kind->strict, .anonymous = kind->anonymous };
	uint64_t generation = 0, end = now_ns() + CASE_NS, before;
	struct reader readers[READERS];
	struct dmirror_told told;

	env_begin_target(&s.env, kind->anonymous ? MEMORY_ANON : MEMORY_MEMFD, &way, false);
	make_device(&s, kind->broken);
	for (unsigned int slot = 0; slot < SLOTS; slot++)
		replace(&s, slot, ++generation);
	for (unsigned int i = 0; i < READERS; i++) {
		readers[i] = (struct reader) { .storm = &s, .seed = random_below(1U << 30) };
		check_is(pthread_create(&readers[i].thread, NULL, reader_main, &readers[i]), 0,
			 "a thread");
	}
	while (generation < wanted && !load(&s.over) && now_ns() < end &&
	       !(kind->broken && load(&s.n_stale))) {
		before = load(&s.n_reads);
		for (unsigned int i = 0; i < BURST; i++)
			replace(&s, random_below(SLOTS), ++generation);
		/* the readers shall get something of it, however slow they are */
		while (load(&s.n_reads) == before && !load(&s.over) && now_ns() < end)
			sched_yield();
	}
	store(&s.over, true);
	for (unsigned int i = 0; i < READERS; i++)
		pthread_join(readers[i].thread, NULL);

	told = dmirror_told(s.env.dm);
	tap_remark("%llu reads, %llu faults, %llu pages replaced, %llu stale",
		   (unsigned long long)s.n_reads, (unsigned long long)s.n_faults,
		   (unsigned long long)generation, (unsigned long long)s.n_stale);
	check_is(s.error, 0, "a read");
	check(s.n_stale == 0, "%llu stale reads; the first found %#llx, generation %llu at least, "
	      "started %llu", (unsigned long long)s.n_stale, (unsigned long long)s.example[1],
	      (unsigned long long)s.example[0], (unsigned long long)s.example[2]);
	check(s.n_faults > 2 * SLOTS, "there was no storm");
	check_is(told.contradictions, 0, "callbacks that contradict others");
	check_is(dmirror_compare(s.env.dm), 0, "differences of the tables");
	s.env.dm = dmirror_free(s.env.dm);
	mirror_target_unref(s.env.target);
	mirror_ctx_unref(s.env.ctx);
}

int main(int argc, char **argv)
{
	static const struct kind kinds[] = {
		{ "memfd, lookups are strict", true, false, 0 },
		{ "anonymous, lookups are strict", true, true, 0 },
		{ "memfd, lookups are ordered", false, false, 0 },
		{ "anonymous, lookups are ordered", false, true, 0 },
	};
	static const struct kind broken[] = {
		{ "memfd, a device that does not validate", false, false,
		  DMIRROR_BROKEN_VALIDATE },
		{ "anonymous, a device that does not validate", false, true,
		  DMIRROR_BROKEN_VALIDATE },
	};

	if (argc > 1)
		wanted = strcmp(argv[1], "--full") ? SOME : FULL;
	tap_begin(wanted == FULL ? 280 : 100);
	for (unsigned int i = 0; i < ARRAY_LENGTH(kinds); i++)
		tap_case(kinds[i].name, run_storm, &kinds[i]);
	for (unsigned int i = 0; i < ARRAY_LENGTH(broken); i++)
		tap_case_must_fail(broken[i].name, run_storm, &broken[i]);
	return tap_end();
}
