/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A target and consumer for tests of the service
 *
 * Attaches itself to the mirrord that libmirror finds, watches a few pages, and says
 * "ready PID TARGET START END".  Then it does what it reads, a word a line, and answers
 * with one line:
 *
 *	change		maps the first page anew		"done"
 *	storm, calm	a thread does that all the time		"done"
 *	changes		how often it was done			"changes N"
 *	longest		change since this was last asked	"longest NANOSECONDS"
 *	lookup		begins one, with what was published	"lookup ERRNO GOOD"
 *	events		what the callback was told		"events N OVERFLOWS"
 *	wait		until mirrord is gone			"over ERRNO NANOSECONDS"
 *	info		of mirrord				"info PID INFO_FLAGS"
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <mirror/mirror.h>

#define PAGE	4096UL
#define PAGES	16
#define SIZE	(PAGES * PAGE)

struct world {
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	struct mirror_notifier *notifier;
	char *memory;
	unsigned long events, overflows;	/* of the thread that dispatches */
	pthread_t thread;
	atomic_bool storming;
	atomic_ulong changes, longest_ns;
};

static void fail(const char *what, int error)
{
	fprintf(stderr, "consumer: %s: %s\n", what, strerror(error < 0 ? -error : error));
	exit(1);
}

static void on_event(struct mirror_notifier *notifier, const struct mirror_event *event, void *data)
{
	struct world *w = data;

	(void)notifier;
	w->events++;
	w->overflows += event->type == MIRROR_EVENT_OVERFLOW;
}

static unsigned long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (unsigned long)now.tv_sec * 1000000000 + (unsigned long)now.tv_nsec;
}

static int change(struct world *w)
{
	unsigned long begun = now_ns(), took;

	if (mmap(w->memory, PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;
	took = now_ns() - begun;
	if (took > w->longest_ns)
		w->longest_ns = took;
	*w->memory = 1;
	w->changes++;
	return 0;
}

static void *storm(void *arg)
{
	struct world *w = arg;
	int r;

	while (w->storming) {
		r = change(w);
		if (r == 0) {
			/* what is mapped anew is not watched before it is armed */
			r = mirror_target_arm(w->target, (uintptr_t)w->memory,
					      (uintptr_t)w->memory + PAGE);
		}
		if (r < 0 && r != -EPIPE)
			fail("storm", r);
	}
	return NULL;
}

static int start_storm(struct world *w)
{
	w->storming = true;
	return -pthread_create(&w->thread, NULL, storm, w);
}

static int end_storm(struct world *w)
{
	w->storming = false;
	return -pthread_join(w->thread, NULL);
}

static void look_up(struct world *w)
{
	uintptr_t start = (uintptr_t)w->memory;
	uint64_t version;
	int r;

	r = mirror_read_begin(w->notifier, start, start + SIZE, &version);
	printf("lookup %d %d\n", -r,
	       r == 0 && mirror_read_retry(w->notifier, start, start + SIZE, version) == 0);
}

static void wait_for_end(struct world *w)
{
	int r;

	do
		r = mirror_wait(w->ctx, -1);
	while (r >= 0 || r == -EINTR);
	printf("over %d %lu\n", -r, now_ns());
}

static void say_info(struct world *w)
{
	struct mirror_info info = { .size = sizeof(info) };
	int r = mirror_ctx_get_info(w->ctx, &info);

	if (r < 0)
		printf("info %d\n", r);
	else
		printf("info %u %u\n", info.pid, info.info_flags);
}

static void done(int r)
{
	puts(r < 0 ? strerror(-r) : "done");
}

static void obey(struct world *w, const char *word)
{
	if (!strcmp(word, "change"))
		done(change(w));
	else if (!strcmp(word, "storm"))
		done(start_storm(w));
	else if (!strcmp(word, "calm"))
		done(end_storm(w));
	else if (!strcmp(word, "changes"))
		printf("changes %lu\n", w->changes);
	else if (!strcmp(word, "longest"))
		printf("longest %lu\n", atomic_exchange(&w->longest_ns, 0));
	else if (!strcmp(word, "lookup"))
		look_up(w);
	else if (!strcmp(word, "events"))
		printf("events %lu %lu\n", w->events, w->overflows);
	else if (!strcmp(word, "wait"))
		wait_for_end(w);
	else if (!strcmp(word, "info"))
		say_info(w);
	else
		done(-EINVAL);
}

int main(void)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	static struct world w;
	char word[64];
	int r;

	opts.flags = MIRROR_OPEN_NO_EMBEDDED;
	r = mirror_open(&w.ctx, &opts);
	if (r < 0)
		fail("cannot connect", r);
	r = mirror_target_attach_self(&w.target, w.ctx, NULL);
	if (r < 0)
		fail("cannot attach", r);
	w.memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (w.memory == MAP_FAILED)
		fail("mmap", errno);
	memset(w.memory, 1, SIZE);
	r = mirror_notifier_insert(&w.notifier, w.target, (uintptr_t)w.memory,
				   (uintptr_t)w.memory + SIZE, &ops, &w);
	if (r < 0)
		fail("cannot watch", r);

	printf("ready %d %u %lx %lx\n", getpid(), mirror_target_get_id(w.target),
	       (unsigned long)w.memory, (unsigned long)w.memory + SIZE);
	fflush(stdout);
	while (scanf("%63s", word) == 1) {
		obey(&w, word);
		fflush(stdout);
	}
	mirror_notifier_remove(w.notifier);
	mirror_target_unref(w.target);
	mirror_ctx_unref(w.ctx);
	return 0;
}
