/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * bench-crowd: one change, many who watch
 *
 *	consumers=N	contexts of this process, a ring each
 *	notifiers=N	of each of them
 *	hit=1|0		all over the page that goes, or each over a page of its own that
 *			is never touched, while one more consumer watches the page
 *	asleep=1	consumers sleep: each has to be woken
 *	cpu=N		bind the acting thread
 *
 *	munmap		the call
 *	delivered	from just before it until the last callback has returned; one
 *			thread dispatches for all
 */

#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>
#include "session.h"

#define CONSUMERS_MAX 65

struct consumer {
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	uint64_t n_heard, n_due;
};

static struct consumer consumers[CONSUMERS_MAX];
static unsigned int n_consumers, n_notifiers;
static bool hit, asleep;
static uint64_t n_changes;
static char *page;

static void on_change(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	struct consumer *c = userdata;

	(void)n;
	if (ev->type != MIRROR_EVENT_UNMAP)
		fail("an event of type %d", ev->type);
	c->n_heard++;
}

static void fall_asleep(void)
{
	for (unsigned int i = 0; i < n_consumers; i++)
		if (mirror_prepare_wait(consumers[i].ctx) != 0)
			fail("a consumer cannot sleep");
}

/* Until each has heard of as much as it should have. */
static void deliver(void)
{
	uint64_t deadline = now_ns() + PATIENCE_NS;
	struct pollfd pfd;

	for (unsigned int i = 0; i < n_consumers; i++) {
		struct consumer *c = &consumers[i];

		pfd = (struct pollfd) { .fd = mirror_ctx_get_fd(c->ctx), .events = POLLIN };
		if (asleep && c->n_heard < c->n_due && poll(&pfd, 1, 1000) != 1)
			fail("a sleeping consumer was not woken");
		while (c->n_heard < c->n_due) {
			must(mirror_dispatch(c->ctx), "mirror_dispatch");
			if (c->n_heard < c->n_due)
				sched_yield();
			if (now_ns() > deadline)
				fail("records are missing");
		}
		if (c->n_heard != c->n_due)
			fail("too many records");
	}
}

static void run_munmap(unsigned int count)
{
	static struct samples call = { .name = "munmap" }, delivered = { .name = "delivered" };
	uint64_t t0, t1;

	for (unsigned int i = 0; i < count; i++) {
		page_map(page);
		session_arm(consumers[0].target, page, PAGE);
		for (unsigned int k = 0; k < n_consumers; k++)
			if (hit)
				consumers[k].n_due += n_notifiers;
		if (!hit)
			consumers[0].n_due++;
		if (asleep)
			fall_asleep();
		t0 = now_ns();
		page_unmap(page);
		t1 = now_ns();
		deliver();
		samples_add(&delivered, now_ns() - t0);
		samples_add(&call, t1 - t0);
		n_changes++;
	}
	samples_say(&call);
	samples_say(&delivered);
}

static void watch(struct consumer *c, unsigned int n, char *where, size_t stride)
{
	for (unsigned int i = 0; i < n; i++)
		session_watch(c->target, where + i * stride, PAGE, on_change, c);
}

static void make_crowd(char **argv)
{
	long n = option_number(argv, "consumers", 1) + !hit;
	char *area = page;

	if (n < 1 || n > CONSUMERS_MAX)
		fail("too many consumers");
	for (n_consumers = 0; n_consumers < n; n_consumers++) {
		struct consumer *c = &consumers[n_consumers];

		c->ctx = session_open(argv, 4096);
		c->target = session_attach(c->ctx, 0);
	}
	if (!hit) {
		area = mmap(NULL, n_notifiers * 2 * PAGE, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (area == MAP_FAILED)
			fail("mmap: %s", strerror(errno));
	}
	page_release(page);
	if (!hit)
		watch(&consumers[0], 1, page, 0);
	for (unsigned int i = !hit; i < n_consumers; i++)
		watch(&consumers[i], n_notifiers, area, hit ? 0 : 2 * PAGE);
}

int main(int argc, char **argv)
{
	static const struct turn turns[] = { { "munmap", run_munmap } };

	(void)argc;
	n_notifiers = (unsigned int)option_number(argv, "notifiers", 1);
	hit = option_number(argv, "hit", 1) != 0;
	asleep = option_number(argv, "asleep", 0) != 0;
	page = page_reserve();
	make_crowd(argv);
	pin(cpu_at((int)option_number(argv, "cpu", -1)));
	take_turns(turns, ARRAY_SIZE(turns));
	if (session_events(consumers[0].ctx, consumers[0].target) != n_changes)
		fail("the daemon read another number of changes");
	printf("done changes=%llu consumers=%u\n", (unsigned long long)n_changes, n_consumers);
	fflush(stdout);
	_exit(0);
}
