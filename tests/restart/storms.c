/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Restarts under a storm
 *
 * Targets change their memory all the time, consumers look it up, and at random moments
 * mirrord is killed, ended in good order, or stopped.  Where a service manager keeps its
 * descriptors nobody may notice but by waiting; where nobody does, everybody is told.
 */
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include "kept.h"
#include "storm.h"

#define STORE_MAX	8192
#define WAIT_MS		30000
#define TURNS		50		/* changes of each target between two restarts */

static struct kept kept;

static void random_moment(void)
{
	struct timespec ts = { .tv_nsec = (long)rnd(30000000) };

	nanosleep(&ts, NULL);
}

static struct storm *begin(bool may_lose)
{
	struct storm_options o = {
		.path = kept.place.socket, .targets = 4, .may_lose = may_lose,
	};
	struct storm *s = storm_start(&o);

	if (!storm_wait(s, TURNS, WAIT_MS))
		note("the storm does not begin");
	return s;
}

static void end(struct storm *s, const char *what)
{
	struct storm_counts n = storm_stop(s);

	storm_print(&n);
	same((long long)n.stale, 0, "%s: no lookup was stale", what);
	same((long long)n.unexpected, 0, "%s: each change was told once, in order", what);
	same((long long)n.untold, 0, "%s: and in time", what);
	same((long long)n.gaps, 0, "%s: records have no gaps", what);
	same((long long)n.errors, 0, "%s: nothing failed", what);
	same((long long)n.hung, 0, "%s: nobody hangs", what);
}

/* What is stored for the storm's processes when all is quiet again: nothing. */
static void check_store_is_empty(const char *what)
{
	uint64_t until = now_ms() + WAIT_MS;
	unsigned int n;

	do
		n = kept_count(&kept, 'c') + kept_count(&kept, 'u') + kept_count(&kept, 'g') +
		    kept_count(&kept, 'p') + kept_count(&kept, 't');
	while (n && now_ms() < until);
	same(n, 0, "%s: when all have gone, nothing of theirs is kept", what);
	if (n)
		note("kept: %s", kept_do(&kept, "names"));
}

/* ---- kept ---- */

static unsigned int restart_many(struct storm *s, unsigned int kills, unsigned int terms)
{
	unsigned int failed = 0;

	while (kills + terms && failed < 3) {
		bool is_kill = rnd(kills + terms) < kills;

		random_moment();
		if (is_kill) {
			kills--;
			kept_do(&kept, "kill %d", SIGKILL);
			kept_do(&kept, "wait");
		} else {
			terms--;
			kept_do(&kept, "restart");
		}
		if (!storm_wait(s, TURNS, WAIT_MS)) {
			note("nobody goes on after %s", is_kill ? "a kill" : "a restart");
			failed++;
		}
	}
	return failed;
}

static void restarts(unsigned int kills, unsigned int terms)
{
	struct keeper_report report;
	struct storm *s;

	kept_start(&kept, NULL, STORE_MAX);
	s = begin(false);
	same(restart_many(s, kills, terms), 0, "killed %u times, restarted %u times: all go on",
	     kills, terms);
	end(s, "kept");
	report = kept_report(&kept);
	same(report.starts, 1L + kills + terms, "kept: mirrord was started once for each end");
	same(report.late, 0, "kept: it never had to be killed");
	same(report.twice + report.dropped + report.refused, 0, "kept: all that was stored fits");
	note("kept: away for %ld us at most", report.away_max_us);
	check_store_is_empty("kept");
	kept_end(&kept);
}

/* A stopped mirrord makes everybody wait; a stopped one that is killed, too. */
static void stops(void)
{
	struct keeper_report report;
	struct storm_counts n;
	struct storm *s;

	kept_start(&kept, NULL, STORE_MAX);
	s = begin(false);
	for (int i = 0; i < 2; i++) {
		kept_do(&kept, "kill %d", SIGSTOP);
		nap_ms(1500);		/* longer than a lookup's patience */
		if (i == 0) {
			kept_do(&kept, "kill %d", SIGCONT);
		} else {
			kept_do(&kept, "kill %d", SIGKILL);
			kept_do(&kept, "wait");
		}
		ok(storm_wait(s, TURNS, WAIT_MS), "stopped, then %s: all go on",
		   i ? "killed" : "continued");
	}
	n = storm_counts(s);
	ok(n.again > 0, "stopped: lookups say that they would have to wait");
	end(s, "stopped");
	report = kept_report(&kept);
	same(report.starts, 2, "stopped: one was started anew");
	kept_end(&kept);
}

/* Nobody takes its messages for a while: they wait, and it does not. */
static void slow_manager(void)
{
	struct storm *s;

	kept_start(&kept, NULL, STORE_MAX);
	kept_do(&kept, "slow 1000");
	s = begin(false);
	kept_do(&kept, "kill %d", SIGKILL);
	ok(storm_wait(s, TURNS, WAIT_MS), "slow manager: they begin, and go on after a kill");
	end(s, "slow manager");
	kept_end(&kept);
}

/* ---- not kept ---- */

static void forgets(unsigned int rounds)
{
	struct storm_counts before, after;
	unsigned int failed = 0;
	struct storm *s;

	kept_start(&kept, NULL, 0);
	s = begin(true);
	for (unsigned int i = 0; i < rounds && failed < 3; i++) {
		uint64_t until = now_ms() + WAIT_MS;

		before = storm_counts(s);
		random_moment();
		kept_do(&kept, i % 2 ? "kill 15" : "kill 9");
		kept_do(&kept, "wait");
		do
			after = storm_counts(s);
		while (after.lost < before.lost + 6 && now_ms() < until);
		failed += after.lost != before.lost + 6 || !storm_wait(s, TURNS, WAIT_MS);
	}
	same(failed, 0, "not kept, %u times: each of 6 clients is told, and begins anew", rounds);
	end(s, "not kept");
	kept_end(&kept);
}

/* The store is dropped when the service is stopped: as if there were none. */
static void stop_and_start(unsigned int rounds)
{
	unsigned int failed = 0;
	struct storm *s;

	kept_start(&kept, NULL, STORE_MAX);
	s = begin(true);
	for (unsigned int i = 0; i < rounds && failed < 3; i++) {
		struct storm_counts before = storm_counts(s), after;
		uint64_t until = now_ms() + WAIT_MS;

		random_moment();
		kept_do(&kept, "stop");
		/* those who begin anew wait for the answer of one that is not there yet */
		do
			after = storm_counts(s);
		while (after.lost < before.lost + 6 && now_ms() < until);
		kept_do(&kept, "start");
		kept_do(&kept, "wait");
		failed += after.lost != before.lost + 6 || !storm_wait(s, TURNS, WAIT_MS);
	}
	same(failed, 0, "stopped for good, %u times: each of 6 clients is told at once", rounds);
	end(s, "stopped for good");
	kept_end(&kept);
}

int main(int argc, char **argv)
{
	test_begin(argc, argv, 150, 580);
	kept_init(&kept);
	restarts((unsigned int)test_size(10, 30, 100), (unsigned int)test_size(10, 30, 100));
	stops();
	slow_manager();
	forgets((unsigned int)test_size(4, 10, 40));
	stop_and_start((unsigned int)test_size(2, 5, 20));
	return test_end();
}
