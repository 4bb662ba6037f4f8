/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A consumer that never reads
 *
 * Its ring is small and a million changes happen.  It must find OVERFLOW afterwards,
 * and never a lookup that was wrong; another consumer of the same target gets every
 * record; the daemon grows by nothing.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <mirror/mirror.h>
#include "harness.h"

#define PAGES		64U		/* of the memfd */
#define RING		16	/* records of the lazy one's */
#define LAG		20000U		/* that the reader may have */
#define RSS_MAX		(8UL << 20)	/* half of it is the ring of the eager one */

struct consumer {
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	struct mirror_notifier *notifier;
	atomic_ulong n, gaps, wrong, overflows;
	uint64_t seq;
	bool valid;
};

static struct daemon d;
static struct consumer lazy, eager;
static int memfd;
static char *address;
static unsigned int current;
static atomic_bool stop;

static void on_event(struct mirror_notifier *notifier, const struct mirror_event *ev, void *data)
{
	struct consumer *c = data;
	uint64_t at = (uintptr_t)address;

	(void)notifier;
	c->valid = false;
	atomic_fetch_add(&c->gaps, ev->seq != ++c->seq);
	if (ev->type == MIRROR_EVENT_OVERFLOW)
		atomic_fetch_add(&c->overflows, 1);
	else if (ev->type != MIRROR_EVENT_UNMAP || ev->start != at || ev->end != at + PAGE)
		atomic_fetch_add(&c->wrong, 1);
	atomic_fetch_add(&c->n, 1);
}

static void consumer_init(struct consumer *c, uint32_t entries)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	uint64_t at = (uintptr_t)address;

	open.path = d.socket;
	open.ring_entries = entries;
	if (mirror_open(&c->ctx, &open) < 0 ||
	    mirror_target_attach_self(&c->target, c->ctx, NULL) < 0 ||
	    mirror_notifier_insert(&c->notifier, c->target, at, at + PAGE, &ops, c) < 0)
		bail("cannot watch");
}

static void consumer_deinit(struct consumer *c)
{
	mirror_notifier_remove(c->notifier);
	mirror_target_unref(c->target);
	mirror_ctx_unref(c->ctx);
}

static void map(unsigned int page)
{
	if (mmap(address, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, memfd,
		 (off_t)(page * PAGE)) != address)
		bail("mmap: %s", strerror(errno));
	current = page;
}

/* A lookup in the way of a cache; false if it would have used an old page. */
static bool lookup(struct consumer *c, unsigned int *cached, uint64_t *version)
{
	uint64_t at = (uintptr_t)address;
	int r;

	if (c->valid && !mirror_read_retry(c->notifier, at, at + PAGE, *version))
		return *cached == current;
	do {
		r = mirror_read_begin(c->notifier, at, at + PAGE, version);
		if (r < 0 && r != -EAGAIN)
			bail("a lookup failed: %s", strerror(-r));
		if (!c->valid)
			*cached = current;
	} while (r < 0 || mirror_read_retry(c->notifier, at, at + PAGE, *version));
	c->valid = true;
	return *cached == current;
}

static void *reader_main(void *data)
{
	struct consumer *c = data;
	long bad = 0;
	int r;

	while (!atomic_load(&stop)) {
		r = mirror_wait(c->ctx, 50);
		if (r < 0)
			bad = r;
	}
	mirror_dispatch(c->ctx);
	return (void *)bad;
}

static uint64_t rss(void)
{
	struct mirror_stats stats = { .size = sizeof(stats) };

	if (mirror_daemon_get_stats(eager.ctx, &stats) < 0)
		bail("no statistics");
	return stats.rss_bytes;
}

static void change(unsigned long changes, uint64_t version)
{
	uint64_t at = (uintptr_t)address, most = 0, before = rss(), now;
	unsigned long believed = 0;

	for (unsigned long i = 0; i < changes; i++) {
		munmap(address, PAGE);
		map((unsigned int)(i + 1) % PAGES);
		/* armed without a look: the lazy one must not read */
		if (mirror_target_arm(eager.target, at, at + PAGE) < 0)
			bail("cannot arm");
		/* the entry from before all this is never good again */
		believed += !mirror_read_retry(lazy.notifier, at, at + PAGE, version);
		while (i > atomic_load(&eager.n) + LAG)
			sched_yield();
		if (i % 4096 == 0) {
			now = rss();
			most = now > most ? now : most;
		}
	}
	note("the daemon had %llu KiB before, %llu KiB at most",
	     (unsigned long long)before >> 10, (unsigned long long)most >> 10);
	same((long)believed, 0, "the old entry is never good");
	ok(most <= before + RSS_MAX, "the daemon's memory is bounded");
}

static void aftermath(unsigned long changes, unsigned int *cached, uint64_t *version)
{
	struct mirror_ctx_stats stats = { .sz = sizeof(stats) };
	unsigned int wrong = 0;

	wrong += !lookup(&lazy, cached, version);
	same((long)atomic_load(&lazy.overflows), 1, "the lazy one finds one OVERFLOW");
	mirror_ctx_get_stats(lazy.ctx, &stats);
	same((long long)stats.lost, (long long)changes - RING, "which says how much was lost");
	for (unsigned int i = 0; i < 1000; i++) {
		if (i % 2) {
			munmap(address, PAGE);
			map((i * 7) % PAGES);
		}
		wrong += !lookup(&lazy, cached, version);
	}
	same(wrong, 0, "every later lookup of it is right");
	mirror_ctx_get_stats(lazy.ctx, &stats);
	note("the lazy one: %llu records, %llu lost", (unsigned long long)stats.records,
	     (unsigned long long)stats.lost);
	same((long)atomic_load(&lazy.gaps), 0, "its records have no gaps either");
}

int main(int argc, char **argv)
{
	unsigned int cached = 0;
	unsigned long changes;
	uint64_t version = 0, end;
	pthread_t reader;
	void *bad;

	test_begin(argc, argv, 120, 290);
	changes = test_size(50000, 200000, 1000000);
	daemon_init(&d);
	daemon_start(&d, NULL);
	memfd = memfd_create("overflow", MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, PAGES * PAGE) < 0)
		bail("memfd");
	address = mmap(NULL, 1UL << 32, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
		       0);
	munmap(address, 1UL << 32);
	address += 1UL << 31;
	consumer_init(&lazy, RING);
	consumer_init(&eager, 65536);
	map(0);
	ok(lookup(&lazy, &cached, &version), "a lookup before");
	if (pthread_create(&reader, NULL, reader_main, &eager))
		bail("thread");
	change(changes, version);
	end = now_ms() + 20000;
	while (atomic_load(&eager.n) < changes && now_ms() < end)
		nap_ms(1);
	same((long)atomic_load(&eager.n), (long)changes, "the other one has every record");
	same((long)atomic_load(&eager.gaps), 0, "without gaps");
	same((long)atomic_load(&eager.overflows), 0, "and without OVERFLOW");
	same((long)atomic_load(&eager.wrong), 0, "each of the right kind");
	atomic_store(&stop, true);
	pthread_join(reader, &bad);
	same((long)bad, 0, "and no error");
	aftermath(changes, &cached, &version);
	consumer_deinit(&lazy);
	consumer_deinit(&eager);
	same(daemon_stop(&d), 0, "the daemon ends well");
	return test_end();
}
