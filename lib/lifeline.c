/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lifeline
 *
 * A thread that changes watched memory sleeps in the kernel, deaf to all signals
 * but SIGKILL, until somebody reads the event from the userfaultfd, or until its
 * last descriptor is closed.  The daemon reads.  When it dies its descriptor is
 * closed, but we have one of our own, for arming and probing: without further
 * care such a thread would sleep for ever.  So a thread of ours waits for the end
 * of the connection and then sees to it that nothing is watched and nobody waits.
 *
 * What it must not do
 *   Change memory, since it could be the next to sleep; so no malloc, no stdio.
 *   Take any lock, since the owner could be asleep.
 *
 * Cutting the line
 *   1. `cut` is set; then n_users is awaited to be 0.
 *
 *	user				lifeline
 *	n_users++			cut = true
 *	load cut			load n_users
 *
 *      Both sequentially consistent: if the user has not seen `cut`, we see the
 *      user, and wait.  A user is in one ioctl that registers and does not sleep
 *      for events, so this ends.  Afterwards nobody registers anything more.
 *   2. everything is unregistered: no new events.
 *   3. events are read until none is left and no change is in flight.  The read is
 *      what lets a thread go; closing would do so only for the last copy, and a
 *      child of a bare clone() may have one for as long as it lives.
 *   4. /dev/null takes the descriptor's place, atomically.  Other threads may be
 *      about to probe it, and must not find it closed, or worse, used for something
 *      else.  By then the gate's life word tells them that nothing is good.
 *
 * The connection can also end while the daemon lives and reads on, for other
 * clients in this process perhaps.  Then life is live, nobody is stuck, and
 * unregistering would blind those others: only step 4 is done.  The kernel changes
 * the life word before it closes any descriptor of the daemon's, and one that goes on
 * in the place of another has its gates alive before it ends a connection, so the two
 * cannot be confused.
 *
 * Where the daemon's descriptors are kept for its successor the connection does not end
 * with it.  Then nothing is done here: who sleeps, sleeps until the successor reads, and
 * this is what makes sure that nothing is missed.  If none comes, whoever keeps the
 * descriptors lets go of them, and the connection ends.
 *
 * A userfaultfd that is read in vain stays non-blocking for all its holders; ours
 * was made so.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include "procfs.h"
#include "uffd.h"
#include "mirror-private.h"

#define STACK_BYTES (64 * 1024)
#define DRAIN_ROUNDS 10000	/* of 1 ms, at most */

int uffd_enter(struct mirror_target *target)
{
	int fd;

	__atomic_fetch_add(&target->n_users, 1, __ATOMIC_SEQ_CST);
	/* sequentially consistent: pairs with cut_users() */
	fd = load_relaxed(&target->fds[TARGET_FD_UFFD]);
	if (fd >= 0 && !__atomic_load_n(&target->cut, __ATOMIC_SEQ_CST))
		return fd;
	uffd_leave(target);
	return -1;
}

void uffd_leave(struct mirror_target *target)
{
	/* Release: the ioctl is over for whoever sees the count drop. */
	__atomic_fetch_sub(&target->n_users, 1, __ATOMIC_RELEASE);
}

static void cut_users(struct mirror_target *target)
{
	__atomic_store_n(&target->cut, true, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&target->n_users, __ATOMIC_SEQ_CST))
		poll(NULL, 0, 1);
}

static void unregister_everything(int fd)
{
	struct vma_walk walk;
	struct vma vma;

	if (vma_walk_begin(&walk, 0) < 0)
		return;
	while (vma_walk_next(&walk, &vma) > 0)
		if (!vma.special)
			uffd_unregister(fd, vma.start, vma.end);
	vma_walk_end(&walk);
}

/* true if it read anything */
static bool read_events(int fd)
{
	struct uffd_msg msgs[8];
	ssize_t n;

	n = read(fd, msgs, sizeof(msgs));
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(msgs[0]); i++)
		if (msgs[i].event == UFFD_EVENT_FORK)	/* brings the child's along */
			fd_close((int)msgs[i].arg.fork.ufd);
	return n > 0;
}

static void drain_events(int fd)
{
	for (unsigned int i = 0; i < DRAIN_ROUNDS; i++) {
		while (read_events(fd))
			;
		/* a change is in flight from before its event is queued until it is over */
		if (!uffd_probe(fd) && !read_events(fd))
			return;
		poll(NULL, 0, 1);
	}
}

void lifeline_empty(int fd)
{
	unregister_everything(fd);
	drain_events(fd);
}

/* Unless the program has closed it and uses its number for something of its own. */
static void replace_uffd(struct mirror_target *target)
{
	int fd = load_relaxed(&target->fds[TARGET_FD_UFFD]);

	if (fd >= 0 && uffd_is_uffd(fd))
		dup3(target->fds[TARGET_FD_NULL], fd, O_CLOEXEC);
}

/* Is there no daemon that reads?  life is loaded first: a successor writes live, then life. */
static bool is_orphan(const struct mirror_target *target)
{
	const struct mirror_gate *head = load_acquire(&target->lifeline.head);
	uint32_t life;

	if (!head)
		return true;
	life = gate_head_load(head).life;
	return life != load_relaxed(&head->live);
}

static void cut(struct mirror_target *target)
{
	int fd;

	ctx_set_dead(target->ctx);
	cut_users(target);
	fd = load_relaxed(&target->fds[TARGET_FD_UFFD]);
	if (fd < 0)
		return;
	if (is_orphan(target))
		lifeline_empty(fd);
	replace_uffd(target);
}

static void *lifeline_main(void *data)
{
	struct mirror_target *target = data;
	struct pollfd pollfds[] = {
		{ .fd = target->fds[TARGET_FD_STOP], .events = POLLIN },
		/* not POLLIN: what comes is for others */
		{ .fd = target->ctx->fds[CTX_FD_SOCKET], .events = POLLRDHUP },
		{ .fd = target->ctx->fds[CTX_FD_WAKE], .events = POLLRDHUP },
	};

	prctl(PR_SET_NAME, "mirror-life", 0, 0, 0);
	target->lifeline.tid = (pid_t)syscall(SYS_gettid);
	sem_post(&target->lifeline.ready);
	for (;;) {
		if (poll(pollfds, ARRAY_SIZE(pollfds), -1) < 0)
			continue;
		if (pollfds[0].revents)
			return NULL;
		if (pollfds[1].revents || pollfds[2].revents) {
			cut(target);
			return NULL;
		}
	}
}

static int create_thread(struct mirror_target *target)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);	/* inherited by the thread */
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	r = pthread_create(&target->lifeline.thread, &attr, lifeline_main, target);
	pthread_attr_destroy(&attr);
	if (r == EINVAL)	/* the program's thread-local data alone need more */
		r = pthread_create(&target->lifeline.thread, NULL, lifeline_main, target);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

int lifeline_start(struct mirror_target *target)
{
	int fd, r;

	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	target->fds[TARGET_FD_STOP] = fd_hide(target->ctx, fd);
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	target->fds[TARGET_FD_NULL] = fd_hide(target->ctx, fd);
	sem_init(&target->lifeline.ready, 0, 0);
	r = create_thread(target);
	if (r < 0)
		return r;
	target->lifeline.started = true;
	while (sem_wait(&target->lifeline.ready) < 0)
		;
	return 0;
}

/*
 * First our copy of the userfaultfd goes, then the thread: from then on nobody of
 * ours is needed, should the daemon die.
 */
void lifeline_stop(struct mirror_target *target)
{
	uint64_t one = 1;
	ssize_t n;

	if (!target->lifeline.started)
		return;
	cut_users(target);
	replace_uffd(target);
	n = write(target->fds[TARGET_FD_STOP], &one, sizeof(one));
	(void)n;
	pthread_join(target->lifeline.thread, NULL);
	sem_destroy(&target->lifeline.ready);
	target->lifeline.started = false;
}
