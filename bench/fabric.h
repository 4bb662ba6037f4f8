/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BENCH_FABRIC_H
#define BENCH_FABRIC_H

/*
 * libfabric's own registration cache, with its own userfaultfd monitor, on the device
 * that does nothing, see stub-verbs.c.
 */

#include "bench.h"

/*
 * Opens a domain, or skips.  The monitor's thread is bound to processor @cpu, or not if
 * that is -1; so is the caller then.
 */
void fabric_open(int cpu);
/* Registers and closes at once, which leaves it cached. */
void fabric_use(void *start, size_t bytes);
/* libfabric's version, 1017 for 1.17. */
unsigned int fabric_version(void);

#endif /* BENCH_FABRIC_H */
