/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Malformed requests
 *
 * Each gets the errno that uapi/ioctl.h promises, the connection goes on, and nobody
 * else notices.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "raw.h"

#define SOME	0x10000000UL	/* an address; nothing needs to be there */
#define TOP	0x7ffffffff000UL

static struct daemon d;
static int sock;
static uint32_t target;

static const struct {
	uint32_t op;
	size_t size;
	const char *name;
} ops[] = {
	{ MIRROR_OP_INFO, sizeof(struct mirror_info), "INFO" },
	{ MIRROR_OP_CHANNEL, sizeof(struct mirror_channel), "CHANNEL" },
	{ MIRROR_OP_ATTACH, sizeof(struct mirror_attach), "ATTACH" },
	{ MIRROR_OP_DETACH, sizeof(struct mirror_detach), "DETACH" },
	{ MIRROR_OP_NOTIFIER_INSERT, sizeof(struct mirror_notifier_insert), "NOTIFIER_INSERT" },
	{ MIRROR_OP_NOTIFIER_REMOVE, sizeof(struct mirror_notifier_remove), "NOTIFIER_REMOVE" },
	{ MIRROR_OP_ARM, sizeof(struct mirror_arm), "ARM" },
	{ MIRROR_OP_TARGET_INFO, sizeof(struct mirror_target_info), "TARGET_INFO" },
	{ MIRROR_OP_STATS, sizeof(struct mirror_stats), "STATS" },
	{ MIRROR_OP_TABLE, sizeof(struct mirror_table_get), "TABLE" },
	{ MIRROR_OP_FILL, sizeof(struct mirror_fill), "FILL" },
	{ MIRROR_OP_CONSUMER_INFO, sizeof(struct mirror_consumer_info), "CONSUMER_INFO" },
};

#define N_OPS	(sizeof(ops) / sizeof(ops[0]))

/* The struct of an operation with its size set and zeros otherwise. */
static void *blank(unsigned int i)
{
	static uint64_t payload[MIRROR_MSG_MAX / 8];
	uint32_t size = (uint32_t)ops[i].size;

	memset(payload, 0, sizeof(payload));
	memcpy(payload, &size, sizeof(size));
	return payload;
}

/* The error of whatever comes back for these bytes. */
static int answer_to(const void *bytes, size_t n, const int *fds, unsigned int n_fds)
{
	struct reply reply;
	int r;

	r = raw_send(sock, bytes, n, fds, n_fds);
	if (r == 0)
		r = raw_recv(sock, &reply);
	if (r <= 0)
		return r < 0 ? r : -EPIPE;
	reply_close(&reply);
	return -reply.msg.error;
}

static void packets(void)
{
	struct {
		struct mirror_msg msg;
		uint8_t payload[1024];
	} p = { .msg = { .size = sizeof(struct mirror_msg) } };
	int fds[RAW_FDS];

	for (size_t n = 1; n < sizeof(p.msg); n += 7)
		same(answer_to(&p, n, NULL, 0), -EBADMSG, "a packet of %zu bytes", n);
	same(answer_to(&p, sizeof(p.msg), NULL, 0), -EBADMSG, "a head without its struct");
	p.msg.size = 0;
	same(answer_to(&p, sizeof(p.msg), NULL, 0), -EBADMSG, "a head that says 0 bytes");
	p.msg.size = sizeof(p);
	same(answer_to(&p, sizeof(p), NULL, 0), -EBADMSG, "a packet of %zu bytes", sizeof(p));
	p.msg.size = MIRROR_MSG_MAX + 1;
	same(answer_to(&p, MIRROR_MSG_MAX + 1, NULL, 0), -EBADMSG, "one byte too many");
	p.msg.size = MIRROR_MSG_MAX;
	same(answer_to(&p, MIRROR_MSG_MAX, NULL, 0), -EBADMSG, "the longest packet there is");
	p.msg.size = UINT32_MAX;
	same(answer_to(&p, 64, NULL, 0), -EBADMSG, "a head that says 4 GiB");

	p.msg = (struct mirror_msg) { .size = sizeof(p.msg), .op = MIRROR_OP_CONSUMER_INFO + 1 };
	same(answer_to(&p, sizeof(p.msg), NULL, 0), -ENOTTY, "the first unknown operation");
	p.msg.op = UINT32_MAX;
	same(answer_to(&p, sizeof(p.msg), NULL, 0), -ENOTTY, "the last unknown operation");

	for (unsigned int i = 0; i < RAW_FDS; i++)
		fds[i] = sock;
	p.msg = (struct mirror_msg) {
		.size = sizeof(p.msg) + sizeof(struct mirror_stats), .op = MIRROR_OP_STATS,
	};
	((struct mirror_stats *)(void *)p.payload)->size = sizeof(struct mirror_stats);
	same(answer_to(&p, p.msg.size, fds, 1), -EBADMSG, "a descriptor that nobody wants");
	same(answer_to(&p, p.msg.size, fds, RAW_FDS), -EBADMSG, "eight descriptors");
	p.msg.error = 5;
	same(answer_to(&p, p.msg.size, NULL, 0), -EBADMSG, "a request with an error");
}

static void sizes(void)
{
	for (unsigned int i = 0; i < N_OPS; i++) {
		uint32_t *payload = blank(i);

		same(raw_call(sock, ops[i].op, payload, ops[i].size - 8, NULL, 0, NULL), -EBADMSG,
		     "%s: struct too short", ops[i].name);
		same(raw_call(sock, ops[i].op, payload, ops[i].size + 8, NULL, 0, NULL), -EBADMSG,
		     "%s: struct too long", ops[i].name);
		payload[0] = 0;
		same(raw_call(sock, ops[i].op, payload, ops[i].size, NULL, 0, NULL), -E2BIG,
		     "%s: size 0", ops[i].name);
		payload[0] = (uint32_t)ops[i].size + 8;
		same(raw_call(sock, ops[i].op, payload, ops[i].size, NULL, 0, NULL), -E2BIG,
		     "%s: size of a newer struct", ops[i].name);
	}
}

static void reserved(void)
{
	for (unsigned int i = 0; i < N_OPS; i++) {
		uint32_t *payload = blank(i);
		int fds[] = { raw_pidfd(getpid()) };
		unsigned int n_fds = ops[i].op == MIRROR_OP_ATTACH;

		payload[1] = 0x80000000;
		same(raw_call(sock, ops[i].op, payload, ops[i].size, fds, n_fds, NULL), -E2BIG,
		     "%s: unknown flag", ops[i].name);
		payload = blank(i);
		((uint8_t *)payload)[ops[i].size - 1] = 1;	/* each ends with reserved room */
		same(raw_call(sock, ops[i].op, payload, ops[i].size, fds, n_fds, NULL), -E2BIG,
		     "%s: reserved room used", ops[i].name);
		close(fds[0]);
	}
}

static void values(void)
{
	struct mirror_channel channel = { .size = sizeof(channel), .entries = 65537 };
	struct mirror_detach detach = { .size = sizeof(detach), .target = 4711 };
	struct mirror_notifier_remove remove = { .size = sizeof(remove), .notifier = 4711 };
	struct mirror_target_info info = { .size = sizeof(info), .target = 4711 };
	struct mirror_arm arm = { .size = sizeof(arm), .target = 4711, .end = PAGE };
	struct reply reply;

#define CALL(_op, _s) raw_call(sock, _op, &(_s), sizeof(_s), NULL, 0, NULL)
	same(CALL(MIRROR_OP_CHANNEL, channel), -EINVAL, "a ring that is too large");
	channel.entries = UINT32_MAX;
	same(CALL(MIRROR_OP_CHANNEL, channel), -EINVAL, "a ring of 256 GiB");
	channel.entries = 16;
	channel.numa_node = 0x80000000;
	same(CALL(MIRROR_OP_CHANNEL, channel), -EINVAL, "a node that cannot be");
	same(raw_insert(sock, target, SOME, SOME + PAGE, NULL), -ENOTCONN,
	     "a notifier without a ring");
	same(raw_channel(sock, 16, &reply), 0, "a ring");
	reply_close(&reply);
	same(raw_channel(sock, 16, &reply), -EEXIST, "a second ring");
	same(CALL(MIRROR_OP_DETACH, detach), -ESRCH, "detaching from no target");
	same(CALL(MIRROR_OP_NOTIFIER_REMOVE, remove), -ENOENT, "removing no notifier");
	remove.notifier = 0;
	same(CALL(MIRROR_OP_NOTIFIER_REMOVE, remove), -ENOENT, "removing notifier 0");
	remove.notifier = UINT32_MAX;
	same(CALL(MIRROR_OP_NOTIFIER_REMOVE, remove), -ENOENT, "removing the last notifier");
	same(CALL(MIRROR_OP_TARGET_INFO, info), -ESRCH, "asking for no target");
	same(CALL(MIRROR_OP_ARM, arm), -ESRCH, "arming no target");
	same(raw_insert(sock, 4711, SOME, SOME + PAGE, NULL), -ESRCH, "watching no target");
#undef CALL
}

static void ranges(void)
{
	static const struct {
		uint64_t start, end;
		const char *name;
	} bad[] = {
		{ SOME, SOME, "empty" },
		{ 0, 0, "zero" },
		{ SOME + PAGE, SOME, "backwards" },
		{ SOME + 1, SOME + PAGE, "start not aligned" },
		{ SOME, SOME + PAGE + 8, "end not aligned" },
		{ SOME, UINT64_MAX & ~(PAGE - 1), "beyond user space" },
		{ UINT64_MAX & ~(PAGE - 1), PAGE, "wraps" },
		{ SOME, UINT64_MAX, "all ones" },
	};

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct mirror_arm arm = {
			.size = sizeof(arm), .target = target,
			.start = bad[i].start, .end = bad[i].end,
		};

		same(raw_insert(sock, target, bad[i].start, bad[i].end, NULL), -EINVAL,
		     "watching a range: %s", bad[i].name);
		same(raw_call(sock, MIRROR_OP_ARM, &arm, sizeof(arm), NULL, 0, NULL), -EINVAL,
		     "arming a range: %s", bad[i].name);
	}
	same(raw_insert(sock, target, 0, TOP, NULL), 0, "watching everything");
	same(raw_insert(sock, target, 0, PAGE, NULL), 0, "watching page 0");
}

/* ---- attaching ---- */

static int attach(uint32_t flags, const int *fds, unsigned int n_fds)
{
	struct mirror_attach a = { .size = sizeof(a), .flags = flags };

	return raw_call(sock, MIRROR_OP_ATTACH, &a, sizeof(a), fds, n_fds, NULL);
}

static pid_t sleeper(uid_t uid)
{
	int pipe_fds[2];
	pid_t pid;
	char c;

	if (pipe(pipe_fds) < 0)
		bail("pipe");
	pid = child_fork();
	if (!pid) {
		if (uid && (setgid(uid) < 0 || setuid(uid) < 0))
			_exit(1);
		if (write(pipe_fds[1], "x", 1) < 0)
			_exit(1);
		for (;;)
			pause();
	}
	if (read(pipe_fds[0], &c, 1) != 1)
		bail("no child");
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	return pid;
}

static void descriptors(void)
{
	const uint32_t U = MIRROR_ATTACH_F_UFFD, P = MIRROR_ATTACH_F_PENDING;
	int me = raw_pidfd(getpid()), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int event = eventfd(0, EFD_CLOEXEC), uffd = raw_uffd(), pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
		bail("socketpair");
	same(attach(P, NULL, 0), -EBADMSG, "attach: no descriptor");
	same(attach(P, (int[]) { me, uffd }, 2), -EBADMSG, "attach: one too many");
	same(attach(U, (int[]) { me }, 1), -EBADMSG, "attach: one missing");
	same(attach(U, (int[]) { me, uffd, uffd }, 3), -EBADMSG, "attach: three");
	same(attach(P, &null, 1), -EBADMSG, "attach: /dev/null for a pidfd");
	same(attach(P, &event, 1), -EBADMSG, "attach: an eventfd for a pidfd");
	same(attach(P, &uffd, 1), -EBADMSG, "attach: a userfaultfd for a pidfd");
	same(attach(U, (int[]) { uffd, me }, 2), -EBADMSG, "attach: both the wrong way round");
	same(attach(U, (int[]) { me, null }, 2), -EBADMSG, "attach: /dev/null for a userfaultfd");
	same(attach(U, (int[]) { me, event }, 2), -EBADMSG,
	     "attach: an eventfd for a userfaultfd");
	same(attach(U, (int[]) { me, pair[0] }, 2), -EBADMSG,
	     "attach: a socket for a userfaultfd");
	same(attach(0, &me, 1), -ENODATA, "attach: no userfaultfd at all");
	close(me);
	close(null);
	close(event);
	close(uffd);
	close(pair[0]);
	close(pair[1]);
}

static void used_uffd(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fds[] = { raw_pidfd(getpid()), raw_uffd() };

	if (ioctl(fds[1], UFFDIO_API, &api) < 0)
		bail("UFFDIO_API");
	same(attach(MIRROR_ATTACH_F_UFFD | MIRROR_ATTACH_F_SELF, fds, 2), -EINVAL,
	     "attach: a userfaultfd that is in use");
	close(fds[0]);
	close(fds[1]);
}

static void processes(void)
{
	pid_t child = sleeper(0);
	int fd = raw_pidfd(child);
	siginfo_t si;

	same(attach(MIRROR_ATTACH_F_SELF | MIRROR_ATTACH_F_PENDING, &fd, 1), -EPERM,
	     "attach: somebody else as ourselves");
	kill(child, SIGKILL);
	waitid(P_PID, (id_t)child, &si, WEXITED | WNOWAIT);
	same(attach(MIRROR_ATTACH_F_PENDING, &fd, 1), -ESRCH, "attach: a zombie");
	child_kill(child);
	same(attach(MIRROR_ATTACH_F_PENDING, &fd, 1), -ESRCH, "attach: a process that is gone");
	close(fd);
}

/* As an ordinary user, in a child: the number of wrong answers. */
static int strangers(pid_t other, uint32_t theirs)
{
	struct mirror_target_info info = { .size = sizeof(info), .target = theirs };
	struct mirror_attach a = { .size = sizeof(a), .flags = MIRROR_ATTACH_F_PENDING };
	int fds[] = { raw_pidfd(1), raw_pidfd(other) }, wrong = 0, s;

	if (raw_try_connect(d.socket, &s) < 0)
		return 50;
	for (int i = 0; i < 2; i++)
		wrong += raw_call(s, MIRROR_OP_ATTACH, &a, sizeof(a), &fds[i], 1, NULL) != -EPERM;
	wrong += raw_call(s, MIRROR_OP_TARGET_INFO, &info, sizeof(info), NULL, 0, NULL) != -ESRCH;
	info = (struct mirror_target_info) { .size = sizeof(info), .flags = 1 };
	wrong += raw_call(s, MIRROR_OP_TARGET_INFO, &info, sizeof(info), NULL, 0, NULL) != -ESRCH;
	wrong += raw_insert(s, theirs, SOME, SOME + PAGE, NULL) != -ENOTCONN;
	/* its own child is its own, though */
	a = (struct mirror_attach) { .size = sizeof(a), .flags = MIRROR_ATTACH_F_PENDING };
	fds[0] = raw_pidfd(getpid());
	wrong += raw_call(s, MIRROR_OP_ATTACH, &a, sizeof(a), &fds[0], 1, NULL) != 0;
	return wrong;
}

static void users(void)
{
	pid_t other, pid;

	if (getuid()) {
		skip("only root can become other users", "attach: processes of other users");
		return;
	}
	other = sleeper(65533);
	pid = child_fork();
	if (!pid) {
		if (setgid(65534) < 0 || setuid(65534) < 0)
			_exit(77);
		_exit(strangers(other, target));
	}
	same(child_wait(pid, 30000), 0, "attach: EPERM for processes of other users");
	child_kill(other);
}

int main(int argc, char **argv)
{
	int r;

	test_begin(argc, argv, 120, 120);
	daemon_init(&d);
	daemon_start(&d, NULL);
	sock = raw_connect(d.socket);
	packets();
	sizes();
	reserved();
	descriptors();
	used_uffd();
	processes();
	r = raw_attach_self(sock, NULL);
	if (!ok(r > 0, "after all that, attaching works"))
		note("error %d", -r);
	target = r > 0 ? (uint32_t)r : 0;
	values();
	ranges();
	users();
	check_service(&d, "bad input", 0);
	close(sock);
	sock = raw_connect(d.socket);
	check_empty(sock, "bad input");
	ok(daemon_is_alive(&d), "the daemon lives");
	close(sock);
	same(daemon_stop(&d), 0, "and ends when asked to");
	return test_end();
}
