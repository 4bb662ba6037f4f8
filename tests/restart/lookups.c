/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lookups while mirrord is restarted
 *
 * Threads of one process look pages up, dispatch, and make requests, and one changes what
 * is mapped: each time a page that holds the next number.  No lookup that begins after a
 * change may use what was there before it, whatever is happening to mirrord; no call may
 * fail, but for a lookup that waits for too long; and every change is told, once.
 */
#include <errno.h>
#include <mirror/mirror.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "harness.h"
#include "kept.h"

#define PAGES		8U
#define SLOTS		64U	/* of the file, for each page */
#define LOOKERS		3U
#define STORE_MAX	256
#define WAIT_MS		30000

/* A translation is the number that the page held. */
struct entry {
	atomic_bool valid;	/* no callback has touched it */
	uint64_t number, version;
};

struct looker {
	pthread_t thread;
	uint64_t random;
	struct entry entries[PAGES];
};

static struct kept kept;
static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_notifier *notifier;
static struct looker lookers[LOOKERS];
static char *memory;
static volatile uint64_t *file;
static int file_fd;
static atomic_ullong returned[PAGES];	/* the number that is there since */
static atomic_bool stop;
static atomic_ulong good, restamped, late, stale, failed, changes, requests, told, lost;

static void *page_at(unsigned int i)
{
	return memory + i * PAGE;
}

static void check(const char *what, int r)
{
	if (r < 0 && atomic_fetch_add(&failed, 1) < 10)
		note("%s: %d", what, r);
}

static void on_event(struct mirror_notifier *n, const struct mirror_event *ev, void *data)
{
	(void)n;
	(void)data;
	atomic_fetch_add(&told, ev->type == MIRROR_EVENT_UNMAP);
	atomic_fetch_add(&lost, ev->type == MIRROR_EVENT_OVERFLOW);
	for (unsigned int i = 0; i < PAGES; i++) {
		uint64_t at = (uintptr_t)page_at(i);

		for (unsigned int k = 0; at < ev->end && at + PAGE > ev->start && k < LOOKERS; k++)
			atomic_store(&lookers[k].entries[i].valid, false);
	}
}

/* While another thread maps something else there: that is what this is about. */
__attribute__((__no_sanitize_thread__))
static uint64_t resolve(const void *page)
{
	return *(const volatile uint64_t *)page;
}

/* 0, and the entry is good, or was a moment ago; 1: once more. */
static int look_slow(struct entry *e, void *page)
{
	uint64_t at = (uintptr_t)page;
	int r;

	r = mirror_read_begin(notifier, at, at + PAGE, &e->version);
	if (r == -EAGAIN) {
		atomic_fetch_add(&late, 1);
		return 1;
	}
	check("mirror_read_begin", r);
	if (r < 0)
		return r;
	if (atomic_load(&e->valid)) {
		atomic_fetch_add(&restamped, 1);
	} else {
		atomic_store(&e->valid, true);	/* first: it may be touched meanwhile */
		e->number = resolve(page);
	}
	if (!mirror_read_retry(notifier, at, at + PAGE, e->version))
		return 0;
	atomic_store(&e->valid, false);
	return 1;
}

static void look(struct entry *e, unsigned int i)
{
	uint64_t at = (uintptr_t)page_at(i), limit = atomic_load(&returned[i]);
	int r = 0;

	if (!atomic_load(&e->valid) ||
	    mirror_read_retry(notifier, at, at + PAGE, e->version))
		while ((r = look_slow(e, page_at(i))) > 0)
			;
	if (r < 0)
		return;
	atomic_fetch_add(&good, 1);
	if (e->number < limit && atomic_fetch_add(&stale, 1) < 10)
		note("page %u: %llu used after %llu was there", i, (unsigned long long)e->number,
		     (unsigned long long)limit);
}

static void *look_thread(void *data)
{
	struct looker *l = data;

	while (!atomic_load(&stop)) {
		l->random = l->random * 6364136223846793005ULL + 1442695040888963407ULL;
		look(&l->entries[(l->random >> 33) % PAGES], (l->random >> 33) % PAGES);
	}
	return NULL;
}

static void change(unsigned int i)
{
	uint64_t at = (uintptr_t)page_at(i), next = atomic_load(&returned[i]) + 1;
	uint64_t offset = (i * SLOTS + next % SLOTS) * PAGE;

	file[offset / sizeof(*file)] = next;
	/* watched, or it would be a change of something that nobody has looked at */
	check("mirror_target_arm", mirror_target_arm(target, at, at + PAGE));
	if (mmap(page_at(i), PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_fd,
		 (off_t)offset) == MAP_FAILED)
		bail("mmap");
	atomic_store(&returned[i], next);
	atomic_fetch_add(&changes, 1);
}

static void *change_thread(void *data)
{
	for (unsigned int i = 0; !atomic_load(&stop); i++) {
		change(i % PAGES);
		nap_ms(i % 4 == 0);
	}
	return data;
}

static void *wait_thread(void *data)
{
	while (!atomic_load(&stop))
		check("mirror_wait", mirror_wait(ctx, 100));
	return data;
}

static void *request_thread(void *data)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	struct mirror_stats stats = { .size = sizeof(stats) };
	uint64_t at = (uintptr_t)memory + PAGES * PAGE;
	struct mirror_notifier *n;
	int r;

	while (!atomic_load(&stop)) {
		r = mirror_notifier_insert(&n, target, at, at + PAGE, &ops, NULL);
		check("mirror_notifier_insert", r);
		check("mirror_daemon_get_stats", mirror_daemon_get_stats(ctx, &stats));
		check("mirror_dispatch", mirror_dispatch(ctx));
		if (r == 0)
			mirror_notifier_remove(n);
		atomic_fetch_add(&requests, 1);
	}
	return data;
}

static void begin_watching(uint32_t flags)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	struct mirror_attach_opts attach = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	uint64_t at = (uintptr_t)memory;

	open.path = kept.place.socket;
	open.flags = MIRROR_OPEN_NO_EMBEDDED;
	attach.flags = flags;
	if (mirror_open(&ctx, &open) < 0 || mirror_target_attach_self(&target, ctx, &attach) < 0 ||
	    mirror_notifier_insert(&notifier, target, at, at + PAGES * PAGE, &ops, NULL) < 0)
		bail("cannot watch");
}

static void map_everything(void)
{
	uint64_t bytes = PAGES * SLOTS * PAGE;
	void *p;

	file_fd = memfd_create("lookups", MFD_CLOEXEC);
	if (file_fd < 0 || ftruncate(file_fd, (off_t)bytes) < 0)
		bail("memfd");
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_fd, 0);
	memory = mmap(NULL, (PAGES + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file_fd, 0);
	if (p == MAP_FAILED || memory == MAP_FAILED)
		bail("mmap");
	file = p;
}

/* Until there were so many more of each. */
static bool wait_progress(unsigned long n)
{
	unsigned long of_good = atomic_load(&good) + n, of_changes = atomic_load(&changes) + n;
	unsigned long of_requests = atomic_load(&requests) + 1;
	uint64_t end = now_ms() + WAIT_MS;

	while (atomic_load(&good) < of_good || atomic_load(&changes) < of_changes ||
	       atomic_load(&requests) < of_requests) {
		if (now_ms() >= end)
			return false;
		nap_ms(1);
	}
	return true;
}

static bool restart(bool in_order)
{
	struct timespec ts = { .tv_nsec = (long)rnd(10000000) };

	nanosleep(&ts, NULL);
	if (in_order) {
		kept_do(&kept, "restart");
	} else {
		kept_do(&kept, "kill %d", SIGKILL);
		kept_do(&kept, "wait");
	}
	return wait_progress(10);
}

/* All is told by now that ever will be. */
static void drain(void)
{
	struct mirror_stats stats = { .size = sizeof(stats) };

	check("mirror_daemon_get_stats", mirror_daemon_get_stats(ctx, &stats));
	while (mirror_dispatch(ctx) > 0)
		;
}

static void report(const char *what, bool in_order)
{
	same((long long)atomic_load(&stale), 0, "%s: nothing stale was used", what);
	same((long long)atomic_load(&failed), 0, "%s: no call failed", what);
	/*
	 * There can be an OVERFLOW in either case: for what the C library discarded, and
	 * was not proven to be over.  One that covers a change may come in its place, but
	 * not if mirrord ended as it was told to.
	 */
	if (in_order) {
		same(kept_report(&kept).late, 0, "%s: it ended when it was told to", what);
		same((long long)atomic_load(&told), (long long)atomic_load(&changes),
		     "%s: every change was told, once", what);
	} else {
		ok(atomic_load(&told) <= atomic_load(&changes) &&
		   atomic_load(&told) + atomic_load(&lost) >= atomic_load(&changes),
		   "%s: every change was told, or covered", what);
	}
	note("%s: %lu lookups, %lu kept with a new version, %lu waited for too long, %lu changes, "
	     "%lu told, %lu OVERFLOW, %lu requests", what, atomic_load(&good),
	     atomic_load(&restamped), atomic_load(&late), atomic_load(&changes),
	     atomic_load(&told), atomic_load(&lost), atomic_load(&requests));
}

static void scene(const char *what, uint32_t flags, unsigned int rounds, bool in_order)
{
	static void *(*const mains[])(void *) = { change_thread, wait_thread, request_thread };
	pthread_t threads[3];
	bool going = true;

	atomic_store(&stop, false);
	good = restamped = late = stale = failed = changes = requests = told = lost = 0;
	kept_start(&kept, NULL, STORE_MAX);
	begin_watching(flags);
	for (unsigned int i = 0; i < LOOKERS; i++) {
		lookers[i] = (struct looker) { .random = rnd(1000000) };
		pthread_create(&lookers[i].thread, NULL, look_thread, &lookers[i]);
	}
	for (unsigned int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, mains[i], NULL);
	going = wait_progress(100);
	for (unsigned int i = 0; going && i < rounds; i++)
		going = restart(in_order);
	ok(going, "%s: all goes on, %u times", what, rounds);
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < LOOKERS; i++)
		pthread_join(lookers[i].thread, NULL);
	for (unsigned int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	drain();
	report(what, in_order);
	mirror_notifier_remove(notifier);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
	kept_end(&kept);
}

int main(int argc, char **argv)
{
	test_begin(argc, argv, 150, 580);
	kept_init(&kept);
	map_everything();
	scene("restarted", 0, (unsigned int)test_size(10, 40, 200), true);
	scene("killed", 0, (unsigned int)test_size(20, 80, 400), false);
	scene("killed, STRICT", MIRROR_ATTACH_STRICT, (unsigned int)test_size(10, 40, 200), false);
	return test_end();
}
