/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "kept.h"

#define ANSWER_MS 60000

void kept_init(struct kept *k)
{
	*k = (struct kept) { .fd = -1 };
	daemon_init(&k->place);
	snprintf(k->notify, sizeof(k->notify), "%s/notify", k->place.dir);
}

void kept_start(struct kept *k, const char *const *args, unsigned int store_max)
{
	int pair[2];

	k->options = (struct keeper_options) {
		.daemon = getenv("MIRROR_DAEMON"), .args = args, .socket = k->place.socket,
		.notify = k->notify, .store_max = store_max,
	};
	if (!k->options.daemon)
		bail("MIRROR_DAEMON must name the daemon to test");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		bail("socketpair: %s", strerror(errno));
	k->keeper = child_fork();
	if (!k->keeper) {
		close(pair[0]);
		_exit(keeper_run(&k->options, pair[1], pair[1]));
	}
	close(pair[1]);
	k->fd = pair[0];
	kept_do(k, "wait");
	if (!kept_report(k).ready)
		bail("the daemon %s does not start", k->options.daemon);
}

void kept_end(struct kept *k)
{
	close(k->fd);
	k->fd = -1;
	if (child_wait(k->keeper, 20000))
		note("the keeper did not end well");
	k->keeper = 0;
}

static void read_answer(struct kept *k, const char *command)
{
	struct pollfd pfd = { .fd = k->fd, .events = POLLIN };
	size_t n = 0;
	ssize_t r;

	do {
		r = poll(&pfd, 1, ANSWER_MS);
		if (r > 0)
			r = read(k->fd, k->answer + n, sizeof(k->answer) - 1 - n);
		if (r <= 0)
			bail("the keeper does not answer to '%s'", command);
		n += (size_t)r;
	} while (k->answer[n - 1] != '\n');
	k->answer[n - 1] = 0;
}

const char *kept_do(struct kept *k, const char *format, ...)
{
	char command[128];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(command, sizeof(command) - 1, format, args);
	va_end(args);
	command[n] = '\n';
	if (write(k->fd, command, (size_t)n + 1) != n + 1)
		bail("the keeper is gone");
	command[n] = 0;
	read_answer(k, command);
	if (strncmp(k->answer, "ok", 2))
		bail("keeper, %s: %s", command, k->answer);
	return k->answer + 2 + (k->answer[2] == ' ');
}

struct keeper_report kept_report(struct kept *k)
{
	struct keeper_report report = { .pid = 0 };
	long *numbers = (long *)&report;
	char *p = (char *)(uintptr_t)kept_do(k, "report");

	for (size_t i = 0; i < KEEPER_REPORT_N; i++)
		numbers[i] = strtol(p, &p, 10);
	return report;
}

unsigned int kept_count(struct kept *k, char letter)
{
	const char *names = kept_do(k, "names");
	unsigned int n = 0;

	for (const char *p = names; *p; p += strcspn(p, ":"), p += *p == ':')
		n += *p == letter;
	return n;
}

const char *kept_first(struct kept *k, char letter)
{
	static char name[64];

	for (const char *p = kept_do(k, "names"); *p; p += strcspn(p, ":"), p += *p == ':') {
		if (*p == letter) {
			snprintf(name, sizeof(name), "%.*s", (int)strcspn(p, ":"), p);
			return name;
		}
	}
	return NULL;
}
