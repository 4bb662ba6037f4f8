/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * An entry of a mirror table, for people
 */

#include <stdint.h>
#include <stdio.h>
#include <mirror/uapi/table.h>

static inline const char *entry_state(uint64_t entry)
{
	if (entry & MIRROR_PTE_PRESENT)
		return "present";
	if (entry & MIRROR_PTE_SWAPPED)
		return "swapped";

	return "unknown";
}

static inline const char *entry_rights(char buf[static 8], uint64_t entry)
{
	buf[0] = entry & MIRROR_PTE_READ ? 'r' : '-';
	buf[1] = entry & MIRROR_PTE_WRITE ? 'w' : '-';
	buf[2] = entry & MIRROR_PTE_EXEC ? 'x' : '-';
	buf[3] = 0;

	return buf;
}

static inline const char *entry_kind(uint64_t entry)
{
	if (entry & MIRROR_PTE_SHARED)
		return "shared";

	return entry & MIRROR_PTE_FILE ? "file" : "anon";
}

/* 1 + node, 0 if it is not known */
static inline unsigned int entry_node(uint64_t entry)
{
	return (unsigned int)((entry & MIRROR_PTE_NODE_MASK) >> MIRROR_PTE_NODE_SHIFT);
}

#define ENTRY_NODES	((MIRROR_PTE_NODE_MASK >> MIRROR_PTE_NODE_SHIFT) + 1)
