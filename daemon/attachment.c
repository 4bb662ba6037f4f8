/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client.h"
#include "manager.h"
#include "shm.h"
#include "sys/state.h"
#include "target.h"

void attachment_keep(struct attachment *a)
{
	struct state_attachment *s = &a->slot->u.attachment;

	store_release(&s->is_self, a->is_self);
	store_release(&s->inherited, a->inherited);
}

void notifier_keep(struct notifier *n)
{
	struct state_notifier *s = &n->slot->u.notifier;

	s->release_cause = n->release_cause;
	store_release(&s->release_owed, n->release_owed);
	store_release(&s->linked, n->interval.linked);
}

static struct attachment *attachment_alloc(struct target *t, struct client *c)
{
	struct attachment *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->target = t;
	a->client = c;
	list_init(&a->notifiers);
	return a;
}

static void attachment_register(struct attachment *a)
{
	list_append(&a->target->attachments, &a->target_link);
	list_append(&a->client->attachments, &a->client_link);
}

int attachment_new(struct attachment **ret_attachment, struct target *t, struct client *c)
{
	struct state *state = c->manager->state;
	struct attachment *a = attachment_alloc(t, c);
	int r;

	if (!a)
		return -ENOMEM;
	r = state_slot_new(state, &a->slot);
	if (r < 0) {
		free(a);
		return r;
	}
	attachment_register(a);
	a->slot->u.attachment.client = state_slot_index(state, c->slot);
	a->slot->u.attachment.target = state_slot_index(state, t->slot);
	attachment_keep(a);
	state_slot_set(a->slot, STATE_ATTACHMENT);
	*ret_attachment = a;
	return 0;
}

int attachment_resume(struct attachment **ret_attachment, struct target *t, struct client *c,
		      struct state_slot *slot)
{
	struct attachment *a = attachment_alloc(t, c);

	if (!a)
		return -ENOMEM;
	a->slot = slot;
	a->is_self = slot->u.attachment.is_self;
	a->inherited = slot->u.attachment.inherited;
	attachment_register(a);
	*ret_attachment = a;
	return 0;
}

struct attachment *attachment_free(struct attachment *a)
{
	struct target *t;

	if (!a)
		return NULL;
	t = a->target;
	while (!list_is_empty(&a->notifiers))
		notifier_free(list_entry(a->notifiers.next, struct notifier, attachment_link));
	list_unlink(&a->client_link);
	list_unlink(&a->target_link);
	state_slot_free(a->client->manager->state, a->slot);
	free(a);
	if (list_is_empty(&t->attachments))
		target_free(t);
	return NULL;
}

struct attachment *attachment_find(struct client *c, struct target *t)
{
	list_for_each(l, &c->attachments) {
		struct attachment *a = list_entry(l, struct attachment, client_link);

		if (a->target == t)
			return a;
	}
	return NULL;
}

static void notifier_register(struct notifier *n, struct attachment *a)
{
	struct client *c = a->client;

	n->attachment = a;
	c->notifiers[n->id - 1] = n;
	c->manager->n_notifiers++;
	list_init(&n->fill_link);
	list_append(&a->notifiers, &n->attachment_link);
}

/* With a number and a slot of its own, or with those that @slot, another mirrord's, has. */
static int notifier_alloc(struct notifier **ret_notifier, struct attachment *a,
			  struct state_slot *slot)
{
	struct client *c = a->client;
	struct notifier *n;
	int r;

	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->slot = slot;
	n->id = slot ? slot->id : 0;
	r = quota_charge(&c->manager->quota, &n->charge, c->conn.uid, QUOTA_NOTIFIERS);
	if (r == 0)
		r = slot ? client_take_id(c, n->id) : client_reserve_id(c, &n->id);
	if (r == 0 && !slot)
		r = state_slot_new(c->manager->state, &n->slot);
	if (r < 0) {
		quota_refund(&n->charge);
		free(n);
		return r;
	}
	*ret_notifier = n;
	return 0;
}

int notifier_new(struct notifier **ret_notifier, struct attachment *a,
		 const struct notifier *like)
{
	struct notifier *n;
	int r;

	r = notifier_alloc(&n, a, NULL);
	if (r < 0)
		return r;
	n->start = like->start;
	n->end = like->end;
	n->flags = like->flags;
	n->user_data = like->user_data;
	notifier_register(n, a);
	notifier_link(&a->target->notifiers, n);
	n->slot->id = n->id;
	n->slot->u.notifier = (struct state_notifier) {
		.attachment = state_slot_index(a->client->manager->state, a->slot),
		.flags = n->flags, .start = n->start, .end = n->end, .user_data = n->user_data,
	};
	notifier_keep(n);
	state_slot_set(n->slot, STATE_NOTIFIER);
	*ret_notifier = n;
	return 0;
}

int notifier_resume(struct notifier **ret_notifier, struct attachment *a,
		    struct state_slot *slot)
{
	const struct state_notifier *s = &slot->u.notifier;
	struct notifier *n;
	int r;

	r = notifier_alloc(&n, a, slot);
	if (r < 0)
		return r;
	n->start = s->start;
	n->end = s->end;
	n->flags = s->flags;
	n->user_data = s->user_data;
	n->release_owed = s->release_owed;
	n->release_cause = s->release_cause;
	if (n->release_owed)
		a->client->n_release_owed++;
	notifier_register(n, a);
	if (s->linked)
		notifier_link(&a->target->notifiers, n);
	*ret_notifier = n;
	return 0;
}

struct notifier *notifier_free(struct notifier *n)
{
	struct client *c;

	if (!n)
		return NULL;
	c = n->attachment->client;
	if (n->release_owed)
		c->n_release_owed--;
	notifier_unlink(&n->attachment->target->notifiers, n);
	list_unlink(&n->attachment_link);
	list_unlink(&n->fill_link);
	c->notifiers[n->id - 1] = NULL;
	c->manager->n_notifiers--;
	quota_refund(&n->charge);
	state_slot_free(c->manager->state, n->slot);
	free(n);
	return NULL;
}
