/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * What the daemon has to say: to the journal, with fields to search by, when that is
 * where stderr goes; else as lines to stderr.
 */

#include <sys/types.h>
#include "base.h"

enum { LOG_QUIET, LOG_NORMAL, LOG_VERBOSE };

extern int log_level;

/* Zero: not about one.  The user is that of pid or client. */
struct log_fields {
	const char *event;	/* "attach", "release", "refused", ... */
	uint32_t target;
	uint32_t client;
	pid_t pid;
	uid_t uid;
};

/* How often one place has spoken. */
struct log_rate {
	uint64_t since_ns;
	uint32_t n, kept_back;
};

/* Looks where stderr goes.  Before it, or without it, all goes there as lines. */
void log_init(void);
/* As log_init() does, if a journal listens at @path; 0 or -errno. */
int log_to_journal(const char *path);

void log_line(int level, const char *format, ...) _printf_(2, 3);
void log_line_about(int level, struct log_rate *rate, const struct log_fields *fields,
		    const char *format, ...) _printf_(4, 5);

#define log_error(...) log_line(LOG_QUIET, __VA_ARGS__)
#define log_info(...) log_line(LOG_NORMAL, __VA_ARGS__)
#define log_debug(...) log_line(LOG_VERBOSE, __VA_ARGS__)

/*
 * What a client can bring about, as often as it likes: so each place speaks some times
 * in a while, and then says how often it kept silent.
 */
#define log_event(_level, _fields, ...) do {					\
		static struct log_rate rate_;					\
										\
		if ((_level) <= log_level)					\
			log_line_about(_level, &rate_, _fields, __VA_ARGS__);	\
	} while (0)

#define LOG_FIELDS(...) (&(const struct log_fields) { __VA_ARGS__ })
