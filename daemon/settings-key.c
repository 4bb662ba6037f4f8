/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include "settings-key.h"

#define NUMBER "a number up to 2147483647"
#define SWITCH "yes or no"

static const struct key keys[] = {
	{ "verbose", SETTING_VERBOSE, SWITCH },
	{ "peek", SETTING_PEEK, SWITCH },
	{ "follow-cpu", SETTING_FOLLOW_CPU, SWITCH },
	{ "uffd-mode", SETTING_UFFD_MODE, "auto, wp-async or wp" },
	{ "cuse", SETTING_CUSE, "the name of a file in /dev, without a '/'" },
	{ "fuse", SETTING_FUSE, "a path that begins with a '/'" },
	{ "clients", SETTING_LIMIT + QUOTA_CLIENTS, NUMBER },
	{ "channels", SETTING_LIMIT + QUOTA_CHANNELS, NUMBER },
	{ "targets", SETTING_LIMIT + QUOTA_TARGETS, NUMBER },
	{ "notifiers", SETTING_LIMIT + QUOTA_NOTIFIERS, NUMBER },
	{ "tables", SETTING_LIMIT + QUOTA_TABLES, NUMBER },
	{ "table-nodes", SETTING_LIMIT + QUOTA_TABLE_NODES, NUMBER },
};

const struct key *key_find(const char *name, bool limits)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (!strcmp(keys[i].name, name) && limits == (keys[i].setting >= SETTING_LIMIT))
			return &keys[i];
	return NULL;
}

const struct key *key_get(enum setting setting)
{
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (keys[i].setting == setting)
			return &keys[i];
	return NULL;
}

void key_list(char *buf, size_t size, bool limits)
{
	size_t at = 0;

	*buf = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(keys) && at < size; i++)
		if (limits == (keys[i].setting >= SETTING_LIMIT))
			at += (size_t)snprintf(buf + at, size - at, "%s%s", at ? ", " : "",
					       keys[i].name);
}

int key_number(const char *text, uint32_t *ret_number)
{
	unsigned long v;
	char *end;

	/* strtoul() takes a sign and white space, we do not */
	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	v = strtoul(text, &end, 10);
	if (errno || *end || v > INT32_MAX)
		return -EINVAL;
	*ret_number = (uint32_t)v;
	return 0;
}

static int set_switch(bool *to, const char *value)
{
	if (!strcmp(value, "yes"))
		*to = true;
	else if (!strcmp(value, "no"))
		*to = false;
	else
		return -EINVAL;
	return 0;
}

static int set_mode(enum uffd_mode *mode, const char *value)
{
	static const char *const names[] = {
		[UFFD_MODE_AUTO] = "auto", [UFFD_MODE_WP_ASYNC] = "wp-async",
		[UFFD_MODE_WP] = "wp",
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(names); i++) {
		if (!strcmp(value, names[i])) {
			*mode = (enum uffd_mode)i;
			return 0;
		}
	}
	return -EINVAL;
}

/* Nothing at all means: no device of that kind. */
static int set_device(const char **to, const char *value, bool path)
{
	if (*value && (path ? *value != '/' : !!strchr(value, '/') || *value == '.'))
		return -EINVAL;
	*to = *value ? value : NULL;
	return 0;
}

int key_set(struct settings *s, const struct key *key, const char *value)
{
	switch (key->setting) {
	case SETTING_VERBOSE:
		return set_switch(&s->verbose, value);
	case SETTING_PEEK:
		return set_switch(&s->options.peek, value);
	case SETTING_FOLLOW_CPU:
		return set_switch(&s->options.follow_cpu, value);
	case SETTING_UFFD_MODE:
		return set_mode(&s->options.uffd_mode, value);
	case SETTING_CUSE:
		return set_device(&s->options.cuse, value, false);
	case SETTING_FUSE:
		return set_device(&s->options.fuse, value, true);
	default:
		return key_number(value, &s->limit[key->setting - SETTING_LIMIT]);
	}
}

int key_check(const struct key *key, const char *value)
{
	struct settings scratch;

	settings_init(&scratch);
	return key_set(&scratch, key, value);
}
