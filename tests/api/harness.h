/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Tests of libmirror's API against a real daemon
 *
 * Each test runs in a process of its own with a daemon of its own, which is a
 * child that dies with it.  $MIRRORD names the daemon's program, and
 * $MIRROR_TEST_TRANSPORT the way to it: socket, fuse or cuse.
 */

#include <check.h>
#include <errno.h>
#include <mirror/mirror.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define PAGE 4096UL
#define BLOCK (2UL << 20)	/* changes this far apart are told apart by a gate */

/* Has the process threads that the test does not know of? */
#ifdef __SANITIZE_THREAD__
#define HAS_THREADS 1
#else
#define HAS_THREADS 0
#endif

#define ARRAY_LENGTH(_a) (sizeof(_a) / sizeof((_a)[0]))

/* A check fails where it stands; these say the number. */
#define ok(_expr) do {								\
		int r_ = (_expr);						\
		ck_assert_msg(r_ >= 0, "%s: %s", #_expr, strerror(-r_));	\
	} while (0)
#define fails(_expr, _errno) do {						\
		int r_ = (_expr);						\
		ck_assert_msg(r_ == -(_errno), "%s: %d, not %d", #_expr, r_, -(_errno)); \
	} while (0)

int harness_main(const char *name, void (*fill)(Suite *suite));
/* A case whose tests have a daemon running. */
TCase *harness_case(Suite *suite, const char *name);
TCase *harness_case_without_daemon(Suite *suite, const char *name);

void daemon_start(void);
void daemon_kill(int sig);	/* and, unless it is SIGSTOP or SIGCONT, waits for its end */
/* The way to it, and its socket, which it always has too. */
const char *daemon_path(void);
const char *socket_path(void);
bool daemon_is_node(void);	/* daemon_path() goes when it does */
/* A name in the directory of this run, which is removed afterwards. */
const char *scratch_path(const char *name);

struct mirror_ctx *open_ctx(void);
struct mirror_ctx *open_ctx_with(uint32_t flags, uint32_t ring_entries);
struct mirror_target *attach_self(struct mirror_ctx *ctx, uint32_t flags);

/* What a callback saw. */
struct log {
	unsigned int n;
	unsigned int n_type[MIRROR_EVENT_TYPES];
	struct mirror_event last;
	struct mirror_event first;
};

void log_event(struct mirror_notifier *n, const struct mirror_event *event, void *userdata);
struct mirror_notifier *watch(struct mirror_target *target, const void *p, size_t size,
			      struct log *log);
/* A change is told by START records; their range covers that. */
bool log_covers(const struct log *log, unsigned int type, const void *p, size_t size);

int begin(struct mirror_notifier *n, const void *p, size_t size, uint64_t *ret_version);
int retry(struct mirror_notifier *n, const void *p, size_t size, uint64_t version);

/* Touched pages, aligned to BLOCK. */
void *map_pages(size_t size);
void unmap(void *p, size_t size);
char *map_over(char *p, size_t size);
/* All changes before this call are published when it returns. */
void settle(struct mirror_ctx *ctx);

/* Other processes.  A child that dies with us, waits for a byte, then goes on. */
struct peer {
	pid_t pid;
	int pidfd;
	int to, from;
};

void peer_start(struct peer *peer, void (*body)(struct peer *me));
/* Used by both ends. */
void peer_tell(struct peer *peer, uint64_t value);
uint64_t peer_hear(struct peer *peer);
void peer_end(struct peer *peer);

/* Waits for a process that is not our child (any more). */
bool wait_gone(pid_t pid);
/* Does that thread sleep in an event of a userfaultfd?  And until it does. */
bool is_blocked(pid_t tid);
bool wait_blocked(pid_t tid);
/* Until the lifelines of this process have done their work and ended. */
bool wait_lifelines(void);
