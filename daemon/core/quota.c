/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <assert.h>
#include "core/quota.h"

void quota_init(struct quota *quota)
{
	list_init(&quota->users);
	quota->limit[QUOTA_CLIENTS] = 1024;
	quota->limit[QUOTA_CHANNELS] = 512;
	quota->limit[QUOTA_TARGETS] = 1024;
	quota->limit[QUOTA_NOTIFIERS] = 131072;
	quota->limit[QUOTA_TABLES] = 256;
	quota->limit[QUOTA_TABLE_NODES] = 262144;
}

void quota_deinit(struct quota *quota)
{
	assert(list_is_empty(&quota->users));
	(void)quota;
}

static struct quota_user *quota_find(struct quota *quota, uid_t uid)
{
	struct quota_user *user;

	list_for_each(l, &quota->users) {
		user = list_entry(l, struct quota_user, link);
		if (user->uid == uid)
			return user;
	}
	user = calloc(1, sizeof(*user));
	if (!user)
		return NULL;
	user->uid = uid;
	list_append(&quota->users, &user->link);
	return user;
}

int quota_charge(struct quota *quota, struct quota_charge *charge, uid_t uid,
		 enum quota_kind kind)
{
	struct quota_user *user;

	user = quota_find(quota, uid);
	if (!user)
		return -ENOMEM;
	/* A user that exists holds at least one charge, so it is not left behind here. */
	if (user->used[kind] >= quota->limit[kind]) {
		if (!user->n_refs) {
			list_unlink(&user->link);
			free(user);
		}
		return -EDQUOT;
	}
	user->used[kind]++;
	user->n_refs++;
	charge->user = user;
	charge->kind = kind;
	charge->n = 1;
	return 0;
}

int quota_resize(struct quota *quota, struct quota_charge *charge, uint32_t n)
{
	uint32_t others = charge->user->used[charge->kind] - charge->n;

	if (n > charge->n && (others >= quota->limit[charge->kind] ||
			      n > quota->limit[charge->kind] - others))
		return -EDQUOT;
	charge->user->used[charge->kind] = others + n;
	charge->n = n;
	return 0;
}

void quota_refund(struct quota_charge *charge)
{
	struct quota_user *user = TAKE_PTR(charge->user);

	if (!user)
		return;
	user->used[charge->kind] -= charge->n;
	if (--user->n_refs)
		return;
	list_unlink(&user->link);
	free(user);
}
