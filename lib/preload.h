/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The preload object: makes an unmodified program a target
 */

#include <stddef.h>

/* Something was mapped there.  Callable at any time, anywhere; errno stays. */
void preload_mapped(const void *address, size_t length);

/* The same, when only its address is known. */
void preload_attached(const void *address);
