/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MADV_DONTNEED is told before the pages go.  Whoever resolves a page in between
 * gets the old one, and keeps it for ever, unless the range stays closed until the
 * pages are really gone.
 *
 * The memory is a private mapping of a file of zeros, written to: a page is 1 until
 * it is zapped, and 0 after.  One thread writes and zaps; the other looks up the
 * last page, keeps what it saw, and compares it with what the processor sees now.
 * While the writer writes, the reader holds nothing: a write is no change of the
 * address space, and none is told.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <mirror/mirror.h>

#define PAGE 4096UL
#define SIZE (64UL << 20)

static volatile unsigned char *memory;
static volatile unsigned char *page;	/* the last one: it goes last */
static atomic_int writing, dropped, stop;
static struct mirror_notifier *notifier;
static unsigned long lookups, established, stale;

static void on_event(struct mirror_notifier *n, const struct mirror_event *event, void *userdata)
{
	(void)n;
	(void)event;
	(void)userdata;
}

static void *reader(void *arg)
{
	uint64_t at = (uintptr_t)page, version = 0;
	int valid = 0, kept = 0, now, r;

	(void)arg;
	while (!atomic_load(&stop)) {
		if (atomic_load(&writing)) {
			valid = 0;
			atomic_store(&dropped, 1);
			continue;
		}
		atomic_store(&dropped, 0);
		if (valid && !mirror_read_retry(notifier, at, at + PAGE, version)) {
			now = *page;
			/* good before and after: then it was good in between */
			if (!mirror_read_retry(notifier, at, at + PAGE, version))
				stale += now != kept;
			lookups++;
			continue;
		}
		valid = 0;
		r = mirror_read_begin(notifier, at, at + PAGE, &version);
		if (r == -EAGAIN)
			continue;
		if (r < 0) {
			fprintf(stderr, "mirror_read_begin: %s\n", strerror(-r));
			exit(2);
		}
		kept = *page;
		valid = !mirror_read_retry(notifier, at, at + PAGE, version);
		established += (unsigned long)valid;
	}
	return NULL;
}

static void attach(void)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	struct mirror_target *target;
	struct mirror_ctx *ctx;
	int r;

	r = mirror_open(&ctx, NULL);
	if (r == 0)
		r = mirror_target_attach_self(&target, ctx, NULL);
	if (r == 0)
		r = mirror_notifier_insert(&notifier, target, (uintptr_t)memory,
					   (uintptr_t)memory + SIZE, &ops, NULL);
	if (r < 0) {
		fprintf(stderr, "cannot attach: %s\n", strerror(-r));
		exit(2);
	}
	if (mirror_target_get_guarantee(target, MIRROR_EVENT_CLEAR) < MIRROR_GUARANTEE_ORDERED) {
		printf("1..0 # SKIP the end of CLEAR cannot be proven here\n");
		exit(0);
	}
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 200, fd = memfd_create("zeros", MFD_CLOEXEC);
	pthread_t thread;

	alarm(240);
	if (fd < 0 || ftruncate(fd, SIZE) < 0)
		return 2;
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (memory == MAP_FAILED)
		return 2;
	page = memory + SIZE - PAGE;
	attach();
	if (pthread_create(&thread, NULL, reader, NULL))
		return 2;
	for (int i = 0; i < rounds; i++) {
		atomic_store(&writing, 1);
		while (!atomic_load(&dropped))
			;
		for (unsigned long at = 0; at < SIZE; at += PAGE)
			memory[at] = 1;
		atomic_store(&writing, 0);
		while (atomic_load(&dropped))
			;
		if (madvise((void *)(uintptr_t)memory, SIZE, MADV_DONTNEED) < 0)
			return 2;
	}
	atomic_store(&stop, 1);
	pthread_join(thread, NULL);
	printf("1..1\n%s 1 - remove: %d zaps, %lu lookups, %lu established, %lu stale\n",
	       stale || !lookups ? "not ok" : "ok", rounds, lookups, established, stale);
	return stale || !lookups;
}
