/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Signals all the time
 *
 * Profilers send SIGPROF a thousand times a second to every thread.  System calls of
 * the library are interrupted by it anywhere; nothing may come of that.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "lanes.h"

static struct daemon d;
static atomic_ulong n_signals;
static atomic_bool waiter_stop;

static void on_signal(int sig)
{
	(void)sig;
	atomic_fetch_add(&n_signals, 1);
}

static timer_t profile(pid_t tid)
{
	struct itimerspec its = { .it_interval.tv_nsec = 1000000, .it_value.tv_nsec = 1000000 };
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF };
	timer_t timer;

	ev._sigev_un._tid = tid;
	if (timer_create(CLOCK_MONOTONIC, &ev, &timer) < 0 ||
	    timer_settime(timer, 0, &its, NULL) < 0)
		bail("timer: %s", strerror(errno));
	return timer;
}

/* Somebody who sleeps in the library meanwhile. */
static void *waiter_main(void *data)
{
	timer_t timer = profile((pid_t)syscall(SYS_gettid));
	long bad = 0;
	int r;

	while (!atomic_load(&waiter_stop)) {
		r = mirror_wait(data, 100);
		if (r < 0 && r != -EINTR)
			bad = r;
	}
	timer_delete(timer);
	return (void *)bad;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };	/* without SA_RESTART */
	struct lanes *lanes;
	uint64_t turns, end;
	pthread_t waiter;
	timer_t timers[LANES_MAX];
	void *bad;
	int r;

	test_begin(argc, argv, 90, 280);
	turns = test_size(10000, 40000, 200000);
	sigaction(SIGPROF, &action, NULL);
	daemon_init(&d);
	daemon_start(&d, NULL);
	lanes = lanes_new(2, 1);
	profile((pid_t)syscall(SYS_gettid));
	r = lanes_attach(lanes, d.socket);
	if (!ok(r == 0, "attaching under signals"))
		bail("cannot attach: %s", strerror(-r));
	lanes_start(lanes);
	if (pthread_create(&waiter, NULL, waiter_main, lanes->ctx))
		bail("thread");
	for (unsigned int i = 0; i < lanes->n; i++) {
		for (end = now_ms() + 5000; !lanes->lane[i].tid && now_ms() < end;)
			nap_ms(1);
		timers[i] = profile(lanes->lane[i].tid);
	}
	end = now_ms() + test_size(60000, 60000, 240000);
	while (lanes_turns(lanes) < turns && !lanes_error(lanes, 0) && now_ms() < end)
		nap_ms(5);
	ok(lanes_turns(lanes) >= turns, "%llu turns", (unsigned long long)turns);
	for (unsigned int i = 0; i < lanes->n; i++)
		timer_delete(timers[i]);
	lanes_stop(lanes);
	atomic_store(&waiter_stop, true);
	pthread_join(waiter, &bad);
	note("%lu signals", atomic_load(&n_signals));
	ok(atomic_load(&n_signals) > 100, "there were signals");
	same(lanes_error(lanes, 0), 0, "no lookup failed");
	same((long)bad, 0, "no wait failed but by a signal");
	same((long long)lanes_stale(lanes), 0, "no lookup was stale");
	lanes_detach(lanes);
	same(daemon_stop(&d), 0, "the daemon ends well");
	return test_end();
}
