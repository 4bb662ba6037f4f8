/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Attaching
 *
 * The request that makes targets.  Who asks may be the process itself (SELF), with
 * its userfaultfd, or somebody who watches it: before (PENDING) or after it handed
 * one over.  The process may be known already: by a watcher that waits for it, as
 * a child that is followed, or from before it called execve(2).
 */
#include <fcntl.h>
#include "client.h"
#include "manager.h"
#include "procfs.h"
#include "request.h"
#include "uffd.h"

struct attach {
	struct client *client;
	const struct mirror_attach *in;
	struct packet *request;
	struct target *target;
	struct attachment *attachment;
	struct proc_stat stat;
	pid_t pid;
	bool is_new;
	bool joins;		/* @attachment is new */
};

static int check_form(const struct mirror_attach *in, const struct packet *request)
{
	/* F_FDS was for the device, which has looked up what the numbers mean by now. */
	if (in->flags & ~(uint32_t)(MIRROR_ATTACH_F_KNOWN & ~MIRROR_ATTACH_F_FDS) ||
	    in->pidfd || in->uffd)
		return -E2BIG;
	for (unsigned int i = 0; i < ARRAY_SIZE(in->__reserved); i++)
		if (in->__reserved[i])
			return -E2BIG;
	for (unsigned int i = 0; i < ARRAY_SIZE(in->demand); i++) {
		if (in->demand[i] && i >= MIRROR_EVENT_TYPES)
			return -E2BIG;
		if (in->demand[i] > MIRROR_GUARANTEE_HOLD)
			return -EINVAL;
	}
	if (request->n_fds != ((in->flags & MIRROR_ATTACH_F_UFFD) ? 2U : 1U))
		return -EBADMSG;
	return 0;
}

static int check_descriptors(struct attach *a)
{
	int flags, uffd = a->request->fds[1], r;
	pid_t pid;

	r = proc_pid_of(a->request->fds[0], &a->pid);
	if (r < 0)
		return r == -EBADF ? -EBADMSG : r;
	if ((a->in->flags & MIRROR_ATTACH_F_SELF) && a->pid != a->client->conn.pid)
		return -EPERM;
	/* first what it runs, then whether that may be observed; see hand_over() */
	r = proc_stat_read(a->pid, 0, &a->stat);
	if (r < 0)
		return r;
	if (!client_may_observe(a->client, a->pid))
		return -EPERM;
	/* All that was asked by pid was asked of this process, if it lives even now. */
	r = proc_pid_of(a->request->fds[0], &pid);
	if (r < 0 || a->stat.state == 'Z' || a->stat.state == 'X')
		return -ESRCH;
	if (!(a->in->flags & MIRROR_ATTACH_F_UFFD))
		return 0;
	if (!uffd_is_uffd(uffd))
		return -EBADMSG;
	/* A blocking one polls as an error for ever. */
	flags = fcntl(uffd, F_GETFL);
	if (flags < 0 || fcntl(uffd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

static int claim_child(struct attach *a)
{
	struct manager *m = a->client->manager;
	struct target *parent = target_by_pid(m, a->stat.ppid), *t;
	int r;

	if (!parent || !(a->in->flags & MIRROR_ATTACH_F_SELF))
		return 0;
	t = target_of_child(parent, a->pid);
	if (t) {
		r = target_set_process(t, a->pid, a->request->fds[0]);
		if (r < 0)
			return r;
		a->request->fds[0] = -1;
		a->target = t;
		return 0;
	}
	if (!target_is_followed(parent, MIRROR_NOTIFIER_F_FOLLOW_FORK))
		return 0;
	r = target_adopt(parent, a->pid, a->request->fds[0], a->client->conn.uid, &a->target);
	if (r < 0)
		return r;
	a->request->fds[0] = -1;
	return 0;
}

static int find_target(struct attach *a)
{
	struct target *t = target_by_pid(a->client->manager, a->pid);

	if (t && t->start_time != a->stat.start_time) {
		/* The pid was given away again; its pidfd has just not been looked at yet. */
		target_gone(t, MIRROR_CAUSE_EXIT);
		t = NULL;
	}
	a->target = t;
	if (!t)
		return claim_child(a);
	return 0;
}

/* An armed target that handed over its last address space's userfaultfd. */
static void notice_exec(struct attach *a)
{
	struct target *t = a->target;

	if (!t || t->state != MIRROR_TARGET_ARMED ||
	    (uffd_mm_is_alive(t->uffd.fd) && !target_left_program(t)))
		return;
	target_gone(t, MIRROR_CAUSE_EXEC);
	if (t->state == MIRROR_TARGET_DEAD)
		a->target = NULL;	/* nobody follows exec: this is another one */
}

static int make_target(struct attach *a)
{
	int r;

	if (!(a->in->flags & (MIRROR_ATTACH_F_UFFD | MIRROR_ATTACH_F_PENDING)))
		return -ENODATA;
	r = target_new(&a->target, a->client->manager, a->pid, a->request->fds[0],
		       a->client->conn.uid);
	if (r < 0)
		return r;
	a->request->fds[0] = -1;
	a->is_new = true;
	return 0;
}

/*
 * The new image may be another user's: who may not see it stops watching here.  That is
 * not everybody: who hands over is attached already.
 */
static void drop_strangers(const struct attach *own)
{
	list_for_each_safe(l, &own->target->attachments) {
		struct attachment *a = list_entry(l, struct attachment, target_link);

		if (a != own->attachment && !client_may_observe(a->client, own->pid))
			attachment_free(a);
	}
}

static int hand_over(struct attach *a)
{
	struct target *t = a->target;
	int r;

	if (!(a->in->flags & MIRROR_ATTACH_F_UFFD))
		return (a->in->flags & MIRROR_ATTACH_F_PENDING) ? 0 : -ENODATA;
	t->lifeline_tid = (pid_t)a->in->lifeline_tid;
	drop_strangers(a);
	r = uffd_api(a->request->fds[1], a->client->manager->support.features);
	if (r < 0)
		return r;
	t->stack = a->stat.start_stack;
	r = target_start(t, a->request->fds[1]);
	if (r < 0)
		return r;
	a->request->fds[1] = -1;
	/* It may execute another's program just now: what was opened by pid is of that. */
	if (target_left_program(t)) {
		target_gone(t, MIRROR_CAUSE_EXEC);
		return -ESRCH;
	}
	return 0;
}

static int check_demands(struct attach *a)
{
	struct target *t = a->target;

	if ((t->features & a->in->want) != a->in->want)
		return -EOPNOTSUPP;
	for (unsigned int i = 0; i < MIRROR_EVENT_TYPES; i++)
		if (t->guarantee[i] < a->in->demand[i])
			return -EOPNOTSUPP;
	return 0;
}

static int find_attachment(struct attach *a)
{
	a->attachment = attachment_find(a->client, a->target);
	if (a->attachment)
		return 0;
	a->joins = true;
	return attachment_new(&a->attachment, a->target, a->client);
}

static int join(struct attach *a)
{
	struct attachment *at;
	int r;

	r = find_attachment(a);
	if (r < 0)
		return r;
	at = a->attachment;
	if (a->target->state == MIRROR_TARGET_PENDING) {
		r = check_demands(a);	/* first: handing over uses the userfaultfd up */
		if (r == 0)
			r = hand_over(a);
		if (r < 0)
			return r;
	} else if ((a->in->flags & (MIRROR_ATTACH_F_UFFD | MIRROR_ATTACH_F_SELF)) ==
		   MIRROR_ATTACH_F_UFFD) {
		return -EEXIST;
	}
	r = check_demands(a);
	if (r < 0)
		return r;
	if ((a->in->flags & MIRROR_ATTACH_F_SELF) && a->in->lifeline_tid &&
	    (pid_t)a->in->lifeline_tid != a->target->lifeline_tid)
		peek_skip(&a->target->uffd.peek, (pid_t)a->in->lifeline_tid);
	at->inherited = false;
	at->is_self |= !!(a->in->flags & MIRROR_ATTACH_F_SELF);
	attachment_keep(at);
	if (a->in->flags & MIRROR_ATTACH_F_ARM_ALL) {
		a->target->arm_all = true;
		target_keep(a->target);
		if (a->target->state == MIRROR_TARGET_ARMED)
			target_rescan(a->target);
	}
	return 0;
}

static void describe(const struct target *t, struct packet *reply)
{
	struct mirror_attach *out = packet_payload(reply);

	out->target = t->id;
	out->features = t->features;
	for (unsigned int i = 0; i < MIRROR_EVENT_TYPES; i++)
		out->guarantee[i] = t->guarantee[i];
	out->pid = t->pid;
	out->state = t->state;
	reply->fds[0] = t->gate_fd;
	reply->n_fds = 1;
}

int request_attach_again(struct client *c, uint32_t target, struct packet *reply)
{
	const struct mirror_attach *out = packet_payload(reply);
	struct target *t = target_by_id(c->manager, target);
	bool with_uffd = out->flags & MIRROR_ATTACH_F_UFFD;

	if (!t || !attachment_find(c, t) || (with_uffd && !uffd_source_is_running(&t->uffd)))
		return -ENOENT;
	describe(t, reply);
	if (with_uffd)
		reply->fds[reply->n_fds++] = t->uffd.fd;
	return 0;
}

static void fill_reply(const struct attach *a, struct packet *reply)
{
	struct mirror_attach *out = packet_payload(reply);
	const struct target *t = a->target;
	bool handed = a->in->flags & MIRROR_ATTACH_F_UFFD;

	out->flags &= ~(uint32_t)MIRROR_ATTACH_F_UFFD;
	describe(t, reply);
	/* Its own: it may probe.  If it handed one over that was not needed, it swaps. */
	if ((a->in->flags & MIRROR_ATTACH_F_SELF) && uffd_source_is_running(&t->uffd) &&
	    (!handed || a->request->fds[1] >= 0)) {
		out->flags |= MIRROR_ATTACH_F_UFFD;
		reply->fds[reply->n_fds++] = t->uffd.fd;
	}
}

int request_attach(struct client *c, struct packet *request, struct packet *reply)
{
	struct attach a = { .client = c, .in = packet_payload(request), .request = request };
	int r;

	r = check_form(a.in, request);
	if (r == 0)
		r = check_descriptors(&a);
	if (r == 0)
		r = find_target(&a);
	if (r < 0)
		return r;
	notice_exec(&a);
	if (!a.target) {
		r = make_target(&a);
		if (r < 0)
			return r;
	}
	r = join(&a);
	if (r < 0) {
		if (a.joins && a.attachment)
			attachment_free(a.attachment);	/* and the target with its last */
		else if (list_is_empty(&a.target->attachments))
			target_free(a.target);
		return r;
	}
	fill_reply(&a, reply);
	return 0;
}
