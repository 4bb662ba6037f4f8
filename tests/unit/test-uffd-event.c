/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <sys/mman.h>
#include <sys/syscall.h>
#include "source/uffd-source.h"
#include "unit.h"

#define A 0x7f0000000000ULL
#define P PAGE_BYTES

static struct event unmap(uint64_t start, uint64_t end)
{
	struct uffd_msg msg = {
		.event = UFFD_EVENT_UNMAP, .arg.remove = { .start = start, .end = end },
	};
	struct event ev;

	ck_assert(event_from_uffd(&ev, &msg));
	return ev;
}

static uint8_t cause_of(struct event ev, struct peek_hit hit)
{
	pid_t tid;

	hit.tid = 42;
	return cause_from_hits(&ev, &hit, 1, &tid);
}

START_TEST(messages_become_events)
{
	struct uffd_msg remove = {
		.event = UFFD_EVENT_REMOVE, .arg.remove = { .start = A, .end = A + P },
	};
	struct uffd_msg remap = {
		.event = UFFD_EVENT_REMAP, .arg.remap = { .from = A, .to = 2 * A, .len = 4 * P },
	};
	struct uffd_msg fork = { .event = UFFD_EVENT_FORK, .arg.fork.ufd = 9 };
	struct uffd_msg fault = { .event = UFFD_EVENT_PAGEFAULT };
	struct event ev = unmap(A, A + 2 * P);

	ck_assert_uint_eq(ev.type, MIRROR_EVENT_UNMAP);
	ck_assert_uint_eq(ev.flags, MIRROR_EVENT_F_POINT);
	ck_assert(ev.start == A && ev.end == A + 2 * P);
	ck_assert(event_from_uffd(&ev, &remove));
	ck_assert_uint_eq(ev.type, MIRROR_EVENT_CLEAR);
	ck_assert_uint_eq(ev.flags, MIRROR_EVENT_F_START);
	ck_assert(event_from_uffd(&ev, &remap));
	ck_assert_uint_eq(ev.type, MIRROR_EVENT_REMAP);
	ck_assert(ev.start == A && ev.end == A + 4 * P && ev.arg[0] == 2 * A);
	ck_assert(event_from_uffd(&ev, &fork));
	ck_assert_uint_eq(ev.type, MIRROR_EVENT_FORK);
	ck_assert(!event_from_uffd(&ev, &fault));
}
END_TEST

START_TEST(unmap_causes)
{
	struct event ev = unmap(A, A + 4 * P);

	ck_assert_uint_eq(cause_of(ev, (struct peek_hit) {
		.nr = SYS_munmap, .args = { A, 4 * P - 5 } }), MIRROR_CAUSE_MUNMAP);
	ck_assert_uint_eq(cause_of(ev, (struct peek_hit) {
		.nr = SYS_munmap, .args = { A, 3 * P } }), MIRROR_CAUSE_UNKNOWN);
	ck_assert_uint_eq(cause_of(ev, (struct peek_hit) {
		.nr = SYS_mmap, .args = { A, 4 * P, 3, MAP_FIXED | MAP_PRIVATE } }),
		MIRROR_CAUSE_MAP_FIXED);
	ck_assert_uint_eq(cause_of(ev, (struct peek_hit) {
		.nr = SYS_mmap, .args = { A, 4 * P, 3, MAP_PRIVATE } }), MIRROR_CAUSE_UNKNOWN);
	ck_assert_uint_eq(cause_of(ev, (struct peek_hit) {
		.nr = SYS_brk, .args = { A - 7 } }), MIRROR_CAUSE_BRK);
	ck_assert_uint_eq(cause_of(ev, (struct peek_hit) {
		.nr = SYS_mremap, .args = { A - 2 * P, 6 * P, 2 * P, 0 } }),
		MIRROR_CAUSE_MREMAP);
	ck_assert_uint_eq(cause_of(ev, (struct peek_hit) {
		.nr = SYS_mremap, .args = { 2 * A, 4 * P, 4 * P, MREMAP_MAYMOVE | MREMAP_FIXED, A }
		}), MIRROR_CAUSE_MREMAP);
}
END_TEST

START_TEST(clear_causes)
{
	static const struct { int advice; uint8_t cause; } table[] = {
		{ MADV_DONTNEED, MIRROR_CAUSE_DONTNEED }, { MADV_FREE, MIRROR_CAUSE_FREE },
		{ MADV_REMOVE, MIRROR_CAUSE_REMOVE }, { 24, MIRROR_CAUSE_DONTNEED },
		{ MADV_RANDOM, MIRROR_CAUSE_UNKNOWN },
	};
	struct uffd_msg msg = {
		.event = UFFD_EVENT_REMOVE, .arg.remove = { .start = A, .end = A + P },
	};
	struct event ev;

	ck_assert(event_from_uffd(&ev, &msg));
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		ck_assert_uint_eq(cause_of(ev, (struct peek_hit) { .nr = SYS_madvise,
			.args = { A - P, 3 * P, (uint64_t)table[i].advice } }),
			table[i].cause);
}
END_TEST

/* Ranges that make no sense become "everything from there", never nothing. */
START_TEST(absurd_ranges_cover)
{
	struct event ev = unmap(A, A - P);

	ck_assert(ev.start == A && ev.end == USER_END);
	ev = unmap(A, UINT64_MAX);
	ck_assert(ev.end == USER_END);
}
END_TEST

UNIT_MAIN("uffd-event", messages_become_events, unmap_causes, clear_causes, absurd_ranges_cover)
