/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The part of an address space that a verb is about, and having mirrord look at it
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "truth.h"
#include "who.h"

struct look_range {
	uint64_t start, end;
};

struct look {
	struct who who;
	struct truth truth;		/* mappings as they were when it began */
	struct look_range *ranges;	/* in order; one of everything if none was given */
	size_t n_ranges;
	bool everything;
};

#define LOOK_NULL { .who = WHO_NULL, .truth = TRUTH_NULL }

/*
 * @range: START-END, START+LEN, the name of a mapping, or NULL.  Reports its errors
 * itself; -EINVAL: the range was not understood.
 */
int look_open(struct look *look, const char *range, uint32_t open_flags);
void look_close(struct look *look);

/* Has mirrord look at all of it that is mapped. */
int look_fill(struct look *look);

/* Bytes of it that are mapped. */
uint64_t look_mapped(const struct look *look);

/* 0, or -EINVAL if it is no START-END or START+LEN.  Widened to whole pages. */
int look_parse_range(const char *text, uint64_t *ret_start, uint64_t *ret_end);
