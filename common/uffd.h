/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * userfaultfd, as far as we use it
 *
 * Debian 12's headers are those of 6.1; what is newer is defined here, and
 * whether the kernel has it is found out by asking it.
 */

#include <linux/userfaultfd.h>
#include "base.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define UFFD_FEAT_WP_HUGETLBFS_SHMEM	(1ULL << 12)
#define UFFD_FEAT_WP_UNPOPULATED	(1ULL << 13)
#define UFFD_FEAT_WP_ASYNC		(1ULL << 15)

#define UFFD_EVENT_FEATURES \
	(UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_REMAP)

/* Registering did not work for a reason of the mapping's, not of the call's. */
enum {
	_UFFD_E_SUCCESS,
	UFFD_E_REFUSED,		/* the kernel lets nobody watch this mapping, or it is gone */
	UFFD_E_BUSY,		/* another userfaultfd has it */
	UFFD_E_UNMAPPED,	/* nothing is mapped there (any more) */
};

/*
 * A non-blocking userfaultfd of the calling process, without UFFDIO_API done.
 * *ret_user_only: it cannot handle faults of the kernel's own accesses, which
 * matters only where faults are served.
 */
int uffd_new(int *ret_fd, bool *ret_user_only);

/* UFFDIO_API; -EPERM if a feature needs privileges, -EINVAL if it is unknown. */
int uffd_api(int fd, uint64_t features);

/* What the kernel knows, asked through a userfaultfd of our own. */
int uffd_query_features(uint64_t *ret_features);

/* 0, a UFFD_E_*, or -errno.  -ESRCH: the address space is gone. */
int uffd_register(int fd, uint64_t start, uint64_t end);
int uffd_unregister(int fd, uint64_t start, uint64_t end);

/* 1 while a change is in flight whose event nobody has read yet, else 0. */
int uffd_probe(int fd);

/* false once the address space this userfaultfd belongs to is gone. */
bool uffd_mm_is_alive(int fd);

/* Is this descriptor, which somebody handed us, a userfaultfd at all? */
bool uffd_is_uffd(int fd);
