/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Children of targets: they are followed, and their processes found
 */
#include "client.h"
#include "manager.h"
#include "procfs.h"
#include "target.h"
#include "uffd.h"

#define FIND_NS 1000000ULL
#define FIND_TRIES 3000

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
			attachment_keep(mine);
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

static void target_find_pid(struct loop_op *op, int res);

void target_seek_process(struct target *t)
{
	loop_timeout(t->manager->loop, &t->timer, FIND_NS, target_find_pid);
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
	target_keep(child);
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
	child->stack = proc_stat_read(t->pid, 0, &st) == 0 ? st.start_stack : 0;
	child->arm_all = t->arm_all;
	if (target_start(child, uffd) < 0) {
		fd_close(uffd);
		drop_attachments(child);
		return NULL;
	}
	target_seek_process(child);
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
	       st.start_time >= t->fork_time && st.start_stack == t->stack &&
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
