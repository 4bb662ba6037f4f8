/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reactions: what an event does to a device page table
 *
 * The event says what must happen, see enum mirror_reaction; the cause is of no
 * interest here.  In doubt, translations go.
 *
 * Moving
 *   REMAP is the one event after which more is mapped than before, namely at its
 *   destination B what was at A.  So it is the one for which the order matters: all
 *   others only take away, and taken away too late is never trusted (the gate),
 *   taken away twice does no harm.
 *
 *   And the order of records is that of the messages, not of the changes.  A thread
 *   changes its address space, then sends a message; another can come in between, on
 *   either side:
 *
 *	thread 1		thread 2		records
 *	mremap A to B
 *				munmap B
 *				message			UNMAP B
 *	message						REMAP A to B: gone by now
 *
 *	munmap A
 *				mmap at A, use it
 *				mremap A to B
 *				message			REMAP A to B: of the old A
 *	message						UNMAP A
 *
 *   To follow these records would put at B what is not there, and nothing would ever
 *   take it away (tests/model/move.pml).  So a move is followed only if the daemon saw
 *   that there was nobody else to come in between, MIRROR_REMAP_ALONE; else the
 *   translations are dropped, at both ends.
 *
 *   Who asks for MIRROR_REACTION_MOVE by the options vouches for the target, and
 *   gets it without any of this.
 *
 * Nesting
 *   ops.event runs without our lock, and can dispatch: then later records are
 *   reacted to before this one.  Again only a move minds.
 */
#include <sys/mman.h>
#include "device-private.h"

struct span {
	uint64_t start, end;
};

/* The part of a range that is the device's, by whole pages. */
static struct span clip(const struct mirror_device *device, uint64_t start, uint64_t end)
{
	end = end > USER_END ? USER_END : (end + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	start &= ~(PAGE_BYTES - 1);
	return (struct span) { MAX(start, device->start), MIN(end, device->end) };
}

static int drop_span(struct mirror_device *device, uint64_t start, uint64_t end, bool trim)
{
	return start < end ? device_drop(device, start, end, trim) : 0;
}

static int drop_both(struct mirror_device *device, struct span from, struct span to)
{
	int r = drop_span(device, from.start, from.end, true);

	return r < 0 ? r : drop_span(device, to.start, to.end, true);
}

/* What leaves the device's range, and what would come from outside, is dropped. */
static int move_inside(struct mirror_device *device, struct span from, struct span to,
		       uint64_t distance)
{
	/* wraps if it goes down, and so do the sums */
	uint64_t start = MAX(to.start, from.start + distance);
	uint64_t end = MIN(to.end, from.end + distance);
	int r;

	if (start >= end)
		return drop_both(device, from, to);
	r = drop_span(device, from.start, start - distance, true);
	if (r == 0)
		r = drop_span(device, end - distance, from.end, true);
	if (r == 0)
		r = drop_span(device, to.start, start, true);
	if (r == 0)
		r = drop_span(device, end, to.end, true);
	if (r == 0)
		r = device_shift(device, start - distance, start, end - start);
	return r == -ECHILD ? r : 0;	/* -ENOSPC: they were dropped */
}

static int react_move(struct mirror_device *device, const struct mirror_event *ev, bool in_order)
{
	uint64_t len = ev->end - ev->start, to = ev->arg.remap.to;
	struct span source = clip(device, ev->start, ev->end), target;
	bool vouched = device->reaction[MIRROR_EVENT_REMAP] == MIRROR_REACTION_MOVE;

	if (ev->start >= ev->end || ev->end > USER_END || to > USER_END - len ||
	    (ev->start | ev->end | to) & (PAGE_BYTES - 1)) {
		target = clip(device, MIN(to, USER_END), USER_END);
		return drop_both(device, source, target);
	}
	target = clip(device, to, to + len);
	if (ranges_overlap(ev->start, ev->end, to, to + len) || source.start >= source.end ||
	    target.start >= target.end || !in_order)
		return drop_both(device, source, target);
	if (!vouched && !(ev->arg.remap.flags & MIRROR_REMAP_ALONE))
		return drop_both(device, source, target);
	return move_inside(device, source, target, to - ev->start);
}

static int react_protect(struct mirror_device *device, const struct mirror_event *ev,
			 struct span span)
{
	uint32_t prot = ev->type == MIRROR_EVENT_PROTECTION_VMA ? ev->arg.protection.prot_new : 0;
	uint64_t take = 0;

	if (!(prot & PROT_READ))
		take |= MIRROR_DEVICE_READ;
	if (!(prot & PROT_WRITE))
		take |= MIRROR_DEVICE_WRITE;
	if (!(prot & PROT_EXEC))
		take |= MIRROR_DEVICE_EXEC;
	if (take == MIRROR_DEVICE_RIGHTS)
		return drop_span(device, span.start, span.end, false);
	return take && span.start < span.end ? device_take(device, span.start, span.end, take) : 0;
}

static unsigned int default_of(const struct mirror_device *device, const struct mirror_event *ev)
{
	switch (ev->type) {
	case MIRROR_EVENT_SOFT_DIRTY:
	case MIRROR_EVENT_FORK:
		return MIRROR_REACTION_NONE;
	case MIRROR_EVENT_MIGRATE:
	case MIRROR_EVENT_EXCLUSIVE:
		return device->owner && ev->arg.owner.cookie == device->owner ?
		       MIRROR_REACTION_NONE : MIRROR_REACTION_CLEAR;
	case MIRROR_EVENT_CLEAR:
	case MIRROR_EVENT_FAULT:
		return MIRROR_REACTION_CLEAR;
	case MIRROR_EVENT_PROTECTION_PAGE:
		return MIRROR_REACTION_READ_ONLY;
	case MIRROR_EVENT_PROTECTION_VMA:
		return MIRROR_REACTION_PROTECT;
	case MIRROR_EVENT_REMAP:
		return MIRROR_REACTION_MOVE;
	case MIRROR_EVENT_RELEASE:
		return MIRROR_REACTION_FREEZE;
	default:	/* UNMAP, OVERFLOW, and what is not known yet */
		return MIRROR_REACTION_FREE;
	}
}

static unsigned int reaction_to(const struct mirror_device *device, const struct mirror_event *ev)
{
	unsigned int reaction = ev->type < ARRAY_SIZE(device->reaction) ?
				device->reaction[ev->type] : MIRROR_REACTION_DEFAULT;

	if (reaction == MIRROR_REACTION_DEFAULT)
		reaction = default_of(device, ev);
	/* there is nowhere to move to */
	if (reaction == MIRROR_REACTION_MOVE && ev->type != MIRROR_EVENT_REMAP)
		reaction = MIRROR_REACTION_FREE;
	return reaction;
}

static int react_locked(struct mirror_device *device, const struct mirror_event *ev,
			unsigned int reaction, bool in_order)
{
	struct span span = clip(device, ev->start, ev->end);

	device->stats.reactions[reaction]++;
	/* their record may say nothing of a range: they are about all there is */
	if (reaction == MIRROR_REACTION_FREEZE || ev->type == MIRROR_EVENT_RELEASE ||
	    ev->type == MIRROR_EVENT_OVERFLOW)
		span = (struct span) { device->start, device->end };
	switch (reaction) {
	case MIRROR_REACTION_CLEAR:
		return drop_span(device, span.start, span.end, false);
	case MIRROR_REACTION_READ_ONLY:
		return span.start < span.end ?
		       device_take(device, span.start, span.end, MIRROR_DEVICE_WRITE) : 0;
	case MIRROR_REACTION_PROTECT:
		return react_protect(device, ev, span);
	case MIRROR_REACTION_MOVE:
		return react_move(device, ev, in_order);
	case MIRROR_REACTION_FREEZE:
		store_relaxed(&device->frozen, true);
		break;
	}
	return drop_span(device, span.start, span.end, true);
}

void device_react(struct mirror_notifier *notifier _unused_, const struct mirror_event *ev,
		  void *userdata)
{
	struct mirror_device *device = userdata;
	unsigned int reaction;
	uint64_t number;

	if (ev->flags & MIRROR_EVENT_F_END)
		return;
	number = ++device->n_events;
	if (device->ops.event)
		device->ops.event(device, ev, device->userdata);
	if (device_forked(device))
		return;
	reaction = reaction_to(device, ev);
	if (reaction == MIRROR_REACTION_NONE)
		return;
	device_begin(device);
	device_end(device, react_locked(device, ev, reaction, device->n_events == number));
}
