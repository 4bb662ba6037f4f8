/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is in a device page table, and what the device has done with it
 *
 * Accessed and dirty are bits of the entries, set by who drives the device, taken off
 * by who wants to know.  They say nothing about whether a translation is good, so no
 * `generation` moves, and threads that remember an entry go on using it: as with the
 * CPU's own TLB, a bit that was taken off need not come back with the next use.
 */
#include "device-private.h"

static int check(const struct mirror_device *device, uint64_t start, uint64_t end)
{
	if (device_forked(device))
		return -ECHILD;
	return device_covers(device, start, end) ? 0 : -EINVAL;
}

static int test(struct mirror_device *device, uint64_t start, uint64_t end, uint64_t flags,
		bool and_clear)
{
	int r;

	r = check(device, start, end);
	if (r < 0)
		return r;
	pthread_mutex_lock(&device->lock);
	r = and_clear ? radix_unmark(&device->radix, start, end, flags) :
			radix_test(&device->radix, start, end, flags);
	pthread_mutex_unlock(&device->lock);
	return r;
}

MIRROR_PUBLIC int mirror_device_mark(struct mirror_device *device, uint64_t start, uint64_t end,
				     uint32_t flags)
{
	int r;

	r = check(device, start, end);
	if (r < 0)
		return r;
	if (!flags || flags & ~(uint32_t)ENTRY_AGE)
		return -EINVAL;
	pthread_mutex_lock(&device->lock);
	radix_mark(&device->radix, start, end, flags);
	pthread_mutex_unlock(&device->lock);
	return 0;
}

MIRROR_PUBLIC int mirror_device_test_young(struct mirror_device *device, uint64_t start,
					   uint64_t end)
{
	return test(device, start, end, MIRROR_DEVICE_ACCESSED, false);
}

MIRROR_PUBLIC int mirror_device_clear_young(struct mirror_device *device, uint64_t start,
					    uint64_t end)
{
	return test(device, start, end, MIRROR_DEVICE_ACCESSED, true);
}

MIRROR_PUBLIC int mirror_device_test_dirty(struct mirror_device *device, uint64_t start,
					   uint64_t end)
{
	return test(device, start, end, MIRROR_DEVICE_DIRTY, false);
}

MIRROR_PUBLIC int mirror_device_clear_dirty(struct mirror_device *device, uint64_t start,
					    uint64_t end)
{
	return test(device, start, end, MIRROR_DEVICE_DIRTY, true);
}

MIRROR_PUBLIC int mirror_device_for_each(struct mirror_device *device, uint64_t start,
					 uint64_t end,
					 int (*callback)(const struct mirror_device_range *range,
							 void *userdata), void *userdata)
{
	struct mirror_device_range range;
	struct radix_run run;
	int r = 0;

	if (device_forked(device))
		return -ECHILD;
	if (!device_covers(device, start, end) || !callback)
		return -EINVAL;
	pthread_mutex_lock(&device->lock);
	for (uint64_t at = start; at < end && radix_next(&device->radix, at, end, &run);
	     at = run.end) {
		range = device_range_of(&run);
		r = callback(&range, userdata);
		if (device_forked(device))
			r = -ECHILD;
		if (r)
			break;
	}
	pthread_mutex_unlock(&device->lock);
	return r;
}

MIRROR_PUBLIC int mirror_device_get_stats(struct mirror_device *device,
					  struct mirror_device_stats *ret_stats)
{
	struct mirror_device_stats stats;

	if (device_forked(device))
		return -ECHILD;
	pthread_mutex_lock(&device->lock);
	stats = device->stats;
	stats.mapped = device->mapped;
	stats.nodes = device->radix.head->live;
	stats.bytes = radix_memory(&device->radix);
	pthread_mutex_unlock(&device->lock);
	for (unsigned int i = 0; i < MISS_SHARDS; i++)
		stats.misses += load_relaxed(&device->misses[i].n);
	return opts_write(ret_stats, ret_stats->sz, &stats, sizeof(stats), sizeof(stats.sz));
}
