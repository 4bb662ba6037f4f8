/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files that are inherited, passed on and left behind; a device that goes away; clients
 * that mean no good
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "door.h"

#define RECORD		sizeof(struct mirror_event)
#define RANDOM_CALLS	3000

static struct door door;

/* ---- the last close ---- */

static void inherited(void)
{
	int fd = door_open(&door, O_RDWR), shared = door_open(&door, O_RDWR), n, pipes[2];
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		bail("pipe");
	n = count_clients(fd);
	pid = child_fork();
	if (!pid) {
		char c;

		close(pipes[1]);
		_exit(read(pipes[0], &c, 1) == 0 && count_clients(shared) > 0 ? 0 : 1);
	}
	close(pipes[0]);
	close(shared);
	same(count_clients(fd), n, "a file that a child has is open still");
	close(pipes[1]);
	same(child_wait(pid, 20000), 0, "and the child can use it");
	ok(wait_clients(fd, n - 1), "the last close is the end");
	close(fd);
}

/* A target that exits is told to those who watch it, and all of its own goes. */
static void exiting(void)
{
	int fd = door_open(&door, O_RDWR), pipes[2], more[2], target = 0;
	struct mirror_event ev = { .type = 0 };
	pid_t pid;
	char c;

	if (pipe2(pipes, O_CLOEXEC) < 0 || pipe2(more, O_CLOEXEC) < 0)
		bail("pipe");
	pid = child_fork();
	if (!pid) {
		int own = door_open(&door, O_RDWR);

		target = attach_self(own);
		if (target <= 0 || write(pipes[1], &target, sizeof(target)) < 0)
			_exit(1);
		close(more[1]);
		_exit(read(more[0], &c, 1) == 0 ? 0 : 2);
	}
	if (read(pipes[0], &target, sizeof(target)) != sizeof(target))
		bail("the child does not attach itself");
	same(attach_pid(fd, pid, 0), target, "a child is watched by its pidfd");
	ok(insert(fd, (uint32_t)target, (void *)PAGE, (size_t)PAGE << 20) > 0, "a range of it");
	close(more[0]);
	close(more[1]);
	same(child_wait(pid, 20000), 0, "it exits");
	ok(read(fd, &ev, RECORD) == (ssize_t)RECORD && ev.type == MIRROR_EVENT_RELEASE,
	   "RELEASE is read");
	close(pipes[0]);
	close(pipes[1]);
	close(fd);
}

static int receive_fd(int sock)
{
	union {
		struct cmsghdr align;
		char raw[CMSG_SPACE(sizeof(int))];
	} control;
	char c;
	struct iovec iov = { .iov_base = &c, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.raw, .msg_controllen = sizeof(control.raw),
	};
	int fd;

	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&msg))
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

/* Another user may read what it is given to read, and no more. */
static int use_as_nobody(int sock)
{
	struct mirror_info info = { .size = sizeof(info) };
	struct mirror_event ev;
	int fd;

	if (setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0)
		return 1;
	fd = receive_fd(sock);
	if (fd < 0)
		return 2;
	if (call(fd, MIRROR_IOC_INFO, &info) != -EPERM)
		return 3;
	if (read(fd, &ev, RECORD) != (ssize_t)RECORD || ev.type != MIRROR_EVENT_UNMAP)
		return 4;
	return 0;
}

static void passed_on(void)
{
	int fd = door_open(&door, O_RDWR), target = attach_self(fd), socks[2];
	char *p = map_pages(1);
	pid_t pid;

	insert(fd, (uint32_t)target, p, PAGE);
	munmap(p, PAGE);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks) < 0)
		bail("socketpair");
	pid = child_fork();
	if (!pid) {
		close(fd);
		_exit(use_as_nobody(socks[1]));
	}
	raw_send(socks[0], "", 1, &fd, 1);
	same(child_wait(pid, 20000) >> 8, 0, "another user that is given the file only reads");
	close(socks[0]);
	close(socks[1]);
	close(fd);
}

/* ---- clients without manners ---- */

static void fill_random(uint64_t *arg, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		switch (rnd(4)) {
		case 0:
			arg[i] = rnd(8);
			break;
		case 1:
			arg[i] = rnd(UINT64_MAX);
			break;
		default:
			arg[i] = 0;
		}
	}
}

/* In a child, since it may attach itself, and lose what it has open. */
static void random_calls(void)
{
	static uint64_t arg[2048];
	int fd = door_open(&door, O_RDWR | O_NONBLOCK);
	unsigned long command;

	for (unsigned int i = 0; i < RANDOM_CALLS; i++) {
		size_t n = 32;

		command = _IOC(rnd(4), rnd(4) ? MIRROR_IOC_MAGIC : rnd(256), rnd(16),
			       rnd(1U << _IOC_SIZEBITS));
		if (rnd(4)) {
			static const unsigned long known[] = {
				MIRROR_IOC_INFO, MIRROR_IOC_CHANNEL, MIRROR_IOC_ATTACH,
				MIRROR_IOC_DETACH, MIRROR_IOC_NOTIFIER_INSERT,
				MIRROR_IOC_NOTIFIER_REMOVE, MIRROR_IOC_ARM,
				MIRROR_IOC_TARGET_INFO, MIRROR_IOC_STATS, MIRROR_IOC_TABLE,
				MIRROR_IOC_FILL, MIRROR_IOC_CONSUMER_INFO, MIRROR_IOC_CONNECT,
			};

			command = known[rnd(sizeof(known) / sizeof(known[0]))];
		} else {
			n = 2048;
		}
		fill_random(arg, n);
		if (rnd(8))
			arg[0] = _IOC_SIZE(command) | rnd(64) << 32;
		call(fd, command, arg);
		if (!rnd(8)) {
			size_t size = rnd(sizeof(arg));

			if (read(fd, arg, size) < 0 && rnd(2))
				continue;
		}
	}
	_exit(0);
}

static void hostile(void)
{
	int fd = door_open(&door, O_RDWR), n = count_clients(fd);
	pid_t pid = child_fork();

	if (!pid)
		random_calls();
	same(child_wait(pid, 60000), 0, "%d calls at random", RANDOM_CALLS);
	ok(daemon_is_alive(&door.daemon), "the daemon lives");
	ok(wait_clients(fd, n), "and has forgotten who that was");
	close(fd);
}

/* Sends @n new files of the device, and keeps none. */
static void give_away(int sock, size_t size, unsigned int n)
{
	struct mirror_msg msg = { .size = sizeof(msg), .op = MIRROR_OP_INFO };
	int fds[16] = { 0 };

	for (unsigned int i = 0; i < n; i++)
		fds[i] = door_open(&door, O_RDWR);
	if (raw_send(sock, &msg, size, fds, n) < 0)
		bail("cannot send descriptors");
	for (unsigned int i = 0; i < n; i++)
		close(fds[i]);
}

/*
 * Files of the device that the daemon alone has: the last close of one waits for who
 * serves it, which is the daemon.
 */
static void own_files(void)
{
	int fd = door_open(&door, O_RDWR), n = count_clients(fd), sock;
	struct reply reply;

	sock = raw_connect(door.daemon.socket);
	give_away(sock, sizeof(struct mirror_msg), 1);
	ok(raw_recv(sock, &reply) > 0, "a file of the device comes in a packet");
	ok(wait_clients(fd, n + 1), "and is closed");
	give_away(sock, sizeof(struct mirror_msg), 10);
	ok(raw_recv(sock, &reply) > 0, "more than a packet may carry");
	ok(wait_clients(fd, n + 1), "are closed");
	if (raw_channel(sock, 8, &reply) < 0)
		bail("no ring");
	give_away(reply.fds[3], 1, 3);
	ok(wait_clients(fd, n + 1), "so are those that come where none are expected");
	give_away(reply.fds[2], 1, 3);
	reply_close(&reply);
	close(sock);
	ok(wait_clients(fd, n), "and those that nobody ever read");
	sock = raw_connect(door.daemon.socket);
	for (int i = 0; i < 5; i++)
		give_away(sock, sizeof(struct mirror_msg), 2);
	close(sock);
	ok(wait_clients(fd, n), "and those that lie in a connection that ends");
	close(fd);
}

static void limit(void)
{
	int fds[64], n = 0, r = 0;
	pid_t pid = child_fork();

	if (!pid) {
		while (n < 64 && (r = door_try_open(&door, O_RDWR, &fds[n])) == 0)
			n++;
		_exit(r == -EDQUOT && n < 64 ? 0 : 1);
	}
	same(child_wait(pid, 20000), 0, "open files have the limit that connections have");
}

/* ---- the device goes ---- */

static bool exists(void)
{
	struct stat st;

	return stat(door.path, &st) == 0;
}

static void second(void)
{
	int status = door_start_second(&door), fd;

	ok(WIFEXITED(status) && WEXITSTATUS(status) && WEXITSTATUS(status) != 127,
	   "a second daemon does not start");
	fd = door_open(&door, O_RDWR);
	ok(count_clients(fd) > 0, "and the first one still serves");
	close(fd);
}

static int errno_of_read(int fd)
{
	struct mirror_event ev;

	return read(fd, &ev, RECORD) < 0 ? errno : 0;
}

static void death(void)
{
	struct pollfd pfd = { .fd = door_open(&door, O_RDWR), .events = POLLIN };
	struct mirror_info info = { .size = sizeof(info) };
	pid_t reader, poller;
	int r;

	reader = child_fork();
	if (!reader)
		_exit(errno_of_read(door_open(&door, O_RDWR)));
	poller = child_fork();
	if (!poller) {
		r = poll(&pfd, 1, 20000);
		_exit(r == 1 && (pfd.revents & POLLERR) ? 0 : 1);
	}
	ok(wait_asleep(reader, SYS_read) && wait_asleep(poller, SYS_poll), "one reads, one polls");
	daemon_kill(&door.daemon);
	r = child_wait(reader, 20000) >> 8;
	ok(r == ENOTCONN || r == ECONNABORTED || r == ENODEV, "the daemon dies: an error of read");
	same(child_wait(poller, 20000), 0, "poll is woken with POLLERR");
	r = call(pfd.fd, MIRROR_IOC_INFO, &info);
	ok(r == -ENOTCONN || r == -ECONNABORTED || r == -ENODEV, "ioctl gives an error");
	same(close(pfd.fd), 0, "close does not mind");
	r = door_try_open(&door, O_RDWR, &pfd.fd);
	ok(r == -ENOTCONN || r == -ECONNABORTED || r == -ENOENT || r == -ENXIO,
	   "nobody opens it any more");
	door_start(&door, NULL);
	pfd.fd = door_open(&door, O_RDWR);
	same(call(pfd.fd, MIRROR_IOC_INFO, &info), 0, "another daemon takes its place");
	close(pfd.fd);
}

static void take_away(void)
{
	char path[80];
	int fd;

	if (!*door.name) {
		/* the first ends it for those who have it open, the second takes it away */
		umount2(door.path, MNT_FORCE);
		if (umount2(door.path, MNT_DETACH) < 0)
			bail("umount: %s", strerror(errno));
		return;
	}
	snprintf(path, sizeof(path), "/sys/class/cuse/%s/abort", door.name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "1", 1) != 1)
		bail("%s: %s", path, strerror(errno));
	close(fd);
}

static void taken_away(void)
{
	int sock = raw_connect(door.daemon.socket), r;
	pid_t reader;

	reader = child_fork();
	if (!reader)
		_exit(errno_of_read(door_open(&door, O_RDWR)));
	if (!wait_asleep(reader, SYS_read))
		bail("no child reads");
	take_away();
	r = child_wait(reader, 20000) >> 8;
	ok(r == ENOTCONN || r == ECONNABORTED || r == ENODEV, "who reads gets an error");
	check_empty(sock, "the device is taken away");
	close(sock);
	check_service(&door.daemon, "through the socket", 0);
}

static void order(void)
{
	door_start(&door, NULL);
	ok(exists(), "the device is there");
	same(daemon_stop(&door.daemon), 0, "an end in good order");
	ok(!exists(), "takes it away");
	if (*door.name)
		return;
	close(open(door.path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	door_start(&door, NULL);
	same(daemon_stop(&door.daemon), 0, "over a file that was there before");
	ok(exists(), "that file is there still");
}

/* Exit status of a daemon that should not serve. */
static int refused(const char *option, const char *value)
{
	char path[64];
	pid_t pid;

	snprintf(path, sizeof(path), "%s/refused", door.daemon.dir);
	pid = child_fork();
	if (!pid) {
		execl(getenv("MIRROR_DAEMON"), "mirrord", "--socket", path, option, value,
		      (char *)NULL);
		_exit(127);
	}
	return child_wait(pid, 20000) >> 8;
}

/* One way alone is had or refused; with two the other one is taken, or the socket is left. */
static void ways(void)
{
	const char *both[] = { "--cuse", "mirror-test-ways", "--fuse", door.path, NULL };
	int status, fd;

	status = refused("--fuse", "/proc/self/device");
	ok(status && status != 127, "a file where there can be none: no daemon");
	if (*door.name || access("/dev/cuse", F_OK) == 0) {
		skip("this kernel has CUSE", "without CUSE: the other way");
		return;
	}
	status = refused("--cuse", "mirror-test-ways");
	ok(status && status != 127, "CUSE alone, and there is none: no daemon");
	daemon_start(&door.daemon, both);
	fd = door_open(&door, O_RDWR);
	same(count_clients(fd), 1, "CUSE or a file: the file");
	close(fd);
	same(daemon_stop(&door.daemon), 0, "an end in good order");
	both[3] = "/proc/self/device";
	daemon_start(&door.daemon, both);
	check_service(&door.daemon, "neither, so the socket is left", 0);
	same(daemon_stop(&door.daemon), 0, "an end in good order");
}

int main(int argc, char **argv)
{
	static const char *const few[] = { "--max-clients", "40", NULL };

	test_begin(argc, argv, 100, 100);
	door_init(&door);
	door_start(&door, few);
	inherited();
	exiting();
	passed_on();
	hostile();
	own_files();
	limit();
	check_service(&door.daemon, "after all this", 0);
	second();
	death();
	taken_away();
	daemon_kill(&door.daemon);
	order();
	ways();
	return test_end();
}
