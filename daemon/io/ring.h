/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Ring, the producing side
 *
 * Layout and ordering are in uapi/ring.h.  A ring is never waited for: a record
 * that does not fit is counted and owed as one OVERFLOW record, and the flag that
 * says so is raised before the change's target goes quiet, so that a consumer
 * cannot take the gap for silence.
 *
 *	       full
 *	OPEN ------> OWING ----> OPEN		room again: one OVERFLOW record, then
 *	  \            \			the flag falls
 *	   `------------`----> REVOKED		the consumer's head is impossible
 *
 * Records are collected with ring_put() and become visible together with
 * ring_flush(): one release store for a batch.
 */

#include <mirror/uapi/event.h>
#include <mirror/uapi/ring.h>
#include "list.h"

struct ring {
	struct mirror_ring_hdr *hdr;	/* ours, mapped writable before it was sealed */
	struct mirror_ring_cons *cons;	/* theirs: load once, never believe */
	uint8_t *slots;
	size_t size;
	uint32_t entries;
	uint32_t tail;			/* of what was put, hdr->tail is of what was flushed */
	uint64_t seq;
	uint64_t owed;			/* records that did not fit since the last OVERFLOW */
	uint64_t time_ns;		/* of the newest of them */
	uint32_t signalled;		/* the wait_gen we woke last */
	bool revoked;
	int producer_fd, consumer_fd;	/* until they are sent, as the peers' */
	int peer_wake_fd, peer_kick_fd;
	int wake_fd, kick_fd;
	struct list dirty_link;		/* the manager's: put to, not yet flushed */
};

struct ring_counters {
	uint64_t published, lost, wakeups;
};

#define RING_ENTRIES_DEFAULT 4096
#define RING_ENTRIES_MAX 65536

/* @numa_node: 1 + node, or 0; a node that does not exist is no error. */
int ring_new(struct ring **ret_ring, uint32_t entries, uint32_t numa_node);
struct ring *ring_free(struct ring *ring);

/* @record without its seq.  false if it was lost, and OVERFLOW is owed. */
bool ring_put(struct ring *ring, const struct mirror_event *record,
	      struct ring_counters *counters);
void ring_flush(struct ring *ring);

/* After a flush: wake the consumer if it said that it sleeps. */
void ring_wake(struct ring *ring, struct ring_counters *counters);

/* The consumer has its descriptors: ours of the same go. */
void ring_sent(struct ring *ring);

/* kick_fd is readable: takes what is in it.  false: the consumer closed its end. */
bool ring_was_kicked(struct ring *ring);

/* true once if there was room for the OVERFLOW record that was owed: it is put. */
bool ring_settle(struct ring *ring, struct ring_counters *counters);

/* Threads of the consumer that sleep on a gate word. */
bool ring_has_gate_waiters(const struct ring *ring);

void ring_revoke(struct ring *ring);

DEFINE_CLEANUP(struct ring *, ring_free)
