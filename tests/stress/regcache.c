/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A registration cache under a storm
 *
 * Pages of an arena are replaced all the time, each by a page with a number that grows.
 * To register is to read the numbers that are there.  Whoever gets a region has read
 * before which numbers had arrived; if the region knows an older one, it was stale.
 *
 *	storm				user
 *	number into a free page
 *	old page away, new one there
 *	arrived = number (release)
 *					oldest = arrived (acquire)
 *					get
 *					region's number < oldest: stale
 *
 * A page is unmapped by one thread and mapped anew by another, while the first one is
 * in munmap() still: what arrives then arrives before anybody is told.  Numbers are in
 * their page before it is mapped, so nothing else can be read there.
 */
#include <errno.h>
#include <mirror/regcache.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>
#include "harness.h"

#define PAGES		48U	/* of the arena */
#define RANGE_MAX	6U
#define STRIPE		(1UL << 21)	/* of the gate */
#define STRIDE		(STRIPE / 2)
#define ROW		8U	/* pages that lie next to each other */
#define HOLE		(1UL << 32)
#define VERSIONS	8U	/* of each page, in the memfd */
#define USERS		3U
#define HELD		2U	/* regions one user has at a time */
#define REGIONS_MAX	(USERS * HELD + 1)	/* so there is always room for what is asked */
#define GETS_PER_CHANGE	25U	/* at most, all in all */

struct registration {
	atomic_bool alive;
	unsigned int first, n;
	uint64_t number[PAGES];
};

static struct daemon d;
static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_regcache *cache;
static char *arena, *window;
static int memfd;

static atomic_ulong arrived[PAGES], asked[PAGES], gone[PAGES];
static atomic_ulong n_wanted, n_got, n_gets, n_replaced;
static atomic_ulong n_stale, n_dead, n_future, n_over, n_bad;
static atomic_ulong n_buried;
static atomic_long n_live;
static atomic_int error;
static atomic_bool stop, storm_is_over;

/* Rows of pages, some of them close to each other and some not. */
static char *page_at(unsigned int i)
{
	return arena + i / ROW * STRIDE + i % ROW * PAGE;
}

static unsigned int page_of(uint64_t address)
{
	uint64_t at = address - (uintptr_t)arena;

	return (unsigned int)(at / STRIDE * ROW + at % STRIDE / PAGE);
}

/* ---- the device ---- */

static int register_region(struct mirror_region *region, void *data)
{
	unsigned int n = (unsigned int)((region->end - region->start) / PAGE);
	struct registration *made = calloc(1, sizeof(*made));

	(void)data;
	made->first = page_of(region->start);
	made->n = n;
	for (unsigned int i = 0; i < n; i++) {
		struct iovec to = { &made->number[i], sizeof(made->number[i]) };
		struct iovec from = { page_at(made->first + i), sizeof(made->number[i]) };

		/* it may be unmapped by now */
		if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != (ssize_t)to.iov_len) {
			free(made);
			return -EFAULT;
		}
	}
	if (atomic_fetch_add(&n_live, 1) >= REGIONS_MAX)
		atomic_fetch_add(&n_over, 1);
	atomic_store(&made->alive, true);
	region->handle = made;
	return 0;
}

static void deregister_region(struct mirror_region *region, void *data)
{
	struct registration *made = region->handle;

	(void)data;
	if (!atomic_exchange(&made->alive, false))
		atomic_fetch_add(&n_dead, 1);
	if (atomic_fetch_add(&n_buried, 1) % 4 == 0)
		sched_yield();	/* some take long */
	atomic_fetch_sub(&n_live, 1);
	free(made);
}

/* ---- the storm ---- */

/* One state for each thread. */
static unsigned int draw(uint64_t *random, unsigned int below)
{
	*random = *random * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned int)(*random >> 33) % below;
}

static bool place(unsigned int page, uint64_t number, int flags)
{
	unsigned int slot = page * VERSIONS + (unsigned int)(number % VERSIONS);
	char *p;

	*(volatile uint64_t *)(window + slot * PAGE) = number;
	p = mmap(page_at(page), PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | flags, memfd,
		 (off_t)(slot * PAGE));
	if (p == MAP_FAILED && errno == EEXIST)
		return false;
	if (p != page_at(page))
		bail("mmap: %s", strerror(errno));
	return true;
}

static void *unmap_thread(void *data)
{
	unsigned int i = 0;

	(void)data;
	while (!atomic_load(&storm_is_over)) {
		i = (i + 1) % PAGES;
		if (atomic_load(&asked[i]) == atomic_load(&gone[i])) {
			if (i == 0)
				sched_yield();
			continue;
		}
		if (munmap(page_at(i), PAGE) < 0)
			bail("munmap: %s", strerror(errno));
		atomic_store(&gone[i], atomic_load(&asked[i]));
	}
	return NULL;
}

static void *map_thread(void *data)
{
	uint64_t number, *random = data;
	unsigned int i, spins;

	while (!atomic_load(&stop)) {
		i = draw(random, draw(random, 4) ? PAGES / 2 : PAGES);
		number = atomic_load(&arrived[i]) + 1;
		if (draw(random, 4) == 0) {
			place(i, number, MAP_FIXED);
		} else {
			atomic_fetch_add(&asked[i], 1);
			for (spins = 1; !place(i, number, MAP_FIXED_NOREPLACE); spins++)
				if (spins % 64 == 0)
					sched_yield();
		}
		atomic_store_explicit(&arrived[i], number, memory_order_release);
		atomic_fetch_add(&n_replaced, 1);
		while (atomic_load(&gone[i]) != atomic_load(&asked[i]))
			sched_yield();
		/* nor many more changes: then no get would find anything */
		while (atomic_load(&n_replaced) * GETS_PER_CHANGE >
		       atomic_load(&n_gets) + 20 * GETS_PER_CHANGE && !atomic_load(&stop))
			sched_yield();
	}
	return NULL;
}

/* ---- users ---- */

struct user {
	pthread_t thread;
	uint64_t random;
	const struct mirror_region *held[HELD];
};

static void check(const struct mirror_region *region, unsigned int from, unsigned int to,
		  const uint64_t *oldest)
{
	const struct registration *made = region->handle;

	if (!atomic_load(&made->alive))
		atomic_fetch_add(&n_dead, 1);
	if (made->first > from || made->first + made->n < to) {
		atomic_fetch_add(&n_bad, 1);
		return;
	}
	for (unsigned int i = from; i < to; i++) {
		uint64_t number = made->number[i - made->first];

		if (number < oldest[i - from])
			atomic_fetch_add(&n_stale, 1);
		/* the next one may be there already */
		if (number > atomic_load(&arrived[i]) + 1)
			atomic_fetch_add(&n_future, 1);
	}
}

static void turn(struct user *user)
{
	uint64_t oldest[RANGE_MAX], start, end, *random = &user->random;
	const struct mirror_region **held = &user->held[draw(random, HELD)];
	unsigned int row = draw(random, PAGES / ROW) * ROW, from = draw(random, ROW);
	unsigned int n = 1 + draw(random, RANGE_MAX);
	int r;

	if (*held && !atomic_load(&((const struct registration *)(*held)->handle)->alive))
		atomic_fetch_add(&n_dead, 1);
	*held = mirror_regcache_put(cache, *held);
	n = from + n > ROW ? ROW - from : n;
	start = (uintptr_t)page_at(row + from);
	end = start + n * PAGE;
	for (unsigned int i = 0; i < n; i++)
		oldest[i] = atomic_load_explicit(&arrived[row + from + i], memory_order_acquire);
	start += draw(random, 2) * 8;	/* in the same pages */
	r = mirror_regcache_get(cache, start, end,
				draw(random, 2) ? MIRROR_REGION_READ : MIRROR_REGION_WRITE, held);
	atomic_fetch_add(&n_gets, 1);
	if (r == 0) {
		atomic_fetch_add(&n_got, 1);
		check(*held, row + from, row + from + n, oldest);
	} else if (r != -EFAULT && r != -EAGAIN) {
		atomic_store(&error, r);
	}
}

static void *user_main(void *data)
{
	struct user *user = data;

	while (!atomic_load(&stop) && !atomic_load(&error)) {
		turn(user);
		if (atomic_load(&n_gets) > (atomic_load(&n_replaced) + 10) * GETS_PER_CHANGE)
			sched_yield();
	}
	for (unsigned int i = 0; i < HELD; i++)
		mirror_regcache_put(cache, user->held[i]);
	return NULL;
}

/* ---- all together ---- */

static void prepare(void)
{
	memfd = memfd_create("storm", MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, (off_t)(PAGES * VERSIONS * PAGE)) < 0)
		bail("memfd");
	window = mmap(NULL, PAGES * VERSIONS * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	arena = mmap(NULL, HOLE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (window == MAP_FAILED || arena == MAP_FAILED)
		bail("mmap");
	munmap(arena, HOLE);
	arena += HOLE / 2;	/* where nothing else gets mapped */
	/* every other row lies half in one stripe and half in the next */
	arena -= (uintptr_t)arena % STRIPE + ROW / 2 * PAGE;
	for (unsigned int i = 0; i < PAGES; i++)
		place(i, 0, MAP_FIXED_NOREPLACE);
}

static void attach(void)
{
	struct mirror_regcache_ops ops = {
		.sz = sizeof(ops),
		.register_region = register_region, .deregister_region = deregister_region,
	};
	struct mirror_regcache_opts opts = MIRROR_REGCACHE_OPTS_INIT;
	struct mirror_attach_opts attach = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	int r;

	open.path = d.socket;
	open.flags = MIRROR_OPEN_NO_EMBEDDED;
	attach.flags = MIRROR_ATTACH_STRICT;
	opts.max_regions = REGIONS_MAX;
	r = mirror_open(&ctx, &open);
	if (r == 0)
		r = mirror_target_attach_self(&target, ctx, &attach);
	if (r == 0)
		r = mirror_regcache_new(&cache, target, &ops, &opts, NULL);
	if (!ok(r == 0, "attaching"))
		bail("cannot attach: %s", strerror(-r));
}

static void run(struct user *users)
{
	uint64_t end = now_ms() + test_size(100000, 100000, 280000);
	uint64_t random = rnd(UINT64_MAX);
	pthread_t storm[2];

	if (pthread_create(&storm[0], NULL, unmap_thread, NULL) ||
	    pthread_create(&storm[1], NULL, map_thread, &random))
		bail("thread");
	for (unsigned int i = 0; i < USERS; i++) {
		users[i].random = rnd(UINT64_MAX);
		if (pthread_create(&users[i].thread, NULL, user_main, &users[i]))
			bail("thread");
	}
	while ((atomic_load(&n_gets) < atomic_load(&n_wanted) ||
		atomic_load(&n_replaced) < atomic_load(&n_wanted) / GETS_PER_CHANGE) &&
	       !atomic_load(&error) && now_ms() < end)
		nap_ms(5);
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < USERS; i++)
		pthread_join(users[i].thread, NULL);
	pthread_join(storm[1], NULL);
	atomic_store(&storm_is_over, true);
	pthread_join(storm[0], NULL);
}

int main(int argc, char **argv)
{
	static struct user users[USERS];
	struct mirror_regcache_stats s = { .sz = sizeof(s) };

	test_begin(argc, argv, 120, 295);
	atomic_store(&n_wanted, test_size(200000, 1000000, 10000000));
	daemon_init(&d);
	daemon_start(&d, NULL);
	prepare();
	attach();
	run(users);
	ok(atomic_load(&n_gets) >= atomic_load(&n_wanted), "%lu calls of get",
	   atomic_load(&n_wanted));
	ok(atomic_load(&n_replaced) >= atomic_load(&n_wanted) / GETS_PER_CHANGE,
	   "%lu pages replaced", atomic_load(&n_wanted) / GETS_PER_CHANGE);
	same(atomic_load(&error), 0, "none failed in a way it should not");
	same((long long)atomic_load(&n_stale), 0, "no region was stale");
	same((long long)atomic_load(&n_future), 0, "no region is of the future");
	same((long long)atomic_load(&n_bad), 0, "each region held its range");
	same((long long)atomic_load(&n_dead), 0, "none was deregistered in use, or twice");
	same((long long)atomic_load(&n_over), 0, "the limit was held");
	ok(mirror_regcache_flush(cache) >= 0, "flush");
	mirror_regcache_get_stats(cache, &s);
	note("%lu gets, %lu good, %lu pages replaced", atomic_load(&n_gets), atomic_load(&n_got),
	     atomic_load(&n_replaced));
	note("hits %llu, misses %llu, invalidated %llu, evicted %llu, merged %llu, registered %llu",
	     (unsigned long long)s.hits, (unsigned long long)s.misses,
	     (unsigned long long)s.invalidated, (unsigned long long)s.evicted,
	     (unsigned long long)s.merged, (unsigned long long)s.registered);
	same((long long)(s.hits + s.misses), (long long)atomic_load(&n_got), "each get is counted");
	same((long long)s.registered, (long long)s.deregistered, "all are deregistered");
	same(atomic_load(&n_live), 0, "nothing is left");
	ok(s.hits > atomic_load(&n_got) / 100, "there were hits");
	mirror_regcache_free(cache);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
	same(daemon_stop(&d), 0, "the daemon ends well");
	return test_end();
}
