/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * libfabric's own registration cache, with its own userfaultfd monitor
 *
 *	reader=N	bind the monitor's thread to the N-th processor
 *
 * Through the public API: registering memory fills the cache and subscribes it with
 * the monitor, closing the registration leaves it cached.  What the monitor was told
 * of shows when the same range is registered again: only what it dropped from the
 * cache reaches the device, see stub-verbs.c.
 */

#include "fabric.h"
#include "stub-verbs.h"
#include "watch.h"

static uint64_t n_armed;
static void *other;	/* always cached */

/* Registers and closes at once: true if it was not in the cache. */
static bool use(void *start, size_t bytes)
{
	uint64_t before = stub_registered();

	fabric_use(start, bytes);
	return stub_registered() != before;
}

static void fabric_start(char **argv)
{
	fabric_open(cpu_at((int)option_number(argv, "reader", -1)));
	other = map_pages(PAGE);
	touch(other, PAGE);
	use(other, PAGE);
	if (use(other, PAGE))
		skip("libfabric does not cache registrations");
}

static void fabric_watch(void *start, size_t bytes)
{
	(void)start;
	(void)bytes;
}

static void fabric_arm(void *start, size_t bytes)
{
	n_armed++;
	if (!use(start, bytes))
		fail("a registration stayed in the cache, but its memory was changed");
}

/*
 * The monitor lets the acting thread go under the lock that every look-up takes: when
 * ours returns, it is done with all that happened before.
 */
static uint64_t fabric_heard(void)
{
	if (use(other, PAGE))
		fail("a registration of untouched memory was dropped");
	return n_armed;
}

static void fabric_do(void)
{
}

static void fabric_stop(uint64_t n_changes)
{
	/* what is cached besides is the page that never changes */
	if (stub_registered() != n_changes + 1)
		fail("%llu changes, but %llu registrations", (unsigned long long)n_changes,
		     (unsigned long long)stub_registered());
	printf(" registered=%llu deregistered=%llu version=%u",
	       (unsigned long long)stub_registered(), (unsigned long long)stub_deregistered(),
	       fabric_version());
}

const struct watch watch_fabric = {
	.name = "fabric",
	.start = fabric_start,
	.watch = fabric_watch,
	.arm = fabric_arm,
	.arm_again = true,
	.heard = fabric_heard,
	.begin = fabric_do,
	.end = fabric_do,
	.stop = fabric_stop,
};
