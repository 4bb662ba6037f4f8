/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The mirrord of a run
 *
 * Either the one of the system, or a private one.  The target talks to it too,
 * so a private one needs a name: a socket in a new directory that only this
 * user can enter.
 */

#include <stdbool.h>
#include <mirror/mirror.h>

struct place {
	struct mirror_ctx *ctx;
	char socket[108];	/* as sockaddr_un has it */
	char dir[108];		/* to be removed; empty if it is not ours */
};

#define PLACE_NULL { NULL, "", "" }

/* where the mirrord of the system listens */
const char *place_system_socket(void);

/* reports its errors itself */
int place_open(struct place *place, bool embedded, bool quiet);
void place_close(struct place *place);
