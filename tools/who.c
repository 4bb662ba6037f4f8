/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "place.h"
#include "say.h"
#include "who.h"

int parse_number(const char *text, int base, uint64_t max, const char **ret_rest,
		 uint64_t *ret_number)
{
	unsigned long long number;
	char *rest;

	/* strtoull() takes blanks and signs */
	if (!isxdigit((unsigned char)*text))
		return -EINVAL;

	errno = 0;
	number = strtoull(text, &rest, base);
	if (errno || rest == text || number > max)
		return -EINVAL;
	if (!ret_rest && *rest)
		return -EINVAL;

	if (ret_rest)
		*ret_rest = rest;
	*ret_number = number;

	return 0;
}

int who_parse(struct who *who, const char *text)
{
	const char *digits = text;
	bool target = true;
	uint64_t number;

	if (!strncmp(digits, "target:", 7))
		digits += 7;
	else if (*digits == '#')
		digits++;
	else
		target = false;

	if (parse_number(digits, 10, target ? UINT32_MAX : INT32_MAX, NULL, &number) < 0 ||
	    !number)
		return -EINVAL;

	who->text = text;
	who->target = target ? (uint32_t)number : 0;
	who->pid = target ? 0 : (pid_t)number;
	snprintf(who->what, sizeof(who->what), target ? "target %u" : "process %u",
		 (unsigned int)number);

	return 0;
}

int who_find(struct who *who, struct mirror_ctx *ctx)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	int r;

	if (who->target) {
		r = mirror_query_target(ctx, who->target, 0, &info);
		if (r < 0) {
			say_error(SAY_ASK, r, who->what);
			return r;
		}
		who->pid = info.pid;
	}

	who->pidfd = (int)syscall(SYS_pidfd_open, who->pid, 0);
	if (who->pidfd < 0) {
		r = -errno;
		say_error(SAY_ATTACH, r == -EINVAL ? -ESRCH : r, who->what);
		return r;
	}

	return 0;
}

int who_open(struct who *who, uint32_t open_flags)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	int r;

	opts.path = place_system_socket();
	opts.flags = MIRROR_OPEN_NO_EMBEDDED | open_flags;
	r = mirror_open(&who->ctx, &opts);
	if (r < 0) {
		say_error(SAY_OPEN, r, place_system_socket());
		return r;
	}

	r = who_find(who, who->ctx);
	if (r < 0)
		return r;

	r = mirror_target_attach(&who->object, who->ctx, who->pidfd, -1, NULL);
	/* the process was named by number; that number may be somebody else's by now */
	if (r >= 0 && who->target && mirror_target_get_id(who->object) != who->target)
		r = -ESRCH;
	if (r < 0) {
		say_error(SAY_ATTACH, r, who->what);
		return r;
	}
	who->target = mirror_target_get_id(who->object);
	who->pid = mirror_target_get_pid(who->object);

	return 0;
}

void who_close(struct who *who)
{
	who->object = mirror_target_unref(who->object);
	who->ctx = mirror_ctx_unref(who->ctx);
	if (who->pidfd >= 0)
		close(who->pidfd);
	who->pidfd = -1;
}
