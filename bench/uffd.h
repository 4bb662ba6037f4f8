/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BENCH_UFFD_H
#define BENCH_UFFD_H

/* The bare userfaultfd, for those that mirrord is compared with. */

#include "bench.h"

/* What linux/userfaultfd.h of before 6.7 does not have */
#define UFFD_HAS_WP_UNPOPULATED	(1ULL << 13)
#define UFFD_HAS_WP_ASYNC	(1ULL << 15)

/* A descriptor that tells of UNMAP, REMOVE and REMAP; @more: features wanted besides. */
int uffd_open(int flags, uint64_t more);
/* 0 or negative errno. */
int uffd_register(int fd, void *start, size_t bytes, uint64_t mode);

#endif /* BENCH_UFFD_H */
