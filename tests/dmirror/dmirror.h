/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/* A device that is not there, see dmirror.c. */

#include <mirror/device.h>
#include <mirror/fault.h>
#include <stdbool.h>

struct dmirror;
struct dmirror_queue;

/* How the device finds its translations. */
enum dmirror_walk {
	DMIRROR_WALK_TLB,	/* asks libmirror's table at each access, which validates */
	DMIRROR_WALK_HARDWARE,	/* has a table of its own, as the callbacks left it */
};

/* How it does it wrong, so that tests can be seen to fail. */
enum dmirror_broken {
	DMIRROR_BROKEN_NOT,
	DMIRROR_BROKEN_UNMAP,		/* does not listen to unmap */
	DMIRROR_BROKEN_DOWNGRADE,	/* nor to downgrade */
	DMIRROR_BROKEN_VALIDATE,	/* uses what it has without asking */
	DMIRROR_BROKEN_VERSION,		/* takes the version after the page was looked up */
};

/**
 * struct dmirror_opts - what kind of device
 * @walk: &enum dmirror_walk
 * @broken: &enum dmirror_broken
 * @eager: takes every page for writing if it may
 * @careful: lives with a source that does not tell of copies made on write: is eager,
 *	and drops everything at a fork
 * @vouched: the target changes its memory by one thread: what is moved may be moved
 * @between: called after the driver has looked pages up, before it enters them
 * @userdata: for @between
 */
struct dmirror_opts {
	unsigned int walk;
	unsigned int broken;
	bool eager;
	bool careful;
	bool vouched;
	void (*between)(void *userdata);
	void *userdata;
};

int dmirror_new(struct dmirror **ret_dm, struct mirror_target *target, uint64_t start,
		uint64_t end, const struct dmirror_opts *opts);
struct dmirror *dmirror_free(struct dmirror *dm);
/* Frees libmirror's part.  What the device was told can still be asked. */
void dmirror_stop(struct dmirror *dm);
/* Pages of this file can be reached. */
int dmirror_add_file(struct dmirror *dm, int fd);
struct mirror_device *dmirror_device(struct dmirror *dm);

/* Commands come by queues; one thread uses one.  Freed before the device. */
int dmirror_queue_new(struct dmirror_queue **ret_q, struct dmirror *dm);
struct dmirror_queue *dmirror_queue_free(struct dmirror_queue *q);

/**
 * struct dmirror_cmd - one command
 * @address: first byte, of the target's
 * @buffer: what is read or written, or a byte of DMIRROR_PAGE_* for each page
 * @bytes: how many
 * @n_done: out: bytes done
 * @n_faults: out: how often the device had to ask for pages
 */
struct dmirror_cmd {
	uint64_t	address;
	void		*buffer;
	uint64_t	bytes;
	uint64_t	n_done;
	uint64_t	n_faults;
};

/*
 * 0, or why it stopped at n_done: -EFAULT if nothing is mapped, -EACCES if that is
 * not allowed, -ESRCH after the end of the target, -EPIPE, ...  A read through a
 * translation that is stale fills the buffer with DMIRROR_GARBAGE, as a real one
 * fills it with what is there now.
 */
int dmirror_read(struct dmirror_queue *q, struct dmirror_cmd *cmd);
int dmirror_write(struct dmirror_queue *q, struct dmirror_cmd *cmd);
/* What the CPU has, without touching it. */
int dmirror_snapshot(struct dmirror_queue *q, struct dmirror_cmd *cmd);

#define DMIRROR_GARBAGE		0xdb

#define DMIRROR_PAGE_PRESENT	0x1
#define DMIRROR_PAGE_WRITE	0x2
#define DMIRROR_PAGE_ZERO	0x4
#define DMIRROR_PAGE_HUGE	0x8
#define DMIRROR_PAGE_FILE	0x10

/* ---- what the device was told ---- */

/* How many translations it was told to forget, in that range; moved ones too. */
uint64_t dmirror_invalidations(struct dmirror *dm, uint64_t start, uint64_t end);
/* Pages that its own table holds now. */
uint64_t dmirror_mapped(struct dmirror *dm);

/**
 * struct dmirror_told - counters
 * @maps: ranges mapped
 * @unmaps: ranges unmapped
 * @downgrades: ranges downgraded
 * @events: by type
 * @contradictions: what it was told does not fit what it was told before
 * @stale: accesses that went to a page that the target does not have there any more
 */
struct dmirror_told {
	uint64_t maps;
	uint64_t unmaps;
	uint64_t downgrades;
	uint64_t events[MIRROR_EVENT_TYPES];
	uint64_t contradictions;
	uint64_t stale;
};

struct dmirror_told dmirror_told(struct dmirror *dm);

/* Does its own table say the same as libmirror's?  The number of differences. */
int dmirror_compare(struct dmirror *dm);
