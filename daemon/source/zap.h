/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Zap: proof that a CLEAR is over
 *
 * userfaultfd tells of MADV_DONTNEED and its kin before the pages go, and never
 * says when they are gone.  In between, a page that is looked at is still the old
 * one.  What proves the end is that the acting thread leaves its system call:
 *
 *	acting thread			daemon
 *	-------------			------
 *	madvise(): blocked on event
 *					peek: this thread, this range
 *					PTRACE_SEIZE, PTRACE_INTERRUPT
 *					read() of the event: START told
 *	pages go
 *	stops on its way to user mode
 *					waitid(): END told, PTRACE_DETACH
 *	goes on
 *
 * Interrupting before the read means that the stop is at the end of that very
 * call: no other call of the thread is ever disturbed (no EINTR).
 *
 *	FREE -> SEIZED -> WAITING -> FREE	as above
 *	FREE -> WATCHED -> FREE			the thread cannot be traced (a debugger has
 *						it): it is looked at until it is seen in
 *						another system call.  Or it was not found in
 *						time: then every thread is a suspect until it is
 *						seen in another call, and one that always runs
 *						is stopped for a moment after a while.  Until
 *						then the range stays closed: slow, never wrong.
 *
 * Slots are there before the read, for each target its own: nothing is allocated
 * between the read and what follows from it.  One call over many mappings sends an
 * event for each of them, and its thread is stopped only after the last: so there must
 * be as many slots.  A target that uses up all that it may have only holds up itself.
 */

#include "source/peek.h"
#include "source/source.h"

struct zaps;
struct zap_pool;	/* the slots of one target */

struct zap_counters {
	uint64_t removes, pending;
};

/* The loop's thread becomes the tracer: all calls must come from it. */
int zaps_new(struct zaps **ret_zaps, struct loop *loop, struct zap_counters *counters);
struct zaps *zaps_free(struct zaps *zaps);

int zap_pool_new(struct zap_pool **ret_pool);
/* Its zaps are forgotten, its threads let go, nobody is called. */
struct zap_pool *zap_pool_free(struct zaps *zaps, struct zap_pool *pool);

/* Before the read: be ready to see this thread leave its call. */
void zap_prepare(struct zaps *zaps, struct zap_pool *pool, struct source_sink *sink, pid_t pid,
		 const struct peek_hit *hit);

/*
 * After the read of a REMOVE.  @hits: what peek found before it.  Later, or at
 * once, sink->ops->end() is called with @ev.  false if no slot is free: then the
 * caller must not say that it is over.
 */
bool zap_begin(struct zaps *zaps, struct zap_pool *pool, struct source_sink *sink, pid_t pid,
	       const struct event *ev, const struct peek_hit *hits, unsigned int n_hits);

/* Are there slots for another one?  Before the read: makes some, if need be. */
bool zap_pool_has_room(struct zap_pool *pool);

/* A SIGCHLD came: look which traced threads stopped. */
void zaps_reap(struct zaps *zaps);

DEFINE_CLEANUP(struct zaps *, zaps_free)
