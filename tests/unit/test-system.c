/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pieces that ask the kernel: /proc, userfaultfd, the loop, the life words. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include "loop/loop.h"
#include "memfd.h"
#include "procfs.h"
#include "proto.h"
#include "shm.h"
#include "sys/life.h"
#include "source/zap.h"
#include "uffd.h"
#include "unit.h"

/* Both ways of finding mappings agree with each other and with what we mapped. */
START_TEST(mappings_are_found)
{
	char *p = mmap(NULL, 16 * PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t at = (uintptr_t)p + 4 * PAGE_BYTES;
	int fd = open("/proc/self/maps", O_RDONLY);
	struct vma_walk walk;
	struct vma vma, q;
	bool found = false;
	int r;

	ck_assert_int_eq(mprotect(p + 4 * PAGE_BYTES, 4 * PAGE_BYTES, PROT_NONE), 0);
	ck_assert_int_eq(vma_walk_begin(&walk, 0), 0);
	while ((r = vma_walk_next(&walk, &vma)) > 0) {
		ck_assert_uint_lt(vma.start, vma.end);
		found = found || (vma.start == at && vma.end == at + 4 * PAGE_BYTES);
	}
	vma_walk_end(&walk);
	ck_assert_int_eq(r, 0);
	ck_assert(found);
	ck_assert_int_eq(vma_find(fd, 0, at + 1, &q), 0);
	ck_assert(q.start == at && q.end == at + 4 * PAGE_BYTES && !q.special);
	munmap(p, 16 * PAGE_BYTES);
	ck_assert_int_eq(vma_find(fd, 0, at, &q), 0);
	ck_assert_uint_gt(q.start, at);		/* the next one */
	close(fd);
}
END_TEST

START_TEST(processes_are_described)
{
	struct proc_stat st;
	pid_t pid, child = fork();
	uid_t owner;
	int fd;

	if (!child) {
		pause();
		_exit(0);
	}
	ck_assert_int_eq(proc_stat_read(child, 0, &st), 0);
	ck_assert_int_eq(st.ppid, getpid());
	ck_assert(!(st.flags & PROC_PF_EXITING));
	ck_assert_int_eq(proc_owner(child, &owner), 0);
	ck_assert_uint_eq(owner, geteuid());
	ck_assert(proc_has_uids(child, getuid()));
	ck_assert(!proc_has_uids(child, getuid() + 1));
	fd = proc_pidfd(child);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(proc_pid_of(fd, &pid), 0);
	ck_assert_int_eq(pid, child);
	ck_assert_int_eq(proc_pid_of(STDIN_FILENO, &pid), -EBADF);
	kill(child, SIGKILL);
	ck_assert_int_eq(waitpid(child, NULL, 0), child);
	ck_assert_int_eq(proc_pid_of(fd, &pid), -ESRCH);
	ck_assert_int_eq(proc_stat_read(child, 0, &st), -ESRCH);
	close(fd);
}
END_TEST

struct counter {
	struct loop_op op;
	struct loop *loop;
	int calls, want;
};

static void on_event(struct loop_op *op, int res)
{
	struct counter *c = container_of(op, struct counter, op);
	uint64_t v;

	ck_assert_int_ge(res, 0);
	ck_assert_int_eq(read(op->fd, &v, sizeof(v)), sizeof(v));
	if (++c->calls == c->want)
		loop_exit(c->loop);
	else
		ck_assert_int_eq(write(op->fd, &v, sizeof(v)), sizeof(v));
}

static void on_time(struct loop_op *op, int res)
{
	ck_assert_int_eq(res, 0);
	loop_exit(container_of(op, struct counter, op)->loop);
}

/* No ck_assert here: Check allocates too. */
static int loop_short_life(void)
{
	struct counter timed = { .op = LOOP_OP_NULL };
	struct loop *loop;
	int r;

	r = loop_new(&loop);
	if (r < 0)
		return r;
	r = loop_timeout(loop, &timed.op, 1000000000, on_time);
	loop_stop(&timed.op);
	loop_free(loop);
	return r;
}

static int loop_life(void)
{
	struct counter polled = { .op = LOOP_OP_NULL, .want = 1000 };
	struct counter timed = { .op = LOOP_OP_NULL };
	struct loop *loop;
	uint64_t one = 1;
	int fd, r;

	r = loop_new(&loop);
	if (r < 0)
		return r;
	fd = eventfd(0, EFD_NONBLOCK);
	polled.loop = timed.loop = loop;
	r = loop_poll(loop, &polled.op, fd, POLLIN, on_event);
	if (r == 0) {
		ck_assert_int_eq(write(fd, &one, sizeof(one)), sizeof(one));
		ck_assert_int_eq(loop_run(loop), 0);
		ck_assert_int_eq(polled.calls, 1000);
		loop_stop(&polled.op);
		loop_stop(&polled.op);
		/* a stopped operation is silent, even if its completion was on the way */
		ck_assert_int_eq(write(fd, &one, sizeof(one)), sizeof(one));
		ck_assert_int_eq(loop_timeout(loop, &timed.op, 1000000, on_time), 0);
		ck_assert_int_eq(loop_run(loop), 0);
		ck_assert_int_eq(polled.calls, 1000);
	}
	close(fd);
	loop_free(loop);
	return r;
}

START_TEST(loop_runs_and_stops)
{
	ck_assert_int_eq(loop_life(), 0);
}
END_TEST

START_TEST(loop_out_of_memory)
{
	unit_oom(loop_short_life);
}
END_TEST

/* However the owner dies, the kernel says so in the word, and only in words it held. */
START_TEST(life_words_tell_of_death)
{
	struct mirror_gate *gates[3];
	int fds[3], status;
	pid_t child;

	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(memfd_new("gate", PAGE_BYTES, &fds[i]), 0);
		gates[i] = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fds[i], 0);
		ck_assert_ptr_ne(gates[i], MAP_FAILED);
	}
	child = fork();
	if (!child) {
		struct life_map maps[3];
		uint32_t live;

		if (life_init(&live) < 0)
			_exit(1);
		for (int i = 0; i < 3; i++) {
			if (life_map(fds[i], PAGE_BYTES, &maps[i]) < 0)
				_exit(1);
			*(uint32_t *)maps[i].shared = live;
		}
		life_unmap(&maps[1]);
		raise(SIGKILL);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFSIGNALED(status));
	ck_assert_uint_eq(gates[0]->life, FUTEX_OWNER_DIED);
	ck_assert_uint_eq(gates[1]->life, (uint32_t)child);
	ck_assert_uint_eq(gates[2]->life, FUTEX_OWNER_DIED);
}
END_TEST

START_TEST(uffd_basics)
{
	char *p = mmap(NULL, 4 * PAGE_BYTES, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t start = (uintptr_t)p, end = start + 4 * PAGE_BYTES;
	int fd, other;
	bool user_only;

	ck_assert_int_eq(uffd_new(&fd, &user_only), 0);
	ck_assert_int_eq(uffd_new(&other, &user_only), 0);
	ck_assert(uffd_is_uffd(fd));
	ck_assert(!uffd_is_uffd(STDIN_FILENO));
	ck_assert_int_eq(uffd_api(fd, UFFD_EVENT_FEATURES | UFFD_FEATURE_PAGEFAULT_FLAG_WP), 0);
	ck_assert_int_eq(uffd_api(other, UFFD_EVENT_FEATURES | UFFD_FEATURE_PAGEFAULT_FLAG_WP), 0);
	ck_assert_int_lt(uffd_api(fd, 0), 0);	/* once only */
	ck_assert_int_eq(uffd_register(fd, start, end), 0);
	ck_assert_int_eq(uffd_register(fd, start, end), 0);
	ck_assert_int_eq(uffd_register(other, start, end), UFFD_E_BUSY);
	ck_assert_int_eq(uffd_probe(fd), 0);
	ck_assert(uffd_mm_is_alive(fd));
	ck_assert_int_eq(uffd_unregister(fd, start, end), 0);
	munmap(p, 4 * PAGE_BYTES);
	ck_assert_int_gt(uffd_register(fd, start, end), 0);
	close(fd);
	close(other);
}
END_TEST

START_TEST(peek_sees_a_blocked_call)
{
	struct peek_hit hits[PEEK_HITS];
	struct peek peek;
	struct uffd_msg msg;
	bool user_only;
	char *p = mmap(NULL, 4 * PAGE_BYTES, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct pollfd pfd = { .events = POLLIN };
	int fd, pidfd, chan[2];
	unsigned int n = 0;
	pid_t child;

	ck_assert_int_eq(pipe(chan), 0);
	child = fork();
	if (!child) {
		int u;

		if (uffd_new(&u, &user_only) < 0 || write(chan[1], &u, sizeof(u)) < 0 ||
		    uffd_api(u, UFFD_EVENT_FEATURES | UFFD_FEAT_WP_ASYNC) < 0 ||
		    uffd_register(u, (uintptr_t)p, (uintptr_t)p + 4 * PAGE_BYTES))
			_exit(1);
		munmap(p, 2 * PAGE_BYTES);
		_exit(0);
	}
	ck_assert_int_eq(read(chan[0], &fd, sizeof(fd)), sizeof(fd));
	pidfd = proc_pidfd(child);
	pfd.fd = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	ck_assert_int_ge(pfd.fd, 0);
	/* -EOPNOTSUPP features end the child: then nothing becomes readable */
	ck_assert_int_eq(poll(&pfd, 1, 10000), 1);
	ck_assert_int_eq(peek_init(&peek, child), 0);
	/* it rings just before it goes to sleep */
	for (int i = 0; i < 1000000 && n == 0; i++)
		n = peek_look(&peek, hits);
	ck_assert_uint_eq(n, 1);
	ck_assert_int_eq(hits[0].tid, child);
	ck_assert_int_eq(hits[0].nr, SYS_munmap);
	ck_assert_uint_eq(hits[0].args[0], (uintptr_t)p);
	ck_assert_uint_eq(hits[0].args[1], 2 * PAGE_BYTES);
	ck_assert_int_eq(uffd_probe(pfd.fd), 1);
	ck_assert_int_eq(read(pfd.fd, &msg, sizeof(msg)), sizeof(msg));
	ck_assert_int_eq(waitpid(child, NULL, 0), child);
	ck_assert_uint_eq(peek_look(&peek, hits), 0);
	peek_deinit(&peek);
}
END_TEST

START_TEST(no_descriptor_left)
{
	struct packet p = PACKET_NULL, in;
	struct rlimit old, few;
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	p.u.msg.size = sizeof(p.u.msg);
	p.fds[0] = pair[0];
	p.n_fds = 1;
	ck_assert_int_eq(packet_send(pair[0], &p, 0), 0);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = old;
	few.rlim_cur = 3;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	ck_assert_int_eq(packet_recv(pair[1], &in, MSG_DONTWAIT), -EMFILE);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
}
END_TEST

UNIT_MAIN("system", mappings_are_found, processes_are_described, loop_runs_and_stops,
	  loop_out_of_memory, life_words_tell_of_death, uffd_basics, peek_sees_a_blocked_call,
	  no_descriptor_left)
