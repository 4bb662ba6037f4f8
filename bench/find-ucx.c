/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * UCX's registration cache, and the page table in it
 *
 * Through what libucs exports, with callbacks that do nothing; no hardware is needed.
 * UCX is told not to put its hooks into munmap() and the like, but to wait for being
 * told, as Open MPI has it: we tell it, with ucm_vm_munmap().
 *
 * ucx-rcache	ucs_rcache_get() and ucs_rcache_region_put()
 * ucx-pgtable	ucs_pgtable_lookup() alone: no lock, no reference, nothing validated
 */

#include <limits.h>
#include <ucm/api/ucm.h>
#include <ucs/datastruct/pgtable.h>
#include <ucs/memory/rcache.h>
#include <unistd.h>
#include "find.h"

static ucs_rcache_t *cache;
static ucs_pgtable_t table;
static uint64_t n_registered, n_deregistered, n_others;

static void must_ucs(ucs_status_t status, const char *what)
{
	if (status != UCS_OK)
		fail("%s: %s", what, ucs_status_string(status));
}

/* Its hooks are put in when it is loaded: too late for setenv() alone. */
static void without_hooks(char **argv)
{
	const char *mode = getenv("UCX_MEM_MMAP_HOOK_MODE");

	if (mode && !strcmp(mode, "none"))
		return;
	setenv("UCX_MEM_MMAP_HOOK_MODE", "none", 1);
	execv("/proc/self/exe", argv);
	skip("cannot start anew without UCX's hooks: %s", strerror(errno));
}

/* ---- the cache ---- */

static ucs_status_t do_register(void *context, ucs_rcache_t *rcache, void *arg,
				ucs_rcache_region_t *region, uint16_t flags)
{
	(void)context;
	(void)rcache;
	(void)arg;
	(void)region;
	(void)flags;
	__atomic_fetch_add(&n_registered, 1, __ATOMIC_RELAXED);
	return UCS_OK;
}

static void do_deregister(void *context, ucs_rcache_t *rcache, ucs_rcache_region_t *region)
{
	(void)context;
	(void)rcache;
	(void)region;
	__atomic_fetch_add(&n_deregistered, 1, __ATOMIC_RELAXED);
}

static void do_dump(void *context, ucs_rcache_t *rcache, ucs_rcache_region_t *region, char *buf,
		    size_t max)
{
	(void)context;
	(void)rcache;
	(void)region;
	if (max)
		*buf = 0;
}

static size_t rcache_look_up(unsigned int thread, char *const *pages, size_t n)
{
	ucs_rcache_region_t *region;
	size_t n_found = 0;

	(void)thread;
	for (size_t i = 0; i < n; i++) {
		if (ucs_rcache_get(cache, pages[i], PAGE, PROT_READ | PROT_WRITE, NULL,
				   &region) != UCS_OK)
			continue;
		n_found += region->super.start <= (uintptr_t)pages[i] &&
			   (uintptr_t)pages[i] + PAGE <= region->super.end;
		ucs_rcache_region_put(cache, region);
	}
	return n_found;
}

static void rcache_start(char **argv, char *memory, size_t bytes)
{
	static const ucs_rcache_ops_t ops = {
		.mem_reg = do_register, .mem_dereg = do_deregister, .dump_region = do_dump,
	};
	ucs_rcache_params_t params = {
		.region_struct_size = sizeof(ucs_rcache_region_t),
		.alignment = PAGE,
		.max_alignment = PAGE,
		.ucm_events = UCM_EVENT_VM_UNMAPPED,
		.ucm_event_priority = 1000,
		.ops = &ops,
		.flags = UCS_RCACHE_FLAG_NO_PFN_CHECK,
		.max_regions = ULONG_MAX,
		.max_size = SIZE_MAX,
		.max_unreleased = SIZE_MAX,
	};

	(void)memory;
	(void)bytes;
	without_hooks(argv);
	ucm_set_external_event(UCM_EVENT_VM_UNMAPPED);
	must_ucs(ucs_rcache_create(&params, "bench", NULL, &cache), "ucs_rcache_create");
}

static void rcache_add(char *page, size_t n)
{
	for (size_t i = 0; i < n; i++, page += PAGE)
		if (rcache_look_up(0, &page, 1) != 1)
			fail("cannot add region %zu", i);
	if (n_registered != n)
		fail("%zu regions, but %llu registrations", n, (unsigned long long)n_registered);
}

static uint64_t rcache_registered(void)
{
	return __atomic_load_n(&n_registered, __ATOMIC_RELAXED) -
	       __atomic_load_n(&n_others, __ATOMIC_RELAXED);
}

static uint64_t rcache_deregistered(void)
{
	return __atomic_load_n(&n_deregistered, __ATOMIC_RELAXED);
}

/* What is dropped in there, it deregisters when it next registers something else. */
static void rcache_gone(char *start, size_t bytes)
{
	char *other = other_page();

	ucm_vm_munmap(start, bytes);
	rcache_look_up(0, &other, 1);
	__atomic_fetch_add(&n_others, 1, __ATOMIC_RELAXED);
}

/* ---- the table ---- */

static ucs_pgt_dir_t *new_dir(const ucs_pgtable_t *pgtable)
{
	(void)pgtable;
	return aligned_alloc(64, (sizeof(ucs_pgt_dir_t) + 63) & ~63UL);
}

static void free_dir(const ucs_pgtable_t *pgtable, ucs_pgt_dir_t *dir)
{
	(void)pgtable;
	free(dir);
}

static void pgtable_start(char **argv, char *memory, size_t bytes)
{
	(void)memory;
	(void)bytes;
	without_hooks(argv);
	must_ucs(ucs_pgtable_init(&table, new_dir, free_dir), "ucs_pgtable_init");
}

static void pgtable_add(char *page, size_t n)
{
	ucs_pgt_region_t *regions = calloc(n, sizeof(*regions));

	if (!regions)
		fail("out of memory");
	for (size_t i = 0; i < n; i++) {
		regions[i].start = (uintptr_t)page + i * PAGE;
		regions[i].end = regions[i].start + PAGE;
		must_ucs(ucs_pgtable_insert(&table, &regions[i]), "ucs_pgtable_insert");
	}
}

static size_t pgtable_look_up(unsigned int thread, char *const *pages, size_t n)
{
	size_t n_found = 0;

	(void)thread;
	for (size_t i = 0; i < n; i++)
		n_found += ucs_pgtable_lookup(&table, (uintptr_t)pages[i]) != NULL;
	return n_found;
}

const struct find find_ucx_rcache = {
	.name = "ucx-rcache", .start = rcache_start, .add = rcache_add,
	.look_up = rcache_look_up, .registered = rcache_registered,
	.deregistered = rcache_deregistered, .gone = rcache_gone,
};

const struct find find_ucx_pgtable = {
	.name = "ucx-pgtable", .start = pgtable_start, .add = pgtable_add,
	.look_up = pgtable_look_up,
};
