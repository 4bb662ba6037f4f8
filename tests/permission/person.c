/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <mirror/uapi/ring.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "scene.h"

#define SPOT		((char *)0x200000000UL)	/* where every person has its page */
#define WAIT_MS		30000

/* ---- talking ---- */

struct line {
	int deed, arg;
};

static int say(int sock, int deed, int arg, int fd)
{
	struct line line = { deed, arg };

	return raw_send(sock, &line, sizeof(line), &fd, fd >= 0);
}

/* 1, or 0 when the other is gone. */
static int hear(int sock, struct line *ret_line, int *ret_fd)
{
	union {
		struct cmsghdr align;
		char raw[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = ret_line, .iov_len = sizeof(*ret_line) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;

	*ret_fd = -1;
	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) != sizeof(*ret_line))
		return 0;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (cmsg)
		memcpy(ret_fd, CMSG_DATA(cmsg), sizeof(*ret_fd));
	return 1;
}

int ask_with(struct person *p, enum deed deed, int arg, int fd, int *ret_fd)
{
	struct line line;
	int back = -1;

	if (say(p->sock, (int)deed, arg, fd) < 0 || !hear(p->sock, &line, &back))
		bail("person %d is gone (deed %d)", (int)p->pid, (int)deed);
	if (ret_fd)
		*ret_fd = back;
	else if (back >= 0)
		close(back);
	return line.arg;
}

int ask(struct person *p, enum deed deed, int arg)
{
	return ask_with(p, deed, arg, -1, NULL);
}

int ask_attach(struct person *who, struct person *whom, uint32_t flags)
{
	return ask_with(who, DO_ATTACH, (int)flags, whom->pidfd, NULL);
}

/* ---- a person ---- */

struct self {
	int sock;		/* to who tells us what to do */
	int conn;
	const struct mirror_ring_hdr *ring;
	uint32_t notifier;
	int opened;		/* the last of many */
};

static void map_spot(void)
{
	if (mmap(SPOT, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		 -1, 0) != SPOT)
		_exit(90);
	*SPOT = 1;
}

static int do_attach(struct self *me, int pidfd, uint32_t flags)
{
	struct mirror_attach attach = { .size = sizeof(attach), .flags = flags };
	int fds[] = { pidfd, -1 }, r;
	struct reply reply;
	bool uffd = flags & MIRROR_ATTACH_F_UFFD;

	if (uffd)
		fds[1] = raw_uffd();
	r = raw_call(me->conn, MIRROR_OP_ATTACH, &attach, sizeof(attach), fds, uffd ? 2 : 1,
		     &reply);
	if (r == 0)
		reply_close(&reply);
	close(fds[1]);
	return r < 0 ? r : (int)attach.target;
}

static int do_detach(struct self *me, int target)
{
	struct mirror_detach detach = { .size = sizeof(detach), .target = (uint32_t)target };

	return raw_call(me->conn, MIRROR_OP_DETACH, &detach, sizeof(detach), NULL, 0, NULL);
}

static int do_see(struct self *me, int target)
{
	struct mirror_target_info info = { .size = sizeof(info), .target = (uint32_t)target };

	return raw_call(me->conn, MIRROR_OP_TARGET_INFO, &info, sizeof(info), NULL, 0, NULL);
}

static int do_ring(struct self *me)
{
	struct reply reply;
	int r = raw_channel(me->conn, 1024, &reply);

	if (r < 0)
		return r;
	me->ring = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, reply.fds[0], 0);
	reply_close(&reply);
	return me->ring == MAP_FAILED ? -errno : 0;
}

static int do_count(struct self *me)
{
	struct mirror_stats s = { .size = sizeof(s) };
	int r;

	/* what was read before this is answered is in the ring then */
	r = raw_call(me->conn, MIRROR_OP_STATS, &s, sizeof(s), NULL, 0, NULL);
	return r < 0 ? r : (int)__atomic_load_n(&me->ring->tail, __ATOMIC_ACQUIRE);
}

static int do_fill(struct self *me, int target)
{
	struct mirror_fill fill = {
		.size = sizeof(fill), .target = (uint32_t)target,
		.start = (uintptr_t)SPOT, .end = (uintptr_t)SPOT + PAGE,
	};
	int r;

	r = raw_call(me->conn, MIRROR_OP_FILL, &fill, sizeof(fill), NULL, 0, NULL);
	return r < 0 ? r : (int)fill.pages;
}

static int do_unwatch(struct self *me)
{
	struct mirror_notifier_remove remove = { .size = sizeof(remove), .notifier = me->notifier };

	return raw_call(me->conn, MIRROR_OP_NOTIFIER_REMOVE, &remove, sizeof(remove), NULL, 0,
			NULL);
}

static int do_clear(int n)
{
	for (int i = 0; i < n; i++) {
		*(volatile char *)SPOT = 1;
		if (madvise(SPOT, PAGE, MADV_DONTNEED) < 0)
			return -errno;
	}
	return 0;
}

static int do_open_many(struct self *me, int max)
{
	int fd = 0, n;

	for (n = 0; n < max; n++) {
		fd = device_open();
		if (fd < 0)
			break;
		me->opened = fd;
	}
	return fd == -EDQUOT ? n : fd < 0 ? fd : -ENOMSG;
}

static int do_unmap(void)
{
	if (munmap(SPOT, PAGE) < 0)
		return -errno;
	map_spot();
	return 0;
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		r = -errno;
	close(fd);
	return r;
}

int become_root_in_namespace(void)
{
	char text[64];
	uid_t uid = getuid();
	int r;

	if (unshare(CLONE_NEWUSER) < 0)
		return -errno;
	r = write_file("/proc/self/setgroups", "deny");
	snprintf(text, sizeof(text), "0 %u 1", uid);
	if (r == 0)
		r = write_file("/proc/self/uid_map", text);
	if (r == 0)
		r = write_file("/proc/self/gid_map", text);
	return r;
}

/* Of a parent that became another user no signal comes. */
static int wait_for_end(void *data)
{
	struct pollfd pollfd = { .fd = *(int *)data };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (poll(&pollfd, 1, -1) <= 0)	/* until who told us is gone */
		;
	_exit(0);
}

static int do_child(struct self *me, bool shared, int *ret_fd)
{
	static char stack[16384] __attribute__((__aligned__(16)));
	pid_t pid;

	if (shared)
		pid = clone(wait_for_end, stack + sizeof(stack), CLONE_VM | SIGCHLD, &me->sock);
	else
		pid = fork();
	if (pid == 0)
		wait_for_end(&me->sock);
	if (pid < 0)
		return -errno;
	*ret_fd = raw_pidfd(pid);
	return (int)pid;
}

static int do_ptrace(pid_t pid)
{
	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0)
		return -errno;
	ptrace(PTRACE_INTERRUPT, pid, NULL, NULL);
	waitpid(pid, NULL, __WALL);
	return ptrace(PTRACE_DETACH, pid, NULL, NULL) < 0 ? -errno : 0;
}

/* The same person, in another program. */
static int do_exec(struct self *me, int program)
{
	char path[64], sock[16], conn[16];

	snprintf(path, sizeof(path), "%s/program%d", d.dir, program);
	snprintf(sock, sizeof(sock), "%d", me->sock);
	snprintf(conn, sizeof(conn), "%d", me->conn);
	fcntl(me->sock, F_SETFD, 0);
	fcntl(me->conn, F_SETFD, 0);
	execl(path, "person", d.dir, sock, conn, NULL);
	return -errno;
}

static int do_become(void)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();

	if (setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
		return -errno;
	return 0;
}

static int do_offer(int fd)
{
	int device = device_open(), r;

	if (device < 0)
		return device;
	r = device_connect(device, fd);
	close(device);
	return r;
}

static int do_with_fd(struct self *me, const struct line *line, int fd, int *ret_fd)
{
	switch (line->deed) {
	case DO_TAKE_CONNECTION:
		me->conn = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		return me->conn < 0 ? -errno : 0;
	case DO_GIVE_CONNECTION:
		*ret_fd = fcntl(me->conn, F_DUPFD_CLOEXEC, 0);
		return 0;
	case DO_ATTACH:
		return do_attach(me, fd, (uint32_t)line->arg);
	case DO_CHILD:
	case DO_SHARED_CHILD:
		return do_child(me, line->deed == DO_SHARED_CHILD, ret_fd);
	case DO_OPEN_DEVICE:
		*ret_fd = device_open();
		return *ret_fd < 0 ? *ret_fd : 0;
	case DO_USE_DEVICE:
		me->conn = device_connect_by(fd);
		return me->conn < 0 ? me->conn : 0;
	case DO_OFFER:
		return do_offer(fd);
	}
	return -ENOSYS;
}

static int do_it(struct self *me, const struct line *line, int fd, int *ret_fd)
{
	switch (line->deed) {
	case DO_NOTHING:
		return 0;
	case DO_CONNECT:
		me->conn = way_connect((enum way)line->arg);
		return me->conn < 0 ? me->conn : 0;
	case DO_ATTACH_SELF:
		return raw_attach_self(me->conn, NULL);
	case DO_DETACH:
		return do_detach(me, line->arg);
	case DO_SEE:
		return do_see(me, line->arg);
	case DO_RING:
		return do_ring(me);
	case DO_WATCH:
		return raw_insert(me->conn, (uint32_t)line->arg, (uintptr_t)SPOT,
				  (uintptr_t)SPOT + PAGE, &me->notifier);
	case DO_UNWATCH:
		return do_unwatch(me);
	case DO_CLEAR:
		return do_clear(line->arg);
	case DO_OPEN_MANY:
		return do_open_many(me, line->arg);
	case DO_CLOSE_ONE:
		return close(me->opened) < 0 ? -errno : 0;
	case DO_UNMAP:
		return do_unmap();
	case DO_COUNT:
		return do_count(me);
	case DO_FILL:
		return do_fill(me, line->arg);
	case DO_DUMPABLE:
		return prctl(PR_SET_DUMPABLE, line->arg) < 0 ? -errno : 0;
	case DO_USER_NAMESPACE:
		return become_root_in_namespace();
	case DO_PTRACE:
		return do_ptrace((pid_t)line->arg);
	case DO_EXEC:
		return do_exec(me, line->arg);
	case DO_BECOME:
		return do_become();
	}
	return do_with_fd(me, line, fd, ret_fd);
}

static void __attribute__((__noreturn__)) serve(struct self *me)
{
	struct line line;
	int fd, back, r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map_spot();
	while (hear(me->sock, &line, &fd)) {
		back = -1;
		r = do_it(me, &line, fd, &back);
		if (say(me->sock, line.deed, r, back) < 0)
			break;
		close(fd);
		close(back);
	}
	_exit(0);
}

void scene_person(int argc, char **argv)
{
	struct self me = { .conn = -1 };

	if (argc != 4 || strcmp(argv[0], "person"))
		return;
	scene_take(argv[1]);
	me.sock = atoi(argv[2]);
	me.conn = atoi(argv[3]);
	say(me.sock, DO_EXEC, 0, -1);
	serve(&me);
}

static void become(uid_t uid, int how)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2] = { { .effective = 0 } };
	gid_t gid = how == OTHER_GROUP ? BOB : uid;

	if (how == WITH_PTRACE)
		caps[0].permitted = caps[0].effective = 1U << CAP_SYS_PTRACE;
	if (prctl(PR_SET_KEEPCAPS, how == WITH_PTRACE) < 0 || setgroups(0, NULL) < 0 ||
	    setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, how == SAVED_USER ? BOB : uid) < 0)
		_exit(91);
	if ((how == WITH_PTRACE || how == WITHOUT_PTRACE) &&
	    syscall(SYS_capset, &head, caps) < 0)
		_exit(92);
	prctl(PR_SET_DUMPABLE, 1);
}

static pid_t fork_as(pid_t pid)
{
	struct clone_args args = {
		.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&pid, .set_tid_size = 1,
	};

	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

/* Says who does it: at times a child of our child. */
static void enter(int sock, uid_t uid, int how, pid_t wanted)
{
	struct self me = { .sock = sock, .conn = -1 };
	pid_t pid = 0;

	if (how == WITH_PID)
		pid = fork_as(wanted);
	if (how == IN_PID_NAMESPACE)
		pid = unshare(CLONE_NEWPID) < 0 ? -1 : fork();
	if (pid < 0)
		_exit(93);
	if (pid) {
		say(sock, DO_NOTHING, (int)pid, -1);
		close(sock);
		waitpid(pid, NULL, 0);
		_exit(0);
	}
	if (how != IN_PID_NAMESPACE && how != WITH_PID)
		say(sock, DO_NOTHING, (int)getpid(), -1);
	become(uid, how);
	serve(&me);
}

void person_start(struct person *p, uid_t uid, int how)
{
	struct line line;
	int pair[2], fd;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		bail("socketpair: %s", strerror(errno));
	p->keeper = child_fork();
	if (!p->keeper) {
		/* not what other persons hear us by */
		close_range(3, (unsigned int)pair[1] - 1, 0);
		close_range((unsigned int)pair[1] + 1, ~0U, 0);
		enter(pair[1], uid, how, p->pid);
	}
	close(pair[1]);
	p->sock = pair[0];
	if (!hear(p->sock, &line, &fd))
		bail("a person does not start");
	p->pid = (pid_t)line.arg;
	p->pidfd = raw_pidfd(p->pid);
	ask(p, DO_NOTHING, 0);
}

void person_end(struct person *p)
{
	int status;

	close(p->sock);
	close(p->pidfd);
	status = child_wait(p->keeper, WAIT_MS);
	if (status)
		ok(false, "a person ended with %#x", (unsigned int)status);
}

void person_meet(struct person *p, uid_t uid, int how, enum way way)
{
	person_start(p, uid, how);
	same(ask(p, DO_CONNECT, (int)way), 0, "%s: user %u connects", way_name(way), uid);
}

/* What attaching to @whom comes to; detached again if it went well. */
static int may(struct person *who, struct person *whom)
{
	int target = ask_attach(who, whom, MIRROR_ATTACH_F_PENDING);

	if (target <= 0)
		return target;
	return ask(who, DO_DETACH, target);
}

void judge(struct person *who, struct person *whom, bool allowed, const char *what)
{
	same(ask(who, DO_PTRACE, (int)whom->pid), allowed ? 0 : -EPERM, "%s: for ptrace(2)", what);
	same(may(who, whom), allowed ? 0 : -EPERM, "%s: for mirrord", what);
}
