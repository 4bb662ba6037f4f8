/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>
#include "core/event.h"
#include "core/notifier.h"
#include "core/quota.h"
#include "unit.h"

START_TEST(quota_counts_by_user)
{
	struct quota_charge a[3] = { QUOTA_CHARGE_NULL }, other = QUOTA_CHARGE_NULL;
	struct quota q;

	quota_init(&q);
	q.limit[QUOTA_TARGETS] = 2;
	ck_assert_int_eq(quota_charge(&q, &a[0], 1000, QUOTA_TARGETS), 0);
	ck_assert_int_eq(quota_charge(&q, &a[1], 1000, QUOTA_TARGETS), 0);
	ck_assert_int_eq(quota_charge(&q, &a[2], 1000, QUOTA_TARGETS), -EDQUOT);
	ck_assert_int_eq(quota_charge(&q, &other, 1001, QUOTA_TARGETS), 0);
	quota_refund(&a[0]);
	quota_refund(&a[0]);	/* twice gives back once */
	ck_assert_int_eq(quota_charge(&q, &a[2], 1000, QUOTA_TARGETS), 0);
	ck_assert_int_eq(quota_charge(&q, &a[0], 1000, QUOTA_TARGETS), -EDQUOT);
	quota_refund(&a[1]);
	quota_refund(&a[2]);
	quota_refund(&other);
	quota_deinit(&q);
}
END_TEST

START_TEST(quota_of_nobody_leaves_nothing)
{
	struct quota_charge a = QUOTA_CHARGE_NULL;
	struct quota q;

	quota_init(&q);
	q.limit[QUOTA_TARGETS] = 0;
	ck_assert_int_eq(quota_charge(&q, &a, 1000, QUOTA_TARGETS), -EDQUOT);
	quota_deinit(&q);	/* asserts */
}
END_TEST

static int charge_one(void)
{
	struct quota_charge a = QUOTA_CHARGE_NULL;
	struct quota q;
	int r;

	quota_init(&q);
	r = quota_charge(&q, &a, 1000, QUOTA_CLIENTS);
	quota_refund(&a);
	quota_deinit(&q);
	return r;
}

START_TEST(quota_of_one_user)
{
	struct quota_rule rules[] = {
		{ .uid = 1001, .limit = { [0 ... _QUOTA_N - 1] = QUOTA_AS_ALL } },
		{ .uid = 1000, .limit = { [0 ... _QUOTA_N - 1] = QUOTA_AS_ALL } },
		{ .uid = 7, .limit = { [0 ... _QUOTA_N - 1] = 0 } },
	};
	struct quota_charge a[4] = { QUOTA_CHARGE_NULL };
	uint32_t limit[_QUOTA_N];
	struct quota q;

	rules[0].limit[QUOTA_TARGETS] = 3;
	rules[1].limit[QUOTA_CLIENTS] = 5;
	quota_default_limits(limit);
	limit[QUOTA_TARGETS] = 1;
	quota_init(&q);
	ck_assert_int_eq(quota_set_limits(&q, limit, rules, ARRAY_SIZE(rules)), 0);
	ck_assert_uint_eq(quota_limit(&q, 1001, QUOTA_TARGETS), 3);
	ck_assert_uint_eq(quota_limit(&q, 1001, QUOTA_CLIENTS), limit[QUOTA_CLIENTS]);
	ck_assert_uint_eq(quota_limit(&q, 1000, QUOTA_TARGETS), 1);
	ck_assert_uint_eq(quota_limit(&q, 1000, QUOTA_CLIENTS), 5);
	ck_assert_uint_eq(quota_limit(&q, 0, QUOTA_TARGETS), 1);
	ck_assert_int_eq(quota_charge(&q, &a[0], 7, QUOTA_TABLES), -EDQUOT);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(quota_charge(&q, &a[i], 1001, QUOTA_TARGETS), 0);
	ck_assert_int_eq(quota_charge(&q, &a[3], 1001, QUOTA_TARGETS), -EDQUOT);

	/* less than there is: nobody loses anything, and nothing is added */
	ck_assert_int_eq(quota_set_limits(&q, limit, NULL, 0), 0);
	ck_assert_int_eq(quota_charge(&q, &a[3], 1001, QUOTA_TARGETS), -EDQUOT);
	quota_refund(&a[0]);
	quota_refund(&a[1]);
	ck_assert_int_eq(quota_charge(&q, &a[0], 1001, QUOTA_TARGETS), -EDQUOT);
	/* but what there was already is counted, whatever the limit */
	q.adopting = true;
	ck_assert_int_eq(quota_charge(&q, &a[0], 1001, QUOTA_TARGETS), 0);
	ck_assert_int_eq(quota_resize(&q, &a[0], 50), 0);
	q.adopting = false;
	ck_assert_int_eq(quota_resize(&q, &a[0], 51), -EDQUOT);
	quota_refund(&a[0]);
	quota_refund(&a[2]);
	ck_assert_int_eq(quota_charge(&q, &a[0], 1001, QUOTA_TARGETS), 0);
	quota_refund(&a[0]);
	quota_deinit(&q);
}
END_TEST

static int set_rules(void)
{
	struct quota_rule rule = { .uid = 1 };
	uint32_t limit[_QUOTA_N] = { 0 };
	struct quota q;
	int r;

	quota_init(&q);
	r = quota_set_limits(&q, limit, &rule, 1);
	if (r < 0 && quota_limit(&q, 1, QUOTA_TARGETS) == 0)
		r = -EINVAL;	/* it must be as it was */
	quota_deinit(&q);
	return r;
}

START_TEST(quota_out_of_memory)
{
	unit_oom(charge_one);
	unit_oom(set_rules);
}
END_TEST

START_TEST(hull_of_what_is_watched)
{
	struct notifier_set set = NOTIFIER_SET_NULL;
	struct notifier a = { .start = 0x10000, .end = 0x20000 };
	struct notifier b = { .start = 0x18000, .end = 0x30000 };
	struct notifier c = { .start = 0x50000, .end = 0x60000 };
	uint64_t start, end;

	ck_assert(!notifier_set_hull(&set, 0, 0x100000, &start, &end));
	notifier_link(&set, &a);
	notifier_link(&set, &b);
	notifier_link(&set, &c);
	ck_assert(notifier_set_hull(&set, 0, 0x100000, &start, &end));
	ck_assert(start == 0x10000 && end == 0x60000);
	ck_assert(notifier_set_hull(&set, 0x14000, 0x19000, &start, &end));
	ck_assert(start == 0x14000 && end == 0x19000);
	ck_assert(notifier_set_hull(&set, 0x1c000, 0x55000, &start, &end));
	ck_assert(start == 0x1c000 && end == 0x55000);
	ck_assert(!notifier_set_hull(&set, 0x30000, 0x50000, &start, &end));
	notifier_unlink(&set, &a);
	notifier_unlink(&set, &b);
	notifier_unlink(&set, &c);
	ck_assert(notifier_set_is_empty(&set));
}
END_TEST

START_TEST(records_carry_everything)
{
	struct event ev = {
		.type = MIRROR_EVENT_REMAP, .cause = MIRROR_CAUSE_MREMAP,
		.source = MIRROR_SOURCE_UFFD, .guarantee = MIRROR_GUARANTEE_ORDERED,
		.flags = MIRROR_EVENT_F_POINT, .start = 0x1000, .end = 0x3000,
		.arg = { 0x7000 }, .time_ns = 99,
	};
	struct mirror_event record;

	memset(&record, 0xff, sizeof(record));
	event_to_record(&ev, &record);
	ck_assert_uint_eq(record.seq, 0);
	ck_assert_uint_eq(record.type, MIRROR_EVENT_REMAP);
	ck_assert_uint_eq(record.cause, MIRROR_CAUSE_MREMAP);
	ck_assert_uint_eq(MIRROR_EVENT_SOURCE(record.flags), MIRROR_SOURCE_UFFD);
	ck_assert_uint_eq(MIRROR_EVENT_GUARANTEE(record.flags), MIRROR_GUARANTEE_ORDERED);
	ck_assert_uint_eq(record.flags & MIRROR_EVENT_F_PHASE, MIRROR_EVENT_F_POINT);
	ck_assert_uint_eq(record.arg.remap.to, 0x7000);
	ck_assert_uint_eq(record.arg.raw[1], 0);
	ck_assert_uint_eq(record.time_ns, 99);
}
END_TEST

UNIT_MAIN("core", quota_counts_by_user, quota_of_nobody_leaves_nothing,
	  quota_of_one_user, quota_out_of_memory,
	  hull_of_what_is_watched, records_carry_everything)
