/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * mirrorctl - look at the changes of address spaces
 */

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config.h"
#include "mirrorctl.h"
#include "output.h"
#include "say.h"

static const struct verb * const verbs[] = {
	&verb_run,
	&verb_watch,
	&verb_list,
	&verb_status,
	&verb_show,
	&verb_verify,
	&verb_map,
};

static const struct verb *find_verb(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
		if (!strcmp(verbs[i]->name, name))
			return verbs[i];

	return NULL;
}

static void print_help(FILE *f)
{
	size_t i;

	fputs("Usage: mirrorctl VERB [ARGUMENT]...\n"
	      "\n"
	      "Look at the changes of address spaces.\n"
	      "\n", f);
	for (i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
		fprintf(f, "  %-8s %s\n", verbs[i]->name, verbs[i]->summary);
	fputs("  help     print how a verb is used\n"
	      "\n"
	      "  --version, --help\n"
	      "\n"
	      "'mirrorctl VERB --help' tells more, as does mirrorctl(1).\n", f);
}

static int unknown_verb(const char *name)
{
	char names[256] = "";
	size_t i;

	for (i = 0; i < sizeof(verbs) / sizeof(*verbs); i++) {
		strcat(names, i ? ", " : "");
		strcat(names, verbs[i]->name);
	}
	say("there is no verb '%s'; there are: %s; see 'mirrorctl --help'", name, names);

	return EXIT_USAGE;
}

static int help(const char *name)
{
	const struct verb *verb;

	if (name) {
		verb = find_verb(name);
		if (!verb)
			return unknown_verb(name);
		fputs(verb->help, stdout);
	} else {
		print_help(stdout);
	}

	return output_finish_stdout() < 0 ? EXIT_NOT_DONE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	const struct verb *verb;

	/* a reader that goes away is an error of write(), handled there */
	signal(SIGPIPE, SIG_IGN);
	opterr = 0;

	if (argc < 2) {
		print_help(stderr);
		return EXIT_USAGE;
	}

	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return help(NULL);
	if (!strcmp(argv[1], "help"))
		return help(argc > 2 ? argv[2] : NULL);
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts("mirrorctl " MIRROR_VERSION);
		return output_finish_stdout() < 0 ? EXIT_NOT_DONE : EXIT_SUCCESS;
	}
	if (argv[1][0] == '-') {
		say("unknown option '%s'; see 'mirrorctl --help'", argv[1]);
		return EXIT_USAGE;
	}

	verb = find_verb(argv[1]);
	if (!verb)
		return unknown_verb(argv[1]);

	return verb->main(argc - 1, argv + 1);
}
