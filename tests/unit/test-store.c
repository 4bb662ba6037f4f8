/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Descriptors for a service manager that is slow, absent, or dies. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include "loop/loop.h"
#include "shm.h"
#include "sys/log.h"
#include "sys/store.h"
#include "unit.h"

#define MANY 2000

struct message {
	char text[256];
	int fd;
};

static char address[64];

/* A manager's socket, named by $NOTIFY_SOCKET. */
static int manager_new(bool abstract)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t len;

	snprintf(address, sizeof(address), "%s%d", abstract ? "@mirror-store-" :
		 "/tmp/mirror-store-", getpid());
	strcpy(sa.sun_path, address);
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(address));
	if (abstract)
		sa.sun_path[0] = '\0';
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, len), 0);
	ck_assert_int_eq(setenv("NOTIFY_SOCKET", address, 1), 0);
	log_level = -1;		/* all that goes wrong does so on purpose */
	return fd;
}

/* false: nothing there */
static bool receive(int fd, struct message *m)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = m->text, .iov_len = sizeof(m->text) - 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.buf, .msg_controllen = sizeof(control.buf),
	};
	struct cmsghdr *cmsg;
	ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);

	if (n < 0)
		return false;
	m->text[n] = '\0';
	m->fd = -1;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (cmsg && cmsg->cmsg_type == SCM_RIGHTS)
		memcpy(&m->fd, CMSG_DATA(cmsg), sizeof(int));
	return true;
}

static void expect_put(const struct message *m, const char *name, uint64_t value)
{
	char text[128];
	uint64_t v;

	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
	ck_assert_str_eq(m->text, text);
	ck_assert_int_ge(m->fd, 0);
	ck_assert_int_eq(read(m->fd, &v, sizeof(v)), sizeof(v));
	ck_assert_uint_eq(v, value);
	close(m->fd);
}

static void expect_remove(const struct message *m, const char *name)
{
	char text[128];

	snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", name);
	ck_assert_str_eq(m->text, text);
	ck_assert_int_eq(m->fd, -1);
}

static void next_put(int manager, const char *name, uint64_t value)
{
	struct message m;

	ck_assert(receive(manager, &m));
	expect_put(&m, name, value);
}

static void next_remove(int manager, const char *name)
{
	struct message m;

	ck_assert(receive(manager, &m));
	expect_remove(&m, name);
}

/* A descriptor that can be told from others. */
static void put(struct store *store, char letter, uint32_t id)
{
	int fd = eventfd(id + 1, EFD_CLOEXEC | EFD_NONBLOCK);

	store_put(store, letter, id, fd);
	close(fd);
}

static unsigned int n_open(void)
{
	unsigned int n = 0;
	DIR *dir = opendir("/proc/self/fd");

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static struct loop *new_loop(void)
{
	struct loop *loop;

	ck_assert_int_eq(loop_new(&loop), 0);
	return loop;
}

START_TEST(it_goes_out)
{
	for (int abstract = 0; abstract < 2; abstract++) {
		int manager = manager_new(abstract);
		struct loop *loop = new_loop();
		struct store *store;
		struct message m;

		ck_assert_int_eq(store_new(&store, loop), 0);
		put(store, 'c', 12);
		next_put(manager, "c12", 13);
		store_remove(store, 'c', 12);
		next_remove(manager, "c12");
		store_remove_name(store, "stranger");
		next_remove(manager, "stranger");
		store_remove_name(store, "");
		store_remove_name(store, "a\nFDSTORE=1");
		store_put(store, 'c', 13, -1);
		ck_assert(!receive(manager, &m));
		store_free(store);
		loop_free(loop);
		close(manager);
		if (!abstract)
			unlink(address);
	}
}
END_TEST

START_TEST(without_a_manager)
{
	struct loop *loop = new_loop();
	struct store *store = NULL;

	unsetenv("NOTIFY_SOCKET");
	ck_assert_int_eq(store_new(&store, loop), -ENOENT);
	setenv("NOTIFY_SOCKET", "vsock:2:1", 1);
	ck_assert_int_eq(store_new(&store, loop), -ENOENT);
	setenv("NOTIFY_SOCKET", "/nobody/is/here", 1);
	ck_assert_int_eq(store_new(&store, loop), -ENOENT);
	put(NULL, 'c', 1);
	store_remove(NULL, 'c', 1);
	store_remove_name(NULL, "c1");
	ck_assert_int_eq(store_flush(NULL, 1000), 0);
	ck_assert_ptr_null(store_free(NULL));
	loop_free(loop);
}
END_TEST

struct drain {
	struct loop_op op;
	struct loop *loop;
	int manager;
	unsigned int n, n_barriers;
};

/* Names come in order, each with its own descriptor, and is then removed. */
static void drained(struct loop_op *op, int res)
{
	struct drain *d = container_of(op, struct drain, op);
	struct message m;
	char name[STORE_NAME_MAX];

	ck_assert_int_ge(res, 0);
	while (receive(d->manager, &m)) {
		if (!strcmp(m.text, "BARRIER=1")) {
			ck_assert_int_ge(m.fd, 0);
			close(m.fd);
			d->n_barriers++;
			continue;
		}
		store_name(name, 'u', d->n / 2);
		if (d->n % 2)
			expect_remove(&m, name);
		else
			expect_put(&m, name, d->n / 2 + 1);
		if (++d->n == 2 * MANY)
			loop_exit(d->loop);
	}
}

/* Nobody reads while all is put: nothing waits, and then all comes in its order. */
START_TEST(slow_manager)
{
	struct drain d = { .op = LOOP_OP_NULL, .manager = manager_new(true) };
	struct rlimit lim = { 2 * MANY + 100, 2 * MANY + 100 };
	struct store *store;

	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &lim), 0);
	d.loop = new_loop();
	ck_assert_int_eq(store_new(&store, d.loop), 0);
	for (unsigned int i = 0; i < MANY; i++) {
		char name[STORE_NAME_MAX];

		put(store, 'u', i);
		/* by name: by number it would only take the put back */
		store_name(name, 'u', i);
		store_remove_name(store, name);
	}
	ck_assert_int_eq(loop_poll(d.loop, &d.op, d.manager, POLLIN, drained), 0);
	ck_assert_int_eq(loop_run(d.loop), 0);
	ck_assert_uint_eq(d.n, 2 * MANY);
	ck_assert_uint_gt(d.n_barriers, 0);
	loop_stop(&d.op);
	store_free(store);
	loop_free(d.loop);
}
END_TEST

/* As much as the manager's queue takes. */
static unsigned int fill(struct store *store, int manager)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa;
	socklen_t len = sizeof(sa);
	unsigned int n = 0;

	ck_assert_int_eq(getsockname(manager, (struct sockaddr *)&sa, &len), 0);
	/* another sender meets EAGAIN: so will the store */
	while (sendto(fd, "", 0, 0, (struct sockaddr *)&sa, len) == 0)
		n++;
	ck_assert_int_eq(errno, EAGAIN);
	close(fd);
	put(store, 'x', 1);	/* is queued, and so is all after it */
	return n;
}

static void skip_fill(int manager, unsigned int n)
{
	struct message m;

	while (n--) {
		ck_assert(receive(manager, &m));
		ck_assert_str_eq(m.text, "");
	}
}

START_TEST(taken_back)
{
	int manager = manager_new(true);
	struct loop *loop = new_loop();
	unsigned int n, before;
	struct store *store;
	struct message m;

	ck_assert_int_eq(store_new(&store, loop), 0);
	n = fill(store, manager);
	before = n_open();
	put(store, 'u', 7);
	ck_assert_uint_eq(n_open(), before + 1);
	put(store, 'g', 7);
	put(store, 'S', 0);
	store_remove(store, 'u', 7);	/* never went out: never does */
	store_remove(store, 'S', 0);	/* 0 may be out there from before */
	skip_fill(manager, n);
	store_remove(store, 'u', 8);	/* there is room, but others were first */
	ck_assert_int_eq(store_flush(store, 1), -ETIMEDOUT);	/* nobody answers, but all is out */
	ck_assert_uint_eq(n_open(), before - 1);
	next_put(manager, "x1", 2);
	next_put(manager, "g7", 8);
	next_put(manager, "S0", 1);
	next_remove(manager, "S0");
	next_remove(manager, "u8");
	ck_assert(receive(manager, &m));
	ck_assert_str_eq(m.text, "BARRIER=1");
	ck_assert(!receive(manager, &m));
	store_free(store);
	loop_free(loop);
}
END_TEST

/* No more than the manager takes, with what it has from before. */
START_TEST(as_many_as_can_be)
{
	int manager = manager_new(true);
	struct loop *loop = new_loop();
	struct store *store;
	struct message m;

	ck_assert_int_eq(store_new(&store, loop), 0);
	store_limit(store, 3);
	store_note(store, "c1");
	store_note(store, "D0");
	store_note(store, "stranger");
	store_note(store, "");
	put(store, 'c', 2);
	put(store, 'u', 2);
	put(store, 'g', 2);			/* one too many */
	put(store, 'S', 0);
	next_put(manager, "c2", 3);
	next_put(manager, "u2", 3);
	next_put(manager, "S0", 1);
	store_remove(store, 'c', 1);
	put(store, 'g', 3);
	store_remove(store, 'g', 2);		/* was never kept: nothing gets free */
	put(store, 'g', 4);
	next_remove(manager, "c1");
	next_put(manager, "g3", 4);
	next_remove(manager, "g2");
	ck_assert(!receive(manager, &m));
	store_free(store);
	loop_free(loop);
}
END_TEST

/* What cannot be kept is dropped; what comes when it can be again, is kept. */
START_TEST(no_descriptor_left)
{
	int manager = manager_new(true), fd;
	struct loop *loop = new_loop();
	struct rlimit lim;
	struct store *store;
	unsigned int n;

	ck_assert_int_eq(store_new(&store, loop), 0);
	n = fill(store, manager);
	fd = eventfd(100, EFD_NONBLOCK);
	getrlimit(RLIMIT_NOFILE, &lim);
	lim.rlim_cur = (rlim_t)fd + 1;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &lim), 0);
	store_put(store, 'c', 1, fd);
	lim.rlim_cur = lim.rlim_max;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &lim), 0);
	store_put(store, 'c', 2, fd);
	skip_fill(manager, n);
	ck_assert_int_eq(store_flush(store, 1), -ETIMEDOUT);
	next_put(manager, "x1", 2);
	next_put(manager, "c2", 100);
	store_free(store);
	loop_free(loop);
}
END_TEST

START_TEST(dead_manager)
{
	int manager = manager_new(true);
	struct loop *loop = new_loop();
	struct store *store;
	unsigned int before = n_open();

	ck_assert_int_eq(store_new(&store, loop), 0);
	fill(store, manager);
	put(store, 'u', 1);
	close(manager);
	ck_assert_int_eq(store_flush(store, 60000), -EPIPE);
	put(store, 'u', 3);
	store_remove(store, 'u', 3);
	ck_assert_uint_eq(n_open(), before - 1);	/* and not the manager's */
	store_free(store);
	loop_free(loop);
}
END_TEST

static void stop_loop(struct loop_op *op, int res _unused_)
{
	loop_exit(container_of(op, struct drain, op)->loop);
}

/* What is there to be read, after the loop had some time. */
static unsigned int heard(struct drain *d, int *ret_barrier)
{
	struct message m;
	unsigned int n = 0;

	ck_assert_int_eq(loop_timeout(d->loop, &d->op, 30000000, stop_loop), 0);
	ck_assert_int_eq(loop_run(d->loop), 0);
	for (; receive(d->manager, &m); n++) {
		if (strcmp(m.text, "BARRIER=1")) {
			close(m.fd);
			continue;
		}
		ck_assert_int_eq(*ret_barrier, -1);
		*ret_barrier = m.fd;
	}
	return n;
}

/* A manager that has not handled what it got gets no more, and then has a rest. */
START_TEST(not_too_much)
{
	struct drain d = { .op = LOOP_OP_NULL, .manager = manager_new(true) };
	struct store *store;
	unsigned int n;
	int barrier = -1;

	d.loop = new_loop();
	ck_assert_int_eq(store_new(&store, d.loop), 0);
	for (unsigned int i = 0; i < 200; i++)
		put(store, 'u', i);
	for (n = 0; barrier < 0; n += heard(&d, &barrier))
		;
	ck_assert_uint_lt(n, 50);
	ck_assert_uint_eq(heard(&d, &barrier), 0);
	for (unsigned int i = 100; i < 200; i++)
		store_remove(store, 'u', i);	/* taken back, all of them */
	barrier = fd_close(barrier);
	for (int left = 3; n < 100 || left-- > 0;) {
		n += heard(&d, &barrier);
		barrier = fd_close(barrier);
	}
	ck_assert_uint_lt(n, 120);		/* with some barriers */
	store_free(store);
	loop_free(d.loop);
}
END_TEST

/* It dies while the loop waits for it. */
static void exit_when_gone(struct loop_op *op, int res _unused_)
{
	struct drain *d = container_of(op, struct drain, op);

	if (n_open() == d->n)
		loop_exit(d->loop);
	else
		ck_assert_int_eq(loop_timeout(d->loop, op, 1000000, exit_when_gone), 0);
}

START_TEST(dies_later)
{
	struct drain d = { .op = LOOP_OP_NULL, .manager = manager_new(true) };
	struct store *store;

	d.loop = new_loop();
	d.n = n_open() - 1;
	ck_assert_int_eq(store_new(&store, d.loop), 0);
	fill(store, d.manager);
	put(store, 'u', 1);
	close(d.manager);
	ck_assert_int_eq(loop_timeout(d.loop, &d.op, 1000000, exit_when_gone), 0);
	ck_assert_int_eq(loop_run(d.loop), 0);
	store_free(store);
	loop_free(d.loop);
}
END_TEST

/* A manager in a process of its own: reads all, closes what it gets. */
static pid_t manager_run(int manager, bool keeps_barrier, int report)
{
	pid_t pid = fork();
	uint32_t n = 0;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		struct pollfd p = { .fd = manager, .events = POLLIN };
		struct message m;

		poll(&p, 1, -1);
		if (!receive(manager, &m))
			continue;
		if (!strncmp(m.text, "FDSTORE=1", 9))
			n++;
		if (!strcmp(m.text, "BARRIER=1")) {
			if (write(report, &n, sizeof(n)) != sizeof(n))
				_exit(1);
			if (keeps_barrier)
				continue;
		}
		close(m.fd);
	}
}

START_TEST(flush_waits)
{
	for (int keeps = 0; keeps < 2; keeps++) {
		int manager = manager_new(true), report[2], r;
		struct loop *loop = new_loop();
		struct store *store;
		uint64_t start;
		uint32_t n = 0;
		pid_t pid;

		ck_assert_int_eq(pipe2(report, O_NONBLOCK), 0);
		ck_assert_int_eq(store_new(&store, loop), 0);
		for (unsigned int i = 0; i < 500; i++)
			put(store, 'u', i);
		pid = manager_run(manager, keeps, report[1]);
		close(manager);
		start = now_ns();
		r = store_flush(store, keeps ? 200 : 60000);
		ck_assert_int_eq(r, keeps ? -ETIMEDOUT : 0);
		if (keeps)
			ck_assert_uint_ge(now_ns() - start, 200000000);
		/* all had arrived before the barrier; where it answered, that is known now */
		if (!keeps) {
			while (read(report[0], &n, sizeof(n)) == sizeof(n))
				;
			ck_assert_uint_eq(n, 500);
		}
		kill(pid, SIGKILL);
		ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
		store_free(store);
		loop_free(loop);
		close(report[0]);
		close(report[1]);
	}
}
END_TEST

START_TEST(flush_gives_up)
{
	int manager = manager_new(true);
	struct loop *loop = new_loop();
	struct store *store;
	uint64_t start;

	ck_assert_int_eq(store_new(&store, loop), 0);
	fill(store, manager);
	start = now_ns();
	ck_assert_int_eq(store_flush(store, 100), -ETIMEDOUT);
	ck_assert_uint_ge(now_ns() - start, 100000000);
	store_free(store);	/* with what never went out */
	loop_free(loop);
}
END_TEST

static int store_short_life(void)
{
	struct store *store;
	struct loop *loop;
	int r;

	r = loop_new(&loop);
	if (r < 0)
		return r;
	r = store_new(&store, loop);
	if (r == 0)
		store_free(store);
	loop_free(loop);
	return r;
}

START_TEST(out_of_memory)
{
	int manager = manager_new(true);
	struct loop *loop = new_loop();
	struct store *store;
	unsigned int n;
	bool failed;

	unit_oom(store_short_life);
	/* no memory for the queue: dropped, and it goes on */
	ck_assert_int_eq(store_new(&store, loop), 0);
	n = fill(store, manager);
	unit_fail_allocation(1);
	store_put(store, 'u', 1, manager);
	failed = unit_allocation_failed();
	unit_fail_allocation(0);
	ck_assert(failed);
	put(store, 'u', 2);
	skip_fill(manager, n);
	ck_assert_int_eq(store_flush(store, 1), -ETIMEDOUT);
	next_put(manager, "x1", 2);
	next_put(manager, "u2", 3);
	store_free(store);
	loop_free(loop);
}
END_TEST

UNIT_MAIN("store", it_goes_out, without_a_manager, slow_manager, taken_back, not_too_much,
	  as_many_as_can_be, no_descriptor_left, dead_manager, dies_later, flush_waits,
	  flush_gives_up, out_of_memory)
