/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The userfaultfd source; see uffd-source.c
 */

#include <linux/userfaultfd.h>
#include "source/arm.h"
#include "source/source.h"
#include "source/zap.h"

/* What this kernel and this daemon's rights allow, found out once by trying. */
struct uffd_support {
	uint64_t features;	/* UFFD_FEATURE_* to ask for */
	bool wp_async;
	bool fork;
};

enum uffd_mode { UFFD_MODE_AUTO, UFFD_MODE_WP_ASYNC, UFFD_MODE_WP };

int uffd_support_probe(struct uffd_support *ret_support, enum uffd_mode mode);

struct uffd_source {
	struct loop_op op;
	struct loop_op retry;
	struct source_sink *sink;
	struct zaps *zaps;
	struct zap_pool *pool;
	struct arm arm;
	struct peek peek;
	int fd;
	pid_t pid;
	bool can_peek;
	bool after_remap;		/* the next UNMAP may be of mremap's old range */
	uint64_t remap_start, remap_end;
	uint64_t rearm_start, rearm_end; /* maybe mapped anew; empty if not */
	pid_t last_tid;			/* the thread that acted last, 0 if not known */
	uint64_t n_events;
	bool resumed;
};

#define UFFD_SOURCE_NULL {							\
		.op = LOOP_OP_NULL, .retry = LOOP_OP_NULL, .arm = ARM_NULL,	\
		.peek = PEEK_NULL, .fd = -1,					\
	}

struct uffd_source_config {
	struct loop *loop;
	struct zaps *zaps;
	struct source_sink *sink;
	pid_t pid;		/* 0: not known yet */
	pid_t skip_tid;
	bool peek;		/* may look at the target's threads, if it can */
	bool resumed;		/* another mirrord read from it before */
};

/* Takes over @fd on success.  UFFDIO_API has been done. */
int uffd_source_start(struct uffd_source *s, const struct uffd_source_config *config, int fd);
/*
 * Before the end of one that somebody else has the descriptor of as well: nothing is
 * watched by it any more, and nobody waits for it to be read.
 */
void uffd_source_let_go(struct uffd_source *s);
void uffd_source_stop(struct uffd_source *s);

/* The process was found: look at its threads and mappings from now on. */
void uffd_source_set_pid(struct uffd_source *s, pid_t pid, pid_t skip_tid, bool peek);

static inline bool uffd_source_is_running(const struct uffd_source *s)
{
	return s->fd >= 0;
}

/* Pure: what a message says.  false if it is none that we ask for.  Fuzzed. */
bool event_from_uffd(struct event *ret_event, const struct uffd_msg *msg);

/* Pure: why, by the system calls that threads were seen in.  Also *ret_tid. */
uint8_t cause_from_hits(const struct event *ev, const struct peek_hit *hits, unsigned int n,
			pid_t *ret_tid);
