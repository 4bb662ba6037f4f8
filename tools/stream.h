/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The events of one target, its children included, on their way to an output
 *
 * What run and watch have in common: one notifier over a range of the target,
 * whose callback prints.  The caller owns the loop: it sleeps on the context's
 * descriptor after stream_prepare() said that it may, and calls stream_pump().
 */

#include <stdbool.h>
#include <stdint.h>
#include <mirror/mirror.h>
#include "output.h"
#include "pids.h"

/* the last page of user space is never mapped; 47 bits unless a program asks for more */
#define STREAM_START	0ULL
#if UINTPTR_MAX > 0xffffffffU
#  define STREAM_END	0x7ffffffff000ULL
#else
#  define STREAM_END	0xfffff000ULL
#endif

struct stream {
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	struct mirror_notifier *notifier;
	struct output *output;
	struct pids pids;
	uint32_t id;		/* of the target */

	bool released;		/* the target is gone, nothing of it will follow */
	bool lost_daemon;
};

#define STREAM_NULL { NULL, NULL, NULL, NULL, PIDS_NULL, 0, false, false }

/* these report their errors themselves; @what names the process for that */
int stream_attach(struct stream *stream, struct mirror_ctx *ctx, int pidfd, uint32_t flags,
		  const char *what);
int stream_start(struct stream *stream, struct output *output, uint64_t start, uint64_t end,
		 uint32_t flags, const char *what);
void stream_stop(struct stream *stream);

/* 0: sleep is fine; 1: there is something to pump; -EPIPE: mirrord is gone */
int stream_prepare(struct stream *stream);
void stream_pump(struct stream *stream);

/* has a source of events ever attached to the target? */
bool stream_was_armed(struct stream *stream);
