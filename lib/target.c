/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Targets
 *
 * A daemon's target has one id, and detaching from it concerns all of a client's
 * notifiers there.  A context can attach to one process twice, so only the last
 * object with an id detaches; ctx->lock is held around both, lest an attach slips
 * in between.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include "uffd.h"
#include "mirror-private.h"

/* Since 6.5; the C library's headers may be older. */
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define ATTACH_KNOWN (MIRROR_ATTACH_PENDING | MIRROR_ATTACH_ARM_ALL | MIRROR_ATTACH_STRICT)

/* The last of this context with its id? */
static bool is_last(struct mirror_target *target)
{
	list_for_each(l, &target->ctx->targets) {
		struct mirror_target *other = list_entry(l, struct mirror_target, link);

		if (other != target && other->info.target == target->info.target)
			return false;
	}
	return true;
}

static void detach(struct mirror_target *target)
{
	struct mirror_detach detach = {
		.size = sizeof(detach), .target = target->info.target,
	};

	pthread_mutex_lock(&target->ctx->lock);
	if (is_last(target))
		ctx_request(target->ctx, MIRROR_OP_DETACH, &detach, NULL, 0, NULL);
	list_unlink(&target->link);
	pthread_mutex_unlock(&target->ctx->lock);
}

static struct mirror_target *target_free(struct mirror_target *target)
{
	struct mirror_ctx *ctx = target->ctx;
	bool forked = ctx_forked(ctx);

	if (!forked)
		lifeline_stop(target);
	if (!guard_remove(&target->guard, forked))
		return NULL;
	for (unsigned int i = 0; i < _TARGET_FD_N; i++)
		fd_close(target->fds[i]);
	if (!forked && target->attached)
		detach(target);
	gate_unmap(&target->gate);
	if (target->nowhere)
		munmap(target->nowhere, PAGE_BYTES);
	table_unmap(target->tables);
	free(target);
	mirror_ctx_unref(ctx);
	return NULL;
}

static int target_new(struct mirror_target **ret_target, struct mirror_ctx *ctx)
{
	struct mirror_target *target;

	target = calloc(1, sizeof(*target));
	if (!target)
		return -ENOMEM;
	target->n_refs = 1;
	target->ctx = mirror_ctx_ref(ctx);
	list_init(&target->link);
	list_init(&target->guard.link);
	for (unsigned int i = 0; i < _TARGET_FD_N; i++)
		target->fds[i] = -1;
	guard_add(&target->guard, target->fds, _TARGET_FD_N);
	*ret_target = target;
	return 0;
}

/* What a lookup by this target is worth, from what the daemon says. */
static unsigned int guarantee_of(const struct mirror_target *target, unsigned int type)
{
	unsigned int guarantee = target->info.guarantee[type];

	return target->strict && guarantee == MIRROR_GUARANTEE_ORDERED ?
	       MIRROR_GUARANTEE_STRICT : guarantee;
}

static int read_opts(struct mirror_attach_opts *opts, const struct mirror_attach_opts *user)
{
	int r;

	*opts = (struct mirror_attach_opts) MIRROR_ATTACH_OPTS_INIT;
	if (!user)
		return 0;
	r = opts_read(opts, sizeof(*opts), user, user->sz);
	if (r < 0)
		return r;
	return opts->flags & ~(uint32_t)ATTACH_KNOWN || opts->__reserved ? -E2BIG : 0;
}

/* A request that has not been answered is the same again. */
static struct mirror_attach make_request(const struct mirror_target *target,
					 const struct mirror_attach_opts *opts, uint32_t flags)
{
	struct mirror_attach attach = {
		.size = sizeof(attach),
		.flags = flags,
		.lifeline_tid = (uint32_t)target->lifeline.tid,
		.want = opts->want,
	};

	if (opts->flags & MIRROR_ATTACH_PENDING)
		attach.flags |= MIRROR_ATTACH_F_PENDING;
	if (opts->flags & MIRROR_ATTACH_ARM_ALL)
		attach.flags |= MIRROR_ATTACH_F_ARM_ALL;
	memcpy(attach.demand, opts->demand, sizeof(attach.demand));
	for (unsigned int i = 0; target->strict && i < ARRAY_SIZE(attach.demand); i++)
		/* the probe does the rest */
		if (attach.demand[i] == MIRROR_GUARANTEE_STRICT)
			attach.demand[i] = MIRROR_GUARANTEE_ORDERED;
	return attach;
}

/*
 * The one that the process is observed by.  If it is not ours, because another
 * thread was quicker, then ours goes: in one step, as the lifeline may use it.
 */
static void take_uffd(struct mirror_target *target, struct packet *reply)
{
	if (target->fds[TARGET_FD_UFFD] < 0)
		store_relaxed(&target->fds[TARGET_FD_UFFD],
			      fd_hide(target->ctx, TAKE_FD(reply->fds[1])));
	else
		dup3(reply->fds[1], target->fds[TARGET_FD_UFFD], O_CLOEXEC);
}

/* Takes what the reply brought.  Under ctx->lock. */
static int take_reply(struct mirror_target *target, const struct mirror_attach_opts *opts,
		      const struct mirror_attach *attach, struct packet *reply)
{
	bool with_uffd = attach->flags & MIRROR_ATTACH_F_UFFD;
	int r;

	target->info = *attach;
	target->attached = true;
	list_append(&target->ctx->targets, &target->link);
	if (reply->n_fds != 1U + with_uffd)
		return -EPROTO;
	if (with_uffd)
		take_uffd(target, reply);
	r = gate_map(&target->gate, reply->fds[0], attach->target);
	if (r < 0)
		return r;
	if (target->strict && !(attach->features & MIRROR_FEAT_PROBE))
		return -EOPNOTSUPP;
	for (unsigned int i = 0; i < ARRAY_SIZE(opts->demand); i++)
		if (opts->demand[i] > guarantee_of(target, i))
			return -EOPNOTSUPP;
	return 0;
}

static int attach(struct mirror_target *target, const struct mirror_attach_opts *opts,
		  uint32_t flags, int pidfd, int uffd)
{
	uint32_t with_uffd = uffd >= 0 ? MIRROR_ATTACH_F_UFFD : 0;
	struct mirror_attach attach = make_request(target, opts, flags | with_uffd);
	struct packet reply = PACKET_NULL;
	int fds[] = { pidfd, uffd };
	int r;

	r = ctx_request(target->ctx, MIRROR_OP_ATTACH, &attach, fds, with_uffd ? 2 : 1, &reply);
	if (r < 0)
		return r;
	r = take_reply(target, opts, &attach, &reply);
	packet_clear(&reply);
	return r;
}

/*
 * A userfaultfd to hand over.  One that a daemon has died with may be watching memory
 * already: it is emptied, and its number is used again, as the lifeline may use it.
 */
static int make_uffd(struct mirror_target *target)
{
	int fd, r, old = target->fds[TARGET_FD_UFFD];
	bool user_only;

	r = uffd_new(&fd, &user_only);
	if (r < 0)
		return r;
	if (old < 0) {
		store_relaxed(&target->fds[TARGET_FD_UFFD], fd_hide(target->ctx, fd));
		return 0;
	}
	lifeline_empty(old);
	r = dup3(fd, old, O_CLOEXEC) < 0 ? -errno : 0;
	fd_close(fd);
	return r;
}

/*
 * Perhaps the process is a target already, by another library in it.  That is asked
 * again when the daemon was restarted: it undoes an attach only if nobody else came.
 */
static int attach_self(struct mirror_target *target, const struct mirror_attach_opts *opts,
		       int pidfd)
{
	int r = -ERESTART;

	for (unsigned int i = 0; r == -ERESTART && i < RESTARTS; i++) {
		r = attach(target, opts, MIRROR_ATTACH_F_SELF, pidfd, -1);
		if (r != -ENODATA)
			return r;
		r = make_uffd(target);
		if (r == 0)
			r = attach(target, opts, MIRROR_ATTACH_F_SELF, pidfd,
				   target->fds[TARGET_FD_UFFD]);
	}
	return r;
}

/*
 * A pidfd of our own process.  Where pidfd_open() is not to be had, under valgrind for
 * one, the kernel makes one for a socket whose other end is ours, too.
 */
static int own_pidfd(void)
{
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0), pair[2], pidfd;
	socklen_t size = sizeof(pidfd);

	if (fd >= 0)
		return fd;
	fd = -errno;
	if (fd != -ENOSYS || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return fd;
	if (getsockopt(pair[0], SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size) == 0)
		fd = pidfd;
	fd_close(pair[0]);
	fd_close(pair[1]);
	return fd;
}

MIRROR_PUBLIC int mirror_target_attach_self(struct mirror_target **ret_target,
					    struct mirror_ctx *ctx,
					    const struct mirror_attach_opts *opts)
{
	_cleanup_(mirror_target_unrefp) struct mirror_target *target = NULL;
	_cleanup_(fd_closep) int pidfd = -1;
	struct mirror_attach_opts o;
	int r;

	r = ctx_check(ctx);
	if (r < 0)
		return r;
	r = read_opts(&o, opts);
	if (r < 0)
		return r;
	if (o.flags & MIRROR_ATTACH_PENDING)
		return -EINVAL;
	pidfd = own_pidfd();
	if (pidfd < 0)
		return pidfd;
	r = target_new(&target, ctx);
	if (r < 0)
		return r;
	target->strict = o.flags & MIRROR_ATTACH_STRICT;
	/* not having it is no error: the daemon can look mappings up as well */
	target->fds[TARGET_FD_MAPS] = fd_hide(ctx, open("/proc/self/maps",
							O_RDONLY | O_CLOEXEC));
	r = lifeline_start(target);
	if (r < 0)
		return r;
	pthread_mutex_lock(&ctx->lock);
	r = attach_self(target, &o, pidfd);
	pthread_mutex_unlock(&ctx->lock);
	if (r < 0)
		return r;
	/* Release: pairs with the lifeline's acquire; the gate is mapped. */
	store_release(&target->lifeline.head, target->gate.head);
	*ret_target = TAKE_PTR(target);
	return 0;
}

MIRROR_PUBLIC int mirror_target_attach(struct mirror_target **ret_target, struct mirror_ctx *ctx,
				       int pidfd, int uffd, const struct mirror_attach_opts *opts)
{
	_cleanup_(mirror_target_unrefp) struct mirror_target *target = NULL;
	struct mirror_attach_opts o;
	int r;

	r = ctx_check(ctx);
	if (r < 0)
		return r;
	r = read_opts(&o, opts);
	if (r < 0)
		return r;
	if (o.flags & MIRROR_ATTACH_STRICT)	/* a probe works in its own process only */
		return -EOPNOTSUPP;
	if (pidfd < 0 || (uffd >= 0 && o.flags & MIRROR_ATTACH_PENDING))
		return -EINVAL;
	r = target_new(&target, ctx);
	if (r < 0)
		return r;
	pthread_mutex_lock(&ctx->lock);
	r = attach(target, &o, 0, pidfd, uffd);
	pthread_mutex_unlock(&ctx->lock);
	if (r < 0)
		return r;
	*ret_target = TAKE_PTR(target);
	return 0;
}

MIRROR_PUBLIC struct mirror_target *mirror_target_ref(struct mirror_target *target)
{
	__atomic_fetch_add(&target->n_refs, 1, __ATOMIC_RELAXED);
	return target;
}

MIRROR_PUBLIC struct mirror_target *mirror_target_unref(struct mirror_target *target)
{
	if (target && __atomic_sub_fetch(&target->n_refs, 1, __ATOMIC_ACQ_REL) == 0)
		target_free(target);
	return NULL;
}

MIRROR_PUBLIC uint32_t mirror_target_get_id(struct mirror_target *target)
{
	return target->info.target;
}

MIRROR_PUBLIC pid_t mirror_target_get_pid(struct mirror_target *target)
{
	return target->info.pid;
}

MIRROR_PUBLIC uint64_t mirror_target_get_features(struct mirror_target *target)
{
	return target->info.features;
}

MIRROR_PUBLIC int mirror_target_get_guarantee(struct mirror_target *target, unsigned int type)
{
	return type < MIRROR_EVENT_TYPES ? (int)guarantee_of(target, type) : -EINVAL;
}
