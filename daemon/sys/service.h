/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * systemd
 */

#include "base.h"

/* The listening socket that systemd made for us, or -ENOENT. */
int service_listen_fd(int *ret_fd);

void service_ready(const char *status);
void service_stopping(void);
