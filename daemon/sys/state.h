/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * State: what the next mirrord has to know to go on with the same descriptors
 *
 * A header and an array of slots, one for each client, target, attachment and notifier.
 * It is right at every moment, as the moment may be the last: whoever finds it, finds
 * each object as it was, or not at all.  Nothing is undone or replayed, so
 *
 *	a slot is filled, then gets its kind; it loses its kind, then is filled anew
 *	who is referred to has its slot before, and loses it after
 *	one word changes at a time, and each value on the way makes sense
 *
 * The compiler must keep that order, hence the fences in state.c; the processor keeps
 * it, since it is the same memory and whoever reads comes after the death.
 *
 * Kept in a memfd that only mirrords ever see.  Where nobody keeps descriptors it is
 * memory of ours alone, and all is done the same.
 */

#include "base.h"

#define STATE_SLOTS (1U << 20)

/* The device's channel, as it was negotiated with the kernel. */
struct state_device {
	uint32_t kind;			/* 0: none, else enum device_kind */
	uint32_t minor;
	uint32_t flags;
	uint32_t max_write;
	uint32_t mode, uid, gid;	/* of the file, for FUSE */
	uint32_t open_serial;		/* of the call that next_fh was given to */
	uint32_t __reserved;
	uint64_t max_poll;		/* no poll handle seen was greater */
	uint64_t next_fh;		/* never used twice */
	char name[96];			/* of the node or of the file */
};

/*
 * The one request that is being served, as there is one thread.  What it makes bears
 * its number.
 *
 *	DONE -> BEGUN -> SERVED -> DONE
 */
enum state_phase {
	STATE_DONE,		/* nothing is being served */
	STATE_BEGUN,		/* half done, maybe: what bears its number does not count */
	STATE_SERVED,		/* all done; the answer may have been sent, or not */
};

struct state_request {
	uint64_t number;	/* never used twice */
	uint32_t phase;		/* enum state_phase */
	uint32_t client;	/* id */
	uint32_t op, serial;
	uint32_t flags, result;	/* SERVED: flags of the answer, and the number in it */
};

enum state_kind {
	STATE_FREE, STATE_CLIENT, STATE_TARGET, STATE_ATTACHMENT, STATE_NOTIFIER,
	_STATE_KINDS,
};

#define STATE_CLIENT_PRIVILEGED	0x1
#define STATE_CLIENT_FILE	0x2	/* an open file of the device, no socket */
#define STATE_CLIENT_RING	0x4

struct state_client {
	int32_t pid;
	uint32_t uid, gid;
	uint32_t flags;
	uint64_t fh;
	uint64_t start_time;		/* FILE: of the process that opened it */
	uint32_t open_flags;
	uint32_t __reserved;
};

struct state_target {
	uint32_t state, parent;
	int32_t pid;
	uint32_t uid;
	int32_t lifeline_tid, fork_tid;
	uint64_t start_time, fork_time, stack;
	uint64_t armed_by;		/* number of a request */
	uint32_t uffd, table;		/* numbers of their names in the store; 0: none */
	uint8_t arm_all;
	uint8_t going;			/* cause: RELEASE is being told */
	uint8_t __reserved[6];
};

struct state_attachment {
	uint32_t client, target;	/* slots */
	uint8_t is_self, inherited;
	uint8_t __reserved[6];
};

struct state_notifier {
	uint32_t attachment;		/* slot */
	uint32_t flags;
	uint64_t start, end, user_data;
	uint8_t linked;			/* 0: it has heard RELEASE, and hears no more */
	uint8_t release_owed, release_cause;
	uint8_t __reserved[5];
};

struct state_slot {
	uint32_t kind;			/* enum state_kind */
	uint32_t id;
	uint64_t made_by;		/* number of a request */
	union {
		uint32_t next_free;
		struct state_client client;
		struct state_target target;
		struct state_attachment attachment;
		struct state_notifier notifier;
	} u;
};

struct state;

/* @kept: in a memfd.  0 or -errno. */
int state_new(struct state **ret_state, bool kept);
/*
 * Goes on with another mirrord's.  -EPROTO if it is of another version, or damaged.
 * Each slot has a known kind then, and that is all: nothing in it is to be believed.
 * @fd is taken over on success.
 */
int state_open(struct state **ret_state, int fd);
struct state *state_free(struct state *state);
int state_get_fd(const struct state *state);

/* Always there: where nobody keeps descriptors it is memory of ours alone. */
struct state_device *state_get_device(struct state *state);

/* Never the same again.  0: there is none left. */
uint32_t state_next_id(struct state *state);
uint32_t state_next_target(struct state *state);
/* These are used, whatever the header says. */
void state_note_id(struct state *state, uint32_t id);
void state_note_target(struct state *state, uint32_t id);

/* How many tried to go on with it, and died before they were done. */
uint32_t state_attempt(struct state *state);
void state_attempt_done(struct state *state);

/* Does nothing if it is the one that has begun. */
void state_begin(struct state *state, uint32_t client, uint32_t op, uint32_t serial);
void state_served(struct state *state, uint32_t flags, uint32_t result);
void state_done(struct state *state);
/* One that was served before, and whose answer is not sent yet, is the one again. */
void state_put_back(struct state *state, const struct state_request *q);
/* A fork was read: what is made until the end bears a number of its own. */
void state_fork_begin(struct state *state);
void state_fork_end(struct state *state);
/* The number of the fork that came to no end, 0 if none. */
uint64_t state_get_fork(const struct state *state);

/* The number of what is going on, 0 if nothing is. */
uint64_t state_current(const struct state *state);
struct state_request state_get_request(const struct state *state);

/* A slot of zeros, but for made_by; free still.  -EDQUOT: all are used. */
int state_slot_new(struct state *state, struct state_slot **ret_slot);
/* It counts from now on. */
void state_slot_set(struct state_slot *slot, enum state_kind kind);
struct state_slot *state_slot_free(struct state *state, struct state_slot *slot);

uint32_t state_slot_index(const struct state *state, const struct state_slot *slot);
/* Slots that were ever used: no index is as large. */
uint32_t state_n_slots(const struct state *state);
struct state_slot *state_slot_at(struct state *state, uint32_t index);

DEFINE_CLEANUP(struct state *, state_free)
