/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * A mirror table against the kernel, page by page, while the target runs
 */

#include <stdbool.h>
#include <stdint.h>
#include <mirror/mirror.h>
#include <mirror/table.h>
#include "compare.h"
#include "truth.h"

/* Adjacent pages that are wrong alike. */
struct check_wrong {
	uint64_t start, end;
	uint64_t entry;		/* what the table says of the first one */
	uint64_t word;		/* what the kernel says of it */
	struct compare_result result;
};

struct check {
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	struct mirror_notifier *notifier;
	struct compare_rules rules;
	struct truth truth;

	/* the part that is looked at now */
	uint64_t start, end;
	bool touched;		/* it was told to change */
	bool released;		/* there is nothing to look at any more */
	uint64_t *entries, *words;

	/* found so far, in pages */
	uint64_t compared;	/* of which the table says something */
	uint64_t same;
	uint64_t unknown;	/* that are there, and the table says nothing */
	uint64_t skipped;	/* of mappings so large that they were not looked at */
	uint64_t changing;	/* that did not hold still */
	uint64_t different;
	uint64_t untold[_UNTOLD_N];
	uint64_t n_untold;	/* of all reasons */

	struct check_wrong *wrong;
	size_t n_wrong, wrong_size;

	/* called now and then; not 0 ends it and is returned */
	int (*progress)(uint64_t done, void *userdata);
	void *userdata;
};

#define CHECK_NULL { .truth = TRUTH_NULL }

/* Watches [@start, @end): all ranges that are looked at must lie in it. */
int check_init(struct check *check, struct mirror_ctx *ctx, struct mirror_target *target,
	       uint64_t start, uint64_t end);
void check_deinit(struct check *check);

/* 0; -ESRCH if the target went away; -EPIPE; -EPERM; ... */
int check_range(struct check *check, uint64_t start, uint64_t end);

/* Forgets what was found. */
void check_reset(struct check *check);

/* The first address from @at on of which the table says something, or @end. */
uint64_t check_next_known(const struct mirror_table *table, uint64_t at, uint64_t end);
