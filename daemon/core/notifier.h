/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Notifiers
 *
 * One range of one target watched by one client.  A target finds those that a
 * change touches by an interval tree; a client finds its own by id.  Both sides
 * are owned elsewhere: here are only the sets.
 */

#include "core/quota.h"
#include "interval.h"
#include "list.h"

struct attachment;
struct state_slot;

struct notifier {
	struct interval interval;	/* in notifier_set.tree */
	struct list attachment_link;	/* in attachment.notifiers */
	struct quota_charge charge;
	struct attachment *attachment;	/* whose it is */
	struct state_slot *slot;	/* what the next mirrord will know of it */
	uint64_t start, end;
	uint64_t user_data;
	uint32_t id;
	uint32_t flags;			/* MIRROR_NOTIFIER_F_* */
	struct list fill_link;		/* F_FILL: in target_table.fills while it has to be */
	uint64_t fill_next, fill_end;	/* what of it has to be filled */
	bool release_owed;		/* its RELEASE did not fit into the ring */
	uint8_t release_cause;
};

struct notifier_set {
	struct interval_tree tree;
};

#define NOTIFIER_SET_NULL { .tree = INTERVAL_TREE_NULL }

#define notifier_of(_interval) container_of(_interval, struct notifier, interval)

void notifier_link(struct notifier_set *set, struct notifier *n);
void notifier_unlink(struct notifier_set *set, struct notifier *n);

static inline bool notifier_set_is_empty(const struct notifier_set *set)
{
	return !set->tree.n;
}

/*
 * The part of [@start, @end) that any notifier watches, as its hull.
 * false if none does.
 */
bool notifier_set_hull(const struct notifier_set *set, uint64_t start, uint64_t end,
		       uint64_t *ret_start, uint64_t *ret_end);
