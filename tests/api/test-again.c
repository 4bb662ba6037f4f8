/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests that a daemon had read when it was restarted
 *
 * A thread stands between the library and the daemon.  It passes packets on, and for
 * some requests it does what a daemon does that takes the place of another: it answers
 * that there was a restart, whether or not something had been done.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <mirror/table.h>
#include <mirror/uapi/ioctl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "harness.h"

#define SIZE (16 * PAGE)
#define N_OPS 16

struct carrier {
	union {
		struct mirror_msg msg;
		char raw[MIRROR_MSG_MAX];
	} u;
	ssize_t n;
	int fds[MIRROR_MSG_FDS];
	unsigned int n_fds;
};

static int listener, lib = -1, upstream = -1;
static pthread_t between;

/* What to do with requests, by operation.  Set while none is on its way. */
static unsigned int n_restarts[N_OPS];	/* answers to make up */
static bool is_done[N_OPS];		/* the daemon did it all the same */
static unsigned int n_seen[N_OPS];
static void (*on_uffd)(int fd);		/* of an attach that is restarted */

static void receive(int fd, struct carrier *c)
{
	union {
		struct cmsghdr align;
		char raw[CMSG_SPACE(sizeof(c->fds))];
	} control;
	struct iovec iov = { c->u.raw, sizeof(c->u.raw) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.raw, .msg_controllen = sizeof(control.raw),
	};
	struct cmsghdr *cmsg;

	c->n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	c->n_fds = 0;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (c->n > 0 && cmsg && cmsg->cmsg_type == SCM_RIGHTS) {
		c->n_fds = (unsigned int)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(c->fds, CMSG_DATA(cmsg), c->n_fds * sizeof(int));
	}
}

static void pass_on(int fd, const struct carrier *c)
{
	union {
		struct cmsghdr align;
		char raw[CMSG_SPACE(sizeof(c->fds))];
	} control;
	struct iovec iov = { (void *)(uintptr_t)c->u.raw, (size_t)c->n };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (c->n_fds) {
		msg.msg_control = control.raw;
		msg.msg_controllen = CMSG_SPACE(c->n_fds * sizeof(int));
		memset(&control, 0, sizeof(control));
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(c->n_fds * sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), c->fds, c->n_fds * sizeof(int));
	}
	ck_assert_int_eq(sendmsg(fd, &msg, MSG_NOSIGNAL), c->n);
}

static void drop_fds(struct carrier *c)
{
	while (c->n_fds)
		close(c->fds[--c->n_fds]);
}

static void answer_restarted(struct carrier *c)
{
	if (c->u.msg.op == MIRROR_OP_ATTACH && c->n_fds == 2 && on_uffd) {
		on_uffd(c->fds[1]);
		c->n_fds = 1;	/* it is somebody else's to close */
	}
	drop_fds(c);
	c->u.msg.error = ERESTART;
	c->n = c->u.msg.size = sizeof(c->u.msg);
	pass_on(lib, c);
}

static void on_request(struct carrier *c)
{
	struct carrier reply;
	uint32_t op = c->u.msg.op;

	ck_assert_uint_lt(op, N_OPS);
	__atomic_fetch_add(&n_seen[op], 1, __ATOMIC_RELAXED);
	/* an attach without one is only a question */
	if (!n_restarts[op] || (op == MIRROR_OP_ATTACH && c->n_fds < 2)) {
		pass_on(upstream, c);
		return;
	}
	n_restarts[op]--;
	if (is_done[op]) {
		pass_on(upstream, c);
		receive(upstream, &reply);
		drop_fds(&reply);
	}
	answer_restarted(c);
}

static void *between_main(void *data)
{
	struct pollfd pollfds[2] = { { .events = POLLIN }, { .events = POLLIN } };
	struct carrier c;

	lib = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(lib, 0);
	pollfds[0].fd = lib;
	pollfds[1].fd = upstream;
	for (;;) {
		ck_assert_int_gt(poll(pollfds, 2, -1), 0);
		if (pollfds[0].revents) {
			receive(lib, &c);
			if (c.n <= 0)
				return data;
			on_request(&c);
			drop_fds(&c);
		}
		if (pollfds[1].revents) {
			receive(upstream, &c);
			if (c.n <= 0)
				return data;
			pass_on(lib, &c);
			drop_fds(&c);
		}
	}
}

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	return address;
}

static struct mirror_ctx *open_between(uint32_t flags)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct sockaddr_un here, there = address_of(socket_path());
	const char *path = scratch_path("between");
	struct mirror_ctx *ctx;

	here = address_of(path);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	upstream = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&here, sizeof(here)), 0);
	ck_assert_int_eq(listen(listener, 1), 0);
	ck_assert_int_eq(connect(upstream, (struct sockaddr *)&there, sizeof(there)), 0);
	pthread_create(&between, NULL, between_main, NULL);
	opts.path = path;
	opts.flags = MIRROR_OPEN_NO_EMBEDDED | flags;
	ok(mirror_open(&ctx, &opts));
	return ctx;
}

static void close_between(struct mirror_ctx *ctx)
{
	mirror_ctx_unref(ctx);
	pthread_join(between, NULL);
	close(lib);
	close(upstream);
	close(listener);
}

/* It works: a change is told, and nothing else was. */
static void check_works(struct mirror_ctx *ctx, char *mem, struct mirror_notifier *n,
			const struct log *seen)
{
	uint64_t version;

	ok(begin(n, mem, SIZE, &version));
	ck_assert_int_eq(retry(n, mem, SIZE, version), 0);
	unmap(mem + 8 * PAGE, PAGE);
	ck_assert_int_eq(retry(n, mem, SIZE, version), 1);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert_uint_eq(seen->n, 1);
	ck_assert_uint_eq(seen->n_type[MIRROR_EVENT_UNMAP], 1);
}

/* Every request that is made on the way, each several times. */
START_TEST(requests_are_made_again)
{
	static const uint32_t ops[] = {
		MIRROR_OP_INFO, MIRROR_OP_CHANNEL, MIRROR_OP_NOTIFIER_INSERT,
		MIRROR_OP_STATS, MIRROR_OP_TABLE,
	};
	const struct mirror_table *table;
	struct mirror_notifier *n;
	struct mirror_target *t;
	struct mirror_ctx *ctx;
	struct log seen = { .n = 0 };
	char *mem = map_pages(SIZE);

	for (unsigned int i = 0; i < ARRAY_LENGTH(ops); i++)
		n_restarts[ops[i]] = 3;
	ctx = open_between(0);
	t = attach_self(ctx, 0);
	n = watch(t, mem, SIZE, &seen);
	ok(mirror_target_get_table(t, &table));
	check_works(ctx, mem, n, &seen);
	for (unsigned int i = 0; i < ARRAY_LENGTH(ops); i++)
		ck_assert_uint_eq(n_restarts[ops[i]], 0);
	ck_assert_uint_eq(n_seen[MIRROR_OP_CHANNEL], 4);
	ck_assert_uint_eq(n_seen[MIRROR_OP_NOTIFIER_INSERT], 4);
	mirror_notifier_remove(n);
	mirror_target_unref(t);
	close_between(ctx);
}
END_TEST

/* The daemon that was killed had done it; the next one finds nothing to take away. */
START_TEST(removed_already)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	struct mirror_stats stats = { .size = sizeof(stats) };
	struct mirror_notifier *n;
	struct mirror_target *t;
	struct mirror_ctx *ctx;
	struct log seen = { .n = 0 };
	char *mem = map_pages(SIZE);

	n_restarts[MIRROR_OP_NOTIFIER_REMOVE] = n_restarts[MIRROR_OP_DETACH] = 1;
	is_done[MIRROR_OP_NOTIFIER_REMOVE] = is_done[MIRROR_OP_DETACH] = true;
	ctx = open_between(0);
	t = attach_self(ctx, 0);
	n = watch(t, mem, SIZE, &seen);
	mirror_notifier_remove(n);
	ck_assert_uint_eq(n_seen[MIRROR_OP_NOTIFIER_REMOVE], 2);
	mirror_target_unref(t);
	ck_assert_uint_eq(n_seen[MIRROR_OP_DETACH], 2);
	ok(mirror_daemon_get_stats(ctx, &stats));
	ck_assert_uint_eq(stats.notifiers, 0);
	fails(mirror_query_target(ctx, 0, 1, &info), ESRCH);
	close_between(ctx);
}
END_TEST

/* It ends all the same. */
START_TEST(restarted_for_ever)
{
	struct mirror_stats stats = { .size = sizeof(stats) };
	struct mirror_ctx *ctx = open_between(MIRROR_OPEN_NO_RING);

	n_restarts[MIRROR_OP_STATS] = 1000;
	fails(mirror_daemon_get_stats(ctx, &stats), ERESTART);
	ck_assert_uint_gt(n_seen[MIRROR_OP_STATS], 3);
	n_restarts[MIRROR_OP_STATS] = 0;
	ok(mirror_daemon_get_stats(ctx, &stats));
	close_between(ctx);
}
END_TEST

static char *victim;
static pid_t victim_tid;
static pthread_t victim_thread;
static int used_up = -1;

static void *unmap_victim(void *data)
{
	__atomic_store_n(&victim_tid, gettid(), __ATOMIC_SEQ_CST);
	unmap(victim, PAGE);
	return data;
}

/*
 * What a daemon can have done with a userfaultfd: it watches memory, a thread waits
 * for it to be read, and its descriptor is with somebody who does not close it yet.
 */
static void use_up(int fd)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_UNMAP };
	struct uffdio_register reg = {
		.range = { (uintptr_t)victim, SIZE + PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	ck_assert_int_eq(used_up, -1);
	used_up = fd;
	ck_assert_int_eq(ioctl(fd, UFFDIO_API, &api), 0);
	ck_assert_int_eq(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
	pthread_create(&victim_thread, NULL, unmap_victim, NULL);
	while (!__atomic_load_n(&victim_tid, __ATOMIC_SEQ_CST))
		sched_yield();
	ck_assert(wait_blocked(victim_tid));
}

static void attach_again(uint32_t flags)
{
	struct mirror_notifier *n;
	struct mirror_target *t;
	struct mirror_ctx *ctx;
	struct log seen = { .n = 0 };

	victim = map_pages(SIZE + PAGE);
	n_restarts[MIRROR_OP_ATTACH] = 1;
	on_uffd = use_up;
	ctx = open_between(0);
	t = attach_self(ctx, flags);
	ck_assert_int_ge(used_up, 0);
	pthread_join(victim_thread, NULL);
	n = watch(t, victim + PAGE, SIZE, &seen);
	check_works(ctx, victim + PAGE, n, &seen);
	mirror_notifier_remove(n);
	mirror_target_unref(t);
	close_between(ctx);
	close(used_up);
}

START_TEST(attached_again)
{
	attach_again(0);
}
END_TEST

START_TEST(attached_again_strict)
{
	attach_again(MIRROR_ATTACH_STRICT);
}
END_TEST

START_TEST(attached_again_arm_all)
{
	attach_again(MIRROR_ATTACH_ARM_ALL);
}
END_TEST

static void keep_it(int fd)
{
	used_up = fd;
}

/* A userfaultfd that the caller gave is the caller's to replace. */
START_TEST(a_given_userfaultfd_is_used_up)
{
	struct mirror_attach_opts opts = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_target *t = NULL;
	struct mirror_ctx *ctx;
	int uffd, pidfd;

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0)
		uffd = (int)syscall(SYS_userfaultfd,
				    O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	ck_assert_int_ge(uffd, 0);
	pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	n_restarts[MIRROR_OP_ATTACH] = 1;
	on_uffd = keep_it;
	ctx = open_between(0);
	fails(mirror_target_attach(&t, ctx, pidfd, uffd, &opts), ERESTART);
	ck_assert_uint_eq(n_seen[MIRROR_OP_ATTACH], 1);
	close(used_up);
	/* this one was not touched by anybody */
	ok(mirror_target_attach(&t, ctx, pidfd, uffd, &opts));
	mirror_target_unref(t);
	close(pidfd);
	close(uffd);
	close_between(ctx);
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "again");

	tcase_add_test(tcase, requests_are_made_again);
	tcase_add_test(tcase, removed_already);
	tcase_add_test(tcase, restarted_for_ever);
	tcase_add_test(tcase, attached_again);
	tcase_add_test(tcase, attached_again_strict);
	tcase_add_test(tcase, attached_again_arm_all);
	tcase_add_test(tcase, a_given_userfaultfd_is_used_up);
}

int main(void)
{
	return harness_main("again", fill);
}
