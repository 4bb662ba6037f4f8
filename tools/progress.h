/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * How far a long piece of work has come
 *
 * A line on stderr, if that is a terminal, from the second second on; it is wiped
 * away at the end.
 */

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *doing;
	uint64_t total;		/* bytes */
	uint64_t begun_ms, shown_ms;
	bool wanted;
};

void progress_begin(struct progress *progress, const char *doing, uint64_t total);
void progress_show(struct progress *progress, uint64_t done);
void progress_end(struct progress *progress);
