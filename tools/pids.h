/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Which process a target is
 *
 * Records name targets, people name processes.  Once a target is gone mirrord
 * cannot be asked about it any more, while records of it are still in the ring;
 * so what was learnt is kept.
 */

#include <stdint.h>
#include <sys/types.h>

struct pids {
	void *root;	/* of tsearch(3) */
};

#define PIDS_NULL { NULL }

void pids_deinit(struct pids *pids);

void pids_set(struct pids *pids, uint32_t target, pid_t pid);
pid_t pids_get(const struct pids *pids, uint32_t target);
void pids_forget(struct pids *pids, uint32_t target);
