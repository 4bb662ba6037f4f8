/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BENCH_FIND_H
#define BENCH_FIND_H

/*
 * Ways to find what a device knows of an address, as bench-find compares them
 *
 * A region is one page.  Caches register what they do not find; tables do not.
 * The loops are the ways' own, so that what the library has inline stays so.
 */

#include "bench.h"

#define FIND_THREADS_MAX 2

/**
 * struct find - a way to find regions
 * @name: as in how=NAME
 * @start: makes itself ready for regions in [@memory, @memory + @bytes)
 * @add: enters the @n pages from @page on, each a region
 * @look_up: looks each of @n pages up, and gives it back; returns how many it found
 * @registered: how many it has registered so far; NULL: it is a table
 * @deregistered: how many of these it has deregistered
 * @gone: [@start, @start + @bytes) was just unmapped: until what was registered there
 *	is deregistered; NULL for a table
 * @never_stale: it promises not to find what is gone
 */
struct find {
	const char	*name;
	void		(*start)(char **argv, char *memory, size_t bytes);
	void		(*add)(char *page, size_t n);
	size_t		(*look_up)(unsigned int thread, char *const *pages, size_t n);
	uint64_t	(*registered)(void);
	uint64_t	(*deregistered)(void);
	void		(*gone)(char *start, size_t bytes);
	bool		never_stale;
};

/* A page that was never looked up before; for whoever must register to tidy up. */
char *other_page(void);

#ifdef FIND_UCX
extern const struct find find_ucx_rcache;
extern const struct find find_ucx_pgtable;
#elif defined(FIND_FABRIC)
extern const struct find find_fabric;
#else
extern const struct find find_tlb;
extern const struct find find_device;
extern const struct find find_regcache;
#endif

#endif /* BENCH_FIND_H */
