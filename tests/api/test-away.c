/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon is gone, and somebody keeps its descriptors: it may come back.
 *
 * Here the process itself keeps them, as a service manager would.  Nothing hangs up,
 * whoever changes watched memory waits, and nothing is good.  When it lets go of them,
 * it is the end.
 */
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include "harness.h"

#define SIZE (16 * PAGE)

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_notifier *notifier;
static struct log seen;
static char *mem;
static uint64_t version;

static int kept[256];
static unsigned int n_kept;

static bool is_worth_keeping(pid_t pid, const char *number)
{
	char path[300], name[256];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)pid, number);
	n = readlink(path, name, sizeof(name) - 1);
	name[n > 0 ? n : 0] = 0;
	return !strncmp(name, "socket:", 7) || !strncmp(name, "/memfd:", 7) ||
	       strstr(name, "[userfaultfd]");
}

static void keep_descriptors(pid_t pid)
{
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct dirent *entry;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	dir = opendir(path);
	ck_assert_ptr_nonnull(dir);
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || !is_worth_keeping(pid, entry->d_name))
			continue;
		ck_assert_uint_lt(n_kept, ARRAY_LENGTH(kept));
		kept[n_kept] = (int)syscall(SYS_pidfd_getfd, pidfd, atoi(entry->d_name), 0);
		ck_assert_int_ge(kept[n_kept], 0);
		n_kept++;
	}
	closedir(dir);
	close(pidfd);
	ck_assert_uint_ge(n_kept, 4);
}

static void let_go(void)
{
	while (n_kept)
		close(kept[--n_kept]);
}

static void setup_with(uint32_t flags)
{
	ctx = open_ctx();
	target = attach_self(ctx, flags);
	mem = map_pages(SIZE);
	notifier = watch(target, mem, SIZE, &seen);
	ok(begin(notifier, mem, SIZE, &version));
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 0);
}

/* From here on the daemon is away. */
static void send_away(void)
{
	struct mirror_info info = { .size = sizeof(info) };

	ok(mirror_ctx_get_info(ctx, &info));
	keep_descriptors((pid_t)info.pid);
	daemon_kill(SIGKILL);
}

static void finish(void)
{
	mirror_notifier_remove(notifier);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

/* Now it is over, and told once. */
static void is_over(void)
{
	uint64_t a = (uintptr_t)mem;

	fails(mirror_dispatch(ctx), EPIPE);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_OVERFLOW], 1);
	ck_assert(log_covers(&seen, MIRROR_EVENT_OVERFLOW, mem, SIZE));
	fails(begin(notifier, mem, PAGE, &version), EPIPE);
	fails(mirror_wait(ctx, -1), EPIPE);
	fails(mirror_prepare_wait(ctx), EPIPE);
	fails(mirror_target_arm(target, a, a + PAGE), EPIPE);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 1);
	ck_assert_uint_eq(seen.n, 1);
}

static void nothing_is_good_but_nothing_fails(void)
{
	struct pollfd pollfd = { .events = POLLIN };
	uint64_t a = (uintptr_t)mem, v;

	pollfd.fd = mirror_ctx_get_fd(ctx);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 1);
	ck_assert_int_eq(retry(notifier, mem, PAGE, version), 1);
	ck_assert_int_eq(mirror_dispatch(ctx), 0);
	ck_assert_int_eq(mirror_prepare_wait(ctx), 0);
	ck_assert_int_eq(poll(&pollfd, 1, 0), 0);
	ck_assert_int_eq(mirror_wait(ctx, 5), 0);
	ok(mirror_target_arm(target, a, a + SIZE));
	fails(begin(notifier, mem, SIZE, &v), EAGAIN);
	ck_assert_int_eq(mirror_dispatch(ctx), 0);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 1);
	ck_assert_uint_eq(seen.n, 0);
}

static void away(uint32_t flags)
{
	struct pollfd pollfd = { .events = POLLIN };

	setup_with(flags);
	send_away();
	nothing_is_good_but_nothing_fails();
	let_go();
	pollfd.fd = mirror_ctx_get_fd(ctx);
	ck_assert_int_eq(poll(&pollfd, 1, 10000), 1);
	is_over();
	finish();
}

START_TEST(away_is_not_gone)
{
	away(0);
}
END_TEST

START_TEST(away_is_not_gone_strict)
{
	away(MIRROR_ATTACH_STRICT);
}
END_TEST

/* What was published before is told still. */
START_TEST(records_are_told)
{
	setup_with(0);
	unmap(mem + 15 * PAGE, PAGE);
	settle(ctx);
	send_away();
	ck_assert_int_eq(mirror_dispatch(ctx), 1);
	ck_assert_int_eq(mirror_dispatch(ctx), 0);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], 1);
	ck_assert_uint_eq(seen.n, 1);
	let_go();
	fails(mirror_dispatch(ctx), EPIPE);
	finish();
}
END_TEST

static void *wait_thread(void *data)
{
	(void)data;
	return (void *)(intptr_t)mirror_wait(ctx, -1);
}

static uint64_t n_sleeps(void)
{
	struct mirror_ctx_stats stats = { .sz = sizeof(stats) };

	ok(mirror_ctx_get_stats(ctx, &stats));
	return stats.sleeps;
}

START_TEST(waiter_sleeps_until_the_end)
{
	pthread_t thread;
	void *r;

	setup_with(0);
	send_away();
	pthread_create(&thread, NULL, wait_thread, NULL);
	while (!n_sleeps())
		sched_yield();
	let_go();
	pthread_join(thread, &r);
	ck_assert_int_eq((int)(intptr_t)r, -EPIPE);
	finish();
}
END_TEST

static void *begin_thread(void *data)
{
	uint64_t v;
	int r;

	(void)data;
	do {
		r = begin(notifier, mem, SIZE, &v);
	} while (r == -EAGAIN);
	return (void *)(intptr_t)r;
}

static uint64_t n_waited(void)
{
	struct mirror_ctx_stats stats = { .sz = sizeof(stats) };

	ok(mirror_ctx_get_stats(ctx, &stats));
	return stats.lookups_waited;
}

START_TEST(lookup_waits_until_the_end)
{
	uint64_t waited;
	pthread_t thread;
	void *r;

	setup_with(0);
	send_away();
	waited = n_waited();
	pthread_create(&thread, NULL, begin_thread, NULL);
	while (n_waited() == waited)
		sched_yield();
	let_go();
	pthread_join(thread, &r);
	ck_assert_int_eq((int)(intptr_t)r, -EPIPE);
	finish();
}
END_TEST

static pid_t tids[2];

static void *change_thread(void *data)
{
	unsigned int i = (unsigned int)(uintptr_t)data;

	__atomic_store_n(&tids[i], gettid(), __ATOMIC_SEQ_CST);
	if (i)
		madvise(mem + PAGE, PAGE, MADV_DONTNEED);
	else
		unmap(mem, PAGE);
	return NULL;
}

/* Nobody reads, the lifeline neither: a successor must learn of it. */
START_TEST(changes_wait_until_the_end)
{
	pthread_t threads[2];
	uint64_t v;

	setup_with(0);
	send_away();
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, change_thread, (void *)i);
	for (unsigned int i = 0; i < 2; i++) {
		while (!__atomic_load_n(&tids[i], __ATOMIC_SEQ_CST))
			sched_yield();
		ck_assert(wait_blocked(tids[i]));
	}
	fails(begin(notifier, mem, SIZE, &v), EAGAIN);
	ck_assert_int_eq(mirror_dispatch(ctx), 0);
	for (unsigned int i = 0; i < 2; i++)
		ck_assert(is_blocked(tids[i]));
	let_go();
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	ck_assert_int_eq(retry(notifier, mem, SIZE, version), 1);
	ck_assert(wait_lifelines());
	unmap(mem + 2 * PAGE, PAGE);
	is_over();
	finish();
}
END_TEST

static void *request_thread(void *data)
{
	struct mirror_stats stats = { .size = sizeof(stats) };

	(void)data;
	return (void *)(intptr_t)mirror_daemon_get_stats(ctx, &stats);
}

/* How many sockets of the daemon's have something to read. */
static unsigned int n_readable(void)
{
	struct pollfd pollfd = { .events = POLLIN };
	unsigned int n = 0;

	for (unsigned int i = 0; i < n_kept; i++) {
		pollfd.fd = kept[i];
		n += poll(&pollfd, 1, 0) == 1 && pollfd.revents & POLLIN;
	}
	return n;
}

START_TEST(requests_wait_until_the_end)
{
	unsigned int before;
	pthread_t thread;
	void *r;

	setup_with(0);
	send_away();
	before = n_readable();
	pthread_create(&thread, NULL, request_thread, NULL);
	while (n_readable() == before)
		sched_yield();
	ck_assert_int_eq(mirror_dispatch(ctx), 0);
	let_go();
	pthread_join(thread, &r);
	ck_assert_int_eq((int)(intptr_t)r, -EPIPE);
	is_over();
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "away");

	tcase_add_test(tcase, away_is_not_gone);
	tcase_add_test(tcase, away_is_not_gone_strict);
	tcase_add_test(tcase, records_are_told);
	tcase_add_test(tcase, waiter_sleeps_until_the_end);
	tcase_add_test(tcase, lookup_waits_until_the_end);
	tcase_add_test(tcase, changes_wait_until_the_end);
	tcase_add_test(tcase, requests_wait_until_the_end);
}

int main(void)
{
	return harness_main("away", fill);
}
