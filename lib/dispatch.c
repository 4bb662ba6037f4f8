/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Running the callbacks
 *
 * Under ctx->lock, which is recursive: a callback may look up, remove, even
 * dispatch.  Records are consumed in order; when a callback dispatches, it runs
 * the ones after its own.  acked_seq moves only when nobody is in a callback.
 *
 * When the daemon is gone, what it had published is dispatched still, then every
 * notifier is told once that it knows nothing any more.
 *
 * What a callback must not do under ctx->lock it leaves as work, which is run at the
 * end of mirror_dispatch() and mirror_wait(), when the lock is not held.  Not at that
 * of mirror_read_begin(): its caller may hold locks of its own.
 */
#include <poll.h>
#include <sys/socket.h>
#include <string.h>
#include "mirror-private.h"

/* The callback may remove the notifier, whose last reference is ours then. */
static void call(struct mirror_ctx *ctx, struct mirror_notifier *n, const struct mirror_event *ev)
{
	n->n_running++;
	if (ctx->depth++ == 0)
		store_relaxed(&ctx->caller, (uintptr_t)pthread_self());
	n->invalidate(n, ev, n->userdata);
	if (ctx_forked(ctx))	/* the callback forked, and this is the child */
		return;
	if (--ctx->depth == 0)
		store_relaxed(&ctx->caller, 0);
	n->n_running--;
	notifier_put(n);
}

/* Every notifier, and for each as if the whole of its range had changed. */
static void call_all(struct mirror_ctx *ctx, const struct mirror_event *ev)
{
	/* by index: callbacks insert and remove */
	for (uint32_t i = 0; i < ctx->n_slots && !ctx_forked(ctx); i++) {
		struct mirror_notifier *n = ctx->slots[i].notifier;
		struct mirror_event own = *ev;

		if (!n)
			continue;
		own.start = n->start;
		own.end = n->end;
		call(ctx, n, &own);
	}
}

static void deliver(struct mirror_ctx *ctx, const struct mirror_event *ev)
{
	struct mirror_notifier *n;

	count(ctx, records);
	if (ev->type == MIRROR_EVENT_OVERFLOW) {
		count(ctx, overflows);
		__atomic_fetch_add(&ctx->counters.lost, ev->arg.overflow.lost, __ATOMIC_RELAXED);
	}
	if (ev->user_data == 0) {
		call_all(ctx, ev);
		return;
	}
	n = slot_find(ctx, ev->user_data);	/* none: it was removed meanwhile */
	if (n)
		call(ctx, n, ev);
}

/* Everything published by now; not what comes meanwhile, or it might never end. */
static int drain(struct mirror_ctx *ctx)
{
	struct mirror_event ev;
	uint32_t tail;
	int n = 0;

	if (ring_tail(&ctx->ring, &tail) < 0) {
		ctx_set_dead(ctx);
		return 0;
	}
	while (ring_take(&ctx->ring, tail, &ev)) {
		ctx->seen_seq = ev.seq;
		deliver(ctx, &ev);
		if (ctx_forked(ctx))
			return -ECHILD;
		if (ctx->depth == 0)
			ring_ack(&ctx->ring, ctx->seen_seq);
		n++;
	}
	return n;
}

/* The daemon owes an OVERFLOW record, and there is room for it now. */
static void kick(struct mirror_ctx *ctx)
{
	ssize_t n;

	n = send(ctx->fds[CTX_FD_KICK], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	(void)n;	/* EAGAIN: it has not even seen the last kicks */
}

static void bury(struct mirror_ctx *ctx)
{
	struct mirror_event ev = {
		.type = MIRROR_EVENT_OVERFLOW,
		.cause = MIRROR_CAUSE_DETACH,
		.flags = MIRROR_EVENT_F_POINT,
	};

	if (ctx->buried)
		return;
	ctx->buried = true;
	ev.time_ns = now_ns();
	call_all(ctx, &ev);
}

static int dispatch_locked(struct mirror_ctx *ctx, bool ask)
{
	uint32_t flags;
	int n;

	if (ctx->buried)
		return -EPIPE;
	if (ctx->n_sleepers == 0)
		ring_wake(&ctx->ring);
	flags = ring_flags(&ctx->ring);	/* before the tail */
	n = drain(ctx);
	if (n < 0)
		return n;
	if (flags & MIRROR_RING_F_REVOKED)
		ctx_set_dead(ctx);
	if (flags & MIRROR_RING_F_OVERFLOW)
		kick(ctx);
	if (n > 0 && !ctx_is_dead(ctx))
		return n;
	if (!ctx_is_dead(ctx) && !(ask && ctx_daemon_is_gone(ctx)))
		return 0;
	n = drain(ctx);	/* it may have published between our look and its end */
	if (n < 0)
		return n;
	bury(ctx);
	return ctx_forked(ctx) ? -ECHILD : -EPIPE;
}

int ctx_dispatch(struct mirror_ctx *ctx, bool ask)
{
	int r;

	if (ctx_forked(ctx))
		return -ECHILD;
	if (!ring_is_mapped(&ctx->ring))
		return ctx_is_dead(ctx) || (ask && ctx_daemon_is_gone(ctx)) ? -EPIPE : 0;
	mirror_ctx_ref(ctx);	/* callbacks may drop the others */
	pthread_mutex_lock(&ctx->lock);
	r = dispatch_locked(ctx, ask);
	pthread_mutex_unlock(&ctx->lock);
	mirror_ctx_unref(ctx);
	return r;
}

/* ---- work ---- */

void work_add(struct mirror_ctx *ctx, struct work *work, void (*run)(struct work *work))
{
	work->ctx = ctx;
	work->run = run;
	pthread_mutex_lock(&ctx->work_lock);
	list_append(&ctx->works, &work->link);
	pthread_mutex_unlock(&ctx->work_lock);
}

void work_remove(struct work *work)
{
	struct mirror_ctx *ctx = work->ctx;

	pthread_mutex_lock(&ctx->work_lock);
	list_unlink(&work->link);
	while (work->n_running)
		pthread_cond_wait(&ctx->work_done, &ctx->work_lock);
	pthread_mutex_unlock(&ctx->work_lock);
}

void work_due(struct work *work)
{
	store_relaxed(&work->due, true);
	/* Release: pairs with the exchange in work_run(). */
	store_release(&work->ctx->work_due, true);
}

static struct work *work_next(struct mirror_ctx *ctx)
{
	list_for_each(l, &ctx->works) {
		struct work *work = list_entry(l, struct work, link);

		if (__atomic_exchange_n(&work->due, false, __ATOMIC_RELAXED))
			return work;
	}
	return NULL;
}

static void work_run(struct mirror_ctx *ctx)
{
	struct work *work;

	if (!load_relaxed(&ctx->work_due) || ctx_forked(ctx) || ctx_in_callback(ctx))
		return;
	/* Acquire: what is marked by now is seen below; what is marked later marks anew. */
	if (!__atomic_exchange_n(&ctx->work_due, false, __ATOMIC_ACQ_REL))
		return;
	pthread_mutex_lock(&ctx->work_lock);
	while ((work = work_next(ctx))) {
		work->n_running++;
		pthread_mutex_unlock(&ctx->work_lock);
		work->run(work);
		if (ctx_forked(ctx))
			return;
		pthread_mutex_lock(&ctx->work_lock);
		work->n_running--;
		pthread_cond_broadcast(&ctx->work_done);
	}
	pthread_mutex_unlock(&ctx->work_lock);
}

MIRROR_PUBLIC int mirror_dispatch(struct mirror_ctx *ctx)
{
	int r;

	mirror_ctx_ref(ctx);
	r = ctx_dispatch(ctx, true);
	work_run(ctx);
	mirror_ctx_unref(ctx);
	return r;
}

static int prepare_locked(struct mirror_ctx *ctx)
{
	uint32_t flags, tail;
	char buf[64];
	ssize_t n;

	n = recv(ctx->fds[CTX_FD_WAKE], buf, sizeof(buf), MSG_DONTWAIT);
	(void)n;	/* EAGAIN: nobody has signalled; 0: the daemon is gone, seen below */
	ring_sleep(&ctx->ring);
	flags = ring_flags(&ctx->ring);
	if (ring_tail(&ctx->ring, &tail) < 0)
		ctx_set_dead(ctx);
	if (ctx_is_dead(ctx) || ctx_daemon_is_gone(ctx))
		return -EPIPE;
	if (tail != ctx->ring.head) {
		ring_wake(&ctx->ring);
		return 1;
	}
	if (flags & MIRROR_RING_F_OVERFLOW)
		kick(ctx);	/* and sleep: the record will wake us */
	count(ctx, sleeps);
	return 0;
}

MIRROR_PUBLIC int mirror_prepare_wait(struct mirror_ctx *ctx)
{
	int r;

	if (ctx_forked(ctx))
		return -ECHILD;
	if (!ring_is_mapped(&ctx->ring))
		return -ENOTCONN;
	pthread_mutex_lock(&ctx->lock);
	r = prepare_locked(ctx);
	pthread_mutex_unlock(&ctx->lock);
	return r;
}

/* The generation stays odd while anybody is in here: see dispatch_locked(). */
static int sleep_for(struct mirror_ctx *ctx, int timeout_ms)
{
	struct pollfd pollfds[] = {
		{ .fd = ctx->fds[CTX_FD_WAKE], .events = POLLIN | POLLRDHUP },
		{ .fd = ctx->fds[CTX_FD_SOCKET], .events = POLLRDHUP },
	};
	int r;

	pthread_mutex_lock(&ctx->lock);
	r = prepare_locked(ctx);
	ctx->n_sleepers += r == 0;
	pthread_mutex_unlock(&ctx->lock);
	if (r != 0)
		return r;
	r = poll(pollfds, ARRAY_SIZE(pollfds), timeout_ms) < 0 ? -errno : 0;
	pthread_mutex_lock(&ctx->lock);
	ctx->n_sleepers--;
	pthread_mutex_unlock(&ctx->lock);
	return r;
}

static int wait_and_dispatch(struct mirror_ctx *ctx, int timeout_ms)
{
	uint64_t now, end;
	int r, left = timeout_ms;

	r = ctx_dispatch(ctx, true);
	if (r != 0 || timeout_ms == 0)
		return r;
	if (!ring_is_mapped(&ctx->ring))
		return -ENOTCONN;
	end = now_ns() + (uint64_t)MAX(timeout_ms, 0) * NSEC_PER_MSEC;
	for (;;) {
		r = sleep_for(ctx, left);
		if (r == -EINTR)
			return r;
		r = ctx_dispatch(ctx, true);
		if (r != 0)
			return r;
		if (timeout_ms < 0)
			continue;
		now = now_ns();
		if (now >= end)
			return 0;
		left = (int)((end - now + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC);
	}
}

MIRROR_PUBLIC int mirror_wait(struct mirror_ctx *ctx, int timeout_ms)
{
	int r;

	mirror_ctx_ref(ctx);
	r = wait_and_dispatch(ctx, timeout_ms);
	work_run(ctx);
	mirror_ctx_unref(ctx);
	return r;
}
