/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "registrar.h"

static bool must_meet(struct device *d)
{
	bool meet;

	pthread_mutex_lock(&d->lock);
	meet = d->meet && d->n_met++ < 2;
	pthread_mutex_unlock(&d->lock);
	return meet;
}

static int register_region(struct mirror_region *region, void *userdata)
{
	struct registration *made = malloc(sizeof(*made));
	struct device *d = userdata;
	uint64_t size = region->end - region->start;

	*made = (struct registration) {
		.start = region->start, .end = region->end, .rights = region->rights,
		.alive = true,
	};
	if (must_meet(d))
		pthread_barrier_wait(&d->barrier);
	if (d->on_register)
		d->on_register(d, region);
	pthread_mutex_lock(&d->lock);
	if (d->max_bytes && size > d->max_bytes) {
		d->n_failed++;
		pthread_mutex_unlock(&d->lock);
		free(made);
		return -ENOBUFS;
	}
	d->n_registered++;
	d->bytes += size;
	d->last = *made;
	if (d->max_regions)
		ck_assert_uint_le(d->n_registered - d->n_deregistered, d->max_regions);
	if (d->max_total)
		ck_assert_uint_le(d->bytes, d->max_total);
	pthread_mutex_unlock(&d->lock);
	region->handle = made;
	return 0;
}

static void deregister_region(struct mirror_region *region, void *userdata)
{
	struct registration *made = region->handle;
	struct device *d = userdata;

	device_check(d, region);
	if (d->on_deregister)
		d->on_deregister(d, region);
	pthread_mutex_lock(&d->lock);
	d->n_deregistered++;
	d->bytes -= made->end - made->start;
	pthread_mutex_unlock(&d->lock);
	made->alive = false;
	free(made);
}

const struct mirror_regcache_ops device_ops = {
	.sz = sizeof(device_ops),
	.register_region = register_region,
	.deregister_region = deregister_region,
};

struct mirror_regcache *device_cache(struct device *device, struct mirror_target *target,
				     const struct mirror_regcache_opts *opts)
{
	struct mirror_regcache *cache;

	pthread_mutex_init(&device->lock, NULL);
	ok(mirror_regcache_new(&cache, target, &device_ops, opts, device));
	return cache;
}

void device_check(struct device *device, const struct mirror_region *region)
{
	const struct registration *made = region->handle;

	(void)device;
	ck_assert(made->alive);
	ck_assert_uint_eq(made->start, region->start);
	ck_assert_uint_eq(made->end, region->end);
	ck_assert_uint_eq(made->rights, region->rights);
}
