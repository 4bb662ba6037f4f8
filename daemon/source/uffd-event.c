/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <sys/mman.h>
#include <sys/syscall.h>
#include "source/uffd-source.h"
#include "uffd.h"

/* Since 5.18; the C library's headers may be older. */
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

bool event_from_uffd(struct event *ret_event, const struct uffd_msg *msg)
{
	struct event ev = {
		.source = MIRROR_SOURCE_UFFD,
		.guarantee = MIRROR_GUARANTEE_ORDERED,
		.flags = MIRROR_EVENT_F_POINT,
	};

	switch (msg->event) {
	case UFFD_EVENT_UNMAP:
		ev.type = MIRROR_EVENT_UNMAP;
		ev.start = msg->arg.remove.start;
		ev.end = msg->arg.remove.end;
		break;
	case UFFD_EVENT_REMOVE:
		ev.type = MIRROR_EVENT_CLEAR;
		ev.flags = MIRROR_EVENT_F_START;
		ev.start = msg->arg.remove.start;
		ev.end = msg->arg.remove.end;
		break;
	case UFFD_EVENT_REMAP:
		ev.type = MIRROR_EVENT_REMAP;
		ev.cause = MIRROR_CAUSE_MREMAP;
		ev.start = msg->arg.remap.from;
		ev.end = msg->arg.remap.from + msg->arg.remap.len;
		ev.arg[0] = msg->arg.remap.to;
		break;
	case UFFD_EVENT_FORK:
		ev.type = MIRROR_EVENT_FORK;
		ev.cause = MIRROR_CAUSE_FORK;	/* of no range: nothing becomes invalid */
		break;
	default:
		return false;
	}
	/* The kernel's word is good; an end that wrapped would be read as "nothing". */
	if (ev.end < ev.start || ev.end > USER_END)
		ev.end = USER_END;
	*ret_event = ev;
	return true;
}

static uint64_t page_up(uint64_t v)
{
	return (v + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

static uint8_t cause_of_advice(uint64_t advice)
{
	switch (advice) {
	case MADV_DONTNEED:
	case MADV_DONTNEED_LOCKED:
		return MIRROR_CAUSE_DONTNEED;
	case MADV_FREE:
		return MIRROR_CAUSE_FREE;
	case MADV_REMOVE:
		return MIRROR_CAUSE_REMOVE;
	}
	return MIRROR_CAUSE_UNKNOWN;
}

static uint8_t unmap_cause(const struct event *ev, const struct peek_hit *h)
{
	const uint64_t *a = h->args;

	switch (h->nr) {
	case SYS_munmap:
		if (a[0] == ev->start && page_up(a[0] + a[1]) == ev->end)
			return MIRROR_CAUSE_MUNMAP;
		break;
	case SYS_mmap:
		if ((a[3] & MAP_FIXED) && a[0] == ev->start && page_up(a[0] + a[1]) == ev->end)
			return MIRROR_CAUSE_MAP_FIXED;
		break;
	case SYS_brk:
		if (page_up(a[0]) == ev->start)
			return MIRROR_CAUSE_BRK;
		break;
	case SYS_mremap:
		/* the cut-off end, the old place, or what was at the new place */
		if (page_up(a[0] + a[2]) == ev->start || a[0] == ev->start ||
		    ((a[3] & MREMAP_FIXED) && a[4] == ev->start))
			return MIRROR_CAUSE_MREMAP;
		break;
	}
	return MIRROR_CAUSE_UNKNOWN;
}

static uint8_t clear_cause(const struct event *ev, const struct peek_hit *h)
{
	if (h->nr == SYS_madvise && h->args[0] <= ev->start &&
	    ev->end <= page_up(h->args[0] + h->args[1]))
		return cause_of_advice(h->args[2]);
#ifdef SYS_process_madvise
	if (h->nr == SYS_process_madvise)
		return cause_of_advice(h->args[3]);
#endif
	return MIRROR_CAUSE_UNKNOWN;
}

static bool is_fork(long nr)
{
#ifdef SYS_fork
	if (nr == SYS_fork)
		return true;
#endif
	return nr == SYS_clone || nr == SYS_clone3;
}

uint8_t cause_from_hits(const struct event *ev, const struct peek_hit *hits, unsigned int n,
			pid_t *ret_tid)
{
	*ret_tid = 0;
	for (unsigned int i = 0; i < n; i++) {
		const struct peek_hit *h = &hits[i];
		uint8_t cause = MIRROR_CAUSE_UNKNOWN;

		if (ev->type == MIRROR_EVENT_UNMAP)
			cause = unmap_cause(ev, h);
		else if (ev->type == MIRROR_EVENT_CLEAR)
			cause = clear_cause(ev, h);
		else if (ev->type == MIRROR_EVENT_REMAP && h->nr == SYS_mremap &&
			 h->args[0] == ev->start)
			cause = MIRROR_CAUSE_MREMAP;
		else if (ev->type == MIRROR_EVENT_FORK && is_fork(h->nr))
			cause = MIRROR_CAUSE_FORK;
		if (cause != MIRROR_CAUSE_UNKNOWN) {
			*ret_tid = h->tid;
			return cause;
		}
	}
	return ev->cause;
}
