/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Shared memory with one writer
 *
 * The maker maps a memfd writable and then seals it, so that whoever gets the
 * descriptor can neither map it writable nor change its size: read-only by
 * construction, and no SIGBUS by a peer that truncates it.
 */

#include "base.h"

/* Made, sized and sealed against resizing; still writable by everybody who maps it. */
int memfd_new(const char *name, size_t size, int *ret_fd);

/* From now on only mappings that exist already can write. */
int memfd_seal_writes(int fd);

/* -EPROTO unless the memfd has at least @size bytes and cannot shrink, and, if
 * @read_only, cannot be written by new mappings. */
int memfd_check(int fd, size_t size, bool read_only);
