/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * One change of one address space, on its way from a source to the rings
 */

#include <mirror/uapi/event.h>
#include "base.h"

struct event {
	uint8_t type;		/* enum mirror_event_type */
	uint8_t cause;		/* enum mirror_cause */
	uint8_t source;		/* enum mirror_source */
	uint8_t guarantee;	/* enum mirror_guarantee */
	uint16_t flags;		/* MIRROR_EVENT_F_*: one phase, and others */
	uint64_t start, end;
	uint64_t arg[2];	/* as mirror_event.arg */
	uint64_t time_ns;
	/* the part of it that somebody watches; empty if nobody does */
	uint64_t watched_start, watched_end;
	bool needs_end;		/* START: somebody has to know when it is over */
};

static inline bool event_is_watched(const struct event *ev)
{
	return ev->watched_start < ev->watched_end;
}

/* Everything of a record but seq, which the ring gives, and what names the notifier. */
void event_to_record(const struct event *ev, struct mirror_event *ret_record);
