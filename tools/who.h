/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Which process a verb is about: PID, #TARGET or target:TARGET
 */

#include <stdint.h>
#include <sys/types.h>
#include <mirror/mirror.h>

struct who {
	const char *text;	/* as given */
	uint32_t target;	/* 0: named by its pid */
	pid_t pid;
	char what[64];		/* for messages */

	int pidfd;
	struct mirror_ctx *ctx;
	struct mirror_target *object;
};

#define WHO_NULL { .pidfd = -1 }

/* A number and nothing else, if @ret_rest is NULL; no signs, no blanks. */
int parse_number(const char *text, int base, uint64_t max, const char **ret_rest,
		 uint64_t *ret_number);

/* -EINVAL */
int who_parse(struct who *who, const char *text);

/* Finds the process.  This and the next report their errors themselves. */
int who_find(struct who *who, struct mirror_ctx *ctx);

/* Connects to the mirrord of the system, finds the process and attaches to it. */
int who_open(struct who *who, uint32_t open_flags);
void who_close(struct who *who);
