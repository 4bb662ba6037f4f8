/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Structs versioned by their size
 *
 * A shorter one is an older caller's: what it does not have is zero.  A longer
 * one is a newer caller's: it may have its way only if it wants nothing new.
 */
#include <string.h>
#include "mirror-private.h"

static bool tail_is_zero(const void *p, size_t from, size_t to)
{
	const uint8_t *bytes = p;

	for (size_t i = from; i < to; i++)
		if (bytes[i])
			return false;
	return true;
}

int opts_read(void *opts, size_t size, const void *user, size_t user_size)
{
	if (user_size < sizeof(size_t))
		return -EINVAL;
	if (user_size > size && !tail_is_zero(user, size, user_size))
		return -E2BIG;
	memset(opts, 0, size);
	memcpy(opts, user, MIN(size, user_size));
	return 0;
}

/* @min: bytes of the size member (and its company), which stay the caller's. */
int opts_write(void *user, size_t user_size, const void *value, size_t size, size_t min)
{
	if (user_size < min)
		return -EINVAL;
	if (user_size > size && !tail_is_zero(user, size, user_size))
		return -E2BIG;
	memcpy((uint8_t *)user + min, (const uint8_t *)value + min, MIN(size, user_size) - min);
	return 0;
}
