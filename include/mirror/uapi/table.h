/* SPDX-License-Identifier: LGPL-2.1-or-later WITH Linux-syscall-note */
#ifndef MIRROR_UAPI_TABLE_H
#define MIRROR_UAPI_TABLE_H

/*
 * Mirror page table
 *
 * A page table in memory: a radix tree of nodes of 512 entries of 8 bytes, shaped
 * like the CPU's.  It has no pointers, so that it can lie in memory that several
 * processes map: mirrord's of a target, which consumers map read-only (it is
 * sealed), and libmirror's device page tables.
 *
 *	0             tags_off                     nodes_off
 *	| mirror_table | mirror_table_tag[n_nodes] | node[n_nodes] of 4096 bytes |
 *
 * Node 0 is the root and never goes.  With 4 levels a table covers 48 bits of
 * address, with 5 levels 57.  An entry is empty (0), a leaf (VALID), or a link
 * (LINK) to the node of the next lower level, whose number is in its upper bits.
 * A leaf can stand at the lowest level, for 4 KiB, or at the two above it, for
 * 2 MiB and 1 GiB.
 *
 * Empty means: not known.
 *
 * One thread writes at a time, readers take no lock.  A node can be freed and used
 * again while somebody reads it; its tag tells:
 *
 *	gen	odd while the node is free or being prepared; grows at each change
 *	where	first address the node covers, and its level in the lowest bits
 *
 * A reader loads gen (acquire), then the entry (acquire); if that is not a link,
 * the entry counts only if gen was even, where is as it should be, and gen is still
 * the same after it (behind an acquire fence).  Otherwise it begins again at the
 * root.  Links need no such check: who follows one that was no link any more ends in
 * a node that is not where it should be.
 *
 * Whether what the table says is still so is the gate's to say, see uapi/gate.h:
 * mirrord changes an entry after `started` has moved and before `ended` has.
 */

#include <linux/types.h>

#define MIRROR_TABLE_MAGIC	0x4254474d /* "MGTB", little endian */
#define MIRROR_TABLE_VERSION	1

#define MIRROR_TABLE_NODE_SHIFT	9
#define MIRROR_TABLE_ENTRIES	512
#define MIRROR_TABLE_LEAF_LEVELS 3 /* levels 0, 1 and 2 can hold leaves */

/* mirror_table.state */
#define MIRROR_TABLE_LIVE	0
#define MIRROR_TABLE_MOVED	1 /* not kept any more: ask for the table again */

/**
 * struct mirror_table - head of a table
 * @magic: MIRROR_TABLE_MAGIC
 * @version: MIRROR_TABLE_VERSION
 * @state: MIRROR_TABLE_*; what was read counts only if it is LIVE afterwards
 * @levels: 4 or 5
 * @target: id of the target, 0 for none
 * @n_nodes: nodes there is room for, the root included
 * @tags_off: bytes from here to the first tag
 * @nodes_off: bytes from here to the root, a multiple of 4096
 * @size: bytes of the whole table
 * @live: nodes in use
 */
struct mirror_table {
	__u32	magic;
	__u32	version;
	__u32	state;
	__u32	levels;
	__u32	target;
	__u32	n_nodes;
	__u64	tags_off;
	__u64	nodes_off;
	__u64	size;
	__u64	live;
	__u64	__reserved[9];
};

/**
 * struct mirror_table_tag - whose a node is
 * @gen: odd: nobody's
 * @where: first address it covers, plus its level, 0 for the lowest
 */
struct mirror_table_tag {
	__u64	gen;
	__u64	where;
};

/* An entry.  The rest of a link is the number of its node. */
#define MIRROR_ENTRY_VALID	0x001ULL
#define MIRROR_ENTRY_LINK	0x002ULL
#define MIRROR_ENTRY_FLAGS	0xfffULL
#define MIRROR_ENTRY_SHIFT	12

/*
 * A leaf of a target's table: what the CPU's page table said when it was looked at.
 * Without PRESENT it is known that there was no page (SWAPPED) - who needs it must
 * fault it in.  Which of these a target's sources keep true, and which can have
 * changed silently, is told by its guarantees: an event that is not delivered
 * (PROTECTION_VMA, MIGRATE, ...) changes nothing here either.
 */
#define MIRROR_PTE_PRESENT	0x004ULL /* there is a page */
#define MIRROR_PTE_READ		0x008ULL /* the mapping may be read */
#define MIRROR_PTE_WRITE	0x010ULL /* and written, without a copy being made first */
#define MIRROR_PTE_EXEC		0x020ULL
#define MIRROR_PTE_WRITTEN	0x040ULL /* maybe written since mirrord watches it */
#define MIRROR_PTE_HUGE		0x080ULL /* part of a huge page */
#define MIRROR_PTE_FILE		0x100ULL /* of a file or of shared memory; else anonymous */
#define MIRROR_PTE_SHARED	0x200ULL /* the mapping is a shared one */
#define MIRROR_PTE_SWAPPED	0x400ULL
#define MIRROR_PTE_ZERO		0x800ULL /* the kernel's page of zeros */
#define MIRROR_PTE_NODE_SHIFT	12
#define MIRROR_PTE_NODE_MASK	0x3ff000ULL /* 1 + NUMA node, 0 if not known */

/*
 * A leaf of a device page table.  The bits from 12 on are those of the device
 * address of its first page; the pages of a large leaf follow each other.
 */
#define MIRROR_DEVICE_READ	0x004ULL
#define MIRROR_DEVICE_WRITE	0x008ULL
#define MIRROR_DEVICE_EXEC	0x010ULL
#define MIRROR_DEVICE_RIGHTS	0x01cULL
#define MIRROR_DEVICE_ACCESSED	0x020ULL
#define MIRROR_DEVICE_DIRTY	0x040ULL
#define MIRROR_DEVICE_USER	0xf00ULL /* the consumer's */

#endif /* MIRROR_UAPI_TABLE_H */
