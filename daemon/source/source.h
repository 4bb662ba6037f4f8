/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Sources
 *
 * A source learns of changes of one target's address space and tells them to a
 * sink, which fixes the order in which the rest of the world hears of them.
 *
 * A userfaultfd lets the target go by the very read that tells the change.  So
 * the source brackets each read:
 *
 *	unknown()	the gate closes: something is about to be known
 *	read()
 *	event()		what it was; the gate is then as the event wants it
 *	  or nothing()	it was nothing
 *
 * A change told with MIRROR_EVENT_F_START has not happened yet.  Once it is
 * proven to be over the source says end(), with the same event.
 */

#include "core/event.h"
#include "loop/loop.h"

struct source_sink;

struct source_sink_ops {
	void (*unknown)(struct source_sink *sink);
	void (*nothing)(struct source_sink *sink);
	/* Fills in the watched part of @ev. */
	void (*event)(struct source_sink *sink, struct event *ev);
	void (*end)(struct source_sink *sink, const struct event *ev);
	/* @uffd, of the child, is the callee's; @tid the thread that forked, or 0. */
	void (*fork)(struct source_sink *sink, struct event *ev, int uffd, pid_t tid);
	/* The address space is gone.  The callee may free the source. */
	void (*gone)(struct source_sink *sink, uint8_t cause);
	/* Does anybody watch any of this? */
	bool (*watches)(struct source_sink *sink, uint64_t start, uint64_t end);
};

/* Embedded in the target. */
struct source_sink {
	const struct source_sink_ops *ops;
};
