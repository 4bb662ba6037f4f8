/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * A device that only remembers what is registered with it, for tests of the cache
 */

#include <mirror/regcache.h>
#include <pthread.h>
#include "harness.h"

/* What a handle points to. */
struct registration {
	uint64_t start, end;
	uint32_t rights;
	bool alive;
};

struct device {
	/* what it checks and does; 0 for nothing */
	uint64_t max_bytes;		/* of one; more fails with -ENOBUFS */
	uint64_t max_total, max_regions; /* more is a failure of the test */
	bool meet;			/* the next two registrations wait for each other */
	pthread_barrier_t barrier;
	void (*on_register)(struct device *device, const struct mirror_region *region);
	void (*on_deregister)(struct device *device, const struct mirror_region *region);

	pthread_mutex_t lock;
	uint64_t n_registered, n_deregistered, n_failed, bytes;
	unsigned int n_met;
	struct registration last;
};

extern const struct mirror_regcache_ops device_ops;

struct mirror_regcache *device_cache(struct device *device, struct mirror_target *target,
				     const struct mirror_regcache_opts *opts);
/* The region is registered as it says. */
void device_check(struct device *device, const struct mirror_region *region);
