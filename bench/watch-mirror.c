/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * mirrord, of which this process is a target and a consumer at once
 *
 *	socket=PATH		of the daemon
 *	consumer=none|busy|sleep nobody dispatches during a turn; a thread that does
 *				nothing else; a thread in mirror_wait()
 *	reader=N		bind that thread to the N-th processor
 *	elsewhere=0|1		mirror-apart: is there a notifier at all (1)?
 *
 * mirror		a notifier over the range
 * mirror-apart		mappings of the range are armed, but its notifier is elsewhere:
 *			the daemon hears of the change, and finds that nobody cares
 * mirror-unarmed	not armed either: the kernel does not even ask
 */

#include <pthread.h>
#include "session.h"
#include "watch.h"

#define ENTRIES 65536U

enum consumer { CONSUMER_NONE, CONSUMER_BUSY, CONSUMER_SLEEP };

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static enum consumer consumer;
static int cpu = -1;
static void *elsewhere;
static uint64_t n_heard, n_overflows;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static bool active;

static void on_change(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	(void)n;
	(void)userdata;
	if (ev->type == MIRROR_EVENT_OVERFLOW)
		__atomic_fetch_add(&n_overflows, 1, __ATOMIC_RELAXED);
	else if (!(ev->flags & MIRROR_EVENT_F_END))
		__atomic_fetch_add(&n_heard, 1, __ATOMIC_RELEASE);
}

static void wait_for_turn(void)
{
	pthread_mutex_lock(&lock);
	while (!active)
		pthread_cond_wait(&cond, &lock);
	pthread_mutex_unlock(&lock);
}

static void *consume(void *unused)
{
	pin(cpu);
	for (;;) {
		if (consumer == CONSUMER_SLEEP) {
			must(mirror_wait(ctx, -1), "mirror_wait");
			continue;
		}
		wait_for_turn();
		while (__atomic_load_n(&active, __ATOMIC_RELAXED))
			must(mirror_dispatch(ctx), "mirror_dispatch");
	}
	return unused;
}

static void start_consumer(char **argv)
{
	const char *kind = option_text(argv, "consumer", "none");
	pthread_t thread;

	cpu = cpu_at((int)option_number(argv, "reader", -1));
	consumer = !strcmp(kind, "busy") ? CONSUMER_BUSY :
		   !strcmp(kind, "sleep") ? CONSUMER_SLEEP : CONSUMER_NONE;
	if (consumer != CONSUMER_NONE)
		must(-pthread_create(&thread, NULL, consume, NULL), "pthread_create");
}

static void mirror_start(char **argv)
{
	ctx = session_open(argv, ENTRIES);
	target = session_attach(ctx, 0);
	if (option_number(argv, "elsewhere", 1))
		elsewhere = map_pages(PAGE);
	start_consumer(argv);
}

static void mirror_watch(void *start, size_t bytes)
{
	session_watch(target, start, bytes, on_change, NULL);
}

static void watch_elsewhere(void *start, size_t bytes)
{
	(void)start;
	(void)bytes;
	if (elsewhere)
		session_watch(target, elsewhere, PAGE, on_change, NULL);
}

static void mirror_arm(void *start, size_t bytes)
{
	session_arm(target, start, bytes);
}

static void no_arm(void *start, size_t bytes)
{
	(void)start;
	(void)bytes;
}

static uint64_t mirror_heard(void)
{
	if (consumer == CONSUMER_NONE)
		must(mirror_dispatch(ctx), "mirror_dispatch");
	return __atomic_load_n(&n_heard, __ATOMIC_ACQUIRE);
}

static void set_active(bool yes)
{
	pthread_mutex_lock(&lock);
	__atomic_store_n(&active, yes, __ATOMIC_RELAXED);
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
}

static void mirror_begin(void)
{
	set_active(true);
}

static void mirror_end(void)
{
	set_active(false);
}

static void mirror_stop(uint64_t n_changes)
{
	uint64_t n_read = session_events(ctx, target);
	struct mirror_stats stats;

	if (n_overflows)
		fail("the ring overflowed");
	if (n_read != n_changes)
		fail("%llu changes, but the daemon read %llu", (unsigned long long)n_changes,
		     (unsigned long long)n_read);
	session_stats(ctx, &stats);
	printf(" moves=%llu", (unsigned long long)stats.moves);
}

static void apart_stop(uint64_t n_changes)
{
	if (n_heard)
		fail("heard of %llu changes of what nobody watches", (unsigned long long)n_heard);
	mirror_stop(n_changes);
}

static void unarmed_stop(uint64_t n_changes)
{
	(void)n_changes;
	if (session_events(ctx, target))
		fail("the daemon read events of mappings that are not armed");
}

const struct watch watch_mirror = {
	.name = "mirror",
	.start = mirror_start,
	.watch = mirror_watch,
	.arm = mirror_arm,
	.heard = mirror_heard,
	.begin = mirror_begin,
	.end = mirror_end,
	.stop = mirror_stop,
};

const struct watch watch_mirror_apart = {
	.name = "mirror-apart",
	.start = mirror_start,
	.watch = watch_elsewhere,
	.arm = mirror_arm,
	.heard = mirror_heard,
	.begin = mirror_begin,
	.end = mirror_end,
	.stop = apart_stop,
	.silent = true,
};

const struct watch watch_mirror_unarmed = {
	.name = "mirror-unarmed",
	.start = mirror_start,
	.watch = watch_elsewhere,
	.arm = no_arm,
	.heard = mirror_heard,
	.begin = mirror_begin,
	.end = mirror_end,
	.stop = unarmed_stop,
	.silent = true,
};
