/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/notifier.h"

void notifier_link(struct notifier_set *set, struct notifier *n)
{
	interval_insert(&set->tree, &n->interval, n->start, n->end);
}

void notifier_unlink(struct notifier_set *set, struct notifier *n)
{
	interval_remove(&set->tree, &n->interval);
}

bool notifier_set_hull(const struct notifier_set *set, uint64_t start, uint64_t end,
		       uint64_t *ret_start, uint64_t *ret_end)
{
	uint64_t from = 0, to = 0;

	interval_for_each(i, &set->tree, start, end) {
		if (!to)
			from = MAX(i->start, start);	/* the first one begins lowest */
		to = MAX(to, MIN(i->end, end));
		if (to == end)
			break;	/* it cannot grow any more */
	}
	*ret_start = from;
	*ret_end = to;
	return to > from;
}
