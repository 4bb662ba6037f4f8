/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The classic bug of registration caches, and how it goes away
 *
 * Registering memory with a device is expensive, so runtimes keep registrations
 * and look them up by address.  A program that unmaps a buffer and maps another
 * one at the same address then gets the registration of the old one: its device
 * reads and writes memory that is not there any more.
 *
 * The device here is a second mapping of a memfd.  The program maps page i of
 * the memfd at one fixed address, again and again, with another i each time, and
 * writes a number that was never used before.  To register is to ask which page
 * of the memfd is there, as a real device asks the kernel for the physical page;
 * the device reads that page through its own mapping, whatever the program's
 * page table says meanwhile.  If it reads another number than the processor, the
 * registration was stale.
 *
 *	--cache=plain	nobody tells the cache anything
 *	--cache=mirror	libmirror does; a lookup is good once the system call that
 *			changed the memory has returned (ORDERED)
 *	--cache=strict	the same, but a lookup also asks whether a change is in
 *			flight in another thread (STRICT)
 *
 * With one thread the system call always has returned.  With two, the second one
 * maps the address while the first still sits in munmap(), and looks it up at
 * once: there ORDERED is not enough, and this shows it.
 */

#define _GNU_SOURCE 1
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <mirror/mirror.h>

#define N_PAGES		1024U	/* of the memfd; more than are ever in use */
#define ARENA_SIZE	(1UL << 32)
#define LOOKUPS		2	/* of each buffer: the second one should be a hit */

enum kind {
	CACHE_PLAIN,
	CACHE_MIRROR,
	CACHE_STRICT,
};

static const char * const kinds[] = { "plain", "mirror", "strict" };

/* one entry is enough for one address */
struct cache {
	enum kind kind;
	pthread_mutex_t lock;
	bool valid;
	uint64_t version;
	unsigned int page;	/* the translation: which page of the memfd */

	uint64_t hits, misses, invalidations;

	struct mirror_ctx *ctx;
	struct mirror_target *target;
	struct mirror_notifier *notifier;
};

struct machine {
	int memfd;
	size_t page_size;
	char *address;			/* where the buffer always is */
	char *device;			/* the device's view of the memfd */
	unsigned int current;		/* the page table: what is at address */
	uint64_t generation;
};

static void __attribute__((__noreturn__, __format__(__printf__, 1, 2)))
die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("stale-lookup: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(2);
}

/* ---- the machine ---- */

static void machine_init(struct machine *m)
{
	char *arena;

	m->page_size = (size_t)sysconf(_SC_PAGESIZE);
	m->memfd = memfd_create("stale-lookup", MFD_CLOEXEC);
	if (m->memfd < 0 || ftruncate(m->memfd, (off_t)(N_PAGES * m->page_size)) < 0)
		die("cannot make a memfd: %s", strerror(errno));

	m->device = mmap(NULL, N_PAGES * m->page_size, PROT_READ, MAP_SHARED, m->memfd, 0);
	if (m->device == MAP_FAILED)
		die("cannot map the memfd: %s", strerror(errno));

	/* an address in the middle of nowhere, where nothing else gets mapped */
	arena = mmap(NULL, ARENA_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		     -1, 0);
	if (arena == MAP_FAILED)
		die("cannot find a free address: %s", strerror(errno));
	m->address = arena + ARENA_SIZE / 2;
	munmap(arena, ARENA_SIZE);
}

/* false if something else is mapped there still */
static bool machine_map(struct machine *m)
{
	unsigned int page = (unsigned int)((m->generation + 1) % N_PAGES);
	char *p;

	p = mmap(m->address, m->page_size, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED_NOREPLACE, m->memfd, (off_t)(page * m->page_size));
	if (p == MAP_FAILED && errno == EEXIST)
		return false;
	if (p != m->address)
		die("cannot map the buffer: %s", strerror(errno));

	m->generation++;
	m->current = page;
	*(volatile uint64_t *)m->address = m->generation;

	return true;
}

static void machine_unmap(struct machine *m)
{
	if (munmap(m->address, m->page_size) < 0)
		die("cannot unmap the buffer: %s", strerror(errno));
}

static uint64_t machine_device_read(struct machine *m, unsigned int page)
{
	return *(volatile uint64_t *)(m->device + page * m->page_size);
}

/* ---- the cache ---- */

static void on_invalidate(struct mirror_notifier *notifier, const struct mirror_event *event,
			  void *userdata)
{
	struct cache *c = userdata;

	(void)notifier;
	(void)event;

	/* in doubt, invalidate: a real cache looks at the event and at the range */
	pthread_mutex_lock(&c->lock);
	c->invalidations += c->valid;
	c->valid = false;
	pthread_mutex_unlock(&c->lock);
}

static void cache_init(struct cache *c, const struct machine *m)
{
	struct mirror_attach_opts opts = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops),
		.invalidate = on_invalidate,
	};
	uint64_t start = (uintptr_t)m->address;
	int r;

	pthread_mutex_init(&c->lock, NULL);
	if (c->kind == CACHE_PLAIN)
		return;

	r = mirror_open(&c->ctx, NULL);
	if (r < 0)
		die("cannot reach or start mirrord: %s", strerror(-r));

	if (c->kind == CACHE_STRICT)
		opts.flags |= MIRROR_ATTACH_STRICT;
	r = mirror_target_attach_self(&c->target, c->ctx, &opts);
	if (r < 0)
		die("cannot attach: %s", strerror(-r));

	r = mirror_notifier_insert(&c->notifier, c->target, start, start + m->page_size, &ops, c);
	if (r < 0)
		die("cannot watch the buffer: %s", strerror(-r));
}

static void cache_deinit(struct cache *c)
{
	mirror_notifier_remove(c->notifier);
	mirror_target_unref(c->target);
	mirror_ctx_unref(c->ctx);
	pthread_mutex_destroy(&c->lock);
}

/* may a translation of this version not be used? */
static bool cache_must_retry(struct cache *c, uint64_t start, uint64_t end, uint64_t version)
{
	return c->kind != CACHE_PLAIN && mirror_read_retry(c->notifier, start, end, version);
}

/* which page a device is to use for the buffer */
static unsigned int cache_lookup(struct cache *c, const struct machine *m)
{
	uint64_t start = (uintptr_t)m->address, end = start + m->page_size;
	uint64_t version = 0;
	unsigned int page;
	bool known;
	int r;

	/* the fast path: no system call */
	pthread_mutex_lock(&c->lock);
	page = c->page;
	known = c->valid && !cache_must_retry(c, start, end, c->version);
	c->hits += known;
	pthread_mutex_unlock(&c->lock);
	if (known)
		return page;

	for (;;) {
		if (c->kind != CACHE_PLAIN) {
			r = mirror_read_begin(c->notifier, start, end, &version);
			if (r == -EAGAIN)
				continue;
			if (r < 0)
				die("cannot look up: %s", strerror(-r));
		}

		/* expensive, and must not be done under the lock */
		page = m->current;

		pthread_mutex_lock(&c->lock);
		if (!cache_must_retry(c, start, end, version))
			break;
		pthread_mutex_unlock(&c->lock);
	}

	/* no callback touched the entry: it was another range that changed */
	if (c->valid) {
		c->hits++;
		page = c->page;
	} else {
		c->misses++;
		c->valid = true;
		c->page = page;
	}
	c->version = version;
	pthread_mutex_unlock(&c->lock);

	return page;
}

/* ---- the experiment ---- */

struct experiment {
	struct machine machine;
	struct cache cache;
	unsigned int threads;
	uint64_t reuses;
	uint64_t stale;

	/* two threads: the buffer of this turn may go, and it went */
	_Atomic uint64_t asked, done;
};

static void use_buffer(struct experiment *x)
{
	struct machine *m = &x->machine;
	bool stale = false;
	unsigned int i;

	for (i = 0; i < LOOKUPS; i++)
		stale |= machine_device_read(m, cache_lookup(&x->cache, m)) !=
			 *(volatile uint64_t *)m->address;

	x->stale += stale;
}

static void wait_until(_Atomic uint64_t *word, uint64_t value)
{
	unsigned int spins = 0;

	while (atomic_load_explicit(word, memory_order_acquire) < value)
		if (++spins % 1024 == 0)
			sched_yield();
}

static void *unmap_thread(void *userdata)
{
	struct experiment *x = userdata;
	uint64_t turn;

	for (turn = 1; turn <= x->reuses; turn++) {
		wait_until(&x->asked, turn);
		machine_unmap(&x->machine);
		atomic_store_explicit(&x->done, turn, memory_order_release);
	}

	return NULL;
}

static void show_progress(const struct experiment *x, uint64_t i)
{
	static struct timespec last;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec == last.tv_sec)
		return;

	last = now;
	fprintf(stderr, "\r%" PRIu64 " of %" PRIu64 " reuses, %" PRIu64 " stale ", i, x->reuses,
		x->stale);
}

static void run(struct experiment *x)
{
	bool terminal = isatty(STDERR_FILENO);
	pthread_t thread;
	uint64_t i;

	if (x->threads > 1 && pthread_create(&thread, NULL, unmap_thread, x))
		die("cannot start a thread");

	if (!machine_map(&x->machine))
		die("the address is taken");
	use_buffer(x);

	for (i = 1; i <= x->reuses; i++) {
		if (x->threads > 1) {
			atomic_store_explicit(&x->asked, i, memory_order_release);
			while (!machine_map(&x->machine))
				;
			use_buffer(x);
			wait_until(&x->done, i);
		} else {
			machine_unmap(&x->machine);
			if (!machine_map(&x->machine))
				die("the address is taken");
			use_buffer(x);
		}

		if (terminal && i % 1024 == 0)
			show_progress(x, i);
	}

	if (terminal)
		fputs("\r\033[K", stderr);
	if (x->threads > 1)
		pthread_join(thread, NULL);
}

static void print(const struct experiment *x, bool json)
{
	const struct cache *c = &x->cache;

	if (json)
		printf("{\"cache\":\"%s\",\"threads\":%u,\"reuses\":%" PRIu64 ",\"stale\":%" PRIu64
		       ",\"hits\":%" PRIu64 ",\"misses\":%" PRIu64 ",\"invalidations\":%" PRIu64
		       "}\n", kinds[c->kind], x->threads, x->reuses, x->stale, c->hits, c->misses,
		       c->invalidations);
	else
		printf("%-6s cache, %u thread%s: %" PRIu64 " reuses of the address, %" PRIu64
		       " with stale data (%" PRIu64 " hits, %" PRIu64 " misses, %" PRIu64
		       " invalidations)\n", kinds[c->kind], x->threads,
		       x->threads > 1 ? "s" : " ", x->reuses, x->stale, c->hits, c->misses,
		       c->invalidations);
}

static enum kind parse_kind(const char *name)
{
	unsigned int i;

	for (i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(kinds[i], name))
			return (enum kind)i;

	die("--cache is one of plain, mirror, strict, not '%s'", name);
}

static uint64_t parse_number(const char *text, uint64_t max)
{
	unsigned long long number;
	char *end;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || !number || number > max)
		die("'%s' is not a number from 1 to %" PRIu64, text, max);

	return number;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "cache", required_argument, NULL, 'c' },
		{ "threads", required_argument, NULL, 't' },
		{ "reuses", required_argument, NULL, 'r' },
		{ "json", no_argument, NULL, 'j' },
		{ "expect-zero", no_argument, NULL, 'z' },
		{ NULL, 0, NULL, 0 },
	};
	struct experiment x = { .threads = 1, .reuses = 10000, .cache.kind = CACHE_MIRROR };
	bool json = false, expect_zero = false;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (c) {
		case 'c':
			x.cache.kind = parse_kind(optarg);
			break;
		case 't':
			x.threads = (unsigned int)parse_number(optarg, 2);
			break;
		case 'r':
			x.reuses = parse_number(optarg, UINT32_MAX);
			break;
		case 'j':
			json = true;
			break;
		case 'z':
			expect_zero = true;
			break;
		default:
			fputs("Usage: stale-lookup [--cache=plain|mirror|strict] [--threads=1|2] "
			      "[--reuses=N] [--json] [--expect-zero]\n", stderr);
			return 2;
		}
	}

	machine_init(&x.machine);
	cache_init(&x.cache, &x.machine);
	run(&x);
	print(&x, json);
	cache_deinit(&x.cache);

	return expect_zero && x.stale ? 1 : 0;
}
