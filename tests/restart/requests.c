/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Killed inside of requests
 *
 * Processes make and remove everything that there is to make, of their own and of each
 * other's memory, while mirrord is killed again and again.  Each call is done, once, or
 * says that all is over; and in the end mirrord has what they have, no more and no less.
 */
#include <errno.h>
#include <mirror/table.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "watch.h"

#define CLIENTS		8U
#define NOTIFIERS	8U
#define PAGES		16U
#define STORE_MAX	8192
#define WAIT_MS		30000
#define EQUAL_MS	10000

/* In shared memory: what each has, and what it met. */
struct tally {
	pid_t pid;
	atomic_bool parked;
	atomic_ulong calls, told, told_at_open, busy, errors;
	/* when parked */
	uint32_t clients, channels, notifiers;
	bool targets[CLIENTS];		/* whose memory it is attached to */
};

struct shared {
	atomic_bool stop, end;
	atomic_uint complaints;
	struct tally tallies[CLIENTS];
};

struct client {
	struct tally *tally;
	unsigned int index;
	uint64_t random;
	struct mirror_ctx *ctx;
	struct mirror_target *targets[CLIENTS];
	struct mirror_notifier *notifiers[NOTIFIERS];
	bool has_ring;
};

static struct kept kept;
static struct shared *shared;
static char *memory;

static uint64_t next(struct client *c, uint64_t below)
{
	c->random = c->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (c->random >> 33) % below;
}

static void on_event(struct mirror_notifier *notifier, const struct mirror_event *ev, void *data)
{
	(void)notifier;
	(void)ev;
	(void)data;
}

/* ---- a client ---- */

static void let_go(struct client *c)
{
	for (unsigned int i = 0; i < NOTIFIERS; i++)
		c->notifiers[i] = mirror_notifier_remove(c->notifiers[i]);
	for (unsigned int i = 0; i < CLIENTS; i++)
		c->targets[i] = mirror_target_unref(c->targets[i]);
	c->ctx = mirror_ctx_unref(c->ctx);
}

/* What may be said: done, or that all is over, or what the state of things makes of it. */
static void check(struct client *c, const char *what, int r, int allowed)
{
	atomic_fetch_add(&c->tally->calls, 1);
	if (r >= 0 || r == allowed)
		return;
	if (r == -EBUSY) {		/* the userfaultfd from before has not gone yet */
		atomic_fetch_add(&c->tally->busy, 1);
		return;
	}
	/* over for all of it, or for one target: what was not kept yet is lost by a kill */
	if (r == -EPIPE || r == -ESRCH) {
		if (c->ctx && atomic_fetch_add(&shared->complaints, 1) < 10)
			note("%d: %s: told, %s", (int)getpid(), what, strerror(-r));
		atomic_fetch_add(c->ctx ? &c->tally->told : &c->tally->told_at_open, 1);
		let_go(c);
		return;
	}
	atomic_fetch_add(&c->tally->errors, 1);
	if (atomic_fetch_add(&shared->complaints, 1) < 10)
		note("%d: %s: %s", (int)getpid(), what, strerror(-r));
}

static void do_open(struct client *c)
{
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	int r;

	c->has_ring = next(c, 4);
	open.path = kept.place.socket;
	open.flags = MIRROR_OPEN_NO_EMBEDDED | (c->has_ring ? 0 : MIRROR_OPEN_NO_RING);
	open.ring_entries = 16;
	r = mirror_open(&c->ctx, &open);
	check(c, "mirror_open", r == -ECONNRESET || r == -ECONNREFUSED ? -EPIPE : r, 0);
}

static void do_attach(struct client *c)
{
	unsigned int i = next(c, 3) ? c->index : (unsigned int)next(c, CLIENTS);
	int pidfd, r;

	if (c->targets[i])
		return;
	if (i == c->index) {
		r = mirror_target_attach_self(&c->targets[i], c->ctx, NULL);
		check(c, "mirror_target_attach_self", r, 0);
		return;
	}
	pidfd = (int)syscall(SYS_pidfd_open, shared->tallies[i].pid, 0);
	r = mirror_target_attach(&c->targets[i], c->ctx, pidfd, -1, NULL);
	close(pidfd);
	check(c, "mirror_target_attach", r, -ENODATA);	/* it is not attached itself */
}

/* That of the target's notifiers go with it. */
static void do_detach(struct client *c)
{
	unsigned int i = (unsigned int)next(c, CLIENTS);

	for (unsigned int k = 0; c->targets[i] && k < NOTIFIERS; k++)
		if (c->notifiers[k] &&
		    mirror_notifier_get_target(c->notifiers[k]) == c->targets[i])
			c->notifiers[k] = mirror_notifier_remove(c->notifiers[k]);
	c->targets[i] = mirror_target_unref(c->targets[i]);
}

static void do_insert(struct client *c)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	unsigned int i = (unsigned int)next(c, CLIENTS), k = (unsigned int)next(c, NOTIFIERS);
	uint64_t at = (uintptr_t)memory + next(c, PAGES) * PAGE;

	if (!c->targets[i] || c->notifiers[k] || !c->has_ring)
		return;
	check(c, "mirror_notifier_insert",
	      mirror_notifier_insert(&c->notifiers[k], c->targets[i], at, at + PAGE, &ops, c), 0);
}

static void do_remove(struct client *c)
{
	unsigned int k = (unsigned int)next(c, NOTIFIERS);

	c->notifiers[k] = mirror_notifier_remove(c->notifiers[k]);
	if (c->has_ring)
		check(c, "mirror_dispatch", mirror_dispatch(c->ctx), 0);
}

static void do_look(struct client *c)
{
	struct mirror_notifier *n = c->notifiers[next(c, NOTIFIERS)];
	uint64_t version;

	if (n)
		check(c, "mirror_read_begin",
		      mirror_read_begin(n, mirror_notifier_get_start(n),
					mirror_notifier_get_end(n), &version), -EAGAIN);
}

static void do_table(struct client *c)
{
	unsigned int i = (unsigned int)next(c, CLIENTS);
	const struct mirror_table *table;
	uint64_t at = (uintptr_t)memory;

	if (!c->targets[i])
		return;
	if (next(c, 2))
		check(c, "mirror_target_get_table",
		      mirror_target_get_table(c->targets[i], &table), 0);
	else
		check(c, "mirror_target_fill",
		      mirror_target_fill(c->targets[i], at, at + PAGES * PAGE, NULL), -EAGAIN);
}

static void do_arm(struct client *c)
{
	unsigned int i = (unsigned int)next(c, CLIENTS);
	uint64_t at = (uintptr_t)memory;

	if (c->targets[i])
		check(c, "mirror_target_arm",
		      mirror_target_arm(c->targets[i], at, at + PAGES * PAGE), 0);
}

static void do_ask(struct client *c)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	struct mirror_stats stats = { .size = sizeof(stats) };

	if (next(c, 2))
		check(c, "mirror_query_target", mirror_query_target(c->ctx, 1, 1, &info), -ESRCH);
	else
		check(c, "mirror_daemon_get_stats", mirror_daemon_get_stats(c->ctx, &stats), 0);
}

/* Not a call, but mirrord has to hear of it before it returns. */
static void do_change(struct client *c)
{
	char *at = memory + next(c, PAGES) * PAGE;

	if (mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		 0) != at)
		bail("mmap: %s", strerror(errno));
	*at = 1;
}

static void (*const calls[])(struct client *c) = {
	do_attach, do_attach, do_insert, do_insert, do_remove, do_look, do_table, do_arm, do_ask,
	do_detach, do_change,
};

/* It says what it has, and does nothing until it may go on. */
static void rest(struct client *c)
{
	struct tally *t = c->tally;

	t->clients = c->ctx != NULL;
	t->channels = c->ctx && c->has_ring;
	t->notifiers = 0;
	for (unsigned int i = 0; i < NOTIFIERS; i++)
		t->notifiers += c->notifiers[i] != NULL;
	for (unsigned int i = 0; i < CLIENTS; i++)
		t->targets[i] = c->targets[i] != NULL;
	atomic_store(&t->parked, true);
	while (atomic_load(&shared->stop) && !atomic_load(&shared->end))
		nap_ms(1);
	atomic_store(&t->parked, false);
}

static int client_main(unsigned int index)
{
	static struct client c;

	c = (struct client) { .tally = &shared->tallies[index], .index = index,
			      .random = index * 977 + 1 };
	while (!atomic_load(&shared->end)) {
		if (atomic_load(&shared->stop))
			rest(&c);
		else if (!c.ctx)
			do_open(&c);
		else if (next(&c, 100) == 0)
			let_go(&c);
		else
			calls[next(&c, sizeof(calls) / sizeof(calls[0]))](&c);
	}
	let_go(&c);
	return 0;
}

/* ---- the test ---- */

static void start_clients(pid_t *pids)
{
	memset(shared, 0, sizeof(*shared));
	for (unsigned int i = 0; i < CLIENTS; i++) {
		pids[i] = child_fork();
		if (!pids[i]) {
			while (!shared->tallies[CLIENTS - 1].pid)
				nap_ms(1);
			_exit(client_main(i));
		}
		shared->tallies[i].pid = pids[i];
	}
}

static bool park(void)
{
	uint64_t end = now_ms() + WAIT_MS;
	unsigned int n;

	atomic_store(&shared->stop, true);
	do {
		n = 0;
		for (unsigned int i = 0; i < CLIENTS; i++)
			n += atomic_load(&shared->tallies[i].parked);
		nap_ms(1);
	} while (n < CLIENTS && now_ms() < end);
	return n == CLIENTS;
}

static struct mirror_stats expected(void)
{
	struct mirror_stats s = { .size = sizeof(s) };

	for (unsigned int i = 0; i < CLIENTS; i++) {
		bool is_target = false;

		s.clients += shared->tallies[i].clients;
		s.channels += shared->tallies[i].channels;
		s.notifiers += shared->tallies[i].notifiers;
		for (unsigned int k = 0; k < CLIENTS; k++)
			is_target = is_target || shared->tallies[k].targets[i];
		s.targets += is_target;
	}
	return s;
}

/* Who has hung up may not be gone yet. */
static bool is_equal(const struct mirror_stats *wanted, struct mirror_stats *ret_got)
{
	uint64_t end = now_ms() + EQUAL_MS;
	bool equal;

	do {
		*ret_got = ask_stats(&kept);
		equal = ret_got->clients == wanted->clients &&
			ret_got->targets == wanted->targets &&
			ret_got->channels == wanted->channels &&
			ret_got->notifiers == wanted->notifiers;
	} while (!equal && now_ms() < end);
	return equal;
}

static void compare(const char *when)
{
	struct mirror_stats wanted = expected(), got;

	is_equal(&wanted, &got);
	same(got.clients, wanted.clients, "%s: mirrord has the clients that there are", when);
	same(got.targets, wanted.targets, "%s: the targets", when);
	same(got.channels, wanted.channels, "%s: the rings", when);
	same(got.notifiers, wanted.notifiers, "%s: the notifiers", when);
}

static unsigned long sum(size_t offset)
{
	unsigned long n = 0;

	for (unsigned int i = 0; i < CLIENTS; i++)
		n += *(atomic_ulong *)(void *)((char *)&shared->tallies[i] + offset);
	return n;
}

/* So many more calls, of all together. */
static bool wait_calls(unsigned long more)
{
	unsigned long until = sum(offsetof(struct tally, calls)) + more;
	uint64_t end = now_ms() + WAIT_MS;

	while (sum(offsetof(struct tally, calls)) < until && now_ms() < end)
		nap_ms(1);
	return sum(offsetof(struct tally, calls)) >= until;
}

/* For whoever reads the log. */
static void note_targets(void)
{
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	struct mirror_target_info info = { .size = sizeof(info) };
	struct mirror_ctx *ctx;

	for (unsigned int i = 0; i < CLIENTS; i++)
		for (unsigned int k = 0; k < CLIENTS; k++)
			if (shared->tallies[i].targets[k])
				note("%d is attached to %d", (int)shared->tallies[i].pid,
				     (int)shared->tallies[k].pid);
	open.path = kept.place.socket;
	open.flags = MIRROR_OPEN_NO_RING | MIRROR_OPEN_NO_EMBEDDED;
	if (mirror_open(&ctx, &open) < 0)
		return;
	while (mirror_query_target(ctx, info.target + 1, 1, &info) == 0)
		note("mirrord has target %u, process %d, state %u, of %u clients", info.target,
		     (int)info.pid, info.state, info.consumers);
	mirror_ctx_unref(ctx);
}

/* All rest, and mirrord has what they have; then they go on. */
static bool is_right(void)
{
	struct mirror_stats wanted, got;

	if (!park())
		return false;
	wanted = expected();
	if (!is_equal(&wanted, &got)) {
		note("clients %u of %u, targets %u of %u, rings %u of %u, notifiers %u of %u",
		     got.clients, wanted.clients, got.targets, wanted.targets, got.channels,
		     wanted.channels, got.notifiers, wanted.notifiers);
		note_targets();
		return false;
	}
	atomic_store(&shared->stop, false);
	return true;
}

static void restart_often(unsigned int rounds, bool in_order)
{
	unsigned int failed = 0, wrong = 0;

	for (unsigned int i = 0; i < rounds && !failed && !wrong; i++) {
		struct timespec ts = { .tv_nsec = (long)rnd(10000000) };

		nanosleep(&ts, NULL);
		if (in_order) {
			kept_do(&kept, "restart");
		} else {
			kept_do(&kept, "kill %d", SIGKILL);
			kept_do(&kept, "wait");
		}
		/* at once: what is there twice must not be gone with its client */
		wrong += !is_right();
		failed += !wrong && !wait_calls(100);
	}
	same(failed, 0, "%s %u times: calls go on", in_order ? "restarted" : "killed", rounds);
	same(wrong, 0, "%s: each time it has what there is", in_order ? "restarted" : "killed");
}

static void scene(unsigned int rounds, bool in_order)
{
	const char *what = in_order ? "restarted" : "killed";
	struct mirror_stats stats;
	pid_t pids[CLIENTS];
	unsigned int bad = 0;

	kept_start(&kept, NULL, STORE_MAX);
	start_clients(pids);
	ok(wait_calls(100), "%s: they make calls", what);
	restart_often(rounds, in_order);
	ok(park(), "%s: nobody hangs in a call", what);
	same((long long)sum(offsetof(struct tally, errors)), 0, "%s: no call failed", what);
	note("%s: %lu calls, told in %lu, and in %lu that began, busy in %lu", what,
	     sum(offsetof(struct tally, calls)), sum(offsetof(struct tally, told)),
	     sum(offsetof(struct tally, told_at_open)), sum(offsetof(struct tally, busy)));
	if (in_order)
		same((long long)sum(offsetof(struct tally, told)), 0,
		     "restarted: nobody was let go");
	compare(what);
	kept_do(&kept, "kill %d", SIGKILL);
	kept_do(&kept, "wait");
	compare("and once more");
	atomic_store(&shared->end, true);
	for (unsigned int i = 0; i < CLIENTS; i++)
		bad += child_wait(pids[i], WAIT_MS) != 0;
	same(bad, 0, "%s: all end well", what);
	stats = wait_stats(&kept, 0, 0);
	same(stats.clients + stats.targets + stats.notifiers + stats.channels, 0,
	     "%s: then nothing is left", what);
	kept_end(&kept);
}

int main(int argc, char **argv)
{
	test_begin(argc, argv, 150, 580);
	kept_init(&kept);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED || memory == MAP_FAILED)
		bail("mmap");
	memset(memory, 1, PAGES * PAGE);
	scene((unsigned int)test_size(15, 50, 200), true);
	scene((unsigned int)test_size(30, 100, 400), false);
	return test_end();
}
