/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Life words
 *
 * The first word of every gate is a robust futex of the daemon's thread.  When
 * that thread dies, by whatever means, the kernel walks the thread's robust list
 * and puts FUTEX_OWNER_DIED into each word, in exit_mm(), and only later closes
 * its descriptors, which is what lets blocked targets run on.  So no target runs
 * on before its gate says that nobody watches any more.
 *
 * The list is made of entries at one fixed distance from their words.  An entry
 * holds an address of ours, so it must not be in memory that others can read: a
 * gate is mapped behind a private page, and that page ends with the entry.
 *
 *	| private page         entry | gate (shared) life, seq, ...
 *	                       ^-------------------^  the fixed distance
 *
 * The kernel follows at most 2048 entries, hence LIFE_MAX.
 */

#include "base.h"

#define LIFE_MAX 2000

struct life_map {
	void *private_page;	/* NULL: none */
	void *shared;
	size_t size;		/* of @shared */
};

/* For the calling thread, once.  *ret_live: what a word of a living daemon holds. */
int life_init(uint32_t *ret_live);

/*
 * Maps @fd, @size bytes of it, with its first word in the list.  The word is not
 * set.  -EDQUOT beyond LIFE_MAX.
 */
int life_map(int fd, size_t size, struct life_map *ret_map);
void life_unmap(struct life_map *map);
