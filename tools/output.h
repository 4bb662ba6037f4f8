/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Output of events, for people and for programs
 *
 * Lines collect in a buffer until output_flush(), so that a batch of records is
 * one write.  A reader that goes away breaks the output, for good, but nothing
 * else: what mirrorctl runs must not end because nobody looks.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <mirror/mirror.h>

struct output {
	FILE *file;
	bool json;
	bool phases;	/* people want to see START and END apart */
	bool color;
	bool broken;
};

#define OUTPUT_NULL { NULL, false, false, false, false }

/* @path NULL: @fd, which is not consumed; "-": stdout */
int output_open(struct output *output, const char *path, int fd, bool json, bool phases);
void output_close(struct output *output);

void output_event(struct output *output, const struct mirror_event *event, pid_t pid,
		  pid_t child_pid);

/* returns -EPIPE once the output is broken */
int output_flush(struct output *output);

/* helpers for what is not an event */
const char *output_size(char buf[static 16], uint64_t bytes);
void output_json_string(FILE *file, const char *string, size_t n_max);
void output_features(FILE *file, uint64_t features, bool json);

/* 0, or -EPIPE and worse if stdout did not take it all */
int output_finish_stdout(void);
