/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What radix.c (nodes) and radix-range.c (ranges) share. */

#include "radix.h"

#define RADIX_LEAF_MAX (MIRROR_TABLE_LEAF_LEVELS - 1)

/* log2 of what one entry of a node at @level covers */
static inline unsigned int radix_shift(unsigned int level)
{
	return MIRROR_ENTRY_SHIFT + MIRROR_TABLE_NODE_SHIFT * level;
}

static inline uint64_t radix_span(unsigned int level)
{
	return 1ULL << radix_shift(level);
}

static inline unsigned int radix_index(uint64_t address, unsigned int level)
{
	return (address >> radix_shift(level)) % MIRROR_TABLE_ENTRIES;
}

static inline uint64_t *radix_slot(const struct radix *radix, uint32_t node, unsigned int i)
{
	return &radix->nodes[(uint64_t)node * MIRROR_TABLE_ENTRIES + i];
}

/* Only we write: our own loads need no order. */
static inline uint64_t radix_load(const struct radix *radix, uint32_t node, unsigned int i)
{
	return __atomic_load_n(radix_slot(radix, node, i), __ATOMIC_RELAXED);
}

/* Release pairs with the acquire of the entry in mirror_table_walk(): who follows a
 * link finds the node behind it ready. */
static inline void radix_store(struct radix *radix, uint32_t node, unsigned int i, uint64_t entry)
{
	uint64_t old = radix_load(radix, node, i);

	radix->counts[node] = (uint16_t)(radix->counts[node] + !!entry - !!old);
	__atomic_store_n(radix_slot(radix, node, i), entry, __ATOMIC_RELEASE);
}

static inline uint32_t radix_child(uint64_t link)
{
	return (uint32_t)(link >> MIRROR_ENTRY_SHIFT);
}

static inline uint64_t radix_link(uint32_t node)
{
	return (uint64_t)node << MIRROR_ENTRY_SHIFT | MIRROR_ENTRY_LINK;
}

/* What a leaf says @offset bytes behind its start. */
static inline uint64_t radix_ahead(const struct radix *radix, uint64_t entry, uint64_t offset)
{
	return radix->linear ? entry + offset : entry;
}

/* In these @level is that of the slot (@node, @i), whose first address is @base. */

/* Makes the slot, which is empty, a link to an empty node. */
int radix_grow(struct radix *radix, uint32_t node, unsigned int i, unsigned int level,
	       uint64_t base);
/* Makes the slot, which is a leaf, a link to a node of smaller leaves. */
int radix_split(struct radix *radix, uint32_t node, unsigned int i, unsigned int level,
		uint64_t base);
/* Makes the slot, which is a link, a leaf, if the node below is uniform.  true: it was. */
bool radix_merge(struct radix *radix, uint32_t node, unsigned int i, unsigned int level);
/* Makes the slot @entry, which is no link, and frees what it linked. */
void radix_replace(struct radix *radix, uint32_t node, unsigned int i, unsigned int level,
		   uint64_t entry);
/* The subtree of @node, at @level, is no longer linked: it will be, @by further on. */
void radix_rebase(struct radix *radix, uint32_t node, unsigned int level, uint64_t by);
/* At the end of each operation that can have freed nodes. */
void radix_settle(struct radix *radix);
