/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The bare reader: a thread or process that reads events and does nothing else
 *
 *	read=block|poll		read(2), or poll(2) and then read(2)
 *	in=thread|process	of the acting process's, or another one
 *	reader=N		bind it to the N-th processor
 *
 * This is the least that hearing of changes by userfaultfd can cost.  Memory is
 * registered as mirrord does it: write-protection that is never used, resolved by
 * the kernel where that is known, or else by nobody.
 */

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "uffd.h"
#include "watch.h"

static int fd = -1, cpu = -1;
static bool polls;
static pid_t child;
static uint64_t *heard;	/* shared with a process */

static void *reader(void *unused)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	struct uffd_msg msg;

	pin(cpu);
	for (;;) {
		if (polls && poll(&pfd, 1, -1) < 0)
			continue;
		if (read(fd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		if (msg.event == UFFD_EVENT_UNMAP || msg.event == UFFD_EVENT_REMOVE)
			__atomic_fetch_add(heard, 1, __ATOMIC_RELEASE);
	}
	return unused;
}

static void none_start(char **argv)
{
	(void)argv;
}

static void none_watch(void *start, size_t bytes)
{
	(void)start;
	(void)bytes;
}

static uint64_t none_heard(void)
{
	return 0;
}

static void none_do(void)
{
}

static void none_stop(uint64_t n_changes)
{
	(void)n_changes;
}

static void reader_start(char **argv)
{
	pthread_t thread;

	polls = !strcmp(option_text(argv, "read", "block"), "poll");
	cpu = cpu_at((int)option_number(argv, "reader", -1));
	heard = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (heard == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	fd = uffd_open(polls ? O_NONBLOCK : 0, UFFD_HAS_WP_ASYNC | UFFD_HAS_WP_UNPOPULATED);
	if (fd == -EINVAL)
		fd = uffd_open(polls ? O_NONBLOCK : 0, 0);
	must(fd, "UFFDIO_API");
	if (strcmp(option_text(argv, "in", "thread"), "process")) {
		must(-pthread_create(&thread, NULL, reader, NULL), "pthread_create");
		return;
	}
	child = fork();
	must(child < 0 ? -errno : 0, "fork");
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		reader(NULL);
	}
}

static void reader_watch(void *start, size_t bytes)
{
	(void)start;
	(void)bytes;
}

static void reader_arm(void *start, size_t bytes)
{
	must(uffd_register(fd, start, bytes, UFFDIO_REGISTER_MODE_WP), "UFFDIO_REGISTER");
}

static uint64_t reader_heard(void)
{
	return __atomic_load_n(heard, __ATOMIC_ACQUIRE);
}

static void reader_stop(uint64_t n_changes)
{
	(void)n_changes;
	if (child > 0)
		kill(child, SIGKILL);
}

const struct watch watch_none = {
	.name = "none",
	.start = none_start,
	.watch = none_watch,
	.arm = none_watch,
	.heard = none_heard,
	.begin = none_do,
	.end = none_do,
	.stop = none_stop,
	.silent = true,
};

const struct watch watch_reader = {
	.name = "reader",
	.start = reader_start,
	.watch = reader_watch,
	.arm = reader_arm,
	.heard = reader_heard,
	.begin = none_do,
	.end = none_do,
	.stop = reader_stop,
};
