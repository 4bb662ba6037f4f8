/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The keeper's store of descriptors, with systemd's rules
 */

#include <stdbool.h>
#include <stddef.h>

#define SHELF_MAX 8192

struct shelf {
	struct shelf_fd {
		int fd;
		bool watched;		/* dropped when it hangs up */
		char name[64];
	} fds[SHELF_MAX];
	unsigned int n, max;
	long dropped, twice, refused;
};

/* @fd is taken over, whatever becomes of it. */
void shelf_put(struct shelf *s, const char *name, int fd, bool watched);
/* How many had that name; NULL is all of them. */
unsigned int shelf_remove(struct shelf *s, const char *name);
int shelf_find(const struct shelf *s, const char *name);
/* Drops what hangs up. */
void shelf_watch(struct shelf *s);
/* "a:b:c", the newest first; the caller frees it. */
char *shelf_names(const struct shelf *s);
