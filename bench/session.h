/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BENCH_SESSION_H
#define BENCH_SESSION_H

/* libmirror, where nothing may fail. */

#include <mirror/mirror.h>
#include "bench.h"

typedef void (*change_fn)(struct mirror_notifier *n, const struct mirror_event *ev,
			  void *userdata);

/* Connects to the daemon at socket=PATH. */
struct mirror_ctx *session_open(char **argv, uint32_t ring_entries);
struct mirror_target *session_attach(struct mirror_ctx *ctx, uint32_t flags);
struct mirror_notifier *session_watch(struct mirror_target *target, const void *start,
				      size_t bytes, change_fn fn, void *userdata);
void session_arm(struct mirror_target *target, const void *start, size_t bytes);
/* Changes that the daemon has read of this target. */
uint64_t session_events(struct mirror_ctx *ctx, struct mirror_target *target);
void session_stats(struct mirror_ctx *ctx, struct mirror_stats *ret_stats);

/*
 * A page of its own, that no neighbour is merged with.  It is kept from everybody
 * until page_release(): after the library made its own mappings, and before anybody
 * watches it.
 */
char *page_reserve(void);
void page_release(char *page);
void page_map(char *page);
void page_unmap(char *page);

#endif /* BENCH_SESSION_H */
