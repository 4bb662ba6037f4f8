/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Adoption, from inside: see adopt.c
 */

#include "sys/service.h"
#include "sys/state.h"

struct client;
struct manager;
struct target;

/* An inherited descriptor that a store could have kept: its name, taken apart. */
struct stored {
	char letter;
	uint32_t id;
	struct inherited_fd *from;
};

struct adoption {
	struct manager *manager;
	struct stored *stored;		/* by letter and id */
	size_t n_stored;
	struct state_request request;	/* the one that was being served */
	uint64_t fork;
	void **objects;			/* by slot: what was made of it */
	unsigned int n_lost;
};

/* Where the descriptor is, or where there is -1.  Who takes it leaves -1. */
int *adoption_fd(struct adoption *ad, char letter, uint32_t id);
/* Was it made by the request that came to no end? */
bool adoption_is_half_made(const struct adoption *ad, uint64_t made_by);
/* Calls @fn for each slot of a kind; what it cannot use, -errno, is free afterwards. */
void adoption_for_each(struct adoption *ad, enum state_kind kind,
		       int (*fn)(struct adoption *ad, struct state_slot *slot));

/* In this order. */
int adopt_client(struct adoption *ad, struct state_slot *slot);
int adopt_target(struct adoption *ad, struct state_slot *slot);
int adopt_attachment(struct adoption *ad, struct state_slot *slot);
int adopt_notifier(struct adoption *ad, struct state_slot *slot);
/* The loop finds it hung up, and frees it. */
void adopt_hang_up(struct client *c);
void adopt_target_finish(struct adoption *ad, struct target *t);
void adopt_client_request(struct adoption *ad);
void adopt_clients_finish(struct adoption *ad);
