/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <sys/mman.h>
#include "session.h"

struct mirror_ctx *session_open(char **argv, uint32_t ring_entries)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_ctx *ctx;

	opts.path = option_text(argv, "socket", NULL);
	opts.flags = MIRROR_OPEN_NO_EMBEDDED;
	opts.ring_entries = ring_entries;
	must(mirror_open(&ctx, &opts), "mirror_open");
	return ctx;
}

struct mirror_target *session_attach(struct mirror_ctx *ctx, uint32_t flags)
{
	struct mirror_attach_opts opts = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_target *target;

	opts.flags = flags;
	must(mirror_target_attach_self(&target, ctx, &opts), "mirror_target_attach_self");
	return target;
}

struct mirror_notifier *session_watch(struct mirror_target *target, const void *start,
				      size_t bytes, change_fn fn, void *userdata)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = fn };
	struct mirror_notifier *notifier;

	must(mirror_notifier_insert(&notifier, target, (uintptr_t)start,
				    (uintptr_t)start + bytes, &ops, userdata),
	     "mirror_notifier_insert");
	return notifier;
}

void session_arm(struct mirror_target *target, const void *start, size_t bytes)
{
	must(mirror_target_arm(target, (uintptr_t)start, (uintptr_t)start + bytes),
	     "mirror_target_arm");
}

uint64_t session_events(struct mirror_ctx *ctx, struct mirror_target *target)
{
	struct mirror_target_info info = { .size = sizeof(info) };

	must(mirror_query_target(ctx, mirror_target_get_id(target), 0, &info),
	     "mirror_query_target");
	return info.events;
}

void session_stats(struct mirror_ctx *ctx, struct mirror_stats *ret_stats)
{
	*ret_stats = (struct mirror_stats) { .size = sizeof(*ret_stats) };
	must(mirror_daemon_get_stats(ctx, ret_stats), "mirror_daemon_get_stats");
}

char *page_reserve(void)
{
	char *room;

	room = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	return room + PAGE;
}

void page_release(char *page)
{
	page_unmap(page);
}

void page_map(char *page)
{
	void *p = mmap(page, PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_POPULATE, -1, 0);

	if (p != page)
		fail("the address is taken");
}

void page_unmap(char *page)
{
	must(munmap(page, PAGE) < 0 ? -errno : 0, "munmap");
}
