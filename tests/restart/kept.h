/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * A mirrord under a keeper, for tests
 */

#include "harness.h"
#include "keeper.h"

struct kept {
	struct daemon place;		/* its directory and its socket */
	pid_t keeper;
	int fd;
	struct keeper_options options;
	char notify[64];
	char answer[65536];
};

/* Makes the directory; gone at the end of the test. */
void kept_init(struct kept *k);
/* Starts keeper and mirrord, and waits until it serves.  @args up to a NULL, or NULL. */
void kept_start(struct kept *k, const char *const *args, unsigned int store_max);
/* Ends both, at once. */
void kept_end(struct kept *k);

/* A command; what the answer said after "ok".  Bails out when it is another. */
const char *kept_do(struct kept *k, const char *format, ...)
	__attribute__((__format__(__printf__, 2, 3)));
struct keeper_report kept_report(struct kept *k);
/* How many descriptors of that letter are stored. */
unsigned int kept_count(struct kept *k, char letter);
/* The name of the first one of that letter; NULL if there is none. */
const char *kept_first(struct kept *k, char letter);
