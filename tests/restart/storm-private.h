/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Storm inside: what its processes share
 */

#include <mirror/mirror.h>
#include <pthread.h>
#include <stdatomic.h>
#include "harness.h"
#include "storm.h"

#define SLOTS		8U
#define SLOT_PAGES	4U
#define SLOT_STRIDE	16U		/* pages; the second half is where it moves to */
#define PLACES		(2 * SLOTS)
#define HISTORY		512U
#define LOG		(1U << 15)
#define FILE_PAGES	64U		/* for each slot */
#define PATIENCE_MS	30000

#define GONE		(~0ULL)		/* nothing is mapped there */
#define OR_ZERO		(1ULL << 63)	/* this number, or not written yet */

/* What is at a place after its n-th change. */
struct place {
	atomic_ulong begun, done;
	atomic_ulong history[HISTORY];
};

/* A record to come. */
struct change {
	uint64_t start, end, to;
	uint32_t type;
	bool optional;			/* nobody need have watched it */
};

enum phase { STORM, PARK, SETTLE, END };

struct shared_target {
	pid_t pid;
	atomic_bool attached, parked;
	struct place places[PLACES];
	atomic_ulong begun, done;	/* of the log */
	struct change log[LOG];
	/* its consumer's */
	atomic_bool following, settled;
	atomic_ulong tail;		/* it may still compare with the log from here on */
	struct shared_counts {
		atomic_ulong changes, lookups, hits, again, records, overflows, lost;
		atomic_ulong stale, unexpected, untold, gaps, errors;
	} n;
};

struct storm {
	struct storm_options options;
	char *arena;
	int memfd;
	uint64_t seed;
	atomic_uint phase, complaints;
	pid_t targets[STORM_TARGETS], consumers[STORM_TARGETS];
	struct shared_target target[STORM_TARGETS];
};

/* Which changes the records so far can have been of: a set of positions in the log. */
struct follow {
	struct shared_target *t;
	uint64_t lo, hi;
	uint8_t may[LOG];
	atomic_ulong told;		/* hi, for other threads */
	uint64_t seq;
};

/* A device's table. */
struct cache {
	struct entry {
		bool known;
		uint64_t content, version;
	} entries[PLACES];
	atomic_bool touched[PLACES];	/* by a record */
};

#define CACHES 2			/* one for each thread that looks up */

struct consumer {
	struct storm *s;
	struct shared_target *t;
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	struct mirror_notifier *notifier;
	struct follow follow;
	struct cache caches[CACHES];
	bool strict, clear_is_ordered;
	uint64_t random;
};

uint64_t place_address(const struct storm *s, unsigned int place);
/* A few complaints are printed, all are counted. */
void complain(struct storm *s, atomic_ulong *count, const char *format, ...)
	__attribute__((__format__(__printf__, 3, 4)));
uint64_t next_random(uint64_t *state);
enum phase storm_phase(const struct storm *s);

/* storm-consumer.c; c->ctx and c->target are there */
int consumer_watch(struct consumer *c);
/* Looks that nothing from before is good, if @dead, and lets go of all. */
void consumer_forget(struct consumer *c, bool dead);
/* One lookup; 0, or -EPIPE when it has to begin anew. */
int consumer_look(struct consumer *c, struct cache *cache, unsigned int place);
/* After the last change: has everything been told? */
void consumer_settle(struct consumer *c);
int consumer_main(struct storm *s, unsigned int i);

/* storm-target.c */
int target_main(struct storm *s, unsigned int i);

/* follow.c */
void follow_reset(struct follow *f, uint64_t from, uint64_t to);
/* false: it cannot have been any of those it might have been. */
bool follow_step(struct follow *f, const struct mirror_event *ev);
