/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <assert.h>
#include <string.h>
#include "client.h"
#include "manager.h"
#include "memfd.h"
#include "procfs.h"
#include "shm.h"
#include "sys/log.h"
#include "table-fill.h"
#include "target.h"
#include "uffd.h"

#define RESCAN_MIN_NS 20000000ULL	/* between looks for new mappings */
#define RESCAN_MAX_NS 500000000ULL	/* when there were none for a while */
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

static int target_make_gate(struct target *t)
{
	int r;

	r = memfd_new("mirror-gate", GATE_BYTES, &t->gate_fd);
	if (r < 0)
		return r;
	r = life_map(t->gate_fd, GATE_BYTES, &t->life);
	if (r < 0)
		return r;
	r = memfd_seal_writes(t->gate_fd);
	if (r < 0)
		return r;
	gate_init(&t->gate, t->life.shared, t->id, t->manager->live);
	return 0;
}

int target_new(struct target **ret_target, struct manager *m, pid_t pid, int pidfd, uid_t uid)
{
	_cleanup_(target_freep) struct target *t = NULL;
	int r;

	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
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
	t->id = m->next_target;
	r = quota_charge(&m->quota, &t->charge, uid, QUOTA_TARGETS);
	if (r < 0)
		return r;
	r = target_make_gate(t);
	if (r < 0)
		return r;
	if (pid) {
		r = target_set_process(t, pid, pidfd);
		if (r < 0)
			return r;
	}
	target_guarantees(t);
	m->next_target++;
	m->n_targets++;
	list_append(&m->targets, &t->link);
	*ret_target = TAKE_PTR(t);
	return 0;
}

struct target *target_free(struct target *t)
{
	if (!t)
		return NULL;
	assert(list_is_empty(&t->attachments) && notifier_set_is_empty(&t->notifiers));
	if (t->gate.shm)
		gate_release(&t->gate, MIRROR_GATE_CLOSED);
	target_table_drop(t);
	uffd_source_stop(&t->uffd);
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
	if (uffd_source_is_running(&t->uffd)) {
		uffd_source_set_pid(&t->uffd, pid, t->lifeline_tid, t->manager->options.peek);
		target_guarantees(t);
		target_table_started(t);
	}
	return 0;
}

int target_start(struct target *t, int fd)
{
	struct uffd_source_config config = {
		.loop = t->manager->loop, .zaps = t->manager->zaps, .sink = &t->sink,
		.pid = t->pid, .skip_tid = t->lifeline_tid, .peek = t->manager->options.peek,
	};
	int r;

	r = uffd_source_start(&t->uffd, &config, fd);
	if (r < 0)
		return r;
	t->state = MIRROR_TARGET_ARMED;
	target_guarantees(t);
	gate_revive(&t->gate);
	target_table_started(t);
	log_debug("target %u: pid %d is watched", t->id, (int)t->pid);
	return 0;
}

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
	ev.watched_start = ev.watched_end = 0;
	manager_wake(t->manager, t, &ev);
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
	log_debug("target %u: pid %d is gone (%s)", t->id, (int)t->pid, exec ? "exec" : "exit");
	gate_release(&t->gate, MIRROR_GATE_RELEASED);
	target_table_drop(t);
	t->unseen_clear = false;
	uffd_source_stop(&t->uffd);
	loop_stop(&t->timer);
	t->arm_all = false;
	t->arm_next = t->arm_end = 0;
	release_notifiers(t, cause);
	if (exec && !notifier_set_is_empty(&t->notifiers)) {
		t->state = MIRROR_TARGET_PENDING;
		return;
	}
	t->state = MIRROR_TARGET_DEAD;
	exit_source_stop(&t->exit);
	/* It stays for a while, so that those who watch it can ask what it was. */
	loop_timeout(t->manager->loop, &t->timer, LINGER_NS, target_sweep);
}

bool target_is_followed(const struct target *t, uint32_t flag)
{
	interval_for_each(i, &t->notifiers.tree, 0, USER_END)
		if (notifier_of(i)->flags & flag)
			return true;
	return false;
}

/* Everybody who follows @parent watches @child the same way. */
static int inherit(struct target *parent, struct target *child)
{
	int r;

	list_for_each(l, &parent->attachments) {
		struct attachment *a = list_entry(l, struct attachment, target_link), *mine = NULL;

		list_for_each(k, &a->notifiers) {
			struct notifier *n = list_entry(k, struct notifier, attachment_link), *new;

			if (!(n->flags & MIRROR_NOTIFIER_F_FOLLOW_FORK) || !n->interval.linked)
				continue;
			r = mine ? 0 : attachment_new(&mine, child, a->client);
			if (r < 0)
				return r;
			mine->inherited = true;
			r = notifier_new(&new, mine, n);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

static void drop_attachments(struct target *t)
{
	while (!list_is_empty(&t->attachments)) {
		struct attachment *a = list_entry(t->attachments.next, struct attachment,
						  target_link);
		bool last = t->attachments.next == t->attachments.prev;

		attachment_free(a);
		if (last)
			return;		/* the target went with it */
	}
	target_free(t);
}

int target_adopt(struct target *parent, pid_t pid, int pidfd, uid_t uid,
		 struct target **ret_target)
{
	struct target *child;
	int r;

	r = target_new(&child, parent->manager, pid, pidfd, uid);
	if (r < 0)
		return r;
	child->parent = parent->id;
	r = inherit(parent, child);
	if (r < 0) {
		child->pidfd = -1;	/* the caller's still */
		exit_source_stop(&child->exit);
		drop_attachments(child);
		return r;
	}
	*ret_target = child;
	return 0;
}

#define FIND_NS 1000000ULL
#define FIND_TRIES 3000
#define HANGUP_TRIES 64

static void target_find_pid(struct loop_op *op, int res);

struct target *target_fork(struct target *t, int uffd, pid_t fork_tid)
{
	struct target *child;
	struct proc_stat st;

	if (!target_is_followed(t, MIRROR_NOTIFIER_F_FOLLOW_FORK) ||
	    target_adopt(t, 0, -1, t->uid, &child) < 0) {
		/* Closing it unregisters the child's memory: the child runs free. */
		fd_close(uffd);
		return NULL;
	}
	child->fork_tid = fork_tid;
	child->fork_time = proc_now();
	child->fork_stack = proc_stat_read(t->pid, 0, &st) == 0 ? st.start_stack : 0;
	child->arm_all = t->arm_all;
	if (target_start(child, uffd) < 0) {
		fd_close(uffd);
		drop_attachments(child);
		return NULL;
	}
	loop_timeout(t->manager->loop, &child->timer, FIND_NS, target_find_pid);
	return child;
}

/*
 * The kernel tells of a fork before the child can be seen, and does not say later who
 * it was.  A process is the child if its parent is, it began after we read the event,
 * runs the program that its parent ran then (exec draws another stack), and has
 * memory of its own.
 */
static bool could_be(const struct target *t, const struct target *parent, pid_t pid)
{
	struct proc_stat st;

	return proc_stat_read(pid, 0, &st) == 0 && st.ppid == parent->pid &&
	       st.start_time >= t->fork_time && st.start_stack == t->fork_stack &&
	       !proc_share_memory(pid, parent->pid);
}

/* The children of the thread that forked @t, in order, that nobody has claimed. */
static int unclaimed(const struct target *t, const struct target *parent, pid_t *ret_pids, int max)
{
	int n, found = 0;

	n = proc_children(parent->pid, t->fork_tid, ret_pids, (size_t)max);
	for (int i = 0; i < n; i++)
		if (!target_by_pid(t->manager, ret_pids[i]) && could_be(t, parent, ret_pids[i]))
			ret_pids[found++] = ret_pids[i];
	return found;
}

static bool lacks_process(const struct target *t, const struct target *parent)
{
	return t->parent == parent->id && !t->pid && t->state == MIRROR_TARGET_ARMED;
}

/* Threads of one parent fork side by side; those of one thread come in order. */
struct target *target_of_child(struct target *parent, pid_t pid)
{
	pid_t pids[64];

	list_for_each(l, &parent->manager->targets) {
		struct target *t = list_entry(l, struct target, link);
		int n, before = 0;

		if (!lacks_process(t, parent))
			continue;
		n = unclaimed(t, parent, pids, ARRAY_SIZE(pids));
		list_for_each(k, &parent->manager->targets) {
			struct target *other = list_entry(k, struct target, link);

			if (other == t)
				break;
			before += lacks_process(other, parent) && other->fork_tid == t->fork_tid;
		}
		if (n && pids[MIN(before, n - 1)] == pid)
			return t;
	}
	return NULL;
}

static pid_t find_child(struct target *t, struct target *parent)
{
	pid_t pids[64];
	int n = unclaimed(t, parent, pids, ARRAY_SIZE(pids));

	for (int i = 0; i < n; i++)
		if (target_of_child(parent, pids[i]) == t)
			return pids[i];
	return 0;
}

static void target_find_pid(struct loop_op *op, int res _unused_)
{
	struct target *t = container_of(op, struct target, timer);
	struct target *parent = target_by_id(t->manager, t->parent);
	pid_t pid = 0;
	int pidfd;

	if (t->pid) {
		target_rescan(t);
		return;
	}
	if (!uffd_mm_is_alive(t->uffd.fd)) {
		target_gone(t, MIRROR_CAUSE_EXIT);
		return;
	}
	if (parent && parent->pid)
		pid = find_child(t, parent);
	if (pid) {
		pidfd = proc_pidfd(pid);
		if (pidfd >= 0 && target_set_process(t, pid, pidfd) == 0) {
			target_rescan(t);
			return;
		}
		fd_close(pidfd);
	}
	/* Later and later, but for ever: that the address space is gone must be noticed. */
	t->tries = MIN(t->tries + 1, FIND_TRIES);
	loop_timeout(t->manager->loop, op, FIND_NS * (1 + t->tries / 16), target_find_pid);
}

static void target_look(struct loop_op *op, int res);

static void look_in(struct target *t, uint64_t ns)
{
	/* The timer may be looking for the pid; then it goes on with this by itself. */
	if (!loop_op_is_active(&t->timer))
		loop_timeout(t->manager->loop, &t->timer, ns, target_look);
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
	if (ret_result->next < end) {
		/* one range is kept in mind: what lies between two is registered too */
		bool none = t->arm_next == t->arm_end;

		t->arm_next = none ? ret_result->next : MIN(t->arm_next, ret_result->next);
		t->arm_end = none ? end : MAX(t->arm_end, end);
		look_in(t, 1);
	}
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

	if (!uffd_source_is_running(&t->uffd) || uffd_mm_is_alive(t->uffd.fd))
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
		look_in(t, FIND_NS);
}

static void target_look(struct loop_op *op, int res _unused_)
{
	struct target *t = container_of(op, struct target, timer);

	if (t->hung_up && did_exec(t))
		return;
	if (t->hung_up && ++t->tries < HANGUP_TRIES) {
		look_in(t, FIND_NS * (1 + t->tries / 16));
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
