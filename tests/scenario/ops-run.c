/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Operations with processes and threads
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "ops.h"

#define THREADS	4

static void wait_for(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		fail("child");
}

static void fork_exit(struct room *room)
{
	pid_t pid = fork();

	(void)room;
	if (!pid)
		_exit(0);
	wait_for(pid);
}

static void fork_unmap(struct room *room)
{
	pid_t pid = fork();

	if (!pid) {
		munmap(room->base + 4 * PAGE, 4 * PAGE);
		munmap(room->base, N * PAGE);
		_exit(0);
	}
	wait_for(pid);
}

/* The child must not use the C library for more than this, so it has its own path. */
static void vfork_exec(struct room *room)
{
	char *argv[] = { (char *)"true", NULL };
	pid_t pid = vfork();

	(void)room;
	if (!pid) {
		execv("/bin/true", argv);
		_exit(1);
	}
	wait_for(pid);
}

static void exec_true(struct room *room)
{
	(void)room;
	execl("/bin/true", "true", NULL);
	fail("exec");
}

static void exec_self(struct room *room)
{
	execl(room->self, room->self, "munmap-hole", "anon", NULL);
	fail("exec");
}

static void end(struct room *room)
{
	(void)room;
	exit(0);
}

static void sigkill(struct room *room)
{
	(void)room;
	kill(getpid(), SIGKILL);
}

/* ---- threads ---- */

static pthread_barrier_t barrier;
static char *slices;

static void *slice_main(void *data)
{
	char *at = slices + (size_t)data * (N / THREADS) * PAGE;

	pthread_barrier_wait(&barrier);
	munmap(at, N / THREADS * PAGE);
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);		/* the second mark first, then the end */
	return NULL;
}

static void with_threads(struct room *room)
{
	pthread_t thread;

	map_at(room, room->base, N, 1);
	slices = room->base;
	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	for (size_t i = 0; i < THREADS; i++)
		if (pthread_create(&thread, NULL, slice_main, (void *)i))
			fail("thread");
}

static void threads(struct room *room)
{
	(void)room;
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
}

const struct op ops_that_run[] = {
	{ "fork", NULL, fork_exit },
	{ "fork-unmap", NULL, fork_unmap },
	{ "vfork-exec", NULL, vfork_exec },
	{ "exec", NULL, exec_true },
	{ "exec-self", NULL, exec_self },
	{ "exit", NULL, end },
	{ "sigkill", NULL, sigkill },
	{ "threads", with_threads, threads },
	{ NULL, NULL, NULL },
};
