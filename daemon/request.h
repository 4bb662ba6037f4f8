/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Requests: what clients may ask for, the same for every way of asking
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct client;
struct packet;
struct state_request;
struct target;

/*
 * What @request comes to, whoever carries it: error and payload are in @reply.  Its
 * descriptors are borrowed; request_sent() comes after they were passed on, or not.
 * Descriptors taken from @request are -1 afterwards.
 */
void request_serve(struct client *c, struct packet *request, struct packet *reply);
void request_sent(struct client *c, const struct packet *reply);

/* By the client's socket.  Negative: a client that does not read is not waited for. */
int request_handle(struct client *c, struct packet *request);

/*
 * An answer waits until all that it promises is stored: what is lost then, was never
 * promised.  That it was sent, or is not wanted any more.
 */
void request_release(struct client *c);
void request_drop(struct client *c);

/*
 * The answer to a request that another mirrord served, but perhaps did not pass on.
 * 0, or -ENOENT if it cannot be given any more.
 */
int request_again(struct client *c, const struct state_request *q, struct packet *reply);

/* Single ones, in files of their own: 0 or -errno, then nothing is in @reply. */
int request_attach(struct client *c, struct packet *request, struct packet *reply);
/* The same for the answer of an ATTACH, whose flags are in @reply. */
int request_attach_again(struct client *c, uint32_t target, struct packet *reply);
int request_table(struct client *c, struct packet *request, struct packet *reply);
int request_fill(struct client *c, struct packet *request, struct packet *reply);
int request_consumer_info(struct client *c, struct packet *request, struct packet *reply);

/* May this client know of that target? */
bool request_may_see(struct client *c, struct target *t);
bool request_is_zero(const void *p, size_t n);
