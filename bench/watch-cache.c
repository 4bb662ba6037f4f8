/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A registration cache that behaves like libfabric's with its userfaultfd monitor
 *
 *	reader=N		bind the thread to the N-th processor
 *	regions=N		regions that the cache holds besides (1000)
 *
 * libfabric caches registrations only for hardware.  Without any, this stands in:
 * written anew after what its source does, not with its code.
 *
 *	one thread in the process: poll, take the list's read lock and the monitor's
 *	lock, read ONE event, and still under the locks
 *		REMOVE		unregister the range from the userfaultfd
 *		REMOVE, UNMAP	find the regions that overlap it in a tree, and move
 *				each to a list of dead ones
 *	subscribing: under the same lock, register MISSING, put the region in the tree
 *
 * What is dead is freed when the next registration is made, under the lock too.
 */

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <search.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "uffd.h"
#include "watch.h"

struct region {
	uintptr_t start, end;
	struct region *next_dead;
};

static pthread_rwlock_t list_lock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *tree;		/* regions never overlap each other, so this orders them */
static struct region *dead;
static uint64_t heard, n_invalidated, n_armed;
static int fd = -1, cpu = -1;

/* Overlapping is equal: so a look-up of a range finds what overlaps it. */
static int compare(const void *a, const void *b)
{
	const struct region *x = a, *y = b;

	return x->end <= y->start ? -1 : x->start >= y->end ? 1 : 0;
}

static void invalidate(uintptr_t start, uintptr_t end)
{
	struct region key = { .start = start, .end = end }, *region;
	void *node;

	while ((node = tfind(&key, &tree, compare))) {
		region = *(struct region **)node;
		tdelete(&key, &tree, compare);
		region->next_dead = dead;
		dead = region;
		n_invalidated++;
	}
}

static void handle(const struct uffd_msg *msg)
{
	struct uffdio_range range = {
		.start = msg->arg.remove.start,
		.len = msg->arg.remove.end - msg->arg.remove.start,
	};

	switch (msg->event) {
	case UFFD_EVENT_REMOVE:
		ioctl(fd, UFFDIO_UNREGISTER, &range);
		/* fall through */
	case UFFD_EVENT_UNMAP:
		invalidate(msg->arg.remove.start, msg->arg.remove.end);
		heard++;
		break;
	}
}

static void *reader(void *unused)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	struct uffd_msg msg;

	pin(cpu);
	for (;;) {
		if (poll(&pfd, 1, -1) != 1)
			continue;
		pthread_rwlock_rdlock(&list_lock);
		pthread_mutex_lock(&lock);
		if (read(fd, &msg, sizeof(msg)) == sizeof(msg))
			handle(&msg);
		pthread_mutex_unlock(&lock);
		pthread_rwlock_unlock(&list_lock);
	}
	return unused;
}

static void subscribe(uintptr_t start, size_t bytes)
{
	struct region *region, **found;

	region = calloc(1, sizeof(*region));
	if (!region)
		fail("out of memory");
	region->start = start;
	region->end = start + bytes;
	found = tsearch(region, &tree, compare);
	if (!found || *found != region)
		fail("a region is cached twice");
}

static void cache_start(char **argv)
{
	long n = option_number(argv, "regions", 1000);
	pthread_t thread;

	cpu = cpu_at((int)option_number(argv, "reader", -1));
	fd = uffd_open(O_NONBLOCK, 0);
	must(fd, "UFFDIO_API");
	for (long i = 0; i < n; i++)
		subscribe(PAGE * 16 * (uintptr_t)(i + 1), PAGE);
	must(-pthread_create(&thread, NULL, reader, NULL), "pthread_create");
}

static void cache_watch(void *start, size_t bytes)
{
	(void)start;
	(void)bytes;
}

static void cache_arm(void *start, size_t bytes)
{
	struct region *region;

	pthread_mutex_lock(&lock);
	while (dead) {
		region = dead;
		dead = region->next_dead;
		free(region);
	}
	subscribe((uintptr_t)start, bytes);
	must(uffd_register(fd, start, bytes, UFFDIO_REGISTER_MODE_MISSING), "UFFDIO_REGISTER");
	n_armed++;
	pthread_mutex_unlock(&lock);
}

static uint64_t cache_heard(void)
{
	uint64_t n;

	pthread_mutex_lock(&lock);
	n = heard;
	pthread_mutex_unlock(&lock);
	return n;
}

static void cache_do(void)
{
}

static void cache_stop(uint64_t n_changes)
{
	if (n_invalidated != n_armed || n_invalidated != n_changes)
		fail("%llu changes, but %llu of %llu cached regions invalidated",
		     (unsigned long long)n_changes, (unsigned long long)n_invalidated,
		     (unsigned long long)n_armed);
	printf(" invalidated=%llu", (unsigned long long)n_invalidated);
}

const struct watch watch_cache = {
	.name = "cache",
	.start = cache_start,
	.watch = cache_watch,
	.arm = cache_arm,
	.arm_again = true,
	.heard = cache_heard,
	.begin = cache_do,
	.end = cache_do,
	.stop = cache_stop,
};
