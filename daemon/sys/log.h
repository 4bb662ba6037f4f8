/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * What the daemon has to say, to stderr, where systemd picks it up.
 */

#include "base.h"

enum { LOG_QUIET, LOG_NORMAL, LOG_VERBOSE };

extern int log_level;

void log_line(int level, const char *format, ...) _printf_(2, 3);

#define log_error(...) log_line(LOG_QUIET, __VA_ARGS__)
#define log_info(...) log_line(LOG_NORMAL, __VA_ARGS__)
#define log_debug(...) log_line(LOG_VERBOSE, __VA_ARGS__)
