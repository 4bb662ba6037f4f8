/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <assert.h>
#include "interval.h"

static uint32_t next_priority(struct interval_tree *tree)
{
	uint32_t x = tree->seed ? tree->seed : 2463534242U;

	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return tree->seed = x;
}

static uint64_t max_end(const struct interval *n)
{
	uint64_t m = n->end;

	if (n->left && n->left->max_end > m)
		m = n->left->max_end;
	if (n->right && n->right->max_end > m)
		m = n->right->max_end;
	return m;
}

static void update_path(struct interval *n)
{
	for (; n; n = n->parent)
		n->max_end = max_end(n);
}

static void replace_child(struct interval_tree *tree, struct interval *parent,
			  struct interval *old, struct interval *new)
{
	if (!parent)
		tree->root = new;
	else if (parent->left == old)
		parent->left = new;
	else
		parent->right = new;
	if (new)
		new->parent = parent;
}

/* Lifts @n above its parent; the order of starts stays. */
static void rotate_up(struct interval_tree *tree, struct interval *n)
{
	struct interval *p = n->parent;

	replace_child(tree, p->parent, p, n);
	if (p->left == n) {
		p->left = n->right;
		if (n->right)
			n->right->parent = p;
		n->right = p;
	} else {
		p->right = n->left;
		if (n->left)
			n->left->parent = p;
		n->left = p;
	}
	p->parent = n;
	p->max_end = max_end(p);
	n->max_end = max_end(n);
}

void interval_insert(struct interval_tree *tree, struct interval *node, uint64_t start,
		     uint64_t end)
{
	struct interval **link = &tree->root, *parent = NULL;

	assert(!node->linked && start < end);
	*node = (struct interval) {
		.start = start, .end = end, .max_end = end,
		.priority = next_priority(tree), .linked = true,
	};
	while (*link) {
		parent = *link;
		link = start < parent->start ? &parent->left : &parent->right;
	}
	*link = node;
	node->parent = parent;
	update_path(parent);
	while (node->parent && node->parent->priority < node->priority)
		rotate_up(tree, node);
	tree->n++;
}

void interval_remove(struct interval_tree *tree, struct interval *node)
{
	struct interval *parent;

	if (!node->linked)
		return;
	while (node->left || node->right) {
		if (!node->right ||
		    (node->left && node->left->priority > node->right->priority))
			rotate_up(tree, node->left);
		else
			rotate_up(tree, node->right);
	}
	parent = node->parent;
	replace_child(tree, parent, node, NULL);
	update_path(parent);
	node->parent = NULL;
	node->linked = false;
	tree->n--;
}

/* The first node at or below @n, in order, that touches the range. */
static struct interval *first_below(struct interval *n, uint64_t start, uint64_t end)
{
	while (n && n->max_end > start) {
		if (n->left && n->left->max_end > start) {
			/*
			 * Something on the left ends late enough.  If none of that begins
			 * before @end, then nothing here and on the right does either.
			 */
			n = n->left;
			continue;
		}
		if (n->start >= end)
			return NULL;
		if (n->end > start)
			return n;
		n = n->right;
	}
	return NULL;
}

struct interval *interval_first(const struct interval_tree *tree, uint64_t start, uint64_t end)
{
	return first_below(tree->root, start, end);
}

struct interval *interval_next(struct interval *n, uint64_t start, uint64_t end)
{
	struct interval *hit;

	for (;;) {
		hit = first_below(n->right, start, end);
		if (hit)
			return hit;
		while (n->parent && n->parent->right == n)
			n = n->parent;
		n = n->parent;
		if (!n || n->start >= end)
			return NULL;
		if (n->end > start)
			return n;
	}
}
