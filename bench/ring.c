/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * bench-ring: records a second
 *
 *	notifiers=N	of one consumer, all over the same page (1000)
 *	cpu=N, reader=N	bind the acting thread, the consumer
 *
 * One munmap makes a record for each notifier.  Times are in picoseconds a record.
 *
 *	publish		until munmap returned, nobody dispatches
 *	consume		one mirror_dispatch() of all of them
 *	stream		published and consumed, a thread dispatching all the time
 */

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>
#include "session.h"

#define STREAM 50	/* munmaps of one sample */

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static char *page;
static int reader_cpu = -1;
static uint64_t n_notifiers, n_heard, n_changes;
static bool active;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

static void on_change(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	(void)n;
	(void)userdata;
	if (ev->type != MIRROR_EVENT_UNMAP)
		fail("an event of type %d", ev->type);
	__atomic_store_n(&n_heard, n_heard + 1, __ATOMIC_RELEASE);
}

static void *consume(void *unused)
{
	pin(reader_cpu);
	for (;;) {
		pthread_mutex_lock(&lock);
		while (!active)
			pthread_cond_wait(&cond, &lock);
		pthread_mutex_unlock(&lock);
		while (__atomic_load_n(&active, __ATOMIC_RELAXED))
			must(mirror_dispatch(ctx), "mirror_dispatch");
	}
	return unused;
}

static void set_active(bool yes)
{
	pthread_mutex_lock(&lock);
	__atomic_store_n(&active, yes, __ATOMIC_RELAXED);
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
}

static void change(void)
{
	page_map(page);
	session_arm(target, page, PAGE);
	page_unmap(page);
	n_changes++;
}

static void wait_heard(bool dispatch)
{
	uint64_t deadline = now_ns() + PATIENCE_NS;

	while (__atomic_load_n(&n_heard, __ATOMIC_ACQUIRE) != n_changes * n_notifiers) {
		if (now_ns() > deadline)
			fail("%llu records of %llu came", (unsigned long long)n_heard,
			     (unsigned long long)(n_changes * n_notifiers));
		if (dispatch)
			must(mirror_dispatch(ctx), "mirror_dispatch");
		else
			sched_yield();
	}
}

static void run_burst(unsigned int count)
{
	static struct samples publish = { .name = "publish" }, take = { .name = "consume" };
	uint64_t t0, t1, t2;
	int r;

	for (unsigned int i = 0; i < count; i++) {
		page_map(page);
		session_arm(target, page, PAGE);
		t0 = now_ns();
		page_unmap(page);
		t1 = now_ns();
		n_changes++;
		samples_add(&publish, (t1 - t0) * 1000 / n_notifiers);
		/* On another processor the daemon may be at it still. */
		usleep(200);
		t1 = now_ns();
		r = mirror_dispatch(ctx);
		t2 = now_ns();
		must(r, "mirror_dispatch");
		if ((uint64_t)r == n_notifiers)
			samples_add(&take, (t2 - t1) * 1000 / n_notifiers);
		wait_heard(true);
	}
	samples_say(&publish);
	samples_say(&take);
}

static void run_stream(unsigned int count)
{
	static struct samples stream = { .name = "stream" };
	uint64_t t;

	set_active(true);
	for (unsigned int i = 0; i < count; i++) {
		t = now_ns();
		for (int k = 0; k < STREAM; k++)
			change();
		wait_heard(false);
		samples_add(&stream, (now_ns() - t) * 1000 / (STREAM * n_notifiers));
	}
	set_active(false);
	samples_say(&stream);
}

int main(int argc, char **argv)
{
	static const struct turn turns[] = { { "burst", run_burst }, { "stream", run_stream } };
	struct mirror_stats stats;
	pthread_t thread;
	int cpu;

	(void)argc;
	cpu = cpu_at((int)option_number(argv, "cpu", -1));
	reader_cpu = cpu_at((int)option_number(argv, "reader", -1));
	n_notifiers = (uint64_t)option_number(argv, "notifiers", 1000);
	page = page_reserve();
	ctx = session_open(argv, 65536);
	target = session_attach(ctx, 0);
	page_release(page);
	for (uint64_t i = 0; i < n_notifiers; i++)
		session_watch(target, page, PAGE, on_change, NULL);
	must(-pthread_create(&thread, NULL, consume, NULL), "pthread_create");
	pin(cpu);
	take_turns(turns, ARRAY_SIZE(turns));
	session_stats(ctx, &stats);
	printf("done changes=%llu records=%llu\n", (unsigned long long)n_changes,
	       (unsigned long long)n_heard);
	fflush(stdout);
	_exit(0);
}
