/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Client: one connection, with at most one ring
 */

#include "core/notifier.h"
#include "io/control.h"
#include "io/ring.h"
#include "sys/state.h"
#include "target.h"

struct client_file;

struct client {
	struct list link;		/* in manager.clients */
	struct manager *manager;
	struct conn conn;
	struct ring *ring;		/* NULL: it watches nothing */
	struct loop_op kick;
	struct state_slot *slot;	/* what the next mirrord will know of it */
	uint32_t id;			/* of its descriptors in the store; never used twice */
	struct list attachments;
	struct quota_charge charge, ring_charge;
	struct notifier **notifiers;	/* by id - 1; free ones are NULL */
	uint32_t n_notifiers, next_notifier;
	uint32_t n_release_owed;
	bool privileged;		/* may observe every process */
	bool is_calling;		/* its process waits for the answer, and so is there */
	struct packet *held;		/* the answer to its last request, until all is stored */
	struct state_request answered;	/* by another mirrord, and whether it got it is not known */
	struct client_file *file;	/* NULL: it has a socket; see client-file.c */
};

/* @fd is taken over on success. */
int client_new(struct client **ret_client, struct manager *m, int fd);
/* One that has no socket: an open file of the device.  The pidfd is taken over on success. */
int client_new_file(struct client **ret_client, struct manager *m, pid_t pid, int pidfd,
		    uid_t uid, gid_t gid);
struct client *client_free(struct client *c);

/* Its connection, or its file, was closed by its side: it is freed. */
void client_hung_up(struct client *c);

/* For the next mirrord: which open file it is. */
void client_keep_file(struct client *c, uint64_t fh, uint32_t open_flags);

/*
 * Another mirrord's, from its slot.  @fd: its socket, taken over on success, or -1 for an
 * open file of the device.
 */
int client_resume(struct client **ret_client, struct manager *m, struct state_slot *slot,
		  int fd);
/* Its ring, taken over on success. */
int client_resume_ring(struct client *c, struct ring *ring);

int client_make_ring(struct client *c, uint32_t entries, uint32_t numa_node);

/* A number for a new notifier. */
int client_reserve_id(struct client *c, uint32_t *ret_id);
/* This very number.  -EEXIST, -EINVAL, -ENOMEM */
int client_take_id(struct client *c, uint32_t id);
struct notifier *client_find_notifier(struct client *c, uint32_t id);

/* The ptrace rule, for the client and not for us. */
bool client_may_observe(struct client *c, pid_t pid);

/* There may be room in its ring again: what is owed is put and told. */
void client_settle(struct client *c);
/* The same, but nobody is told. */
void client_put_owed(struct client *c);

DEFINE_CLEANUP(struct client *, client_free)
