/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Placement: where the daemon's thread runs, and whether it sleeps at once
 *
 * A target waits until its event has been read, so what counts is how fast we run
 * after it blocked, and it after us.  Measured on two processors, one page munmap:
 *
 *	target bound to a processor, we on the same one		  6 us
 *	target free, we free, both asleep in turn		 62 us (two wake-ups of
 *								 a halted processor)
 *	target free, we bound to where it ran last		 65 us: the kernel wakes it
 *								 on the idle processor
 *	target free, we look for the next event for 50 us	 19 us
 *	the same while other programs want the processors	 67 us instead of 18
 *
 * Hence: a target that is bound is followed to the processors it is bound to.  One
 * that is free is left to the scheduler; while its events come fast, and as long as
 * no more threads want to run than there are processors, we look for the next one
 * for a moment before we sleep.
 */

#include <sched.h>
#include <sys/types.h>
#include "base.h"

#define PLACEMENT_SPIN_NS 50000ULL	/* how long we look */
#define PLACEMENT_FAST_NS 200000ULL	/* events closer than this come fast */
#define PLACEMENT_EVENTS 32		/* between looks at where the target may run */
#define PLACEMENT_LOAD_NS 2000000ULL	/* between looks at how busy the machine is */

struct placement {
	cpu_set_t allowed;	/* what we may use at all */
	uint64_t last_ns;	/* of the last event */
	uint64_t load_ns;	/* of the last look at the load */
	uint64_t moves;
	uint32_t events;
	int load_fd;		/* /proc/loadavg, or -1 */
	bool bound;		/* to a part of @allowed, as the target is */
	bool has_room;		/* a processor would idle if we slept */
	bool enabled;
};

#define PLACEMENT_NULL { .load_fd = -1 }

void placement_init(struct placement *p, bool enabled);
void placement_deinit(struct placement *p);

/*
 * An event of thread @tid of @pid was handled; @pid 0 if it is not known.  Returns
 * for how many nanoseconds to look for the next one before sleeping.
 */
uint64_t placement_note(struct placement *p, uint64_t now_ns, pid_t pid, pid_t tid);
