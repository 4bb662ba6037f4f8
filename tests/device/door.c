/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include "door.h"

#define WAIT_MS	20000

static __attribute__((__noreturn__)) void skip_all(const char *reason)
{
	printf("1..0 # SKIP %s\n", reason);
	exit(0);
}

void door_init(struct door *door)
{
	const char *transport = getenv("MIRROR_TEST_TRANSPORT");
	bool is_cuse = transport && !strcmp(transport, "cuse");

	*door = (struct door) { .name = "" };
	daemon_init(&door->daemon);
	if (geteuid() != 0)
		skip_all("only root may make a device");
	if (access(is_cuse ? "/dev/cuse" : "/dev/fuse", R_OK | W_OK) < 0)
		skip_all(is_cuse ? "this kernel has no CUSE" : "this kernel has no FUSE");
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("test", door->daemon.dir, "tmpfs", 0, "mode=755") < 0)
		skip_all("no mount namespace can be had");
	if (is_cuse) {
		snprintf(door->name, sizeof(door->name), "mirror-test-%d", (int)getpid());
		snprintf(door->path, sizeof(door->path), "/dev/%s", door->name);
	} else {
		snprintf(door->path, sizeof(door->path), "%s/device", door->daemon.dir);
	}
}

void door_options(const struct door *door, const char **ret_options)
{
	ret_options[0] = *door->name ? "--cuse" : "--fuse";
	ret_options[1] = *door->name ? door->name : door->path;
	ret_options[2] = NULL;
}

void door_start(struct door *door, const char *const *args)
{
	const char *all[20];
	unsigned int n = 2;

	door_options(door, all);
	for (; args && *args && n < 19; args++)
		all[n++] = *args;
	all[n] = NULL;
	daemon_start(&door->daemon, all);
	/* a rule of udev's does it for the real one */
	if (*door->name && chmod(door->path, 0666) < 0)
		bail("%s: %s", door->path, strerror(errno));
}

int door_start_second(const struct door *door)
{
	char path[64];
	pid_t pid;

	snprintf(path, sizeof(path), "%s/second", door->daemon.dir);
	pid = child_fork();
	if (!pid) {
		execl(getenv("MIRROR_DAEMON"), "mirrord", "--socket", path,
		      *door->name ? "--cuse" : "--fuse",
		      *door->name ? door->name : door->path, (char *)NULL);
		_exit(127);
	}
	return child_wait(pid, WAIT_MS);
}

int door_try_open(const struct door *door, int flags, int *ret_fd)
{
	int fd = open(door->path, flags | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

int door_open(const struct door *door, int flags)
{
	int fd, r;

	r = door_try_open(door, flags, &fd);
	if (r < 0)
		bail("cannot open %s: %s", door->path, strerror(-r));
	return fd;
}

int call(int fd, unsigned long command, void *arg)
{
	return ioctl(fd, command, arg) < 0 ? -errno : 0;
}

int attach_self(int fd)
{
	struct mirror_attach attach = {
		.size = sizeof(attach),
		.flags = MIRROR_ATTACH_F_SELF | MIRROR_ATTACH_F_UFFD | MIRROR_ATTACH_F_FDS,
		.pidfd = -1,
		.uffd = raw_uffd(),
	};
	int uffd = attach.uffd, r;

	r = call(fd, MIRROR_IOC_ATTACH, &attach);
	close(uffd);
	return r < 0 ? r : (int)attach.target;
}

int attach_pid(int fd, pid_t pid, uint32_t flags)
{
	struct mirror_attach attach = {
		.size = sizeof(attach), .flags = flags | MIRROR_ATTACH_F_FDS,
		.pidfd = raw_pidfd(pid),
	};
	int pidfd = attach.pidfd, r;

	r = call(fd, MIRROR_IOC_ATTACH, &attach);
	close(pidfd);
	return r < 0 ? r : (int)attach.target;
}

int insert(int fd, uint32_t target, const void *start, size_t size)
{
	struct mirror_notifier_insert in = {
		.size = sizeof(in), .target = target, .start = (uintptr_t)start,
		.end = (uintptr_t)start + size, .user_data = (uintptr_t)start,
	};
	int r = call(fd, MIRROR_IOC_NOTIFIER_INSERT, &in);

	return r < 0 ? r : (int)in.notifier;
}

char *map_pages(size_t n)
{
	char *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0);

	if (p == MAP_FAILED)
		bail("mmap: %s", strerror(errno));
	return p;
}

void unmap_each(char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		munmap(p + i * PAGE, PAGE);
}

int count_clients(int fd)
{
	struct mirror_stats stats = { .size = sizeof(stats) };
	int r = call(fd, MIRROR_IOC_STATS, &stats);

	return r < 0 ? r : (int)stats.clients;
}

bool wait_clients(int fd, int n)
{
	uint64_t end = now_ms() + WAIT_MS;

	while (count_clients(fd) != n) {
		if (now_ms() > end)
			return false;
		nap_ms(1);
	}
	return true;
}

bool wait_asleep(pid_t tid, long number)
{
	uint64_t end = now_ms() + WAIT_MS;
	char path[64], text[128];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)tid);
	while (now_ms() < end) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return false;
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
		/* "running" while it is */
		if (n > 0 && text[0] >= '0' && text[0] <= '9' && atol(text) == number)
			return true;
		nap_ms(1);
	}
	return false;
}
