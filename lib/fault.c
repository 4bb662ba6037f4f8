/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Faulting
 *
 * Model
 *   What mirror_fault() tells is good as long as its version is, so all of it has to
 *   be looked up after the version was taken, and in memory that is watched:
 *
 *	1. take the version V of the whole range, once it is quiet
 *	2. arm what is mapped
 *	3. look at the page table; where a page is missing, fault it in, look again
 *	4. has V moved?  Again, from 1.
 *
 *   Steps 2 and 3 go from extent to extent, and in an extent from piece to piece:
 *
 *	range	[------------------------------------------------------)
 *	extent	[-------------------)	 [------)	[---------------)   armed
 *	piece	[-------)-------)---)	 [------)	[-------)-------)   looked at
 *			^ progress()  ^ hole
 *
 *   A snapshot steps over what lies between extents (its entries are 0: nobody would
 *   tell of a change there).  A fault ends there, and whatever ends a call, what comes
 *   before has been looked up in full.  It needs a version of its own, a sum over
 *   other stripes than V is:
 *
 *	us				daemon
 *	V = version of [start, end)
 *	look up [start, done)
 *					started++
 *	W = sum over [start, done)
 *	V is still good?  no: again
 *
 *   W counts nothing that V does not, or V would not be good: the stripes of W are
 *   among those of V, and what was loaded later cannot be older.
 *
 * Looking and faulting
 *   To read, a page that is there is not faulted: it may be many of them, and for
 *   another process it would undo sharing after fork().  To write, all are, first: a
 *   page that was shared after fork() and is mapped but once again looks like our own,
 *   but is write-protected still, and the next store copies it if anybody has a
 *   reference to it at that moment, and of that nobody tells.  Faulting says little of
 *   how far it got, and a page may be taken away again before we look.  So the page table has the
 *   last word: as long as the first page that is lacking moves on we go on, and if it
 *   does not for some rounds, it cannot be had.
 *
 *   Nothing here waits for the daemon while it faults: a userfaultfd that only watches
 *   holds changes, not faults.
 *
 *   In a target with the kernel source our own faults may move V (a copy is a change).
 *   The next time nothing is lacking, so it ends.
 */
#include <mirror/fault.h>
#include <sys/mman.h>
#include "pagescan.h"
#include "procfs.h"
#include "mirror-private.h"

#define KNOWN (MIRROR_FAULT_READ | MIRROR_FAULT_WRITE | MIRROR_FAULT_NODES)
#define ROUNDS 16		/* how often V may move */
#define FAULT_TRIES 4		/* how often a page may be lacking after it was faulted in */
#define PIECE_BYTES (64ULL << 20)

#ifndef MADV_POPULATE_READ	/* 5.14 */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define NONE UINT64_MAX

struct faulter {
	struct mirror_notifier *notifier;
	struct mirror_target *target;
	struct mirror_fault ask;	/* the caller's; @done and @version are ours */
	uint64_t need;			/* MIRROR_PTE_* that each entry must have; 0: a snapshot */
	struct pagescan scan;
	uint64_t version;		/* V */
	bool moved;			/* V has */
	bool stopped;			/* by progress() */
	bool piecewise;			/* arming all at one go failed */
	uint64_t lack;			/* the first page of the last look that is to be had */
	int why;			/* what ended it */
	int fault_error;		/* of the last attempt to fault in */
};

/* Errors of a mapping's, not of the call's. */
static bool is_of_mapping(int r)
{
	return r == -EFAULT || r == -EOPNOTSUPP || r == -EBUSY;
}

/*
 * How far from @at on everything is armed.  If that is not the end: why, and where
 * what is the matter there ends.
 */
static int arm_extent(struct faulter *f, uint64_t at, uint64_t *ret_end, uint64_t *ret_next,
		      int *ret_why)
{
	uint64_t end = f->ask.end, to;
	unsigned int tries = 0;
	struct vma vma;
	int r;

	*ret_next = *ret_end = end;
	*ret_why = 0;
	if (!f->piecewise) {
		r = arm_range(f->target, at, end);
		if (r == 0 || !(is_of_mapping(r) || r == -E2BIG))
			return r;
		f->piecewise = true;
	}
	for (; at < end; at = to) {
		r = vma_find(f->scan.maps_fd, f->scan.pid, at, &vma);
		if (r < 0 && r != -ENOENT)
			return r;
		to = r < 0 ? end : MIN(vma.start > at ? vma.start : vma.end, end);
		if (r < 0 || vma.start > at)
			r = -EFAULT;
		else if (vma.special)
			r = -EOPNOTSUPP;
		else
			r = arm_range(f->target, at, to);
		if (r == -EFAULT && vma.start <= at && tries++ < FAULT_TRIES) {
			to = at;	/* it went while we looked */
			continue;
		}
		if (r < 0 && !is_of_mapping(r))
			return r;
		if (r < 0) {
			*ret_end = at;
			*ret_next = to;
			*ret_why = r;
			return 0;
		}
	}
	return 0;
}

/* As far as it goes.  Negative if it is no use to look again. */
static int fault_in(struct faulter *f, uint64_t start, uint64_t end)
{
	bool write = f->ask.flags & MIRROR_FAULT_WRITE;
	int r;

	f->fault_error = 0;
	if (!f->scan.pid) {
		r = madvise((void *)(uintptr_t)start, end - start,
			    write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
		if (r == 0 || errno != EINVAL) {
			f->fault_error = r < 0 ? -errno : 0;
			return 0;
		}
		/* the kernel is too old, or the mapping is a device's: that tells */
	}
	return fault_remote(f->target, f->scan.pid, start, end, write);
}

static int why_not(const struct faulter *f, const struct pagescan_run *run)
{
	uint64_t rights = f->need & (MIRROR_PTE_READ | MIRROR_PTE_WRITE);

	if (!run->mapped)
		return -EFAULT;
	if (run->special)
		return -EOPNOTSUPP;
	return (run->rights & rights) == rights ? 0 : -EACCES;
}

static void set_entries(const struct faulter *f, uint64_t start, uint64_t end, uint64_t entry)
{
	uint64_t i = (start - f->ask.start) / PAGE_BYTES, n = (end - f->ask.start) / PAGE_BYTES;

	if (f->ask.entries)
		for (; i < n; i++)
			f->ask.entries[i] = entry;
}

static int on_run(const struct pagescan_run *run, void *userdata)
{
	struct faulter *f = userdata;

	set_entries(f, run->start, run->end, run->entry);
	if (!f->need)
		return 0;
	f->why = why_not(f, run);
	if (f->why < 0)
		return 1;
	if ((run->entry & f->need) == f->need)
		return 0;
	if (f->lack == NONE)
		f->lack = run->start;
	return fault_in(f, run->start, run->end);
}

/* Why a page cannot be had although its mapping would allow it. */
static int why_lacking(const struct faulter *f, uint64_t at)
{
	if (f->fault_error == -ENOMEM)
		return -ENOMEM;
	return fault_is_device(f->scan.pid, at) ? -EOPNOTSUPP : -EFAULT;
}

/* Has [@at, end) in the page table, or everything up to ask.done, and tells why. */
static int fault_piece(struct faulter *f, uint64_t at, uint64_t end)
{
	unsigned int tries = 0;
	int r, why = 0;

	if (f->need & MIRROR_PTE_WRITE) {
		f->ask.done = at;
		r = fault_in(f, at, end);
		if (r < 0)
			return r;
	}
	while (at < end) {
		f->lack = NONE;
		r = pagescan_range(&f->scan, at, end, 0, on_run, f, &f->ask.done);
		if (r < 0) {
			f->ask.done = MIN(f->ask.done, f->lack);
			return r;
		}
		if (r > 0) {
			end = f->ask.done;
			why = f->why;
		}
		if (f->lack == NONE)
			break;
		tries = f->lack == at ? tries + 1 : 1;
		at = f->lack;
		if (tries > FAULT_TRIES) {
			f->ask.done = at;
			return why_lacking(f, at);
		}
	}
	f->ask.done = end;
	return why;
}

static bool has_moved(struct faulter *f)
{
	f->moved = lookup_moved(f->notifier, f->ask.start, f->ask.end, f->version);
	return f->moved;
}

static int do_extent(struct faulter *f, uint64_t start, uint64_t end)
{
	uint64_t at;
	int r;

	for (at = start; at < end; at = f->ask.done) {
		if (f->need)
			r = fault_piece(f, at, MIN(end, at + PIECE_BYTES));
		else
			r = pagescan_range(&f->scan, at, end, PIECE_BYTES / PAGE_BYTES, on_run, f,
					   &f->ask.done);
		if (r != 0)
			return r;
		if (f->ask.done < f->ask.end) {
			if (has_moved(f))
				return -EAGAIN;
			r = f->ask.progress ? f->ask.progress(f->ask.done, f->ask.userdata) : 0;
			f->stopped = r;
			if (r != 0)
				return r;
		}
	}
	return 0;
}

static int do_extents(struct faulter *f)
{
	uint64_t at, end, next;
	int r, why;

	for (at = f->ask.start; at < f->ask.end; at = f->ask.done = next) {
		r = arm_extent(f, at, &end, &next, &why);
		if (r == 0)
			r = do_extent(f, at, end);
		if (r != 0)
			return r;
		if (why && f->need) {
			f->ask.done = end;
			return why;
		}
		set_entries(f, end, next, 0);
	}
	return 0;
}

/* Once from the beginning.  f->moved: it was in vain. */
static int do_round(struct faulter *f)
{
	int r;

	f->moved = f->piecewise = false;
	f->ask.done = f->ask.start;
	f->ask.version = 0;
	r = lookup_begin(f->notifier, f->ask.start, f->ask.end, &f->version);
	if (r == 0)
		r = fault_open(f->target, &f->scan);
	if (r < 0)
		return r;
	f->scan.exclusive = f->ask.entries || f->need & MIRROR_PTE_WRITE;
	f->scan.nodes = f->ask.flags & MIRROR_FAULT_NODES;
	r = do_extents(f);
	if (f->moved)
		return r;
	f->ask.version = f->version;
	if (f->ask.done < f->ask.end)
		f->ask.version = lookup_sum(f->notifier, f->ask.start, f->ask.done);
	has_moved(f);
	return r;
}

static int check(const struct mirror_notifier *n, struct mirror_fault *ask,
		 const struct mirror_fault *user)
{
	int r;

	if (user->sz < offsetof(struct mirror_fault, progress))
		return -EINVAL;
	r = opts_read(ask, sizeof(*ask), user, user->sz);
	if (r < 0)
		return r;
	if (ask->flags & ~(uint32_t)KNOWN || ask->__reserved)
		return -E2BIG;
	if (!range_is_valid(ask->start, ask->end) || ask->start < n->start || ask->end > n->end)
		return -EINVAL;
	return 0;
}

MIRROR_PUBLIC int mirror_fault(struct mirror_notifier *notifier, struct mirror_fault *fault)
{
	struct faulter f = { .notifier = notifier, .target = notifier->target };
	int r;

	if (ctx_forked(f.target->ctx))
		return -ECHILD;
	r = check(notifier, &f.ask, fault);
	if (r < 0)
		return r;
	if (f.ask.flags & (MIRROR_FAULT_READ | MIRROR_FAULT_WRITE))
		f.need = MIRROR_PTE_PRESENT | MIRROR_PTE_READ;
	if (f.ask.flags & MIRROR_FAULT_WRITE)
		f.need |= MIRROR_PTE_WRITE;
	for (unsigned int i = 0; i < ROUNDS; i++) {
		r = do_round(&f);
		if (!f.moved || f.stopped)
			break;
	}
	if (f.moved) {
		f.ask.done = f.ask.start;
		f.ask.version = 0;
		r = f.stopped ? r : -EAGAIN;
	}
	fault->done = f.ask.done;
	fault->version = f.ask.version;
	return r;
}
