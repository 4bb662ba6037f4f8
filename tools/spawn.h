/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * A program that is about to run
 *
 * The process exists, and can be attached to, before it executes anything: it
 * waits on a pipe.  Only then does it get the environment by which the preload
 * object finds mirrord, and turns into the program.
 */

#include <signal.h>
#include <sys/types.h>

struct spawn {
	pid_t pid;
	int pidfd;
	int go_fd;	/* a byte: go; end of file: never mind */
	int error_fd;	/* errno of execvp(), or end of file */
};

#define SPAWN_NULL { -1, -1, -1, -1 }

/* @mask: signals blocked in the program; the environment is set by then */
int spawn_prepare(struct spawn *spawn, char **argv, const sigset_t *mask);

/* 0 or the -errno of execvp() */
int spawn_go(struct spawn *spawn);

/* the status as shells count it; the program must have ended */
int spawn_reap(struct spawn *spawn);

/* ends a program that was not let go */
void spawn_deinit(struct spawn *spawn);

/* puts where to find mirrord and the preload object into our own environment */
int spawn_set_environment(const char *socket, const char *preload);

/* where the preload object is, as a new string; NULL and a message if there is none */
char *spawn_find_preload(void);
