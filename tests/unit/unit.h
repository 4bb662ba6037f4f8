/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Unit tests: Check, reporting TAP, and allocations that fail on demand
 *
 * The test programs are linked with --wrap for malloc, calloc and realloc.  An
 * UNIT_OOM test runs its body with the first allocation failing, then the second,
 * and so on until the body gets through without meeting the failure.
 */

#include <check.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The @n-th allocation from now on fails, once; 0: none. */
void unit_fail_allocation(unsigned int n);
bool unit_allocation_failed(void);

/* @body returns 0, or -ENOMEM if an allocation failed and all was undone. */
void unit_oom(int (*body)(void));

#define UNIT_MAIN(_name, ...)							\
	int main(void)								\
	{									\
		const TTest *const tests[] = { __VA_ARGS__ };		\
		Suite *suite = suite_create(_name);				\
		SRunner *runner = srunner_create(suite);			\
		int failed;							\
										\
		for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {	\
			TCase *tc = tcase_create(tests[i]->name);		\
										\
			tcase_set_timeout(tc, 120);				\
			tcase_add_test(tc, tests[i]);				\
			suite_add_tcase(suite, tc);				\
		}								\
		srunner_set_tap(runner, "-");					\
		srunner_run_all(runner, CK_SILENT);				\
		failed = srunner_ntests_failed(runner);				\
		srunner_free(runner);						\
		return failed ? 1 : 0;						\
	}
