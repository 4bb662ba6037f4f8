/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Quota
 *
 * Every object that a client can make carries a charge to the client's user, and
 * gives it back when it is freed.  There is no other book-keeping.
 */

#include <sys/types.h>
#include "list.h"

enum quota_kind {
	QUOTA_CLIENTS,
	QUOTA_CHANNELS,
	QUOTA_TARGETS,
	QUOTA_NOTIFIERS,
	QUOTA_TABLES,
	QUOTA_TABLE_NODES,	/* of all tables together, 4 KiB each */
	_QUOTA_N,
};

struct quota_user {
	struct list link;
	uid_t uid;
	uint32_t used[_QUOTA_N];
	uint32_t n_refs;
};

#define QUOTA_AS_ALL UINT32_MAX	/* in a rule: what every user has */

/* Limits of one user. */
struct quota_rule {
	uid_t uid;
	uint32_t limit[_QUOTA_N];
};

struct quota {
	struct list users;
	uint32_t limit[_QUOTA_N];	/* of every user that has no rule */
	struct quota_rule *rules;	/* one for each user, by uid */
	size_t n_rules;
	bool adopting;			/* what there was already is charged without a limit */
};

struct quota_charge {
	struct quota_user *user;
	enum quota_kind kind;
	uint32_t n;
};

#define QUOTA_CHARGE_NULL { .user = NULL }

void quota_init(struct quota *quota);
void quota_deinit(struct quota *quota);	/* asserts that everything came back */

/* What is built in. */
void quota_default_limits(uint32_t limit[_QUOTA_N]);
/*
 * Other limits, for what is made from now on: nobody loses what he has.  The rules, no
 * two for one user, are copied.  0 or -ENOMEM, and then all is as it was.
 */
int quota_set_limits(struct quota *quota, const uint32_t limit[_QUOTA_N],
		     const struct quota_rule *rules, size_t n_rules);
uint32_t quota_limit(const struct quota *quota, uid_t uid, enum quota_kind kind);

/* 0, -EDQUOT or -ENOMEM */
int quota_charge(struct quota *quota, struct quota_charge *charge, uid_t uid,
		 enum quota_kind kind);
void quota_refund(struct quota_charge *charge);

/* Makes it a charge of @n.  -EDQUOT: it is what it was.  Less is always possible. */
int quota_resize(struct quota *quota, struct quota_charge *charge, uint32_t n);
