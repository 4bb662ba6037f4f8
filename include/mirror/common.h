/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef MIRROR_COMMON_H
#define MIRROR_COMMON_H

/*
 * Conventions of libmirror
 *
 * - A function that can fail returns int: 0 or a positive count on success, a
 *   negative errno on failure.  errno itself may change.
 * - Return parameters are named ret_*.  They are written on success only.
 * - Objects are opaque and reference counted.  *_unref() takes NULL and returns
 *   NULL.
 * - Structs with a @sz member are versioned by it: start from the struct's
 *   *_INIT.  A newer library accepts an older, shorter struct; an older library
 *   accepts a newer, longer one if the part it does not know is zero, and
 *   otherwise fails with -E2BIG.
 * - Every function may be called from any thread.  Callbacks run one at a time
 *   for each context.
 * - After fork() the child gets -ECHILD for everything of its parent's, except
 *   from *_unref(); lookups in it find nothing valid.
 * - Nothing is printed, and nothing ends the process.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
#  define MIRROR_BEGIN_DECLS extern "C" {
#  define MIRROR_END_DECLS }
#else
#  define MIRROR_BEGIN_DECLS
#  define MIRROR_END_DECLS
#endif

#ifdef __GNUC__
#  define MIRROR_MUST_CHECK __attribute__((__warn_unused_result__))
#else
#  define MIRROR_MUST_CHECK
#endif

#endif /* MIRROR_COMMON_H */
