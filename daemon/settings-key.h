/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The keys that both the command line and the configuration file know
 */

#include "settings.h"

struct key {
	const char *name;
	enum setting setting;
	const char *values;	/* what it can be, for a message */
};

const struct key *key_find(const char *name, bool limits);
const struct key *key_get(enum setting setting);
/* "a, b, c" */
void key_list(char *buf, size_t size, bool limits);

/* 0 or -EINVAL.  Strings are not copied. */
int key_set(struct settings *s, const struct key *key, const char *value);
/* Is it a value at all? */
int key_check(const struct key *key, const char *value);
/* Decimal, not negative, all of @text. */
int key_number(const char *text, uint32_t *ret_number);
