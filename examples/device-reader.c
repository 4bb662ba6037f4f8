/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A consumer without libmirror: only the device, and the headers of its calls
 *
 * Watches the whole address space of a process that hands over its changes, as one
 * started by "mirrorctl run" does, and prints a line for each, until it is gone.
 */

#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <mirror/uapi/event.h>
#include <mirror/uapi/ioctl.h>

#define ADDRESS_SPACE	(1ULL << 47)
#define BATCH		64

static const char *const types[MIRROR_EVENT_TYPES] = {
	"NONE", "UNMAP", "CLEAR", "PROTECTION_VMA", "PROTECTION_PAGE", "SOFT_DIRTY", "RELEASE",
	"MIGRATE", "EXCLUSIVE", "REMAP", "FORK", "FAULT", "OVERFLOW",
};

static const char *const causes[] = {
	"unknown", "munmap", "map_fixed", "brk", "shmdt", "mremap", "exec", "exit", "detach",
	"dontneed", "free", "remove",
};

static void fail(const char *what)
{
	fprintf(stderr, "device-reader: %s: %s\n", what, strerror(errno));
	exit(EXIT_FAILURE);
}

static int open_device(const char *path)
{
	int fd = open(path ? path : "/dev/mirror", O_RDWR | O_CLOEXEC);

	/* where the kernel has no character devices of user space */
	if (fd < 0 && !path)
		fd = open("/run/mirror/device", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		fail(path ? path : "/dev/mirror");
	return fd;
}

/* The device looks the descriptor up by its number, in this process. */
static unsigned int attach(int fd, pid_t pid)
{
	struct mirror_attach attach = {
		.size = sizeof(attach),
		.flags = MIRROR_ATTACH_F_FDS | MIRROR_ATTACH_F_ARM_ALL,
		.pidfd = (int)syscall(SYS_pidfd_open, pid, 0),
	};

	if (attach.pidfd < 0)
		fail("pidfd_open");
	if (ioctl(fd, MIRROR_IOC_ATTACH, &attach) < 0)
		fail("MIRROR_IOC_ATTACH");
	close(attach.pidfd);
	return attach.target;
}

static void watch(int fd, unsigned int target)
{
	struct mirror_notifier_insert insert = {
		.size = sizeof(insert),
		.target = target,
		.end = ADDRESS_SPACE,
		.user_data = 1,		/* comes back in each record */
	};

	if (ioctl(fd, MIRROR_IOC_NOTIFIER_INSERT, &insert) < 0)
		fail("MIRROR_IOC_NOTIFIER_INSERT");
}

static void print(const struct mirror_event *ev)
{
	const char *type = ev->type < MIRROR_EVENT_TYPES ? types[ev->type] : "?";

	printf("%llu %s ", (unsigned long long)ev->seq, type);
	/* newer ones have numbers that we know no name of */
	if (ev->cause < sizeof(causes) / sizeof(causes[0]))
		printf("%s", causes[ev->cause]);
	else
		printf("cause-%u", ev->cause);
	printf(" %#llx-%#llx", (unsigned long long)ev->start, (unsigned long long)ev->end);
	if (ev->type == MIRROR_EVENT_REMAP)
		printf(" to %#llx", (unsigned long long)ev->arg.remap.to);
	if (ev->type == MIRROR_EVENT_OVERFLOW)
		printf(" lost %llu", (unsigned long long)ev->arg.overflow.lost);
	putchar('\n');
}

/* false once the address space is gone. */
static int read_some(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	struct mirror_event ev[BATCH];
	ssize_t n;

	/* read() waits as well; poll() can wait for other things too */
	if (poll(&pfd, 1, -1) < 0 && errno != EINTR)
		fail("poll");
	n = read(fd, ev, sizeof(ev));
	if (n < 0 && errno != EINTR && errno != EAGAIN)
		fail("read");
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(ev[0]); i++) {
		print(&ev[i]);
		if (ev[i].type == MIRROR_EVENT_RELEASE)
			return 0;
	}
	return 1;
}

int main(int argc, char **argv)
{
	int fd;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "Usage: device-reader [DEVICE] PID\n");
		return EXIT_FAILURE;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	fd = open_device(argc == 3 ? argv[1] : NULL);
	watch(fd, attach(fd, atoi(argv[argc - 1])));
	puts("watching");
	while (read_some(fd))
		;
	close(fd);

	return EXIT_SUCCESS;
}
