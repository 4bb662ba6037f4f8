/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The manager with real rings and gates, and events of our own making
 *
 * The target is this very process, with a userfaultfd that nothing is registered
 * with: so nothing that the test does to its memory is told, and what is told is
 * what the test hands to the sink.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include "client.h"
#include "manager.h"
#include "procfs.h"
#include "shm.h"
#include "table-fill.h"
#include "target.h"
#include "uffd.h"
#include "unit.h"

/* Far from everything that is mapped. */
#define A 0x200000000000ULL
#define P PAGE_BYTES
#define BLOCK (1ULL << GATE_STRIPE_SHIFT)

struct scene {
	struct manager m;
	struct client *client;
	struct target *target;
	struct attachment *attachment;
	int peer;
};

static int new_uffd(void)
{
	bool user_only;
	int fd;

	return uffd_new(&fd, &user_only) == 0 && uffd_api(fd, UFFD_EVENT_FEATURES) == 0 ? fd : -1;
}

/* No ck_assert in here: it allocates, and allocations are made to fail. */
static int make_target(struct scene *s)
{
	_cleanup_(fd_closep) int pidfd = proc_pidfd(getpid());
	_cleanup_(fd_closep) int uffd = new_uffd();
	int r;

	r = target_new(&s->target, &s->m, getpid(), pidfd, getuid());
	if (r < 0)
		return r;
	TAKE_FD(pidfd);
	r = attachment_new(&s->attachment, s->target, s->client);
	if (r < 0) {
		target_free(s->target);
		return r;
	}
	r = target_start(s->target, uffd);
	if (r == 0)
		TAKE_FD(uffd);
	return r;
}

static void scene_end(struct scene *s)
{
	fd_close(s->peer);
	if (s->m.loop)
		manager_deinit(&s->m);	/* asserts that nothing is left */
}

static int scene_begin(struct scene *s, uint32_t entries)
{
	struct manager_options options = { .peek = false };
	int fds[2], r;

	s->client = NULL;
	s->peer = -1;
	r = manager_init(&s->m, &options);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	s->peer = fds[1];
	r = client_new(&s->client, &s->m, fds[0]);
	if (r < 0) {
		fd_close(fds[0]);
		return r;
	}
	r = client_make_ring(s->client, entries, 0);
	if (r == 0)
		r = make_target(s);
	return r;
}

static int watch(struct scene *s, uint64_t start, uint64_t end, uint32_t flags,
		 struct notifier **ret)
{
	struct notifier like = {
		.start = start, .end = end, .flags = flags, .user_data = start,
	};

	return notifier_new(ret, s->attachment, &like);
}

static struct event change(uint8_t type, uint16_t flags, uint64_t start, uint64_t end)
{
	return (struct event) {
		.type = type, .flags = flags, .start = start, .end = end,
		.source = MIRROR_SOURCE_UFFD, .guarantee = MIRROR_GUARANTEE_ORDERED,
	};
}

static struct event happen(struct scene *s, uint8_t type, uint16_t flags, uint64_t start,
			   uint64_t end)
{
	struct event ev = change(type, flags, start, end);

	s->target->sink.ops->unknown(&s->target->sink);
	s->target->sink.ops->event(&s->target->sink, &ev);
	return ev;
}

static bool take(struct scene *s, struct mirror_event *ret_event)
{
	struct ring *ring = s->client->ring;
	uint32_t head = ring->cons->head;

	if (head == ring->hdr->tail)
		return false;
	memcpy(ret_event, ring->slots + (head & (ring->entries - 1)) * 64, 64);
	ring->cons->head = head + 1;
	return true;
}

static struct mirror_gate_stripe stripe(struct scene *s, uint64_t address)
{
	return s->target->gate.stripes[gate_index(address >> GATE_STRIPE_SHIFT, GATE_STRIPES)];
}

START_TEST(a_watched_change)
{
	struct mirror_event ev;
	struct notifier *n;
	struct scene s;
	uint64_t before;

	ck_assert_int_eq(scene_begin(&s, 16), 0);
	ck_assert_int_eq(watch(&s, A, A + 4 * P, 0, &n), 0);
	before = stripe(&s, A).started;
	happen(&s, MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A - P, A + 2 * P);
	ck_assert_uint_eq(stripe(&s, A).started, before + 1);
	ck_assert_uint_eq(stripe(&s, A).ended, before + 1);
	ck_assert_uint_eq(s.target->gate.shm->seq & 1, 0);
	ck_assert(take(&s, &ev));
	ck_assert_uint_eq(ev.type, MIRROR_EVENT_UNMAP);
	ck_assert(ev.start == A - P && ev.end == A + 2 * P);
	ck_assert_uint_eq(ev.user_data, A);
	ck_assert_uint_eq(ev.target, s.target->id);
	ck_assert(!take(&s, &ev));
	scene_end(&s);
}
END_TEST

START_TEST(an_unwatched_change_moves_nothing)
{
	struct mirror_event ev;
	struct notifier *n;
	struct scene s;
	uint64_t before;

	ck_assert_int_eq(scene_begin(&s, 16), 0);
	ck_assert_int_eq(watch(&s, A, A + 4 * P, 0, &n), 0);
	before = stripe(&s, A).started;
	happen(&s, MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A + 4 * P, A + 8 * P);
	happen(&s, MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A - P, A);
	ck_assert_uint_eq(stripe(&s, A).started, before);
	ck_assert_uint_eq(s.target->gate.shm->seq & 1, 0);
	ck_assert(!take(&s, &ev));
	scene_end(&s);
}
END_TEST

START_TEST(a_start_stays_open_until_its_end)
{
	struct mirror_event ev;
	struct notifier *plain, *both;
	struct event started;
	struct scene s;

	ck_assert_int_eq(scene_begin(&s, 16), 0);
	ck_assert_int_eq(watch(&s, A, A + 4 * P, 0, &plain), 0);
	ck_assert_int_eq(watch(&s, A, A + P, MIRROR_NOTIFIER_F_END, &both), 0);
	started = happen(&s, MIRROR_EVENT_CLEAR, MIRROR_EVENT_F_START, A, A + P);
	ck_assert_uint_eq(stripe(&s, A).started, stripe(&s, A).ended + 1);
	/* another change of the same stripe comes and goes meanwhile */
	happen(&s, MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A + 2 * P, A + 3 * P);
	ck_assert_uint_eq(stripe(&s, A).started, stripe(&s, A).ended + 1);
	s.target->sink.ops->end(&s.target->sink, &started);
	ck_assert_uint_eq(stripe(&s, A).started, stripe(&s, A).ended);
	ck_assert(take(&s, &ev) && (ev.flags & MIRROR_EVENT_F_START));
	ck_assert(take(&s, &ev) && (ev.flags & MIRROR_EVENT_F_START));
	ck_assert(take(&s, &ev) && (ev.flags & MIRROR_EVENT_F_POINT));
	ck_assert(take(&s, &ev) && (ev.flags & MIRROR_EVENT_F_END));
	ck_assert_uint_eq(ev.type, MIRROR_EVENT_CLEAR);
	ck_assert(!take(&s, &ev));
	scene_end(&s);
}
END_TEST

/* OVERFLOW covers what was lost; that the address space went is told all the same. */
START_TEST(a_release_survives_an_overflow)
{
	struct mirror_event ev;
	struct notifier *n[3];
	struct scene s;

	ck_assert_int_eq(scene_begin(&s, 4), 0);
	for (uint64_t i = 0; i < 3; i++)
		ck_assert_int_eq(watch(&s, A + i * P, A + (i + 1) * P, 0, &n[i]), 0);
	for (int i = 0; i < 10; i++)
		happen(&s, MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A, A + P);
	target_gone(s.target, MIRROR_CAUSE_EXIT);
	ck_assert_uint_eq(s.client->n_release_owed, 3);
	ck_assert(s.client->ring->hdr->flags & MIRROR_RING_F_OVERFLOW);
	for (int i = 0; i < 4; i++)
		ck_assert(take(&s, &ev) && ev.type == MIRROR_EVENT_UNMAP);
	ck_assert(!take(&s, &ev));
	client_settle(s.client);
	ck_assert(take(&s, &ev));
	ck_assert_uint_eq(ev.type, MIRROR_EVENT_OVERFLOW);
	ck_assert_uint_eq(ev.arg.overflow.lost, 9);
	for (int i = 0; i < 3; i++) {
		ck_assert(take(&s, &ev));
		ck_assert_uint_eq(ev.type, MIRROR_EVENT_RELEASE);
		ck_assert(ev.flags & MIRROR_EVENT_F_LAST);
		ck_assert_uint_eq(ev.cause, MIRROR_CAUSE_EXIT);
		ck_assert_uint_eq(ev.seq, 6 + (uint64_t)i);
	}
	ck_assert_uint_eq(s.client->n_release_owed, 0);
	ck_assert_uint_ne(s.target->gate.shm->life, s.m.live);
	scene_end(&s);
}
END_TEST

START_TEST(children_are_followed_when_asked)
{
	struct event fork = change(MIRROR_EVENT_FORK, MIRROR_EVENT_F_POINT, 0, 0);
	struct mirror_event ev;
	struct notifier *n, *follows;
	struct target *child;
	struct scene s;

	ck_assert_int_eq(scene_begin(&s, 16), 0);
	ck_assert_int_eq(watch(&s, A, A + P, 0, &n), 0);
	s.target->sink.ops->unknown(&s.target->sink);
	s.target->sink.ops->fork(&s.target->sink, &fork, new_uffd(), 0);
	ck_assert(take(&s, &ev) && ev.type == MIRROR_EVENT_FORK);
	ck_assert_uint_eq(ev.arg.fork.target, 0);
	ck_assert_uint_eq(s.m.n_targets, 1);

	ck_assert_int_eq(watch(&s, A, A + P, MIRROR_NOTIFIER_F_FOLLOW_FORK, &follows), 0);
	s.target->sink.ops->unknown(&s.target->sink);
	s.target->sink.ops->fork(&s.target->sink, &fork, new_uffd(), 0);
	ck_assert(take(&s, &ev) && ev.type == MIRROR_EVENT_FORK);
	child = target_by_id(&s.m, ev.arg.fork.target);
	ck_assert_ptr_nonnull(child);
	ck_assert_uint_eq(child->parent, s.target->id);
	ck_assert_uint_eq(child->notifiers.tree.n, 1);
	ck_assert(take(&s, &ev) && ev.type == MIRROR_EVENT_FORK);
	s.target = child;
	happen(&s, MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A, A + P);
	ck_assert(take(&s, &ev));
	ck_assert_uint_eq(ev.target, child->id);
	ck_assert_uint_eq(ev.user_data, A);
	scene_end(&s);
}
END_TEST

START_TEST(exec_is_survived_by_who_follows_it)
{
	struct mirror_event ev;
	struct notifier *n, *follows;
	struct scene s;
	uint64_t before;

	ck_assert_int_eq(scene_begin(&s, 16), 0);
	ck_assert_int_eq(watch(&s, A, A + P, 0, &n), 0);
	ck_assert_int_eq(watch(&s, A, A + P, MIRROR_NOTIFIER_F_FOLLOW_EXEC, &follows), 0);
	before = stripe(&s, A).started;
	target_gone(s.target, MIRROR_CAUSE_EXEC);
	ck_assert_uint_eq(s.target->state, MIRROR_TARGET_PENDING);
	for (int i = 0; i < 2; i++) {
		ck_assert(take(&s, &ev) && ev.type == MIRROR_EVENT_RELEASE);
		ck_assert_uint_eq(ev.cause, MIRROR_CAUSE_EXEC);
	}
	ck_assert_int_eq(target_start(s.target, new_uffd()), 0);
	ck_assert_uint_gt(stripe(&s, A).started, before);
	happen(&s, MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A, A + P);
	ck_assert(take(&s, &ev) && ev.type == MIRROR_EVENT_UNMAP);
	ck_assert(!take(&s, &ev));	/* only the one that follows */
	scene_end(&s);
}
END_TEST

static int everything(void)
{
	struct event fork = change(MIRROR_EVENT_FORK, MIRROR_EVENT_F_POINT, 0, 0);
	struct notifier *n;
	struct scene s;
	int r;

	r = scene_begin(&s, 8);
	for (uint64_t i = 0; i < 40 && r == 0; i++)
		r = watch(&s, A + i * P, A + (i + 1) * P, MIRROR_NOTIFIER_F_FOLLOW_FORK, &n);
	if (r == 0) {
		happen(&s, MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A, A + 40 * P);
		s.target->sink.ops->unknown(&s.target->sink);
		s.target->sink.ops->fork(&s.target->sink, &fork, new_uffd(), 0);
		/* out of memory: the child runs free, the parent is told of no child */
		if (unit_allocation_failed())
			r = s.m.n_targets == 1 && !fork.arg[0] ? -ENOMEM : -EPROTO;
	}
	if (r == 0)
		target_gone(s.target, MIRROR_CAUSE_EXIT);
	scene_end(&s);
	return r;
}

START_TEST(out_of_memory)
{
	unit_oom(everything);
}
END_TEST

/* ---- the mirror table ---- */

#define RW (MIRROR_ENTRY_VALID | MIRROR_PTE_PRESENT | MIRROR_PTE_WRITE)

/* What there was when the table was about to change. */
static struct {
	const struct scene *s;
	void *memory;
	size_t size;
	unsigned int n;
	uint64_t started, ended;
	uint32_t seq, tail;
} trap;

static void trapped(int sig)
{
	const struct gate *gate = &trap.s->target->gate;
	const struct mirror_gate_stripe *stripe;

	(void)sig;
	stripe = &gate->stripes[gate_index(A >> GATE_STRIPE_SHIFT, GATE_STRIPES)];
	trap.n++;
	trap.started = stripe->started;
	trap.ended = stripe->ended;
	trap.seq = gate->shm->seq;
	trap.tail = trap.s->client->ring->hdr->tail;
	mprotect(trap.memory, trap.size, PROT_READ | PROT_WRITE);
}

/* Four pages are known, and the next change of the table is noticed. */
static void set_trap(const struct scene *s)
{
	struct sigaction act = { .sa_handler = trapped };
	struct target_table *tt = s->target->table;

	ck_assert_int_eq(table_enter(&tt->core, A, A + 4 * P, RW), 0);
	trap.s = s;
	trap.memory = tt->memory;
	trap.size = tt->size;
	trap.n = 0;
	sigaction(SIGSEGV, &act, NULL);
	ck_assert_int_eq(mprotect(trap.memory, trap.size, PROT_READ), 0);
}

static uint64_t entry_at(const struct scene *s, uint64_t address)
{
	return radix_get(&s->target->table->core.radix, address);
}

START_TEST(a_table_changes_inside_the_gate)
{
	struct notifier *n;
	struct event ev;
	struct scene s;

	ck_assert_int_eq(scene_begin(&s, 16), 0);
	ck_assert_int_eq(watch(&s, A, A + 4 * P, MIRROR_NOTIFIER_F_END, &n), 0);
	ck_assert_int_eq(target_table_get(s.target, getuid(), 0), 0);
	set_trap(&s);
	happen(&s, MIRROR_EVENT_UNMAP, MIRROR_EVENT_F_POINT, A, A + P);
	ck_assert_uint_eq(trap.n, 1);
	ck_assert_uint_eq(trap.started, trap.ended + 1);
	ck_assert_uint_eq(trap.seq & 1, 0);
	ck_assert_uint_eq(trap.tail, 0);	/* no record can be seen yet */
	ck_assert_uint_eq(stripe(&s, A).started, stripe(&s, A).ended);
	ck_assert_uint_eq(s.client->ring->hdr->tail, 1);
	ck_assert_uint_eq(entry_at(&s, A), 0);
	ck_assert_uint_eq(entry_at(&s, A + P), RW);

	set_trap(&s);
	ev = happen(&s, MIRROR_EVENT_CLEAR, MIRROR_EVENT_F_START, A, A + P);
	ck_assert(ev.needs_end);
	ck_assert_uint_eq(trap.n, 1);
	ck_assert_uint_eq(trap.started, trap.ended + 1);
	ck_assert_uint_eq(trap.tail, 1);
	set_trap(&s);
	s.target->sink.ops->end(&s.target->sink, &ev);
	ck_assert_uint_eq(trap.n, 1);
	ck_assert_uint_eq(trap.started, trap.ended + 1);
	ck_assert_uint_eq(trap.tail, 2);
	ck_assert_uint_eq(stripe(&s, A).started, stripe(&s, A).ended);
	ck_assert_uint_eq(entry_at(&s, A), 0);
	scene_end(&s);
}
END_TEST

START_TEST(a_table_changes_unwatched)
{
	struct notifier *n;
	struct event ev;
	struct scene s;

	ck_assert_int_eq(scene_begin(&s, 16), 0);
	ck_assert(!s.target->sink.ops->watches(&s.target->sink, A, A + P));
	ev = happen(&s, MIRROR_EVENT_CLEAR, MIRROR_EVENT_F_START, A, A + P);
	ck_assert(!ev.needs_end && s.target->unseen_clear);
	ck_assert_int_eq(watch(&s, A + BLOCK, A + BLOCK + P, 0, &n), 0);
	ck_assert_int_eq(target_table_get(s.target, getuid(), 0), 0);
	ck_assert(s.target->sink.ops->watches(&s.target->sink, A, A + P));
	set_trap(&s);
	ev = happen(&s, MIRROR_EVENT_CLEAR, MIRROR_EVENT_F_START, A, A + P);
	ck_assert_uint_eq(trap.n, 1);
	ck_assert_uint_eq(trap.started, trap.ended);
	ck_assert(ev.needs_end && !event_is_watched(&ev));
	ck_assert_uint_eq(table_first_open(&s.target->table->core, 0, A + P), A);
	s.target->sink.ops->end(&s.target->sink, &ev);
	ck_assert_uint_eq(table_first_open(&s.target->table->core, 0, A + P), A + P);
	ck_assert_uint_eq(stripe(&s, A).started, stripe(&s, A).ended);
	ck_assert_uint_eq(s.client->ring->hdr->tail, 0);
	scene_end(&s);
}
END_TEST

START_TEST(a_fork_changes_a_table_before_the_gate_opens)
{
	struct event ev = change(MIRROR_EVENT_FORK, MIRROR_EVENT_F_POINT, 0, 0);
	struct scene s;

	ck_assert_int_eq(scene_begin(&s, 16), 0);
	ck_assert_int_eq(target_table_get(s.target, getuid(), 0), 0);
	set_trap(&s);
	s.target->sink.ops->unknown(&s.target->sink);
	s.target->sink.ops->fork(&s.target->sink, &ev, -1, 0);
	ck_assert_uint_eq(trap.n, 1);
	ck_assert_uint_eq(trap.seq & 1, 1);
	ck_assert_uint_eq(s.target->gate.shm->seq & 1, 0);
	ck_assert_uint_eq(entry_at(&s, A), RW & ~MIRROR_PTE_WRITE);
	scene_end(&s);
}
END_TEST

UNIT_MAIN("manager", a_watched_change, an_unwatched_change_moves_nothing,
	  a_start_stays_open_until_its_end, a_release_survives_an_overflow,
	  children_are_followed_when_asked, exec_is_survived_by_who_follows_it, out_of_memory,
	  a_table_changes_inside_the_gate, a_table_changes_unwatched,
	  a_fork_changes_a_table_before_the_gate_opens)
