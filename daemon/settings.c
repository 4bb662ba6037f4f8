/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file has sections of lines "key = value".  A key is an option of the command line
 * without its dashes, so there is one table of keys.  Users are looked up in
 * /etc/passwd alone: a name service may take its time, and targets wait for us.
 */
#include <ctype.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "config.h"
#include "settings.h"
#include "settings-key.h"

#define FILE_MAX (1024 * 1024)

enum section { SECTION_NONE, SECTION_DAEMON, SECTION_LIMITS, SECTION_USER };

struct parser {
	struct settings *s;
	const char *name;
	unsigned int line;
	enum section section;
	struct quota_rule *rule;	/* of SECTION_USER */
	uint32_t seen;			/* in [daemon] and [limits], by enum setting */
	char *error;
	size_t error_size;
};

void settings_init(struct settings *s)
{
	*s = (struct settings) {
		.options = { .peek = true, .follow_cpu = true },
		.client_fd = -1,
	};
	quota_default_limits(s->limit);
}

void settings_deinit(struct settings *s)
{
	free(s->rules);
	free(s->text);
	settings_init(s);
}

static int wrong(struct parser *p, const char *format, ...) _printf_(2, 3);

static int wrong(struct parser *p, const char *format, ...)
{
	va_list args;
	int n = snprintf(p->error, p->error_size, "%s:%u: ", p->name, p->line);

	if (n < 0 || (size_t)n >= p->error_size)
		return -EINVAL;
	va_start(args, format);
	vsnprintf(p->error + n, p->error_size - (size_t)n, format, args);
	va_end(args);
	/* It goes to a log or a terminal, and the file may hold anything. */
	for (char *c = p->error; *c; c++)
		if (iscntrl((unsigned char)*c))
			*c = '?';
	return -EINVAL;
}

/* Without white space around it. */
static char *strip(char *text)
{
	char *end;

	text += strspn(text, " \t\r");
	end = text + strlen(text);
	while (end > text && strchr(" \t\r", end[-1]))
		end--;
	*end = '\0';
	return text;
}

static int find_user(const char *name, uid_t *ret_uid)
{
	struct passwd *pw;
	unsigned long v;
	char *end;
	FILE *f;

	if (isdigit((unsigned char)*name)) {
		errno = 0;
		v = strtoul(name, &end, 10);
		*ret_uid = (uid_t)v;
		return errno || *end || v >= UINT32_MAX ? -EINVAL : 0;
	}
	f = fopen("/etc/passwd", "re");
	if (!f)
		return -errno;
	while ((pw = fgetpwent(f)) && strcmp(pw->pw_name, name))
		;
	if (pw)
		*ret_uid = pw->pw_uid;
	fclose(f);
	return pw ? 0 : -ENOENT;
}

static int begin_user(struct parser *p, const char *user)
{
	struct settings *s = p->s;
	struct quota_rule *rules;
	uid_t uid = 0;

	if (find_user(user, &uid) < 0)
		return wrong(p, "no user '%s' in /etc/passwd; one from elsewhere can be "
			     "given by number", user);
	for (size_t i = 0; i < s->n_rules; i++)
		if (s->rules[i].uid == uid)
			return wrong(p, "a second section for user %s; put all of it into one",
				     user);
	rules = reallocarray(s->rules, s->n_rules + 1, sizeof(*rules));
	if (!rules)
		return -ENOMEM;
	s->rules = rules;
	p->rule = &rules[s->n_rules++];
	p->rule->uid = uid;
	for (int i = 0; i < _QUOTA_N; i++)
		p->rule->limit[i] = QUOTA_AS_ALL;
	p->section = SECTION_USER;
	return 0;
}

/* [daemon], [limits] or [limits USER] */
static int parse_section(struct parser *p, char *line)
{
	char *end = line + strlen(line) - 1, *name;

	if (*end != ']')
		return wrong(p, "a section needs a ']' at its end");
	*end = '\0';
	name = strip(line + 1);
	if (!strcmp(name, "daemon")) {
		p->section = SECTION_DAEMON;
		return 0;
	}
	if (!strcmp(name, "limits")) {
		p->section = SECTION_LIMITS;
		return 0;
	}
	if (!strncmp(name, "limits", 6) && (name[6] == ' ' || name[6] == '\t'))
		return begin_user(p, strip(name + 6));
	return wrong(p, "unknown section [%s]; there are [daemon], [limits] and [limits USER]",
		     name);
}

static int set_limit(struct parser *p, const struct key *key, const char *value)
{
	uint32_t *limit = p->section == SECTION_USER ? p->rule->limit : p->s->limit;
	enum quota_kind kind = (enum quota_kind)(key->setting - SETTING_LIMIT);

	if (p->section == SECTION_USER && limit[kind] != QUOTA_AS_ALL)
		return wrong(p, "'%s' a second time for this user; remove one", key->name);
	/* who gives limits on the command line means everybody's, not one user's */
	if (p->section == SECTION_LIMITS && p->s->given & 1U << key->setting)
		return key_check(key, value);
	return key_number(value, &limit[kind]);
}

static int set_value(struct parser *p, const struct key *key, const char *value)
{
	bool is_limit = key->setting >= SETTING_LIMIT;
	int r;

	if (p->section != SECTION_USER) {
		if (p->seen & 1U << key->setting)
			return wrong(p, "'%s' a second time; remove one", key->name);
		p->seen |= 1U << key->setting;
	}
	if (is_limit)
		r = set_limit(p, key, value);
	else if (p->s->given & 1U << key->setting)
		r = key_check(key, value);
	else
		r = key_set(p->s, key, value);
	if (r == -EINVAL && !*p->error)
		return wrong(p, "%s is %s, not '%s'", key->name, key->values, value);
	return r;
}

static int parse_key(struct parser *p, char *line)
{
	char *equals = strchr(line, '='), known[160];
	const struct key *key;

	if (!equals)
		return wrong(p, "neither a [section] nor 'key = value'");
	*equals = '\0';
	line = strip(line);
	if (p->section == SECTION_NONE)
		return wrong(p, "'%s' before any section; start with [daemon] or [limits]", line);
	key = key_find(line, p->section != SECTION_DAEMON);
	if (key)
		return set_value(p, key, strip(equals + 1));
	key_list(known, sizeof(known), p->section != SECTION_DAEMON);
	return wrong(p, "unknown key '%s' in [%s]; it has %s", line,
		     p->section == SECTION_DAEMON ? "daemon" : "limits", known);
}

static int parse_line(struct parser *p, char *line)
{
	line = strip(line);
	if (!*line || *line == '#' || *line == ';')
		return 0;
	return *line == '[' ? parse_section(p, line) : parse_key(p, line);
}

int settings_parse(struct settings *s, const char *name, const char *text, size_t len,
		   char *error, size_t error_size)
{
	struct parser p = { .s = s, .name = name, .error = error, .error_size = error_size };
	char *line, *next;
	int r;

	*error = '\0';
	s->text = malloc(len + 1);
	if (!s->text)
		return -ENOMEM;
	memcpy(s->text, text, len);
	s->text[len] = '\0';
	for (line = s->text; line; line = next) {
		p.line++;
		next = memchr(line, '\n', (size_t)(s->text + len - line));
		if (next)
			*next++ = '\0';
		/* a line ends where it says */
		if (strlen(line) != (size_t)((next ? next - 1 : s->text + len) - line))
			return wrong(&p, "a zero byte; this is no text file");
		r = parse_line(&p, line);
		if (r < 0)
			return r;
	}
	return 0;
}

static int read_all(const char *path, char **ret_text, size_t *ret_len)
{
	_cleanup_(freep) char *text = NULL;
	_cleanup_(fd_closep) int fd = -1;
	struct stat st;
	size_t len = 0;
	ssize_t n;

	/* nobody is waited for at the other end of a pipe */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	if (st.st_size > FILE_MAX)
		return -EFBIG;
	text = malloc(FILE_MAX);
	if (!text)
		return -ENOMEM;
	while ((n = read(fd, text + len, FILE_MAX - len)) > 0)
		len += (size_t)n;
	if (n < 0)
		return -errno;
	*ret_text = TAKE_PTR(text);
	*ret_len = len;
	return 0;
}

int settings_load(struct settings *ret_settings, const struct settings *base, char *error,
		  size_t error_size)
{
	const char *path = base->config ? base->config : MIRROR_CONFIG_PATH;
	_cleanup_(freep) char *text = NULL;
	struct settings s = *base;
	size_t len = 0;
	int r;

	*error = '\0';
	s.rules = NULL;
	s.n_rules = 0;
	s.text = NULL;
	/* A private daemon belongs to its program, not to the system. */
	if (base->options.embedded && !base->config) {
		*ret_settings = s;
		return 0;
	}
	r = read_all(path, &text, &len);
	if (r == -ENOENT && !base->config)
		r = 0;
	else if (r < 0)
		snprintf(error, error_size, "cannot read %s: %s", path, strerror(-r));
	if (r == 0)
		r = settings_parse(&s, path, text ? text : "", len, error, error_size);
	if (r < 0) {
		if (!*error)
			snprintf(error, error_size, "%s: %s", path, strerror(-r));
		settings_deinit(&s);
		return r;
	}
	*ret_settings = s;
	return 0;
}
