/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A change elsewhere invalidates nothing
 *
 * Ranges that nobody touches are looked up in one thread while another unmaps memory
 * again and again, in the same process.  What is counted is how many lookups had to
 * leave the fast path: who has to does so once for a change, or twice, and comes back
 * when the change is over.  The storm keeps in step with the lookups, so that this is
 * no measure of how fast anything is.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <mirror/mirror.h>
#include "harness.h"

#define RANGES		64
#define RANGE_PAGES	16
#define PACE		3000	/* lookups for each change */
#define DISTANCE	(64UL << 20)	/* so far away that no stripe is shared */

static struct daemon d;
static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_notifier *notifiers[RANGES];
static uint64_t versions[RANGES];
static char *quiet, *busy;
static atomic_ulong n_callbacks, n_busy_callbacks, n_changes, n_lookups;
static atomic_bool stop;

static void on_quiet(struct mirror_notifier *n, const struct mirror_event *ev, void *data)
{
	(void)n;
	(void)data;
	/* the machine took the reader's processor away for long: no event of the range's */
	if (ev->type == MIRROR_EVENT_OVERFLOW)
		return;
	note("an event of type %u, [%#llx, %#llx)", ev->type, (unsigned long long)ev->start,
	     (unsigned long long)ev->end);
	atomic_fetch_add(&n_callbacks, 1);
}

static void on_busy(struct mirror_notifier *n, const struct mirror_event *ev, void *data)
{
	(void)n;
	(void)ev;
	(void)data;
	atomic_fetch_add(&n_busy_callbacks, 1);
}

static void *storm_main(void *data)
{
	uint64_t at = (uintptr_t)busy;

	(void)data;
	while (!atomic_load(&stop)) {
		if (atomic_load(&n_lookups) < atomic_load(&n_changes) * PACE) {
			sched_yield();
			continue;
		}
		if (mmap(busy, 4 * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != busy)
			bail("mmap: %s", strerror(errno));
		/* unwatched, it would not even disturb */
		if (mirror_target_arm(target, at, at + 4 * PAGE) < 0)
			bail("cannot arm");
		munmap(busy, 4 * PAGE);
		atomic_fetch_add(&n_changes, 1);
	}
	return NULL;
}

static void watch(void)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_quiet };
	uint64_t at;

	for (unsigned int i = 0; i < RANGES; i++) {
		at = (uintptr_t)quiet + 2 * i * RANGE_PAGES * PAGE;
		if (mirror_notifier_insert(&notifiers[i], target, at, at + RANGE_PAGES * PAGE, &ops,
					   NULL) < 0 ||
		    mirror_read_begin(notifiers[i], at, at + RANGE_PAGES * PAGE,
				      &versions[i]) < 0)
			bail("cannot watch");
	}
}

static void lookups(unsigned long changes, const char *what)
{
	unsigned long good = 0, bad = 0, moved = 0, first = atomic_load(&n_changes);
	unsigned long dispatched = first;
	pthread_t storm;
	uint64_t end = now_ms() + 100000, at, version;

	atomic_store(&stop, false);
	if (pthread_create(&storm, NULL, storm_main, NULL))
		bail("thread");
	for (unsigned int i = 0; atomic_load(&n_changes) - first < changes; i = (i + 1) % RANGES) {
		at = (uintptr_t)quiet + 2 * i * RANGE_PAGES * PAGE;
		if (!i) {
			atomic_fetch_add(&n_lookups, RANGES);
			/* its ring is not what this is about: it must not run full */
			if (atomic_load(&n_changes) - dispatched > 256) {
				dispatched = atomic_load(&n_changes);
				mirror_dispatch(ctx);
			}
		}
		if (!mirror_read_retry(notifiers[i], at, at + RANGE_PAGES * PAGE, versions[i])) {
			good++;
			continue;
		}
		bad++;
		if (mirror_read_begin(notifiers[i], at, at + RANGE_PAGES * PAGE, &version) < 0)
			bail("a lookup failed");
		moved += version != versions[i];
		versions[i] = version;
		if (now_ms() > end)
			break;
	}
	atomic_store(&stop, true);
	pthread_join(storm, NULL);
	mirror_dispatch(ctx);
	note("%s: %lu lookups, %lu of them left the fast path, %lu changes", what, good + bad, bad,
	     atomic_load(&n_changes) - first);
	ok(atomic_load(&n_changes) - first >= changes, "%s: the storm", what);
	ok(bad * 1000 <= good + bad, "%s: 99.9%% of the lookups are on the fast path", what);
	same((long)moved, 0, "%s: no version moved", what);
	same((long)atomic_load(&n_callbacks), 0, "%s: no callback", what);
}

int main(int argc, char **argv)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_busy };
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	struct mirror_notifier *n;
	unsigned long changes;
	uint64_t at;

	test_begin(argc, argv, 120, 250);
	changes = test_size(20000, 100000, 500000);
	daemon_init(&d);
	daemon_start(&d, NULL);
	quiet = mmap(NULL, 2 * DISTANCE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (quiet == MAP_FAILED)
		bail("mmap");
	busy = quiet + DISTANCE;
	munmap(busy - PAGE, DISTANCE + PAGE);
	memset(quiet, 1, 2 * RANGES * RANGE_PAGES * PAGE);
	open.path = d.socket;
	open.ring_entries = 65536;
	if (mirror_open(&ctx, &open) < 0 || mirror_target_attach_self(&target, ctx, NULL) < 0)
		bail("cannot attach");
	watch();
	lookups(changes, "nobody watches it");
	at = (uintptr_t)busy;
	if (mirror_notifier_insert(&n, target, at, at + 4 * PAGE, &ops, NULL) < 0)
		bail("cannot watch");
	lookups(changes, "somebody watches it");
	ok(atomic_load(&n_busy_callbacks) > 0, "and somebody was told");

	/* the proof that it could fail */
	at = (uintptr_t)quiet;
	munmap(quiet, PAGE);
	same(mirror_read_retry(notifiers[0], at, at + RANGE_PAGES * PAGE, versions[0]), 1,
	     "a change of the range itself is noticed");
	for (int i = 0; i < 30 && !atomic_load(&n_callbacks); i++)
		mirror_wait(ctx, 1000);
	same((long)atomic_load(&n_callbacks), 1, "and told");
	for (unsigned int i = 0; i < RANGES; i++)
		mirror_notifier_remove(notifiers[i]);
	mirror_notifier_remove(n);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
	same(daemon_stop(&d), 0, "the daemon ends well");
	return test_end();
}
