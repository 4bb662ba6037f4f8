/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Many targets and many clients over a restart
 *
 * Each of many processes watches a page of its own.  After a restart each of them finds it
 * good again, is told of a change, and mirrord has as many of everything as before.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>
#include "watch.h"

#define MOST		200U
#define STORE_MAX	8192
#define WAIT_MS		60000

/* In shared memory. */
struct shared {
	atomic_uint round;		/* that they are to look in */
	atomic_uint done[MOST];		/* the last one that they did */
	atomic_uint bad, told;
};

static struct kept kept;
static struct shared *shared;
static char *page;

static void one_look(struct watch *w)
{
	unsigned int before;

	if (watch_look(w) < 0) {
		atomic_fetch_add(&shared->bad, 1);
		return;
	}
	before = w->records;
	page_change(page);
	if (watch_is_good(w) || watch_look(w) < 0 || w->records != before + 1 || w->gaps)
		atomic_fetch_add(&shared->bad, 1);
}

static int watcher_main(unsigned int i)
{
	unsigned int round = 0;
	struct watch w;

	page_map(page);
	if (watch_self(&w, &kept, page, 0) < 0)
		return 1;
	for (;;) {
		while (atomic_load(&shared->round) == round)
			nap_ms(2);
		round = atomic_load(&shared->round);
		if (round == ~0U)
			break;
		one_look(&w);
		atomic_store(&shared->done[i], round);
	}
	watch_end(&w);
	return 0;
}

/* Everybody looks; how long it takes, or -1. */
static long look_all(unsigned int n, unsigned int round)
{
	uint64_t begin = now_ms();
	unsigned int done;

	atomic_store(&shared->round, round);
	do {
		nap_ms(1);
		done = 0;
		for (unsigned int i = 0; i < n; i++)
			done += atomic_load(&shared->done[i]) == round;
	} while (done < n && now_ms() < begin + WAIT_MS);
	return done < n ? -1 : (long)(now_ms() - begin);
}

static void check_all(unsigned int n, unsigned int round, const char *when)
{
	long ms = look_all(n, round);
	struct mirror_stats stats = ask_stats(&kept);

	ok(ms >= 0, "%s: everybody looks", when);
	same(atomic_load(&shared->bad), 0, "%s: and finds what is there, and is told", when);
	ok(stats.clients == n && stats.targets == n && stats.notifiers == n && stats.channels == n,
	   "%s: mirrord has %u of everything", when, n);
	note("%s: they look, change and look again in %ld ms", when, ms);
}

int main(int argc, char **argv)
{
	struct keeper_report report;
	unsigned int n, bad = 0;
	pid_t pids[MOST];

	test_begin(argc, argv, 140, 280);
	n = (unsigned int)test_size(100, MOST, MOST);
	kept_init(&kept);
	page = watch_page();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		bail("mmap");
	kept_start(&kept, NULL, STORE_MAX);
	for (unsigned int i = 0; i < n; i++) {
		pids[i] = child_fork();
		if (!pids[i])
			_exit(watcher_main(i));
	}
	check_all(n, 1, "in the beginning");
	for (unsigned int i = 0; i < 2; i++) {
		if (i) {
			kept_do(&kept, "restart");
		} else {
			kept_do(&kept, "kill %d", SIGKILL);
			kept_do(&kept, "wait");
		}
		report = kept_report(&kept);
		note("%u targets and clients, %ld descriptors: away for %ld us", n, report.stored,
		     report.away_us);
		check_all(n, 2 + i, i ? "after a restart" : "after a kill");
	}
	same(report.twice + report.dropped + report.refused, 0, "all that was stored fits");
	atomic_store(&shared->round, ~0U);
	for (unsigned int i = 0; i < n; i++)
		bad += child_wait(pids[i], WAIT_MS) != 0;
	same(bad, 0, "all end well");
	same(wait_stats(&kept, 0, 0).targets, 0, "then nothing is left");
	kept_end(&kept);
	return test_end();
}
