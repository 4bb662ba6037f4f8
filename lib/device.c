/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Device page tables
 *
 * Model
 *   A table (common/radix.h, linear) of what one device may use of one target, and
 *   the device itself, which is told of each change by the operations.  One lock is
 *   around both, so what the device was told and what the table says are the same
 *   for whoever has it.  Lookups do without, see device-tlb.c.
 *
 * Locks
 *   ctx->lock, then device->lock: a reaction runs inside a dispatch.  So with
 *   device->lock nothing is called that dispatches; mirror_read_retry() does not.
 *
 * Order of a removal (a downgrade, a move)
 *   1. `generation` becomes odd: what threads remember is not used any more
 *   2. the device is told
 *   3. the table changes
 *   4. the device is told that the batch is over
 *   5. `generation` becomes even
 *
 *   Once would not do.  Counted before step 2 only, a lookup that misses between 1
 *   and 3 finds the entry in the table still, and would remember it together with
 *   the new generation, for ever; counted after step 3 only, others would use what
 *   they remember after the device was told.  While it is odd, nothing of the table
 *   is remembered: lookups wait for the lock.
 *
 * Memory
 *   The table has a memfd, of which only what is used costs anything, and nodes that
 *   were freed give theirs back.  Its name is one that is never watched: the
 *   process whose table it is may be the target itself, and changing the table would
 *   be a change of the target.  A child of fork() does not get it: everything looks
 *   at ctx_forked() first, also after each operation, which may have forked.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include "memfd.h"
#include "device-private.h"

#define BYTES_MIN (1ULL << 20)
#define BYTES_MAX (1ULL << 36)		/* unless asked for */
#define NODES_MAX (1U << 28)
#define NODES_FOR_MOVE 32		/* two for each end of both ranges, and to spare */

/* ---- telling the device ---- */

struct mirror_device_range device_range_of(const struct radix_run *run)
{
	return (struct mirror_device_range) {
		.start = run->start,
		.end = run->end,
		.address = run->entry & ~MIRROR_ENTRY_FLAGS,
		.rights = (uint32_t)(run->entry & MIRROR_DEVICE_RIGHTS),
		.flags = (uint32_t)(run->entry & (ENTRY_AGE | MIRROR_DEVICE_USER)),
	};
}

static int tell(struct mirror_device *device, const struct mirror_device_range *range,
		void (*op)(struct mirror_device *device, const struct mirror_device_range *range,
			   void *userdata))
{
	device->told = true;
	if (op)
		op(device, range, device->userdata);
	return device_forked(device) ? -ECHILD : 0;
}

static int tell_map(struct mirror_device *device, const struct radix_run *run)
{
	struct mirror_device_range range = device_range_of(run);

	device->mapped += run->end - run->start;
	return tell(device, &range, device->ops.map);
}

static int tell_unmap(struct mirror_device *device, const struct radix_run *run)
{
	struct mirror_device_range range = device_range_of(run);

	range.rights = 0;
	device->mapped -= run->end - run->start;
	return tell(device, &range, device->ops.unmap);
}

static int tell_downgrade(struct mirror_device *device, const struct radix_run *run,
			  uint64_t rights)
{
	struct mirror_device_range range = device_range_of(run);

	range.rights &= ~(uint32_t)rights;
	if (!range.rights) {
		device->stats.unmaps++;
		return tell_unmap(device, run);
	}
	device->stats.downgrades++;
	return tell(device, &range, device->ops.downgrade);
}

void device_begin(struct mirror_device *device)
{
	pthread_mutex_lock(&device->lock);
	device->told = false;
}

/* Step 1 above, once in a batch. */
static void removal_begin(struct mirror_device *device)
{
	if (device->generation & 1)
		return;
	store_relaxed(&device->generation, device->generation + 1);
	/* Pairs with the acquire fence of lookup_fast(): who finds the table changed
	 * finds this changed. */
	full_fence();
}

int device_end(struct mirror_device *device, int r)
{
	if (r != -ECHILD && device->told) {
		device->stats.flushes++;
		if (device->ops.flush)
			device->ops.flush(device, device->userdata);
		if (device_forked(device))
			r = -ECHILD;
	}
	if (r != -ECHILD) {
		__atomic_fetch_add(&device->ctx->ring.cons->device_bytes,
				   device->mapped - device->shown, __ATOMIC_RELAXED);
		device->shown = device->mapped;
	}
	/* Release: pairs with the acquire of lookup_fast(); the table has changed. */
	if (device->generation & 1)
		store_release(&device->generation, device->generation + 1);
	pthread_mutex_unlock(&device->lock);
	return r;
}

/* ---- changing the table ---- */

/*
 * Without a node to split a leaf with, the table has to take the whole leaf: what
 * was taken beyond the range, [a, b) at one end of it.  @entry is that of @at.
 */
static bool taken_beyond(struct radix_run *ret_run, uint64_t a, uint64_t b, uint64_t entry,
			 uint64_t at)
{
	if (a >= b || !entry)
		return false;
	*ret_run = (struct radix_run) { .start = a, .end = b, .entry = entry + (a - at) };
	return true;
}

static int drop_beyond(struct mirror_device *device, uint64_t a, uint64_t b, uint64_t entry,
		       uint64_t at)
{
	struct radix_run run;

	if (!taken_beyond(&run, a, b, entry, at))
		return 0;
	device->stats.unmaps++;
	return tell_unmap(device, &run);
}

int device_drop(struct mirror_device *device, uint64_t start, uint64_t end, bool trim)
{
	struct radix *radix = &device->radix;
	uint64_t first = radix_get(radix, start), last = radix_get(radix, end - PAGE_BYTES);
	struct radix_hull hull;
	struct radix_run run;
	int r;

	for (uint64_t at = start; at < end && radix_next(radix, at, end, &run); at = run.end) {
		removal_begin(device);
		device->stats.unmaps++;
		r = tell_unmap(device, &run);
		if (r < 0)
			return r;
	}
	radix_clear(radix, start, end, trim, &hull);
	r = drop_beyond(device, hull.start, start, first, start);
	return r < 0 ? r : drop_beyond(device, end, hull.end, last, end - PAGE_BYTES);
}

static int take_beyond(struct mirror_device *device, uint64_t a, uint64_t b, uint64_t entry,
		       uint64_t at, uint64_t rights)
{
	struct radix_run run;

	if (!(entry & rights) || !taken_beyond(&run, a, b, entry, at))
		return 0;
	return tell_downgrade(device, &run, rights);
}

/* Takes @rights away. */
int device_take(struct mirror_device *device, uint64_t start, uint64_t end, uint64_t rights)
{
	struct radix *radix = &device->radix;
	uint64_t first = radix_get(radix, start), last = radix_get(radix, end - PAGE_BYTES);
	struct radix_hull hull;
	struct radix_run run;
	bool any = false;
	int r;

	for (uint64_t at = start; at < end && radix_next(radix, at, end, &run); at = run.end) {
		if (!(run.entry & rights))
			continue;
		any = true;
		removal_begin(device);
		r = tell_downgrade(device, &run, rights);
		if (r < 0)
			return r;
	}
	if (!any)
		return 0;
	radix_downgrade(radix, start, end, rights, MIRROR_DEVICE_RIGHTS, &hull);
	r = take_beyond(device, hull.start, start, first, start, rights);
	if (r < 0)
		return r;
	return take_beyond(device, end, hull.end, last, end - PAGE_BYTES, rights);
}

/* For the device a move is: these are gone, and those are there. */
int device_shift(struct mirror_device *device, uint64_t from, uint64_t to, uint64_t len)
{
	struct radix *radix = &device->radix;
	struct radix_run run;
	bool any = false;
	int r, moved;

	r = device_drop(device, to, to + len, false);
	if (r < 0)
		return r;
	/* with fewer it could take leaves that lie across an end, and does not say so */
	if (radix->head->n_nodes - radix->head->live < NODES_FOR_MOVE) {
		r = device_drop(device, from, from + len, true);
		return r < 0 ? r : -ENOSPC;
	}
	for (uint64_t at = from; at < from + len && radix_next(radix, at, from + len, &run);
	     at = run.end) {
		any = true;
		removal_begin(device);
		r = tell_unmap(device, &run);
		if (r < 0)
			return r;
	}
	if (!any)
		return 0;
	device->stats.moves++;
	moved = radix_move(radix, from, to, len);
	for (uint64_t at = to; at < to + len && radix_next(radix, at, to + len, &run);
	     at = run.end) {
		r = tell_map(device, &run);
		if (r < 0)
			return r;
	}
	return moved;
}

static bool is_same(uint64_t a, uint64_t b)
{
	return !((a ^ b) & ~ENTRY_AGE);
}

/* What is as it should be stays, and so does what the device has marked there. */
static int fill(struct mirror_device *device, uint64_t start, uint64_t end, uint64_t entry)
{
	struct radix *radix = &device->radix;
	struct radix_run run, hole;
	bool found;
	int r;

	for (uint64_t at = start; at < end && radix_next(radix, at, end, &run); at = run.end) {
		if (is_same(run.entry, entry + (run.start - start)))
			continue;
		r = device_drop(device, run.start, run.end, false);
		if (r < 0)
			return r;
	}
	for (uint64_t at = start; at < end; at = found ? run.end : end) {
		found = radix_next(radix, at, end, &run);
		hole = (struct radix_run) {
			.start = at, .end = found ? run.start : end, .entry = entry + (at - start),
		};
		if (hole.start == hole.end)
			continue;
		r = radix_fill(radix, hole.start, hole.end, hole.entry);
		if (r == 0)
			r = tell_map(device, &hole);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Runs of @entries by which the device finds pages one after the other. */
static int fill_pages(struct mirror_device *device, uint64_t start, uint64_t end,
		      const uint64_t *entries)
{
	uint64_t n = (end - start) / PAGE_BYTES, next;
	int r = 0;

	for (uint64_t i = 0; r == 0 && i < n; i = next) {
		for (next = i + 1; next < n && entries[i] && entries[next] ==
		     entries[i] + (next - i) * PAGE_BYTES; next++)
			;
		if (entries[i])
			r = fill(device, start + i * PAGE_BYTES, start + next * PAGE_BYTES,
				 entries[i] | MIRROR_ENTRY_VALID);
	}
	return r;
}

/* By @entries, or if that is NULL from @entry on. */
static int map_locked(struct mirror_device *device, uint64_t start, uint64_t end, uint64_t entry,
		      const uint64_t *entries, uint64_t version)
{
	int r;

	if (device->frozen)
		return -ESRCH;
	/*
	 * Under the lock that the reaction takes: it has run already, and then this
	 * says so, or it comes after us and finds what we map.
	 */
	if (mirror_read_retry(device->notifier, start, end, version)) {
		device->stats.retries++;
		return ctx_is_dead(device->ctx) ? -EPIPE : -EAGAIN;
	}
	r = entries ? fill_pages(device, start, end, entries) : fill(device, start, end, entry);
	if (r == -ECHILD)
		return r;
	if (r < 0) {
		int q = device_drop(device, start, end, true);

		return q < 0 ? q : r;
	}
	device->stats.maps++;
	return 0;
}

MIRROR_PUBLIC int mirror_device_map(struct mirror_device *device, uint64_t start, uint64_t end,
				    uint64_t address, uint32_t rights, uint64_t version)
{
	if (device_forked(device))
		return -ECHILD;
	if (!device_covers(device, start, end) || address % PAGE_BYTES ||
	    address + (end - start - 1) < address)
		return -EINVAL;
	if (rights & ~(uint32_t)RIGHTS_KNOWN || !(rights & MIRROR_DEVICE_RIGHTS))
		return -EINVAL;
	device_begin(device);
	return device_end(device, map_locked(device, start, end,
					     address | rights | MIRROR_ENTRY_VALID, NULL,
					     version));
}

MIRROR_PUBLIC int mirror_device_map_pages(struct mirror_device *device, uint64_t start,
					  uint64_t end, const uint64_t *entries, uint64_t version)
{
	if (device_forked(device))
		return -ECHILD;
	if (!device_covers(device, start, end))
		return -EINVAL;
	for (uint64_t i = 0; i < (end - start) / PAGE_BYTES; i++)
		if (entries[i] && (entries[i] & MIRROR_ENTRY_FLAGS & ~RIGHTS_KNOWN ||
				   !(entries[i] & MIRROR_DEVICE_RIGHTS)))
			return -EINVAL;
	device_begin(device);
	return device_end(device, map_locked(device, start, end, 0, entries, version));
}

MIRROR_PUBLIC int mirror_device_unmap(struct mirror_device *device, uint64_t start, uint64_t end)
{
	if (device_forked(device))
		return -ECHILD;
	if (!device_covers(device, start, end))
		return -EINVAL;
	device_begin(device);
	return device_end(device, device_drop(device, start, end, true));
}

MIRROR_PUBLIC int mirror_device_downgrade(struct mirror_device *device, uint64_t start,
					  uint64_t end, uint32_t rights)
{
	if (device_forked(device))
		return -ECHILD;
	if (!device_covers(device, start, end) || rights & ~(uint32_t)MIRROR_DEVICE_RIGHTS)
		return -EINVAL;
	device_begin(device);
	return device_end(device, device_take(device, start, end, MIRROR_DEVICE_RIGHTS & ~rights));
}

MIRROR_PUBLIC int mirror_device_move(struct mirror_device *device, uint64_t from, uint64_t to,
				     uint64_t len)
{
	if (device_forked(device))
		return -ECHILD;
	if (len > USER_END || from > USER_END || to > USER_END ||
	    !device_covers(device, from, from + len) || !device_covers(device, to, to + len) ||
	    ranges_overlap(from, from + len, to, to + len))
		return -EINVAL;
	device_begin(device);
	return device_end(device, device_shift(device, from, to, len));
}

MIRROR_PUBLIC struct mirror_notifier *mirror_device_get_notifier(struct mirror_device *device)
{
	return device->notifier;
}

/* ---- coming and going ---- */

static void discard(struct radix *radix, void *memory, size_t size)
{
	struct mirror_device *device = radix->userdata;
	off_t at = (char *)memory - (char *)device->memory;

	if (fallocate(device->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)size) < 0)
		memset(memory, 0, size);
}

static int make_table(struct mirror_device *device, uint64_t max_bytes)
{
	unsigned int levels = device->end <= 1ULL << 48 ? 4 : 5;
	uint64_t range = device->end - device->start, n;
	int r;

	if (!max_bytes)
		max_bytes = MIN(MAX(range / 64, BYTES_MIN), BYTES_MAX);
	n = MIN(max_bytes / PAGE_BYTES, NODES_MAX);
	n -= n / 256;		/* about what the tags take */
	while (n && radix_bytes((uint32_t)n) > max_bytes)
		n--;
	if (!n)
		return -EINVAL;
	device->size = radix_bytes((uint32_t)n);
	r = memfd_new("mirror-device", device->size, &device->fd);
	if (r < 0)
		return r;
	device->fd = fd_hide(device->ctx, device->fd);
	device->memory = mmap(NULL, device->size, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_NORESERVE, device->fd, 0);
	if (device->memory == MAP_FAILED) {
		device->memory = NULL;
		return -errno;
	}
	if (madvise(device->memory, device->size, MADV_DONTFORK) < 0)
		return -errno;
	madvise(device->memory, device->size, MADV_DONTDUMP);
	r = radix_init(&device->radix, device->memory, (uint32_t)n, levels,
		       device->target->info.target, true);
	if (r < 0)
		return r;
	device->radix.discard = discard;
	device->radix.userdata = device;
	return 0;
}

static int make_seen(struct mirror_device *device)
{
	uint32_t n = device->target->gate.n_stripes;

	device->seen = calloc(n, sizeof(*device->seen));
	if (!device->seen)
		return -ENOMEM;
	memset(device->seen, 0xff, n * sizeof(*device->seen));	/* in step with nothing */
	return 0;
}

MIRROR_PUBLIC struct mirror_device *mirror_device_free(struct mirror_device *device)
{
	struct mirror_target *target;
	bool forked;

	if (!device)
		return NULL;
	target = device->target;
	forked = device_forked(device);
	if (!guard_remove(&device->guard, forked))
		return NULL;
	device->notifier = mirror_notifier_remove(device->notifier);
	if (!forked && device->radix.head) {
		int r = 0;

		device_begin(device);
		if (device->mapped)
			r = device_drop(device, device->start, device->end, false);
		r = device_end(device, r);
		if (r == -ECHILD)	/* an operation forked; this is the child */
			return NULL;
	}
	if (!forked) {	/* there, it would be told to who watches the child */
		radix_deinit(&device->radix);
		if (device->memory)
			munmap(device->memory, device->size);
		pthread_mutex_destroy(&device->lock);
	}
	fd_close(device->fd);
	free(device->seen);
	free(device);
	mirror_target_unref(target);
	return NULL;
}

static int device_alloc(struct mirror_device **ret_device, struct mirror_target *target,
			uint64_t start, uint64_t end)
{
	struct mirror_device *device;

	device = calloc(1, sizeof(*device));
	if (!device)
		return -ENOMEM;
	device->target = mirror_target_ref(target);
	device->ctx = target->ctx;
	device->start = start;
	device->end = end;
	device->strict = target->strict;
	device->fd = -1;
	pthread_mutex_init(&device->lock, NULL);
	list_init(&device->guard.link);
	guard_add(&device->guard, &device->fd, 1);
	*ret_device = device;
	return 0;
}

static int read_args(const struct mirror_device_ops *user_ops,
		     const struct mirror_device_opts *user_opts,
		     struct mirror_device_ops *ops, struct mirror_device_opts *opts)
{
	int r;

	*ops = (struct mirror_device_ops) { .sz = sizeof(*ops) };
	*opts = (struct mirror_device_opts) MIRROR_DEVICE_OPTS_INIT;
	r = user_ops ? opts_read(ops, sizeof(*ops), user_ops, user_ops->sz) : 0;
	if (r == 0 && user_opts)
		r = opts_read(opts, sizeof(*opts), user_opts, user_opts->sz);
	if (r < 0)
		return r;
	if (opts->flags || opts->__reserved)
		return -E2BIG;
	for (unsigned int i = 0; i < ARRAY_SIZE(opts->reaction); i++)
		if (opts->reaction[i] >= MIRROR_REACTIONS)
			return -E2BIG;
	return 0;
}

MIRROR_PUBLIC int mirror_device_new(struct mirror_device **ret_device,
				    struct mirror_target *target, uint64_t start, uint64_t end,
				    const struct mirror_device_ops *ops,
				    const struct mirror_device_opts *opts, void *userdata)
{
	static const struct mirror_notifier_ops notifier_ops = {
		.sz = sizeof(notifier_ops), .invalidate = device_react,
	};
	_cleanup_(mirror_device_freep) struct mirror_device *device = NULL;
	struct mirror_device_opts o;
	struct mirror_device_ops p;
	int r;

	r = ctx_check(target->ctx);
	if (r == 0)
		r = read_args(ops, opts, &p, &o);
	if (r == 0 && !range_is_valid(start, end))
		r = -EINVAL;
	if (r == 0 && !ring_is_mapped(&target->ctx->ring))
		r = -ENOTCONN;
	if (r == 0)
		r = device_alloc(&device, target, start, end);
	if (r < 0)
		return r;
	device->ops = p;
	device->userdata = userdata;
	device->owner = o.owner;
	memcpy(device->reaction, o.reaction, sizeof(o.reaction));
	r = make_seen(device);
	if (r == 0)
		r = make_table(device, o.max_bytes);
	if (r == 0)
		r = mirror_notifier_insert(&device->notifier, target, start, end, &notifier_ops,
					   device);
	if (r < 0)
		return r;
	*ret_device = TAKE_PTR(device);
	return 0;
}
