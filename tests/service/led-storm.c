/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The storm, led by a script
 *
 * usage: led-storm [lose]
 *
 * Says "ready", then does what it reads, a word a line, and answers with one line:
 *
 *	more		until all change and look again		"more 1" or "more 0"
 *	count		what has happened by now	"count NAME=N ..."
 *	end		of all of it			"end GOOD NAME=N ..."
 *
 * With "lose" mirrord may end and forget.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "harness.h"
#include "storm.h"

#define TARGETS		4
#define CHANGES		20	/* of each target: so that the storm goes on */
#define PATIENCE_MS	30000
#define END_S		1200	/* the script ends it long before */

static void say(const char *word, const struct storm_counts *n)
{
	printf("%s changes=%" PRIu64 " lookups=%" PRIu64 " hits=%" PRIu64 " again=%" PRIu64
	       " records=%" PRIu64 " overflows=%" PRIu64 " lost=%" PRIu64 " stale=%" PRIu64
	       " unexpected=%" PRIu64 " untold=%" PRIu64 " gaps=%" PRIu64 " errors=%" PRIu64
	       " hung=%" PRIu64 "\n", word, n->changes, n->lookups, n->hits, n->again, n->records,
	       n->overflows, n->lost, n->stale, n->unexpected, n->untold, n->gaps, n->errors,
	       n->hung);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct storm_options options = {
		.targets = TARGETS, .may_lose = argc > 1 && !strcmp(argv[1], "lose"),
	};
	struct storm_counts n;
	struct storm *s;
	char word[64];

	test_begin(1, argv, END_S, END_S);
	s = storm_start(&options);
	puts(storm_wait(s, 1, PATIENCE_MS) ? "ready" : "it does not begin");
	fflush(stdout);
	while (scanf("%63s", word) == 1 && strcmp(word, "end")) {
		if (!strcmp(word, "more")) {
			printf("more %d\n", storm_wait(s, CHANGES, PATIENCE_MS));
			fflush(stdout);
		} else {
			n = storm_counts(s);
			say("count", &n);
		}
	}
	n = storm_stop(s);
	say(storm_is_good(&n) ? "end 1" : "end 0", &n);
	return 0;
}
