/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "interval.h"
#include "unit.h"

#define N 300
#define SPAN 4096

static uint64_t rnd_state = 88172645463325252ULL;

static uint64_t rnd(uint64_t below)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return rnd_state % below;
}

/* What the tree says is what looking at every range says, in order of start. */
static void compare(const struct interval_tree *tree, const struct interval *nodes)
{
	uint64_t start = rnd(SPAN), end = start + 1 + rnd(SPAN / 4), last = 0;
	unsigned int expected = 0, found = 0;

	for (int i = 0; i < N; i++)
		expected += nodes[i].linked &&
			    ranges_overlap(nodes[i].start, nodes[i].end, start, end);
	interval_for_each(n, tree, start, end) {
		ck_assert(n->linked);
		ck_assert(ranges_overlap(n->start, n->end, start, end));
		ck_assert_uint_ge(n->start, last);
		last = n->start;
		found++;
	}
	ck_assert_uint_eq(found, expected);
}

START_TEST(random_operations)
{
	static struct interval nodes[N];
	struct interval_tree tree = INTERVAL_TREE_NULL;
	size_t n = 0;

	for (int step = 0; step < 40000; step++) {
		struct interval *node = &nodes[rnd(N)];

		if (node->linked) {
			interval_remove(&tree, node);
			n--;
		} else {
			uint64_t start = rnd(SPAN);

			interval_insert(&tree, node, start, start + 1 + rnd(SPAN / 8));
			n++;
		}
		ck_assert_uint_eq(tree.n, n);
		if (step % 4 == 0)
			compare(&tree, nodes);
	}
}
END_TEST

START_TEST(empty_and_twice)
{
	struct interval_tree tree = INTERVAL_TREE_NULL;
	struct interval node = { .linked = false };

	ck_assert_ptr_null(interval_first(&tree, 0, UINT64_MAX));
	interval_insert(&tree, &node, 10, 20);
	ck_assert_ptr_null(interval_first(&tree, 0, 10));
	ck_assert_ptr_null(interval_first(&tree, 20, 30));
	ck_assert_ptr_eq(interval_first(&tree, 19, 20), &node);
	interval_remove(&tree, &node);
	interval_remove(&tree, &node);
	ck_assert_uint_eq(tree.n, 0);
	ck_assert_ptr_null(interval_first(&tree, 0, UINT64_MAX));
}
END_TEST

/* Balanced: a walk over sorted input must not be as deep as the input is long. */
START_TEST(sorted_input_stays_flat)
{
	static struct interval nodes[5000];
	struct interval_tree tree = INTERVAL_TREE_NULL;
	unsigned int deepest = 0;

	for (size_t i = 0; i < 5000; i++)
		interval_insert(&tree, &nodes[i], i, i + 1);
	for (size_t i = 0; i < 5000; i++) {
		unsigned int depth = 0;

		for (struct interval *n = &nodes[i]; n; n = n->parent)
			depth++;
		deepest = depth > deepest ? depth : deepest;
	}
	ck_assert_uint_lt(deepest, 64);
}
END_TEST

UNIT_MAIN("interval", random_operations, empty_and_twice, sorted_input_stays_flat)
