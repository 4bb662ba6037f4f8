/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What every file needs: ownership by attribute, rounding, container_of.
 */

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(_fn) __attribute__((__cleanup__(_fn)))
#define _must_check_ __attribute__((__warn_unused_result__))
#define _unused_ __attribute__((__unused__))
#define _printf_(_a, _b) __attribute__((__format__(__printf__, _a, _b)))

#define likely(_x) __builtin_expect(!!(_x), 1)
#define unlikely(_x) __builtin_expect(!!(_x), 0)

#define ARRAY_SIZE(_a) (sizeof(_a) / sizeof((_a)[0]))
#define MIN(_a, _b) ((_a) < (_b) ? (_a) : (_b))
#define MAX(_a, _b) ((_a) > (_b) ? (_a) : (_b))

#define container_of(_ptr, _type, _member) \
	((_type *)((char *)(_ptr) - offsetof(_type, _member)))

#define PAGE_BYTES 4096ULL

/* The kernel never maps anything at or above this on the 64 bit machines we know. */
#define USER_END (1ULL << 56)

static inline bool range_is_valid(uint64_t start, uint64_t end)
{
	return start < end && end <= USER_END && !((start | end) & (PAGE_BYTES - 1));
}

static inline bool ranges_overlap(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end)
{
	return a < b_end && b < a_end;
}

/* Steals the value and leaves the invalid one behind. */
#define TAKE_FD(_fd) __extension__({ int fd_ = (_fd); (_fd) = -1; fd_; })
#define TAKE_PTR(_p) __extension__({ __typeof__(_p) p_ = (_p); (_p) = NULL; p_; })

/* close(2) is not repeated after EINTR: on Linux the descriptor is gone either way. */
static inline int fd_close(int fd)
{
	int saved = errno;

	if (fd >= 0)
		close(fd);
	errno = saved;
	return -1;
}

static inline void fd_closep(int *fd)
{
	*fd = fd_close(*fd);
}

static inline void freep(void *p)
{
	free(*(void **)p);
}

#define DEFINE_CLEANUP(_type, _fn)				\
	static inline void _fn##p(_type *_p)			\
	{							\
		if (*_p)					\
			*_p = _fn(*_p);				\
	}
