/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <string.h>
#include <sys/socket.h>
#include "client-device.h"
#include "client.h"
#include "manager.h"
#include "permission.h"
#include "procfs.h"
#include "shm.h"
#include "request.h"
#include "sys/log.h"
#include "sys/state.h"
#include "sys/store.h"

static int client_packet(struct conn *conn, struct packet *packet)
{
	return request_handle(container_of(conn, struct client, conn), packet);
}

void client_hung_up(struct client *c)
{
	list_for_each(l, &c->attachments) {
		struct attachment *a = list_entry(l, struct attachment, client_link);

		if (a->is_self)
			target_hung_up(a->target);
	}
	client_free(c);
}

static void client_hangup(struct conn *conn)
{
	client_hung_up(container_of(conn, struct client, conn));
}

/* While not everything is stored yet nothing is begun that would have to be stored. */
static bool client_upcoming(struct conn *conn, const struct mirror_msg *msg)
{
	struct client *c = container_of(conn, struct client, conn);

	if (store_is_behind(c->manager->store))
		return false;
	state_begin(c->manager->state, c->id, msg->op, msg->serial);
	return true;
}

static const struct conn_ops client_conn_ops = {
	.packet = client_packet,
	.hangup = client_hangup,
};

/* Where another mirrord may have to answer what we took off the socket. */
static const struct conn_ops client_kept_ops = {
	.packet = client_packet,
	.hangup = client_hangup,
	.upcoming = client_upcoming,
};

static const struct conn_ops *conn_ops_of(const struct manager *m)
{
	return m->store ? &client_kept_ops : &client_conn_ops;
}

static struct client *client_alloc(struct manager *m)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	list_init(&c->link);
	list_init(&c->attachments);
	c->manager = m;
	c->kick = (struct loop_op) LOOP_OP_NULL;
	c->conn = (struct conn) CONN_NULL;
	return c;
}

static void client_register(struct client *c)
{
	struct manager *m = c->manager;

	list_append(&m->clients, &c->link);
	m->n_clients++;
	m->had_client = true;
}

static void client_keep(struct client *c)
{
	c->slot->id = c->id;
	c->slot->made_by = 0;		/* nobody asked for it */
	c->slot->u.client = (struct state_client) {
		.pid = c->conn.pid, .uid = c->conn.uid, .gid = c->conn.gid,
		.flags = c->privileged ? STATE_CLIENT_PRIVILEGED : 0,
	};
	state_slot_set(c->slot, STATE_CLIENT);
}

static int client_begin(struct client *c)
{
	struct manager *m = c->manager;
	int r;

	r = quota_charge(&m->quota, &c->charge, c->conn.uid, QUOTA_CLIENTS);
	if (r == 0)
		r = state_slot_new(m->state, &c->slot);
	if (r < 0)
		return r;
	c->id = state_next_id(m->state);
	if (!c->id) {
		c->slot = state_slot_free(m->state, c->slot);
		return -EDQUOT;
	}
	c->privileged = permission_for_all(c->conn.pid, c->conn.uid) && permission_is_same(c);
	if (c->conn.fd >= 0)
		store_put(m->store, 'c', c->id, c->conn.fd);
	client_keep(c);
	client_register(c);
	return 0;
}

int client_new(struct client **ret_client, struct manager *m, int fd)
{
	_cleanup_(client_freep) struct client *c = client_alloc(m);
	int r;

	if (!c)
		return -ENOMEM;
	r = conn_init(&c->conn, m->loop, fd, conn_ops_of(m));
	if (r < 0)
		return r;
	/* In a namespace of processes that is not below ours: nobody we could look at. */
	r = c->conn.pid ? client_begin(c) : -EXDEV;
	if (r < 0) {
		c->conn.fd = -1;	/* the caller's still, to say why */
		return r;
	}
	*ret_client = TAKE_PTR(c);
	return 0;
}

int client_new_file(struct client **ret_client, struct manager *m, pid_t pid, int pidfd,
		    uid_t uid, gid_t gid)
{
	_cleanup_(client_freep) struct client *c = client_alloc(m);
	int r;

	if (!c)
		return -ENOMEM;
	c->conn.pid = pid;
	c->conn.uid = uid;
	c->conn.gid = gid;
	c->conn.pidfd = pidfd;
	r = client_begin(c);
	if (r < 0) {
		c->conn.pidfd = -1;	/* the caller's still */
		return r;
	}
	*ret_client = TAKE_PTR(c);
	return 0;
}

void client_keep_file(struct client *c, uint64_t fh, uint32_t open_flags)
{
	struct state_client *s = &c->slot->u.client;
	struct proc_stat st;

	s->fh = fh;
	s->open_flags = open_flags;
	s->start_time = proc_stat_read(c->conn.pid, 0, &st) == 0 ? st.start_time : 0;
	store_release(&s->flags, s->flags | STATE_CLIENT_FILE);
}

/* Who opened the file, if it lives still. */
static void resume_opener(struct client *c, const struct state_client *s)
{
	int pidfd = proc_pidfd(s->pid);
	struct proc_stat st;

	c->conn.pid = s->pid;
	c->conn.uid = s->uid;
	c->conn.gid = s->gid;
	if (pidfd >= 0 && proc_stat_read(s->pid, 0, &st) == 0 && st.start_time == s->start_time)
		c->conn.pidfd = pidfd;
	else
		fd_close(pidfd);
}

int client_resume(struct client **ret_client, struct manager *m, struct state_slot *slot,
		  int fd)
{
	_cleanup_(client_freep) struct client *c = client_alloc(m);
	const struct state_client *s = &slot->u.client;
	int r = 0;

	if (!c)
		return -ENOMEM;
	if (fd >= 0)
		r = conn_init(&c->conn, m->loop, fd, conn_ops_of(m));
	else
		resume_opener(c, s);
	if (r < 0)
		return r;
	c->id = slot->id;
	c->privileged = s->flags & STATE_CLIENT_PRIVILEGED;
	r = quota_charge(&m->quota, &c->charge, c->conn.uid, QUOTA_CLIENTS);
	if (r < 0) {
		c->conn.fd = -1;	/* the caller's still */
		return r;
	}
	c->slot = slot;
	client_register(c);
	*ret_client = TAKE_PTR(c);
	return 0;
}

/* The store would keep all of these open, and who waits for their end waiting. */
static void client_leave_store(struct client *c)
{
	struct store *store = c->manager->store;

	if (!store)
		return;
	if (c->conn.fd >= 0) {
		shutdown(c->conn.fd, SHUT_RDWR);
		store_remove(store, 'c', c->id);
	}
	if (c->ring) {
		ring_hang_up(c->ring);
		for (const char *letter = "pqwk"; *letter; letter++)
			store_remove(store, *letter, c->id);
	}
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
	request_drop(c);
	if (c->slot) {
		c->slot = state_slot_free(m->state, c->slot);
		client_leave_store(c);
	}
	client_file_free(c->file);
	if (c->ring) {
		loop_close(m->loop, TAKE_FD(c->ring->wake_fd));
		loop_close(m->loop, TAKE_FD(c->ring->kick_fd));
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

static void client_drop(void *userdata, int fd)
{
	loop_close(userdata, fd);
}

static void client_kicked(struct loop_op *op, int res)
{
	struct client *c = container_of(op, struct client, kick);
	struct dropper dropper = { .drop = client_drop, .userdata = op->loop };

	if (res < 0)
		return;
	if (!ring_was_kicked(c->ring, &dropper))
		loop_stop(op);	/* it closed its end: it will never kick again */
	else
		client_settle(c);
}

int client_resume_ring(struct client *c, struct ring *ring)
{
	int r;

	r = quota_charge(&c->manager->quota, &c->ring_charge, c->conn.uid, QUOTA_CHANNELS);
	if (r < 0)
		return r;
	r = loop_poll(c->manager->loop, &c->kick, ring->kick_fd, POLLIN, client_kicked);
	if (r < 0) {
		quota_refund(&c->ring_charge);
		return r;
	}
	c->ring = ring;
	c->manager->n_channels++;
	return 0;
}

static void keep_ring(struct client *c)
{
	struct store *store = c->manager->store;
	struct state_client *s = &c->slot->u.client;

	store_put(store, 'p', c->id, c->ring->kept_fd);
	store_put(store, 'q', c->id, c->ring->consumer_fd);
	store_put(store, 'w', c->id, c->ring->wake_fd);
	store_put(store, 'k', c->id, c->ring->kick_fd);
	/* until the client has them, in case it must be answered once more */
	if (c->conn.fd >= 0) {
		store_put(store, 'W', c->id, c->ring->peer_wake_fd);
		store_put(store, 'K', c->id, c->ring->peer_kick_fd);
	}
	ring_stored(c->ring);
	store_release(&s->flags, s->flags | STATE_CLIENT_RING);
}

int client_make_ring(struct client *c, uint32_t entries, uint32_t numa_node)
{
	_cleanup_(ring_freep) struct ring *ring = NULL;
	int r;

	r = ring_new(&ring, entries, numa_node, c->manager->store);
	if (r == 0)
		r = client_resume_ring(c, ring);
	if (r < 0)
		return r;
	TAKE_PTR(ring);
	if (c->manager->store)
		keep_ring(c);
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

static void keep_releases(struct client *c)
{
	list_for_each(l, &c->attachments) {
		struct attachment *a = list_entry(l, struct attachment, client_link);

		list_for_each(k, &a->notifiers)
			notifier_keep(list_entry(k, struct notifier, attachment_link));
	}
}

void client_put_owed(struct client *c)
{
	struct manager *m = c->manager;
	uint32_t owed;

	if (ring_settle(c->ring, &m->rings) && list_is_empty(&c->ring->dirty_link))
		list_append(&m->dirty, &c->ring->dirty_link);
	owed = c->n_release_owed;
	if (owed)
		put_owed_releases(c);
	manager_flush(m);
	if (owed)
		keep_releases(c);	/* after the flush: told now */
}

void client_settle(struct client *c)
{
	client_put_owed(c);
	manager_wake(c->manager, NULL, NULL);
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

int client_take_id(struct client *c, uint32_t id)
{
	struct notifier **table;
	uint32_t n = c->n_notifiers ? c->n_notifiers : 16;

	if (!id || id > 2 * STATE_SLOTS)
		return -EINVAL;
	while (n < id)
		n *= 2;
	if (n > c->n_notifiers) {
		table = realloc(c->notifiers, n * sizeof(*table));
		if (!table)
			return -ENOMEM;
		memset(table + c->n_notifiers, 0, (n - c->n_notifiers) * sizeof(*table));
		c->notifiers = table;
		c->n_notifiers = n;
	}
	return c->notifiers[id - 1] ? -EEXIST : 0;
}

struct notifier *client_find_notifier(struct client *c, uint32_t id)
{
	return id && id <= c->n_notifiers ? c->notifiers[id - 1] : NULL;
}
