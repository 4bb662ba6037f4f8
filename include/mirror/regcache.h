/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef MIRROR_REGCACHE_H
#define MIRROR_REGCACHE_H

/*
 * Registration cache: what RDMA and MPI libraries write themselves otherwise
 *
 * Registering memory with a device is slow, so registrations are kept after use and
 * found again by address.  That is only correct if a registration is never found
 * once its memory has changed, which is what this cache is for.
 *
 *		r = mirror_regcache_get(cache, start, end, rights, &region);
 *		if (r < 0)
 *			return r;
 *		post(region->handle, ...);	// and wait until the device is done
 *		mirror_regcache_put(cache, region);
 *
 * A region that was invalidated is never returned again, is deregistered when its
 * last user puts it, and never under a lock that a thread of the target could wait
 * for.  A hit takes no lock and no system call, but for the probe of a target that was
 * attached with MIRROR_ATTACH_STRICT.
 *
 * Registered memory is taken to be pinned: a region survives when rights of single pages
 * change, for fork() or for tracking.  Since Linux 5.12 a parent's pinned pages stay
 * its own when it forks.  Who registers without pinning must flush after fork().
 */

#include <mirror/common.h>
#include <mirror/mirror.h>

MIRROR_BEGIN_DECLS

struct mirror_regcache;

/* Rights of a region; a region with more of them serves a call for fewer. */
#define MIRROR_REGION_READ	0x1
#define MIRROR_REGION_WRITE	0x2
#define MIRROR_REGION_USER	0xff00 /* the caller's, compared likewise */

/**
 * struct mirror_region - one registration; read-only, valid between get and put
 * @start: first byte, page aligned; can be less than was asked for
 * @end: first byte after it
 * @rights: MIRROR_REGION_*
 * @handle: what register returned
 */
struct mirror_region {
	uint64_t	start;
	uint64_t	end;
	uint32_t	rights;
	uint32_t	__reserved;
	void		*handle;
};

/**
 * struct mirror_regcache_ops - how memory is registered
 * @sz: size of this struct
 * @register_region: registers [@region->start, @region->end) with @region->rights;
 *	returns 0 and sets @region->handle, or a negative errno, which get returns
 * @deregister_region: the opposite; must succeed
 *
 * Both are called from threads that call functions of the cache, or mirror_dispatch()
 * or mirror_wait(), without any lock of libmirror's, possibly several at a time.  They
 * may change memory, the region's included.  They must not call functions of the cache.
 *
 * At a limit, and to flush, a thread waits for others that are deregistering, so
 * functions of the cache must not be called under a lock that these two take.
 */
struct mirror_regcache_ops {
	size_t	sz;
	int	(*register_region)(struct mirror_region *region, void *userdata);
	void	(*deregister_region)(struct mirror_region *region, void *userdata);
};

/* mirror_regcache_opts.flags */
#define MIRROR_REGCACHE_NO_MERGE	0x1 /* never register more than is asked for */

/**
 * struct mirror_regcache_opts - options of mirror_regcache_new()
 * @sz: size of this struct
 * @flags: MIRROR_REGCACHE_*
 * @max_regions: registrations kept at most, those in use included; 0 for 65536
 * @max_bytes: bytes registered at most; 0 for no limit
 *
 * At a limit those idle for longest go.  If all are in use, get fails with -ENOSPC.
 */
struct mirror_regcache_opts {
	size_t		sz;
	uint32_t	flags;
	uint32_t	max_regions;
	uint64_t	max_bytes;
};

#define MIRROR_REGCACHE_OPTS_INIT { sizeof(struct mirror_regcache_opts), 0, 0, 0 }

/**
 * mirror_regcache_new() - make an empty cache of registrations of @target's memory
 * @ret_cache: new cache, the caller's
 * @target: target
 * @ops: copied
 * @opts: options, or NULL
 * @userdata: for @ops
 *
 * Return: 0; -EINVAL; -E2BIG; -ENOTCONN for a context without a ring; -ENOMEM;
 * -EMFILE; -EFBIG if RLIMIT_FSIZE is too low; -ECHILD; -EPIPE.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_regcache_new(struct mirror_regcache **ret_cache, struct mirror_target *target,
			const struct mirror_regcache_ops *ops,
			const struct mirror_regcache_opts *opts, void *userdata);

/**
 * mirror_regcache_free() - deregister everything, and free the cache
 * @cache: cache or NULL; no region may be in use
 *
 * In a child of fork() nothing is deregistered: the registrations are the parent's.
 * Not to be called from a callback of a notifier.
 *
 * Return: NULL.  Since 0.1.
 */
struct mirror_regcache *mirror_regcache_free(struct mirror_regcache *cache);

/**
 * mirror_regcache_get() - find or make a registration
 * @cache: cache
 * @start: first byte, need not be aligned
 * @end: first byte after the range
 * @rights: MIRROR_REGION_*
 * @ret_region: a region that holds the range and has the rights; it is good for the
 *	range.  Give it back with mirror_regcache_put().
 *
 * On a miss a region is registered that also takes in the regions it overlaps,
 * unless NO_MERGE or that fails; those are deregistered when they are not in use any
 * more.  As in mirror_read_begin(), callbacks of other notifiers may run.
 *
 * Return: 0; what register_region returned; -EAGAIN if the range kept changing;
 * -ENOSPC; -EFAULT if it is not mapped; -EOPNOTSUPP or -EBUSY if it cannot be watched;
 * -EDEADLK for a miss in a callback of a notifier; -EINVAL; -ESRCH; -EPIPE; -ECHILD;
 * -EDQUOT; -ENOMEM.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_regcache_get(struct mirror_regcache *cache, uint64_t start, uint64_t end,
			uint32_t rights, const struct mirror_region **ret_region);

/**
 * mirror_regcache_put() - give a region back
 * @cache: cache
 * @region: region or NULL
 *
 * From a callback of a notifier too; what is to be deregistered then waits until
 * mirror_dispatch() is at its end, or another function of the cache is called.
 *
 * Return: NULL.  Since 0.1.
 */
const struct mirror_region *mirror_regcache_put(struct mirror_regcache *cache,
						const struct mirror_region *region);

/**
 * mirror_regcache_flush() - deregister everything that is not in use
 *
 * Return: how many; -ECHILD.  Since 0.1.
 */
int mirror_regcache_flush(struct mirror_regcache *cache);

/**
 * struct mirror_regcache_stats - counters of a cache
 * @sz: size of this struct
 * @regions: regions now
 * @idle: of these, not in use
 * @bytes: bytes registered now
 * @hits: gets answered from the cache
 * @misses: gets answered by a new registration
 * @invalidated: regions invalidated by changes
 * @evicted: regions dropped at a limit
 * @merged: regions replaced by others that overlap
 * @registered: calls of register_region that succeeded
 * @deregistered: calls of deregister_region
 */
struct mirror_regcache_stats {
	size_t		sz;
	uint64_t	regions;
	uint64_t	idle;
	uint64_t	bytes;
	uint64_t	hits;
	uint64_t	misses;
	uint64_t	invalidated;
	uint64_t	evicted;
	uint64_t	merged;
	uint64_t	registered;
	uint64_t	deregistered;
};

/** mirror_regcache_get_stats() - Return: 0 or -E2BIG.  Since 0.1. */
int mirror_regcache_get_stats(struct mirror_regcache *cache,
			      struct mirror_regcache_stats *ret_stats);

MIRROR_END_DECLS

#endif /* MIRROR_REGCACHE_H */
