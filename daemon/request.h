/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Requests: what clients may ask for, the same for every way of asking
 */

struct client;
struct packet;

/*
 * Answers @request; descriptors it takes over are -1 afterwards.  Negative if the
 * answer could not be sent: a client that does not read is not waited for.
 */
int request_handle(struct client *c, struct packet *request);
