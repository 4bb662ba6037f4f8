/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A manager is killed, another one goes on: what is told, and how often
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include "adopt-scene.h"
#include "shm.h"
#include "sys/state.h"
#include "sys/store.h"
#include "table-fill.h"
#include "unit.h"

static struct event change(uint8_t type, uint16_t flags, uint64_t start, uint64_t end)
{
	return (struct event) {
		.type = type, .flags = flags, .start = start, .end = end,
		.source = MIRROR_SOURCE_UFFD, .guarantee = MIRROR_GUARANTEE_ORDERED,
	};
}

static void happen(struct scene *s, uint8_t type, uint16_t flags, uint64_t start, uint64_t end)
{
	struct event ev = change(type, flags, start, end);

	s->target->sink.ops->unknown(&s->target->sink);
	s->target->sink.ops->event(&s->target->sink, &ev);
}

static void unmap(struct scene *s, uint64_t start)
{
	happen(s, MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, start, start + P);
}

static void take_unmap(struct scene *s, uint64_t start, uint64_t seq)
{
	struct mirror_event ev;

	ck_assert(scene_take(s, &ev));
	ck_assert_uint_eq(ev.type, MIRROR_EVENT_UNMAP);
	ck_assert(ev.start == start && ev.seq == seq);
}

static bool is_good(const struct scene *s)
{
	const struct mirror_gate *g = s->target->gate.shm;

	return g->life == g->live && g->live == s->m.live && !(g->seq & 1) &&
	       g->state == MIRROR_GATE_LIVE;
}

/* ---- nothing was under way ---- */

static void two_changes(struct scene *s)
{
	scene_watch(s, A, A + 4 * P, 0);
	scene_watch(s, A + 8 * P, A + 9 * P, MIRROR_NOTIFIER_F_END);
	unmap(s, A);
	unmap(s, A + P);
}

START_TEST(it_goes_on_where_it_was)
{
	struct mirror_event ev;
	struct notifier *n;
	struct scene s;

	scene_init(&s, 16);
	scene_die(&s, two_changes);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert(s.client && s.target && s.attachment && s.attachment->is_self);
	ck_assert_uint_eq(s.target->state, MIRROR_TARGET_ARMED);
	ck_assert_int_eq(s.target->pid, getpid());
	ck_assert_int_eq(s.client->conn.pid, getpid());
	ck_assert_uint_eq(s.target->notifiers.tree.n, 2);
	n = client_find_notifier(s.client, 2);
	ck_assert(n && n->start == A + 8 * P && n->end == A + 9 * P &&
		  n->flags == MIRROR_NOTIFIER_F_END && n->user_data == A + 8 * P);
	ck_assert(is_good(&s) && gate_is_quiet(&s.target->gate));
	take_unmap(&s, A, 1);
	take_unmap(&s, A + P, 2);
	ck_assert(!scene_take(&s, &ev));
	ck_assert_uint_eq(s.client->ring->hdr->flags, 0);
	unmap(&s, A + 2 * P);
	take_unmap(&s, A + 2 * P, 3);
	ck_assert_uint_eq(scene_watch(&s, A, A + P, 0)->id, 3);
	scene_end(&s);
}
END_TEST

static uint64_t *before;

static void note_versions(struct scene *s)
{
	scene_watch(s, A, A + 4 * P, 0);
	unmap(s, A);
	for (unsigned int i = 0; i < GATE_STRIPES; i++)
		before[i] = s->target->gate.stripes[i].started;
}

START_TEST(no_version_survives)
{
	struct scene s;

	before = mmap(NULL, GATE_STRIPES * 8, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	scene_init(&s, 16);
	scene_die(&s, note_versions);
	ck_assert_int_eq(scene_adopt(&s), 0);
	for (unsigned int i = 0; i < GATE_STRIPES; i++)
		ck_assert_uint_gt(s.target->gate.stripes[i].started, before[i]);
	scene_end(&s);
}
END_TEST

/* ---- in the middle of a change ---- */

static unsigned int steps;

static void part_of_a_change(struct scene *s)
{
	struct event ev = change(MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A, A + P);
	struct notifier *n = scene_watch(s, A, A + 4 * P, 0);
	struct gate *gate = &s->target->gate;

	unmap(s, A + P);
	if (steps > 0)
		gate_unknown_begin(gate);
	if (steps > 1)
		gate_start(gate, A, A + P);
	if (steps > 2)
		gate_unknown_end(gate);
	if (steps > 3)
		manager_put(&s->m, n, &ev, 0);
	if (steps > 4)
		manager_flush(&s->m);
	if (steps > 5)
		gate_end(gate, A, A + P);
}

static void check_part(struct scene *s, unsigned int last)
{
	bool told = last >= 5, lost = last > 0 && last < 6;
	struct mirror_event ev;
	uint64_t seq = 1;

	ck_assert(is_good(s) && gate_is_quiet(&s->target->gate));
	take_unmap(s, A + P, seq++);
	if (told)
		take_unmap(s, A, seq++);
	if (lost) {
		ck_assert(scene_take(s, &ev));
		ck_assert_uint_eq(ev.type, MIRROR_EVENT_OVERFLOW);
		ck_assert(ev.seq == seq++ && ev.arg.overflow.lost);
	}
	ck_assert_uint_eq(s->client->ring->hdr->flags, 0);
	unmap(s, A + 2 * P);
	take_unmap(s, A + 2 * P, seq);
	ck_assert(!scene_take(s, &ev));
}

START_TEST(each_step_of_a_change)
{
	for (steps = 0; steps < 7; steps++) {
		struct scene s;

		scene_init(&s, 16);
		scene_die(&s, part_of_a_change);
		ck_assert_int_eq(scene_adopt(&s), 0);
		check_part(&s, steps);
		scene_end(&s);
	}
}
END_TEST

static void nothing(struct scene *s)
{
	(void)s;
}

static void adopt_half(struct scene *s)
{
	(void)s;	/* it was adopted; the records of the OVERFLOW are not consumed */
}

/* The second death finds what the first one left: OVERFLOW is told once at least. */
START_TEST(death_again)
{
	for (steps = 0; steps < 7; steps++) {
		struct scene s;

		scene_init(&s, 16);
		scene_die(&s, part_of_a_change);
		scene_die_again(&s, adopt_half);
		scene_die_again(&s, nothing);
		ck_assert_int_eq(scene_adopt(&s), 0);
		check_part(&s, steps);
		scene_end(&s);
	}
}
END_TEST

/* All slots are written anew behind what was shown. */
static void a_batch_that_is_not_shown(struct scene *s)
{
	struct event ev = change(MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A, A + P);
	struct notifier *n = scene_watch(s, A, A + 4 * P, 0);
	struct ring *ring = s->client->ring;

	for (int i = 0; i < 21; i++) {
		unmap(s, A);
		ring->cons->head = ring->tail;
	}
	gate_unknown_begin(&s->target->gate);
	for (unsigned int i = 0; i < steps; i++)
		manager_put(&s->m, n, &ev, 0);
}

START_TEST(numbers_have_no_gaps)
{
	for (steps = 0; steps <= 9; steps++) {
		struct mirror_event ev;
		struct scene s;

		scene_init(&s, 8);
		scene_die(&s, a_batch_that_is_not_shown);
		ck_assert_int_eq(scene_adopt(&s), 0);
		ck_assert_uint_eq(s.client->ring->cons->head, 21);
		ck_assert(scene_take(&s, &ev));
		ck_assert_uint_eq(ev.type, MIRROR_EVENT_OVERFLOW);
		ck_assert_uint_eq(ev.seq, 22);
		scene_end(&s);
	}
}
END_TEST

static void a_full_ring(struct scene *s)
{
	scene_watch(s, A, A + 4 * P, 0);
	for (int i = 0; i < 7; i++)
		unmap(s, A);
}

START_TEST(a_loss_is_told_by_the_next)
{
	struct mirror_event ev;
	struct scene s;

	scene_init(&s, 4);
	scene_die(&s, a_full_ring);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert_uint_eq(s.client->ring->hdr->flags, MIRROR_RING_F_OVERFLOW);
	for (uint64_t i = 0; i < 4; i++)
		take_unmap(&s, A, i + 1);
	client_settle(s.client);
	ck_assert(scene_take(&s, &ev));
	ck_assert(ev.type == MIRROR_EVENT_OVERFLOW && ev.seq == 5);
	ck_assert_uint_eq(s.client->ring->hdr->flags, 0);
	ck_assert_uint_eq(s.client->ring->hdr->lost, 3);
	scene_end(&s);
}
END_TEST

static void a_sleeper_not_woken(struct scene *s)
{
	struct event ev = change(MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A, A + P);
	struct notifier *n = scene_watch(s, A, A + 4 * P, 0);

	manager_put(&s->m, n, &ev, 0);
	s->client->ring->cons->wait_gen = 1;
	manager_flush(&s->m);
}

START_TEST(who_sleeps_is_woken)
{
	struct scene s;
	int wake;
	char c;

	scene_init(&s, 16);
	scene_die(&s, a_sleeper_not_woken);
	/* the consumer's end */
	wake = fcntl(scene_stored(&s, "W1"), F_DUPFD_CLOEXEC, 3);
	ck_assert_int_eq(recv(wake, &c, 1, MSG_DONTWAIT), -1);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert_int_eq(recv(wake, &c, 1, MSG_DONTWAIT), 1);
	close(wake);
	scene_end(&s);
}
END_TEST

/* ---- a CLEAR that was let go ---- */

static void an_open_clear(struct scene *s)
{
	scene_watch(s, A, A + 4 * P, MIRROR_NOTIFIER_F_END);
	happen(s, MIRROR_EVENT_CLEAR, MIRROR_EVENT_F_START, A, A + P);
}

static bool gate_has_ended(struct scene *s)
{
	return gate_is_quiet(&s->target->gate);
}

/* The gate lives, but nothing is established until no thread is inside of madvise. */
START_TEST(an_end_is_proven_anew)
{
	struct mirror_event ev;
	struct scene s;

	scene_init(&s, 16);
	scene_use_child(&s);
	scene_die(&s, an_open_clear);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert(is_good(&s));
	for (unsigned int i = 0; i < GATE_STRIPES; i++)
		ck_assert_uint_lt(s.target->gate.stripes[i].ended,
				  s.target->gate.stripes[i].started);
	ck_assert(scene_run(&s, gate_has_ended));
	ck_assert(scene_take(&s, &ev) && (ev.flags & MIRROR_EVENT_F_START));
	ck_assert(scene_take(&s, &ev) && ev.type == MIRROR_EVENT_OVERFLOW);
	ck_assert(!scene_take(&s, &ev));
	for (unsigned int i = 0; i < GATE_STRIPES; i++)
		ck_assert_uint_eq(s.target->gate.stripes[i].ended,
				  s.target->gate.stripes[i].started);
	scene_end(&s);
}
END_TEST

/* ---- the end of a target ---- */

static void a_release_half_told(struct scene *s)
{
	struct event ev = change(MIRROR_EVENT_RELEASE, MIRROR_EVENT_F_POINT, A, A + P);
	struct notifier *n[3];

	for (uint64_t i = 0; i < 3; i++)
		n[i] = scene_watch(s, A + i * P, A + (i + 1) * P, 0);
	ev.cause = MIRROR_CAUSE_EXIT;
	s->target->slot->u.target.going = MIRROR_CAUSE_EXIT;
	gate_release(&s->target->gate, MIRROR_GATE_RELEASED);
	for (unsigned int i = 0; i < steps; i++)
		manager_put(&s->m, n[i], &ev, MIRROR_EVENT_F_LAST);
	manager_flush(&s->m);
}

START_TEST(release_is_told_once_to_each)
{
	for (steps = 0; steps <= 3; steps++) {
		struct mirror_event ev;
		unsigned int seen = 0;
		struct scene s;

		scene_init(&s, 16);
		scene_die(&s, a_release_half_told);
		ck_assert_int_eq(scene_adopt(&s), 0);
		ck_assert_uint_eq(s.target->state, MIRROR_TARGET_DEAD);
		ck_assert_uint_ne(s.target->gate.shm->life, s.m.live);
		while (scene_take(&s, &ev)) {
			ck_assert_uint_eq(ev.type, MIRROR_EVENT_RELEASE);
			ck_assert_uint_eq(ev.cause, MIRROR_CAUSE_EXIT);
			ck_assert(!(seen & 1U << ((ev.user_data - A) / P)));
			seen |= 1U << ((ev.user_data - A) / P);
		}
		ck_assert_uint_eq(seen, 7);
		ck_assert_uint_eq(s.target->notifiers.tree.n, 0);
		scene_end(&s);
	}
}
END_TEST

static void a_release_that_does_not_fit(struct scene *s)
{
	for (uint64_t i = 0; i < 3; i++)
		scene_watch(s, A + i * P, A + (i + 1) * P, 0);
	for (int i = 0; i < 4; i++)
		unmap(s, A);
	target_gone(s->target, MIRROR_CAUSE_EXIT);
}

static void some_of_it_is_told(struct scene *s)
{
	struct mirror_event ev;

	for (unsigned int i = 0; i < steps; i++)
		scene_take(s, &ev);
	client_settle(s->client);
}

START_TEST(an_owed_release_is_told_once)
{
	for (steps = 0; steps <= 4; steps++) {
		struct mirror_event ev;
		unsigned int releases = 0, overflows = 0;
		struct scene s;

		scene_init(&s, 4);
		scene_die(&s, a_release_that_does_not_fit);
		scene_die_again(&s, some_of_it_is_told);
		ck_assert_int_eq(scene_adopt(&s), 0);
		for (int round = 0; round < 4; round++) {
			while (scene_take(&s, &ev)) {
				releases += ev.type == MIRROR_EVENT_RELEASE;
				overflows += ev.type == MIRROR_EVENT_OVERFLOW;
			}
			client_settle(s.client);
		}
		ck_assert_uint_eq(releases, 3);
		ck_assert_uint_ge(overflows, 1);
		ck_assert_uint_eq(s.target->notifiers.tree.n, 0);
		ck_assert_uint_eq(s.client->n_release_owed, 0);
		scene_end(&s);
	}
}
END_TEST

static void watch_one(struct scene *s)
{
	scene_watch(s, A, A + 4 * P, 0);
}

START_TEST(a_target_that_ended_meanwhile)
{
	struct mirror_event ev;
	struct scene s;

	scene_init(&s, 16);
	scene_use_child(&s);
	scene_die(&s, watch_one);
	kill(s.pid, SIGKILL);
	waitpid(s.pid, NULL, 0);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert_uint_eq(s.target->state, MIRROR_TARGET_DEAD);
	ck_assert(scene_take(&s, &ev) && ev.type == MIRROR_EVENT_RELEASE);
	ck_assert_uint_eq(ev.cause, MIRROR_CAUSE_EXIT);
	ck_assert(!scene_take(&s, &ev));
	ck_assert_uint_eq(scene_count(&s, 'u'), 0);
	s.pid = getpid();
	scene_end(&s);
}
END_TEST

static void an_exec(struct scene *s)
{
	scene_watch(s, A, A + 4 * P, MIRROR_NOTIFIER_F_FOLLOW_EXEC);
	scene_watch(s, A, A + 4 * P, 0);
	target_gone(s->target, MIRROR_CAUSE_EXEC);
}

START_TEST(between_two_programs)
{
	struct mirror_event ev;
	struct scene s;
	uint64_t started;
	int uffd;

	scene_init(&s, 16);
	uffd = scene_new_uffd();
	scene_die(&s, an_exec);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert_uint_eq(s.target->state, MIRROR_TARGET_PENDING);
	ck_assert_uint_eq(s.target->gate.shm->life, 0);
	ck_assert_uint_eq(s.target->notifiers.tree.n, 1);
	for (int i = 0; i < 2; i++)
		ck_assert(scene_take(&s, &ev) && ev.type == MIRROR_EVENT_RELEASE);
	ck_assert(!scene_take(&s, &ev));
	started = s.target->gate.stripes[0].started;
	ck_assert_int_eq(target_start(s.target, uffd), 0);
	ck_assert(is_good(&s) && s.target->gate.stripes[0].started > started);
	unmap(&s, A);
	take_unmap(&s, A, 3);
	ck_assert_uint_eq(scene_count(&s, 'u'), 1);
	scene_end(&s);
}
END_TEST

static void an_exit(struct scene *s)
{
	watch_one(s);
	target_gone(s->target, MIRROR_CAUSE_EXIT);
}

START_TEST(a_dead_target_can_be_asked_about)
{
	struct mirror_event ev;
	struct scene s;

	scene_init(&s, 16);
	scene_die(&s, an_exit);
	scene_die_again(&s, nothing);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert_uint_eq(s.target->state, MIRROR_TARGET_DEAD);
	ck_assert_uint_eq(s.target->gate.shm->state, MIRROR_GATE_RELEASED);
	ck_assert_uint_ne(s.target->gate.shm->life, s.target->gate.shm->live);
	ck_assert(scene_take(&s, &ev) && ev.type == MIRROR_EVENT_RELEASE);
	ck_assert(!scene_take(&s, &ev));
	ck_assert(loop_op_is_active(&s.target->timer));
	scene_end(&s);
}
END_TEST

/* ---- a mirror table ---- */

static void with_a_table(struct scene *s)
{
	scene_watch(s, A, A + 4 * P, MIRROR_NOTIFIER_F_FILL);
	target_table_get(s->target, getuid(), 0);
	table_enter(&s->target->table->core, A, A + 4 * P,
		    MIRROR_ENTRY_VALID | MIRROR_PTE_PRESENT);
}

START_TEST(a_table_begins_anew)
{
	struct mirror_table *old;
	char name[STORE_NAME_MAX];
	struct scene s;
	int fd;

	scene_init(&s, 16);
	scene_die(&s, with_a_table);
	for (uint32_t i = 1; i < 9; i++) {
		store_name(name, 't', i);
		fd = scene_stored(&s, name);
		if (fd >= 0)
			break;
	}
	old = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(old, MAP_FAILED);
	ck_assert_uint_eq(old->state, MIRROR_TABLE_LIVE);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert_uint_eq(old->state, MIRROR_TABLE_MOVED);
	ck_assert_ptr_nonnull(s.target->table);
	ck_assert_uint_eq(radix_get(&s.target->table->core.radix, A), 0);
	ck_assert_uint_eq(scene_count(&s, 't'), 1);
	ck_assert_int_eq(scene_stored(&s, name), -1);
	scene_end(&s);
}
END_TEST

UNIT_MAIN("adopt", it_goes_on_where_it_was, no_version_survives, each_step_of_a_change,
	  death_again, numbers_have_no_gaps, a_loss_is_told_by_the_next, who_sleeps_is_woken,
	  an_end_is_proven_anew, release_is_told_once_to_each, an_owed_release_is_told_once,
	  a_target_that_ended_meanwhile, between_two_programs,
	  a_dead_target_can_be_asked_about, a_table_begins_anew)
