/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Notifiers, their callbacks, and waiting for them. */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include "harness.h"

#define SIZE (16 * PAGE)

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static char *mem;
static struct log seen;

static void setup_with(uint32_t ring_entries)
{
	ctx = open_ctx_with(0, ring_entries);
	target = attach_self(ctx, 0);
	mem = map_pages(SIZE);
}

static void setup(void)
{
	setup_with(0);
}

static void finish(void)
{
	target = mirror_target_unref(target);
	ctx = mirror_ctx_unref(ctx);
}

START_TEST(insert_refused)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = log_event };
	struct mirror_notifier *n = NULL;
	uint64_t a;

	setup();
	a = (uintptr_t)mem;
	fails(mirror_notifier_insert(&n, target, a, a, &ops, NULL), EINVAL);
	fails(mirror_notifier_insert(&n, target, a + PAGE, a, &ops, NULL), EINVAL);
	fails(mirror_notifier_insert(&n, target, a + 1, a + PAGE, &ops, NULL), EINVAL);
	fails(mirror_notifier_insert(&n, target, a, a + 1, &ops, NULL), EINVAL);
	fails(mirror_notifier_insert(&n, target, a, UINT64_MAX & ~(PAGE - 1), &ops, NULL), EINVAL);
	fails(mirror_notifier_insert(&n, target, a, a + PAGE, NULL, NULL), EINVAL);
	ops.flags = 0x80;
	fails(mirror_notifier_insert(&n, target, a, a + PAGE, &ops, NULL), E2BIG);
	ops.flags = 0;
	ops.invalidate = NULL;
	fails(mirror_notifier_insert(&n, target, a, a + PAGE, &ops, NULL), EINVAL);
	ops.invalidate = log_event;
	ops.sz = offsetof(struct mirror_notifier_ops, invalidate);
	fails(mirror_notifier_insert(&n, target, a, a + PAGE, &ops, NULL), EINVAL);
	ck_assert_ptr_null(n);
	ck_assert_ptr_null(mirror_notifier_remove(NULL));
	finish();
}
END_TEST

START_TEST(notifier_getters)
{
	struct mirror_notifier *n;

	setup();
	n = watch(target, mem, SIZE, &seen);
	ck_assert_ptr_eq(mirror_notifier_get_target(n), target);
	ck_assert_uint_eq(mirror_notifier_get_start(n), (uintptr_t)mem);
	ck_assert_uint_eq(mirror_notifier_get_end(n), (uintptr_t)mem + SIZE);
	/* the notifier keeps what it needs */
	finish();
	ck_assert_uint_gt(mirror_target_get_id(mirror_notifier_get_target(n)), 0);
	mirror_notifier_remove(n);
}
END_TEST

/* ---- callbacks ---- */

static struct mirror_notifier *victim, *self_remover;
static unsigned int n_called;

static void remove_self(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	(void)ev;
	(void)userdata;
	n_called++;
	mirror_notifier_remove(n);
}

static void remove_other(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	(void)n;
	(void)ev;
	(void)userdata;
	n_called++;
	victim = mirror_notifier_remove(victim);
}

static struct mirror_notifier *insert(void (*fn)(struct mirror_notifier *,
						 const struct mirror_event *, void *))
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = fn };
	struct mirror_notifier *n;

	ok(mirror_notifier_insert(&n, target, (uintptr_t)mem, (uintptr_t)mem + SIZE, &ops, NULL));
	return n;
}

START_TEST(remove_in_callback)
{
	setup();
	self_remover = insert(remove_self);
	unmap(mem, PAGE);
	unmap(mem + PAGE, PAGE);	/* a record that finds nobody */
	settle(ctx);
	ck_assert_int_eq(mirror_dispatch(ctx), 2);
	ck_assert_uint_eq(n_called, 1);
	unmap(mem + 2 * PAGE, PAGE);
	settle(ctx);
	ck_assert_int_eq(mirror_dispatch(ctx), 0);
	finish();
}
END_TEST

START_TEST(remove_other_in_callback)
{
	struct mirror_notifier *n;

	setup();
	n = insert(remove_other);
	victim = watch(target, mem, SIZE, &seen);
	for (unsigned int i = 0; i < 4; i++)
		unmap(mem + i * PAGE, PAGE);
	settle(ctx);
	mirror_dispatch(ctx);
	ck_assert_uint_eq(n_called, 4);
	ck_assert_uint_le(seen.n, 1);	/* it may have been told first, once */
	mirror_notifier_remove(n);
	finish();
}
END_TEST

/* The last reference to everything goes inside the callback. */
START_TEST(end_in_callback)
{
	struct mirror_ctx *borrowed;

	setup();
	insert(remove_self);
	unmap(mem, PAGE);
	settle(ctx);
	borrowed = ctx;
	finish();
	ck_assert_int_eq(mirror_dispatch(borrowed), 1);
	ck_assert_uint_eq(n_called, 1);
}
END_TEST

static sem_t in_callback, may_return;
static atomic_int callback_done;

static void slow(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	(void)n;
	(void)ev;
	(void)userdata;
	sem_post(&in_callback);
	sem_wait(&may_return);
	atomic_store(&callback_done, 1);
}

static void *dispatch_thread(void *data)
{
	(void)data;
	mirror_dispatch(ctx);
	return NULL;
}

static void *release_thread(void *data)
{
	(void)data;
	/* the remover is, or soon will be, waiting; either way it must not be early */
	for (int i = 0; i < 1000; i++)
		sched_yield();
	sem_post(&may_return);
	return NULL;
}

START_TEST(remove_waits_for_callback)
{
	pthread_t dispatcher, releaser;
	struct mirror_notifier *n;

	setup();
	sem_init(&in_callback, 0, 0);
	sem_init(&may_return, 0, 0);
	n = insert(slow);
	unmap(mem, PAGE);
	settle(ctx);
	pthread_create(&dispatcher, NULL, dispatch_thread, NULL);
	sem_wait(&in_callback);
	pthread_create(&releaser, NULL, release_thread, NULL);
	ck_assert_int_eq(atomic_load(&callback_done), 0);
	mirror_notifier_remove(n);
	ck_assert_int_eq(atomic_load(&callback_done), 1);
	pthread_join(dispatcher, NULL);
	pthread_join(releaser, NULL);
	finish();
}
END_TEST

static void busy(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	uint64_t v;

	(void)ev;
	(void)userdata;
	if (++n_called > 20)
		return;
	/* changes what is watched, looks it up, and so runs itself again, inside */
	ck_assert_int_eq(madvise(mem, PAGE, MADV_DONTNEED), 0);
	ok(begin(n, mem, PAGE, &v));
}

START_TEST(callback_looks_up)
{
	struct mirror_notifier *n;

	setup();
	n = insert(busy);
	ck_assert_int_eq(madvise(mem, PAGE, MADV_DONTNEED), 0);
	settle(ctx);
	while (mirror_dispatch(ctx) > 0)
		;
	ck_assert_uint_ge(n_called, 20);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

START_TEST(end_records)
{
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops), .flags = MIRROR_NOTIFIER_END, .invalidate = log_event,
	};
	struct mirror_notifier *n;
	uint64_t v;

	setup();
	ok(mirror_notifier_insert(&n, target, (uintptr_t)mem, (uintptr_t)mem + SIZE, &ops, &seen));
	ck_assert_int_eq(madvise(mem, PAGE, MADV_DONTNEED), 0);
	ok(begin(n, mem, PAGE, &v));
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_CLEAR], 2);
	ck_assert(seen.first.flags & MIRROR_EVENT_F_START);
	ck_assert(seen.last.flags & MIRROR_EVENT_F_END);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

/* ---- losing ---- */

START_TEST(overflow)
{
	struct mirror_ctx_stats stats = { .sz = sizeof(stats) };
	struct mirror_notifier *n, *other;
	struct log other_seen = { .n = 0 };
	uint64_t v[SIZE / PAGE], w;
	char *far_off;

	setup_with(4);
	far_off = map_pages(SIZE);
	n = watch(target, mem, SIZE, &seen);
	other = watch(target, far_off, SIZE, &other_seen);
	for (unsigned int i = 0; i < SIZE / PAGE; i++)
		ok(begin(n, mem + i * PAGE, PAGE, &v[i]));
	for (unsigned int i = 0; i < 100; i++) {
		char *page = mem + i % 16 * PAGE;

		ck_assert_ptr_eq(map_over(page, PAGE), page);
		ok(mirror_target_arm(target, (uintptr_t)mem, (uintptr_t)mem + SIZE));
	}
	for (unsigned int i = 0; i < SIZE / PAGE; i++)
		ck_assert_int_eq(retry(n, mem + i * PAGE, PAGE, v[i]), 1);
	/* one lookup: everything is told before it returns, the loss included */
	ok(begin(n, mem, PAGE, &w));
	ck_assert_uint_ge(seen.n_type[MIRROR_EVENT_OVERFLOW], 1);
	ck_assert_uint_ge(other_seen.n_type[MIRROR_EVENT_OVERFLOW], 1);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], 4);
	ck_assert_uint_eq(other_seen.last.start, (uintptr_t)far_off);
	ck_assert_uint_eq(other_seen.last.end, (uintptr_t)far_off + SIZE);
	ck_assert_int_eq(retry(n, mem, PAGE, w), 0);
	ok(mirror_ctx_get_stats(ctx, &stats));
	ck_assert_uint_eq(stats.lost, 96);
	ck_assert_uint_ge(stats.overflows, 1);
	mirror_notifier_remove(n);
	mirror_notifier_remove(other);
	finish();
}
END_TEST

START_TEST(overflow_by_dispatch)
{
	struct mirror_notifier *n;

	setup_with(4);
	n = watch(target, mem, SIZE, &seen);
	for (unsigned int i = 0; i < 100; i++)
		ck_assert_int_eq(madvise(mem, PAGE, MADV_DONTNEED), 0);
	while (!seen.n_type[MIRROR_EVENT_OVERFLOW])
		ok(mirror_wait(ctx, -1));
	ck_assert_uint_eq(seen.last.arg.overflow.lost + seen.n - 1, 100);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

/* ---- sleeping ---- */

static void *unmap_thread(void *data)
{
	(void)data;
	unmap(mem, PAGE);
	return NULL;
}

START_TEST(wait_wakes)
{
	struct pollfd pollfd = { .events = POLLIN };
	struct mirror_ctx_stats stats = { .sz = sizeof(stats) };
	struct mirror_notifier *n;
	pthread_t thread;

	setup();
	n = watch(target, mem, SIZE, &seen);
	ck_assert_int_eq(mirror_wait(ctx, 5), 0);
	pthread_create(&thread, NULL, unmap_thread, NULL);
	ck_assert_int_eq(mirror_wait(ctx, -1), 1);
	pthread_join(thread, NULL);
	ck_assert_uint_eq(seen.n, 1);
	ok(mirror_ctx_get_stats(ctx, &stats));
	ck_assert_uint_ge(stats.sleeps, 1);
	ck_assert_uint_eq(stats.records, 1);

	pollfd.fd = mirror_ctx_get_fd(ctx);
	ck_assert_int_eq(mirror_prepare_wait(ctx), 0);
	ck_assert_int_eq(poll(&pollfd, 1, 0), 0);
	unmap(mem + PAGE, PAGE);
	ck_assert_int_eq(poll(&pollfd, 1, 10000), 1);
	ck_assert_int_eq(mirror_prepare_wait(ctx), 1);
	ck_assert_int_eq(mirror_dispatch(ctx), 1);
	ck_assert_int_eq(mirror_prepare_wait(ctx), 0);
	ck_assert_int_eq(poll(&pollfd, 1, 0), 0);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

static void *wait_thread(void *data)
{
	(void)data;
	return (void *)(intptr_t)mirror_wait(ctx, -1);
}

/* Sleeps again and again while another thread makes changes: none is missed. */
START_TEST(wait_never_misses)
{
	struct mirror_notifier *n;
	pthread_t thread;
	void *r;

	setup();
	n = watch(target, mem, SIZE, &seen);
	for (unsigned int i = 0; i < 500; i++) {
		pthread_create(&thread, NULL, wait_thread, NULL);
		ck_assert_int_eq(madvise(mem, PAGE, MADV_DONTNEED), 0);
		pthread_join(thread, &r);
		ck_assert_int_eq((int)(intptr_t)r, 1);
	}
	mirror_notifier_remove(n);
	finish();
}
END_TEST

static void on_alarm(int sig)
{
	(void)sig;
}

START_TEST(wait_interrupted)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerspec soon = { .it_value.tv_nsec = 20000000, .it_interval.tv_nsec = 20000000 };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	timer_t timer;

	setup();
	sigaction(SIGUSR1, &action, NULL);
	ck_assert_int_eq(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
	ck_assert_int_eq(timer_settime(timer, 0, &soon, NULL), 0);
	fails(mirror_wait(ctx, -1), EINTR);
	timer_delete(timer);
	finish();
}
END_TEST

/* ---- a move that can be trusted ---- */

static void note_move(struct mirror_notifier *n, const struct mirror_event *event, void *userdata)
{
	(void)n;
	if (event->type == MIRROR_EVENT_REMAP)
		*(struct mirror_event *)userdata = *event;
}

/* Moves the first page there and back; the flags of the second move. */
static uint64_t move(const struct mirror_event *last)
{
	char *there = mem + SIZE / 2;

	unmap(there, PAGE);
	ck_assert_ptr_eq(mremap(mem, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, there), there);
	ck_assert_ptr_eq(mremap(there, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, mem), mem);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert_uint_eq(last->start, (uintptr_t)there);
	ck_assert_uint_eq(last->arg.remap.to, (uintptr_t)mem);
	return last->arg.remap.flags;
}

static void *stay(void *data)
{
	sem_wait(data);
	return NULL;
}

START_TEST(remap_alone)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = note_move };
	struct mirror_notifier *n;
	struct mirror_event last;
	pthread_t thread;
	sem_t go;

	setup();
	ok(mirror_notifier_insert(&n, target, (uintptr_t)mem, (uintptr_t)mem + SIZE, &ops, &last));
	/* a sanitizer's thread is one, too */
	if (!HAS_THREADS)
		ck_assert_uint_eq(move(&last), MIRROR_REMAP_ALONE);
	sem_init(&go, 0, 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, stay, &go), 0);
	/* often: one that acts all the time is looked at alone, see peek.c */
	for (int i = 0; i < 20; i++)
		ck_assert_uint_eq(move(&last), 0);
	sem_post(&go);
	pthread_join(thread, NULL);
	/* it can be joined a moment before it is gone */
	while (!HAS_THREADS && move(&last) != MIRROR_REMAP_ALONE)
		sched_yield();
	mirror_notifier_remove(n);
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "notifier");

	tcase_add_test(tcase, insert_refused);
	tcase_add_test(tcase, notifier_getters);
	tcase_add_test(tcase, remove_in_callback);
	tcase_add_test(tcase, remove_other_in_callback);
	tcase_add_test(tcase, end_in_callback);
	tcase_add_test(tcase, remove_waits_for_callback);
	tcase_add_test(tcase, callback_looks_up);
	tcase_add_test(tcase, end_records);
	tcase_add_test(tcase, overflow);
	tcase_add_test(tcase, overflow_by_dispatch);
	tcase_add_test(tcase, wait_wakes);
	tcase_add_test(tcase, wait_never_misses);
	tcase_add_test(tcase, wait_interrupted);
	tcase_add_test(tcase, remap_alone);
}

int main(void)
{
	return harness_main("notifier", fill);
}
