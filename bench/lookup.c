/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * bench-lookup: what it costs to ask whether a translation is good
 *
 *	threads=N	that ask at the same time
 *	strict=1	attached with MIRROR_ATTACH_STRICT: each look-up probes the kernel
 *
 * Times are in picoseconds a call, of BATCH calls together.
 *
 *	retry-1, retry-64	mirror_read_retry() of a good translation, of a range of
 *				one stripe, of 64 (128 MiB)
 *	begin-1, begin-64	mirror_read_begin(): nothing is in flight, and the one
 *				mapping is armed already
 *	call			a function of a shared library that does next to nothing
 */

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#include "session.h"

#define BATCH 500
#define STRIPE (2UL << 20)
#define THREADS_MAX 2

struct worker {
	pthread_t thread;
	pthread_barrier_t *start;
	unsigned int count;
	uint64_t (*batch)(size_t bytes);
	size_t bytes;
	uint64_t value[SAMPLES_MAX];
};

static struct mirror_notifier *notifier;
static struct mirror_target *target;
static struct mirror_ctx *ctx;
static char *memory;
static unsigned int n_threads;
static struct worker workers[THREADS_MAX];

static void on_change(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	(void)n;
	(void)ev;
	(void)userdata;
}

static uint64_t begin(size_t bytes)
{
	uint64_t version;

	must(mirror_read_begin(notifier, (uintptr_t)memory, (uintptr_t)memory + bytes,
			       &version), "mirror_read_begin");
	return version;
}

static uint64_t batch_retry(size_t bytes)
{
	uint64_t start = (uintptr_t)memory, end = start + bytes, version = begin(bytes), t;
	int n_bad = 0;

	t = now_ns();
	for (int i = 0; i < BATCH; i++)
		n_bad += mirror_read_retry(notifier, start, end, version);
	t = now_ns() - t;
	if (n_bad)
		fail("%d translations of untouched memory are said to be bad", n_bad);
	return t;
}

static uint64_t batch_begin(size_t bytes)
{
	uint64_t t = now_ns();

	for (int i = 0; i < BATCH; i++)
		begin(bytes);
	return now_ns() - t;
}

static uint64_t batch_call(size_t bytes)
{
	uint64_t t = now_ns();
	uint32_t sum = 0;

	(void)bytes;
	for (int i = 0; i < BATCH; i++)
		sum += mirror_target_get_id(target);
	t = now_ns() - t;
	if (sum != BATCH * mirror_target_get_id(target))
		fail("the id of the target changes");
	return t;
}

static void *work(void *arg)
{
	struct worker *w = arg;

	pthread_barrier_wait(w->start);
	for (unsigned int i = 0; i < w->count; i++)
		w->value[i] = w->batch(w->bytes) * 1000 / BATCH;
	return NULL;
}

static void run(const char *name, unsigned int count, uint64_t (*batch)(size_t), size_t bytes)
{
	static struct samples s;
	pthread_barrier_t start;

	pthread_barrier_init(&start, NULL, n_threads);
	for (unsigned int i = 0; i < n_threads; i++) {
		workers[i].start = &start;
		workers[i].count = count;
		workers[i].batch = batch;
		workers[i].bytes = bytes;
	}
	for (unsigned int i = 1; i < n_threads; i++)
		must(-pthread_create(&workers[i].thread, NULL, work, &workers[i]),
		     "pthread_create");
	work(&workers[0]);
	for (unsigned int i = 1; i < n_threads; i++)
		pthread_join(workers[i].thread, NULL);
	pthread_barrier_destroy(&start);
	s.name = name;
	for (unsigned int i = 0; i < n_threads; i++)
		for (unsigned int k = 0; k < count; k++)
			samples_add(&s, workers[i].value[k]);
	samples_say(&s);
}

static void run_retry(unsigned int count)
{
	run("call", count, batch_call, 0);
	run("retry-1", count, batch_retry, PAGE);
	run("retry-64", count, batch_retry, 64 * STRIPE);
}

static void run_begin(unsigned int count)
{
	run("begin-1", count, batch_begin, PAGE);
	run("begin-64", count, batch_begin, 64 * STRIPE);
}

/* The proof that all those answers meant something. */
static void check_bad(void)
{
	uint64_t start = (uintptr_t)memory, version = begin(PAGE);

	page_unmap(memory);
	if (!mirror_read_retry(notifier, start, start + PAGE, version))
		fail("a translation of unmapped memory is said to be good");
}

int main(int argc, char **argv)
{
	static const struct turn turns[] = { { "retry", run_retry }, { "begin", run_begin } };
	size_t bytes = 66 * STRIPE;

	(void)argc;
	n_threads = (unsigned int)option_number(argv, "threads", 1);
	if (n_threads < 1 || n_threads > THREADS_MAX)
		fail("1 or 2 threads");
	if (n_threads > 1)
		cpu_at((int)n_threads - 1);
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	memory = (char *)(((uintptr_t)memory + STRIPE) & ~(STRIPE - 1));
	ctx = session_open(argv, 0);
	target = session_attach(ctx, option_number(argv, "strict", 0) ? MIRROR_ATTACH_STRICT : 0);
	notifier = session_watch(target, memory, 64 * STRIPE, on_change, NULL);
	take_turns(turns, ARRAY_SIZE(turns));
	check_bad();
	puts("done");
	fflush(stdout);
	_exit(0);
}
