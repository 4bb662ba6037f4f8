/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <assert.h>
#include <string.h>
#include "core/quota.h"

void quota_default_limits(uint32_t limit[_QUOTA_N])
{
	limit[QUOTA_CLIENTS] = 1024;
	limit[QUOTA_CHANNELS] = 512;
	limit[QUOTA_TARGETS] = 1024;
	limit[QUOTA_NOTIFIERS] = 131072;
	limit[QUOTA_TABLES] = 256;
	limit[QUOTA_TABLE_NODES] = 262144;
}

void quota_init(struct quota *quota)
{
	*quota = (struct quota) { .rules = NULL };
	list_init(&quota->users);
	quota_default_limits(quota->limit);
}

void quota_deinit(struct quota *quota)
{
	assert(list_is_empty(&quota->users));
	free(quota->rules);
	quota->rules = NULL;
	quota->n_rules = 0;
}

static int by_uid(const void *a, const void *b)
{
	const struct quota_rule *x = a, *y = b;

	return x->uid < y->uid ? -1 : x->uid > y->uid;
}

int quota_set_limits(struct quota *quota, const uint32_t limit[_QUOTA_N],
		     const struct quota_rule *rules, size_t n_rules)
{
	struct quota_rule *mine = NULL;

	if (n_rules) {
		mine = calloc(n_rules, sizeof(*mine));
		if (!mine)
			return -ENOMEM;
		memcpy(mine, rules, n_rules * sizeof(*mine));
		qsort(mine, n_rules, sizeof(*mine), by_uid);
	}
	free(quota->rules);
	quota->rules = mine;
	quota->n_rules = n_rules;
	memcpy(quota->limit, limit, sizeof(quota->limit));
	return 0;
}

uint32_t quota_limit(const struct quota *quota, uid_t uid, enum quota_kind kind)
{
	struct quota_rule key = { .uid = uid }, *rule = NULL;

	if (quota->adopting)
		return UINT32_MAX;
	if (quota->n_rules)
		rule = bsearch(&key, quota->rules, quota->n_rules, sizeof(key), by_uid);
	if (rule && rule->limit[kind] != QUOTA_AS_ALL)
		return rule->limit[kind];
	return quota->limit[kind];
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
	if (user->used[kind] >= quota_limit(quota, uid, kind)) {
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
	uint32_t limit = quota_limit(quota, charge->user->uid, charge->kind);

	if (n > charge->n && (others >= limit || n > limit - others))
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
