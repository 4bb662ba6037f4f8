/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * A radix and, beside it, a plain array of what each page should be: each operation
 * is done to both, and they are compared.  For the unit test and the fuzzer.
 */

#include "radix.h"

#define MODEL_WINDOWS 3
#define MODEL_PAGES (3ULL << 17) /* of a window: 1.5 GiB */

enum model_kind {
	MODEL_FILL, MODEL_FILL_PAGES, MODEL_CLEAR, MODEL_TRIM, MODEL_DOWNGRADE, MODEL_MARK,
	MODEL_UNMARK, MODEL_TEST, MODEL_MOVE, MODEL_LOOK,
	MODEL_N_KINDS,
};

/* Any value is good for any member. */
struct model_op {
	uint8_t kind;
	uint8_t where;	/* windows */
	uint8_t shape;	/* how range and place are aligned */
	uint8_t value;
	uint32_t start, n, to;
};

struct model;

/* @bits: linear, five levels, no discard.  NULL: no memory. */
struct model *model_new(unsigned int bits, uint32_t n_nodes);
struct model *model_free(struct model *model);
DEFINE_CLEANUP(struct model *, model_free)

/* NULL, or what was wrong.  *steps (may be NULL) grows by the pages concerned. */
const char *model_apply(struct model *model, const struct model_op *op, uint64_t *steps);

/* Compares all, and looks at the rules of the radix. */
const char *model_check(struct model *model);

/* Empties it and looks whether nodes and memory are gone. */
const char *model_end(struct model *model);
