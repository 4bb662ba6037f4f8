/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <search.h>
#include <stdlib.h>
#include "pids.h"

struct pid_entry {
	uint32_t target;
	pid_t pid;
};

static int entry_compare(const void *a, const void *b)
{
	const struct pid_entry *x = a, *y = b;

	return (x->target > y->target) - (x->target < y->target);
}

void pids_deinit(struct pids *pids)
{
	tdestroy(pids->root, free);
	pids->root = NULL;
}

void pids_set(struct pids *pids, uint32_t target, pid_t pid)
{
	struct pid_entry *entry, **found;

	entry = malloc(sizeof(*entry));
	if (!entry)
		return;
	entry->target = target;
	entry->pid = pid;

	/* without memory a pid is missing from a line, which is no reason to stop */
	found = tsearch(entry, &pids->root, entry_compare);
	if (found && *found == entry)
		return;

	if (found)
		(*found)->pid = pid;
	free(entry);
}

pid_t pids_get(const struct pids *pids, uint32_t target)
{
	struct pid_entry key = { .target = target };
	struct pid_entry **found;

	found = tfind(&key, &pids->root, entry_compare);

	return found ? (*found)->pid : 0;
}

void pids_forget(struct pids *pids, uint32_t target)
{
	struct pid_entry key = { .target = target };
	struct pid_entry **found, *entry;

	found = tfind(&key, &pids->root, entry_compare);
	if (!found)
		return;

	entry = *found;
	tdelete(&key, &pids->root, entry_compare);
	free(entry);
}
