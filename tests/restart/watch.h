/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Somebody who watches one page, of this process or of another
 */

#include <mirror/mirror.h>
#include "harness.h"
#include "kept.h"

struct watch {
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	struct mirror_notifier *notifier;
	char *page;
	unsigned int records, gaps, overflows;
	uint64_t seq, version;
	struct mirror_event last;		/* that is not OVERFLOW */
	struct mirror_event fork;
};

/* A page that a process can map and unmap; others have nothing there. */
char *watch_page(void);
void page_map(char *page);
/* munmap() and again: one record. */
void page_change(char *page);

/* This process; 0 or what failed. */
int watch_self(struct watch *w, const struct kept *k, char *page, uint32_t flags);
/* Another, that has attached itself. */
int watch_other(struct watch *w, const struct kept *k, pid_t pid, char *page, uint32_t flags);
void watch_end(struct watch *w);

/* A new lookup, kept as w->version; 0, or -errno if it does not come to be in 20 s. */
int watch_look(struct watch *w);
bool watch_is_good(const struct watch *w);
/* It is told that all is over, in 20 s. */
bool watch_is_told(struct watch *w);
/* Until there is a record of that type; false if none comes in 20 s. */
bool watch_wait(struct watch *w, uint32_t type);

/* What the daemon has, but for the client that asks. */
struct mirror_stats ask_stats(const struct kept *k);
/* Until it has no more than that; what it has then. */
struct mirror_stats wait_stats(const struct kept *k, uint32_t clients, uint32_t targets);
