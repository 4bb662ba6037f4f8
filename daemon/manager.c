/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The order of a change
 *
 * A change travels target -> source -> here -> rings.  Whatever the source, it is
 * put in this order, and nowhere else is that order decided:
 *
 *	1. the gate closes, for the whole target		manager_unknown()
 *	   (the source reads: the target goes on)
 *	2. the stripes of what is watched begin		manager_event()
 *	3. the gate opens: the stripes guard it now
 *	4. the mirror table, if there is one, loses what is no longer so
 *	5. records are put into rings, made visible
 *	6. the stripes end, unless the end must be proven	manager_end() does it later
 *	7. who sleeps is woken
 *
 * Between 1 and 3 nothing is allocated, no lock is taken and nobody is waited for.
 * A change that nobody watches leaves every stripe alone, but not the table.
 */
#include <assert.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include "client-device.h"
#include "client.h"
#include "manager.h"
#include "procfs.h"
#include "shm.h"
#include "sys/log.h"
#include "sys/state.h"
#include "sys/store.h"
#include "table-fill.h"
#include "target.h"

#define CAP_SYS_PTRACE_BIT 19

static void manager_accepted(void *userdata, int fd)
{
	struct manager *m = userdata;
	struct client *c;
	int r;

	r = client_new(&c, m, fd);
	if (r < 0) {
		struct ucred cred = { .pid = 0 };
		socklen_t len = sizeof(cred);

		getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
		log_event(m->options.embedded ? LOG_VERBOSE : LOG_NORMAL,
			  LOG_FIELDS(.event = "refused", .pid = cred.pid, .uid = cred.uid),
			  "process %d of user %u is not served: %s", (int)cred.pid,
			  (unsigned int)cred.uid, strerror(-r));
		m->refused++;
		conn_refuse(m->loop, fd, -r);
	}
}

static const struct control_ops control_ops = { .accepted = manager_accepted };

static void manager_idle(void *userdata)
{
	struct manager *m = userdata;

	if (m->options.exit_idle && m->had_client && !m->n_clients)
		loop_exit(m->loop);
}

static uint64_t features_of(const struct manager *m)
{
	uint64_t f = MIRROR_FEAT_EVENT(MIRROR_EVENT_UNMAP) | MIRROR_FEAT_EVENT(MIRROR_EVENT_CLEAR) |
		     MIRROR_FEAT_EVENT(MIRROR_EVENT_REMAP) |
		     MIRROR_FEAT_EVENT(MIRROR_EVENT_RELEASE) |
		     MIRROR_FEAT_EVENT(MIRROR_EVENT_OVERFLOW) | MIRROR_FEAT_PROBE;

	if (m->support.fork)
		f |= MIRROR_FEAT_EVENT(MIRROR_EVENT_FORK);
	if (m->support.wp_async)
		f |= MIRROR_FEAT_WP_ASYNC;
	if (m->options.peek)
		f |= MIRROR_FEAT_PEEK | MIRROR_FEAT_REMOVE_END;
	return f;
}

int manager_init(struct manager *m, const struct manager_options *options)
{
	int r;

	*m = (struct manager) { .options = *options };
	list_init(&m->targets);
	list_init(&m->clients);
	list_init(&m->dirty);
	quota_init(&m->quota);
	m->start_ns = now_ns();
	m->privileged = proc_has_cap(getpid(), CAP_SYS_PTRACE_BIT);
	placement_init(&m->placement, options->follow_cpu);
	/* A blocked target waits for us: be served before ordinary programs, if allowed. */
	if (setpriority(PRIO_PROCESS, 0, -15) < 0)
		log_debug("cannot raise the priority: targets may wait longer");
	r = life_init(&m->live);
	if (r < 0)
		return r;
	r = uffd_support_probe(&m->support, options->uffd_mode);
	if (r < 0) {
		log_error("userfaultfd cannot be used: %s",
			  r == -EPERM ? "forbidden (vm.unprivileged_userfaultfd, seccomp?)" :
			  r == -EOPNOTSUPP ? "this kernel lacks a feature" : strerror(-r));
		return r;
	}
	m->features = features_of(m);
	r = loop_new(&m->loop);
	if (r < 0) {
		log_error("io_uring cannot be used: %s",
			  r == -EPERM ? "forbidden (kernel.io_uring_disabled, seccomp?)" :
			  r == -ENOSYS ? "not in this kernel" : strerror(-r));
		return r;
	}
	loop_set_idle(m->loop, manager_idle, m);
	r = state_new(&m->state, false);
	if (r < 0)
		return r;
	return zaps_new(&m->zaps, m->loop, &m->zap_counters);
}

void manager_deinit(struct manager *m)
{
	/* First: what clients left in sockets can be files of it, and we serve no more. */
	if (m->state)
		client_device_stop(m);
	m->control = control_free(m->control);
	while (!list_is_empty(&m->clients))
		client_free(list_entry(m->clients.next, struct client, link));
	assert(list_is_empty(&m->targets));
	quota_deinit(&m->quota);
	m->zaps = zaps_free(m->zaps);
	placement_deinit(&m->placement);
	m->store = store_free(m->store);
	m->state = state_free(m->state);
	m->loop = loop_free(m->loop);
}

int manager_listen(struct manager *m, int fd)
{
	return control_new(&m->control, m->loop, fd, &control_ops, m);
}

/* One record into one ring; true if it is there. */
static bool put_record(struct manager *m, struct notifier *n, const struct event *ev,
		       uint16_t flags)
{
	struct client *c = n->attachment->client;
	struct mirror_event record;

	event_to_record(ev, &record);
	record.flags |= flags;
	record.user_data = n->user_data;
	record.target = n->attachment->target->id;
	if (list_is_empty(&c->ring->dirty_link))
		list_append(&m->dirty, &c->ring->dirty_link);
	n->attachment->target->published++;
	if (ring_put(c->ring, &record, &m->rings))
		return true;
	log_event(LOG_VERBOSE, LOG_FIELDS(.event = "overflow", .client = c->id,
					  .target = record.target, .pid = c->conn.pid,
					  .uid = c->conn.uid),
		  "process %d does not read: records for it become one OVERFLOW",
		  (int)c->conn.pid);
	return false;
}

void manager_put(struct manager *m, struct notifier *n, const struct event *ev, uint16_t flags)
{
	struct client *c = n->attachment->client;

	if (put_record(m, n, ev, flags) || ev->type != MIRROR_EVENT_RELEASE)
		return;
	/* OVERFLOW covers every other event; that the address space is gone it does not. */
	if (!n->release_owed)
		c->n_release_owed++;
	n->release_owed = true;
	n->release_cause = ev->cause;
}

void manager_flush(struct manager *m)
{
	list_for_each(l, &m->dirty)
		ring_flush(list_entry(l, struct ring, dirty_link));
}

static void wake_gate_waiters(struct target *t, const struct event *ev)
{
	uint64_t block = ev->watched_start >> GATE_STRIPE_SHIFT;
	uint64_t n;

	futex_wake(&t->gate.shm->seq, INT32_MAX);
	if (!event_is_watched(ev))
		return;
	n = gate_blocks(ev->watched_start, ev->watched_end, GATE_STRIPE_SHIFT, GATE_STRIPES);
	for (uint64_t i = 0; i < n; i++) {
		struct mirror_gate_stripe *s;

		s = &t->gate.stripes[gate_index(block + i, GATE_STRIPES)];
		futex_wake((const uint32_t *)(const void *)&s->ended, INT32_MAX);
	}
}

void manager_wake(struct manager *m, struct target *t, const struct event *ev)
{
	bool waiters = false;

	while (!list_is_empty(&m->dirty)) {
		struct ring *ring = list_entry(m->dirty.next, struct ring, dirty_link);

		list_unlink(&ring->dirty_link);
		ring_wake(ring, &m->rings);
	}
	if (!t)
		return;
	list_for_each(l, &t->attachments) {
		struct attachment *a = list_entry(l, struct attachment, target_link);

		waiters = waiters || (a->client->ring && ring_has_gate_waiters(a->client->ring));
	}
	if (waiters)
		wake_gate_waiters(t, ev);
}

static void publish(struct target *t, const struct event *ev, uint32_t only_with)
{
	interval_for_each(i, &t->notifiers.tree, ev->watched_start, ev->watched_end) {
		struct notifier *n = notifier_of(i);

		if ((n->flags & only_with) == only_with)
			manager_put(t->manager, n, ev, 0);
	}
	manager_flush(t->manager);
}

static void manager_unknown(struct source_sink *sink)
{
	gate_unknown_begin(&container_of(sink, struct target, sink)->gate);
}

static void manager_nothing(struct source_sink *sink)
{
	gate_unknown_end(&container_of(sink, struct target, sink)->gate);
}

static bool manager_watches(struct source_sink *sink, uint64_t start, uint64_t end)
{
	struct target *t = container_of(sink, struct target, sink);

	/* of what is in a table every change counts */
	return start < end && (t->table || interval_first(&t->notifiers.tree, start, end));
}

static void manager_event(struct source_sink *sink, struct event *ev)
{
	struct target *t = container_of(sink, struct target, sink);
	struct manager *m = t->manager;

	/* it does not die of what was kept, nor of this event: the next one would not see it */
	if (!m->events++)
		state_attempt_done(m->state);
	if (ev->start < ev->end &&
	    notifier_set_hull(&t->notifiers, ev->start, ev->end, &ev->watched_start,
			      &ev->watched_end))
		gate_start(&t->gate, ev->watched_start, ev->watched_end);
	gate_unknown_end(&t->gate);
	if ((ev->flags & MIRROR_EVENT_F_START) &&
	    (ev->watched_start > ev->start || ev->watched_end < ev->end))
		t->unseen++;
	if (t->table) {
		ev->needs_end = true;
		target_table_event(t, ev);
	} else if ((ev->flags & MIRROR_EVENT_F_START) && !event_is_watched(ev)) {
		t->unseen_clear = true;
	}
	if (event_is_watched(ev)) {
		publish(t, ev, 0);
		if (!(ev->flags & MIRROR_EVENT_F_START))
			gate_end(&t->gate, ev->watched_start, ev->watched_end);
	}
	manager_wake(m, t, ev);
	loop_look(m->loop, placement_note(&m->placement, ev->time_ns, t->pid,
					  t->uffd.last_tid));
}

static void manager_end(struct source_sink *sink, const struct event *started)
{
	struct target *t = container_of(sink, struct target, sink);
	struct event ev = *started;

	ev.flags = (uint16_t)((ev.flags & ~MIRROR_EVENT_F_PHASE) | MIRROR_EVENT_F_END);
	ev.time_ns = now_ns();
	/* what was not seen to begin is an OVERFLOW: no END is told */
	if (ev.type == MIRROR_EVENT_OVERFLOW)
		t->proven = MAX(t->proven, ev.arg[0]);
	else if (t->table)
		target_table_end(t, started);
	if (event_is_watched(&ev)) {
		if (ev.type != MIRROR_EVENT_OVERFLOW)
			publish(t, &ev, MIRROR_NOTIFIER_F_END);
		gate_end(&t->gate, ev.watched_start, ev.watched_end);
	}
	manager_wake(t->manager, t, &ev);
}

int manager_close_unseen(struct notifier *n)
{
	struct target *t = n->attachment->target;
	struct event ev = {
		.type = MIRROR_EVENT_OVERFLOW, .flags = MIRROR_EVENT_F_START,
		.start = n->start, .end = n->end, .arg = { t->unseen },
		.watched_start = n->start, .watched_end = n->end, .time_ns = now_ns(),
	};

	if (t->unseen == t->proven || !t->uffd.can_peek)
		return 0;
	if (!zap_pool_has_room(t->uffd.pool))
		return -EAGAIN;
	gate_start(&t->gate, n->start, n->end);
	zap_begin(t->manager->zaps, t->uffd.pool, &t->sink, t->pid, &ev, NULL, 0);
	return 0;
}

static void manager_fork(struct source_sink *sink, struct event *ev, int uffd, pid_t tid)
{
	struct target *t = container_of(sink, struct target, sink);
	struct target *child;

	t->manager->events++;
	/* a child of which not everything is known counts for nothing, see adopt.c */
	state_fork_begin(t->manager->state);
	/* no stripe tells it: so table and records come before the gate opens */
	if (t->table)
		target_table_fork(t);
	child = target_fork(t, uffd, tid);
	state_fork_end(t->manager->state);
	ev->arg[0] = child ? child->id : 0;
	ev->watched_start = 0;
	ev->watched_end = USER_END;
	publish(t, ev, 0);
	gate_unknown_end(&t->gate);
	manager_wake(t->manager, t, ev);
}

static void manager_gone(struct source_sink *sink, uint8_t cause)
{
	target_gone(container_of(sink, struct target, sink), cause);
}

const struct source_sink_ops manager_sink_ops = {
	.unknown = manager_unknown,
	.nothing = manager_nothing,
	.event = manager_event,
	.end = manager_end,
	.fork = manager_fork,
	.gone = manager_gone,
	.watches = manager_watches,
};
