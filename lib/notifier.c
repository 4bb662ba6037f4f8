/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Notifiers
 *
 * Removing is synchronous because callbacks run under ctx->lock: whoever has it
 * knows that no other thread is in one.  It needs no look at the ring either: the
 * cookie is given up, so records that are still there find nobody.  From inside a
 * callback of its own, at whatever depth, the object lives until that returns.
 */
#include "mirror-private.h"

#define NOTIFIER_KNOWN \
	(MIRROR_NOTIFIER_END | MIRROR_NOTIFIER_FOLLOW_FORK | MIRROR_NOTIFIER_FOLLOW_EXEC | \
	 MIRROR_NOTIFIER_FILL)

_Static_assert(MIRROR_NOTIFIER_END == MIRROR_NOTIFIER_F_END &&
	       MIRROR_NOTIFIER_FOLLOW_FORK == MIRROR_NOTIFIER_F_FOLLOW_FORK &&
	       MIRROR_NOTIFIER_FOLLOW_EXEC == MIRROR_NOTIFIER_F_FOLLOW_EXEC &&
	       MIRROR_NOTIFIER_FILL == MIRROR_NOTIFIER_F_FILL,
	       "flags are passed on as they are");

static void notifier_free(struct mirror_notifier *n)
{
	struct mirror_target *target = n->target;

	free(n);
	mirror_target_unref(target);
}

void notifier_put(struct mirror_notifier *n)
{
	if (n->removed && n->n_running == 0)
		notifier_free(n);
}

static int insert_locked(struct mirror_notifier *n)
{
	struct mirror_ctx *ctx = n->target->ctx;
	struct mirror_notifier_insert insert = {
		.size = sizeof(insert),
		.flags = n->flags,
		.target = n->target->info.target,
		.start = n->start,
		.end = n->end,
	};
	int r;

	r = slot_take(ctx, n, &n->cookie);
	if (r < 0)
		return r;
	insert.user_data = n->cookie;
	r = ctx_request(ctx, MIRROR_OP_NOTIFIER_INSERT, &insert, NULL, 0, NULL);
	if (r < 0) {
		slot_drop(ctx, n->cookie);
		return r;
	}
	n->id = insert.notifier;
	return 0;
}

static int check_insert(struct mirror_target *target, uint64_t start, uint64_t end,
			struct mirror_notifier_ops *ops, const struct mirror_notifier_ops *user)
{
	int r;

	r = ctx_check(target->ctx);
	if (r < 0)
		return r;
	if (!user)
		return -EINVAL;
	r = opts_read(ops, sizeof(*ops), user, user->sz);
	if (r < 0)
		return r;
	if (ops->flags & ~(uint32_t)NOTIFIER_KNOWN || ops->__reserved)
		return -E2BIG;
	if (!ops->invalidate || !range_is_valid(start, end))
		return -EINVAL;
	return ring_is_mapped(&target->ctx->ring) ? 0 : -ENOTCONN;
}

MIRROR_PUBLIC int mirror_notifier_insert(struct mirror_notifier **ret_notifier,
					 struct mirror_target *target, uint64_t start,
					 uint64_t end, const struct mirror_notifier_ops *ops,
					 void *userdata)
{
	struct mirror_notifier_ops o;
	struct mirror_notifier *n;
	int r;

	r = check_insert(target, start, end, &o, ops);
	if (r < 0)
		return r;
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	gate_copy(&n->gate, &target->gate);
	n->here = target->ctx->here;
	n->start = start;
	n->end = end;
	n->strict = target->strict;
	n->target = mirror_target_ref(target);
	n->flags = o.flags;
	n->invalidate = o.invalidate;
	n->userdata = userdata;

	/* held until *ret_notifier is there: a callback may want it */
	pthread_mutex_lock(&target->ctx->lock);
	r = insert_locked(n);
	if (r == 0)
		*ret_notifier = n;
	pthread_mutex_unlock(&target->ctx->lock);
	if (r < 0)
		notifier_free(n);
	return r;
}

static void remove_locked(struct mirror_notifier *n)
{
	struct mirror_ctx *ctx = n->target->ctx;
	struct mirror_notifier_remove remove = { .size = sizeof(remove), .notifier = n->id };

	slot_drop(ctx, n->cookie);
	/* Failing, the daemon is gone, or the notifier ended with its target. */
	ctx_request(ctx, MIRROR_OP_NOTIFIER_REMOVE, &remove, NULL, 0, NULL);
	n->removed = true;
	notifier_put(n);
}

MIRROR_PUBLIC struct mirror_notifier *mirror_notifier_remove(struct mirror_notifier *notifier)
{
	struct mirror_ctx *ctx;

	if (!notifier)
		return NULL;
	ctx = notifier->target->ctx;
	if (ctx_forked(ctx)) {
		notifier_free(notifier);
		return NULL;
	}
	mirror_ctx_ref(ctx);	/* the lock must outlive the notifier's reference */
	pthread_mutex_lock(&ctx->lock);
	remove_locked(notifier);
	pthread_mutex_unlock(&ctx->lock);
	mirror_ctx_unref(ctx);
	return NULL;
}

MIRROR_PUBLIC struct mirror_target *mirror_notifier_get_target(struct mirror_notifier *notifier)
{
	return notifier->target;
}

MIRROR_PUBLIC uint64_t mirror_notifier_get_start(struct mirror_notifier *notifier)
{
	return notifier->start;
}

MIRROR_PUBLIC uint64_t mirror_notifier_get_end(struct mirror_notifier *notifier)
{
	return notifier->end;
}
