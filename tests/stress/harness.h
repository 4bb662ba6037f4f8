/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * What the stress and fault tests share: results in TAP, a daemon of their own, and
 * children that cannot hang or be left behind.
 *
 * Every wait has an end.  A watchdog ends the whole test, and whatever it started
 * that is still there is killed, by its pid, however the test ends.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGE		4096UL

/* Starts the watchdog.  @argv may hold --some or --full; MIRROR_SEED sets the random seed. */
void test_begin(int argc, char **argv, unsigned int quick_seconds, unsigned int full_seconds);
/* How much of something, by the size that was asked for. */
unsigned long test_size(unsigned long quick, unsigned long some, unsigned long full);
/* The plan, and the exit status. */
int test_end(void);

/* One result. */
bool ok(bool good, const char *format, ...) __attribute__((__format__(__printf__, 2, 3)));
/* A result that says what came instead of what, when they differ. */
bool same(long long got, long long wanted, const char *format, ...)
	__attribute__((__format__(__printf__, 3, 4)));
void skip(const char *reason, const char *what);
void note(const char *format, ...) __attribute__((__format__(__printf__, 1, 2)));
/* Nothing makes sense any more. */
void bail(const char *format, ...)
	__attribute__((__noreturn__, __format__(__printf__, 1, 2)));

uint64_t rnd(uint64_t below);
uint64_t now_ms(void);
/* A moment of no importance, in a loop that has an end. */
void nap_ms(unsigned int ms);

/* ---- children ---- */

/*
 * Forks.  0 in the child, which must leave by _exit(): it has no watchdog of its
 * own, but dies with its parent.
 */
pid_t child_fork(void);
/* Its wait status, or -ETIMEDOUT: it has been killed then. */
int child_wait(pid_t pid, unsigned int ms);
/* It has been killed and reaped when this returns. */
void child_kill(pid_t pid);

/* ---- the daemon ---- */

struct daemon {
	pid_t pid;		/* 0: not running */
	unsigned int nofile;	/* its limit of descriptors, 0 for ours */
	char dir[40];
	char socket[64];
};

/* Makes the directory for its socket; gone at the end of the test. */
void daemon_init(struct daemon *d);
/* Starts it, with @args up to a NULL, and waits until it serves. */
void daemon_start(struct daemon *d, const char *const *args);
/* Ends it in good order: its wait status. */
int daemon_stop(struct daemon *d);
void daemon_kill(struct daemon *d);
bool daemon_is_alive(const struct daemon *d);
