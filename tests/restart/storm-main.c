/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "harness.h"
#include "storm.h"

#define GRACE_S	150	/* to begin and to end */

static const struct option options[] = {
	{ "socket", required_argument, NULL, 's' },
	{ "seconds", required_argument, NULL, 't' },
	{ "until-stdin-closes", no_argument, NULL, 'u' },
	{ "no-store", no_argument, NULL, 'n' },
	{ "targets", required_argument, NULL, 'c' },
	{ NULL, 0, NULL, 0 },
};

static void wait_for_end(int seconds, bool until_closed)
{
	uint64_t end = now_ms() + (uint64_t)seconds * 1000;
	struct pollfd pfd = { .fd = until_closed ? 0 : -1, .events = POLLIN };
	char c;

	while (now_ms() < end)
		if (poll(&pfd, 1, 100) > 0 && read(0, &c, 1) <= 0)
			break;
}

int main(int argc, char **argv)
{
	struct storm_options o = { .targets = 4 };
	bool until_closed = false;
	struct storm_counts n;
	int seconds = 10, opt;
	struct storm *s;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (opt == 's') {
			o.path = optarg;
		} else if (opt == 't') {
			seconds = atoi(optarg);
		} else if (opt == 'u') {
			until_closed = true;
			seconds = 3600;
		} else if (opt == 'n') {
			o.may_lose = true;
		} else if (opt == 'c') {
			o.targets = (unsigned int)atoi(optarg);
		} else {
			fputs("usage: storm [--socket PATH] [--seconds N | --until-stdin-closes]"
			      " [--no-store] [--targets N]\n", stderr);
			return 2;
		}
	}
	test_begin(1, argv, (unsigned int)seconds + GRACE_S, 0);
	s = storm_start(&o);
	if (!storm_wait(s, 1, 20000))
		note("it does not begin");
	wait_for_end(seconds, until_closed);
	n = storm_stop(s);
	storm_print(&n);
	note(storm_is_good(&n) ? "storm: good" : "storm: NOT good");
	return !storm_is_good(&n) || !n.changes || !n.hits;
}
