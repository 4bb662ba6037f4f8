/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cookies
 *
 * A record names its notifier by the cookie we gave.  It comes from shared memory
 * and may be late, so it is no pointer: index + 1 in the low half (0 is nobody's),
 * a generation in the high half, which changes when the slot is given up.
 */
#include <string.h>
#include "mirror-private.h"

static int grow(struct mirror_ctx *ctx)
{
	uint32_t n = ctx->n_slots ? ctx->n_slots * 2 : 8;
	struct slot *slots;

	slots = realloc(ctx->slots, n * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	memset(slots + ctx->n_slots, 0, (n - ctx->n_slots) * sizeof(*slots));
	ctx->slots = slots;
	ctx->n_slots = n;
	return 0;
}

int slot_take(struct mirror_ctx *ctx, struct mirror_notifier *notifier, uint64_t *ret_cookie)
{
	uint32_t i = 0;
	int r;

	while (i < ctx->n_slots && ctx->slots[i].notifier)
		i++;
	if (i == ctx->n_slots) {
		r = grow(ctx);
		if (r < 0)
			return r;
	}
	ctx->slots[i].notifier = notifier;
	*ret_cookie = (uint64_t)ctx->slots[i].generation << 32 | (i + 1);
	return 0;
}

struct mirror_notifier *slot_find(struct mirror_ctx *ctx, uint64_t cookie)
{
	uint32_t i = (uint32_t)cookie - 1;

	if (i >= ctx->n_slots || ctx->slots[i].generation != cookie >> 32)
		return NULL;
	return ctx->slots[i].notifier;
}

void slot_drop(struct mirror_ctx *ctx, uint64_t cookie)
{
	uint32_t i = (uint32_t)cookie - 1;

	if (!slot_find(ctx, cookie))
		return;
	ctx->slots[i].notifier = NULL;
	ctx->slots[i].generation++;
}
