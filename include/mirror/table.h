/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef MIRROR_TABLE_H
#define MIRROR_TABLE_H

/*
 * Mirror table: the daemon's page table of a target, to read
 *
 *		r = mirror_target_fill(target, start, end, &next);
 *		r = mirror_target_get_table(target, &table);
 *	again:
 *		r = mirror_read_begin(n, start, end, &version);
 *		entry = mirror_table_walk(table, address, &shift);
 *		if (mirror_read_retry(n, start, end, version))
 *			goto again;
 *
 * A walk needs no lock and no system call.  An entry is good only by the gate: it
 * must lie in the range of a notifier, between mirror_read_begin() and
 * mirror_read_retry().
 */

#include <mirror/common.h>
#include <mirror/mirror.h>
#include <mirror/uapi/table.h>

MIRROR_BEGIN_DECLS

/**
 * mirror_target_get_table() - the mirror table of a target
 * @target: target
 * @ret_table: the table, mapped read-only; it lives as long as @target
 *
 * The first call asks the daemon, later ones do not, unless its state has become
 * MIRROR_TABLE_MOVED.  A daemon that goes on in the place of another does not keep the
 * tables of that one: it marks them before anything is good again, so who looks at the
 * state, and then calls mirror_read_retry(), is not led astray.
 *
 * Return: 0; -ESRCH; -EDQUOT; -EPIPE; -ECHILD; -EPROTO; -ENOMEM.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_target_get_table(struct mirror_target *target, const struct mirror_table **ret_table);

/**
 * mirror_target_fill() - have the daemon look at a range now
 * @target: target
 * @start: first byte, page aligned
 * @end: first byte after the range, page aligned
 * @ret_pages: how many pages were present, or NULL
 *
 * Enters what the target's page table says.  Nothing is faulted in, holes stay
 * empty, and so does what cannot be watched.  The daemon works in slices and serves
 * others between them.
 *
 * Return: 0; -EAGAIN if the range kept changing; -EINVAL; -ESRCH; -EDQUOT when the
 * table is full; -EPIPE; -ECHILD.  Since 0.1.
 */
int mirror_target_fill(struct mirror_target *target, uint64_t start, uint64_t end,
		       uint64_t *ret_pages);

/**
 * mirror_table_walk() - look one address up
 * @table: table
 * @address: address
 * @ret_shift: log2 of how much the entry covers: 12, 21 or 30 for a leaf, and up to
 *	48 where nothing is known
 *
 * Wait-free in practice: it begins anew when a node it is in is used again, which
 * it does a few times before it says that nothing is known.
 *
 * Return: a leaf, or 0 if nothing is known.  Since 0.1.
 */
static inline uint64_t mirror_table_walk(const struct mirror_table *table, uint64_t address,
					 unsigned int *ret_shift)
{
	const char *base = (const char *)table;
	const struct mirror_table_tag *tags =
		(const struct mirror_table_tag *)(const void *)(base + table->tags_off);
	const uint64_t *nodes = (const uint64_t *)(const void *)(base + table->nodes_off);
	unsigned int tries, top = 12 + MIRROR_TABLE_NODE_SHIFT * (table->levels - 1), shift = top;
	uint64_t gen, entry, where;
	uint32_t node;

	for (tries = 0; tries < 16; tries++) {
		node = 0;
		for (shift = top;; shift -= MIRROR_TABLE_NODE_SHIFT) {
			gen = __atomic_load_n(&tags[node].gen, __ATOMIC_ACQUIRE);
			entry = __atomic_load_n(&nodes[(uint64_t)node * MIRROR_TABLE_ENTRIES +
						       (address >> shift) %
						       MIRROR_TABLE_ENTRIES], __ATOMIC_ACQUIRE);
			if (!(entry & MIRROR_ENTRY_LINK) || shift == 12)
				break;
			node = (uint32_t)(entry >> MIRROR_ENTRY_SHIFT);
			if (node >= table->n_nodes)
				break;
		}
		where = (address >> (shift + MIRROR_TABLE_NODE_SHIFT) <<
			 (shift + MIRROR_TABLE_NODE_SHIFT)) |
			(shift - 12) / MIRROR_TABLE_NODE_SHIFT;
		if (gen & 1 || node >= table->n_nodes || entry & MIRROR_ENTRY_LINK ||
		    __atomic_load_n(&tags[node].where, __ATOMIC_RELAXED) != where)
			continue;
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&tags[node].gen, __ATOMIC_RELAXED) != gen)
			continue;
		if (__atomic_load_n(&table->state, __ATOMIC_RELAXED) != MIRROR_TABLE_LIVE)
			break;
		*ret_shift = shift;
		return entry;
	}
	*ret_shift = 12;
	return 0;
}

MIRROR_END_DECLS

#endif /* MIRROR_TABLE_H */
