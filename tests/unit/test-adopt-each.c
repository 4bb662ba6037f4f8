/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A manager is killed before and after each of its system calls, while it serves
 *
 * A client that is its own target makes a ring, attaches, watches, changes memory, forks,
 * and takes all back.  It must come through, whenever the manager is killed: its answers
 * come, or it asks again; its system calls return; each change is told, or OVERFLOW is.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include "adopt-scene.h"
#include "procfs.h"
#include "shm.h"
#include "uffd.h"
#include "unit.h"

#define PAGES 4
#define PATIENCE_NS 20000000000ULL
#define TURN_MS 1

/* ---- the client ---- */

struct session {
	int sock;
	uint32_t serial, target;
	const struct mirror_ring_hdr *hdr;
	struct mirror_ring_cons *cons;
	const uint8_t *slots;
	const struct mirror_gate *gate;
	char *memory;
	int kick;
};

/* What the test says of it. */
static void give_up(const char *what, int r)
{
	fprintf(stderr, "# client: %s: %d\n", what, r);
	_exit(1);
}

static void receive(struct session *s, struct packet *reply)
{
	struct pollfd pfd = { .fd = s->sock, .events = POLLIN };
	int r;

	do {
		if (poll(&pfd, 1, (int)(PATIENCE_NS / 1000000)) <= 0)
			give_up("no answer", (int)reply->u.msg.op);
		r = packet_recv(s->sock, reply, 0);
		if (r <= 0)
			give_up("hung up", r);
		/* one that was answered already */
		if (reply->u.msg.serial != s->serial)
			packet_clear(reply);
	} while (reply->u.msg.serial != s->serial);
}

/* 0, ERESTART or what was refused. */
static int ask(struct session *s, uint32_t op, void *arg, size_t size, const int *fds,
	       unsigned int n_fds, struct packet *reply)
{
	struct packet request = PACKET_NULL;

	request.u.msg = (struct mirror_msg) {
		.size = (uint32_t)(sizeof(request.u.msg) + size), .op = op, .serial = ++s->serial,
	};
	memcpy(packet_payload(&request), arg, size);
	for (unsigned int i = 0; i < n_fds; i++)
		request.fds[i] = fds[i];
	request.n_fds = n_fds;
	if (packet_send(s->sock, &request, 0) < 0)
		give_up("cannot ask", (int)op);
	receive(s, reply);
	if (!reply->u.msg.error)
		memcpy(arg, packet_payload(reply), size);
	return reply->u.msg.error;
}

static void make_ring(struct session *s)
{
	struct mirror_channel in = { .size = sizeof(in), .entries = 16 }, arg;
	struct packet reply;
	int r;

	do {
		arg = in;
		r = ask(s, MIRROR_OP_CHANNEL, &arg, sizeof(arg), NULL, 0, &reply);
	} while (r == ERESTART);
	if (r || reply.n_fds != 4)
		give_up("no ring", r);
	s->hdr = mmap(NULL, 2 * PAGE_BYTES, PROT_READ, MAP_SHARED, reply.fds[0], 0);
	s->cons = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, reply.fds[1], 0);
	if (s->hdr == MAP_FAILED || s->cons == MAP_FAILED)
		give_up("cannot map the ring", errno);
	s->slots = (const uint8_t *)s->hdr + s->hdr->slots_off;
	s->kick = reply.fds[3];
}

static void attach(struct session *s)
{
	struct mirror_attach in = {
		.size = sizeof(in), .flags = MIRROR_ATTACH_F_SELF | MIRROR_ATTACH_F_UFFD,
	}, arg;
	struct packet reply;
	bool user_only;
	int fds[2], r;

	fds[0] = proc_pidfd(getpid());
	do {
		if (uffd_new(&fds[1], &user_only) < 0)
			give_up("no userfaultfd", errno);
		arg = in;
		r = ask(s, MIRROR_OP_ATTACH, &arg, sizeof(arg), fds, 2, &reply);
		close(fds[1]);
	} while (r == ERESTART);
	if (r || reply.n_fds < 1)
		give_up("cannot attach", r);
	s->target = arg.target;
	s->gate = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, reply.fds[0], 0);
	if (s->gate == MAP_FAILED || s->gate->target != s->target)
		give_up("no gate", errno);
	packet_clear(&reply);
}

static uint32_t insert(struct session *s, uint32_t flags)
{
	struct mirror_notifier_insert in = {
		.size = sizeof(in), .flags = flags, .target = s->target,
		.start = (uintptr_t)s->memory, .end = (uintptr_t)s->memory + PAGES * P,
		.user_data = 7 + flags,
	}, arg;
	struct packet reply;
	int r;

	do {
		arg = in;
		r = ask(s, MIRROR_OP_NOTIFIER_INSERT, &arg, sizeof(arg), NULL, 0, &reply);
	} while (r == ERESTART);
	if (r)
		give_up("cannot insert", r);
	return arg.notifier;
}

static void take_back(struct session *s, uint32_t op, void *in, size_t size, int gone)
{
	struct packet reply;
	uint64_t arg[16];
	bool again = false;
	int r;

	do {
		memcpy(arg, in, size);
		r = ask(s, op, arg, size, NULL, 0, &reply);
		again = again || r == ERESTART;
	} while (r == ERESTART);
	if (r && !(again && r == gone))
		give_up("cannot take back", r);
}

/* Until a record of that type and place is there, or one that stands for all. */
static void must_be_told(struct session *s, uint8_t type, uint64_t start)
{
	uint64_t end = now_ns() + PATIENCE_NS;

	while (now_ns() < end) {
		uint32_t flags = load_acquire(&s->hdr->flags);
		uint32_t head = s->cons->head, tail = load_acquire(&s->hdr->tail);

		for (; head != tail; head++) {
			struct mirror_event ev;

			memcpy(&ev, s->slots + (head & (s->hdr->entries - 1)) * 64, sizeof(ev));
			store_release(&s->cons->head, head + 1);
			if ((uint32_t)ev.seq != head + 1)
				give_up("a gap", (int)ev.seq);
			if (ev.type == MIRROR_EVENT_OVERFLOW ||
			    (ev.type == type && ev.start == start))
				return;
		}
		if (flags & MIRROR_RING_F_OVERFLOW)
			(void)!send(s->kick, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		poll(NULL, 0, TURN_MS);
	}
	give_up("a change is not told", type);
}

static bool is_open(const struct session *s)
{
	struct gate_head head = gate_head_load(s->gate);

	return head.life == load_relaxed(&s->gate->live) && !(head.seq & 1);
}

static void gate_must_open(const struct session *s)
{
	uint64_t end = now_ns() + PATIENCE_NS;

	while (!is_open(s)) {
		if (now_ns() > end)
			give_up("the gate stays closed", (int)s->gate->life);
		poll(NULL, 0, TURN_MS);
	}
}

static void run_session(struct session *s)
{
	struct mirror_notifier_remove remove = { .size = sizeof(remove) };
	struct mirror_detach detach = { .size = sizeof(detach) };
	uint32_t id[2];
	pid_t child;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	s->memory = mmap(NULL, PAGES * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);
	memset(s->memory, 1, PAGES * P);
	make_ring(s);
	attach(s);
	id[0] = insert(s, 0);
	id[1] = insert(s, MIRROR_NOTIFIER_F_FOLLOW_FORK);
	munmap(s->memory, P);
	must_be_told(s, MIRROR_EVENT_UNMAP, (uintptr_t)s->memory);
	madvise(s->memory + P, P, MADV_DONTNEED);
	must_be_told(s, MIRROR_EVENT_CLEAR, (uintptr_t)s->memory + P);
	child = fork();
	if (!child)
		_exit(0);
	must_be_told(s, MIRROR_EVENT_FORK, 0);
	waitpid(child, NULL, 0);
	gate_must_open(s);
	remove.notifier = id[0];
	take_back(s, MIRROR_OP_NOTIFIER_REMOVE, &remove, sizeof(remove), ENOENT);
	munmap(s->memory + 2 * P, P);
	must_be_told(s, MIRROR_EVENT_UNMAP, (uintptr_t)s->memory + 2 * P);
	detach.target = s->target;
	take_back(s, MIRROR_OP_DETACH, &detach, sizeof(detach), ESRCH);
	munmap(s->memory + 3 * P, P);
	_exit(0);
}

/* ---- the one that kills ---- */

/* Who made a socket is who asks by it: so the client makes it, and hands over one end. */
static pid_t begin_session(struct scene *s)
{
	struct packet p = PACKET_NULL;
	struct session session;
	int fds[2];
	pid_t pid;

	pid = fork();
	if (pid) {
		ck_assert_int_eq(packet_recv(s->peer, &p, 0), 1);
		close(s->client_fd);
		s->client_fd = p.fds[0];
		return pid;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		_exit(1);
	p.u.msg.size = sizeof(p.u.msg);
	p.fds[0] = fds[0];
	p.n_fds = 1;
	packet_send(s->client_fd, &p, 0);
	close(fds[0]);
	close(s->peer);
	if (packet_recv(s->client_fd, &p, 0) != 1)
		_exit(1);
	session = (struct session) { .sock = fds[1] };
	run_session(&session);
	_exit(1);
}

static void let_it_begin(struct scene *s)
{
	struct packet p = PACKET_NULL;

	p.u.msg.size = sizeof(p.u.msg);
	ck_assert_int_eq(packet_send(s->peer, &p, 0), 0);
}

/* true when it was killed at the @n-th stop; false if the client ended before. */
static bool serve_until(struct scene *s, pid_t daemon, pid_t client, unsigned int n)
{
	unsigned int stops = 0;
	siginfo_t si;
	int status;

	for (;;) {
		scene_take_messages(s);
		si.si_pid = 0;
		if (waitid(P_PID, (id_t)client, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && si.si_pid)
			return false;
		if (waitpid(daemon, &status, WNOHANG | __WALL) == 0) {
			poll(NULL, 0, stops ? 0 : TURN_MS);
			continue;
		}
		ck_assert(WIFSTOPPED(status));
		if (WSTOPSIG(status) == (SIGTRAP | 0x80) && ++stops == n) {
			kill(daemon, SIGKILL);
			return true;
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80) || status >> 16)
			ptrace(PTRACE_SYSCALL, daemon, NULL, NULL);
		else
			ptrace(PTRACE_SYSCALL, daemon, NULL, (void *)(intptr_t)WSTOPSIG(status));
	}
}

static void wait_for(struct scene *s, pid_t pid, int *ret_status)
{
	while (waitpid(pid, ret_status, WNOHANG | __WALL) == 0) {
		struct pollfd pfd = { .fd = s->notify, .events = POLLIN };

		poll(&pfd, 1, TURN_MS);
		scene_take_messages(s);
	}
}

/* true if the whole session was over before it was to be killed. */
static bool kill_at(unsigned int n)
{
	pid_t daemon, client;
	struct scene s;
	bool killed;
	int status;

	scene_init(&s, 16);
	s.peek = true;
	client = begin_session(&s);
	daemon = scene_serve(&s, false);
	s.client_fd = fd_close(s.client_fd);
	while (!scene_count(&s, 'c'))
		poll(NULL, 0, TURN_MS);
	ck_assert_int_eq(ptrace(PTRACE_SEIZE, daemon, NULL, (void *)PTRACE_O_TRACESYSGOOD), 0);
	ck_assert_int_eq(ptrace(PTRACE_INTERRUPT, daemon, NULL, NULL), 0);
	let_it_begin(&s);
	killed = serve_until(&s, daemon, client, n);
	if (!killed)
		kill(daemon, SIGKILL);
	wait_for(&s, daemon, &status);
	if (killed)
		daemon = scene_serve(&s, true);
	wait_for(&s, client, &status);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
		      "killed at stop %u: the client does not come through", n);
	if (killed) {
		kill(daemon, SIGKILL);
		wait_for(&s, daemon, &status);
	}
	scene_end(&s);
	return !killed;
}

/* There are a few hundred: in four parts, as each test has its time. */
static void kill_at_each_fourth(unsigned int n)
{
	while (!kill_at(n))
		n += 4;
	ck_assert_uint_gt(n, 100);
}

START_TEST(each_system_call)
{
	kill_at_each_fourth(1);
}
END_TEST

START_TEST(each_system_call_2)
{
	kill_at_each_fourth(2);
}
END_TEST

START_TEST(each_system_call_3)
{
	kill_at_each_fourth(3);
}
END_TEST

START_TEST(each_system_call_4)
{
	kill_at_each_fourth(4);
}
END_TEST

UNIT_MAIN("adopt-each", each_system_call, each_system_call_2, each_system_call_3,
	  each_system_call_4)
