/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The device and how to get through it
 *
 * $MIRROR_TEST_TRANSPORT says which: "cuse", a node in /dev, or else a mounted file.  The
 * test runs in a mount namespace of its own, so that nothing of it stays behind.
 */

#include <mirror/uapi/event.h>
#include <mirror/uapi/ioctl.h>
#include <stdint.h>
#include <sys/types.h>
#include "raw.h"

#define NOBODY	65534

struct door {
	struct daemon daemon;
	char path[64];
	char name[32];		/* CUSE: of the node; else empty */
};

/* Ends the test with the reason when there can be no device here. */
void door_init(struct door *door);
/* Options for a daemon: two, and NULL. */
void door_options(const struct door *door, const char **ret_options);
/* As daemon_start(), with a device. */
void door_start(struct door *door, const char *const *args);
/* Another daemon for the same device, in its place: its wait status.  It must not serve. */
int door_start_second(const struct door *door);

/* Bails out when it cannot be opened. */
int door_open(const struct door *door, int flags);
/* 0 or -errno */
int door_try_open(const struct door *door, int flags, int *ret_fd);

/* ioctl(2): 0 or -errno */
int call(int fd, unsigned long command, void *arg);

/* Attaches this process through @fd, with a userfaultfd.  Its target id, or -errno. */
int attach_self(int fd);
int attach_pid(int fd, pid_t pid, uint32_t flags);
/* The notifier's id, or -errno. */
int insert(int fd, uint32_t target, const void *start, size_t size);

/* Memory that can be watched. */
char *map_pages(size_t n);
/* Every page but the last is unmapped by a call of its own: that many records. */
void unmap_each(char *p, size_t n);

/* Clients in the daemon; it is asked through @fd. */
int count_clients(int fd);
/* Until there are that many. */
bool wait_clients(int fd, int n);

/* Until that thread sleeps in this system call. */
bool wait_asleep(pid_t tid, long number);
