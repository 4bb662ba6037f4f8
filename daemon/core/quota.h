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

struct quota {
	struct list users;
	uint32_t limit[_QUOTA_N];
};

struct quota_charge {
	struct quota_user *user;
	enum quota_kind kind;
	uint32_t n;
};

#define QUOTA_CHARGE_NULL { .user = NULL }

void quota_init(struct quota *quota);
void quota_deinit(struct quota *quota);	/* asserts that everything came back */

/* 0, -EDQUOT or -ENOMEM */
int quota_charge(struct quota *quota, struct quota_charge *charge, uid_t uid,
		 enum quota_kind kind);
void quota_refund(struct quota_charge *charge);

/* Makes it a charge of @n.  -EDQUOT: it is what it was.  Less is always possible. */
int quota_resize(struct quota *quota, struct quota_charge *charge, uint32_t n);
