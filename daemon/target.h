/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Target: one observed process
 *
 *	          hands over its userfaultfd            exit
 *	PENDING ------------------------------> ARMED ---------> DEAD
 *	   ^                                      |
 *	   `--------------------------------------'
 *	     exec, while a notifier follows exec
 *
 * A target lives as long as a client is attached to it.  An attachment is one
 * client's interest in one target, and owns that client's notifiers of it.
 *
 * A child that is followed begins as ARMED, with its userfaultfd but without a
 * pid: the kernel tells of the fork before the child can be seen.  The pid is
 * found soon after, by the parent's list of children or because the child itself
 * connects.
 */

#include "core/gate.h"
#include "core/notifier.h"
#include "source/exit-source.h"
#include "source/uffd-source.h"
#include "sys/life.h"

struct client;
struct manager;
struct state_slot;
struct target_table;

struct target {
	struct list link;		/* in manager.targets, by id */
	struct source_sink sink;
	struct manager *manager;
	struct uffd_source uffd;
	struct exit_source exit;
	struct loop_op timer;		/* looks for its pid, or for new mappings */
	struct notifier_set notifiers;
	struct list attachments;
	struct quota_charge charge;
	struct gate gate;
	struct life_map life;
	struct target_table *table;	/* NULL: nobody asked for it */
	struct state_slot *slot;	/* what the next mirrord will know of it */
	uint64_t start_time;		/* of the process, with pid its name */
	uint64_t published;
	uint64_t features;
	uint64_t rescan_ns;
	uint64_t arm_next, arm_end;	/* what is left to register; nothing if equal */
	uint32_t arm_seen;		/* so far in this look */
	uint32_t id, parent, state, armed;
	uint32_t tries;
	uint64_t fork_time;		/* of the fork that made it; see target_of_child() */
	uint64_t stack;			/* of the program whose memory it is; 0: not known */
	pid_t pid, lifeline_tid, fork_tid;
	uid_t uid;
	int pidfd, gate_fd;
	bool arm_all;
	bool unseen_clear;		/* a CLEAR was let go whose end nobody looked for */
	uint64_t unseen, proven;	/* those not watched as a whole; of them known to be over */
	bool orphan;			/* of another mirrord, and without its gate */
	bool forsaken;			/* the same, without a connection of its process's own */
	bool hung_up;			/* its connection closed, and we do not know why */
	uint8_t guarantee[16];
};

struct attachment {
	struct list client_link;
	struct list target_link;
	struct list notifiers;
	struct client *client;
	struct target *target;
	struct state_slot *slot;
	bool is_self;			/* the client is the target */
	bool inherited;			/* by following a parent; the client did not ask */
};

/* @pid 0: a child not yet found.  The pidfd is taken over on success. */
int target_new(struct target **ret_target, struct manager *m, pid_t pid, int pidfd, uid_t uid);
struct target *target_free(struct target *t);

/*
 * Another mirrord's, from its slot, with the gate's descriptor, taken over on success;
 * with -1 it gets a gate that nobody knows.  See adopt-target.c, which does the rest.
 */
int target_resume(struct target **ret_target, struct manager *m, struct state_slot *slot,
		  int gate_fd);
/* The same for its userfaultfd: PENDING -> ARMED, but the gate stays as it is. */
int target_resume_source(struct target *t, int fd, uint32_t stored_as);

/* Its slot, and those of others, are made to say what is. */
void target_keep(struct target *t);
void attachment_keep(struct attachment *a);
void notifier_keep(struct notifier *n);

struct target *target_by_id(struct manager *m, uint32_t id);
/* The living target that is this process. */
struct target *target_by_pid(struct manager *m, pid_t pid);

/* PENDING -> ARMED.  @fd, on which UFFDIO_API is done, is taken over on success. */
int target_start(struct target *t, int fd);

/*
 * The target's own connection closed.  By exec, if its address space is gone and
 * it is not about to end; else it merely closed its descriptors, and is watched on.
 */
void target_hung_up(struct target *t);

/* The address space is gone: RELEASE to all. */
void target_gone(struct target *t, uint8_t cause);

/* DEAD as it is, it goes when nobody is attached any more, or need not be. */
void target_linger(struct target *t);

/*
 * Does its process run another program than the one whose memory is watched?  That
 * can live on, if others have it too; what /proc says by the pid is not of it.
 */
bool target_left_program(const struct target *t);

/* Its process is known from now on. */
int target_set_process(struct target *t, pid_t pid, int pidfd);

/* It has none: its process is looked for until it is found, or is no more. */
void target_seek_process(struct target *t);

/*
 * A child of @parent's is looked at: which of the targets that still lack a process
 * is it?  NULL if it is none of them.
 */
struct target *target_of_child(struct target *parent, pid_t pid);

/* A forked child of @t with its own userfaultfd, consumed.  NULL: nobody follows. */
struct target *target_fork(struct target *t, int uffd, pid_t fork_tid);

/* A process that @parent made without a fork that we saw (vfork, posix_spawn). */
int target_adopt(struct target *parent, pid_t pid, int pidfd, uid_t uid,
		 struct target **ret_target);

bool target_is_followed(const struct target *t, uint32_t flag);

/*
 * Registers mappings now, as many as may be done at one go; the rest soon.  The
 * result is of what was done.
 */
int target_arm(struct target *t, uint64_t start, uint64_t end, struct arm_result *ret_result);

/* The same, when the loop turns. */
void target_arm_later(struct target *t, uint64_t start, uint64_t end);

/* If it is armed as a whole: looks for new mappings now and then, from now on. */
void target_rescan(struct target *t);

int attachment_new(struct attachment **ret_attachment, struct target *t, struct client *c);
/* Its notifiers go too; the target, if nobody else is attached. */
struct attachment *attachment_free(struct attachment *a);
struct attachment *attachment_find(struct client *c, struct target *t);

int notifier_new(struct notifier **ret_notifier, struct attachment *a,
		 const struct notifier *like);
/* Another mirrord's: as new ones, but they have their slots, and a notifier its id. */
int attachment_resume(struct attachment **ret_attachment, struct target *t, struct client *c,
		      struct state_slot *slot);
int notifier_resume(struct notifier **ret_notifier, struct attachment *a,
		    struct state_slot *slot);
struct notifier *notifier_free(struct notifier *n);

DEFINE_CLEANUP(struct target *, target_free)
