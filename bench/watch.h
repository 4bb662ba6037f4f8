/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BENCH_WATCH_H
#define BENCH_WATCH_H

/*
 * Ways to hear of changes, as bench-change compares them
 *
 * The range is one: it is mapped and unmapped, dropped and touched again, over and
 * over.  What a way does with a change is its own matter; that it heard of each
 * one is checked after every turn.
 */

#include "bench.h"

/**
 * struct watch - a way to hear of changes
 * @name: as in how=NAME
 * @start: makes itself ready, with mappings of its own
 * @watch: begins to watch [@start, @start + @bytes), nothing of which is mapped yet
 * @arm: this part of it was just mapped; called before each change that is timed,
 *	and is itself a figure
 * @arm_again: how often a mapping must be armed: true for each change of it, false
 *	once is enough
 * @heard: how many changes it has heard of
 * @begin: a turn begins: whoever sleeps between turns is to wake up
 * @end: a turn ends
 * @stop: checks of its own after @n_changes; prints WORD=NUMBER
 * @silent: it is not to hear of anything, as nothing is watched
 */
struct watch {
	const char	*name;
	void		(*start)(char **argv);
	void		(*watch)(void *start, size_t bytes);
	void		(*arm)(void *start, size_t bytes);
	bool		arm_again;
	uint64_t	(*heard)(void);
	void		(*begin)(void);
	void		(*end)(void);
	void		(*stop)(uint64_t n_changes);
	bool		silent;
};

extern const struct watch watch_none;
extern const struct watch watch_reader;
extern const struct watch watch_cache;
extern const struct watch watch_mirror;
extern const struct watch watch_mirror_apart;
extern const struct watch watch_mirror_unarmed;
#ifdef HAVE_LIBFABRIC
extern const struct watch watch_fabric;
#endif

#endif /* BENCH_WATCH_H */
