/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Requests: what clients may ask for, the same for every way of asking
 */

#include <stdbool.h>
#include <stddef.h>

struct client;
struct packet;
struct target;

/*
 * Answers @request; descriptors it takes over are -1 afterwards.  Negative if the
 * answer could not be sent: a client that does not read is not waited for.
 */
int request_handle(struct client *c, struct packet *request);

/* Single ones, in files of their own: 0 or -errno, then nothing is in @reply. */
int request_attach(struct client *c, struct packet *request, struct packet *reply);
int request_table(struct client *c, struct packet *request, struct packet *reply);
int request_fill(struct client *c, struct packet *request, struct packet *reply);
int request_consumer_info(struct client *c, struct packet *request, struct packet *reply);

/* May this client know of that target? */
bool request_may_see(struct client *c, struct target *t);
bool request_is_zero(const void *p, size_t n);
