/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "mirrorctl.h"
#include "say.h"

struct sentence {
	enum say_op op;
	int error;
	const char *text;	/* one %s, for the object */
};

/* clang-format off */
static const struct sentence sentences[] = {
	{ SAY_OPEN, ENOENT,
	  "no mirrord is running (nothing listens on %s); start it with 'systemctl start mirrord', "
	  "or use 'mirrorctl run --embedded'" },
	{ SAY_OPEN, ECONNREFUSED,
	  "no mirrord is running (its socket %s is a leftover); start it with "
	  "'systemctl start mirrord', or use 'mirrorctl run --embedded'" },
	{ SAY_OPEN, EACCES,
	  "you may not connect to %s; ask for access to it, or use 'mirrorctl run --embedded'" },
	{ SAY_OPEN, EPROTO,
	  "what listens on %s does not speak the protocol of this mirrorctl; "
	  "install the same version of both" },
	{ SAY_OPEN, EPIPE,
	  "mirrord at %s closed the connection; see its log with 'journalctl -u mirrord'" },

	{ SAY_OPEN_EMBEDDED, ENOENT,
	  "a private mirrord could not be started: the program was not found; install mirrord, "
	  "or set MIRROR_DAEMON to its path" },
	{ SAY_OPEN_EMBEDDED, ECONNREFUSED,
	  "a private mirrord was started but ended at once; set MIRROR_DEBUG=1 to see why" },
	{ SAY_OPEN_EMBEDDED, EACCES,
	  "a private mirrord could not be started: %s is not accessible" },
	{ SAY_OPEN_EMBEDDED, EPERM,
	  "a private mirrord could not be started: userfaultfd or io_uring is forbidden "
	  "here; see the sysctls vm.unprivileged_userfaultfd and kernel.io_uring_disabled" },
	{ SAY_OPEN_EMBEDDED, EPIPE,
	  "a private mirrord was started but ended at once; set MIRROR_DEBUG=1 to see why" },

	{ SAY_ATTACH, EPERM,
	  "you may not observe %s: it must be yours and dumpable, or you need CAP_SYS_PTRACE" },
	{ SAY_ATTACH, ENODATA,
	  "%s is not a target: run it under 'mirrorctl run' or link it with libmirror" },
	{ SAY_ATTACH, ESRCH,
	  "%s does not exist (any more); 'mirrorctl list' shows the targets" },
	{ SAY_ATTACH, EBUSY,
	  "memory of %s is registered with another userfaultfd, and only one can watch it" },
	{ SAY_ATTACH, EOPNOTSUPP,
	  "%s cannot be observed as asked here; 'mirrorctl status' shows what can be had" },

	{ SAY_WATCH, EBUSY,
	  "memory of %s is registered with another userfaultfd, and only one can watch it" },
	{ SAY_WATCH, ESRCH,
	  "%s ended before it could be watched" },
	{ SAY_WATCH, EINVAL,
	  "the range of %s cannot be watched; give page-aligned addresses, start before end" },

	{ SAY_ASK, ESRCH,
	  "there is no %s; 'mirrorctl list' shows the targets" },

	{ SAY_LOOK, ESRCH,
	  "%s has ended, or has executed another program" },
	{ SAY_LOOK, EPERM,
	  "you may not look into the memory of %s: it must be yours and dumpable, or you need "
	  "CAP_SYS_PTRACE" },
	{ SAY_LOOK, EACCES,
	  "you may not look into the memory of %s: it must be yours and dumpable, or you need "
	  "CAP_SYS_PTRACE" },
	{ SAY_LOOK, EDQUOT,
	  "the mirror table of %s is full; look at less of it by giving a range, or raise the "
	  "limits of mirrord ('mirrorctl status' shows them)" },
	{ SAY_LOOK, ENOTTY,
	  "the mirrord that runs is older than mirrorctl and keeps no table of %s; install the "
	  "same version of both" },
};

/* whatever was being done */
static const struct sentence general[] = {
	{ 0, EPIPE,
	  "mirrord is gone; see its log with 'journalctl -u mirrord', and start it again" },
	{ 0, EDQUOT,
	  "a limit of your user is reached; end other consumers, or raise the limits of mirrord "
	  "('mirrorctl status' shows them)" },
	{ 0, ENOSYS,
	  "this kernel lacks userfaultfd or io_uring, or they are switched off; "
	  "see the sysctl kernel.io_uring_disabled" },
	{ 0, ENOMEM,
	  "not enough memory" },
	{ 0, EMFILE,
	  "too many open files; raise the limit with 'ulimit -n'" },
	{ 0, E2BIG,
	  "this mirrord is older than mirrorctl; install the same version of both" },
};
/* clang-format on */

void say(const char *format, ...)
{
	char line[1024];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line), format, args);
	va_end(args);

	/* one write, as the target prints to the same terminal */
	if (n >= 0)
		fprintf(stderr, "mirrorctl: %s\n", line);
}

static const char *find_sentence(enum say_op op, int error)
{
	size_t i;

	for (i = 0; i < sizeof(sentences) / sizeof(*sentences); i++)
		if (sentences[i].op == op && sentences[i].error == error)
			return sentences[i].text;

	for (i = 0; i < sizeof(general) / sizeof(*general); i++)
		if (general[i].error == error)
			return general[i].text;

	return NULL;
}

void say_error(enum say_op op, int error, const char *what)
{
	static const char * const verbs[] = {
		[SAY_OPEN] = "connect to",
		[SAY_OPEN_EMBEDDED] = "start",
		[SAY_ATTACH] = "observe",
		[SAY_WATCH] = "watch",
		[SAY_ASK] = "ask for",
		[SAY_LOOK] = "look at",
	};
	const char *text, *at;

	if (error < 0)
		error = -error;
	if (!what)
		what = "mirrord";

	text = find_sentence(op, error);
	if (!text) {
		say("cannot %s %s: %s", verbs[op], what, strerror(error));
		return;
	}

	at = strstr(text, "%s");
	if (at)
		say("%.*s%s%s", (int)(at - text), text, what, at + 2);
	else
		say("%s", text);
}

int say_bad_option(const char *verb, int argc, char **argv, int c)
{
	/* optopt is set for a short option, and for a long one that misses its argument */
	if (c == ':')
		say("option '%s' needs an argument; see 'mirrorctl %s --help'", argv[optind - 1],
		    verb);
	else if (optopt > 0 && optopt < 0x80)
		say("unknown option '-%c'; see 'mirrorctl %s --help'", optopt, verb);
	else
		say("unknown option '%s'; see 'mirrorctl %s --help'",
		    optind <= argc ? argv[optind - 1] : "?", verb);

	return EXIT_USAGE;
}

int say_bad_usage(const char *verb, const char *problem)
{
	say("%s; see 'mirrorctl %s --help'", problem, verb);

	return EXIT_USAGE;
}
