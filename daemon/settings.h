/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Settings: what the command line and the configuration file say
 *
 * What is given on the command line counts; then the file; then what is built in.  The
 * file is read again on request: whatever is wrong in it, all stays as it was.
 */

#include "core/quota.h"
#include "manager.h"

#define SETTINGS_SOCKET "/run/mirror/control"
#define SETTINGS_KEEP 4096

enum setting {
	SETTING_VERBOSE, SETTING_PEEK, SETTING_FOLLOW_CPU, SETTING_UFFD_MODE, SETTING_CUSE,
	SETTING_FUSE,
	SETTING_LIMIT,			/* + enum quota_kind */
	_SETTING_N = SETTING_LIMIT + _QUOTA_N,
};

struct settings {
	struct manager_options options;
	bool verbose;
	uint32_t limit[_QUOTA_N];
	struct quota_rule *rules;
	size_t n_rules;

	/* the command line only */
	const char *socket;		/* NULL: none of our own */
	const char *config;		/* NULL: the usual file, if there is one */
	int client_fd;			/* or -1 */
	uint32_t keep;			/* so many descriptors can be kept; 0: none */
	bool prepare_device;

	uint32_t given;			/* on the command line, by enum setting */
	char *text;			/* of the file; strings above may lie in it */
};

void settings_init(struct settings *s);
void settings_deinit(struct settings *s);

/* 1: go on, 0: all is done, -EINVAL: wrong, and it has been said. */
int settings_parse_args(struct settings *s, int argc, char **argv);

/*
 * The file's part, on top of @base, which has what the command line said and must
 * live as long.  0; or -errno and why in @error, then *ret_settings is not touched.
 */
int settings_load(struct settings *ret_settings, const struct settings *base, char *error,
		  size_t error_size);

/* The same of a text that is called @name; @len bytes, which may be anything. */
int settings_parse(struct settings *s, const char *name, const char *text, size_t len,
		   char *error, size_t error_size);
