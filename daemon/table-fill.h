/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The mirror table of a target: its memory, its looks at the kernel
 *
 * Made when the first consumer asks for it or inserts a notifier with F_FILL, and
 * gone with the target's address space, or when it has become empty and large.  Then
 * consumers ask for another.  What it says and why it is right is in core/table.c.
 *
 * A notifier with F_FILL has a part that has to be filled: all of it at first, then
 * what events touched.  So has the destination of mremap, if there was something to
 * take along.  A timer works that off in slices, a moment after the last event, and
 * later and later while events go on.
 */

#include "core/notifier.h"
#include "core/table.h"
#include "loop/loop.h"
#include "pagescan.h"

struct target;

struct target_table {
	struct table core;
	struct target *target;
	struct pagescan scan;
	struct loop_op timer;
	struct quota_charge charge, nodes_charge;
	struct list fills;		/* notifiers of which something has to be filled */
	uint64_t moved, moved_end;	/* the same of a destination of mremap */
	uint64_t event_ns, timer_ns;	/* last event; when the timer was set */
	uint64_t wait_ns;
	void *memory;
	size_t size;
	int fd;
};

/* What one slice did. */
struct fill_result {
	uint64_t next;		/* first byte not done */
	uint64_t pages;		/* present */
	uint32_t refused;	/* mappings that cannot be watched */
};

/*
 * Makes it if there is none, at the expense of @uid.  @numa_node: 1 + node, or 0 for
 * where the target runs.
 */
int target_table_get(struct target *t, uid_t uid, uint32_t numa_node);
void target_table_drop(struct target *t);
/* Another mirrord's: its readers are told that it is not kept any more. */
int target_table_end_other(int fd);

/* The next three only if there is a table; afterwards there may be none. */
void target_table_event(struct target *t, const struct event *ev);
void target_table_end(struct target *t, const struct event *started);
void target_table_fork(struct target *t);

/*
 * One slice.  -EAGAIN while a change of @start is not over; -EDQUOT when no node may
 * be used any more; -ESRCH.
 */
int target_table_fill(struct target *t, uint64_t start, uint64_t end,
		      struct fill_result *ret_result);

/* A notifier with F_FILL is there; or its target has an address space, or a new one. */
int target_table_follow(struct notifier *n);
void target_table_started(struct target *t);

uint64_t target_table_bytes(const struct target *t);
