/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Who may observe whom; see permission.c, and client_may_observe()
 */

#include <stdbool.h>
#include <sys/types.h>

struct client;

/* Every process, by what @pid is and has now?  @uid: what its connection says. */
bool permission_for_all(pid_t pid, uid_t uid);

/* Is its process still the one that it was, and is there? */
bool permission_is_same(const struct client *c);
