/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Shared memory with one writer
 *
 * Whoever gets a descriptor from the maker can neither map the memfd writable nor
 * change its size: read-only by construction, and no SIGBUS by a peer that truncates
 * it.  There are two ways to come by that.
 *
 * Sealed: the maker maps it writable, then forbids writing by a seal.  That binds
 * everybody, the maker too: when it dies nobody can go on.
 *
 * Kept: whoever keeps the maker's descriptor for its successor must keep one that can
 * write.  So writing is not sealed; the others get a descriptor that was opened for
 * reading only, of a file whose mode lets no other user open it for writing.  Root
 * could, and a process of the maker's own user; these could as well ptrace the maker.
 */

#include "base.h"

/* Made, sized and sealed against resizing; still writable by everybody who maps it. */
int memfd_new(const char *name, size_t size, int *ret_fd);

/* From now on only mappings that exist already can write. */
int memfd_seal_writes(int fd);

/*
 * The descriptor for the others, the caller's to close.  @keep: @fd stays one that can
 * be mapped writable; else it is sealed.  May be called again, with the same @keep.
 */
int memfd_share(int fd, bool keep, int *ret_fd);

/* -EPROTO unless the memfd has at least @size bytes and cannot shrink, and, if
 * @read_only, cannot be written by new mappings of @fd. */
int memfd_check(int fd, size_t size, bool read_only);
