/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a killed manager left half done, or is not there any more, or is damaged
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include "adopt-scene.h"
#include "request.h"
#include "shm.h"
#include "sys/state.h"
#include "sys/store.h"
#include "table-fill.h"
#include "unit.h"

static bool receive(struct scene *s, struct packet *ret_packet)
{
	return packet_recv(s->peer, ret_packet, MSG_DONTWAIT) > 0;
}

static bool has_answer(struct scene *s)
{
	struct pollfd pfd = { .fd = s->peer, .events = POLLIN };

	return poll(&pfd, 1, 0) > 0;
}

static bool is_hung_up(struct scene *s)
{
	struct pollfd pfd = { .fd = s->peer, .events = POLLRDHUP };

	return poll(&pfd, 1, 0) > 0 && (pfd.revents & POLLRDHUP);
}

static bool has_no_client(struct scene *s)
{
	return list_is_empty(&s->m.clients);
}

/* ---- requests ---- */

static struct packet insert_request(uint32_t serial)
{
	struct packet p = PACKET_NULL;
	struct mirror_notifier_insert *in = packet_payload(&p);

	p.u.msg = (struct mirror_msg) {
		.size = sizeof(p.u.msg) + sizeof(*in), .op = MIRROR_OP_NOTIFIER_INSERT,
		.serial = serial,
	};
	*in = (struct mirror_notifier_insert) {
		.size = sizeof(*in), .target = 1, .start = A, .end = A + P, .user_data = 5,
	};
	return p;
}

static void begun(struct scene *s)
{
	scene_watch(s, A, A + P, 0);
	state_begin(s->m.state, s->client->id, MIRROR_OP_NOTIFIER_INSERT, 77);
	scene_watch(s, A + P, A + 2 * P, 0);
}

START_TEST(a_request_half_done_is_asked_for_again)
{
	struct packet p;
	struct scene s;

	scene_init(&s, 16);
	scene_die(&s, begun);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert_uint_eq(s.target->notifiers.tree.n, 1);
	ck_assert_ptr_null(client_find_notifier(s.client, 2));
	ck_assert(receive(&s, &p));
	ck_assert_int_eq(p.u.msg.error, ERESTART);
	ck_assert_uint_eq(p.u.msg.op, MIRROR_OP_NOTIFIER_INSERT);
	ck_assert_uint_eq(p.u.msg.serial, 77);
	ck_assert(!has_answer(&s));
	ck_assert_uint_eq(state_get_request(s.m.state).phase, STATE_DONE);
	scene_end(&s);
}
END_TEST

static void peeked(struct scene *s)
{
	state_begin(s->m.state, s->client->id, MIRROR_OP_NOTIFIER_INSERT, 78);
}

START_TEST(a_request_not_taken_is_just_served)
{
	struct packet p = insert_request(78);
	const struct mirror_notifier_insert *out = packet_payload(&p);
	struct scene s;

	scene_init(&s, 16);
	ck_assert_int_eq(packet_send(s.peer, &p, 0), 0);
	scene_die(&s, peeked);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert(!has_answer(&s));
	ck_assert_uint_eq(state_get_request(s.m.state).phase, STATE_DONE);
	ck_assert(scene_run(&s, has_answer));
	ck_assert(receive(&s, &p));
	ck_assert(p.u.msg.error == 0 && p.u.msg.serial == 78 && out->notifier == 1);
	ck_assert(!has_answer(&s));
	ck_assert_uint_eq(s.target->notifiers.tree.n, 1);
	scene_end(&s);
}
END_TEST

static bool sends;

static void served(struct scene *s)
{
	struct packet request = insert_request(79), reply = PACKET_NULL;

	request_serve(s->client, &request, &reply);
	if (sends)
		conn_reply(&s->client->conn, &reply);
}

/* Twice, if need be: the serial tells. */
START_TEST(a_request_done_is_answered)
{
	for (int i = 0; i < 2; i++) {
		struct packet p;
		const struct mirror_notifier_insert *out = packet_payload(&p);
		struct scene s;

		sends = i;
		scene_init(&s, 16);
		scene_die(&s, served);
		ck_assert_int_eq(has_answer(&s), i);
		ck_assert_int_eq(scene_adopt(&s), 0);
		ck_assert_uint_eq(s.target->notifiers.tree.n, 1);
		for (int k = 0; k <= i; k++) {
			ck_assert(receive(&s, &p));
			ck_assert(p.u.msg.error == 0 && p.u.msg.serial == 79);
			ck_assert_uint_eq(out->notifier, 1);
		}
		ck_assert(!has_answer(&s));
		scene_end(&s);
	}
}
END_TEST

static void made_a_ring(struct scene *s)
{
	struct packet request = PACKET_NULL, reply = PACKET_NULL;
	struct mirror_channel *in = packet_payload(&request);
	struct client *c;
	int fds[2];

	/* another client, since the first has one */
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0 ||
	    client_new(&c, &s->m, fds[0]) < 0)
		return;
	store_put(s->m.store, 'X', 1, fds[1]);
	request.u.msg = (struct mirror_msg) {
		.size = sizeof(request.u.msg) + sizeof(*in), .op = MIRROR_OP_CHANNEL, .serial = 3,
	};
	*in = (struct mirror_channel) { .size = sizeof(*in), .entries = 8 };
	if (sends)
		request_serve(c, &request, &reply);
	else
		state_begin(s->m.state, c->id, MIRROR_OP_CHANNEL, 3),
		client_make_ring(c, 8, 0);
}

START_TEST(a_ring_is_given_again)
{
	struct packet p;
	struct scene s;
	struct mirror_ring_hdr *hdr;

	sends = true;
	scene_init(&s, 16);
	scene_die(&s, made_a_ring);
	s.peer = fd_close(s.peer);
	s.peer = fcntl(scene_stored(&s, "X1"), F_DUPFD_CLOEXEC, 3);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert(receive(&s, &p));
	ck_assert(p.u.msg.error == 0 && p.u.msg.op == MIRROR_OP_CHANNEL && p.n_fds == 4);
	hdr = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, p.fds[0], 0);
	ck_assert(hdr != MAP_FAILED && hdr->entries == 8);
	ck_assert_ptr_eq(mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, p.fds[0], 0),
			 MAP_FAILED);
	ck_assert_int_eq(send(p.fds[3], "", 1, MSG_NOSIGNAL), 1);
	packet_clear(&p);
	ck_assert_uint_eq(scene_count(&s, 'W') + scene_count(&s, 'K'), 0);
	ck_assert_uint_eq(scene_count(&s, 'p'), 2);
	scene_end(&s);
}
END_TEST

START_TEST(a_ring_half_made_is_none)
{
	struct client *c;
	struct packet p;
	struct scene s;

	sends = false;
	scene_init(&s, 16);
	scene_die(&s, made_a_ring);
	s.peer = fd_close(s.peer);
	s.peer = fcntl(scene_stored(&s, "X1"), F_DUPFD_CLOEXEC, 3);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert(receive(&s, &p) && p.u.msg.error == ERESTART);
	ck_assert_uint_eq(scene_count(&s, 'p'), 1);
	c = list_entry(s.m.clients.prev, struct client, link);
	ck_assert_ptr_null(c->ring);
	ck_assert_int_eq(client_make_ring(c, 8, 0), 0);
	scene_end(&s);
}
END_TEST

static int spare_uffd;

static void half_armed(struct scene *s)
{
	scene_watch(s, A, A + P, MIRROR_NOTIFIER_F_FOLLOW_EXEC);
	target_gone(s->target, MIRROR_CAUSE_EXEC);
	state_begin(s->m.state, s->client->id, MIRROR_OP_ATTACH, 9);
	target_start(s->target, spare_uffd);
}

START_TEST(a_target_half_armed_waits)
{
	struct packet p;
	struct scene s;

	scene_init(&s, 16);
	spare_uffd = scene_new_uffd();
	scene_die(&s, half_armed);
	close(spare_uffd);
	ck_assert_uint_eq(scene_count(&s, 'u'), 1);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert_uint_eq(s.target->state, MIRROR_TARGET_PENDING);
	ck_assert_uint_ne(s.target->gate.shm->life, s.target->gate.shm->live);
	ck_assert_uint_eq(s.target->gate.shm->state, MIRROR_GATE_RELEASED);
	ck_assert_uint_eq(scene_count(&s, 'u'), 0);
	ck_assert(receive(&s, &p) && p.u.msg.error == ERESTART && p.u.msg.serial == 9);
	ck_assert_int_eq(target_start(s.target, scene_new_uffd()), 0);
	ck_assert_uint_eq(s.target->gate.shm->life, s.m.live);
	scene_end(&s);
}
END_TEST

static bool is_behind(struct scene *s)
{
	return store_is_behind(s->m.store);
}

static int turns;

static bool some_turns(struct scene *s)
{
	(void)s;
	return !turns--;
}

static bool is_not_behind(struct scene *s)
{
	return !is_behind(s);
}

/* The manager's socket is full, and everything is said: the next word has to wait. */
static void fill_up(struct scene *s)
{
	char buf[64];

	while (!is_behind(s))
		store_remove_name(s->m.store, "nobody");
	ck_assert_int_gt(recv(s->notify, buf, sizeof(buf), MSG_DONTWAIT), 0);
	ck_assert(scene_run(s, is_not_behind));
}

static void watch_nothing(struct scene *s)
{
	(void)s;
}

START_TEST(an_answer_waits_until_all_is_stored)
{
	struct packet p = PACKET_NULL;
	struct mirror_table_get *in = packet_payload(&p);
	struct client *other;
	struct scene s;
	int fds[2];

	scene_init(&s, 16);
	scene_die(&s, watch_nothing);
	ck_assert_int_eq(scene_adopt(&s), 0);
	scene_take_messages(&s);
	fill_up(&s);
	p.u.msg = (struct mirror_msg) {
		.size = sizeof(p.u.msg) + sizeof(*in), .op = MIRROR_OP_TABLE, .serial = 5,
	};
	*in = (struct mirror_table_get) { .size = sizeof(*in), .target = 1 };
	ck_assert_int_eq(packet_send(s.peer, &p, 0), 0);
	ck_assert(scene_run(&s, is_behind));
	ck_assert_ptr_nonnull(s.target->table);
	ck_assert(!has_answer(&s));
	/* nor is anything else begun, by nobody */
	p = insert_request(6);
	ck_assert_int_eq(packet_send(s.peer, &p, 0), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	ck_assert_int_eq(client_new(&other, &s.m, fds[0]), 0);
	ck_assert_int_eq(packet_send(fds[1], &p, 0), 0);
	turns = 20;
	ck_assert(scene_run(&s, some_turns));
	ck_assert(is_behind(&s));
	ck_assert_int_eq(packet_recv(fds[1], &p, MSG_DONTWAIT), -EAGAIN);
	/* one only can be known to the next mirrord */
	ck_assert_uint_eq(state_get_request(s.m.state).op, MIRROR_OP_TABLE);
	scene_take_messages(&s);
	ck_assert_uint_eq(s.target->notifiers.tree.n, 0);
	ck_assert(scene_run(&s, has_answer));
	ck_assert(receive(&s, &p));
	ck_assert(p.u.msg.serial == 5 && !p.u.msg.error && p.n_fds == 1);
	packet_clear(&p);
	ck_assert(scene_run(&s, has_answer));
	ck_assert(receive(&s, &p) && p.u.msg.serial == 6 && !p.u.msg.error);
	ck_assert_int_eq(packet_recv(fds[1], &p, 0), 1);
	close(fds[1]);
	scene_end(&s);
}
END_TEST

/* ---- a child that was being made ---- */

static void half_forked(struct scene *s)
{
	struct target *child;

	scene_watch(s, A, A + P, MIRROR_NOTIFIER_F_FOLLOW_FORK);
	gate_unknown_begin(&s->target->gate);
	state_fork_begin(s->m.state);
	target_adopt(s->target, 0, -1, getuid(), &child);
}

START_TEST(a_child_half_made_is_none)
{
	struct mirror_event ev;
	struct scene s;

	scene_init(&s, 16);
	scene_die(&s, half_forked);
	ck_assert_uint_eq(scene_count(&s, 'g'), 2);
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert_uint_eq(s.m.n_targets, 1);
	ck_assert_uint_eq(s.target->id, 1);
	ck_assert_uint_eq(s.m.n_notifiers, 1);
	ck_assert_uint_eq(scene_count(&s, 'g'), 1);
	ck_assert(scene_take(&s, &ev) && ev.type == MIRROR_EVENT_OVERFLOW);
	scene_end(&s);
}
END_TEST

/* ---- what is not there ---- */

static void watch_one(struct scene *s)
{
	scene_watch(s, A, A + P, 0);
}

START_TEST(a_client_that_lacks_something)
{
	for (const char *letter = "cpqwk"; *letter; letter++) {
		struct scene s;

		scene_init(&s, 16);
		scene_die(&s, watch_one);
		scene_lose(&s, *letter);
		ck_assert_int_eq(scene_adopt(&s), 0);
		ck_assert(is_hung_up(&s));
		ck_assert_uint_eq(s.m.n_clients + s.m.n_targets + s.m.n_notifiers, 0);
		for (const char *other = "cpqwkugt"; *other; other++)
			ck_assert_uint_eq(scene_count(&s, *other), 0);
		scene_end(&s);
	}
}
END_TEST

START_TEST(a_target_that_lacks_its_userfaultfd)
{
	struct mirror_event ev;
	struct scene s;

	scene_init(&s, 16);
	scene_die(&s, watch_one);
	scene_lose(&s, 'u');
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert_uint_eq(s.target->state, MIRROR_TARGET_DEAD);
	ck_assert_uint_ne(s.target->gate.shm->life, s.target->gate.shm->live);
	ck_assert(scene_take(&s, &ev) && ev.type == MIRROR_EVENT_RELEASE);
	ck_assert(ev.cause == MIRROR_CAUSE_DETACH && (ev.flags & MIRROR_EVENT_F_LAST));
	/* it is the process itself, and may be waiting for us */
	ck_assert(is_hung_up(&s));
	ck_assert(scene_run(&s, has_no_client));
	scene_end(&s);
}
END_TEST

static void with_a_table(struct scene *s)
{
	watch_one(s);
	target_table_get(s->target, getuid(), 0);
}

START_TEST(a_table_that_nobody_can_end)
{
	struct mirror_event ev;
	struct scene s;

	scene_init(&s, 16);
	scene_die(&s, with_a_table);
	scene_lose(&s, 't');
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert(scene_take(&s, &ev) && ev.type == MIRROR_EVENT_RELEASE);
	ck_assert_uint_eq(ev.cause, MIRROR_CAUSE_DETACH);
	ck_assert_uint_ne(s.target->gate.shm->life, s.target->gate.shm->live);
	scene_end(&s);
}
END_TEST

START_TEST(a_target_that_lacks_its_gate)
{
	struct mirror_event ev;
	struct scene s;

	scene_init(&s, 16);
	scene_die(&s, watch_one);
	scene_lose(&s, 'g');
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert(scene_take(&s, &ev) && ev.type == MIRROR_EVENT_RELEASE);
	ck_assert(is_hung_up(&s));
	ck_assert(scene_run(&s, has_no_client));
	scene_end(&s);
}
END_TEST

static void check_begins_anew(struct scene *s)
{
	ck_assert_int_eq(scene_adopt(s), 0);
	ck_assert(is_hung_up(s));
	ck_assert_uint_eq(s->m.n_clients + s->m.n_targets, 0);
	for (const char *other = "cpqwkugtD"; *other; other++)
		ck_assert_uint_eq(scene_count(s, *other), 0);
	ck_assert_uint_eq(scene_count(s, 'S'), 1);
	ck_assert_uint_eq(state_n_slots(s->m.state), 0);
}

START_TEST(state_of_another_version)
{
	uint32_t version = 99;
	struct scene s;

	scene_init(&s, 16);
	scene_die(&s, watch_one);
	ck_assert_int_eq(pwrite(scene_stored(&s, "S0"), &version, 4, 4), 4);
	check_begins_anew(&s);
	scene_end(&s);
}
END_TEST

START_TEST(no_state_at_all)
{
	struct scene s;

	scene_init(&s, 16);
	scene_die(&s, watch_one);
	scene_lose(&s, 'S');
	check_begins_anew(&s);
	scene_end(&s);
}
END_TEST

/* ---- what is not as it should be ---- */

static void several(struct scene *s)
{
	struct target *child;

	for (uint64_t i = 0; i < 3; i++)
		scene_watch(s, A + i * P, A + (i + 1) * P, MIRROR_NOTIFIER_F_FOLLOW_FORK);
	target_adopt(s->target, 0, -1, getuid(), &child);
}

/* Any word of header and slots has any value: nothing breaks, and nothing is left. */
START_TEST(damage_does_no_harm)
{
	unsigned int seed = 1, adopted = 0;

	for (int i = 0; i < 400; i++) {
		static const uint32_t values[] = { 0, 1, 2, 3, 4, 0x101, 0x7fffffff, UINT32_MAX };
		struct scene s;
		int fd;

		scene_init(&s, 16);
		scene_die(&s, several);
		fd = scene_stored(&s, "S0");
		for (int k = 0; k < 1 + i % 4; k++) {
			uint32_t value = values[(unsigned int)rand_r(&seed) % 8];
			off_t word = rand_r(&seed) % 160, at = word < 24 ? word : 1024 + word - 24;

			ck_assert_int_eq(pwrite(fd, &value, 4, at * 4), 4);
		}
		ck_assert_int_eq(scene_adopt(&s), 0);
		adopted += s.m.n_targets;
		if (s.client && s.client->ring)
			client_settle(s.client);
		scene_end(&s);
	}
	ck_assert_uint_gt(adopted, 100);
}
END_TEST

/* A target whose neighbours point to each other's slots in every way. */
START_TEST(references_are_checked)
{
	struct scene s;
	struct state *state;

	for (uint32_t to = 0; to < 12; to++) {
		scene_init(&s, 16);
		scene_die(&s, several);
		ck_assert_int_eq(state_open(&state, fcntl(scene_stored(&s, "S0"), F_DUPFD_CLOEXEC,
							  3)), 0);
		for (uint32_t i = 0; i < state_n_slots(state); i++) {
			struct state_slot *slot = state_slot_at(state, i);

			if (slot->kind == STATE_ATTACHMENT)
				slot->u.attachment.target = to;
			if (slot->kind == STATE_NOTIFIER)
				slot->u.notifier.attachment = to;
		}
		state_free(state);
		ck_assert_int_eq(scene_adopt(&s), 0);
		ck_assert_uint_le(s.m.n_targets, 1);
		scene_end(&s);
	}
}
END_TEST

/* ---- limits and memory ---- */

START_TEST(a_limit_that_was_lowered)
{
	struct scene s;

	scene_init(&s, 16);
	scene_die(&s, several);
	/* each manager begins with the limits that are built in: more of it than these */
	ck_assert_int_eq(scene_adopt(&s), 0);
	ck_assert(!s.m.quota.adopting);
	s.m.quota.limit[QUOTA_NOTIFIERS] = 1;
	ck_assert_ptr_null(scene_watch(&s, A, A + P, 0));
	ck_assert_uint_eq(s.m.n_notifiers, 6);
	scene_end(&s);
}
END_TEST

/* One client less, or one target, or all: but no crash, and nobody is left over. */
START_TEST(out_of_memory)
{
	bool failed = true;

	for (unsigned int n = 1; failed; n++) {
		struct scene s;
		int r;

		ck_assert_uint_lt(n, 500);
		scene_init(&s, 16);
		scene_die(&s, several);
		unit_fail_allocation(n);
		r = scene_adopt(&s);
		failed = unit_allocation_failed();
		unit_fail_allocation(0);
		ck_assert(r == 0 || (failed && r == -ENOMEM));
		scene_end(&s);
	}
}
END_TEST

UNIT_MAIN("adopt-left", a_request_half_done_is_asked_for_again,
	  a_request_not_taken_is_just_served, a_request_done_is_answered, a_ring_is_given_again,
	  a_ring_half_made_is_none, a_target_half_armed_waits,
	  an_answer_waits_until_all_is_stored, a_child_half_made_is_none,
	  a_client_that_lacks_something,
	  a_target_that_lacks_its_userfaultfd, a_table_that_nobody_can_end,
	  a_target_that_lacks_its_gate, state_of_another_version, no_state_at_all,
	  damage_does_no_harm, references_are_checked, a_limit_that_was_lowered, out_of_memory)
