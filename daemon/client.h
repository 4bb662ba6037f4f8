/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Client: one connection, with at most one ring
 */

#include "core/notifier.h"
#include "io/control.h"
#include "io/ring.h"
#include "target.h"

struct client {
	struct list link;		/* in manager.clients */
	struct manager *manager;
	struct conn conn;
	struct ring *ring;		/* NULL: it watches nothing */
	struct loop_op kick;
	struct list attachments;
	struct quota_charge charge, ring_charge;
	struct notifier **notifiers;	/* by id - 1; free ones are NULL */
	uint32_t n_notifiers, next_notifier;
	uint32_t n_release_owed;
	bool privileged;		/* may observe every process */
};

/* @fd is taken over on success. */
int client_new(struct client **ret_client, struct manager *m, int fd);
struct client *client_free(struct client *c);

int client_make_ring(struct client *c, uint32_t entries, uint32_t numa_node);

/* A number for a new notifier. */
int client_reserve_id(struct client *c, uint32_t *ret_id);
struct notifier *client_find_notifier(struct client *c, uint32_t id);

/* The ptrace rule, for the client and not for us. */
bool client_may_observe(struct client *c, pid_t pid);

/* There may be room in its ring again: what is owed is put and told. */
void client_settle(struct client *c);

DEFINE_CLEANUP(struct client *, client_free)
