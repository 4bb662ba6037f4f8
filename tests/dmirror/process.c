/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes and devices come and go. */
#include <errno.h>
#include <sys/mman.h>
#include "scenario.h"

#define PATIENCE	200	/* times 100 ms */

/* What a child of fork() has where its parent has @generation since. */
static unsigned int of_child(struct env *e, unsigned int generation)
{
	return OF_SHARED & BIT(e->type) ? generation : 1;
}

/* ---- fork ---- */

static void parent_writes(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	cpu_fork(e);
	cpu_fill(e, e->area, e->size, 2, 0);
	device_read(e, e->area, e->size, 2, 0);
	check(cpu_child_has(e, e->area, e->size, of_child(e, 2), 0), "the child's differs");
	device_write(e, e->area, e->size, 3, 0);
	check(cpu_has(e, e->area, e->size, 3, 0), "the CPU does not see it");
	check(cpu_child_has(e, e->area, e->size, of_child(e, 3), 0), "it wrote to the child");
	cpu_child_exit(e);
	device_read(e, e->area, e->size, 3, 0);
}

static void device_writes(struct env *e)
{
	device_write(e, e->area, e->size, 1, 0);
	cpu_fork(e);
	device_write(e, e->area, e->size, 2, 0);
	check(cpu_has(e, e->area, e->size, 2, 0), "the CPU does not see it");
	check(cpu_child_has(e, e->area, e->size, of_child(e, 2), 0), "it wrote to the child");
	cpu_child_exit(e);
	check(cpu_has(e, e->area, e->size, 2, 0), "the CPU does not see it any more");
}

static void child_writes(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	cpu_fork(e);
	cpu_child_fill(e, e->area, e->size, 2);
	device_read(e, e->area, e->size, of_child(e, 2), 0);
	cpu_child_exit(e);
	device_read(e, e->area, e->size, of_child(e, 2), 0);
	cpu_fill(e, e->area, e->size, 3, 0);
	device_read(e, e->area, e->size, 3, 0);
}

static void child_ends(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	cpu_fork(e);
	cpu_child_exit(e);
	device_read(e, e->area, e->size, 1, 0);
	cpu_fill(e, e->area, e->size, 2, 0);
	device_read(e, e->area, e->size, 2, 0);
}

/* By a device as they are; that needs a source that tells of copies. */
static void lazily(struct env *e, void (*run)(struct env *e))
{
	if (!(OF_SHARED & BIT(e->type)))
		need_kernel(e, "write protection and copies of fork");
	map_memory(e, e->area, e->size, 0, 1);
	env_device(e, false);
	run(e);
}

static void carefully(struct env *e, void (*run)(struct env *e))
{
	need_event(e, MIRROR_EVENT_FORK, "fork");
	map_memory(e, e->area, e->size, 0, 1);
	env_device(e, true);
	run(e);
}

#define BOTH_WAYS(_run)								\
static void lazy_##_run(struct env *e) { lazily(e, _run); }			\
static void careful_##_run(struct env *e) { carefully(e, _run); }

BOTH_WAYS(parent_writes)
BOTH_WAYS(device_writes)
BOTH_WAYS(child_writes)
BOTH_WAYS(child_ends)

/* ---- the end ---- */

static void wait_for_release(struct env *e)
{
	/* nobody promises more than to tell it soon after */
	for (unsigned int i = 0; i < PATIENCE; i++) {
		if (dmirror_told(e->dm).events[MIRROR_EVENT_RELEASE])
			return;
		check(mirror_wait(e->ctx, 100) >= 0, "waiting for the end");
	}
	check(false, "the device is not told of the target's end");
}

static void is_frozen(struct env *e)
{
	wait_for_release(e);
	check_is(dmirror_mapped(e->dm), 0, "pages the device has");
	check_is(invalidations(e, e->area, e->size), e->size / PAGE, "invalidations");
	for (unsigned int i = 0; i < 2; i++) {
		device_fails(e, e->area, e->size, false, -ESRCH);
		device_fails(e, e->area, e->size, true, -ESRCH);
	}
	check_is(mirror_device_map(dmirror_device(e->dm), e->area, e->area + PAGE, PAGE,
				   MIRROR_DEVICE_READ, 0), -ESRCH, "mapping after the end");
	check_is(dmirror_told(e->dm).events[MIRROR_EVENT_RELEASE], 1, "ends");
	check_is(dmirror_mapped(e->dm), 0, "pages the device has then");
}

static void target_ends(struct env *e)
{
	device_write(e, e->area, e->size, 2, 0);
	cpu_exit(e);
	is_frozen(e);
}

static void target_execs(struct env *e)
{
	if (!(mirror_target_get_features(e->target) & MIRROR_FEAT_EXEC))
		tap_skip_case("exec cannot be told here");
	device_read(e, e->area, e->size, 1, 0);
	cpu_exec(e);
	is_frozen(e);
}

/* ---- more devices, fewer devices ---- */

static void both_see(struct env *e, struct dmirror **dm, struct dmirror_queue **q,
		     unsigned int generation)
{
	for (unsigned int i = 0; i < 2; i++) {
		device_read(e, e->area, e->size, generation, 0);
		env_swap_device(e, dm, q);
	}
}

/* Careful ones: what one writes first, it copies, and the other must see. */
static void use_both(struct env *e, struct dmirror **dm, struct dmirror_queue **q)
{
	both_see(e, dm, q, 1);
	device_write(e, e->area, e->size, 2, 0);
	both_see(e, dm, q, 2);
	cpu_hold(e, e->area, e->size);
	map_memory(e, e->area, e->size, 2 * e->size, 3);
	both_see(e, dm, q, 3);
	env_swap_device(e, dm, q);
	device_write(e, e->area, e->size, 4, 0);
	both_see(e, dm, q, 4);
	check(cpu_has(e, e->area, e->size, 4, 0), "the CPU does not see it");
	unmap_memory(e, e->area, e->size);
	for (unsigned int i = 0; i < 2; i++) {
		device_fails(e, e->area, e->size, i, -EFAULT);
		check_is(dmirror_mapped(e->dm), 0, "pages a device has");
		check_is(dmirror_compare(e->dm), 0, "differences of the tables");
		check_is(dmirror_told(e->dm).stale, 0, "accesses through stale translations");
		env_swap_device(e, dm, q);
	}
	*q = dmirror_queue_free(*q);
	*dm = dmirror_free(*dm);
}

static void two_devices(struct env *e)
{
	struct dmirror_queue *q;
	struct dmirror *dm;

	map_memory(e, e->area, e->size, 0, 1);
	env_device(e, true);
	q = e->q;
	dm = e->dm;
	env_device(e, true);
	use_both(e, &dm, &q);
}

/* As two libraries in one program that do not know of each other. */
static void two_contexts(struct env *e)
{
	struct mirror_target *target = e->target;
	struct mirror_ctx *ctx = e->ctx;
	struct dmirror_queue *q;
	struct dmirror *dm;

	map_memory(e, e->area, e->size, 0, 1);
	env_device(e, true);
	q = e->q;
	dm = e->dm;
	e->ctx = env_open_ctx();
	env_attach(e);
	env_device(e, true);
	use_both(e, &dm, &q);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

static void teardown(struct env *e)
{
	uint64_t n = e->size / PAGE;

	device_write(e, e->area, e->size, 2, 0);
	e->q = dmirror_queue_free(e->q);
	dmirror_stop(e->dm);
	check_is(dmirror_mapped(e->dm), 0, "pages the device has after its end");
	check_is(invalidations(e, e->area, e->size), n, "invalidations");
	check_is(dmirror_told(e->dm).contradictions, 0, "contradictions");
	e->dm = dmirror_free(e->dm);
	/* what happens when there is none is of no concern to the next */
	map_memory(e, e->area, e->size, 2 * e->size, 3);
	env_device(e, false);
	device_read(e, e->area, e->size, 3, 0);
}

/* The device keeps what it needs of them. */
static void target_let_go_first(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	e->target = mirror_target_unref(e->target);
	e->ctx = mirror_ctx_unref(e->ctx);
	check_is(device_read(e, e->area, e->size, 1, 0), 0, "faults");
	cpu_hold(e, e->area, e->size);
	map_memory(e, e->area, e->size, 2 * e->size, 2);
	device_read(e, e->area, e->size, 2, 0);
}

const struct scenario process_scenarios[] = {
	{ "fork, the parent writes", lazy_parent_writes, OF_ALL, OWN_MEMORY },
	{ "fork, the parent writes, a careful device", careful_parent_writes, OF_ALL, OWN_MEMORY },
	{ "fork, the device writes", lazy_device_writes, OF_ALL, OWN_MEMORY },
	{ "fork, a careful device writes", careful_device_writes, OF_ALL, OWN_MEMORY },
	{ "fork, the child writes", lazy_child_writes, OF_ALL, OWN_MEMORY },
	{ "fork, the child writes, a careful device", careful_child_writes, OF_ALL, OWN_MEMORY },
	{ "fork, the child ends", lazy_child_ends, OF_ALL, OWN_MEMORY },
	{ "fork, the child ends, a careful device", careful_child_ends, OF_ALL, OWN_MEMORY },
	{ "the target ends", target_ends, OF_ALL, ONLY_REMOTE },
	{ "the target becomes another program", target_execs, OF_ALL, ONLY_REMOTE },
	{ "two devices", two_devices, OF_ALL, OWN_MEMORY },
	{ "two devices of two contexts", two_contexts, OF_ALL, OWN_MEMORY },
	{ "the device goes while it has translations", teardown, OF_ALL, 0 },
	{ "target and context are let go before the device", target_let_go_first, OF_ALL, 0 },
	{ NULL, NULL, 0, 0 },
};
