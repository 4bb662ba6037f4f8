/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "storm-private.h"

#define ARENA		(1UL << 32)
#define COMPLAINTS	12		/* that are printed */

uint64_t place_address(const struct storm *s, unsigned int place)
{
	return (uintptr_t)s->arena + (place / 2 * SLOT_STRIDE + place % 2 * SLOT_STRIDE / 2) * PAGE;
}

uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

enum phase storm_phase(const struct storm *s)
{
	return (enum phase)atomic_load_explicit(&s->phase, memory_order_acquire);
}

void complain(struct storm *s, atomic_ulong *count, const char *format, ...)
{
	char text[200];
	va_list args;

	atomic_fetch_add(count, 1);
	if (atomic_fetch_add(&s->complaints, 1) >= COMPLAINTS)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	note("%d: %s", (int)getpid(), text);
}

/* ---- beginning ---- */

/* The same hole in all processes: nothing is mapped there but by us. */
static char *find_arena(void)
{
	char *arena = mmap(NULL, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			   -1, 0);

	if (arena == MAP_FAILED)
		bail("mmap: %s", strerror(errno));
	munmap(arena, ARENA);
	return arena + ARENA / 2;
}

/* Each page of it begins with its own number. */
static int make_file(unsigned int pages)
{
	int fd = memfd_create("storm", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)(pages * PAGE)) < 0)
		bail("memfd: %s", strerror(errno));
	for (uint64_t page = 0; page < pages; page++) {
		uint64_t number = page + 1;

		if (pwrite(fd, &number, sizeof(number), (off_t)(page * PAGE)) < 0)
			bail("memfd: %s", strerror(errno));
	}
	return fd;
}

struct storm *storm_start(const struct storm_options *options)
{
	struct storm *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid;

	if (s == MAP_FAILED || options->targets > STORM_TARGETS)
		bail("cannot make a storm");
	s->options = *options;
	s->arena = find_arena();
	s->memfd = make_file(options->targets * SLOTS * FILE_PAGES);
	s->seed = rnd(~0ULL);
	for (unsigned int i = 0; i < options->targets; i++) {
		for (unsigned int p = 0; p < PLACES; p++)
			s->target[i].places[p].history[0] = GONE;
		pid = child_fork();
		if (!pid)
			_exit(target_main(s, i));
		s->target[i].pid = s->targets[i] = pid;
	}
	for (unsigned int i = 1; i < options->targets; i += 2) {
		pid = child_fork();
		if (!pid)
			_exit(consumer_main(s, i));
		s->consumers[i] = pid;
	}
	return s;
}

/* ---- looking ---- */

bool storm_wait(struct storm *s, uint64_t changes, unsigned int ms)
{
	uint64_t end = now_ms() + ms, from[STORM_TARGETS], looks[STORM_TARGETS];
	bool more = true;

	for (unsigned int i = 0; i < s->options.targets; i++) {
		from[i] = s->target[i].n.changes;
		looks[i] = s->target[i].n.lookups;
	}
	while (more && now_ms() < end) {
		more = false;
		for (unsigned int i = 0; i < s->options.targets; i++)
			more = more || s->target[i].n.changes < from[i] + changes ||
			       s->target[i].n.lookups == looks[i] ||
			       !s->target[i].attached || !s->target[i].following;
		nap_ms(1);
	}
	return !more;
}

struct storm_counts storm_counts(const struct storm *s)
{
	struct storm_counts n = { .changes = 0 };

	for (unsigned int i = 0; i < s->options.targets; i++) {
		const struct shared_counts *c = &s->target[i].n;

		n.changes += c->changes;
		n.lookups += c->lookups;
		n.hits += c->hits;
		n.again += c->again;
		n.records += c->records;
		n.overflows += c->overflows;
		n.lost += c->lost;
		n.stale += c->stale;
		n.unexpected += c->unexpected;
		n.untold += c->untold;
		n.gaps += c->gaps;
		n.errors += c->errors;
	}
	return n;
}

bool storm_is_good(const struct storm_counts *n)
{
	return !n->stale && !n->unexpected && !n->untold && !n->gaps && !n->errors && !n->hung;
}

void storm_print(const struct storm_counts *n)
{
	note("storm: %llu changes, %llu lookups, %llu hits, %llu again, %llu records, "
	     "%llu overflows, %llu begun anew",
	     (unsigned long long)n->changes, (unsigned long long)n->lookups,
	     (unsigned long long)n->hits, (unsigned long long)n->again,
	     (unsigned long long)n->records, (unsigned long long)n->overflows,
	     (unsigned long long)n->lost);
	note("storm: stale %llu, unexpected %llu, untold %llu, gaps %llu, errors %llu, hung %llu",
	     (unsigned long long)n->stale, (unsigned long long)n->unexpected,
	     (unsigned long long)n->untold, (unsigned long long)n->gaps,
	     (unsigned long long)n->errors, (unsigned long long)n->hung);
}

/* ---- the end ---- */

static bool wait_flag(const atomic_bool *flag)
{
	uint64_t end = now_ms() + PATIENCE_MS;

	while (!atomic_load(flag) && now_ms() < end)
		nap_ms(1);
	return atomic_load(flag);
}

/* 1 if it had to be killed, or did not end well. */
static unsigned int end_process(pid_t pid, const char *what)
{
	int status = pid ? child_wait(pid, PATIENCE_MS) : 0;

	if (status)
		note("%s %d: status %d", what, (int)pid, status);
	return status != 0;
}

struct storm_counts storm_stop(struct storm *s)
{
	unsigned int hung = 0, n = s->options.targets;
	struct storm_counts counts;

	atomic_store(&s->phase, PARK);
	for (unsigned int i = 0; i < n; i++) {
		if (wait_flag(&s->target[i].parked))
			continue;
		note("target %u hangs", i);
		hung += end_process(s->targets[i], "target");
		s->targets[i] = 0;
	}
	atomic_store(&s->phase, SETTLE);
	for (unsigned int i = 0; i < n; i++) {
		hung += end_process(s->consumers[i], "consumer");
		if (s->targets[i] && !wait_flag(&s->target[i].settled))
			note("target %u: its consumer hangs", i);
	}
	atomic_store(&s->phase, END);
	for (unsigned int i = 0; i < n; i++)
		hung += end_process(s->targets[i], "target");
	counts = storm_counts(s);
	counts.hung = hung;
	close(s->memfd);
	munmap(s, sizeof(*s));
	return counts;
}
