/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The userfaultfd source
 *
 * userfaultfd tells of munmap, mremap, madvise and fork of registered mappings by
 * messages, and holds the calling thread until its message is read.  The message
 * of an UNMAP or REMAP comes after the change, that of a REMOVE before it.  What
 * is read is what lets the thread go; so for each message, in this order:
 *
 *	peek		who is blocked, in which call: cause, thread, and whether a
 *			REMOVE is about to be read
 *	zap_prepare	if so: arrange for the thread's stop at the end of its call
 *	sink unknown	the gate closes
 *	read		the thread goes on
 *	sink event	stripes, gate opens, records
 *	zap_begin	REMOVE: the stripes stay closed until the thread is out
 *
 * One message a read: the messages are a queue, so the thread of the first was
 * blocked before we peeked, and is among what peek found.  With many bytes of room
 * one read would let go threads that came after the look.
 *
 * While nobody watches anything of the target, messages are just read.
 */
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include "procfs.h"
#include "shm.h"
#include "source/uffd-source.h"
#include "uffd.h"

#define ROUND_MESSAGES 32	/* of one target before others get their turn */
#define RETRY_NS 1000000
#define LET_GO_TRIES 20		/* of a millisecond each */
#define LOOKS 6			/* at the target's threads, until one is seen blocked */

static bool try_features(uint64_t features)
{
	_cleanup_(fd_closep) int fd = -1;
	bool user_only;

	return uffd_new(&fd, &user_only) == 0 && uffd_api(fd, features) == 0;
}

int uffd_support_probe(struct uffd_support *ret_support, enum uffd_mode mode)
{
	struct uffd_support s = { .features = UFFD_EVENT_FEATURES };
	uint64_t known;
	int r;

	r = uffd_query_features(&known);
	if (r < 0)
		return r;
	if ((known & s.features) != s.features)
		return -EOPNOTSUPP;
	if ((known & UFFD_FEAT_WP_ASYNC) && mode != UFFD_MODE_WP) {
		s.features |= UFFD_FEAT_WP_ASYNC | UFFD_FEAT_WP_UNPOPULATED |
			      UFFD_FEAT_WP_HUGETLBFS_SHMEM;
		s.wp_async = true;
	} else if (mode == UFFD_MODE_WP_ASYNC) {
		return -EOPNOTSUPP;
	} else {
		s.features |= known & (UFFD_FEATURE_PAGEFAULT_FLAG_WP |
				       UFFD_FEAT_WP_HUGETLBFS_SHMEM);
	}
	if (!try_features(s.features))
		return -EOPNOTSUPP;
	/* Needs CAP_SYS_PTRACE of whoever does UFFDIO_API: the daemon. */
	if (try_features(s.features | UFFD_FEATURE_EVENT_FORK)) {
		s.features |= UFFD_FEATURE_EVENT_FORK;
		s.fork = true;
	}
	*ret_support = s;
	return 0;
}

static void uffd_ready(struct loop_op *op, int res);

/*
 * Reading a FORK message installs a descriptor.  When none is left the read fails,
 * and the target would wait until one is: so one is kept for that moment.
 */
static int reserve_fd = -1;

static void reserve_refill(void)
{
	if (reserve_fd < 0)
		reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/*
 * O_NONBLOCK is the file's, and the target has the file too: it could take the flag
 * off between our poll and our read.  6.10 lets us say it with the call.
 */
static ssize_t read_now(int fd, struct uffd_msg *ret_msg)
{
	static bool has_nowait = true;
	struct iovec iov = { .iov_base = ret_msg, .iov_len = sizeof(*ret_msg) };
	ssize_t n;

	if (has_nowait) {
		n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
		if (n >= 0 || errno != EOPNOTSUPP)
			return n;
		has_nowait = false;
	}
	return read(fd, ret_msg, sizeof(*ret_msg));
}

static ssize_t read_message(int fd, struct uffd_msg *ret_msg)
{
	ssize_t n = read_now(fd, ret_msg);

	if (n < 0 && (errno == EMFILE || errno == ENFILE) && reserve_fd >= 0) {
		reserve_fd = fd_close(reserve_fd);
		n = read_now(fd, ret_msg);
	}
	return n < 0 ? -errno : n;
}

int uffd_source_start(struct uffd_source *s, const struct uffd_source_config *config, int fd)
{
	int r;

	*s = (struct uffd_source) UFFD_SOURCE_NULL;
	reserve_refill();
	/* A child's is as its parent's was made, not as we made that one later. */
	r = fcntl(fd, F_GETFL);
	if (r < 0 || fcntl(fd, F_SETFL, r | O_NONBLOCK) < 0)
		return -errno;
	s->sink = config->sink;
	s->zaps = config->zaps;
	s->resumed = config->resumed;
	r = zap_pool_new(&s->pool);
	if (r < 0)
		return r;
	r = loop_poll(config->loop, &s->op, fd, POLLIN, uffd_ready);
	if (r < 0) {
		s->pool = zap_pool_free(s->zaps, s->pool);
		return r;
	}
	s->fd = fd;
	if (config->pid)
		uffd_source_set_pid(s, config->pid, config->skip_tid, config->peek);
	return 0;
}

void uffd_source_set_pid(struct uffd_source *s, pid_t pid, pid_t skip_tid, bool peek)
{
	peek_deinit(&s->peek);
	arm_deinit(&s->arm);
	s->pid = pid;
	s->can_peek = peek && peek_init(&s->peek, pid) == 0;
	peek_skip(&s->peek, skip_tid);
	if (s->can_peek && !s->n_events && !s->resumed)
		peek_prime(&s->peek);
	if (arm_init(&s->arm, pid, s->fd) < 0)
		s->arm.maps_fd = -1;
}

static void unregister_all(struct uffd_source *s)
{
	struct vma_walk walk;
	struct vma vma;

	if (!s->pid || vma_walk_begin(&walk, s->pid) < 0)
		return;
	while (vma_walk_next(&walk, &vma) > 0)
		if (!vma.special)
			uffd_unregister(s->fd, vma.start, vma.end);
	vma_walk_end(&walk);
}

void uffd_source_let_go(struct uffd_source *s)
{
	struct uffd_msg msg;

	if (!uffd_source_is_running(s))
		return;
	unregister_all(s);
	/* what began before has a message, or has one in a moment */
	for (int i = 0; i < LET_GO_TRIES; i++) {
		while (read_message(s->fd, &msg) == sizeof(msg))
			if (msg.event == UFFD_EVENT_FORK)
				fd_close((int)msg.arg.fork.ufd);
		if (uffd_probe(s->fd) != 1)
			return;
		poll(NULL, 0, 1);
	}
}

void uffd_source_stop(struct uffd_source *s)
{
	if (!uffd_source_is_running(s))
		return;
	s->pool = zap_pool_free(s->zaps, s->pool);
	loop_stop(&s->op);
	loop_stop(&s->retry);
	peek_deinit(&s->peek);
	arm_deinit(&s->arm);
	s->fd = fd_close(s->fd);
}

/* We protect no page, so no fault is ours to serve; one that comes is let through. */
static void let_fault_go(struct uffd_source *s, const struct uffd_msg *msg)
{
	struct uffdio_writeprotect wp = {
		.range = {
			.start = msg->arg.pagefault.address & ~(PAGE_BYTES - 1),
			.len = PAGE_BYTES,
		},
	};

	ioctl(s->fd, UFFDIO_WRITEPROTECT, &wp);
	ioctl(s->fd, UFFDIO_WAKE, &wp.range);
}

static void note_rearm(struct uffd_source *s, const struct event *ev)
{
	/* munmap leaves nothing to watch; what comes later is armed by who maps it */
	if (ev->type != MIRROR_EVENT_UNMAP || !event_is_watched(ev) ||
	    (ev->cause != MIRROR_CAUSE_MAP_FIXED && ev->cause != MIRROR_CAUSE_UNKNOWN))
		return;
	if (s->rearm_start == s->rearm_end) {
		s->rearm_start = ev->watched_start;
		s->rearm_end = ev->watched_end;
	} else {
		s->rearm_start = MIN(s->rearm_start, ev->watched_start);
		s->rearm_end = MAX(s->rearm_end, ev->watched_end);
	}
}

static void set_cause(struct uffd_source *s, struct event *ev, const struct peek_hit *hits,
		      unsigned int n)
{
	bool alone = peek_is_alone(&s->peek);
	pid_t tid;

	ev->cause = cause_from_hits(ev, hits, n, &tid);
	if (tid)
		s->last_tid = tid;
	peek_done(&s->peek, tid);
	/* A moving mremap sends REMAP, then UNMAP of the old range. */
	if (ev->type == MIRROR_EVENT_REMAP) {
		ev->arg[1] = alone ? MIRROR_REMAP_ALONE : 0;
		s->after_remap = true;
		s->remap_start = ev->start;
		s->remap_end = ev->end;
	} else if (ev->type == MIRROR_EVENT_UNMAP && s->after_remap) {
		s->after_remap = false;
		if (ev->cause == MIRROR_CAUSE_UNKNOWN && ev->start == s->remap_start &&
		    ev->end == s->remap_end)
			ev->cause = MIRROR_CAUSE_MREMAP;
	}
}

static void handle(struct uffd_source *s, const struct uffd_msg *msg, uint64_t now,
		   const struct peek_hit *hits, unsigned int n)
{
	struct event ev;

	if (!event_from_uffd(&ev, msg)) {
		if (msg->event == UFFD_EVENT_PAGEFAULT)
			let_fault_go(s, msg);
		s->sink->ops->nothing(s->sink);
		return;
	}
	s->n_events++;
	ev.time_ns = now;
	set_cause(s, &ev, hits, n);
	if (ev.type == MIRROR_EVENT_FORK) {
		s->sink->ops->fork(s->sink, &ev, (int)msg->arg.fork.ufd, s->last_tid);
		return;
	}
	if (ev.type == MIRROR_EVENT_CLEAR && !s->can_peek) {
		/* No way to see the end: it is told as over, and the guarantee says so. */
		ev.flags = MIRROR_EVENT_F_POINT;
		ev.guarantee = MIRROR_GUARANTEE_POINT;
	}
	s->sink->ops->event(s->sink, &ev);
	note_rearm(s, &ev);
	if ((ev.flags & MIRROR_EVENT_F_START) && (event_is_watched(&ev) || ev.needs_end))
		zap_begin(s->zaps, s->pool, s->sink, s->pid, &ev, hits, n);
}

static bool is_watched_remove(struct uffd_source *s, const struct peek_hit *h)
{
	if (h->nr == SYS_madvise)
		return s->sink->ops->watches(s->sink, h->args[0] & ~(PAGE_BYTES - 1),
					     h->args[0] + h->args[1] + PAGE_BYTES);
#ifdef SYS_process_madvise
	if (h->nr == SYS_process_madvise)
		return true;	/* its ranges are in the target's memory */
#endif
	return false;
}

/* Returns how many were found; -EAGAIN if the target has to wait a moment. */
static int look(struct uffd_source *s, struct peek_hit *ret_hits)
{
	static const struct timespec moment = { .tv_nsec = 20000 };
	unsigned int n = 0;

	if (!s->can_peek || !s->sink->ops->watches(s->sink, 0, USER_END))
		return 0;
	if (!zap_pool_has_room(s->pool))
		return -EAGAIN;
	/*
	 * The read of another thread's event woke it for a moment: it is on its way
	 * back to sleep, maybe on this very processor, so make room.
	 */
	for (int i = 0; i < LOOKS; i++) {
		n = peek_look(&s->peek, ret_hits);
		if (n)
			break;
		clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
	}
	for (unsigned int i = 0; i < n; i++)
		if (is_watched_remove(s, &ret_hits[i]))
			zap_prepare(s->zaps, s->pool, s->sink, s->pid, &ret_hits[i]);
	return (int)n;
}

static bool is_readable(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 0) > 0;
}

static void rearm(struct uffd_source *s)
{
	struct arm_result result;

	if (s->rearm_start < s->rearm_end && s->arm.maps_fd >= 0)
		arm_range(&s->arm, s->rearm_start, s->rearm_end, &result);
	s->rearm_start = s->rearm_end = 0;
}

static void uffd_retry(struct loop_op *op, int res _unused_);

static void drain(struct uffd_source *s, struct loop *loop)
{
	uint64_t again_ns = 1;

	for (int i = 0; i < ROUND_MESSAGES; i++) {
		struct peek_hit hits[PEEK_HITS];
		struct uffd_msg msg;
		uint64_t now;
		ssize_t r;
		int n;

		n = look(s, hits);
		if (n < 0) {
			again_ns = RETRY_NS;	/* until a zap is over */
			break;
		}
		now = now_ns();
		s->sink->ops->unknown(s->sink);
		r = read_message(s->fd, &msg);
		if (r != sizeof(msg)) {
			s->sink->ops->nothing(s->sink);
			if (r == -EAGAIN || r >= 0)
				return;
			again_ns = RETRY_NS;	/* out of memory or descriptors: try again soon */
			break;
		}
		handle(s, &msg, now, hits, (unsigned int)n);
		reserve_refill();
		/* the sink may have let us go, and the poll tells of later messages only */
		if (!uffd_source_is_running(s))
			return;
		if (!is_readable(s->fd)) {
			peek_quiet(&s->peek);
			return;
		}
	}
	if (!loop_op_is_active(&s->retry))
		loop_timeout(loop, &s->retry, again_ns, uffd_retry);
}

static void uffd_retry(struct loop_op *op, int res _unused_)
{
	struct uffd_source *s = container_of(op, struct uffd_source, retry);

	drain(s, s->op.loop);
	if (uffd_source_is_running(s))
		rearm(s);
}

static void uffd_ready(struct loop_op *op, int res)
{
	struct uffd_source *s = container_of(op, struct uffd_source, op);

	if (res < 0)
		return;
	drain(s, op->loop);
	if (uffd_source_is_running(s))
		rearm(s);
}
