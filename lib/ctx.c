/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Context: one connection to mirrord, one ring
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include "mirror-private.h"

#define HIDDEN_FD 700	/* below the usual limit of 1024 */
#define OPENINGS 5
#define OPEN_KNOWN (MIRROR_OPEN_EMBEDDED | MIRROR_OPEN_NO_EMBEDDED | MIRROR_OPEN_NO_RING)

static struct mirror_ctx *ctx_free(struct mirror_ctx *ctx)
{
	bool forked = ctx->here && ctx_forked(ctx);

	if (!guard_remove(&ctx->guard, forked))
		return NULL;
	for (unsigned int i = 0; i < _CTX_FD_N; i++)
		fd_close(ctx->fds[i]);
	ring_unmap(&ctx->ring);
	fork_word_free(ctx->here);
	if (!forked) {	/* a lock may be held by a thread that this process lacks */
		pthread_mutex_destroy(&ctx->lock);
		pthread_mutex_destroy(&ctx->request_lock);
		pthread_mutex_destroy(&ctx->work_lock);
		pthread_cond_destroy(&ctx->work_done);
	}
	free(ctx->slots);
	free(ctx);
	return NULL;
}

static int ctx_new(struct mirror_ctx **ret_ctx)
{
	_cleanup_(mirror_ctx_unrefp) struct mirror_ctx *ctx = NULL;
	pthread_mutexattr_t attr;
	int r;

	r = fork_init();
	if (r < 0)
		return r;
	ctx = calloc(1, sizeof(*ctx));
	if (!ctx)
		return -ENOMEM;
	ctx->n_refs = 1;
	list_init(&ctx->targets);
	list_init(&ctx->works);
	list_init(&ctx->guard.link);
	for (unsigned int i = 0; i < _CTX_FD_N; i++)
		ctx->fds[i] = -1;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&ctx->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_mutex_init(&ctx->request_lock, NULL);
	pthread_mutex_init(&ctx->work_lock, NULL);
	pthread_cond_init(&ctx->work_done, NULL);
	r = fork_word_new(&ctx->here);
	if (r < 0)
		return r;
	guard_add(&ctx->guard, ctx->fds, _CTX_FD_N);
	*ret_ctx = TAKE_PTR(ctx);
	return 0;
}

int fd_hide(const struct mirror_ctx *ctx, int fd)
{
	int high;

	if (!ctx->discreet || fd < 0)
		return fd;
	high = fcntl(fd, F_DUPFD_CLOEXEC, HIDDEN_FD);
	if (high < 0)	/* a low limit: better seen than not there */
		return fd;
	fd_close(fd);
	return high;
}

static int ctx_hello(struct mirror_ctx *ctx)
{
	int r;

	ctx->info.size = sizeof(ctx->info);
	r = ctx_request(ctx, MIRROR_OP_INFO, &ctx->info, NULL, 0, NULL);
	if (r == -ENOTTY || r == -EBADMSG)
		return -EPROTO;
	if (r < 0)
		return r;
	if (ctx->info.uapi_version != MIRROR_UAPI_VERSION)
		return -EPROTO;
	/* Where Yama restricts ptrace, our own child must be let in by name. */
	if (ctx->embedded)
		prctl(PR_SET_PTRACER, (unsigned long)ctx->info.pid, 0, 0, 0);
	return 0;
}

static int watch(int epoll_fd, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = fd };

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int ctx_make_ring(struct mirror_ctx *ctx, const struct mirror_open_opts *opts)
{
	struct mirror_channel channel = {
		.size = sizeof(channel),
		.entries = opts->ring_entries,
		.numa_node = opts->numa_node,
	};
	struct packet reply = PACKET_NULL;
	int r;

	r = ctx_request(ctx, MIRROR_OP_CHANNEL, &channel, NULL, 0, &reply);
	if (r < 0)
		return r;
	r = reply.n_fds == 4 ? ring_map(&ctx->ring, reply.fds[0], reply.fds[1]) : -EPROTO;
	if (r == 0) {
		ctx->fds[CTX_FD_WAKE] = TAKE_FD(reply.fds[2]);
		ctx->fds[CTX_FD_KICK] = TAKE_FD(reply.fds[3]);
	}
	packet_clear(&reply);
	if (r < 0)
		return r;
	ctx->fds[CTX_FD_POLL] = epoll_create1(EPOLL_CLOEXEC);
	if (ctx->fds[CTX_FD_POLL] < 0)
		return -errno;
	r = watch(ctx->fds[CTX_FD_POLL], ctx->fds[CTX_FD_WAKE], EPOLLIN | EPOLLRDHUP);
	if (r < 0)
		return r;
	return watch(ctx->fds[CTX_FD_POLL], ctx->fds[CTX_FD_SOCKET], EPOLLRDHUP);
}

/* -EPIPE: somebody was there, and hung up before we were served. */
static int open_once(struct mirror_ctx **ret_ctx, const struct mirror_open_opts *o,
		     unsigned int timeout_ms)
{
	_cleanup_(mirror_ctx_unrefp) struct mirror_ctx *ctx = NULL;
	int r;

	r = ctx_new(&ctx);
	if (r < 0)
		return r;
	ctx->discreet = timeout_ms > 0;
	r = ctx_connect(ctx, o, timeout_ms);
	if (r < 0)
		return r;
	ctx->fds[CTX_FD_SOCKET] = fd_hide(ctx, ctx->fds[CTX_FD_SOCKET]);
	r = ctx_hello(ctx);
	if (r == 0 && !(o->flags & MIRROR_OPEN_NO_RING))
		r = ctx_make_ring(ctx, o);
	if (r == -EPIPE && ctx->embedded)
		return -ECONNREFUSED;
	if (r < 0)
		return r;
	*ret_ctx = TAKE_PTR(ctx);
	return 0;
}

int ctx_open(struct mirror_ctx **ret_ctx, const struct mirror_open_opts *opts,
	     unsigned int timeout_ms)
{
	struct mirror_open_opts o = MIRROR_OPEN_OPTS_INIT;
	int r;

	r = opts ? opts_read(&o, sizeof(o), opts, opts->sz) : 0;
	if (r < 0)
		return r;
	if (o.flags & ~(uint32_t)OPEN_KNOWN || o.__reserved)
		return -E2BIG;
	if (o.flags & MIRROR_OPEN_EMBEDDED && o.flags & MIRROR_OPEN_NO_EMBEDDED)
		return -EINVAL;
	/* One that is killed just then has not yet said who its clients are: ask the next. */
	for (unsigned int i = 0; i < OPENINGS; i++) {
		r = open_once(ret_ctx, &o, timeout_ms);
		if (r != -EPIPE)
			return r;
	}
	return -ECONNREFUSED;
}

MIRROR_PUBLIC int mirror_open(struct mirror_ctx **ret_ctx, const struct mirror_open_opts *opts)
{
	return ctx_open(ret_ctx, opts, 0);
}

MIRROR_PUBLIC struct mirror_ctx *mirror_ctx_ref(struct mirror_ctx *ctx)
{
	__atomic_fetch_add(&ctx->n_refs, 1, __ATOMIC_RELAXED);
	return ctx;
}

MIRROR_PUBLIC struct mirror_ctx *mirror_ctx_unref(struct mirror_ctx *ctx)
{
	/* acq_rel: what every holder did to the object comes before its end */
	if (ctx && __atomic_sub_fetch(&ctx->n_refs, 1, __ATOMIC_ACQ_REL) == 0)
		ctx_free(ctx);
	return NULL;
}

void ctx_set_dead(struct mirror_ctx *ctx)
{
	store_relaxed(ctx->here, HERE_DEAD);
}

bool ctx_daemon_is_gone(struct mirror_ctx *ctx)
{
	/* the wake socket too: of the others the daemon's end may close a little late */
	struct pollfd pollfds[] = {
		{ .fd = ctx->fds[CTX_FD_SOCKET], .events = POLLRDHUP },
		{ .fd = ctx->fds[CTX_FD_WAKE], .events = POLLRDHUP },
	};

	if (ring_is_mapped(&ctx->ring) && ring_flags(&ctx->ring) & MIRROR_RING_F_REVOKED)
		ctx_set_dead(ctx);
	else if (poll(pollfds, ARRAY_SIZE(pollfds), 0) > 0)
		ctx_set_dead(ctx);
	return ctx_is_dead(ctx);
}

MIRROR_PUBLIC int mirror_ctx_is_embedded(struct mirror_ctx *ctx)
{
	return ctx->embedded;
}

MIRROR_PUBLIC uint64_t mirror_ctx_get_features(struct mirror_ctx *ctx)
{
	return ctx->info.features;
}

MIRROR_PUBLIC int mirror_ctx_get_fd(struct mirror_ctx *ctx)
{
	if (ctx_forked(ctx))
		return -ECHILD;
	return ring_is_mapped(&ctx->ring) ? ctx->fds[CTX_FD_POLL] : -ENOTCONN;
}

MIRROR_PUBLIC int mirror_ctx_get_stats(struct mirror_ctx *ctx, struct mirror_ctx_stats *ret_stats)
{
	const struct counters *c = &ctx->counters;
	struct mirror_ctx_stats stats = {
		.sz = sizeof(stats),
		.records = load_relaxed(&c->records),
		.lost = load_relaxed(&c->lost),
		.overflows = load_relaxed(&c->overflows),
		.lookups_begun = load_relaxed(&c->lookups_begun),
		.lookups_waited = load_relaxed(&c->lookups_waited),
		.retries = load_relaxed(&c->retries),
		.armed = load_relaxed(&c->armed),
		.sleeps = load_relaxed(&c->sleeps),
	};

	return opts_write(ret_stats, ret_stats->sz, &stats, sizeof(stats), sizeof(stats.sz));
}
