/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Messages to the service manager, as sd_notify(3) sends them, but never waiting:
 * a manager that is slow must not make targets wait.
 */

#include "base.h"

/* Connected to $NOTIFY_SOCKET; -ENOENT: there is no manager that wants to hear. */
int notify_open(void);

/*
 * One message, with @passed unless that is -1.  0; -EAGAIN: the manager's queue is full,
 * and POLLOUT says when it is not; or another -errno.
 */
int notify_send(int fd, const char *text, int passed);

/* The same, but waits for room, @timeout_ms at most. */
int notify_send_wait(int fd, const char *text, int passed, unsigned int timeout_ms);
