/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an open file can be asked: each ioctl, good and bad
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include "door.h"

static struct door door;

static const struct {
	unsigned long command;
	const char *name;
} calls[] = {
	{ MIRROR_IOC_INFO, "INFO" },
	{ MIRROR_IOC_CHANNEL, "CHANNEL" },
	{ MIRROR_IOC_ATTACH, "ATTACH" },
	{ MIRROR_IOC_DETACH, "DETACH" },
	{ MIRROR_IOC_NOTIFIER_INSERT, "NOTIFIER_INSERT" },
	{ MIRROR_IOC_NOTIFIER_REMOVE, "NOTIFIER_REMOVE" },
	{ MIRROR_IOC_ARM, "ARM" },
	{ MIRROR_IOC_TARGET_INFO, "TARGET_INFO" },
	{ MIRROR_IOC_STATS, "STATS" },
	{ MIRROR_IOC_FILL, "FILL" },
	{ MIRROR_IOC_CONSUMER_INFO, "CONSUMER_INFO" },
	{ MIRROR_IOC_CONNECT, "CONNECT" },
};

#define N_CALLS	(sizeof(calls) / sizeof(calls[0]))

static void forms(void)
{
	unsigned long n = sizeof(struct mirror_info);
	uint64_t arg[64];
	int fd = door_open(&door, O_RDWR);

	for (unsigned int i = 0; i < N_CALLS; i++) {
		uint32_t size = _IOC_SIZE(calls[i].command);

		same(call(fd, calls[i].command, NULL), -EFAULT, "%s of nowhere", calls[i].name);
		memset(arg, 0, sizeof(arg));
		memcpy(arg, &(uint32_t) { size + 8 }, 4);
		same(call(fd, calls[i].command, arg), -E2BIG, "%s says another size",
		     calls[i].name);
		memcpy(arg, (uint32_t[]) { size, 0x80000000 }, 8);
		same(call(fd, calls[i].command, arg), -E2BIG, "%s with an unknown flag",
		     calls[i].name);
		memcpy(arg, (uint32_t[]) { size, 0 }, 8);
		arg[size / 8 - 1] = 1;
		same(call(fd, calls[i].command, arg), -E2BIG, "%s with a reserved member set",
		     calls[i].name);
	}
	same(call(fd, _IOWR(MIRROR_IOC_MAGIC, 0x7f, struct mirror_info), arg), -ENOTTY,
	     "a command that does not exist");
	same(call(fd, _IOC(_IOC_READ | _IOC_WRITE, MIRROR_IOC_MAGIC, 0, n + 8), arg), -ENOTTY,
	     "INFO of a larger size");
	same(call(fd, _IOC(_IOC_WRITE, MIRROR_IOC_MAGIC, 0, n), arg), -ENOTTY, "INFO, only in");
	same(call(fd, _IO(MIRROR_IOC_MAGIC, 0), arg), -ENOTTY, "INFO of no size");
	same(call(fd, _IOC(_IOC_READ | _IOC_WRITE, 'M', 0, n), arg), -ENOTTY,
	     "INFO of another magic");
	same(call(fd, 0x5401 /* TCGETS */, arg), -ENOTTY, "is it a terminal");
	close(fd);
}

static void other_calls(void)
{
	int fd = door_open(&door, O_RDWR);
	char buf[128] = { 0 };

	ok(write(fd, buf, sizeof(buf)) < 0 && errno == EINVAL, "write");
	ok(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == ENODEV, "mmap");
	ok(!*door.name || lseek(fd, 64, SEEK_SET) == 0 || errno == ESPIPE, "lseek");
	same(pread(fd, buf, 63, 0) < 0, 1, "pread");
	close(fd);
	fd = open(door.path, O_RDWR | O_TRUNC | O_CLOEXEC);
	ok(fd >= 0, "opening with O_TRUNC is nothing special");
	close(fd);
}

static void requests(void)
{
	struct mirror_info info = { .size = sizeof(info) };
	struct mirror_stats stats = { .size = sizeof(stats) };
	struct mirror_channel channel = { .size = sizeof(channel), .entries = 100 };
	struct mirror_target_info ti = { .size = sizeof(ti) };
	struct mirror_consumer_info ci = { .size = sizeof(ci) };
	struct mirror_table_get table = { .size = sizeof(table) };
	struct mirror_fill fill = { .size = sizeof(fill) };
	struct mirror_arm arm = { .size = sizeof(arm) };
	struct mirror_notifier_remove gone = { .size = sizeof(gone) };
	struct mirror_detach detach = { .size = sizeof(detach) };
	int fd = door_open(&door, O_RDWR), target, id;
	char *p = map_pages(4);

	*p = 1;
	same(call(fd, MIRROR_IOC_INFO, &info), 0, "INFO");
	ok(info.uapi_version == MIRROR_UAPI_VERSION && info.pid == (uint32_t)door.daemon.pid,
	   "it says who is there");
	same(call(fd, MIRROR_IOC_CHANNEL, &channel), 0, "CHANNEL");
	same(channel.entries, 128, "as large as asked for");
	same(call(fd, MIRROR_IOC_CHANNEL, &channel), -EEXIST, "CHANNEL a second time");
	same(insert(fd, 1, p, PAGE), -ESRCH, "NOTIFIER_INSERT before ATTACH");
	target = attach_self(fd);
	ok(target > 0, "ATTACH of ourselves");
	same(attach_pid(fd, getpid(), 0), target, "and again, without a userfaultfd");
	arm.target = ti.target = ci.target = table.target = fill.target = detach.target =
		(uint32_t)target;
	arm.start = fill.start = (uintptr_t)p;
	arm.end = fill.end = (uintptr_t)p + 4 * PAGE;
	same(call(fd, MIRROR_IOC_ARM, &arm), 0, "ARM");
	same(arm.armed, 1, "that was one mapping");
	id = insert(fd, (uint32_t)target, p, 4 * PAGE);
	ok(id > 0, "NOTIFIER_INSERT");
	same(insert(fd, (uint32_t)target, p + 1, PAGE), -EINVAL, "not of whole pages");
	same(call(fd, MIRROR_IOC_TARGET_INFO, &ti), 0, "TARGET_INFO");
	ok(ti.pid == getpid() && ti.consumers == 1 && ti.notifiers == 1, "knows us");
	same(call(fd, MIRROR_IOC_CONSUMER_INFO, &ci), 0, "CONSUMER_INFO");
	ok(ci.pid == getpid() && ci.notifiers == 1, "knows us too");
	same(call(fd, MIRROR_IOC_TABLE, &table), -EOPNOTSUPP, "TABLE: only a socket carries it");
	same(call(fd, MIRROR_IOC_FILL, &fill), 0, "FILL");
	same((long long)fill.pages, 1, "the one page that is there");
	same(call(fd, MIRROR_IOC_STATS, &stats), 0, "STATS");
	ok(stats.channels == 1 && stats.notifiers == 1 && stats.targets == 1, "counts them");
	gone.notifier = (uint32_t)id;
	same(call(fd, MIRROR_IOC_NOTIFIER_REMOVE, &gone), 0, "NOTIFIER_REMOVE");
	same(call(fd, MIRROR_IOC_NOTIFIER_REMOVE, &gone), -ENOENT, "a second time");
	same(call(fd, MIRROR_IOC_DETACH, &detach), 0, "DETACH");
	same(call(fd, MIRROR_IOC_DETACH, &detach), -ESRCH, "a second time");
	close(fd);
	munmap(p, 4 * PAGE);
}

static int attach_numbers(int fd, uint32_t flags, int pidfd, int uffd)
{
	struct mirror_attach attach = {
		.size = sizeof(attach), .flags = flags, .pidfd = pidfd, .uffd = uffd,
	};

	return call(fd, MIRROR_IOC_ATTACH, &attach);
}

static void numbers(void)
{
	const uint32_t fds = MIRROR_ATTACH_F_FDS, self = MIRROR_ATTACH_F_SELF,
		       with_uffd = MIRROR_ATTACH_F_UFFD;
	int fd = door_open(&door, O_RDWR), null = open("/dev/null", O_RDWR | O_CLOEXEC),
	    uffd = raw_uffd(), pidfd = raw_pidfd(getpid()), init = raw_pidfd(1), r;

	same(attach_numbers(fd, fds, 999, 0), -EBADF, "a pidfd that is not open");
	same(attach_numbers(fd, fds, null, 0), -EBADMSG, "a pidfd that is none");
	same(attach_numbers(fd, fds, fd, 0), -EBADMSG, "the device as a pidfd");
	same(attach_numbers(fd, fds | self | with_uffd, -1, 999), -EBADF,
	     "a userfaultfd that is not open");
	same(attach_numbers(fd, fds | self | with_uffd, -1, null), -EBADMSG,
	     "a userfaultfd that is none");
	same(attach_numbers(fd, fds | self | with_uffd, -1, fd), -EBADMSG,
	     "the device as a userfaultfd");
	same(attach_numbers(fd, fds | self | with_uffd, init, uffd), -EPERM,
	     "somebody else as ourselves");
	same(attach_numbers(fd, fds, pidfd, uffd), -E2BIG, "a userfaultfd nobody asked for");
	same(attach_numbers(fd, self, pidfd, 0), -E2BIG, "numbers without saying so");
	same(attach_numbers(fd, 0, 0, 0), -EBADMSG, "nobody at all");
	same(attach_numbers(fd, self | with_uffd, 0, 0), -EBADMSG, "a userfaultfd, and no number");
	same(attach_numbers(fd, self, 0, 0), -ENODATA, "ourselves, with nothing to watch us by");
	r = attach_numbers(fd, self | MIRROR_ATTACH_F_PENDING, 0, 0);
	same(r, 0, "ourselves, later");
	same(attach_numbers(fd, fds | self | with_uffd, pidfd, uffd), 0, "by two numbers");
	close(fd);
	/* over the socket they mean nothing */
	fd = raw_connect(door.daemon.socket);
	r = raw_call(fd, MIRROR_OP_ATTACH, &(struct mirror_attach) {
			     .size = sizeof(struct mirror_attach), .flags = fds },
		     sizeof(struct mirror_attach), &pidfd, 1, NULL);
	same(r, -E2BIG, "numbers over the socket");
	r = raw_call(fd, MIRROR_OP_ATTACH, &(struct mirror_attach) {
			     .size = sizeof(struct mirror_attach), .pidfd = 3 },
		     sizeof(struct mirror_attach), &pidfd, 1, NULL);
	same(r, -E2BIG, "a number over the socket");
	close(fd);
	close(null);
	close(uffd);
	close(pidfd);
	close(init);
}

/* ---- CONNECT ---- */

static int connect_number(int fd, int number)
{
	struct mirror_connect in = { .size = sizeof(in), .socket = number };

	return call(fd, MIRROR_IOC_CONNECT, &in);
}

static void connecting(void)
{
	struct mirror_info info = { .size = sizeof(info) };
	int fd = door_open(&door, O_RDWR), fds[2], target, gate = -1;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		bail("socketpair");
	same(connect_number(fd, fds[1]), 0, "CONNECT of one end of a socketpair");
	close(fds[1]);
	same(raw_call(fds[0], MIRROR_OP_INFO, &info, sizeof(info), NULL, 0, NULL), 0,
	     "the other end is served");
	close(fd);
	same(raw_call(fds[0], MIRROR_OP_INFO, &info, sizeof(info), NULL, 0, NULL), 0,
	     "also after the device is closed");
	target = raw_attach_self(fds[0], &gate);
	ok(target > 0 && gate >= 0, "with descriptors");
	close(gate);
	close(fds[0]);
}

static int seqpacket_listener(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = "\0mirror-test" };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	/* a name the kernel chooses */
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa.sun_family)) < 0 || listen(fd, 1) < 0)
		bail("listen: %s", strerror(errno));
	return fd;
}

static void bad_sockets(void)
{
	int fd = door_open(&door, O_RDWR), fds[2], lonely, pipes[2], status;
	pid_t pid;

	same(connect_number(fd, 999), -EBADF, "CONNECT of nothing");
	same(connect_number(fd, -1), -EBADF, "of no number at all");
	same(connect_number(fd, fd), -EBADMSG, "of the device itself");
	if (pipe(pipes) < 0)
		bail("pipe");
	same(connect_number(fd, pipes[0]), -EBADMSG, "of a pipe");
	close(pipes[0]);
	close(pipes[1]);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
		bail("socketpair");
	same(connect_number(fd, fds[1]), -EBADMSG, "of a stream");
	close(fds[0]);
	close(fds[1]);
	lonely = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	same(connect_number(fd, lonely), -EBADMSG, "of a socket that is not connected");
	close(lonely);
	lonely = seqpacket_listener();
	same(connect_number(fd, lonely), -EBADMSG, "of a listening socket");
	close(lonely);
	lonely = socket(AF_INET, SOCK_DGRAM, 0);
	if (lonely >= 0)
		same(connect_number(fd, lonely), -EBADMSG, "of an internet socket");
	close(lonely);
	close(fd);

	/* it bears the name of who made it */
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fds) < 0)
		bail("socketpair");
	pid = child_fork();
	if (!pid)
		_exit(-connect_number(door_open(&door, O_RDWR), fds[1]));
	status = child_wait(pid, 20000);
	same(status >> 8, EPERM, "of a socket that another process made");
	close(fds[0]);
	close(fds[1]);
}

/* ---- who calls ---- */

static void *call_from_thread(void *arg)
{
	*(int *)arg = attach_self(*(int *)arg);
	return NULL;
}

/* The number means something in this thread's table, and something else in the others'. */
static void *call_with_own_table(void *arg)
{
	int fd = *(int *)arg, uffd;

	if (unshare(CLONE_FILES) < 0)
		return NULL;
	uffd = raw_uffd();
	*(int *)arg = attach_numbers(fd, MIRROR_ATTACH_F_FDS | MIRROR_ATTACH_F_SELF |
				     MIRROR_ATTACH_F_UFFD, -1, uffd);
	return NULL;
}

static void threads(void)
{
	int fd = door_open(&door, O_RDWR), r = fd;
	pthread_t thread;

	pthread_create(&thread, NULL, call_from_thread, &r);
	pthread_join(thread, NULL);
	ok(r > 0, "another thread attaches the process");
	close(fd);
	fd = r = door_open(&door, O_RDWR);
	pthread_create(&thread, NULL, call_with_own_table, &r);
	pthread_join(thread, NULL);
	if (syscall(SYS_pidfd_open, getpid(), O_EXCL /* PIDFD_THREAD */) < 0)
		skip("before 6.9 no pidfd means a thread", "a thread with a table of its own");
	else
		same(r, 0, "numbers are of the calling thread's table");
	close(fd);
}

static void become(uid_t uid)
{
	if (setgroups(0, NULL) < 0 || setgid(uid) < 0 || setuid(uid) < 0)
		_exit(127);
}

static int info_of(int fd)
{
	struct mirror_info info = { .size = sizeof(info) };

	return call(fd, MIRROR_IOC_INFO, &info);
}

/* What a process with an inherited file may do: 0, or the step that went wrong. */
static int inherit(int fd, int target, char *p, uid_t uid)
{
	uint64_t arg[64] = { 0 };

	if (uid) {
		become(uid);
		if (info_of(fd) != -EPERM || attach_self(fd) != -EPERM)
			return 1;
		return call(fd, 0x5401, arg) == -ENOTTY ? 0 : 2;
	}
	if (info_of(fd) != 0)
		return 3;
	/* it is not the client, whatever it says */
	if (attach_self(fd) != -EPERM ||
	    attach_pid(fd, getpid(), MIRROR_ATTACH_F_SELF | MIRROR_ATTACH_F_PENDING) != -EPERM)
		return 4;
	if (attach_pid(fd, getpid(), 0) != -ENODATA)
		return 5;
	return insert(fd, (uint32_t)target, p, PAGE) > 0 ? 0 : 6;
}

static void inheriting(void)
{
	int fd = door_open(&door, O_RDWR), target = attach_self(fd);
	char *p = map_pages(1);
	pid_t pid;

	pid = child_fork();
	if (!pid)
		_exit(inherit(fd, target, p, 0));
	same(child_wait(pid, 20000) >> 8, 0, "a child goes on with it, but not as its opener");
	pid = child_fork();
	if (!pid)
		_exit(inherit(fd, target, p, NOBODY));
	same(child_wait(pid, 20000) >> 8, 0, "another user's process may do nothing with it");
	close(fd);
	munmap(p, PAGE);
}

static int as_nobody(pid_t root)
{
	int fd, r;

	become(NOBODY);
	fd = door_open(&door, O_RDWR);
	if (attach_self(fd) <= 0)
		return 1;
	r = attach_pid(fd, root, MIRROR_ATTACH_F_PENDING);
	return r == -EPERM ? 0 : 2;
}

static void other_user(void)
{
	pid_t root = getpid(), pid = child_fork();

	if (!pid)
		_exit(as_nobody(root));
	same(child_wait(pid, 20000) >> 8, 0, "another user watches itself, and not root");
}

int main(int argc, char **argv)
{
	int fd;

	test_begin(argc, argv, 100, 100);
	door_init(&door);
	door_start(&door, NULL);
	forms();
	other_calls();
	requests();
	numbers();
	connecting();
	bad_sockets();
	threads();
	inheriting();
	other_user();
	fd = raw_connect(door.daemon.socket);
	check_empty(fd, "after all this");
	close(fd);
	same(daemon_stop(&door.daemon), 0, "the daemon ends in good order");
	ok(access(door.path, F_OK) < 0, "and takes the device with it");
	return test_end();
}
