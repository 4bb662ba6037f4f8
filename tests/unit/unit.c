/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include "unit.h"

static unsigned int fail_at;
static bool failed;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static bool must_fail(void)
{
	if (!fail_at || --fail_at)
		return false;
	failed = true;
	errno = ENOMEM;
	return true;
}

void *__wrap_malloc(size_t n)
{
	return must_fail() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return must_fail() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	return must_fail() ? NULL : __real_realloc(p, n);
}

void unit_fail_allocation(unsigned int n)
{
	fail_at = n;
	failed = false;
}

bool unit_allocation_failed(void)
{
	return failed;
}

void unit_oom(int (*body)(void))
{
	unsigned int n = 0;
	int r;

	do {
		ck_assert_uint_lt(++n, 1000);
		unit_fail_allocation(n);
		r = body();
		fail_at = 0;	/* Check allocates too */
		if (failed)
			ck_assert_msg(r == -ENOMEM, "allocation %u failed, result %d", n, r);
		else
			ck_assert_msg(r == 0, "no allocation failed, result %d", r);
	} while (failed);
	ck_assert_uint_gt(n, 1);	/* a body that allocates nothing tests nothing */
	unit_fail_allocation(0);
}
