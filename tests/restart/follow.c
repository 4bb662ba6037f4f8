/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Following the log by the records
 *
 * Without losses the next record is that of the next change, and the set of positions has
 * one member.  After OVERFLOW it can be any: then the set is all of them, and each record
 * leaves those that fit.
 */
#include "storm-private.h"

static uint8_t *may(struct follow *f, uint64_t position)
{
	return &f->may[position % LOG];
}

static void publish(struct follow *f)
{
	atomic_store_explicit(&f->told, f->hi, memory_order_release);
	atomic_store_explicit(&f->t->tail, f->lo, memory_order_release);
}

void follow_reset(struct follow *f, uint64_t from, uint64_t to)
{
	f->lo = from;
	f->hi = to;
	for (uint64_t p = from; p <= to; p++)
		*may(f, p) = 1;
	publish(f);
}

static bool fits(const struct change *c, const struct mirror_event *ev)
{
	return c->type == ev->type && c->start == ev->start && c->end == ev->end &&
	       (c->type != MIRROR_EVENT_REMAP || c->to == ev->arg.remap.to);
}

/* What need not be told can be skipped. */
static void skip_optional(struct follow *f, uint64_t begun)
{
	for (uint64_t p = f->lo; p <= f->hi && p < begun; p++) {
		if (!*may(f, p) || !f->t->log[p % LOG].optional)
			continue;
		if (p == f->hi)
			f->hi++;
		*may(f, p + 1) = 1;
	}
}

bool follow_step(struct follow *f, const struct mirror_event *ev)
{
	uint64_t begun = atomic_load_explicit(&f->t->begun, memory_order_acquire);
	uint64_t lo = 0, hi = 0;

	skip_optional(f, begun);
	for (uint64_t p = f->hi + 1; p > f->lo; p--) {
		*may(f, p) = *may(f, p - 1) && p - 1 < begun &&
			     fits(&f->t->log[(p - 1) % LOG], ev);
		if (*may(f, p)) {
			lo = p;
			hi = hi ? hi : p;
		}
	}
	if (!lo) {
		follow_reset(f, f->lo, begun);
		return false;
	}
	f->lo = lo;
	f->hi = hi;
	publish(f);
	return true;
}
