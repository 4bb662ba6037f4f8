/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <numa.h>
#include <sys/mman.h>
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

/* Room, not memory: only nodes in use have any. */
#define TABLE_NODES 131072U
/* Pages or runs that one look may cost; about 200 us of them. */
#define SLICE 8192
/* Nodes that entering one run takes at most: paths and splits at its two ends. */
#define RUN_NODES 16U
/* An empty table that had more is given up: a sealed one can give no memory back. */
#define KEPT_NODES 256U
#define WAIT_MIN_NS 1000000ULL
#define WAIT_MAX_NS 100000000ULL

/* The next mirrord must know that there is one before it has the means to end it. */
static int keep_memory(struct target *t, int fd)
{
	struct manager *m = t->manager;
	uint32_t stored_as = state_next_id(m->state);

	if (!stored_as)
		return -EDQUOT;
	store_release(&t->slot->u.target.table, stored_as);
	store_put(m->store, 't', stored_as, fd);
	return 0;
}

static int make_memory(struct target_table *tt, struct target *t)
{
	_cleanup_(fd_closep) int fd = -1;
	int r;

	tt->size = radix_bytes(TABLE_NODES);
	r = memfd_new("mirror-table", tt->size, &fd);
	if (r < 0)
		return r;
	tt->memory = mmap(NULL, tt->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			  fd, 0);
	if (tt->memory == MAP_FAILED) {
		tt->memory = NULL;
		return -errno;
	}
	r = memfd_share(fd, t->manager->store, &tt->fd);
	if (r == 0)
		r = table_init(&tt->core, tt->memory, TABLE_NODES, t->id);
	if (r == 0)
		r = keep_memory(t, fd);
	return r;
}

int target_table_end_other(int fd)
{
	struct mirror_table *head;
	int r;

	r = memfd_check(fd, sizeof(*head), false);
	if (r < 0)
		return r;
	head = mmap(NULL, sizeof(*head), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (head == MAP_FAILED)
		return -errno;
	store_release(&head->state, MIRROR_TABLE_MOVED);
	munmap(head, sizeof(*head));
	return 0;
}

static void place(struct target_table *tt, uint32_t numa_node)
{
	struct proc_stat st;
	int node = (int)numa_node - 1;

	if (numa_available() < 0 || numa_max_node() < 1)
		return;
	if (node < 0 && proc_stat_read(tt->target->pid, 0, &st) == 0)
		node = numa_node_of_cpu(st.cpu);
	if (node >= 0 && node <= numa_max_node())
		numa_tonode_memory(tt->memory, tt->size, node);
}

static struct target_table *target_table_free(struct target_table *tt)
{
	if (!tt)
		return NULL;
	while (!list_is_empty(&tt->fills))
		list_unlink(tt->fills.next);
	loop_stop(&tt->timer);
	pagescan_close(&tt->scan);
	if (tt->core.radix.head)
		table_deinit(&tt->core);
	if (tt->memory)
		munmap(tt->memory, tt->size);
	fd_close(tt->fd);
	quota_refund(&tt->nodes_charge);
	quota_refund(&tt->charge);
	free(tt);
	return NULL;
}

DEFINE_CLEANUP(struct target_table *, target_table_free)

int target_table_get(struct target *t, uid_t uid, uint32_t numa_node)
{
	_cleanup_(target_table_freep) struct target_table *tt = NULL;
	struct quota *quota = &t->manager->quota;
	int r;

	if (t->table)
		return 0;
	if (t->state == MIRROR_TARGET_DEAD)
		return -ESRCH;
	tt = calloc(1, sizeof(*tt));
	if (!tt)
		return -ENOMEM;
	tt->target = t;
	tt->scan = (struct pagescan) PAGESCAN_NULL;
	tt->timer = (struct loop_op) LOOP_OP_NULL;
	tt->fd = -1;
	tt->wait_ns = WAIT_MIN_NS;
	list_init(&tt->fills);
	r = quota_charge(quota, &tt->charge, uid, QUOTA_TABLES);
	if (r == 0)
		r = quota_charge(quota, &tt->nodes_charge, uid, QUOTA_TABLE_NODES);
	if (r == 0)
		r = make_memory(tt, t);
	if (r < 0)
		return r;
	place(tt, numa_node);
	t->table = TAKE_PTR(tt);
	return 0;
}

void target_table_drop(struct target *t)
{
	uint32_t stored_as = t->slot->u.target.table;

	t->table = target_table_free(t->table);
	if (!stored_as)
		return;
	/* after it was marked: who reads it knows */
	store_release(&t->slot->u.target.table, 0);
	store_remove(t->manager->store, 't', stored_as);
}

uint64_t target_table_bytes(const struct target *t)
{
	return t->table ? radix_memory(&t->table->core.radix) : 0;
}

/* ---- a look ---- */

struct filling {
	struct target_table *tt;
	struct fill_result result;
	struct arm_spans spans;
	unsigned int span;		/* the first that does not end before where we are */
};

/* Is it watched at @at?  That holds up to *to, at most. */
static bool is_armed(struct filling *f, uint64_t at, uint64_t *to)
{
	while (f->span < f->spans.n && f->spans.span[f->span].end <= at)
		f->span++;
	if (f->span == f->spans.n)
		return false;
	if (f->spans.span[f->span].start > at) {
		*to = MIN(*to, f->spans.span[f->span].start);
		return false;
	}
	*to = MIN(*to, f->spans.span[f->span].end);
	return true;
}

/* Nodes are charged before they are touched: their memory stays as long as the table. */
static int enter(struct target_table *tt, uint64_t start, uint64_t end, uint64_t entry)
{
	const struct radix *radix = &tt->core.radix;
	uint32_t wanted = MAX(radix->n_touched, (uint32_t)radix->head->live + RUN_NODES);
	int r = 0;

	if (wanted > tt->nodes_charge.n)
		r = quota_resize(&tt->target->manager->quota, &tt->nodes_charge, wanted);
	if (r == 0)
		r = table_enter(&tt->core, start, end, entry);
	if (r == -ENOSPC)
		r = -EDQUOT;
	if (r < 0)
		table_forget(&tt->core, start, end, false);
	return r;
}

static int take_run(const struct pagescan_run *run, void *userdata)
{
	bool known = run->entry & (MIRROR_PTE_PRESENT | MIRROR_PTE_SWAPPED) && !run->special;
	struct filling *f = userdata;
	uint64_t at = run->start, to;
	int r;

	for (; at < run->end; at = to) {
		to = run->end;
		if (!is_armed(f, at, &to) || !known) {
			table_forget(&f->tt->core, at, to, !run->mapped);
		} else {
			r = enter(f->tt, at, to, run->entry);
			if (r < 0)
				return r;
			if (run->entry & MIRROR_PTE_PRESENT)
				f->result.pages += (to - at) / PAGE_BYTES;
		}
		f->result.next = to;
	}
	return 0;
}

/* Opened by pid: is it the address space that we watch? */
static int open_scan(struct target *t)
{
	struct target_table *tt = t->table;
	struct proc_stat st;
	int r;

	if (tt->scan.pagemap_fd < 0) {
		r = pagescan_open(&tt->scan, t->pid, t->uffd.arm.maps_fd);
		if (r < 0)
			return r;
		if (proc_stat_read(t->pid, 0, &st) < 0 || st.start_time != t->start_time ||
		    target_left_program(t) || !uffd_mm_is_alive(t->uffd.fd)) {
			pagescan_close(&tt->scan);
			return -ESRCH;
		}
		tt->scan.nodes = tt->scan.exclusive = true;
	}
	tt->scan.maps_fd = t->uffd.arm.maps_fd;
	return 0;
}

/*
 * CLEARs that nobody watched were let go, and nobody looked at their end.  One may be
 * under way still: it is over when each thread was seen outside of such a call.
 */
static int prove_unseen(struct target *t)
{
	struct event ev = {
		.type = MIRROR_EVENT_CLEAR, .flags = MIRROR_EVENT_F_START, .end = USER_END,
	};

	if (!t->unseen_clear)
		return 0;
	t->unseen_clear = false;
	if (!t->uffd.can_peek)
		return 0;	/* no end can be proven here, and the guarantee says so */
	if (!zap_begin(t->manager->zaps, t->uffd.pool, &t->sink, t->pid, &ev, NULL, 0)) {
		t->unseen_clear = true;
		return -EAGAIN;
	}
	target_table_event(t, &ev);
	return 0;
}

int target_table_fill(struct target *t, uint64_t start, uint64_t end,
		      struct fill_result *ret_result)
{
	struct filling f = { .tt = t->table, .result = { .next = start } };
	struct arm_result armed;
	uint64_t done;
	int r;

	if (!uffd_source_is_running(&t->uffd) || t->uffd.arm.maps_fd < 0 || !t->pid)
		return -ESRCH;
	r = open_scan(t);
	if (r == 0)
		r = prove_unseen(t);
	if (r < 0)
		return r;
	end = table_first_open(&f.tt->core, start, end);
	if (end == start)
		return -EAGAIN;
	r = arm_range_telling(&t->uffd.arm, start, end, &f.spans, &armed);
	if (r < 0)
		return r;
	t->armed = MAX(t->armed, armed.armed);
	f.result.refused = armed.refused + armed.busy;
	/* from here to the end no event is read: see core/table.c */
	r = pagescan_range(&f.tt->scan, start, MIN(end, armed.next), SLICE, take_run, &f, &done);
	quota_resize(&t->manager->quota, &f.tt->nodes_charge,
		     MAX(f.tt->core.radix.n_touched, 1U));
	if (f.result.next == start)
		return r < 0 ? r : -EAGAIN;
	*ret_result = f.result;
	return 0;
}

/* ---- keeping ranges filled ---- */

static void table_timer(struct loop_op *op, int res);

static void set_timer(struct target_table *tt, uint64_t ns)
{
	if (loop_op_is_active(&tt->timer))
		return;
	tt->timer_ns = now_ns();
	/* out of memory: the next event tries again */
	loop_timeout(tt->target->manager->loop, &tt->timer, ns, table_timer);
}

static void has_to_be_filled(struct target_table *tt, struct notifier *n, uint64_t start,
			     uint64_t end)
{
	bool none = list_is_empty(&n->fill_link);

	start = MAX(start, n->start);
	end = MIN(end, n->end);
	if (start >= end)
		return;
	n->fill_next = none ? start : MIN(n->fill_next, start);
	n->fill_end = none ? end : MAX(n->fill_end, end);
	if (none)
		list_append(&tt->fills, &n->fill_link);
}

static void note_change(struct target *t, uint64_t start, uint64_t end)
{
	struct target_table *tt = t->table;

	interval_for_each(i, &t->notifiers.tree, start, end)
		if (notifier_of(i)->flags & MIRROR_NOTIFIER_F_FILL)
			has_to_be_filled(tt, notifier_of(i), start, end);
}

static bool has_work(const struct target_table *tt)
{
	return tt->moved < tt->moved_end || !list_is_empty(&tt->fills);
}

/* One slice of what has to be done.  -ENOENT when nothing is left. */
static int work(struct target_table *tt)
{
	struct target *t = tt->target;
	struct fill_result result;
	struct notifier *n;
	int r;

	if (tt->moved < tt->moved_end) {
		r = target_table_fill(t, tt->moved, tt->moved_end, &result);
		if (r == 0)
			tt->moved = result.next;
		else if (r != -EAGAIN)
			tt->moved = tt->moved_end;
		return r;
	}
	if (list_is_empty(&tt->fills))
		return -ENOENT;
	n = list_entry(tt->fills.next, struct notifier, fill_link);
	list_unlink(&n->fill_link);
	r = target_table_fill(t, n->fill_next, n->fill_end, &result);
	if (r == 0)
		n->fill_next = result.next;
	/* to the end: others have their turn; after any other error the next event tries */
	if (r == -EAGAIN || (r == 0 && n->fill_next < n->fill_end))
		list_append(&tt->fills, &n->fill_link);
	return r;
}

static void table_timer(struct loop_op *op, int res _unused_)
{
	struct target_table *tt = container_of(op, struct target_table, timer);
	bool changed = tt->event_ns > tt->timer_ns;
	int r;

	if (changed && tt->wait_ns < WAIT_MAX_NS) {
		tt->wait_ns = MIN(tt->wait_ns * 2, WAIT_MAX_NS);
		set_timer(tt, tt->wait_ns);
		return;
	}
	r = work(tt);
	if (!has_work(tt)) {
		if (!changed)
			tt->wait_ns = WAIT_MIN_NS;
		return;
	}
	set_timer(tt, r == -EAGAIN ? tt->wait_ns : 1);
}

/* Who reads it finds that it is not kept any more, and asks for another. */
static void give_up_if_empty(struct target *t)
{
	const struct table *core = &t->table->core;

	if (core->radix.head->live > 1 || core->radix.n_touched <= KEPT_NODES ||
	    core->n_open || core->n_more || has_work(t->table) ||
	    target_is_followed(t, MIRROR_NOTIFIER_F_FILL))
		return;
	target_table_drop(t);
}

void target_table_event(struct target *t, const struct event *ev)
{
	struct target_table *tt = t->table;
	uint64_t to = ev->arg[0], to_end = to + (ev->end - ev->start);
	struct radix_run run;
	bool takes_along;

	takes_along = ev->type == MIRROR_EVENT_REMAP &&
		      radix_next(&tt->core.radix, ev->start,
				 MIN(ev->end, radix_limit(&tt->core.radix)), &run);
	table_event(&tt->core, ev);
	if (takes_along && range_is_valid(to, to_end)) {
		tt->moved = to;
		tt->moved_end = to_end;
		note_change(t, to, to_end);
	}
	if (ev->start < ev->end && !(ev->flags & MIRROR_EVENT_F_START))
		note_change(t, ev->start, ev->end);
	if (has_work(tt)) {
		tt->event_ns = ev->time_ns;
		set_timer(tt, tt->wait_ns);
	}
	give_up_if_empty(t);
}

void target_table_end(struct target *t, const struct event *started)
{
	struct target_table *tt = t->table;

	table_end(&tt->core, started);
	note_change(t, started->start, started->end);
	if (has_work(tt)) {
		tt->event_ns = now_ns();
		set_timer(tt, tt->wait_ns);
	}
	give_up_if_empty(t);
}

void target_table_fork(struct target *t)
{
	table_fork(&t->table->core);
}

int target_table_follow(struct notifier *n)
{
	struct target *t = n->attachment->target;
	int r;

	if (!(n->flags & MIRROR_NOTIFIER_F_FILL))
		return 0;
	/* at the expense of who wants it so */
	r = target_table_get(t, n->attachment->client->conn.uid, 0);
	if (r < 0)
		return r;
	has_to_be_filled(t->table, n, n->start, n->end);
	set_timer(t->table, t->table->wait_ns);
	return 0;
}

void target_table_started(struct target *t)
{
	if (!t->pid || !uffd_source_is_running(&t->uffd))
		return;
	interval_for_each(i, &t->notifiers.tree, 0, USER_END)
		/* without one it is not kept filled, and that is all */
		if (target_table_follow(notifier_of(i)) < 0)
			log_debug("target %u: no mirror table", t->id);
}
