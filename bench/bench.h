/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BENCH_H
#define BENCH_H

/*
 * What the benchmark programs share
 *
 * A program is one contestant.  bench/run starts several of them and has them take
 * turns: it writes "NAME COUNT" to the standard input of one, which measures COUNT
 * times and answers with lines "FIGURE NS NS NS ...", then a line ".".  At the end
 * of its input a program checks that it measured what it was meant to, and says
 * "done WORD=NUMBER ...".  So all contestants of one comparison see the same
 * machine at (nearly) the same time, and the one whose turn it is not, sleeps.
 *
 * A figure that cannot be had is answered with "not FIGURE REASON".
 *
 * A program that cannot run says "skip REASON" instead of "ready".  One that
 * finds anything wrong says "fail REASON" and ends with 1.
 *
 * Times are of CLOCK_MONOTONIC.  Nothing is subtracted from them: the figure
 * "empty" is what measuring nothing takes.
 */

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGE		4096UL
#define ARRAY_SIZE(_a)	(sizeof(_a) / sizeof((_a)[0]))
#define SAMPLES_MAX	20000U
#define PATIENCE_NS	10000000000ULL /* then something that should come is lost */

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/**
 * struct samples - the values of one figure in one turn
 * @name: of the figure
 * @n: how many
 * @value: they
 */
struct samples {
	const char	*name;
	unsigned int	n;
	uint64_t	value[SAMPLES_MAX];
};

void samples_add(struct samples *s, uint64_t value);
/* Prints them, and starts afresh. */
void samples_say(struct samples *s);

/* Say so, and end. */
__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);
__attribute__((noreturn, format(printf, 1, 2))) void skip(const char *format, ...);

/* A call that cannot fail, unless the measurement is worth nothing. */
void must(int r, const char *what);
/* The same, but where there is no such thing (-ENOSYS) this contestant cannot run. */
void must_be_there(int r, const char *what);
/* This figure cannot be had here, @r says why; others can. */
void not_measured(const char *figure, int r);

/**
 * struct turn - one thing that a contestant can be asked to do
 * @name: as in the request
 * @run: does it @count times, and prints what it measured
 */
struct turn {
	const char	*name;
	void		(*run)(unsigned int count);
};

/* Takes turns until the input ends. */
void take_turns(const struct turn *turns, size_t n_turns);

/*
 * The @index-th processor that we may use; -1 if @index is -1.  First to be called before
 * any thread is bound.
 */
int cpu_at(int index);
/* Binds the calling thread to it; -1: lets it go where it likes. */
void pin(int cpu);

/* "cpu=1": the number after @key in the arguments, or @otherwise. */
long option_number(char **argv, const char *key, long otherwise);
const char *option_text(char **argv, const char *key, const char *otherwise);

/* Memory of one's own, not touched yet. */
void *map_pages(size_t bytes);
void touch(void *start, size_t bytes);

#endif /* BENCH_H */
