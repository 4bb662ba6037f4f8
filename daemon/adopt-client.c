/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Adopting clients: their connections, their rings, what they asked last, what they
 * watch
 */
#include <sys/socket.h>
#include "adopt-private.h"
#include "client.h"
#include "client-device.h"
#include "manager.h"
#include "memfd.h"
#include "request.h"

/* The last request that was begun is this client's, and this one. */
static bool asked_for(const struct adoption *ad, const struct client *c, uint32_t op,
		      enum state_phase phase)
{
	const struct state_request *q = &ad->request;

	return q->client == c->id && q->op == op && q->phase == (uint32_t)phase;
}

/* It may not have got them: then it has to be given them. */
static int find_peers(struct adoption *ad, struct client *c)
{
	int *wake = adoption_fd(ad, 'W', c->id), *kick = adoption_fd(ad, 'K', c->id);

	if (*wake < 0 || *kick < 0)
		return -EBADF;
	c->ring->peer_wake_fd = TAKE_FD(*wake);
	c->ring->peer_kick_fd = TAKE_FD(*kick);
	return memfd_share(c->ring->kept_fd, true, &c->ring->producer_fd);
}

static int adopt_ring(struct adoption *ad, struct client *c)
{
	static const char names[] = "pqwk";
	struct ring_fds fds;
	int *at[4], r;
	struct ring *ring;

	for (unsigned int i = 0; i < ARRAY_SIZE(at); i++) {
		at[i] = adoption_fd(ad, names[i], c->id);
		if (*at[i] < 0)
			return -EBADF;
	}
	fds = (struct ring_fds) { *at[0], *at[1], *at[2], *at[3] };
	r = ring_adopt(&ring, &fds);
	if (r < 0)
		return r;
	for (unsigned int i = 0; i < ARRAY_SIZE(at); i++)
		*at[i] = -1;
	r = client_resume_ring(c, ring);
	if (r < 0) {
		ring_free(ring);
		return r;
	}
	if (c->conn.fd >= 0 && asked_for(ad, c, MIRROR_OP_CHANNEL, STATE_SERVED))
		r = find_peers(ad, c);
	else
		ring_sent(ring);
	ring_stored(ring);
	return r;
}

static bool is_client_socket(int fd)
{
	socklen_t len = sizeof(int);
	int type;

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET;
}

int adopt_client(struct adoption *ad, struct state_slot *slot)
{
	struct state_client *s = &slot->u.client;
	struct manager *m = ad->manager;
	int *fd = adoption_fd(ad, 'c', slot->id), r = 0;
	bool is_file = s->flags & STATE_CLIENT_FILE;
	struct client *c;

	if (!slot->id || (is_file ? *fd >= 0 : !is_client_socket(*fd)))
		return -EBADF;
	state_note_id(m->state, slot->id);
	r = client_resume(&c, m, slot, *fd);
	if (r < 0)
		return r;
	*fd = -1;
	/* a ring that was being made is none: it will be asked for again */
	if (asked_for(ad, c, MIRROR_OP_CHANNEL, STATE_BEGUN))
		s->flags &= ~(uint32_t)STATE_CLIENT_RING;
	if (s->flags & STATE_CLIENT_RING)
		r = adopt_ring(ad, c);
	if (r < 0) {
		client_free(c);
		return r;
	}
	ad->objects[state_slot_index(m->state, slot)] = c;
	return 0;
}

/* What was made of a slot, if it was of that kind. */
static void *object_at(struct adoption *ad, uint32_t index, enum state_kind kind)
{
	struct state *state = ad->manager->state;

	if (index >= state_n_slots(state) ||
	    state_slot_at(state, index)->kind != (uint32_t)kind)
		return NULL;
	return ad->objects[index];
}

void adopt_hang_up(struct client *c)
{
	if (c->ring)
		ring_revoke(c->ring);
	if (c->conn.fd >= 0)
		shutdown(c->conn.fd, SHUT_RDWR);
}

int adopt_attachment(struct adoption *ad, struct state_slot *slot)
{
	const struct state_attachment *s = &slot->u.attachment;
	struct client *c = object_at(ad, s->client, STATE_CLIENT);
	struct target *t = object_at(ad, s->target, STATE_TARGET);
	struct attachment *a;
	int r;

	/* its library saw us go, and unregisters the memory, now or in a moment */
	if (!c && t && s->is_self)
		t->forsaken = true;
	if (!c || !t)
		return -ESRCH;
	if (attachment_find(c, t))
		return -EEXIST;
	r = attachment_resume(&a, t, c, slot);
	if (r == 0)
		ad->objects[state_slot_index(ad->manager->state, slot)] = a;
	return r;
}

/* Is this record the RELEASE after which the notifier hears nothing more? */
static bool is_last_of(const struct mirror_event *ev, const void *userdata)
{
	const struct notifier *n = userdata;

	return ev->type == MIRROR_EVENT_RELEASE && (ev->flags & MIRROR_EVENT_F_LAST) &&
	       ev->user_data == n->user_data && ev->target == n->attachment->target->id;
}

/* Told, but death came before that was written down. */
static void forget_what_was_told(struct notifier *n, const struct target *t)
{
	struct client *c = n->attachment->client;
	bool going = t->slot->u.target.going && n->interval.linked;

	if ((!going && !n->release_owed) || !ring_holds(c->ring, is_last_of, n))
		return;
	if (n->release_owed)
		c->n_release_owed--;
	n->release_owed = false;
	if (n->interval.linked)
		notifier_unlink(&n->attachment->target->notifiers, n);
	notifier_keep(n);
}

int adopt_notifier(struct adoption *ad, struct state_slot *slot)
{
	struct state_notifier *s = &slot->u.notifier;
	struct attachment *a = object_at(ad, s->attachment, STATE_ATTACHMENT);
	struct notifier *n;
	int r;

	if (!a || !a->client->ring)
		return -ESRCH;
	if (!range_is_valid(s->start, s->end) || !s->user_data || s->linked > 1 ||
	    s->release_owed > 1 || s->release_cause >= MIRROR_CAUSES ||
	    (s->flags & ~(uint32_t)MIRROR_NOTIFIER_F_KNOWN))
		return -EINVAL;
	r = notifier_resume(&n, a, slot);
	if (r < 0)
		return r;
	forget_what_was_told(n, a->target);
	return 0;
}

static int send_answer(struct adoption *ad, struct client *c, enum state_phase phase)
{
	const struct state_request *q = &ad->request;
	struct packet reply = PACKET_NULL;
	struct mirror_msg msg;
	int r;

	if (phase != STATE_SERVED || request_again(c, q, &reply) < 0) {
		/* it may not have been taken off the socket: it is served then, as any other */
		if (conn_peek(&c->conn, &msg) && msg.serial == q->serial && msg.op == q->op)
			return 0;
		reply = (struct packet) PACKET_NULL;
		reply.u.msg = (struct mirror_msg) {
			.size = (uint32_t)sizeof(reply.u.msg), .op = q->op,
			.serial = q->serial, .error = ERESTART,
		};
	}
	r = conn_reply(&c->conn, &reply);
	request_sent(c, &reply);
	return r;
}

void adopt_client_request(struct adoption *ad)
{
	const struct state_request *q = &ad->request;

	if ((q->phase != STATE_BEGUN && q->phase != STATE_SERVED) || !q->client)
		return;
	list_for_each(l, &ad->manager->clients) {
		struct client *c = list_entry(l, struct client, link);

		if (c->id != q->client)
			continue;
		/* the kernel has what an open file asks for asked again, if need be */
		if (c->slot->u.client.flags & STATE_CLIENT_FILE)
			c->answered = *q;
		else if (send_answer(ad, c, (enum state_phase)q->phase) < 0)
			client_hung_up(c);
		return;
	}
}

void adopt_clients_finish(struct adoption *ad)
{
	struct manager *m = ad->manager;

	list_for_each_safe(l, &m->clients) {
		struct client *c = list_entry(l, struct client, link);
		const struct state_client *s = &c->slot->u.client;

		if (c->ring) {
			client_settle(c);
			/* it may have gone to sleep in between */
			ring_wake(c->ring, &m->rings);
		}
		if (!(s->flags & STATE_CLIENT_FILE))
			continue;
		if (client_device_adopt(c, s->fh, s->open_flags) < 0) {
			ad->n_lost++;
			client_hung_up(c);
		}
	}
}
