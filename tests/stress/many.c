/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Many consumers of one target, and many targets
 *
 * Every consumer watches every page of the target by a notifier of its own, and gets
 * exactly one record for each page that goes.  Then many targets change at once, and
 * an observer and the targets themselves get every record of each.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <mirror/mirror.h>
#include "harness.h"

#define PROCESSES	4	/* that the consumers are spread over */
#define PAGES_MAX	1000
#define WAIT_MS		60000

static struct daemon d;
static char *pages;		/* the same in all processes */

/* ---- one target, many consumers ---- */

struct watch {
	struct mirror_notifier *notifier;
	unsigned int n;
	bool wrong;
};

struct consumer {
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	struct watch *watches;
	unsigned int n_records;
};

static struct mirror_ctx *open_here(uint32_t entries)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_ctx *ctx = NULL;
	int r;

	opts.path = d.socket;
	opts.flags = MIRROR_OPEN_NO_EMBEDDED;
	opts.ring_entries = entries;
	r = mirror_open(&ctx, &opts);
	if (r < 0) {
		note("mirror_open: %s", strerror(-r));
		_exit(20);
	}
	return ctx;
}

static void on_page(struct mirror_notifier *notifier, const struct mirror_event *ev, void *data)
{
	struct watch *w = data;

	w->n++;
	if (ev->type != MIRROR_EVENT_UNMAP ||
	    ev->start != mirror_notifier_get_start(notifier) ||
	    ev->end != mirror_notifier_get_end(notifier))
		w->wrong = true;
}

static int consumer_init(struct consumer *c, int pidfd, unsigned int n_pages)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_page };
	uint64_t at = (uintptr_t)pages;
	int r;

	c->ctx = open_here(2048);
	c->watches = calloc(n_pages, sizeof(*c->watches));
	r = mirror_target_attach(&c->target, c->ctx, pidfd, -1, NULL);
	for (unsigned int i = 0; i < n_pages && r == 0; i++)
		r = mirror_notifier_insert(&c->watches[i].notifier, c->target, at + i * PAGE,
					   at + (i + 1) * PAGE, &ops, &c->watches[i]);
	return r;
}

static int consumers_main(int fd, pid_t target, unsigned int n, unsigned int n_pages)
{
	struct consumer *cs = calloc(n, sizeof(*cs));
	int pidfd = (int)syscall(SYS_pidfd_open, target, 0), r;
	uint64_t end;

	for (unsigned int i = 0; i < n; i++) {
		r = consumer_init(&cs[i], pidfd, n_pages);
		if (r < 0) {
			note("consumer %u: %s", i, strerror(-r));
			return 21;
		}
	}
	if (write(fd, "r", 1) != 1)
		return 22;
	end = now_ms() + WAIT_MS;
	for (unsigned int i = 0; i < n; i++) {
		while (cs[i].n_records < n_pages && now_ms() < end) {
			r = mirror_wait(cs[i].ctx, 1000);
			if (r < 0)
				return 23;
			cs[i].n_records += (unsigned int)r;
		}
		/* and nothing more: what there is, is there */
		cs[i].n_records += (unsigned int)mirror_dispatch(cs[i].ctx);
		for (unsigned int k = 0; k < n_pages; k++)
			if (cs[i].watches[k].n != 1 || cs[i].watches[k].wrong)
				return 24;
		if (cs[i].n_records != n_pages)
			return 25;
	}
	return 0;
}

/* Attaches itself, and takes its pages away one by one when told to. */
static int target_main(int fd, unsigned int n_pages)
{
	struct mirror_target *target;
	char c;

	memset(pages, 1, n_pages * PAGE);
	if (mirror_target_attach_self(&target, open_here(64), NULL) < 0)
		return 10;
	if (write(fd, "r", 1) != 1 || read(fd, &c, 1) != 1)
		return 11;
	for (unsigned int i = 0; i < n_pages; i++)
		if (munmap(pages + (i * 7 % n_pages) * PAGE, PAGE) < 0)
			return 12;
	/* alive until all have seen everything: its end would be a record, too */
	if (read(fd, &c, 1) != 1)
		return 13;
	return 0;
}

static void socket_pair(int pair[2])
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		bail("socketpair: %s", strerror(errno));
}

static bool heard(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	char c;

	return poll(&pfd, 1, WAIT_MS) > 0 && read(fd, &c, 1) == 1;
}

static void consumers(unsigned int n, unsigned int n_pages)
{
	pid_t target, pids[PROCESSES];
	int pair[2], fds[PROCESSES];
	bool ready = true;

	socket_pair(pair);
	target = child_fork();
	if (!target) {
		close(pair[0]);
		_exit(target_main(pair[1], n_pages));
	}
	close(pair[1]);
	if (!heard(pair[0]))
		bail("the target does not start");
	for (unsigned int i = 0; i < PROCESSES; i++) {
		int p[2];

		socket_pair(p);
		pids[i] = child_fork();
		if (!pids[i])
			_exit(consumers_main(p[1], target, n / PROCESSES, n_pages));
		close(p[1]);
		fds[i] = p[0];
	}
	for (unsigned int i = 0; i < PROCESSES; i++)
		ready = heard(fds[i]) && ready;
	ok(ready, "%u consumers with %u notifiers each", n, n_pages);
	if (write(pair[0], "g", 1) != 1)
		note("the target is gone");
	for (unsigned int i = 0; i < PROCESSES; i++) {
		same(child_wait(pids[i], WAIT_MS), 0, "process %u: each got each record once", i);
		close(fds[i]);
	}
	if (write(pair[0], "x", 1) != 1)
		note("the target is gone");
	same(child_wait(target, WAIT_MS), 0, "the target ends well");
	close(pair[0]);
}

/* ---- many targets ---- */

#define CHANGES	50

static void count(struct mirror_notifier *notifier, const struct mirror_event *ev, void *data)
{
	(void)notifier;
	*(unsigned int *)data += ev->type == MIRROR_EVENT_UNMAP;
}

static int busy_main(int fd)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = count };
	struct mirror_ctx *ctx = open_here(128);
	struct mirror_notifier *notifier;
	uint64_t at = (uintptr_t)pages, end;
	struct mirror_target *target;
	unsigned int n = 0;
	char c;

	memset(pages, 1, CHANGES * PAGE);
	if (mirror_target_attach_self(&target, ctx, NULL) < 0 ||
	    mirror_notifier_insert(&notifier, target, at, at + CHANGES * PAGE, &ops, &n) < 0)
		return 30;
	if (write(fd, "r", 1) != 1 || read(fd, &c, 1) != 1)
		return 31;
	for (unsigned int i = 0; i < CHANGES; i++)
		if (munmap(pages + i * PAGE, PAGE) < 0)
			return 32;
	for (end = now_ms() + WAIT_MS; n < CHANGES && now_ms() < end;)
		if (mirror_wait(ctx, 1000) < 0)
			return 33;
	if (read(fd, &c, 1) != 1)	/* the observer is done */
		return 34;
	return n == CHANGES ? 0 : 35;
}

static void observe(struct mirror_ctx *ctx, const pid_t *pids, unsigned int n, int *fds)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = count };
	unsigned int *seen = calloc(n, sizeof(*seen)), right = 0, attached = 0;
	uint64_t at = (uintptr_t)pages, end;
	struct mirror_notifier *notifier;
	struct mirror_target *target;

	for (unsigned int i = 0; i < n; i++) {
		int pidfd = (int)syscall(SYS_pidfd_open, pids[i], 0);

		if (mirror_target_attach(&target, ctx, pidfd, -1, NULL) == 0 &&
		    mirror_notifier_insert(&notifier, target, at, at + CHANGES * PAGE, &ops,
					   &seen[i]) == 0)
			attached++;
		close(pidfd);
	}
	same(attached, n, "an observer of all of them");
	for (unsigned int i = 0; i < n; i++)
		if (write(fds[i], "g", 1) != 1)
			note("target %u is gone", i);
	for (end = now_ms() + WAIT_MS; right < n && now_ms() < end;) {
		if (mirror_wait(ctx, 1000) < 0)
			break;
		right = 0;
		for (unsigned int i = 0; i < n; i++)
			right += seen[i] == CHANGES;
	}
	same(right, n, "it has every record of each");
	free(seen);
}

static void targets(unsigned int n)
{
	pid_t *pids = calloc(n, sizeof(*pids));
	int *fds = calloc(n, sizeof(*fds));
	struct mirror_ctx *ctx;
	unsigned int good = 0;

	for (unsigned int i = 0; i < n; i++) {
		int pair[2];

		socket_pair(pair);
		pids[i] = child_fork();
		if (!pids[i])
			_exit(busy_main(pair[1]));
		close(pair[1]);
		fds[i] = pair[0];
	}
	for (unsigned int i = 0; i < n; i++)
		good += heard(fds[i]);
	same(good, n, "%u targets", n);
	ctx = open_here(65536);
	observe(ctx, pids, n, fds);
	good = 0;
	/* a byte and not an end of file: children have copies of each other's sockets */
	for (unsigned int i = 0; i < n; i++)
		if (write(fds[i], "x", 1) != 1)
			note("target %u is gone", i);
	for (unsigned int i = 0; i < n; i++) {
		good += child_wait(pids[i], WAIT_MS) == 0;
		close(fds[i]);
	}
	same(good, n, "each target has every record of its own");
	mirror_ctx_unref(ctx);
	free(pids);
	free(fds);
}

int main(int argc, char **argv)
{
	struct rlimit lim;

	test_begin(argc, argv, 120, 280);
	if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
	daemon_init(&d);
	daemon_start(&d, NULL);
	pages = mmap(NULL, PAGES_MAX * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		     -1, 0);
	if (pages == MAP_FAILED)
		bail("mmap");
	consumers((unsigned int)test_size(16, 64, 64), (unsigned int)test_size(200, 500, 1000));
	targets((unsigned int)test_size(40, 100, 200));
	same(daemon_stop(&d), 0, "the daemon ends well");
	return test_end();
}
