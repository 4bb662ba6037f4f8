/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * What mirrorctl says to its user
 *
 * Everything goes to stderr, a line at a time, so that it does not mix with the
 * events.  Errors of libmirror become sentences that say what to do.
 */

/* what was being done when libmirror failed */
enum say_op {
	SAY_OPEN,		/* reach a mirrord that should be there */
	SAY_OPEN_EMBEDDED,	/* start a private one */
	SAY_ATTACH,
	SAY_WATCH,
	SAY_ASK,
	SAY_LOOK,		/* at the memory of a target */
};

__attribute__((__format__(__printf__, 1, 2)))
void say(const char *format, ...);

/* @what is the process, target or path that it was about, or NULL */
void say_error(enum say_op op, int error, const char *what);

/* getopt_long() returned '?' or ':'; returns the exit status */
int say_bad_option(const char *verb, int argc, char **argv, int c);
int say_bad_usage(const char *verb, const char *problem);
