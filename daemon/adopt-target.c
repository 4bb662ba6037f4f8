/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Adopting targets: their gates, their sources, and the proof that what was under way
 * is over
 */
#include "adopt-private.h"
#include "client.h"
#include "manager.h"
#include "procfs.h"
#include "shm.h"
#include "sys/log.h"
#include "sys/store.h"
#include "table-fill.h"
#include "target.h"
#include "uffd.h"

#define ARM_RANGES 256	/* at once; the rest when the loop turns */

/* true if the process lives that it was; else the target will be gone. */
static bool find_process(struct target *t)
{
	int pidfd = proc_pidfd(t->pid);
	struct proc_stat st;

	if (pidfd >= 0 && proc_stat_read(t->pid, 0, &st) == 0 &&
	    st.start_time == t->start_time && target_set_process(t, t->pid, pidfd) == 0)
		return true;
	fd_close(pidfd);
	return false;
}

/* The list of targets is in the order of their ids, and slots are not. */
static void put_in_order(struct manager *m, struct target *t)
{
	struct list *before = t->link.prev;

	while (before != &m->targets && list_entry(before, struct target, link)->id > t->id)
		before = before->prev;
	list_unlink(&t->link);
	list_append(before->next, &t->link);
}

int adopt_target(struct adoption *ad, struct state_slot *slot)
{
	const struct state_target *s = &slot->u.target;
	int *fd = adoption_fd(ad, 'g', slot->id), r;
	struct manager *m = ad->manager;
	struct target *t;

	if (!slot->id || s->state > MIRROR_TARGET_DEAD || s->pid < 0 || s->arm_all > 1 ||
	    s->going >= MIRROR_CAUSES)
		return -EINVAL;
	state_note_target(m->state, slot->id);
	state_note_id(m->state, MAX(s->uffd, s->table));
	r = target_resume(&t, m, slot, *fd);
	if (r < 0)
		return r;
	if (*fd >= 0)
		*fd = -1;
	else
		t->orphan = true;
	put_in_order(m, t);
	ad->objects[state_slot_index(m->state, slot)] = t;
	return 0;
}

/* Who watches it may have missed something. */
static void tell_loss(struct target *t)
{
	list_for_each(l, &t->attachments) {
		struct attachment *a = list_entry(l, struct attachment, target_link);

		if (a->client->ring && !list_is_empty(&a->notifiers))
			ring_lose(a->client->ring, now_ns(), &t->manager->rings);
	}
}

/* Readers of its mirror table must not go on believing it.  false: they would. */
static bool end_table(struct adoption *ad, struct target *t)
{
	struct state_target *s = &t->slot->u.target;
	int fd = s->table ? *adoption_fd(ad, 't', s->table) : -1;

	if (!s->table)
		return true;
	if (fd < 0 || target_table_end_other(fd) < 0)
		return false;
	/* its descriptor is nobody's now, and goes with the rest */
	store_release(&s->table, 0);
	return true;
}

static bool resume_source(struct adoption *ad, struct target *t)
{
	uint32_t stored_as = t->slot->u.target.uffd;
	int *fd = adoption_fd(ad, 'u', stored_as);

	if (!stored_as || *fd < 0 || !uffd_is_uffd(*fd) ||
	    target_resume_source(t, *fd, stored_as) < 0)
		return false;
	*fd = -1;
	return true;
}

/*
 * A change that nobody knows any more, of all there is: until no thread is inside of a
 * call that could be it.  As an OVERFLOW it has a start and an end, and no records.
 */
static bool begin_unknown(struct target *t)
{
	struct event ev = {
		.type = MIRROR_EVENT_OVERFLOW, .flags = MIRROR_EVENT_F_START,
		.end = USER_END, .watched_end = USER_END, .time_ns = now_ns(),
	};

	return zap_begin(t->manager->zaps, t->uffd.pool, &t->sink, t->pid, &ev, NULL, 0);
}

/* What was mapped anew just before is not registered, perhaps. */
static void arm_again(struct target *t)
{
	uint64_t start = 0, end = 0;
	struct arm_result result;
	unsigned int n = 0;

	interval_for_each(i, &t->notifiers.tree, 0, USER_END) {
		if (i->start > end || !end) {
			if (end)
				target_arm(t, start, end, &result);
			if (end && ++n == ARM_RANGES) {
				target_arm_later(t, i->start, USER_END);
				return;
			}
			start = i->start;
			end = 0;
		}
		end = MAX(end, i->end);
	}
	if (end)
		target_arm(t, start, end, &result);
}

static void go_on(struct target *t)
{
	if (!t->pid) {
		target_seek_process(t);
		return;
	}
	if (!uffd_mm_is_alive(t->uffd.fd) || target_left_program(t)) {
		target_hung_up(t);
		return;
	}
	target_table_started(t);
	arm_again(t);
	target_rescan(t);
}

/* ARMED it was.  Order matters: first OVERFLOW is flagged, then the gate lives. */
static void resume_gate(struct target *t)
{
	bool quiet = gate_is_quiet(&t->gate), open = false;

	if (!quiet) {
		tell_loss(t);
		/* where threads cannot be seen nobody was promised an end, see target.c */
		open = t->uffd.can_peek && begin_unknown(t);
	}
	gate_renew(&t->gate, t->manager->live, true, open);
}

/* What it takes to go on is not there. */
static void lose(struct adoption *ad, struct target *t)
{
	ad->n_lost++;
	target_gone(t, MIRROR_CAUSE_DETACH);
	/* afterwards: who finds that we hung up must find the gate without life */
	list_for_each(l, &t->attachments) {
		struct attachment *a = list_entry(l, struct attachment, target_link);

		if (a->is_self || (t->orphan && !a->inherited))
			adopt_hang_up(a->client);
	}
}

static void adopt_armed(struct adoption *ad, struct target *t, bool found)
{
	struct state_target *s = &t->slot->u.target;
	bool whole = end_table(ad, t);

	if (adoption_is_half_made(ad, s->armed_by)) {
		/* handed over in a request that is asked again, with another userfaultfd */
		gate_renew(&t->gate, t->manager->live, false, false);
		gate_release(&t->gate, MIRROR_GATE_RELEASED);
		t->state = MIRROR_TARGET_PENDING;
		s->uffd = 0;
		target_keep(t);
		return;
	}
	if (!whole || t->orphan || t->forsaken || (found && !resume_source(ad, t))) {
		lose(ad, t);
		return;
	}
	if (!found) {
		target_gone(t, MIRROR_CAUSE_EXIT);
		return;
	}
	resume_gate(t);
	go_on(t);
}

void adopt_target_finish(struct adoption *ad, struct target *t)
{
	const struct state_target *s = &t->slot->u.target;
	bool found = !t->pid || t->state == MIRROR_TARGET_DEAD || find_process(t);

	if (list_is_empty(&t->attachments)) {
		target_free(t);
		return;
	}
	if (t->orphan && t->state != MIRROR_TARGET_ARMED) {
		lose(ad, t);
	} else if (s->going) {
		/* RELEASE was being told: who has not heard it hears it now */
		end_table(ad, t);
		gate_renew(&t->gate, t->manager->live, false, false);
		target_gone(t, s->going);
	} else if (t->state == MIRROR_TARGET_ARMED) {
		adopt_armed(ad, t, found);
	} else {
		gate_renew(&t->gate, t->manager->live, false, false);
		if (!found)
			target_gone(t, MIRROR_CAUSE_EXIT);
		else if (t->state == MIRROR_TARGET_DEAD)
			target_linger(t);
	}
}
