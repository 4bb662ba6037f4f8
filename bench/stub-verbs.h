/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BENCH_STUB_VERBS_H
#define BENCH_STUB_VERBS_H

#include <stdint.h>

/* How often memory was registered with the device that does nothing, and the reverse. */
uint64_t stub_registered(void);
uint64_t stub_deregistered(void);

#endif /* BENCH_STUB_VERBS_H */
