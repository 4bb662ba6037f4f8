/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The exit source: a pidfd tells that the process is no more
 */

#include "source/source.h"

struct exit_source {
	struct loop_op op;
	struct source_sink *sink;
};

#define EXIT_SOURCE_NULL { .op = LOOP_OP_NULL }

/* @pidfd is borrowed. */
int exit_source_start(struct exit_source *s, struct loop *loop, struct source_sink *sink,
		      int pidfd);
void exit_source_stop(struct exit_source *s);
