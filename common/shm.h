/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Access to words that another process reads or writes at the same time
 */

#include <linux/futex.h>
#include <mirror/uapi/gate.h>
#include <sys/syscall.h>
#include <time.h>
#include "base.h"

#define load_relaxed(_p) __atomic_load_n(_p, __ATOMIC_RELAXED)
#define load_acquire(_p) __atomic_load_n(_p, __ATOMIC_ACQUIRE)
#define store_relaxed(_p, _v) __atomic_store_n(_p, _v, __ATOMIC_RELAXED)
#define store_release(_p, _v) __atomic_store_n(_p, _v, __ATOMIC_RELEASE)
#define full_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* CLOCK_MONOTONIC */
static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("yield");
#endif
}

/* Shared, not FUTEX_PRIVATE_FLAG: waker and waiter are different processes. */
static inline long futex_wait(const uint32_t *word, uint32_t value, const struct timespec *timeout)
{
	return syscall(SYS_futex, word, FUTEX_WAIT, value, timeout, NULL, 0);
}

static inline long futex_wake(const uint32_t *word, int n)
{
	return syscall(SYS_futex, word, FUTEX_WAKE, n, NULL, NULL, 0);
}

/* The first two words of the gate in one load: what was true at one moment. */
struct gate_head {
	uint32_t life, seq;
};

static inline struct gate_head gate_head_load(const struct mirror_gate *gate)
{
	union {
		uint64_t raw;
		struct gate_head head;
	} u;

	/* Acquire: pairs with the release of seq in the daemon's gate_known(). */
	u.raw = __atomic_load_n((const uint64_t *)(const void *)gate, __ATOMIC_ACQUIRE);
	return u.head;
}

static inline uint32_t gate_index(uint64_t block, uint32_t n_stripes)
{
	return (uint32_t)(block ^ block / n_stripes) & (n_stripes - 1);
}

/*
 * How many blocks of a range to look at for all of its stripes.  A run of as many
 * blocks as there are stripes need not meet every stripe, as gate_index() shuffles
 * each aligned run differently; one of twice as many holds an aligned run.
 */
static inline uint64_t gate_blocks(uint64_t start, uint64_t end, uint32_t shift,
				   uint32_t n_stripes)
{
	uint64_t n = ((end - 1) >> shift) - (start >> shift) + 1;

	return MIN(n, 2ULL * n_stripes);
}
