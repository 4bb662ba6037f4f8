/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * libfabric's registration cache: fi_mr_reg() and fi_close() of what it holds already
 * are its get and put.  Its search function is not exported; what is around it here, the
 * provider's, is little.
 */

#include "fabric.h"
#include "find.h"
#include "stub-verbs.h"

static uint64_t n_others;

static void fabric_start(char **argv, char *memory, size_t bytes)
{
	char text[32];

	(void)argv;
	(void)memory;
	snprintf(text, sizeof(text), "%zu", bytes / PAGE + 4096);
	setenv("FI_MR_CACHE_MAX_COUNT", text, 1);
	snprintf(text, sizeof(text), "%zu", bytes + (1UL << 30));
	setenv("FI_MR_CACHE_MAX_SIZE", text, 1);
	fabric_open(-1);
}

static size_t fabric_look_up(unsigned int thread, char *const *pages, size_t n)
{
	(void)thread;
	for (size_t i = 0; i < n; i++)
		fabric_use(pages[i], PAGE);
	return n;
}

static void fabric_add(char *page, size_t n)
{
	uint64_t before = stub_registered();

	for (size_t i = 0; i < n; i++)
		fabric_use(page + i * PAGE, PAGE);
	if (stub_registered() != before + n)
		fail("%zu regions, but %llu registrations", n,
		     (unsigned long long)(stub_registered() - before));
}

/* What its monitor dropped, it deregisters when it next registers something else. */
static void fabric_gone(char *start, size_t bytes)
{
	(void)start;
	(void)bytes;
	fabric_use(other_page(), PAGE);
	__atomic_fetch_add(&n_others, 1, __ATOMIC_RELAXED);
}

static uint64_t fabric_registered(void)
{
	return stub_registered() - __atomic_load_n(&n_others, __ATOMIC_RELAXED);
}

const struct find find_fabric = {
	.name = "fabric", .start = fabric_start, .add = fabric_add, .look_up = fabric_look_up,
	.registered = fabric_registered, .deregistered = stub_deregistered, .gone = fabric_gone,
	.never_stale = true,
};
