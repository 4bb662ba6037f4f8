/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Verbs of mirrorctl
 *
 * A verb is a row of a constant table: its name, what it is for, and a function
 * with the signature of main(), whose result is the exit status.  argv[0] is the
 * verb itself.
 */

enum {
	EXIT_NOT_DONE = 1,	/* understood, but it could not be done */
	EXIT_USAGE = 2,		/* not understood */

	/* run has the statuses of the program it runs, so it keeps to those of env(1) */
	EXIT_RUN_FAILED = 125,
	EXIT_RUN_CANNOT_EXECUTE = 126,
	EXIT_RUN_NOT_FOUND = 127,
	EXIT_RUN_SIGNAL = 128,
};

struct verb {
	const char *name;
	const char *summary;
	const char *help;
	int (*main)(int argc, char **argv);
};

extern const struct verb verb_run;
extern const struct verb verb_watch;
extern const struct verb verb_list;
extern const struct verb verb_status;
extern const struct verb verb_show;
extern const struct verb verb_verify;
extern const struct verb verb_map;
