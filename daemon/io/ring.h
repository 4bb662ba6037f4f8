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
#include "proto.h"

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
	int kept_fd;			/* the producer memfd, until it is stored */
	int peer_wake_fd, peer_kick_fd;
	int wake_fd, kick_fd;
	/* who reads it is in this process: called instead of sending through wake_fd */
	void (*readable)(struct ring *ring, void *userdata);
	void *readable_data;
	struct list dirty_link;		/* the manager's: put to, not yet flushed */
};

struct ring_counters {
	uint64_t published, lost, wakeups;
};

#define RING_ENTRIES_DEFAULT 4096
#define RING_ENTRIES_MAX 65536

/*
 * @numa_node: 1 + node, or 0; a node that does not exist is no error.  @keep: another
 * mirrord may adopt it; kept_fd is to be stored.
 */
int ring_new(struct ring **ret_ring, uint32_t entries, uint32_t numa_node, bool keep);
struct ring *ring_free(struct ring *ring);

/* @record without its seq.  false if it was lost, and OVERFLOW is owed. */
bool ring_put(struct ring *ring, const struct mirror_event *record,
	      struct ring_counters *counters);
void ring_flush(struct ring *ring);

/* A record that is not to be had any more: OVERFLOW is owed. */
void ring_lose(struct ring *ring, uint64_t time_ns, struct ring_counters *counters);

/* After a flush: wake the consumer if it said that it sleeps. */
void ring_wake(struct ring *ring, struct ring_counters *counters);

/* The consumer has its descriptors: ours of the same go. */
void ring_sent(struct ring *ring);

/* Somebody else keeps kept_fd: ours goes. */
void ring_stored(struct ring *ring);

/* The consumer hears that it is over, whoever else keeps the descriptors. */
void ring_hang_up(struct ring *ring);

/*
 * Another mirrord's: it goes on behind the last record that was shown, with the next
 * number.  -EPROTO if it is none of ours.  The descriptors are taken over on success.
 */
struct ring_fds {
	int producer, consumer, wake, kick;
};

int ring_adopt(struct ring **ret_ring, struct ring_fds *fds);

/* Is there such a record among those that its memory still holds, read or not? */
bool ring_holds(const struct ring *ring,
		bool (*is_it)(const struct mirror_event *ev, const void *userdata),
		const void *userdata);

/*
 * kick_fd is readable: takes what is in it, and drops what does not belong there.  false:
 * the consumer closed its end.
 */
bool ring_was_kicked(struct ring *ring, const struct dropper *dropper);

/* true once if there was room for the OVERFLOW record that was owed: it is put. */
bool ring_settle(struct ring *ring, struct ring_counters *counters);

/* For a consumer in this process: is there a record, and takes at most @n of them. */
bool ring_is_readable(const struct ring *ring);
uint32_t ring_take(struct ring *ring, void *ret_records, uint32_t n);

/* Threads of the consumer that sleep on a gate word. */
bool ring_has_gate_waiters(const struct ring *ring);

void ring_revoke(struct ring *ring);

DEFINE_CLEANUP(struct ring *, ring_free)
