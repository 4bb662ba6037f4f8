/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef MIRROR_MIRROR_H
#define MIRROR_MIRROR_H

/*
 * Mirror: keep a secondary MMU in step with a process
 *
 *	ctx       one connection to mirrord, one ring
 *	target    one process whose address space is observed
 *	notifier  one range of one target, with an invalidate callback
 *
 * The shape is that of mmu_interval_notifier.  A consumer fills its device page
 * table in a collision-retry loop, and empties it from the callback, both under
 * one lock of its own:
 *
 *	again:
 *		r = mirror_read_begin(n, start, end, &version);
 *		if (r < 0)
 *			return r;
 *		resolve(start, end);
 *		lock();
 *		if (mirror_read_retry(n, start, end, version)) {
 *			unlock();
 *			goto again;
 *		}
 *		entry->version = version;
 *		device_map(start, end);
 *		unlock();
 *
 * A translation made like this is good for as long as mirror_read_retry() with
 * its range and version returns 0: two loads of shared memory, no system call.
 * When it returns 1, something may have changed: call mirror_read_begin(), which
 * first runs the callbacks of everything that did.  An entry that no callback
 * touched is still good, with the version just returned.
 *
 * How strong "good" is, is the target's guarantee, see
 * mirror_target_get_guarantee(), and can be demanded when attaching.
 *
 * When mirrord dies, nothing is good any more, at once.  Every call says -EPIPE then,
 * and it is over; unless a service manager keeps mirrord's descriptors for the one that
 * it starts next (MIRROR_INFO_KEPT).  In that case mirrord is only away.  Meanwhile
 *
 *	mirror_read_retry()	returns 1
 *	mirror_read_begin()	waits, for a second at most; then -EAGAIN
 *	mirror_dispatch()	tells what was published before
 *	mirror_wait()		sleeps on
 *	who asks mirrord	waits; what it had begun to do, it is asked again
 *	who changes memory	waits: nothing goes unnoticed
 *
 * and when the next one is there, all goes on.  No version from before is good then;
 * an entry that no callback touched still is, with a new one, as after any change.
 * Callbacks hear of it only if something may have been lost, by an OVERFLOW event.
 */

#include <mirror/common.h>
#include <mirror/event.h>
#include <mirror/uapi/ioctl.h>

MIRROR_BEGIN_DECLS

struct mirror_ctx;
struct mirror_target;
struct mirror_notifier;

/* ---- context ---- */

/* mirror_open_opts.flags */
#define MIRROR_OPEN_EMBEDDED	0x1 /* always start a private daemon */
#define MIRROR_OPEN_NO_EMBEDDED	0x2 /* never start one */
#define MIRROR_OPEN_NO_RING	0x4 /* this context will not watch anything */

/**
 * struct mirror_open_opts - options of mirror_open()
 * @sz: size of this struct
 * @path: socket or device of mirrord; NULL to look for it, see mirror_open(3)
 * @flags: MIRROR_OPEN_*
 * @ring_entries: records the ring holds, rounded up to a power of two; 0 for the
 *	daemon's default
 * @numa_node: 1 + node the ring's memory should be on, 0 for no preference
 * @__reserved: must be 0
 */
struct mirror_open_opts {
	size_t		sz;
	const char	*path;
	uint32_t	flags;
	uint32_t	ring_entries;
	uint32_t	numa_node;
	uint32_t	__reserved;
};

#define MIRROR_OPEN_OPTS_INIT { sizeof(struct mirror_open_opts), NULL, 0, 0, 0, 0 }

/**
 * mirror_open() - connect to mirrord, or start a private one
 * @ret_ctx: new context, the caller's
 * @opts: options, or NULL
 *
 * When no daemon can be reached and @opts does not forbid it, or when
 * $MIRROR_EMBEDDED is 1, a private daemon is started as a child of this process;
 * it ends with the context.  It needs no privileges, and then cannot do all that
 * a privileged one can: see mirror_ctx_get_features().
 *
 * Return: 0; -ENOENT or -ECONNREFUSED if mirrord does not run and none may be or
 * could be started; -EACCES; -EPROTO if the peer does not speak this protocol;
 * -E2BIG for options of a newer library; -EINVAL; -ENOSYS if io_uring or
 * userfaultfd is missing; -EDQUOT; -ENOMEM; -EMFILE.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_open(struct mirror_ctx **ret_ctx, const struct mirror_open_opts *opts);

/** mirror_ctx_ref() - take a reference.  Return: @ctx.  Since 0.1. */
struct mirror_ctx *mirror_ctx_ref(struct mirror_ctx *ctx);

/**
 * mirror_ctx_unref() - drop a reference
 * @ctx: context or NULL
 *
 * The last one disconnects.  Targets and notifiers hold references themselves.
 *
 * Return: NULL.  Since 0.1.
 */
struct mirror_ctx *mirror_ctx_unref(struct mirror_ctx *ctx);

/** mirror_ctx_is_embedded() - is its daemon private?  Return: 0 or 1.  Since 0.1. */
int mirror_ctx_is_embedded(struct mirror_ctx *ctx);

/**
 * mirror_ctx_get_info() - what the daemon is and can do
 * @ctx: context
 * @ret_info: information; @ret_info->size must be set by the caller
 *
 * Return: 0; -E2BIG; -EPIPE if the daemon is gone; -ECHILD.  Since 0.1.
 */
int mirror_ctx_get_info(struct mirror_ctx *ctx, struct mirror_info *ret_info);

/**
 * mirror_ctx_get_features() - what the daemon can deliver on this kernel
 *
 * Return: MIRROR_FEAT_*.  Since 0.1.
 */
uint64_t mirror_ctx_get_features(struct mirror_ctx *ctx);

/**
 * mirror_ctx_get_fd() - file descriptor to poll for POLLIN
 * @ctx: context
 *
 * Readable when there may be records, or when the daemon is gone, but not when it is
 * only away.  Only armed by mirror_prepare_wait().
 *
 * Return: a descriptor owned by @ctx; -ENOTCONN for a context without a ring.
 * Since 0.1.
 */
int mirror_ctx_get_fd(struct mirror_ctx *ctx);

/**
 * mirror_prepare_wait() - announce that the caller is about to poll
 * @ctx: context
 *
 * Return: 0 if it is safe to sleep until mirror_ctx_get_fd() is readable; 1 if
 * there are records already; -EPIPE if the daemon is gone; -ENOTCONN for a context
 * without a ring; -ECHILD.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_prepare_wait(struct mirror_ctx *ctx);

/**
 * mirror_dispatch() - run the callbacks of all published records
 * @ctx: context
 *
 * Never waits for the daemon.  Waits for another thread that is dispatching.
 *
 * The target's system call may return a moment before the record of its change is
 * published, so a dispatch right after it may miss the record.  Who must have it
 * calls mirror_read_begin(), which waits for it and dispatches.
 *
 * Return: number of records handled, 0 also while the daemon is away; -EPIPE when it is
 * gone, and then every notifier has been told, once, by an OVERFLOW event; -ECHILD.
 * Since 0.1.
 */
int mirror_dispatch(struct mirror_ctx *ctx);

/**
 * mirror_wait() - wait for records and dispatch them
 * @ctx: context
 * @timeout_ms: as for poll(2): -1 waits for ever, 0 not at all
 *
 * Return: as mirror_dispatch(); 0 after the timeout; -EINTR; -ENOTCONN for a
 * context without a ring.  Since 0.1.
 */
int mirror_wait(struct mirror_ctx *ctx, int timeout_ms);

/**
 * struct mirror_ctx_stats - counters of a context
 * @sz: size of this struct
 * @records: records received
 * @lost: records lost to overflow
 * @overflows: OVERFLOW records received
 * @lookups_begun: calls of mirror_read_begin()
 * @lookups_waited: of these, had to wait for a change in flight
 * @retries: calls of mirror_read_retry() that returned 1
 * @armed: mappings registered by this process
 * @sleeps: times the consumer announced that it sleeps
 */
struct mirror_ctx_stats {
	size_t		sz;
	uint64_t	records;
	uint64_t	lost;
	uint64_t	overflows;
	uint64_t	lookups_begun;
	uint64_t	lookups_waited;
	uint64_t	retries;
	uint64_t	armed;
	uint64_t	sleeps;
};

/**
 * mirror_ctx_get_stats() - read the counters
 * @ctx: context
 * @ret_stats: counters; @ret_stats->sz must be set by the caller
 *
 * Return: 0 or -E2BIG.  Since 0.1.
 */
int mirror_ctx_get_stats(struct mirror_ctx *ctx, struct mirror_ctx_stats *ret_stats);

/**
 * mirror_query_consumer() - what the daemon knows of a consumer of a target
 * @ctx: context
 * @id: id of the target
 * @index: 0 for the first, and so on
 * @ret_info: information; @ret_info->size must be set by the caller
 *
 * Return: 0; -ESRCH behind the last one; -E2BIG; -EPIPE; -ECHILD.  Since 0.1.
 */
int mirror_query_consumer(struct mirror_ctx *ctx, uint32_t id, uint32_t index,
			  struct mirror_consumer_info *ret_info);

/**
 * mirror_daemon_get_stats() - read the daemon's counters
 * @ctx: context
 * @ret_stats: counters; @ret_stats->size must be set by the caller
 *
 * Return: 0; -E2BIG; -EPIPE; -ECHILD.  Since 0.1.
 */
int mirror_daemon_get_stats(struct mirror_ctx *ctx, struct mirror_stats *ret_stats);

/**
 * mirror_query_target() - what the daemon knows of a target
 * @ctx: context
 * @id: id of the target
 * @next: if not 0, take the first target with an id >= @id
 * @ret_info: information; @ret_info->size must be set by the caller
 *
 * List all targets by calling with @next until it returns -ESRCH, each time with
 * the id just returned plus 1.  Only targets that the caller may observe show.
 *
 * Return: 0; -ESRCH; -E2BIG; -EPIPE; -ECHILD.  Since 0.1.
 */
int mirror_query_target(struct mirror_ctx *ctx, uint32_t id, int next,
			struct mirror_target_info *ret_info);

/* ---- target ---- */

/* mirror_attach_opts.flags */
#define MIRROR_ATTACH_PENDING	0x1 /* the process will attach itself later */
#define MIRROR_ATTACH_ARM_ALL	0x2 /* watch every mapping, look for new ones */
#define MIRROR_ATTACH_STRICT	0x4 /* lookups probe: 0.2 us each, STRICT */

/**
 * struct mirror_attach_opts - options of attaching
 * @sz: size of this struct
 * @flags: MIRROR_ATTACH_*
 * @want: MIRROR_FEAT_* without which attaching is pointless
 * @demand: by event type, the &enum mirror_guarantee without which attaching is
 *	pointless; 0 for none
 */
struct mirror_attach_opts {
	size_t		sz;
	uint32_t	flags;
	uint32_t	__reserved;
	uint64_t	want;
	uint8_t		demand[16];
};

#define MIRROR_ATTACH_OPTS_INIT { sizeof(struct mirror_attach_opts), 0, 0, 0, { 0 } }

/**
 * mirror_target_attach_self() - observe the calling process
 * @ret_target: new target, the caller's
 * @ctx: context
 * @opts: options, or NULL
 *
 * Makes a userfaultfd, hands it over, and starts a lifeline thread, which lets
 * the process go on should the daemon die.  If the process is a target already
 * (of another library, or by the preload object), it is shared.
 *
 * Return: 0; -EOPNOTSUPP if @opts demands what cannot be had; -EPERM if
 * userfaultfd is forbidden; -EDQUOT; -EPIPE; -ECHILD; -E2BIG; -EINVAL; -ENOMEM;
 * -EMFILE.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_target_attach_self(struct mirror_target **ret_target, struct mirror_ctx *ctx,
			      const struct mirror_attach_opts *opts);

/**
 * mirror_target_attach() - observe another process
 * @ret_target: new target, the caller's
 * @ctx: context
 * @pidfd: the process; not consumed
 * @uffd: a userfaultfd made in that process, or -1 if it is a target already or,
 *	with MIRROR_ATTACH_PENDING, will be; not consumed
 * @opts: options, or NULL
 *
 * A @uffd must be non-blocking, and UFFDIO_API must not have been called on it.
 * The process must close its own copy, or read from it when the daemon dies: a
 * thread that is blocked on an event is not let go as long as any copy lives.
 *
 * A daemon that is restarted in the middle has begun to use @uffd, and it cannot be used
 * again: -ERESTART says so.  Ask again, with a new one.
 *
 * Return: as mirror_target_attach_self(); -ESRCH if the process is gone; -EPERM
 * if it is not yours; -ENODATA if it is not a target and no @uffd was given;
 * -EEXIST if one was given and it has one already.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_target_attach(struct mirror_target **ret_target, struct mirror_ctx *ctx,
			 int pidfd, int uffd, const struct mirror_attach_opts *opts);

/** mirror_target_ref() - take a reference.  Return: @target.  Since 0.1. */
struct mirror_target *mirror_target_ref(struct mirror_target *target);

/**
 * mirror_target_unref() - drop a reference
 * @target: target or NULL
 *
 * The last one detaches.  Notifiers hold references themselves.
 *
 * Return: NULL.  Since 0.1.
 */
struct mirror_target *mirror_target_unref(struct mirror_target *target);

/** mirror_target_get_id() - its id, as in &mirror_event.target.  Since 0.1. */
uint32_t mirror_target_get_id(struct mirror_target *target);

/** mirror_target_get_pid() - its process.  Since 0.1. */
pid_t mirror_target_get_pid(struct mirror_target *target);

/** mirror_target_get_features() - MIRROR_FEAT_* of this target.  Since 0.1. */
uint64_t mirror_target_get_features(struct mirror_target *target);

/**
 * mirror_target_get_guarantee() - how early changes of this kind are known
 * @target: target
 * @type: one of &enum mirror_event_type
 *
 * Return: one of &enum mirror_guarantee; -EINVAL for an unknown type.  Since 0.1.
 */
int mirror_target_get_guarantee(struct mirror_target *target, unsigned int type);

/**
 * mirror_target_arm() - have the mappings of a range watched, now
 * @target: target
 * @start: first byte, page aligned
 * @end: first byte after the range, page aligned
 *
 * Mappings made after a notifier was inserted are not watched before they are
 * armed.  mirror_read_begin() arms what it is asked about, so this is needed only
 * by who wants events without lookups.
 *
 * Return: 0; -EFAULT if part of the range is not mapped; -EOPNOTSUPP if the
 * kernel does not let anybody watch a mapping in it; -EBUSY if somebody else's
 * userfaultfd has it; -ESRCH; -EPIPE; -ECHILD; -EINVAL.  Since 0.1.
 */
int mirror_target_arm(struct mirror_target *target, uint64_t start, uint64_t end);

/* ---- notifier ---- */

/* mirror_notifier_ops.flags */
#define MIRROR_NOTIFIER_END		0x1 /* tell END too, not only START */
#define MIRROR_NOTIFIER_FOLLOW_FORK	0x2 /* watch children of the target as well */
#define MIRROR_NOTIFIER_FOLLOW_EXEC	0x4 /* go on after exec */
#define MIRROR_NOTIFIER_FILL		0x8 /* keep the mirror table of the range filled */

/**
 * struct mirror_notifier_ops - what a consumer does about a change
 * @sz: size of this struct
 * @flags: MIRROR_NOTIFIER_*
 * @invalidate: called for every record of this notifier.  When it returns, the
 *	device must not use any translation the event invalidates.
 *
 * Callbacks run inside mirror_dispatch(), mirror_wait() and mirror_read_begin(),
 * one at a time, in order.  They may remove any notifier, their own included,
 * and may change memory of the target.  They must not take a lock that is held
 * around a call of those functions.
 */
struct mirror_notifier_ops {
	size_t		sz;
	uint32_t	flags;
	uint32_t	__reserved;
	void		(*invalidate)(struct mirror_notifier *notifier,
				      const struct mirror_event *event, void *userdata);
};

/**
 * mirror_notifier_insert() - watch a range
 * @ret_notifier: new notifier
 * @target: target
 * @start: first byte to watch, page aligned
 * @end: first byte not to watch, page aligned
 * @ops: callback; copied
 * @userdata: passed to the callback
 *
 * The range may be unmapped, wholly or in part, and may overlap others.
 *
 * Return: 0; -EINVAL for an empty, unaligned or overflowing range, or no callback;
 * -ENOTCONN for a context without a ring; -ESRCH; -EDQUOT; -EPIPE; -ECHILD;
 * -E2BIG; -ENOMEM.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_notifier_insert(struct mirror_notifier **ret_notifier, struct mirror_target *target,
			   uint64_t start, uint64_t end,
			   const struct mirror_notifier_ops *ops, void *userdata);

/**
 * mirror_notifier_remove() - stop watching and free the notifier
 * @notifier: notifier or NULL
 *
 * When this returns no callback of @notifier runs or will run, unless it is
 * called from that very callback, which then is the last.
 *
 * Return: NULL.  Since 0.1.
 */
struct mirror_notifier *mirror_notifier_remove(struct mirror_notifier *notifier);

/** mirror_notifier_get_target() - its target, not referenced.  Since 0.1. */
struct mirror_target *mirror_notifier_get_target(struct mirror_notifier *notifier);

/** mirror_notifier_get_start() - first byte watched.  Since 0.1. */
uint64_t mirror_notifier_get_start(struct mirror_notifier *notifier);

/** mirror_notifier_get_end() - first byte not watched.  Since 0.1. */
uint64_t mirror_notifier_get_end(struct mirror_notifier *notifier);

/* ---- lookups ---- */

/**
 * mirror_read_begin() - begin to establish a translation
 * @notifier: notifier; [@start, @end) must lie in its range
 * @start: first byte, page aligned
 * @end: first byte after the range, page aligned
 * @ret_version: version to keep with the translation
 *
 * Waits until no change of the range is in flight, runs callbacks of what is in
 * the ring, and makes sure that what is mapped there now is watched.  Must not
 * be called under a lock that the callback takes.
 *
 * Return: 0; -EINVAL; -EFAULT if part of the range is not mapped; -EOPNOTSUPP if
 * the kernel does not let anybody watch it; -EBUSY if somebody else's userfaultfd
 * has it; -EAGAIN if a change did not end within a second, or the daemon was away for
 * as long; -ESRCH if the address space is gone; -EPIPE if the daemon is gone; -ECHILD.
 * Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_read_begin(struct mirror_notifier *notifier, uint64_t start, uint64_t end,
		      uint64_t *ret_version);

/**
 * mirror_read_retry() - may the translation not be used?
 * @notifier: notifier
 * @start: as for mirror_read_begin()
 * @end: as for mirror_read_begin()
 * @version: what mirror_read_begin() returned
 *
 * Takes no lock and makes no system call, except one ioctl(2) for a target that
 * was attached with MIRROR_ATTACH_STRICT.
 *
 * Return: 0 if the translation is good; 1 if it must not be used.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_read_retry(struct mirror_notifier *notifier, uint64_t start, uint64_t end,
		      uint64_t version);

MIRROR_END_DECLS

#endif /* MIRROR_MIRROR_H */
