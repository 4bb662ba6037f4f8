/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * libmirror inside
 *
 * Locks, in the order in which they are taken:
 *
 *	ctx->lock	  recursive; held around callbacks.  Ring, notifiers, the list
 *			  of targets, sleeping.
 *	device->lock	  a device page table, see device.c
 *	cache->lock	  a registration cache, see regcache.c
 *	ctx->request_lock one request and its reply on the control socket; no
 *			  callback runs under it
 *	ctx->work_lock	  the list of work; nothing is called under it
 *	fork.c's lock	  the list of descriptors a forked child must close; no
 *			  system call under it
 *
 * mirror_read_retry() takes none, neither does anything a child of fork() calls.
 */

#include <mirror/mirror.h>
#include <pthread.h>
#include <semaphore.h>
#include "base.h"
#include "list.h"
#include "proto.h"
#include "shm.h"
#include "gate.h"
#include "ring.h"

#define MIRROR_PUBLIC __attribute__((__visibility__("default")))

#define NSEC_PER_MSEC 1000000ULL
#define NSEC_PER_SEC 1000000000ULL

/* Descriptors of one object, which a child of fork() closes. */
struct guard {
	struct list link;
	int *fds;
	unsigned int n_fds;
};

enum {
	CTX_FD_SOCKET,
	CTX_FD_WAKE,
	CTX_FD_KICK,
	CTX_FD_POLL,
	_CTX_FD_N,
};

/* A cookie names a slot and its generation, so that a late record finds nobody. */
struct slot {
	struct mirror_notifier *notifier;
	uint32_t generation;
};

struct counters {
	uint64_t records;
	uint64_t lost;
	uint64_t overflows;
	uint64_t lookups_begun;
	uint64_t lookups_waited;
	uint64_t retries;
	uint64_t armed;
	uint64_t sleeps;
};

#define count(_ctx, _counter) \
	__atomic_fetch_add(&(_ctx)->counters._counter, 1, __ATOMIC_RELAXED)

/*
 * What mirror_read_retry() compares the gate's life with is spoilt by the low half
 * when that is 0: nothing is good any more.  The whole is 0 only in a child of
 * fork(), where the kernel wipes it.
 */
#define HERE_ALIVE (~0ULL)
#define HERE_DEAD 0xffffffff00000000ULL
#define HERE_FORKED 0ULL

/* What callbacks leave to be done without ctx->lock; see dispatch.c. */
struct work {
	struct list link;
	struct mirror_ctx *ctx;
	void (*run)(struct work *work);
	bool due;
	unsigned int n_running;
};

struct mirror_ctx {
	unsigned int n_refs;
	struct guard guard;
	int fds[_CTX_FD_N];
	uint64_t *here;		/* HERE_*, on a page of fork.c's */
	struct mirror_info info;
	bool embedded;
	bool discreet;		/* in a program that does not know of us; see fd_hide() */

	pthread_mutex_t request_lock;
	uint32_t serial;

	pthread_mutex_t lock;
	struct ring ring;
	struct list targets;
	struct slot *slots;
	uint32_t n_slots;
	unsigned int depth;	/* callbacks we are in */
	uintptr_t caller;	/* the thread that is in them */
	unsigned int n_sleepers; /* threads inside mirror_wait()'s poll */
	uint64_t seen_seq;	/* of the record consumed last */
	bool buried;		/* the notifiers know that the daemon is gone */

	pthread_mutex_t work_lock;	/* nothing is called under it */
	pthread_cond_t work_done;
	struct list works;
	bool work_due;

	struct counters counters;
};

enum {
	TARGET_FD_UFFD,		/* only of our own process */
	TARGET_FD_MAPS,		/* the same: /proc/self/maps */
	TARGET_FD_STOP,		/* ends the lifeline */
	TARGET_FD_NULL,		/* what takes the userfaultfd's place when it goes */
	TARGET_FD_SCAN_MAPS,	/* of any target, once fault_open() was asked: maps */
	TARGET_FD_PAGEMAP,	/* and pagemap */
	_TARGET_FD_N,
};

struct lifeline {
	pthread_t thread;
	bool started;
	pid_t tid;
	sem_t ready;
	const struct mirror_gate *head;	/* once the gate is mapped */
};

/* A mirror table, of one address space of the target's. */
struct table_map {
	struct table_map *older;
	const struct mirror_table *table;
	size_t size;
};

struct mirror_target {
	unsigned int n_refs;
	struct list link;	/* in ctx->targets */
	struct guard guard;
	int fds[_TARGET_FD_N];
	struct mirror_ctx *ctx;
	struct gate gate;
	struct table_map *tables;	/* the newest first */
	struct mirror_attach info;
	bool attached;
	bool strict;
	struct lifeline lifeline;

	void *nowhere;		/* a page that nobody may read, see fault-remote.c */

	bool cut;		/* the userfaultfd is not ours any more */
	unsigned int n_users;	/* threads that use it right now */
};

struct mirror_notifier {
	/* what mirror_read_retry() reads comes first */
	struct gate gate;	/* a copy of the target's */
	const uint64_t *here;
	uint64_t start, end;
	bool strict;
	struct mirror_target *target;

	uint64_t cookie;
	uint32_t id;
	uint32_t flags;
	void (*invalidate)(struct mirror_notifier *notifier, const struct mirror_event *event,
			   void *userdata);
	void *userdata;
	unsigned int n_running;	/* calls of invalidate() we are in */
	bool removed;		/* freed when n_running is 0 */
};

/* fork.c */
int fork_init(void);
void guard_add(struct guard *guard, int *fds, unsigned int n_fds);
/* false in a child that fork.c does not know of: the object must not be freed */
bool guard_remove(struct guard *guard, bool forked);
int fork_word_new(uint64_t **ret_word);
void fork_word_free(uint64_t *word);

static inline bool ctx_forked(const struct mirror_ctx *ctx)
{
	return load_relaxed(ctx->here) == HERE_FORKED;
}

/* opts.c */
int opts_read(void *opts, size_t size, const void *user, size_t user_size);
int opts_write(void *user, size_t user_size, const void *value, size_t size, size_t min);

/* ctx.c */
/*
 * @timeout_ms bounds each wait for the daemon, and says that the program does not
 * know of us; 0: it does, and trusts the daemon to answer.
 */
int ctx_open(struct mirror_ctx **ret_ctx, const struct mirror_open_opts *opts,
	     unsigned int timeout_ms);
/*
 * Moves a descriptor to where such a program will not look: it may count on the
 * lowest free number, or close what it does not know and use the number again.
 */
int fd_hide(const struct mirror_ctx *ctx, int fd);
static inline bool ctx_is_dead(const struct mirror_ctx *ctx)
{
	return load_relaxed(ctx->here) != HERE_ALIVE;
}
static inline int ctx_check(const struct mirror_ctx *ctx)
{
	return ctx_forked(ctx) ? -ECHILD : ctx_is_dead(ctx) ? -EPIPE : 0;
}
/* The daemon is gone, or has let go of us: nothing is good, and never will be. */
void ctx_set_dead(struct mirror_ctx *ctx);
/* Asks the socket, and remembers. */
bool ctx_daemon_is_gone(struct mirror_ctx *ctx);

/* request.c */
#define RESTARTS 8	/* of the daemon, during one request, until we give up */

/*
 * One request.  @arg is the operation's struct, overwritten by that of the reply.
 * @reply: to get descriptors, else NULL; the caller clears it.
 * -ERESTART: the daemon was restarted, over and over, or, if @fds has a userfaultfd,
 * once: that is used up.
 */
int ctx_request(struct mirror_ctx *ctx, uint32_t op, void *arg, const int *fds,
		unsigned int n_fds, struct packet *reply);

/* connect.c */
/* To the daemon that is found, or to a private one: then ctx->embedded. */
int ctx_connect(struct mirror_ctx *ctx, const struct mirror_open_opts *opts,
		unsigned int timeout_ms);

/* embed.c */
int embed_start(const char *socket_path, int *ret_fd);

/* dispatch.c */
/* @ask: if there is nothing, find out by a system call if the daemon is there still */
int ctx_dispatch(struct mirror_ctx *ctx, bool ask);

/* Is this thread in a callback, and so has ctx->lock? */
static inline bool ctx_in_callback(const struct mirror_ctx *ctx)
{
	return load_relaxed(&ctx->caller) == (uintptr_t)pthread_self();
}

void work_add(struct mirror_ctx *ctx, struct work *work, void (*run)(struct work *work));
/* When this returns it does not run and will not.  Not from itself or a callback. */
void work_remove(struct work *work);
/* The next mirror_dispatch() or mirror_wait() runs it at its end. */
void work_due(struct work *work);

/* table.c */
/* The older ones too. */
struct table_map *table_unmap(struct table_map *map);

/* slot.c */
int slot_take(struct mirror_ctx *ctx, struct mirror_notifier *notifier, uint64_t *ret_cookie);
void slot_drop(struct mirror_ctx *ctx, uint64_t cookie);
struct mirror_notifier *slot_find(struct mirror_ctx *ctx, uint64_t cookie);

/* notifier.c */
/* Frees a removed notifier that is in no callback any more.  Under ctx->lock. */
void notifier_put(struct mirror_notifier *notifier);

/* gate.c */
/* mirror_read_begin() without its last step, arming. */
int lookup_begin(struct mirror_notifier *notifier, uint64_t start, uint64_t end,
		 uint64_t *ret_version);
/* The version of part of a range, if that of the whole is found good afterwards. */
uint64_t lookup_sum(const struct mirror_notifier *notifier, uint64_t start, uint64_t end);
/* mirror_read_retry() without the probe: is everything the daemon knows counted? */
bool lookup_moved(struct mirror_notifier *notifier, uint64_t start, uint64_t end,
		  uint64_t version);

/* fault-remote.c */
struct pagescan;
/*
 * What to look into the target with; *@scan borrows descriptors of the target's.
 * -EPERM: we may not; -ESRCH.
 */
int fault_open(struct mirror_target *target, struct pagescan *scan);
/*
 * Faults pages in without changing them, as far as it goes: the result is to be
 * looked at.  Negative if it is no use to try again: -EPERM, -ESRCH, -ENOMEM.
 */
int fault_remote(struct mirror_target *target, pid_t pid, uint64_t start, uint64_t end,
		 bool write);
/* Is there a device behind that page, and none of memory's? */
bool fault_is_device(pid_t pid, uint64_t address);

/* arm.c */
int arm_range(struct mirror_target *target, uint64_t start, uint64_t end);
/* Everything that is mapped now; what cannot be watched is skipped. */
int arm_everything(struct mirror_target *target);
/* What was just mapped.  Callable from anywhere, signal handlers included. */
void arm_new(struct mirror_target *target, uint64_t start, uint64_t end);

/* lifeline.c */
int lifeline_start(struct mirror_target *target);
void lifeline_stop(struct mirror_target *target);
/* Nothing is watched by @fd afterwards, and nobody waits for it to be read. */
void lifeline_empty(int fd);
/* The userfaultfd to use until uffd_leave(), or -1: then do not call that. */
int uffd_enter(struct mirror_target *target);
void uffd_leave(struct mirror_target *target);

DEFINE_CLEANUP(struct mirror_ctx *, mirror_ctx_unref)
DEFINE_CLEANUP(struct mirror_target *, mirror_target_unref)
