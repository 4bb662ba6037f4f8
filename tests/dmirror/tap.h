/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Results in TAP, one process for each case, and a daemon for all of them
 *
 * A case that fails or hangs takes nothing with it: its process ends, or is killed,
 * and so are the processes that it has made, as these die with their parent.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define ARRAY_LENGTH(_a) (sizeof(_a) / sizeof((_a)[0]))

/* Starts the daemon of $MIRROR_DAEMON.  @seconds: the whole test may take. */
void tap_begin(unsigned int seconds);
/* The plan, and the exit status. */
int tap_end(void);
/* Undone however this test ends, if it does not end by SIGKILL. */
void tap_at_end(void (*undo)(void));

/* One case.  @name is what it is called. */
void tap_case(const char *name, void (*run)(const void *arg), const void *arg);
/* The same, of a device that is broken: it is well if the case finds that out. */
void tap_case_must_fail(const char *name, void (*run)(const void *arg), const void *arg);
void tap_skip(const char *name, const char *reason);
void tap_note(const char *format, ...) __attribute__((__format__(__printf__, 1, 2)));

/* Of the daemon. */
const char *tap_socket(void);
/* Gone afterwards if it is made with this name. */
const char *tap_file(const char *name);

/* ---- in a case ---- */

/* Both end the case. */
void tap_fail(const char *file, int line, const char *format, ...)
	__attribute__((__noreturn__, __format__(__printf__, 3, 4)));
void tap_skip_case(const char *format, ...)
	__attribute__((__noreturn__, __format__(__printf__, 1, 2)));
/* Asked when the case fails: why that may be nobody's mistake, so a skip, or NULL. */
void tap_set_excuse(const char *(*excuse)(void));
/* A line that is printed with the result. */
void tap_remark(const char *format, ...) __attribute__((__format__(__printf__, 1, 2)));

#define check(_condition, ...) do {						\
		if (!(_condition))						\
			tap_fail(__FILE__, __LINE__, __VA_ARGS__);		\
	} while (0)

/* Says what came instead. */
#define check_is(_got, _wanted, ...) do {					\
		long long got_ = (long long)(_got), wanted_ = (long long)(_wanted); \
		if (got_ != wanted_)						\
			tap_fail_is(__FILE__, __LINE__, got_, wanted_, __VA_ARGS__); \
	} while (0)

#define check_ok(_expr) do {							\
		long long r_ = (long long)(_expr);				\
		if (r_ < 0)							\
			tap_fail(__FILE__, __LINE__, "%s: %s", #_expr, tap_errno(r_)); \
	} while (0)

void tap_fail_is(const char *file, int line, long long got, long long wanted,
		 const char *format, ...)
	__attribute__((__noreturn__, __format__(__printf__, 5, 6)));
const char *tap_errno(long long r);
