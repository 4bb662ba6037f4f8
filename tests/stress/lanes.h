/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Lanes: threads that reuse an address and look it up
 *
 * Each lane has one address, where it maps one page of a memfd after the other and
 * writes a number never used before.  A cache of one entry keeps which page of the
 * memfd is there, as a registration cache keeps physical pages, and libmirror says
 * whether the entry is good.  What the device sees through the entry must be what the
 * processor sees at the address; if not, the lookup was stale.
 *
 * A lane of two threads unmaps in the second one, and the first maps the address
 * anew while the second still sits in munmap().  Only strict lookups survive that.
 */

#include <mirror/mirror.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include "harness.h"

#define LANES_MAX	8
#define LANE_PAGES	256U	/* of the memfd, for each lane */

struct lanes;

struct lane {
	struct lanes *lanes;
	char *address;
	unsigned int first;		/* page of the memfd */
	bool pair;
	pthread_t thread, second;
	pid_t tid;
	struct mirror_notifier *notifier;

	/* the entry */
	pthread_mutex_t lock;
	bool valid;
	unsigned int page;
	uint64_t version;

	unsigned int current;		/* page that is there now */
	uint64_t generation;
	atomic_ulong asked, gone;	/* pair: the page may go, and it went */

	/* what happened; read from outside */
	atomic_ulong turns, stale, hits, unmaps, events, lost;
	atomic_int error;		/* of a lookup: -EPIPE after the daemon's death */
};

/* In shared memory: who watches can be another process. */
struct lanes {
	unsigned int n;
	struct lane lane[LANES_MAX];
	int memfd;
	char *device;
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	atomic_bool stop;
	atomic_ulong after;		/* turns to do after the daemon's death */
};

/* @n_single lanes of one thread and @n_pairs of two, not attached to anything. */
struct lanes *lanes_new(unsigned int n_single, unsigned int n_pairs);
/* 0 or -errno; at @socket, which may be NULL. */
int lanes_attach(struct lanes *lanes, const char *socket);
void lanes_detach(struct lanes *lanes);
/* They end by themselves when the daemon is gone, or by lanes_stop(). */
void lanes_start(struct lanes *lanes);
void lanes_join(struct lanes *lanes);
void lanes_stop(struct lanes *lanes);
/* Waits until each change of it is told, and runs the callbacks; 0 or -errno. */
int lane_settle(struct lane *lane);

uint64_t lanes_turns(const struct lanes *lanes);
uint64_t lanes_stale(const struct lanes *lanes);
/* The worst error of all; @wanted is none. */
int lanes_error(const struct lanes *lanes, int wanted);
