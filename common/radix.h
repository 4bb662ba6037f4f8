/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Radix: the page table of uapi/table.h, the writing side
 *
 * One writer at a time; readers use mirror_table_walk() without any lock.  The
 * memory is the caller's: zeroed, of radix_bytes(), reserved rather than used, as
 * only what is touched costs.
 *
 * Operations on ranges cost per node, not per page, where the range is uniform: a
 * leaf stands as high as the range lets it, is split when part of it changes, and
 * nodes that have become uniform are merged into one leaf again.
 *
 * A `linear` table is one whose entries carry addresses in the bits from 12 on: the
 * entries of adjacent pages are alike if the addresses follow each other, too.
 * Otherwise they are alike if they are equal.
 */

#include <mirror/uapi/table.h>
#include "base.h"

struct radix {
	struct mirror_table *head;
	struct mirror_table_tag *tags;
	uint64_t *nodes;
	uint16_t *counts;		/* entries in use, by node; ours, readers do not see it */
	uint32_t n_nodes;
	unsigned int levels;
	uint32_t n_touched;		/* nodes from here on were never used */
	uint32_t free_list;		/* 0: none; chained through the tags' where */
	uint32_t n_resident_free;
	bool linear;
	/* Gives the memory of free nodes back; it must read as zeros afterwards. */
	void (*discard)(struct radix *radix, void *memory, size_t size);
	/* for the owner */
	void *userdata;
};

#define RADIX_NULL { .head = NULL }

/* A run of pages that are mapped alike; @entry is that of @start. */
struct radix_run {
	uint64_t start, end, entry;
};

/* Nodes that a table needs at most to hold every page of @bytes, scattered or not. */
uint32_t radix_nodes_for(uint64_t bytes);

/* Memory of a table of @n_nodes, a multiple of the page size. */
size_t radix_bytes(uint32_t n_nodes);

/*
 * @memory: radix_bytes(@n_nodes) of zeros.  @levels: 4 or 5.  -ENOMEM for what the
 * writer needs for itself; radix_deinit() frees that, and not @memory.  @radix is
 * RADIX_NULL, with or without discard and userdata, which may be set later, too.
 */
int radix_init(struct radix *radix, void *memory, uint32_t n_nodes, unsigned int levels,
	       uint32_t target, bool linear);
void radix_deinit(struct radix *radix);

/* First address the table cannot hold. */
uint64_t radix_limit(const struct radix *radix);

/*
 * Enters @entry (a leaf, of @start) for the whole range, over what is there.
 * -ENOSPC: no node was left; then nothing is entered in the range at all, nor in the
 * rest of a leaf that reached out of it and could not be split.  -EINVAL.
 */
int radix_fill(struct radix *radix, uint64_t start, uint64_t end, uint64_t entry);

/*
 * The next two cannot fail.  Where a leaf would have to be split and no node is
 * left, they take the whole leaf.  *ret_hull (may be NULL): what was touched; at least
 * the range asked for.
 */
struct radix_hull {
	uint64_t start, end;
};

/* Empties.  @trim: frees the nodes that are empty then, up to the root. */
void radix_clear(struct radix *radix, uint64_t start, uint64_t end, bool trim,
		 struct radix_hull *ret_hull);

/* Takes flag bits off leaves; a leaf that has not any of @must left becomes empty
 * (@must 0: none does). */
void radix_downgrade(struct radix *radix, uint64_t start, uint64_t end, uint64_t take,
		     uint64_t must, struct radix_hull *ret_hull);

/* Sets flag bits on each leaf that the range touches, without splitting. */
void radix_mark(struct radix *radix, uint64_t start, uint64_t end, uint64_t flags);

/* Takes flag bits off each leaf that the range touches, without splitting.  true if
 * any had one of them. */
bool radix_unmark(struct radix *radix, uint64_t start, uint64_t end, uint64_t flags);
bool radix_test(const struct radix *radix, uint64_t start, uint64_t end, uint64_t flags);

/*
 * Moves entries as they are; the ranges must not overlap.  What is at @to is
 * replaced, holes included.  Whole nodes are relinked where @from and @to lie alike.
 * -ENOSPC: what was not moved is gone, at both places.  -EINVAL.
 */
int radix_move(struct radix *radix, uint64_t from, uint64_t to, uint64_t len);

/* The leaf at @address, of that page: with a linear table, its address. 0: empty. */
uint64_t radix_get(const struct radix *radix, uint64_t address);

/*
 * The first run in the range, clipped to it, as long as it can be.  false: there is
 * none.  For all runs begin again at ret_run->end.
 */
bool radix_next(const struct radix *radix, uint64_t start, uint64_t end,
		struct radix_run *ret_run);

/* Bytes of memory in use: head, tags and nodes. */
uint64_t radix_memory(const struct radix *radix);

/* For tests: 0, or the number of a rule that is broken. */
int radix_check(const struct radix *radix);
