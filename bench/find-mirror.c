/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * libmirror's ways to find a region.  Each look-up is validated: nothing is found
 * whose memory has changed.
 *
 *	socket=PATH	of the daemon
 *	strict=1	attached with MIRROR_ATTACH_STRICT
 *
 * tlb		mirror_tlb_translate(), with a TLB for each thread
 * device	mirror_device_translate()
 * regcache	mirror_regcache_get() and mirror_regcache_put()
 */

#include <mirror/regcache.h>
#include "device.h"
#include "find.h"

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_device *device;
static struct mirror_regcache *cache;
static struct mirror_tlb tlbs[FIND_THREADS_MAX];
static uint64_t n_added, n_registered, n_deregistered;

static void target_start(char **argv)
{
	ctx = session_open(argv, 0);
	target = session_attach(ctx, option_number(argv, "strict", 0) ? MIRROR_ATTACH_STRICT : 0);
}

/* ---- the device page table ---- */

static void device_start(char **argv, char *memory, size_t bytes)
{
	target_start(argv);
	must_be_there(mirror_device_new(&device, target, (uintptr_t)memory,
					(uintptr_t)memory + bytes, NULL, NULL, NULL),
		      "mirror_device_new");
	for (unsigned int i = 0; i < FIND_THREADS_MAX; i++)
		mirror_tlb_init(&tlbs[i], device);
}

static void device_add(char *page, size_t n)
{
	device_fill(device, page, n * PAGE, PAGE);
}

static size_t device_look_up(unsigned int thread, char *const *pages, size_t n)
{
	struct mirror_device_range range;
	size_t n_found = 0;

	(void)thread;
	for (size_t i = 0; i < n; i++) {
		uint64_t at = (uintptr_t)pages[i];

		if (mirror_device_translate(device, at, MIRROR_DEVICE_READ, &range) < 0)
			continue;
		n_found += range.address + (at - range.start) == device_address(at, PAGE);
	}
	return n_found;
}

static size_t tlb_look_up(unsigned int thread, char *const *pages, size_t n)
{
	struct mirror_tlb *tlb = &tlbs[thread];
	uint64_t address;
	size_t n_found = 0;

	for (size_t i = 0; i < n; i++) {
		uint64_t at = (uintptr_t)pages[i];

		if (mirror_tlb_translate(tlb, at, MIRROR_DEVICE_READ, &address) < 0)
			continue;
		n_found += address == device_address(at, PAGE);
	}
	return n_found;
}

/* ---- the registration cache ---- */

static int do_register(struct mirror_region *region, void *userdata)
{
	(void)userdata;
	region->handle = region;
	__atomic_fetch_add(&n_registered, 1, __ATOMIC_RELAXED);
	return 0;
}

static void do_deregister(struct mirror_region *region, void *userdata)
{
	(void)region;
	(void)userdata;
	__atomic_fetch_add(&n_deregistered, 1, __ATOMIC_RELAXED);
}

static void regcache_start(char **argv, char *memory, size_t bytes)
{
	struct mirror_regcache_ops ops = {
		.sz = sizeof(ops),
		.register_region = do_register,
		.deregister_region = do_deregister,
	};
	struct mirror_regcache_opts opts = MIRROR_REGCACHE_OPTS_INIT;

	(void)memory;
	target_start(argv);
	opts.max_regions = (uint32_t)(bytes / PAGE) + 4096;
	must_be_there(mirror_regcache_new(&cache, target, &ops, &opts, NULL),
		      "mirror_regcache_new");
}

static size_t regcache_look_up(unsigned int thread, char *const *pages, size_t n)
{
	const struct mirror_region *region;
	size_t n_found = 0;

	(void)thread;
	for (size_t i = 0; i < n; i++) {
		uint64_t at = (uintptr_t)pages[i];
		int r = mirror_regcache_get(cache, at, at + PAGE, MIRROR_REGION_READ, &region);

		if (r == -ENOSYS)
			must_be_there(r, "mirror_regcache_get");
		if (r < 0)
			continue;
		n_found += region->start <= at && at + PAGE <= region->end;
		mirror_regcache_put(cache, region);
	}
	return n_found;
}

static void regcache_add(char *page, size_t n)
{
	for (size_t i = 0; i < n; i++, page += PAGE)
		if (regcache_look_up(0, &page, 1) != 1)
			fail("cannot add region %zu", i);
	n_added += n;
}

static uint64_t regcache_registered(void)
{
	return __atomic_load_n(&n_registered, __ATOMIC_RELAXED);
}

static uint64_t regcache_deregistered(void)
{
	return __atomic_load_n(&n_deregistered, __ATOMIC_RELAXED);
}

/*
 * The record can be published a moment after munmap() returned.  All that was looked up
 * besides what was added at first is unmapped by now, by this thread or by the other.
 */
static void regcache_gone(char *start, size_t bytes)
{
	uint64_t deadline = now_ns() + PATIENCE_NS;

	(void)start;
	(void)bytes;
	while (regcache_deregistered() + n_added != regcache_registered()) {
		must(mirror_dispatch(ctx), "mirror_dispatch");
		if (now_ns() > deadline)
			fail("what was unmapped is not deregistered");
	}
}

const struct find find_tlb = {
	.name = "tlb", .start = device_start, .add = device_add, .look_up = tlb_look_up,
	.never_stale = true,
};

const struct find find_device = {
	.name = "device", .start = device_start, .add = device_add, .look_up = device_look_up,
	.never_stale = true,
};

const struct find find_regcache = {
	.name = "regcache", .start = regcache_start, .add = regcache_add,
	.look_up = regcache_look_up, .registered = regcache_registered,
	.deregistered = regcache_deregistered, .gone = regcache_gone, .never_stale = true,
};
