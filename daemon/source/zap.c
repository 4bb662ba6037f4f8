/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "list.h"
#include "source/zap.h"

#define CHUNK 64
#define POOL_MAX 65664		/* a call has an event for each mapping, of 65530 */
#define WATCH_NS 1000000	/* between looks at threads that cannot be traced */
#define STOP_TRIES 5		/* looks at a thread that always runs, before it is stopped */

enum zap_state { ZAP_FREE, ZAP_SEIZED, ZAP_WAITING, ZAP_WATCHED };

struct zap {
	struct list link;	/* in pool.free, or in zaps.active */
	struct zap_pool *pool;
	enum zap_state state;
	struct source_sink *sink; /* NULL: nobody wants to know any more */
	struct event ev;	/* WAITING, WATCHED */
	struct peek_hit hit;
	pid_t pid;
	bool traced;		/* we are this thread's tracer */
	/* WATCHED, the acting thread not known: those that may be it */
	pid_t *suspects;
	size_t n_suspects;
	unsigned int tries;
};

struct zap_chunk {
	struct list link;	/* in pool.chunks */
	struct zap zaps[CHUNK];
};

struct zap_pool {
	struct list free;
	struct list chunks;	/* one, and more while they are needed */
	unsigned int n_free, n_zaps;
	bool orphan;		/* its target is gone; the last zap frees it */
};

struct zaps {
	struct loop *loop;
	struct loop_op timer;
	struct zap_counters *counters;
	struct list active;
};

int zaps_new(struct zaps **ret_zaps, struct loop *loop, struct zap_counters *counters)
{
	struct zaps *z;

	z = calloc(1, sizeof(*z));
	if (!z)
		return -ENOMEM;
	z->loop = loop;
	z->counters = counters;
	list_init(&z->active);
	*ret_zaps = z;
	return 0;
}

static int pool_grow(struct zap_pool *pool)
{
	struct zap_chunk *chunk;

	if (pool->n_zaps >= POOL_MAX)
		return -EDQUOT;
	chunk = calloc(1, sizeof(*chunk));
	if (!chunk)
		return -ENOMEM;
	for (unsigned int i = 0; i < CHUNK; i++) {
		chunk->zaps[i].pool = pool;
		list_append(&pool->free, &chunk->zaps[i].link);
	}
	list_append(&pool->chunks, &chunk->link);
	pool->n_free += CHUNK;
	pool->n_zaps += CHUNK;
	return 0;
}

/* Frees its newest chunk, of which no zap is in use. */
static void pool_shrink(struct zap_pool *pool)
{
	struct zap_chunk *chunk = list_entry(pool->chunks.prev, struct zap_chunk, link);

	for (unsigned int i = 0; i < CHUNK; i++)
		list_unlink(&chunk->zaps[i].link);
	list_unlink(&chunk->link);
	pool->n_free -= CHUNK;
	pool->n_zaps -= CHUNK;
	free(chunk);
}

static void pool_destroy(struct zap_pool *pool)
{
	while (!list_is_empty(&pool->chunks))
		pool_shrink(pool);
	free(pool);
}

int zap_pool_new(struct zap_pool **ret_pool)
{
	struct zap_pool *pool;

	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	list_init(&pool->free);
	list_init(&pool->chunks);
	if (pool_grow(pool) < 0) {
		free(pool);
		return -ENOMEM;
	}
	*ret_pool = pool;
	return 0;
}

bool zap_pool_has_room(struct zap_pool *pool)
{
	while (pool->n_free == pool->n_zaps && pool->n_zaps > CHUNK)
		pool_shrink(pool);
	return pool->n_free > PEEK_HITS || pool_grow(pool) == 0;
}

static struct zap *zap_get(struct zaps *z, struct zap_pool *pool, struct source_sink *sink,
			   pid_t pid, const struct peek_hit *hit)
{
	struct zap *zap;

	if (list_is_empty(&pool->free))
		return NULL;
	zap = list_entry(pool->free.next, struct zap, link);
	list_unlink(&zap->link);
	list_append(&z->active, &zap->link);
	pool->n_free--;
	zap->sink = sink;
	zap->pid = pid;
	zap->hit = *hit;
	zap->traced = false;
	zap->n_suspects = 0;
	zap->tries = 0;
	return zap;
}

static void zap_put(struct zaps *z, struct zap *zap)
{
	struct zap_pool *pool = zap->pool;

	if (zap->state == ZAP_WAITING || zap->state == ZAP_WATCHED)
		z->counters->pending--;
	free(zap->suspects);
	zap->suspects = NULL;
	zap->state = ZAP_FREE;
	list_unlink(&zap->link);
	list_append(&pool->free, &zap->link);
	pool->n_free++;
	if (pool->orphan && pool->n_free == pool->n_zaps)
		pool_destroy(pool);
}

struct zaps *zaps_free(struct zaps *z)
{
	if (!z)
		return NULL;
	/* Threads we still trace are let go by our exit; nobody waits for their stop. */
	list_for_each_safe(l, &z->active)
		zap_put(z, list_entry(l, struct zap, link));
	loop_stop(&z->timer);
	free(z);
	return NULL;
}

static struct zap *find_traced(struct zaps *z, pid_t tid)
{
	list_for_each(l, &z->active) {
		struct zap *zap = list_entry(l, struct zap, link);

		if (zap->traced && zap->hit.tid == tid)
			return zap;
	}
	return NULL;
}

void zap_prepare(struct zaps *z, struct zap_pool *pool, struct source_sink *sink, pid_t pid,
		 const struct peek_hit *hit)
{
	struct zap *zap;

	/* A call over several mappings sends several events; one stop ends them all. */
	if (find_traced(z, hit->tid))
		return;
	zap = zap_get(z, pool, sink, pid, hit);
	if (!zap)
		return;
	zap->state = ZAP_SEIZED;
	if (ptrace(PTRACE_SEIZE, hit->tid, NULL, NULL) < 0) {
		zap_put(z, zap);
		return;
	}
	zap->traced = true;
	ptrace(PTRACE_INTERRUPT, hit->tid, NULL, NULL);
}

/*
 * Which of the threads that peek saw sent this event?  NULL if none can have, or if
 * several can: the stop of one would prove nothing of the other.
 */
static const struct peek_hit *match(const struct peek_hit *hits, unsigned int n,
				    const struct event *ev)
{
	const struct peek_hit *found = NULL;

	for (unsigned int i = 0; i < n; i++) {
		const struct peek_hit *h = &hits[i];
		uint64_t end = h->args[0] + h->args[1] + PAGE_BYTES - 1;

		/* the range of process_madvise is in memory of the target's */
		if (!peek_is_madvise(h) ||
		    (h->nr == SYS_madvise && (h->args[0] > ev->start || ev->end > end)))
			continue;
		if (found)
			return NULL;
		found = h;
	}
	return found;
}

static void watch(struct loop_op *op, int res);

static void watch_again(struct zaps *z)
{
	if (!loop_op_is_active(&z->timer))
		loop_timeout(z->loop, &z->timer, WATCH_NS, watch);
}

bool zap_begin(struct zaps *z, struct zap_pool *pool, struct source_sink *sink, pid_t pid,
	       const struct event *ev, const struct peek_hit *hits, unsigned int n_hits)
{
	static const struct peek_hit nobody = { .tid = 0 };
	const struct peek_hit *hit = match(hits, n_hits, ev);
	struct zap *zap, *traced = hit ? find_traced(z, hit->tid) : NULL;

	if (traced && traced->state == ZAP_SEIZED && traced->pool == pool) {
		zap = traced;
	} else {
		zap = zap_get(z, pool, sink, pid, hit ? hit : &nobody);
		if (!zap)
			return false;
	}
	zap->ev = *ev;
	zap->state = traced ? ZAP_WAITING : ZAP_WATCHED;
	z->counters->removes++;
	z->counters->pending++;
	if (zap->state == ZAP_WATCHED)
		watch_again(z);
	return true;
}

static void clear_suspect(struct zap *zap, size_t i)
{
	zap->suspects[i] = zap->suspects[--zap->n_suspects];
}

/* The thread is out of its call: whatever it did there is over. */
static void thread_is_out(struct zaps *z, pid_t tid)
{
	list_for_each_safe(l, &z->active) {
		struct zap *zap = list_entry(l, struct zap, link);
		struct source_sink *sink = zap->sink;
		struct event ev = zap->ev;
		bool tell = zap->state == ZAP_WAITING;

		for (size_t i = 0; i < zap->n_suspects; i++) {
			if (zap->suspects[i] == tid) {
				clear_suspect(zap, i);
				break;
			}
		}
		if (zap->hit.tid != tid || zap->state == ZAP_WATCHED)
			continue;
		zap_put(z, zap);
		if (tell)
			sink->ops->end(sink, &ev);
	}
}

void zaps_reap(struct zaps *z)
{
	bool again;

	do {
		again = false;
		list_for_each(l, &z->active) {
			struct zap *zap = list_entry(l, struct zap, link);
			pid_t tid = zap->hit.tid;
			siginfo_t si = { .si_pid = 0 };
			int r;

			if (!zap->traced)
				continue;
			r = waitid(P_PID, (id_t)tid, &si,
				   WSTOPPED | WEXITED | WNOHANG | __WALL);
			if (r == 0 && !si.si_pid)
				continue;
			if (r == 0 && si.si_code == CLD_TRAPPED) {
				/* a signal it was about to take is handed on; our stop is none */
				int sig = si.si_status >> 8 ? 0 : si.si_status;

				ptrace(PTRACE_DETACH, tid, NULL, (void *)(intptr_t)sig);
			}
			thread_is_out(z, tid);
			again = true;	/* the list has changed under us */
			break;
		}
	} while (again);
}

/* What peek_thread() says of a thread that is no more; not so if we may not look. */
static bool is_gone(int r)
{
	return r < 0 && r != -EPERM && r != -EACCES;
}

/* Is this thread seen outside of the call it was in?  "Running" may be inside. */
static bool is_past(pid_t pid, const struct peek_hit *hit)
{
	struct peek_hit now;
	int r = peek_thread(pid, hit->tid, &now);

	if (r <= 0)
		return is_gone(r);
	return now.nr != hit->nr || memcmp(now.args, hit->args, sizeof(now.args));
}

/* Stops a thread on its way to user mode, if it ever goes there: see zaps_reap(). */
static void stop_suspect(struct zaps *z, const struct zap *zap, pid_t tid)
{
	struct peek_hit hit = { .tid = tid };

	if (zap_pool_has_room(zap->pool))
		zap_prepare(z, zap->pool, zap->sink, zap->pid, &hit);
}

/* The acting thread is not known: has every one been out of such a call since? */
static bool are_all_past(struct zaps *z, struct zap *zap)
{
	struct peek_hit now;
	int r;

	if (!zap->suspects) {
		r = peek_list(zap->pid, &zap->suspects, &zap->n_suspects);
		if (r < 0)
			return r == -ESRCH || r == -ENOENT;
	}
	zap->tries++;
	for (size_t i = 0; i < zap->n_suspects;) {
		r = peek_thread(zap->pid, zap->suspects[i], &now);
		if (is_gone(r) || (r > 0 && !peek_is_madvise(&now) &&
				   (now.nr >= 0 || peek_worker_is_idle(zap->pid, now.tid)))) {
			clear_suspect(zap, i);
			continue;
		}
		if (r == 0 && zap->tries >= STOP_TRIES)
			stop_suspect(z, zap, zap->suspects[i]);
		i++;
	}
	return !zap->n_suspects;
}

static bool is_over(struct zaps *z, struct zap *zap)
{
	return zap->hit.tid ? is_past(zap->pid, &zap->hit) : are_all_past(z, zap);
}

static void watch(struct loop_op *op, int res _unused_)
{
	struct zaps *z = container_of(op, struct zaps, timer);
	bool more = false;

	list_for_each_safe(l, &z->active) {
		struct zap *zap = list_entry(l, struct zap, link);
		struct source_sink *sink = zap->sink;
		struct event ev = zap->ev;

		if (zap->state != ZAP_WATCHED)
			continue;
		if (is_over(z, zap)) {
			zap_put(z, zap);
			sink->ops->end(sink, &ev);
		} else {
			more = true;
		}
	}
	if (more)
		watch_again(z);
}

struct zap_pool *zap_pool_free(struct zaps *z, struct zap_pool *pool)
{
	if (!pool)
		return NULL;
	list_for_each_safe(l, &z->active) {
		struct zap *zap = list_entry(l, struct zap, link);

		if (zap->pool != pool)
			continue;
		if (!zap->traced) {
			zap_put(z, zap);
			continue;
		}
		/* It will stop, and only then can be let go: zaps_reap() does. */
		if (zap->state == ZAP_WAITING)
			z->counters->pending--;
		zap->state = ZAP_SEIZED;
		zap->sink = NULL;
	}
	if (pool->n_free == pool->n_zaps)
		pool_destroy(pool);
	else
		pool->orphan = true;
	return NULL;
}
