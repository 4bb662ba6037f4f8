/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Operations times kinds of memory, by one way of having a device
 *
 *	scenarios WAY		all of them; WAY is one of the table below
 *	scenarios --prove	devices that are broken: that is found out
 *	... NAME ...		of these, those whose name holds one of the NAMEs
 *
 * --broken=WHAT breaks the device of all scenarios, to see what that does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "scenario.h"

static const struct way ways[] = {
	{ "lookup", DMIRROR_WALK_TLB, 0, false, false },
	{ "hardware", DMIRROR_WALK_HARDWARE, 0, false, false },
	{ "strict", DMIRROR_WALK_TLB, 0, false, true },
	{ "remote", DMIRROR_WALK_TLB, 0, true, false },
	{ "remote-hardware", DMIRROR_WALK_HARDWARE, 0, true, false },
};

static const char *const broken_names[] = {
	[DMIRROR_BROKEN_UNMAP]		= "unmap",
	[DMIRROR_BROKEN_DOWNGRADE]	= "downgrade",
	[DMIRROR_BROKEN_VALIDATE]	= "validate",
	[DMIRROR_BROKEN_VERSION]	= "version",
};

static const struct scenario *const suites[] = {
	access_scenarios, unmap_scenarios, remap_scenarios, process_scenarios,
};

struct one {
	const struct scenario *scenario;
	unsigned int type;
	const struct way *way;
	bool vouched;
};

static void run_one(const void *arg)
{
	const struct one *one = arg;
	struct env e;

	if (one->scenario->flags & OWN_MEMORY)
		env_begin_target(&e, one->type, one->way, one->vouched);
	else
		env_begin(&e, one->type, one->way, one->vouched);
	one->scenario->run(&e);
	env_end(&e);
}

static bool is_chosen(const char *name, char **names)
{
	if (!*names)
		return true;
	for (; *names; names++)
		if (strstr(name, *names))
			return true;
	return false;
}

static void run_if_chosen(struct one *one, char **names)
{
	char name[160];

	for (unsigned int i = 0; i < 2; i++) {
		one->vouched = i;
		if (one->vouched && !(one->scenario->flags & MOVES))
			continue;
		snprintf(name, sizeof(name), "%s: %s%s", memory_names[one->type],
			 one->scenario->name, one->vouched ? ", vouched for" : "");
		if (is_chosen(name, names))
			tap_case(name, run_one, one);
	}
}

static void run_all(const struct way *way, char **names)
{
	struct one one = { .way = way };

	for (unsigned int i = 0; i < ARRAY_LENGTH(suites); i++) {
		for (one.scenario = suites[i]; one.scenario->name; one.scenario++) {
			if (one.scenario->flags & ONLY_REMOTE && !way->remote)
				continue;
			for (one.type = 0; one.type < MEMORY_TYPES; one.type++)
				if (one.scenario->types & BIT(one.type))
					run_if_chosen(&one, names);
		}
	}
}

/* ---- proof that the scenarios can fail ---- */

struct proof {
	unsigned int broken;
	unsigned int walk;
	unsigned int type;
	const char *scenario;
};

static const struct proof proofs[] = {
	{ DMIRROR_BROKEN_UNMAP, DMIRROR_WALK_HARDWARE, MEMORY_ANON, "munmap" },
	{ DMIRROR_BROKEN_UNMAP, DMIRROR_WALK_HARDWARE, MEMORY_MEMFD, "munmap" },
	{ DMIRROR_BROKEN_UNMAP, DMIRROR_WALK_HARDWARE, MEMORY_ANON, "mmap over it" },
	{ DMIRROR_BROKEN_UNMAP, DMIRROR_WALK_HARDWARE, MEMORY_MEMFD, "mmap over it" },
	{ DMIRROR_BROKEN_UNMAP, DMIRROR_WALK_HARDWARE, MEMORY_FILE_PRIVATE, "mmap over it" },
	{ DMIRROR_BROKEN_UNMAP, DMIRROR_WALK_HARDWARE, MEMORY_FILE_SHARED,
	  "mmap over it, the device writes" },
	{ DMIRROR_BROKEN_UNMAP, DMIRROR_WALK_HARDWARE, MEMORY_THP, "MADV_DONTNEED" },
	{ DMIRROR_BROKEN_UNMAP, DMIRROR_WALK_HARDWARE, MEMORY_HUGETLB, "MADV_DONTNEED" },
	{ DMIRROR_BROKEN_UNMAP, DMIRROR_WALK_HARDWARE, MEMORY_MEMFD, "mremap" },
	{ DMIRROR_BROKEN_UNMAP, DMIRROR_WALK_TLB, MEMORY_ANON, "munmap" },
	{ DMIRROR_BROKEN_VALIDATE, DMIRROR_WALK_TLB, MEMORY_ANON, "munmap" },
	{ DMIRROR_BROKEN_VALIDATE, DMIRROR_WALK_TLB, MEMORY_ANON, "mmap over it" },
	{ DMIRROR_BROKEN_VALIDATE, DMIRROR_WALK_TLB, MEMORY_MEMFD,
	  "munmap, and mmap at the same address" },
	{ DMIRROR_BROKEN_VALIDATE, DMIRROR_WALK_TLB, MEMORY_FILE_PRIVATE, "mmap over it" },
	{ DMIRROR_BROKEN_VALIDATE, DMIRROR_WALK_TLB, MEMORY_HUGETLB, "MADV_DONTNEED" },
	{ DMIRROR_BROKEN_VALIDATE, DMIRROR_WALK_HARDWARE, MEMORY_THP,
	  "munmap of a part of a huge page" },
	{ DMIRROR_BROKEN_VERSION, DMIRROR_WALK_TLB, MEMORY_ANON,
	  "mmap over it while it is looked up" },
	{ DMIRROR_BROKEN_VERSION, DMIRROR_WALK_TLB, MEMORY_MEMFD,
	  "mmap over it while it is looked up" },
	{ DMIRROR_BROKEN_VERSION, DMIRROR_WALK_HARDWARE, MEMORY_FILE_PRIVATE,
	  "mmap over it while it is looked up" },
	{ DMIRROR_BROKEN_VERSION, DMIRROR_WALK_TLB, MEMORY_THP,
	  "MADV_DONTNEED while it is looked up" },
	{ DMIRROR_BROKEN_DOWNGRADE, DMIRROR_WALK_HARDWARE, MEMORY_ANON,
	  "the driver takes rights away" },
	{ DMIRROR_BROKEN_DOWNGRADE, DMIRROR_WALK_HARDWARE, MEMORY_HUGETLB,
	  "the driver takes rights away" },
};

static const struct scenario *find_scenario(const char *name)
{
	for (unsigned int i = 0; i < ARRAY_LENGTH(suites); i++)
		for (const struct scenario *s = suites[i]; s->name; s++)
			if (!strcmp(s->name, name))
				return s;
	abort();
}

static void prove(void)
{
	char name[200];

	for (unsigned int i = 0; i < ARRAY_LENGTH(proofs); i++) {
		const struct proof *p = &proofs[i];
		struct way way = { "broken", p->walk, p->broken, false, false };
		struct one one = { find_scenario(p->scenario), p->type, &way, false };

		snprintf(name, sizeof(name), "%s: %s: broken %s, by %s", memory_names[p->type],
			 p->scenario, broken_names[p->broken],
			 p->walk == DMIRROR_WALK_TLB ? "lookup" : "hardware");
		tap_case_must_fail(name, run_one, &one);
	}
}

int main(int argc, char **argv)
{
	struct way way = { NULL, 0, 0, false, false };
	int i;

	if (argc < 2)
		return 2;
	for (unsigned int k = 0; k < ARRAY_LENGTH(ways); k++)
		if (!strcmp(argv[1], ways[k].name))
			way = ways[k];
	for (i = 2; i < argc && !strncmp(argv[i], "--broken=", 9); i++)
		for (unsigned int k = 1; k < ARRAY_LENGTH(broken_names); k++)
			if (!strcmp(argv[i] + 9, broken_names[k]))
				way.broken = k;
	if (!way.name && strcmp(argv[1], "--prove"))
		return 2;
	tap_begin(280);
	env_prepare();
	if (way.name)
		run_all(&way, argv + i);
	else
		prove();
	return tap_end();
}
