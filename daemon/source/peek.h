/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Peek
 *
 * While a thread waits for its userfaultfd event to be read, the kernel shows in
 * /proc/PID/task/TID/syscall which system call it is in, with its arguments.  So
 * the cause of an event, and the thread that acts, can be known *before* the read
 * that lets it go.
 *
 * One descriptor a thread is kept open; a look costs one pread(2) a thread.  The
 * threads looked at are bounded: those that acted last are looked at first.
 *
 * Reading one event wakes every thread that waits for its own, for a moment, so
 * that these are seen running.  What was seen of them before still holds: a thread
 * that waits for its event stays in its call until that event has been read.  So
 * hits are kept until the event they explain was read, or nobody waits any more.
 *
 * A thread that sends one event after the other is looked at first, and alone if it
 * is found blocked: a process may have many threads, and only one that changes its
 * memory.  But not in madvise: whose event that is must not be mistaken.
 */

#include <sys/syscall.h>
#include <sys/types.h>
#include "base.h"

#define PEEK_THREADS 32		/* looked at, at most, each time */
#define PEEK_HITS 8
#define PEEK_SKIP 16
#define PEEK_STREAK 8		/* events of one thread, after which it is looked at alone */
#define PEEK_STREAK_MAX 64	/* and after which all are looked at again */

struct peek_hit {
	pid_t tid;
	long nr;
	uint64_t args[6];
};

struct peek {
	pid_t pid;
	int task_fd;		/* /proc/PID/task */
	unsigned int links;	/* of it, when the list was made: changes with the threads */
	unsigned int n;
	struct {
		pid_t tid;
		int fd;
	} threads[PEEK_THREADS];
	bool partial;		/* there are more threads than these */
	struct peek_hit kept[PEEK_HITS];
	unsigned int n_kept;
	/* threads of the library's own, which never change memory */
	pid_t skip[PEEK_SKIP];
	unsigned int n_skip;
	bool alone, was_alone;	/* one thread only, at this look and at the one before */
	pid_t actor;		/* who sent the last event */
	unsigned int streak;	/* and how many before it, in a row */
};

/* The calls that remove pages and tell of it before. */
static inline bool peek_is_madvise(const struct peek_hit *hit)
{
#ifdef SYS_process_madvise
	if (hit->nr == SYS_process_madvise)
		return true;
#endif
	return hit->nr == SYS_madvise;
}

#define PEEK_NULL { .task_fd = -1 }

/* -EPERM if the process may not be looked at. */
int peek_init(struct peek *peek, pid_t pid);
/* A thread that is of no interest. */
void peek_skip(struct peek *peek, pid_t tid);
/* Nothing is watched yet, so no event was read: counts as the look before the first. */
void peek_prime(struct peek *peek);
void peek_deinit(struct peek *peek);

/* The event of this thread was read, or of one that was not seen (0). */
void peek_done(struct peek *peek, pid_t tid);
/* All there were have been read. */
void peek_quiet(struct peek *peek);

/* Threads that are blocked in a system call that changes memory; how many. */
unsigned int peek_look(struct peek *peek, struct peek_hit *ret_hits);

/*
 * Did nobody but the thread whose event this is change memory since its call began?
 * There was one thread at this look and at the one before, which was that thread's:
 * so its call began after that one, and another thread that came since has had no
 * event read, hence would be there still.  Threads only: processes that share memory
 * otherwise are not known.
 */
bool peek_is_alone(const struct peek *peek);

/* A worker of the kernel's (io_uring) is in no system call: does it have no work? */
bool peek_worker_is_idle(pid_t pid, pid_t tid);

/* All threads of a process, however many; *ret_tids is the caller's to free. */
int peek_list(pid_t pid, pid_t **ret_tids, size_t *ret_n);

/* One thread now: 1 blocked in a system call, 0 running or elsewhere, or -errno. */
int peek_thread(pid_t pid, pid_t tid, struct peek_hit *ret_hit);
