/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Interval tree
 *
 * A set of half-open ranges that may overlap, which finds those that a range
 * touches in O(log n + hits).  A treap: a binary tree by start, kept balanced by
 * random heap priorities, each node knowing the largest end below it.  Nodes are
 * embedded in their owners; no allocation, hence no failure.
 */

#include "base.h"

struct interval {
	uint64_t start, end;
	uint64_t max_end;		/* of this node and all below */
	struct interval *left, *right, *parent;
	uint32_t priority;
	bool linked;
};

struct interval_tree {
	struct interval *root;
	size_t n;
	uint32_t seed;
};

#define INTERVAL_TREE_NULL { .root = NULL, .n = 0, .seed = 2463534242U }

void interval_insert(struct interval_tree *tree, struct interval *node, uint64_t start,
		     uint64_t end);
void interval_remove(struct interval_tree *tree, struct interval *node);

/* In order of start.  Until the walk is over the tree must not change. */
struct interval *interval_first(const struct interval_tree *tree, uint64_t start, uint64_t end);
struct interval *interval_next(struct interval *node, uint64_t start, uint64_t end);

#define interval_for_each(_node, _tree, _start, _end)				\
	for (struct interval *_node = interval_first(_tree, _start, _end); _node; \
	     _node = interval_next(_node, _start, _end))
