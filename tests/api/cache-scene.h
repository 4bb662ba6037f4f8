/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/* One cache of registrations of some pages, for the tests of one program. */

#include "registrar.h"

#define SIZE (16 * PAGE)
#define R MIRROR_REGION_READ
#define W MIRROR_REGION_WRITE

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_regcache *cache;
static struct device device;
static char *mem;

static inline void setup_with(uint32_t attach_flags, uint32_t ring_entries)
{
	ctx = open_ctx_with(0, ring_entries);
	target = attach_self(ctx, attach_flags);
	mem = map_pages(SIZE);
	cache = device_cache(&device, target, NULL);
}

static inline void setup(void)
{
	setup_with(0, 0);
}

static inline void finish(void)
{
	cache = mirror_regcache_free(cache);
	ck_assert_uint_eq(device.n_registered, device.n_deregistered);
	target = mirror_target_unref(target);
	ctx = mirror_ctx_unref(ctx);
}

/* In pages of mem. */
static inline int try_get(unsigned int from, unsigned int to,
			  const struct mirror_region **ret_region)
{
	return mirror_regcache_get(cache, (uintptr_t)mem + from * PAGE, (uintptr_t)mem + to * PAGE,
				   R, ret_region);
}

static inline const struct mirror_region *get(unsigned int from, unsigned int to)
{
	const struct mirror_region *region = NULL;

	ok(try_get(from, to, &region));
	device_check(&device, region);
	return region;
}

static inline void put(const struct mirror_region *region)
{
	ck_assert_ptr_null(mirror_regcache_put(cache, region));
}

static inline void touch(unsigned int from, unsigned int to)
{
	put(get(from, to));
}

static inline struct mirror_regcache_stats stats(void)
{
	struct mirror_regcache_stats s = { .sz = sizeof(s) };

	ok(mirror_regcache_get_stats(cache, &s));
	return s;
}

static inline void dontneed(unsigned int from, unsigned int to)
{
	ck_assert_int_eq(madvise(mem + from * PAGE, (to - from) * PAGE, MADV_DONTNEED), 0);
}
