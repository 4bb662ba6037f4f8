/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include "output.h"
#include "progress.h"

#define FIRST_MS	1000
#define EVERY_MS	200

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void progress_begin(struct progress *progress, const char *doing, uint64_t total)
{
	*progress = (struct progress) {
		.doing = doing,
		.total = total,
		.begun_ms = now_ms(),
		.wanted = isatty(STDERR_FILENO),
	};
}

void progress_show(struct progress *progress, uint64_t done)
{
	char some[16], all[16];
	uint64_t now;

	if (!progress->wanted || !progress->total)
		return;

	now = now_ms();
	if (now - progress->begun_ms < FIRST_MS || now - progress->shown_ms < EVERY_MS)
		return;

	progress->shown_ms = now;
	fprintf(stderr, "\r%s %s of %s, %u%%\033[K", progress->doing, output_size(some, done),
		output_size(all, progress->total),
		(unsigned int)((double)done * 100 / (double)progress->total));
}

void progress_end(struct progress *progress)
{
	if (progress->shown_ms)
		fputs("\r\033[K", stderr);
	progress->shown_ms = 0;
}
