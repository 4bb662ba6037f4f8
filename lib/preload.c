/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The preload object
 *
 * With MIRROR_PRELOAD=1 the program it is loaded into hands a userfaultfd to the
 * daemon before main() runs, with all its mappings registered, and registers new
 * ones as it makes them (preload-hooks.c).  The hooks detect nothing: that stays
 * with the kernel, which cannot be bypassed.  What they miss, system calls made
 * directly and those inside libc, is armed later, by lookups or by the daemon.
 *
 * The program comes first.  If there is no daemon, or it refuses, or takes too
 * long, the program runs on as if we were not there.
 *
 * A child of fork() is a process like any other and attaches again.  If the
 * daemon follows forks it has the child's userfaultfd already, and lends it.
 */
#include <stdio.h>
#include <string.h>
#include "mirror-private.h"
#include "preload.h"

#define PATIENCE_MS 2000

/* Set once in each process.  The hooks may run in a signal handler. */
static struct mirror_target *the_target;

static bool env_is_one(const char *name)
{
	const char *value = secure_getenv(name);

	return value && !strcmp(value, "1");
}

static void complain(const char *what, int r)
{
	char line[128];
	ssize_t n;
	int length;

	if (!env_is_one("MIRROR_DEBUG"))
		return;
	length = snprintf(line, sizeof(line), "libmirror-preload: %s: %s\n", what,
			  strerrordesc_np(-r));
	n = write(STDERR_FILENO, line, MIN((size_t)length, sizeof(line) - 1));
	(void)n;
}

static int start(void)
{
	struct mirror_open_opts open_opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_attach_opts attach_opts = MIRROR_ATTACH_OPTS_INIT;
	_cleanup_(mirror_ctx_unrefp) struct mirror_ctx *ctx = NULL;
	struct mirror_target *target;
	int r;

	open_opts.flags = MIRROR_OPEN_NO_RING | MIRROR_OPEN_NO_EMBEDDED;
	r = ctx_open(&ctx, &open_opts, PATIENCE_MS);
	if (r < 0) {
		complain("cannot reach mirrord", r);
		return r;
	}
	attach_opts.flags = MIRROR_ATTACH_ARM_ALL;
	r = mirror_target_attach_self(&target, ctx, &attach_opts);
	if (r < 0) {
		complain("cannot attach", r);
		return r;
	}
	/* first the hooks, then what there is: nothing is made in between */
	store_release(&the_target, target);
	r = arm_everything(target);
	if (r < 0)
		complain("cannot read /proc/self/maps", r);
	return 0;
}

static void start_in_child(void)
{
	struct mirror_target *target = the_target;
	int saved = errno;

	store_release(&the_target, NULL);
	mirror_target_unref(target);	/* the parent's: gives back memory only */
	start();
	errno = saved;
}

__attribute__((__constructor__)) static void preload_init(void)
{
	int saved = errno;

	/* after the library's own handler, which closes what the child inherited */
	if (env_is_one("MIRROR_PRELOAD") && start() == 0)
		pthread_atfork(NULL, NULL, start_in_child);
	errno = saved;
}

/* NULL also in a child that has not got its own yet: what it has is its parent's. */
static struct mirror_target *current_target(void)
{
	/* Acquire: pairs with the release in start(); the object is complete. */
	struct mirror_target *target = load_acquire(&the_target);

	return target && !ctx_forked(target->ctx) ? target : NULL;
}

void preload_mapped(const void *address, size_t length)
{
	struct mirror_target *target = current_target();
	uint64_t start_address = (uintptr_t)address;
	int saved = errno;

	if (target)
		arm_new(target, start_address, start_address + length);
	errno = saved;
}

void preload_attached(const void *address)
{
	struct mirror_target *target = current_target();
	uint64_t start_address = (uintptr_t)address;
	int saved = errno;

	if (target)
		arm_range(target, start_address, start_address + PAGE_BYTES);
	errno = saved;
}
