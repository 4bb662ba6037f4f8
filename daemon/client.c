/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <string.h>
#include "client.h"
#include "manager.h"
#include "procfs.h"
#include "shm.h"
#include "request.h"
#include "sys/log.h"

#define CAP_SYS_PTRACE_BIT 19

static int client_packet(struct conn *conn, struct packet *packet)
{
	return request_handle(container_of(conn, struct client, conn), packet);
}

static void client_hangup(struct conn *conn)
{
	struct client *c = container_of(conn, struct client, conn);

	list_for_each(l, &c->attachments) {
		struct attachment *a = list_entry(l, struct attachment, client_link);

		if (a->is_self)
			target_hung_up(a->target);
	}
	client_free(c);
}

static const struct conn_ops client_conn_ops = {
	.packet = client_packet,
	.hangup = client_hangup,
};

int client_new(struct client **ret_client, struct manager *m, int fd)
{
	_cleanup_(client_freep) struct client *c = NULL;
	int r;

	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	list_init(&c->link);
	list_init(&c->attachments);
	c->manager = m;
	c->kick = (struct loop_op) LOOP_OP_NULL;
	c->conn = (struct conn) CONN_NULL;
	r = conn_init(&c->conn, m->loop, fd, &client_conn_ops);
	if (r < 0)
		return r;
	r = quota_charge(&m->quota, &c->charge, c->conn.uid, QUOTA_CLIENTS);
	if (r < 0) {
		c->conn.fd = -1;	/* the caller's still, to say why */
		return r;
	}
	c->privileged = c->conn.uid == 0 || proc_has_cap(c->conn.pid, CAP_SYS_PTRACE_BIT);
	list_append(&m->clients, &c->link);
	m->n_clients++;
	m->had_client = true;
	*ret_client = TAKE_PTR(c);
	return 0;
}

struct client *client_free(struct client *c)
{
	struct manager *m;

	if (!c)
		return NULL;
	m = c->manager;
	while (!list_is_empty(&c->attachments))
		attachment_free(list_entry(c->attachments.next, struct attachment, client_link));
	loop_stop(&c->kick);
	if (c->ring) {
		c->ring = ring_free(c->ring);
		m->n_channels--;
	}
	conn_deinit(&c->conn);
	quota_refund(&c->charge);
	quota_refund(&c->ring_charge);
	if (!list_is_empty(&c->link)) {
		list_unlink(&c->link);
		m->n_clients--;
	}
	free(c->notifiers);
	free(c);
	return NULL;
}

static void client_kicked(struct loop_op *op, int res)
{
	struct client *c = container_of(op, struct client, kick);

	if (res < 0)
		return;
	if (!ring_was_kicked(c->ring))
		loop_stop(op);	/* it closed its end: it will never kick again */
	else
		client_settle(c);
}

int client_make_ring(struct client *c, uint32_t entries, uint32_t numa_node)
{
	_cleanup_(ring_freep) struct ring *ring = NULL;
	int r;

	r = quota_charge(&c->manager->quota, &c->ring_charge, c->conn.uid, QUOTA_CHANNELS);
	if (r < 0)
		return r;
	r = ring_new(&ring, entries, numa_node);
	if (r == 0)
		r = loop_poll(c->manager->loop, &c->kick, ring->kick_fd, POLLIN, client_kicked);
	if (r < 0) {
		quota_refund(&c->ring_charge);
		return r;
	}
	c->ring = TAKE_PTR(ring);
	c->manager->n_channels++;
	return 0;
}

/* RELEASE records that did not fit when they were due. */
static void put_owed_releases(struct client *c)
{
	list_for_each(l, &c->attachments) {
		struct attachment *a = list_entry(l, struct attachment, client_link);

		list_for_each(k, &a->notifiers) {
			struct notifier *n = list_entry(k, struct notifier, attachment_link);
			struct event ev = {
				.type = MIRROR_EVENT_RELEASE, .cause = n->release_cause,
				.source = MIRROR_SOURCE_EXIT,
				.guarantee = MIRROR_GUARANTEE_POINT,
				.flags = MIRROR_EVENT_F_POINT, .time_ns = now_ns(),
				.start = n->start, .end = n->end,
			};

			if (!n->release_owed)
				continue;
			n->release_owed = false;
			c->n_release_owed--;
			manager_put(c->manager, n, &ev,
				    n->interval.linked ? 0 : MIRROR_EVENT_F_LAST);
			if (n->release_owed)
				return;		/* full again: the next kick goes on */
		}
	}
}

void client_settle(struct client *c)
{
	struct manager *m = c->manager;

	if (ring_settle(c->ring, &m->rings) && list_is_empty(&c->ring->dirty_link))
		list_append(&m->dirty, &c->ring->dirty_link);
	if (c->n_release_owed)
		put_owed_releases(c);
	manager_flush(m);
	manager_wake(m, NULL, NULL);
}

int client_reserve_id(struct client *c, uint32_t *ret_id)
{
	struct notifier **table;
	uint32_t n;

	for (uint32_t i = 0; i < c->n_notifiers; i++) {
		uint32_t at = (c->next_notifier + i) % c->n_notifiers;

		if (c->notifiers[at])
			continue;
		c->next_notifier = at + 1;
		*ret_id = at + 1;
		return 0;
	}
	n = c->n_notifiers ? c->n_notifiers * 2 : 16;
	table = realloc(c->notifiers, n * sizeof(*table));
	if (!table)
		return -ENOMEM;
	memset(table + c->n_notifiers, 0, (n - c->n_notifiers) * sizeof(*table));
	*ret_id = c->n_notifiers + 1;
	c->next_notifier = c->n_notifiers + 1;
	c->notifiers = table;
	c->n_notifiers = n;
	return 0;
}

struct notifier *client_find_notifier(struct client *c, uint32_t id)
{
	return id && id <= c->n_notifiers ? c->notifiers[id - 1] : NULL;
}

bool client_may_observe(struct client *c, pid_t pid)
{
	uid_t owner;

	if (c->privileged)
		return true;
	/* Itself, dumpable or not, unless it has become somebody else since. */
	if (pid == c->conn.pid && proc_has_uids(pid, c->conn.uid))
		return true;
	/* Not dumpable: /proc belongs to root then, so the owner differs. */
	return proc_owner(pid, &owner) == 0 && owner == c->conn.uid &&
	       proc_has_uids(pid, c->conn.uid);
}
