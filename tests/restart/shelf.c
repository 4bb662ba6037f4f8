/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include "base.h"
#include "shelf.h"

static bool is_same_file(int a, int b)
{
	pid_t pid = getpid();

	return syscall(SYS_kcmp, pid, pid, KCMP_FILE, a, b) == 0;
}

void shelf_put(struct shelf *s, const char *name, int fd, bool watched)
{
	_cleanup_(fd_closep) int file = fd;

	if (s->n == SHELF_MAX || s->n >= s->max) {
		s->refused++;
		return;
	}
	for (unsigned int i = 0; i < s->n; i++) {
		if (is_same_file(s->fds[i].fd, file)) {
			s->twice++;
			return;
		}
	}
	snprintf(s->fds[s->n].name, sizeof(s->fds[s->n].name), "%s", *name ? name : "stored");
	s->fds[s->n].watched = watched;
	s->fds[s->n++].fd = TAKE_FD(file);
}

static void take_out(struct shelf *s, unsigned int i)
{
	fd_close(s->fds[i].fd);
	memmove(&s->fds[i], &s->fds[i + 1], (s->n - i - 1) * sizeof(s->fds[0]));
	s->n--;
}

unsigned int shelf_remove(struct shelf *s, const char *name)
{
	unsigned int n = 0;

	for (unsigned int i = s->n; i--;) {
		if (!name || !strcmp(s->fds[i].name, name)) {
			take_out(s, i);
			n++;
		}
	}
	return n;
}

int shelf_find(const struct shelf *s, const char *name)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (!strcmp(s->fds[i].name, name))
			return s->fds[i].fd;
	return -1;
}

void shelf_watch(struct shelf *s)
{
	for (unsigned int i = s->n; i--;) {
		struct pollfd pfd = { .fd = s->fds[i].fd };

		if (s->fds[i].watched && poll(&pfd, 1, 0) > 0) {
			take_out(s, i);
			s->dropped++;
		}
	}
}

char *shelf_names(const struct shelf *s)
{
	size_t size = 1;
	char *text, *p;

	for (unsigned int i = 0; i < s->n; i++)
		size += strlen(s->fds[i].name) + 1;
	text = p = calloc(1, size);
	for (unsigned int i = s->n; text && i--;)
		p += sprintf(p, "%s%s", s->fds[i].name, i ? ":" : "");
	return text;
}
