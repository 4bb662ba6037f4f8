/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <assert.h>
#include <string.h>
#include "client.h"
#include "manager.h"
#include "memfd.h"
#include "procfs.h"
#include "shm.h"
#include "sys/log.h"
#include "sys/state.h"
#include "sys/store.h"
#include "table-fill.h"
#include "target.h"
#include "uffd.h"

#define RESCAN_MIN_NS 20000000ULL	/* between looks for new mappings */
#define RESCAN_MAX_NS 500000000ULL	/* when there were none for a while */
#define HANGUP_NS 1000000ULL		/* between looks why a connection closed */
#define HANGUP_TRIES 64
#define LINGER_NS 2000000000ULL		/* that a dead target can still be asked about */

static void target_guarantees(struct target *t)
{
	const struct manager *m = t->manager;
	uint8_t *g = t->guarantee;
	bool peek = t->uffd.can_peek || (!uffd_source_is_running(&t->uffd) && m->options.peek);

	memset(g, MIRROR_GUARANTEE_NONE, sizeof(t->guarantee));
	g[MIRROR_EVENT_UNMAP] = MIRROR_GUARANTEE_ORDERED;
	g[MIRROR_EVENT_REMAP] = MIRROR_GUARANTEE_ORDERED;
	g[MIRROR_EVENT_CLEAR] = peek ? MIRROR_GUARANTEE_ORDERED : MIRROR_GUARANTEE_POINT;
	g[MIRROR_EVENT_RELEASE] = MIRROR_GUARANTEE_POINT;
	g[MIRROR_EVENT_OVERFLOW] = MIRROR_GUARANTEE_ORDERED;
	if (m->support.fork)
		g[MIRROR_EVENT_FORK] = MIRROR_GUARANTEE_ORDERED;
	t->features = m->features;
	if (!peek)
		t->features &= ~(MIRROR_FEAT_PEEK | MIRROR_FEAT_REMOVE_END);
}

void target_keep(struct target *t)
{
	struct state_target *s = &t->slot->u.target;

	s->parent = t->parent;
	s->uid = t->uid;
	s->lifeline_tid = t->lifeline_tid;
	s->fork_tid = t->fork_tid;
	s->fork_time = t->fork_time;
	s->stack = t->stack;
	s->arm_all = t->arm_all;
	s->start_time = t->start_time;
	/* Release, here and below: what they name is there before. */
	store_release(&s->pid, t->pid);
	store_release(&s->state, t->state);
}

static int map_gate(struct target *t, int fd)
{
	int r;

	r = life_map(fd, GATE_BYTES, &t->life);
	if (r < 0)
		return r;
	return memfd_share(fd, t->manager->store, &t->gate_fd);
}

static int target_make_gate(struct target *t)
{
	_cleanup_(fd_closep) int fd = -1;
	int r;

	r = memfd_new("mirror-gate", GATE_BYTES, &fd);
	if (r == 0)
		r = map_gate(t, fd);
	if (r < 0)
		return r;
	gate_init(&t->gate, t->life.shared, t->id, t->manager->live);
	store_put(t->manager->store, 'g', t->id, fd);
	return 0;
}

static struct target *target_alloc(struct manager *m, uid_t uid)
{
	struct target *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	list_init(&t->link);
	list_init(&t->attachments);
	t->manager = m;
	t->sink.ops = &manager_sink_ops;
	t->uffd = (struct uffd_source) UFFD_SOURCE_NULL;
	t->exit = (struct exit_source) EXIT_SOURCE_NULL;
	t->timer = (struct loop_op) LOOP_OP_NULL;
	t->notifiers = (struct notifier_set) NOTIFIER_SET_NULL;
	t->pidfd = t->gate_fd = -1;
	t->uid = uid;
	return t;
}

static void target_register(struct target *t)
{
	target_guarantees(t);
	t->manager->n_targets++;
	list_append(&t->manager->targets, &t->link);
}

int target_new(struct target **ret_target, struct manager *m, pid_t pid, int pidfd, uid_t uid)
{
	_cleanup_(target_freep) struct target *t = target_alloc(m, uid);
	int r;

	if (!t)
		return -ENOMEM;
	r = quota_charge(&m->quota, &t->charge, uid, QUOTA_TARGETS);
	if (r == 0)
		r = state_slot_new(m->state, &t->slot);
	if (r < 0)
		return r;
	t->id = t->slot->id = state_next_target(m->state);
	r = t->id ? target_make_gate(t) : -EDQUOT;
	if (r < 0)
		return r;
	if (pid) {
		r = target_set_process(t, pid, pidfd);
		if (r < 0)
			return r;
	}
	target_register(t);
	target_keep(t);
	state_slot_set(t->slot, STATE_TARGET);
	*ret_target = TAKE_PTR(t);
	return 0;
}

static int resume_gate(struct target *t, int fd)
{
	int r;

	r = memfd_check(fd, GATE_BYTES, false);
	if (r == 0)
		r = map_gate(t, fd);
	if (r == 0)
		r = gate_adopt(&t->gate, t->life.shared, t->id);
	return r;
}

int target_resume(struct target **ret_target, struct manager *m, struct state_slot *slot,
		  int gate_fd)
{
	const struct state_target *s = &slot->u.target;
	_cleanup_(target_freep) struct target *t = target_alloc(m, s->uid);
	int r;

	if (!t)
		return -ENOMEM;
	t->id = slot->id;
	t->state = s->state;
	t->parent = s->parent;
	t->lifeline_tid = s->lifeline_tid;
	t->fork_tid = s->fork_tid;
	t->fork_time = s->fork_time;
	t->stack = s->stack;
	t->start_time = s->start_time;
	t->arm_all = s->arm_all;
	t->pid = s->pid;
	/* what was let go unseen, the one before us knew */
	t->unseen_clear = true;
	t->unseen = 1;
	r = quota_charge(&m->quota, &t->charge, t->uid, QUOTA_TARGETS);
	if (r == 0)
		r = gate_fd < 0 ? target_make_gate(t) : resume_gate(t, gate_fd);
	if (r < 0)
		return r;
	fd_close(gate_fd);
	t->slot = slot;
	target_register(t);
	*ret_target = TAKE_PTR(t);
	return 0;
}

static void stop_source(struct target *t)
{
	struct state_target *s = &t->slot->u.target;
	uint32_t stored_as = s->uffd;

	if (stored_as && t->manager->store)
		uffd_source_let_go(&t->uffd);
	uffd_source_stop(&t->uffd);
	s->uffd = 0;
	if (stored_as)
		store_remove(t->manager->store, 'u', stored_as);
}

struct target *target_free(struct target *t)
{
	if (!t)
		return NULL;
	assert(list_is_empty(&t->attachments) && notifier_set_is_empty(&t->notifiers));
	if (t->gate.shm)
		gate_release(&t->gate, MIRROR_GATE_CLOSED);
	if (t->slot) {
		target_table_drop(t);
		stop_source(t);
		t->slot = state_slot_free(t->manager->state, t->slot);
		store_remove(t->manager->store, 'g', t->id);
	}
	exit_source_stop(&t->exit);
	loop_stop(&t->timer);
	life_unmap(&t->life);
	fd_close(t->gate_fd);
	fd_close(t->pidfd);
	if (!list_is_empty(&t->link)) {
		list_unlink(&t->link);
		t->manager->n_targets--;
	}
	quota_refund(&t->charge);
	free(t);
	return NULL;
}

struct target *target_by_id(struct manager *m, uint32_t id)
{
	list_for_each(l, &m->targets) {
		struct target *t = list_entry(l, struct target, link);

		if (t->id == id)
			return t;
	}
	return NULL;
}

struct target *target_by_pid(struct manager *m, pid_t pid)
{
	list_for_each(l, &m->targets) {
		struct target *t = list_entry(l, struct target, link);

		if (t->pid == pid && t->state != MIRROR_TARGET_DEAD)
			return t;
	}
	return NULL;
}

bool target_left_program(const struct target *t)
{
	struct proc_stat st;

	/* where it is not for us to know there is nothing that we could look into */
	if (!t->pid || !t->stack || proc_stat_read(t->pid, 0, &st) < 0 || !st.start_stack)
		return false;
	return st.start_time == t->start_time && st.start_stack != t->stack;
}

int target_set_process(struct target *t, pid_t pid, int pidfd)
{
	struct proc_stat st;
	int r;

	r = proc_stat_read(pid, 0, &st);
	if (r < 0)
		return r;
	r = exit_source_start(&t->exit, t->manager->loop, &t->sink, pidfd);
	if (r < 0)
		return r;
	t->pid = pid;
	t->pidfd = pidfd;
	t->start_time = st.start_time;
	target_keep(t);
	if (uffd_source_is_running(&t->uffd)) {
		uffd_source_set_pid(&t->uffd, pid, t->lifeline_tid, t->manager->options.peek);
		target_guarantees(t);
		target_table_started(t);
	}
	return 0;
}

static int start_source(struct target *t, int fd, bool resumed)
{
	struct uffd_source_config config = {
		.loop = t->manager->loop, .zaps = t->manager->zaps, .sink = &t->sink,
		.pid = t->pid, .skip_tid = t->lifeline_tid, .peek = t->manager->options.peek,
		.resumed = resumed,
	};
	int r;

	r = uffd_source_start(&t->uffd, &config, fd);
	if (r < 0)
		return r;
	t->state = MIRROR_TARGET_ARMED;
	target_guarantees(t);
	return 0;
}

int target_resume_source(struct target *t, int fd, uint32_t stored_as)
{
	int r;

	r = start_source(t, fd, true);
	if (r == 0)
		t->slot->u.target.uffd = stored_as;
	return r;
}

int target_start(struct target *t, int fd)
{
	struct manager *m = t->manager;
	uint32_t stored_as = state_next_id(m->state);
	int r;

	if (!stored_as)
		return -EDQUOT;
	r = start_source(t, fd, false);
	if (r < 0)
		return r;
	store_put(m->store, 'u', stored_as, fd);
	t->slot->u.target.uffd = stored_as;
	t->slot->u.target.armed_by = state_current(m->state);
	target_keep(t);
	gate_revive(&t->gate);
	target_table_started(t);
	log_event(LOG_VERBOSE, LOG_FIELDS(.event = "attach", .target = t->id, .pid = t->pid,
					  .uid = t->uid),
		  "target %u: pid %d is watched", t->id, (int)t->pid);
	return 0;
}

static void target_sweep(struct loop_op *op, int res);

static void release_notifiers(struct target *t, uint8_t cause)
{
	struct event ev = {
		.type = MIRROR_EVENT_RELEASE, .cause = cause,
		.source = MIRROR_SOURCE_EXIT, .guarantee = MIRROR_GUARANTEE_POINT,
		.flags = MIRROR_EVENT_F_POINT, .end = USER_END, .time_ns = now_ns(),
	};

	list_for_each(l, &t->attachments) {
		struct attachment *a = list_entry(l, struct attachment, target_link);

		list_for_each(k, &a->notifiers) {
			struct notifier *n = list_entry(k, struct notifier, attachment_link);
			bool stays = cause == MIRROR_CAUSE_EXEC &&
				     (n->flags & MIRROR_NOTIFIER_F_FOLLOW_EXEC);

			if (!n->interval.linked)
				continue;
			ev.start = n->start;
			ev.end = n->end;
			manager_put(t->manager, n, &ev, stays ? 0 : MIRROR_EVENT_F_LAST);
			if (!stays)
				notifier_unlink(&t->notifiers, n);
		}
	}
	manager_flush(t->manager);
	/* after the flush: who is not linked any more has its record, or is owed it */
	list_for_each(l, &t->attachments) {
		struct attachment *a = list_entry(l, struct attachment, target_link);

		list_for_each(k, &a->notifiers)
			notifier_keep(list_entry(k, struct notifier, attachment_link));
	}
	ev.watched_start = ev.watched_end = 0;
	manager_wake(t->manager, t, &ev);
}

void target_linger(struct target *t)
{
	/* It stays for a while, so that those who watch it can ask what it was. */
	loop_timeout(t->manager->loop, &t->timer, LINGER_NS, target_sweep);
}

static bool owes_release(const struct attachment *a)
{
	list_for_each(l, &a->notifiers)
		if (list_entry(l, struct notifier, attachment_link)->release_owed)
			return true;
	return false;
}

/* Who was attached by following a parent does not know that it should detach. */
static void target_sweep(struct loop_op *op, int res _unused_)
{
	struct target *t = container_of(op, struct target, timer);
	bool kept = false;

	list_for_each_safe(l, &t->attachments) {
		struct attachment *a = list_entry(l, struct attachment, target_link);
		bool last = t->attachments.next == t->attachments.prev;

		if (!a->inherited || owes_release(a)) {
			kept = true;
			continue;
		}
		attachment_free(a);
		if (last)
			return;
	}
	if (kept)
		loop_timeout(t->manager->loop, op, LINGER_NS, target_sweep);
	else
		target_free(t);
}

void target_gone(struct target *t, uint8_t cause)
{
	bool exec = cause == MIRROR_CAUSE_EXEC;

	if (t->state == MIRROR_TARGET_DEAD)
		return;
	log_event(LOG_VERBOSE, LOG_FIELDS(.event = "release", .target = t->id, .pid = t->pid,
					  .uid = t->uid),
		  "target %u: pid %d is gone (%s)", t->id, (int)t->pid, exec ? "exec" : "exit");
	store_release(&t->slot->u.target.going, cause);
	gate_release(&t->gate, MIRROR_GATE_RELEASED);
	target_table_drop(t);
	t->unseen_clear = false;
	stop_source(t);
	loop_stop(&t->timer);
	t->arm_all = false;
	t->arm_next = t->arm_end = 0;
	release_notifiers(t, cause);
	t->state = exec && !notifier_set_is_empty(&t->notifiers) ? MIRROR_TARGET_PENDING
								  : MIRROR_TARGET_DEAD;
	target_keep(t);
	store_release(&t->slot->u.target.going, 0);
	if (t->state == MIRROR_TARGET_PENDING)
		return;
	exit_source_stop(&t->exit);
	target_linger(t);
}

bool target_is_followed(const struct target *t, uint32_t flag)
{
	interval_for_each(i, &t->notifiers.tree, 0, USER_END)
		if (notifier_of(i)->flags & flag)
			return true;
	return false;
}

static void target_look(struct loop_op *op, int res);

static void look_in(struct target *t, uint64_t ns)
{
	/* The timer may be looking for the pid; then it goes on with this by itself. */
	if (!loop_op_is_active(&t->timer))
		loop_timeout(t->manager->loop, &t->timer, ns, target_look);
}

void target_arm_later(struct target *t, uint64_t start, uint64_t end)
{
	/* one range is kept in mind: what lies between two is registered too */
	bool none = t->arm_next == t->arm_end;

	t->arm_next = none ? start : MIN(t->arm_next, start);
	t->arm_end = none ? end : MAX(t->arm_end, end);
	look_in(t, 1);
}

int target_arm(struct target *t, uint64_t start, uint64_t end, struct arm_result *ret_result)
{
	int r;

	if (!uffd_source_is_running(&t->uffd) || t->uffd.arm.maps_fd < 0)
		return -ESRCH;
	r = arm_range(&t->uffd.arm, start, end, ret_result);
	if (r < 0)
		return r;
	t->armed = MAX(t->armed, ret_result->armed);
	if (ret_result->next < end)
		target_arm_later(t, ret_result->next, end);
	return 0;
}

/* true while there is more of a look to do. */
static bool look_on(struct target *t)
{
	struct arm_result result;

	if (arm_range(&t->uffd.arm, t->arm_next, t->arm_end, &result) < 0) {
		t->arm_next = t->arm_end = 0;
		return false;
	}
	t->arm_next = result.next;
	t->arm_seen += result.armed;
	return t->arm_next < t->arm_end;
}

/* true if it was exec, and has been told. */
static bool did_exec(struct target *t)
{
	struct proc_stat st;

	if (!uffd_source_is_running(&t->uffd) ||
	    (uffd_mm_is_alive(t->uffd.fd) && !target_left_program(t)))
		return false;
	t->hung_up = false;
	if (proc_stat_read(t->pid, 0, &st) < 0 || st.start_time != t->start_time ||
	    st.state == 'Z' || (st.flags & PROC_PF_EXITING))
		return false;		/* the pidfd tells */
	target_gone(t, MIRROR_CAUSE_EXEC);
	return true;
}

void target_hung_up(struct target *t)
{
	if (did_exec(t))
		return;
	/* Somebody who looks at /proc may keep the old address space for a moment. */
	t->hung_up = uffd_source_is_running(&t->uffd);
	t->tries = 0;
	if (t->hung_up)
		look_in(t, HANGUP_NS);
}

static void target_look(struct loop_op *op, int res _unused_)
{
	struct target *t = container_of(op, struct target, timer);

	if (t->hung_up && did_exec(t))
		return;
	if (t->hung_up && ++t->tries < HANGUP_TRIES) {
		look_in(t, HANGUP_NS * (1 + t->tries / 16));
		return;
	}
	t->hung_up = false;
	if (!uffd_source_is_running(&t->uffd) || t->uffd.arm.maps_fd < 0)
		return;
	if (t->arm_next == t->arm_end && t->arm_all && !notifier_set_is_empty(&t->notifiers)) {
		t->arm_next = t->arm_seen = 0;
		t->arm_end = USER_END;
	}
	if (t->arm_next < t->arm_end && look_on(t)) {
		look_in(t, 1);
		return;
	}
	t->arm_next = t->arm_end = 0;
	if (!t->arm_all)
		return;
	t->rescan_ns = t->arm_seen == t->armed ? MIN(t->rescan_ns * 2, RESCAN_MAX_NS)
					       : RESCAN_MIN_NS;
	t->armed = t->arm_seen ? t->arm_seen : t->armed;
	look_in(t, t->rescan_ns);
}

void target_rescan(struct target *t)
{
	if (!t->arm_all)
		return;
	t->rescan_ns = RESCAN_MIN_NS;
	look_in(t, t->rescan_ns);
}
