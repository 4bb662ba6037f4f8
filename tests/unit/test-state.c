/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * State, as it is found after each single instruction of the one who writes it
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
#include "memfd.h"
#include "sys/state.h"
#include "unit.h"

#define COPY (8 * PAGE_BYTES)	/* header, and more slots than are used here */

/* Members are made of the id, so that whoever finds a slot can tell if it is whole. */
static void fill_client(struct state_slot *slot, uint32_t id)
{
	slot->id = id;
	slot->u.client = (struct state_client) {
		.pid = (int32_t)id * 3, .uid = id * 5, .gid = id * 7, .fh = id * 11ULL,
	};
}

static void fill_target(struct state_slot *slot, uint32_t id)
{
	slot->id = id;
	slot->u.target = (struct state_target) {
		.pid = (int32_t)id * 3, .uid = id * 5, .start_time = id * 7ULL, .uffd = id,
	};
}

static bool is_whole(const struct state_slot *s)
{
	switch (s->kind) {
	case STATE_CLIENT:
		return s->id && s->u.client.pid == (int32_t)s->id * 3 &&
		       s->u.client.uid == s->id * 5 && s->u.client.gid == s->id * 7 &&
		       s->u.client.fh == s->id * 11ULL;
	case STATE_TARGET:
		return s->id && s->u.target.pid == (int32_t)s->id * 3 &&
		       s->u.target.uid == s->id * 5 &&
		       s->u.target.start_time == s->id * 7ULL && s->u.target.uffd == s->id;
	case STATE_NOTIFIER:
		return s->u.notifier.start + 1 == s->u.notifier.end &&
		       s->u.notifier.user_data == s->u.notifier.start;
	}
	return true;
}

static struct state_slot *add(struct state *state, enum state_kind kind, uint32_t id,
			      const struct state_slot *a, const struct state_slot *b)
{
	struct state_slot *slot;

	if (state_slot_new(state, &slot) < 0)
		_exit(1);
	if (kind == STATE_CLIENT)
		fill_client(slot, id);
	if (kind == STATE_TARGET)
		fill_target(slot, id);
	if (kind == STATE_ATTACHMENT) {
		slot->u.attachment.client = state_slot_index(state, a);
		slot->u.attachment.target = state_slot_index(state, b);
	}
	if (kind == STATE_NOTIFIER) {
		slot->u.notifier.attachment = state_slot_index(state, a);
		slot->u.notifier.user_data = slot->u.notifier.start = id;
		slot->u.notifier.end = id + 1;
	}
	state_slot_set(slot, kind);
	return slot;
}

/* What a daemon does in its life, in short, with slots that are used again. */
static void live(struct state *state)
{
	struct state_slot *c, *t, *a, *n[2], *last = NULL;

	for (unsigned int i = 0; i < 3; i++) {
		state_begin(state, i + 101, 2, i + 100);	/* comes to no end */
		state_begin(state, i + 1, 2, i);
		c = add(state, STATE_CLIENT, state_next_id(state), NULL, NULL);
		t = add(state, STATE_TARGET, state_next_target(state), NULL, NULL);
		a = add(state, STATE_ATTACHMENT, 0, c, t);
		n[0] = add(state, STATE_NOTIFIER, i + 7, a, NULL);
		n[1] = add(state, STATE_NOTIFIER, i + 8, a, NULL);
		state_served(state, i, i * 2);
		state_slot_free(state, n[0]);
		state_slot_free(state, n[1]);
		state_slot_free(state, a);
		state_slot_free(state, t);
		state_slot_free(state, last);
		last = c;
		state_done(state);
	}
}

static void check_slot(struct state *state, const struct state_slot *slot)
{
	const struct state_attachment *a = &slot->u.attachment;
	uint32_t n = state_n_slots(state);

	ck_assert(is_whole(slot));
	if (slot->kind == STATE_ATTACHMENT) {
		ck_assert(a->client < n && a->target < n);
		ck_assert_uint_eq(state_slot_at(state, a->client)->kind, STATE_CLIENT);
		ck_assert_uint_eq(state_slot_at(state, a->target)->kind, STATE_TARGET);
	}
	if (slot->kind == STATE_NOTIFIER) {
		ck_assert_uint_lt(slot->u.notifier.attachment, n);
		ck_assert_uint_eq(state_slot_at(state, slot->u.notifier.attachment)->kind,
				  STATE_ATTACHMENT);
	}
}

static void check_request(const struct state_request *q, struct state_request *last)
{
	ck_assert_uint_le(q->phase, STATE_SERVED);
	ck_assert_uint_ge(q->number, last->number);
	if (q->phase != STATE_DONE)
		ck_assert(q->client == q->serial + 1 && q->op == 2);
	if (q->phase == STATE_SERVED)
		ck_assert(q->flags == q->serial && q->result == q->flags * 2);
	*last = *q;
}

/* The next mirrord's view of it, in a copy, since it writes itself. */
static unsigned int check_copy(int from, int to, struct state_request *last)
{
	static uint8_t buf[COPY];
	struct state_request q;
	struct state *state;
	unsigned int found = 0;
	uint32_t id, target;

	ck_assert_int_eq(pread(from, buf, COPY, 0), COPY);
	ck_assert_int_eq(pwrite(to, buf, COPY, 0), COPY);
	ck_assert_int_eq(state_open(&state, fcntl(to, F_DUPFD_CLOEXEC, 3)), 0);
	ck_assert_uint_lt(state_n_slots(state), (COPY - PAGE_BYTES) / sizeof(struct state_slot));
	q = state_get_request(state);
	check_request(&q, last);
	id = state_next_id(state);
	target = state_next_target(state);
	for (uint32_t i = 0; i < state_n_slots(state); i++) {
		const struct state_slot *slot = state_slot_at(state, i);

		check_slot(state, slot);
		found += slot->kind != STATE_FREE;
		if (slot->kind == STATE_CLIENT)
			ck_assert_uint_lt(slot->id, id);
		if (slot->kind == STATE_TARGET)
			ck_assert_uint_lt(slot->id, target);
	}
	state_free(state);
	return found;
}

static int scratch(void)
{
	struct state *state;
	int fd;

	ck_assert_int_eq(state_new(&state, true), 0);
	fd = fcntl(state_get_fd(state), F_DUPFD_CLOEXEC, 3);
	state_free(state);
	return fd;
}

START_TEST(it_is_right_after_each_instruction)
{
	unsigned int steps = 0, most = 0, n = 0;
	struct state_request last = { .number = 0 };
	struct state *state;
	int to = scratch(), status;
	pid_t pid;

	ck_assert_int_eq(state_new(&state, true), 0);
	pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		live(state);
		_exit(0);
	}
	for (;;) {
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		if (WIFEXITED(status))
			break;
		ck_assert(WIFSTOPPED(status));
		n = check_copy(state_get_fd(state), to, &last);
		most = n > most ? n : most;
		steps++;
		ck_assert_int_eq(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
	}
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	ck_assert_uint_gt(steps, 500);
	ck_assert_uint_ge(most, 6);
	ck_assert_uint_eq(n, 1);	/* the last client */
	ck_assert_uint_eq(last.number, 6);
	state_free(state);
	close(to);
}
END_TEST

START_TEST(slots_and_numbers_go_on)
{
	struct state_slot *a, *b, *c;
	struct state *state;
	uint32_t at;
	int fd;

	ck_assert_int_eq(state_new(&state, true), 0);
	a = add(state, STATE_CLIENT, state_next_id(state), NULL, NULL);
	b = add(state, STATE_CLIENT, state_next_id(state), NULL, NULL);
	at = state_slot_index(state, a);
	state_slot_free(state, a);
	state_get_device(state)->next_fh = 77;
	fd = fcntl(state_get_fd(state), F_DUPFD_CLOEXEC, 3);
	state_free(state);

	ck_assert_int_eq(state_open(&state, fd), 0);
	b = state_slot_at(state, 1);
	ck_assert(b->kind == STATE_CLIENT && b->id == 2 && is_whole(b));
	ck_assert_uint_eq(state_next_id(state), 3);
	ck_assert_uint_eq(state_get_device(state)->next_fh, 77);
	ck_assert_int_eq(state_slot_new(state, &c), 0);
	ck_assert_uint_eq(state_slot_index(state, c), at);
	ck_assert(c->kind == STATE_FREE && !c->id && !c->u.client.fh);
	ck_assert_int_eq(state_slot_new(state, &c), 0);
	ck_assert_uint_eq(state_slot_index(state, c), 2);
	state_note_id(state, 100);
	ck_assert_uint_eq(state_next_id(state), 101);
	state_free(state);
}
END_TEST

/* 64 words of the header and of the first slots, one after the other, by each value. */
START_TEST(damage_is_found_or_harmless)
{
	static const uint32_t values[] = { 0, 1, 7, 0x7fffffff, UINT32_MAX };
	unsigned int refused = 0, opened = 0;
	int fd = scratch(), to = scratch();

	for (off_t word = 0; word < 64; word++) {
		for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
			off_t at = word < 32 ? word * 4 : (off_t)PAGE_BYTES + (word - 32) * 4;
			static uint8_t buf[COPY];
			struct state *state;
			int copy;

			ck_assert_int_eq(pread(fd, buf, COPY, 0), COPY);
			ck_assert_int_eq(pwrite(to, buf, COPY, 0), COPY);
			ck_assert_int_eq(pwrite(to, &values[i], 4, at), 4);
			copy = fcntl(to, F_DUPFD_CLOEXEC, 3);
			if (state_open(&state, copy) < 0) {
				close(copy);
				refused++;
				continue;
			}
			opened++;
			ck_assert_uint_le(state_n_slots(state), STATE_SLOTS);
			for (uint32_t s = 0; s < state_n_slots(state); s++)
				ck_assert_uint_lt(state_slot_at(state, s)->kind, _STATE_KINDS);
			state_free(state);
		}
	}
	ck_assert_uint_gt(refused, 20);
	ck_assert_uint_gt(opened, 100);
	close(fd);
	close(to);
}
END_TEST

START_TEST(what_is_no_state_is_refused)
{
	struct state *state;
	int fds[2], fd;

	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_eq(state_open(&state, fds[0]), -EPROTO);
	ck_assert_int_eq(memfd_new("small", PAGE_BYTES, &fd), 0);
	ck_assert_int_eq(state_open(&state, fd), -EPROTO);
	close(fd);
	fd = open("/dev/zero", O_RDWR);
	ck_assert_int_eq(state_open(&state, fd), -EPROTO);
	close(fd);
	close(fds[0]);
	close(fds[1]);
}
END_TEST

static int some(void)
{
	struct state *state;
	int r = state_new(&state, true);

	if (r == 0)
		state_free(state);
	return r;
}

START_TEST(out_of_memory)
{
	unit_oom(some);
}
END_TEST

UNIT_MAIN("state", it_is_right_after_each_instruction, slots_and_numbers_go_on,
	  damage_is_found_or_harmless, what_is_no_state_is_refused, out_of_memory)
