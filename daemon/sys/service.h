/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The service manager: descriptors it passes, and what it is told
 */

#include "base.h"

struct loop;

/* Descriptors that we were started with, each with the name it was stored under. */
struct inherited {
	struct inherited_fd {
		char name[32];
		int fd;			/* -1: taken */
	} *fds;
	unsigned int n;
};

#define INHERITED_NULL { .fds = NULL }

/* 0 or -errno; none is no error.  All become close-on-exec and are ours to close. */
int service_inherit(struct inherited *ret_inherited);
/* The descriptor of that name, the caller's from now on, or -1. */
int inherited_take(struct inherited *in, const char *name);
/* A listening SEQPACKET socket, whatever its name, or -1. */
int inherited_take_listener(struct inherited *in);
/* Closes what nobody took. */
void inherited_clear(struct inherited *in);

/* Is there one that listens? */
bool service_is_managed(void);

/* Does it say that it keeps descriptors for us?  Before systemd 254 none says so. */
bool service_has_store(void);

/* Of a printf format: the STATUS= line, told if it is another than before. */
void service_status(const char *format, ...) _printf_(1, 2);
void service_ready(void);
void service_reloading(void);
void service_stopping(void);

/*
 * Feeds the watchdog, if there is one, by a timer of the loop: as long as the loop
 * turns, and no longer.  0 or -errno.
 */
int service_watchdog_start(struct loop *loop);
void service_watchdog_stop(void);
