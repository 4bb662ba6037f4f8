/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Store: descriptors that a service manager keeps for the mirrord to come
 *
 * What is put goes out in order, as a datagram each, when the manager takes it:
 * nobody waits for it.  Names are a letter and a number that is never used twice,
 * so that no two descriptors can be mixed up, whatever was lost on the way.
 *
 *	S	state, see sys/state.h		D	the device's channel
 *	c	client's connection		u	target's userfaultfd
 *	p q	its ring, consumer's words	g	target's gate
 *	w k	wake, kick			t	target's mirror table
 *
 * One open file is kept once: put under a second name it is silently dropped.
 */

#include "base.h"

#define STORE_NAME_MAX 24

struct loop;
struct store;

/*
 * -ENOENT: there is no service manager.  Whether it keeps descriptors must be known:
 * one that keeps none says nothing of it.  Without @loop, what the manager does not take
 * at once waits for store_flush().
 */
int store_new(struct store **ret_store, struct loop *loop);
/* What has not gone out is dropped; store_flush() first. */
struct store *store_free(struct store *store);

/*
 * The manager keeps @n with numbers; for more it would do nothing but complain.  Before
 * anything is put; what was inherited is noted by its name.
 */
void store_limit(struct store *store, unsigned int n);
void store_note(struct store *store, const char *name);

/* NULL stores are fine, and do nothing.  @fd is duplicated. */
void store_put(struct store *store, char letter, uint32_t id, int fd);
void store_remove(struct store *store, char letter, uint32_t id);
/* By name, for what is passed to us under one that is no letter and number. */
void store_put_name(struct store *store, const char *name, int fd);
void store_remove_name(struct store *store, const char *name);

/* Has not everything gone out yet? */
bool store_is_behind(const struct store *store);
/* Called each time that all has gone out, or that nothing ever will any more. */
void store_set_idle(struct store *store, void (*idle)(void *userdata), void *userdata);

/*
 * Waits until the manager has taken everything, @timeout_ms at most.  0, -ETIMEDOUT, or
 * -EPIPE if it takes nothing any more.
 */
int store_flush(struct store *store, unsigned int timeout_ms);

/* "c12" */
void store_name(char name[STORE_NAME_MAX], char letter, uint32_t id);

DEFINE_CLEANUP(struct store *, store_free)
