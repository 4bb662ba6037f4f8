/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/event.h"

void event_to_record(const struct event *ev, struct mirror_event *ret_record)
{
	*ret_record = (struct mirror_event) {
		.type = ev->type,
		.cause = ev->cause,
		.flags = (uint16_t)(ev->flags | ev->source << MIRROR_EVENT_SOURCE_SHIFT |
				    ev->guarantee << MIRROR_EVENT_GUARANTEE_SHIFT),
		.start = ev->start,
		.end = ev->end,
		.arg.raw = { ev->arg[0], ev->arg[1] },
		.time_ns = ev->time_ns,
	};
}
