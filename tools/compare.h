/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * One page: what a mirror table says of it against what the kernel says
 *
 * A mirror table is a lower bound: it may know nothing of a page, but what it says
 * must be so.  What it says can be outdated only by a change that none of the
 * target's sources tells.  Such a page is *untold*: not as the table says, and
 * nobody could have known.  A page that is not as the table says for any other
 * reason is a *difference*: somebody made a mistake.
 */

#include <mirror/mirror.h>
#include <mirror/uapi/table.h>
#include "truth.h"

enum compare {
	COMPARE_SAME,
	COMPARE_NOTHING,	/* the table knows nothing, and there is nothing */
	COMPARE_UNKNOWN,	/* the table knows nothing of a page that is there */
	COMPARE_UNMAPPED,	/* from here on it is wrong: nothing is mapped there */
	COMPARE_SHARED,		/* the mapping is private instead of shared, or the reverse */
	COMPARE_GONE,		/* the page is not there */
	COMPARE_KIND,		/* it is anonymous instead of a file's, or the reverse */
	COMPARE_RIGHTS,		/* they are those of another mapping */
	COMPARE_WRITTEN,	/* it was not written */
	_COMPARE_N,
};

/* What can have made it so without anybody telling. */
enum untold {
	UNTOLD_NOT,		/* nothing: it is a difference */
	UNTOLD_MPROTECT,
	UNTOLD_COPY,		/* of a file's page, for a private mapping */
	UNTOLD_FILE,		/* truncate, punch hole, reclaim */
	UNTOLD_SWAP,		/* reclaim of anonymous memory */
	UNTOLD_GUARD,		/* MADV_GUARD_INSTALL */
	UNTOLD_SHM,		/* shmdt, shmat with SHM_REMAP */
	_UNTOLD_N,
};

/* What the target's sources tell beyond what userfaultfd does. */
struct compare_rules {
	bool rights;		/* changes of rights */
	bool pages;		/* whatever the kernel does to pages on its own */
};

struct compare_result {
	enum compare what;
	enum untold why;
};

void compare_rules_of(struct compare_rules *ret_rules, struct mirror_target *target);

/* @map: the mapping the page is in, or NULL. */
struct compare_result compare_page(const struct compare_rules *rules, uint64_t entry,
				   uint64_t word, const struct truth_map *map);

const char *compare_to_string(enum compare what);
const char *compare_to_key(enum compare what);
const char *untold_to_string(enum untold why);
const char *untold_to_key(enum untold why);
