/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The daemon's end, and children of fork(). */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include "harness.h"

#define SIZE (16 * PAGE)

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_notifier *notifier, *other;
static struct log seen, other_seen;
static char *mem;
static uint64_t version;

static void setup_with(uint32_t flags)
{
	ctx = open_ctx();
	target = attach_self(ctx, flags);
	mem = map_pages(SIZE);
	notifier = watch(target, mem, SIZE, &seen);
	other = watch(target, mem, PAGE, &other_seen);
	ok(begin(notifier, mem, SIZE, &version));
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 0);
}

static void finish(void)
{
	mirror_notifier_remove(notifier);
	mirror_notifier_remove(other);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

static void everything_fails_after_death(void)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = log_event };
	struct mirror_stats stats = { .size = sizeof(stats) };
	struct mirror_info info = { .size = sizeof(info) };
	struct mirror_target *t = NULL;
	struct mirror_notifier *n = NULL;
	uint64_t a = (uintptr_t)mem;

	fails(begin(notifier, mem, PAGE, &version), EPIPE);
	fails(mirror_dispatch(ctx), EPIPE);
	fails(mirror_wait(ctx, -1), EPIPE);
	fails(mirror_prepare_wait(ctx), EPIPE);
	fails(mirror_target_arm(target, a, a + PAGE), EPIPE);
	fails(mirror_target_attach_self(&t, ctx, NULL), EPIPE);
	fails(mirror_notifier_insert(&n, target, a, a + PAGE, &ops, NULL), EPIPE);
	fails(mirror_ctx_get_info(ctx, &info), EPIPE);
	fails(mirror_daemon_get_stats(ctx, &stats), EPIPE);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 1);
}

static void die(int sig)
{
	struct pollfd pollfd = { .events = POLLIN };
	int r;

	pollfd.fd = mirror_ctx_get_fd(ctx);
	unmap(mem + 15 * PAGE, PAGE);
	settle(ctx);
	daemon_kill(sig);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 1);
	ck_assert_int_eq(retry(other, mem, PAGE, version), 1);
	ck_assert_int_eq(poll(&pollfd, 1, 10000), 1);
	while ((r = mirror_dispatch(ctx)) != -EPIPE)
		ok(r);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], 1);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_OVERFLOW], 1);
	ck_assert_uint_eq(other_seen.n_type[MIRROR_EVENT_OVERFLOW], 1);
	ck_assert(log_covers(&seen, MIRROR_EVENT_OVERFLOW, mem, SIZE));
	everything_fails_after_death();
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_OVERFLOW], 1);
	for (unsigned int i = 0; i < 10; i++)
		unmap(mem + i * PAGE, PAGE);
	finish();
}

START_TEST(killed)
{
	setup_with(0);
	die(SIGKILL);
}
END_TEST

START_TEST(killed_strict)
{
	setup_with(MIRROR_ATTACH_STRICT);
	die(SIGKILL);
}
END_TEST

/* It goes in order: what it had promised to publish it has published. */
START_TEST(terminated)
{
	setup_with(0);
	daemon_kill(SIGTERM);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 1);
	while (mirror_dispatch(ctx) != -EPIPE)
		;
	everything_fails_after_death();
	for (unsigned int i = 0; i < 10; i++)
		unmap(mem + i * PAGE, PAGE);
	finish();
}
END_TEST

START_TEST(begin_tells_of_death)
{
	setup_with(0);
	daemon_kill(SIGKILL);
	fails(begin(notifier, mem, SIZE, &version), EPIPE);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_OVERFLOW], 1);
	ck_assert_uint_eq(other_seen.n_type[MIRROR_EVENT_OVERFLOW], 1);
	finish();
}
END_TEST

static void *wait_thread(void *data)
{
	(void)data;
	return (void *)(intptr_t)mirror_wait(ctx, -1);
}

START_TEST(waiter_wakes)
{
	pthread_t thread;
	void *r;

	setup_with(0);
	pthread_create(&thread, NULL, wait_thread, NULL);
	daemon_kill(SIGKILL);
	pthread_join(thread, &r);
	ck_assert_int_eq((int)(intptr_t)r, -EPIPE);
	finish();
}
END_TEST

#define UNMAPPERS 4

static pid_t tids[UNMAPPERS];

static void *unmap_thread(void *data)
{
	unsigned int i = (unsigned int)(uintptr_t)data;

	__atomic_store_n(&tids[i], gettid(), __ATOMIC_SEQ_CST);
	if (i % 2)
		unmap(mem + i * PAGE, PAGE);
	else
		madvise(mem + i * PAGE, PAGE, MADV_DONTNEED);
	return NULL;
}

/* Threads hang in system calls when the daemon dies: they must go on. */
static void death_under_load(void)
{
	pthread_t threads[UNMAPPERS];

	daemon_kill(SIGSTOP);
	for (uintptr_t i = 0; i < UNMAPPERS; i++)
		pthread_create(&threads[i], NULL, unmap_thread, (void *)i);
	for (unsigned int i = 0; i < UNMAPPERS; i++) {
		while (!__atomic_load_n(&tids[i], __ATOMIC_SEQ_CST))
			sched_yield();
		ck_assert(wait_blocked(tids[i]));
	}
	daemon_kill(SIGKILL);
	for (unsigned int i = 0; i < UNMAPPERS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 1);
	ck_assert_int_eq(retry(notifier, mem + 12 * PAGE, PAGE, version), 1);
	unmap(mem + 8 * PAGE, PAGE);
	ck_assert(wait_lifelines());
	unmap(mem + 9 * PAGE, PAGE);
}

START_TEST(blocked_threads_go_on)
{
	setup_with(0);
	death_under_load();
	finish();
}
END_TEST

START_TEST(blocked_threads_go_on_arm_all)
{
	setup_with(MIRROR_ATTACH_ARM_ALL);
	death_under_load();
	finish();
}
END_TEST

/* Two contexts, so two copies of the userfaultfd in this process. */
START_TEST(blocked_threads_go_on_shared)
{
	struct mirror_ctx *second;
	struct mirror_target *again;

	setup_with(0);
	second = open_ctx();
	again = attach_self(second, 0);
	death_under_load();
	finish();
	mirror_target_unref(again);
	mirror_ctx_unref(second);
}
END_TEST

/* A child that no handler knows of has a copy, and keeps it. */
START_TEST(blocked_threads_go_on_with_child)
{
	pid_t child;

	setup_with(0);
	child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (child == 0)
		for (;;)
			pause();
	death_under_load();
	finish();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}
END_TEST

/* Of two clients in a process only one loses its connection: the other must not. */
START_TEST(other_client_stays)
{
	struct mirror_ctx *second = open_ctx();
	struct mirror_target *again = attach_self(second, 0);

	setup_with(0);
	mirror_target_unref(again);
	mirror_ctx_unref(second);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 0);
	unmap(mem, PAGE);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 1);
	settle(ctx);
	ck_assert_int_ge(mirror_dispatch(ctx), 1);
	finish();
}
END_TEST

/* ---- fork ---- */

static void in_child(struct peer *me)
{
	struct mirror_ctx_stats stats = { .sz = sizeof(stats) };
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = log_event };
	struct mirror_info info = { .size = sizeof(info) };
	struct mirror_notifier *n = NULL;
	struct mirror_target *t = NULL;
	uint64_t a = (uintptr_t)mem;

	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 1);
	fails(begin(notifier, mem, SIZE, &version), ECHILD);
	fails(mirror_dispatch(ctx), ECHILD);
	fails(mirror_wait(ctx, -1), ECHILD);
	fails(mirror_prepare_wait(ctx), ECHILD);
	fails(mirror_ctx_get_fd(ctx), ECHILD);
	fails(mirror_ctx_get_info(ctx, &info), ECHILD);
	fails(mirror_target_arm(target, a, a + PAGE), ECHILD);
	fails(mirror_target_attach_self(&t, ctx, NULL), ECHILD);
	fails(mirror_notifier_insert(&n, target, a, a + PAGE, &ops, NULL), ECHILD);
	ok(mirror_ctx_get_stats(ctx, &stats));
	unmap(mem, PAGE);
	finish();
	/* it may start anew, of its own */
	ctx = open_ctx();
	t = attach_self(ctx, 0);
	ck_assert_int_eq(mirror_target_get_pid(t), getpid());
	mirror_target_unref(t);
	mirror_ctx_unref(ctx);
	peer_tell(me, 1);
}

START_TEST(fork_child)
{
	struct peer peer;

	setup_with(0);
	peer_start(&peer, in_child);
	ck_assert_uint_eq(peer_hear(&peer), 1);
	peer_end(&peer);
	/* the parent has noticed nothing; the fork itself was told at the gate for a moment */
	settle(ctx);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 0);
	unmap(mem, PAGE);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 1);
	settle(ctx);
	ck_assert_int_ge(mirror_dispatch(ctx), 1);
	finish();
}
END_TEST

START_TEST(fork_strict_child)
{
	struct peer peer;

	setup_with(MIRROR_ATTACH_STRICT);
	peer_start(&peer, in_child);
	ck_assert_uint_eq(peer_hear(&peer), 1);
	peer_end(&peer);
	settle(ctx);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 0);
	finish();
}
END_TEST

/* No descriptor of the library's is left in a child. */
static unsigned int count_descriptors(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static unsigned int n_before;

static void count_in_child(struct peer *me)
{
	/* of the two pipes each side keeps one end, so two more than before the fork */
	peer_tell(me, count_descriptors());
}

START_TEST(fork_child_has_no_descriptors)
{
	struct peer peer;

	n_before = count_descriptors();
	setup_with(0);
	peer_start(&peer, count_in_child);
	ck_assert_uint_eq(peer_hear(&peer), n_before + 2);
	peer_end(&peer);
	finish();
}
END_TEST

START_TEST(bare_clone_child)
{
	int status;
	pid_t child;

	setup_with(0);
	child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (child == 0)
		_exit(retry(notifier, mem, SIZE, version) == 1 &&
		      begin(notifier, mem, SIZE, &version) == -ECHILD ? 0 : 1);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	settle(ctx);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 0);
	finish();
}
END_TEST

static pid_t forked;

static void fork_inside(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	(void)n;
	(void)ev;
	(void)userdata;
	if (!forked)
		forked = fork();
}

START_TEST(fork_in_callback)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = fork_inside };
	struct mirror_notifier *n;
	int r, status;

	setup_with(0);
	ok(mirror_notifier_insert(&n, target, (uintptr_t)mem, (uintptr_t)mem + SIZE, &ops, NULL));
	forked = 0;
	unmap(mem, PAGE);
	unmap(mem + PAGE, PAGE);
	settle(ctx);
	r = mirror_dispatch(ctx);
	if (forked == 0) {
		mirror_notifier_remove(n);
		finish();
		_exit(r == -ECHILD ? 0 : 1);
	}
	ck_assert_int_ge(r, 4);
	ck_assert_int_eq(waitpid(forked, &status, 0), forked);
	ck_assert_int_eq(status, 0);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "death");

	tcase_add_test(tcase, killed);
	tcase_add_test(tcase, killed_strict);
	tcase_add_test(tcase, terminated);
	tcase_add_test(tcase, begin_tells_of_death);
	tcase_add_test(tcase, waiter_wakes);
	tcase_add_test(tcase, blocked_threads_go_on);
	tcase_add_test(tcase, blocked_threads_go_on_arm_all);
	tcase_add_test(tcase, blocked_threads_go_on_shared);
	tcase_add_test(tcase, blocked_threads_go_on_with_child);
	tcase_add_test(tcase, other_client_stays);
	tcase = harness_case(suite, "fork");
	tcase_add_test(tcase, fork_child);
	tcase_add_test(tcase, fork_strict_child);
	tcase_add_test(tcase, fork_child_has_no_descriptors);
	tcase_add_test(tcase, bare_clone_child);
	tcase_add_test(tcase, fork_in_callback);
}

int main(void)
{
	return harness_main("death", fill);
}
