/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Arming: registering mappings with a userfaultfd
 *
 * Whole mappings are registered, never parts: a part would split the mapping, and
 * a process has only so many (65530).  What is already registered stays so.
 */

#include <sys/types.h>
#include "base.h"

struct arm {
	int uffd;	/* borrowed */
	int maps_fd;	/* /proc/PID/maps of that very address space */
	pid_t pid;
};

#define ARM_NULL { .uffd = -1, .maps_fd = -1 }

struct arm_result {
	uint32_t armed;		/* mappings registered now or before */
	uint32_t refused;	/* the kernel lets nobody watch them */
	uint32_t busy;		/* another userfaultfd has them */
	bool hole;		/* part of the range is not mapped */
	uint64_t next;		/* where to go on; @end of the range if it was done */
	struct arm_spans *spans; /* see arm_range_telling() */
};

/* What was registered, in order; neighbours are one. */
#define ARM_SPANS 64
struct arm_spans {
	unsigned int n;
	struct {
		uint64_t start, end;
	} span[ARM_SPANS];
};

/* Mappings registered at one go: a target of very many must not keep others waiting. */
#define ARM_SLICE 2048U

int arm_init(struct arm *arm, pid_t pid, int uffd);
void arm_deinit(struct arm *arm);

/*
 * Registers up to ARM_SLICE mappings, counted in the result.  0; -ESRCH if the
 * address space is gone; or -errno.
 */
int arm_range(struct arm *arm, uint64_t start, uint64_t end, struct arm_result *ret_result);

/* The same, and tells which mappings it registered; stops when *ret_spans is full. */
int arm_range_telling(struct arm *arm, uint64_t start, uint64_t end,
		      struct arm_spans *ret_spans, struct arm_result *ret_result);
