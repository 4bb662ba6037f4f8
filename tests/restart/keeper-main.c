/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include "base.h"
#include "keeper.h"

static const struct option options[] = {
	{ "socket", required_argument, NULL, 's' },
	{ "notify", required_argument, NULL, 'n' },
	{ "store-max", required_argument, NULL, 'm' },
	{ "watchdog-ms", required_argument, NULL, 'w' },
	{ NULL, 0, NULL, 0 },
};

int main(int argc, char **argv)
{
	struct keeper_options o = { .daemon = getenv("MIRROR_DAEMON"), .store_max = 8192 };
	char notify[108];
	int opt;

	while ((opt = getopt_long(argc, argv, "+", options, NULL)) >= 0) {
		if (opt == 's')
			o.socket = optarg;
		else if (opt == 'n')
			o.notify = optarg;
		else if (opt == 'm')
			o.store_max = (unsigned int)atoi(optarg);
		else if (opt == 'w')
			o.watchdog_ms = (unsigned int)atoi(optarg);
		else
			return 2;
	}
	if (!o.socket || !o.daemon) {
		fputs("usage: MIRROR_DAEMON=PROGRAM keeper --socket PATH [--notify PATH]"
		      " [--store-max N] [--watchdog-ms N] [-- MIRRORD-OPTION...]\n", stderr);
		return 2;
	}
	if (!o.notify) {
		snprintf(notify, sizeof(notify), "%.99s.notify", o.socket);
		o.notify = notify;
	}
	o.args = (const char *const *)(argv + optind);
	return keeper_run(&o, 0, 1);
}
