/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * stale-lookup on the registration cache of libmirror
 *
 * A program that unmaps a buffer and maps another one at the same address must not get
 * the registration of the old one.  The device is a second mapping of a memfd, and to
 * register is to see which page of the memfd is there: see stale-lookup.c, which has a
 * cache of its own.  Here it is a call.
 */

#define _GNU_SOURCE 1
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <mirror/regcache.h>

#define N_PAGES	64
#define SIZE	4096UL

static char *device, *current;		/* the page of it that is mapped as buffer, too */

static int register_region(struct mirror_region *region, void *userdata)
{
	(void)userdata;
	region->handle = current;

	return 0;
}

static void deregister_region(struct mirror_region *region, void *userdata)
{
	(void)region;
	(void)userdata;
}

static void check(int r, const char *what)
{
	if (r < 0)
		errx(2, "%s: %s", what, strerror(-r));
}

int main(int argc, char **argv)
{
	struct mirror_regcache_ops ops = { sizeof(ops), register_region, deregister_region };
	struct mirror_regcache_stats stats = { .sz = sizeof(stats) };
	unsigned long i, stale = 0, reuses = argc > 1 ? strtoul(argv[1], NULL, 10) : 10000;
	int again, fd = memfd_create("regcache", MFD_CLOEXEC);
	const struct mirror_region *region;
	struct mirror_regcache *cache;
	struct mirror_target *target;
	struct mirror_ctx *ctx;
	char *buffer;

	check(ftruncate(fd, N_PAGES * SIZE), "ftruncate");
	device = mmap(NULL, N_PAGES * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	buffer = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);

	check(mirror_open(&ctx, NULL), "mirror_open");
	check(mirror_target_attach_self(&target, ctx, NULL), "mirror_target_attach_self");
	check(mirror_regcache_new(&cache, target, &ops, NULL, NULL), "mirror_regcache_new");

	for (i = 1; i <= reuses; i++) {
		munmap(buffer, SIZE);
		current = device + i % N_PAGES * SIZE;
		buffer = mmap(buffer, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
			      current - device);
		*(volatile unsigned long *)buffer = i;

		for (again = 0; again < 2; again++) {
			check(mirror_regcache_get(cache, (uintptr_t)buffer,
						  (uintptr_t)buffer + SIZE,
						  MIRROR_REGION_READ, &region), "get");
			stale += *(volatile unsigned long *)region->handle != i;
			mirror_regcache_put(cache, region);
		}
	}

	check(mirror_regcache_get_stats(cache, &stats), "get_stats");
	printf("%ju hits, %ju misses, %lu stale\n", (uintmax_t)stats.hits,
	       (uintmax_t)stats.misses, stale);
	mirror_regcache_free(cache);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);

	return stale > 0;
}
