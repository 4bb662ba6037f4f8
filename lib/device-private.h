/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A device page table inside
 *
 * device.c owns it and changes it, device-react.c does so for events, device-tlb.c
 * looks up without a lock, device-age.c keeps its accessed and dirty bits.
 */

#include <mirror/device.h>
#include <mirror/table.h>
#include "mirror-private.h"
#include "radix.h"

/* What a lookup compares and a mapping replaces; the other bits are the device's. */
#define ENTRY_AGE (MIRROR_DEVICE_ACCESSED | MIRROR_DEVICE_DIRTY)
#define RIGHTS_KNOWN (MIRROR_DEVICE_RIGHTS | MIRROR_DEVICE_USER)

#define MISS_SHARDS 8

struct mirror_device {
	/* constant */
	struct mirror_target *target;
	struct mirror_ctx *ctx;			/* the target's */
	struct mirror_notifier *notifier;
	uint64_t start, end;
	bool strict;
	uint64_t owner;
	uint8_t reaction[16];
	struct mirror_device_ops ops;
	void *userdata;

	/*
	 * By stripe: the table is in step with all changes up to this `started`.  See
	 * device-tlb.c.
	 */
	uint64_t *seen;

	/*
	 * Odd while translations are taken away.  Lookups read it all the time, so it
	 * has a cache line of its own; and not in the table's memory, as a child of
	 * fork() may come across it.
	 */
	uint64_t __pad0[8];
	uint64_t generation;
	uint64_t __pad1[7];
	/* by thread, more or less: one word for all would be all that lookups share */
	struct {
		uint64_t n, __pad[7];
	} misses[MISS_SHARDS];

	pthread_mutex_t lock;	/* of all that follows, and of changes to the table */
	struct radix radix;
	void *memory;		/* the table's; a child of fork() does not have it */
	size_t size;
	struct guard guard;
	int fd;			/* of the memory */
	bool frozen;
	bool told;		/* the batch has told the device something */
	uint64_t mapped;	/* bytes */
	uint64_t shown;		/* of these, in the ring's device_bytes */
	struct mirror_device_stats stats;

	/* under ctx->lock */
	uint64_t n_events;	/* reacted to */
};

/* device.c; all of these under the lock */

/* The lock, and a batch of changes; -ECHILD: the device told of them forked. */
void device_begin(struct mirror_device *device);
int device_end(struct mirror_device *device, int r);

int device_drop(struct mirror_device *device, uint64_t start, uint64_t end, bool trim);
int device_take(struct mirror_device *device, uint64_t start, uint64_t end, uint64_t rights);
int device_shift(struct mirror_device *device, uint64_t from, uint64_t to, uint64_t len);
struct mirror_device_range device_range_of(const struct radix_run *run);

/* In the device's range, and a range at all? */
static inline bool device_covers(const struct mirror_device *device, uint64_t start, uint64_t end)
{
	return range_is_valid(start, end) && start >= device->start && end <= device->end;
}

static inline bool device_forked(const struct mirror_device *device)
{
	return ctx_forked(device->ctx);
}

/* device-react.c */
void device_react(struct mirror_notifier *notifier, const struct mirror_event *event,
		  void *userdata);

DEFINE_CLEANUP(struct mirror_device *, mirror_device_free)
