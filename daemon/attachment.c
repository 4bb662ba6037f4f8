/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "client.h"
#include "manager.h"
#include "target.h"

int attachment_new(struct attachment **ret_attachment, struct target *t, struct client *c)
{
	struct attachment *a;

	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->target = t;
	a->client = c;
	list_init(&a->notifiers);
	list_append(&t->attachments, &a->target_link);
	list_append(&c->attachments, &a->client_link);
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

int notifier_new(struct notifier **ret_notifier, struct attachment *a,
		 const struct notifier *like)
{
	struct client *c = a->client;
	struct notifier *n;
	int r;

	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	r = quota_charge(&c->manager->quota, &n->charge, c->conn.uid, QUOTA_NOTIFIERS);
	if (r == 0)
		r = client_reserve_id(c, &n->id);
	if (r < 0) {
		quota_refund(&n->charge);
		free(n);
		return r;
	}
	n->attachment = a;
	n->start = like->start;
	n->end = like->end;
	n->flags = like->flags;
	n->user_data = like->user_data;
	c->notifiers[n->id - 1] = n;
	c->manager->n_notifiers++;
	list_init(&n->fill_link);
	list_append(&a->notifiers, &n->attachment_link);
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
	free(n);
	return NULL;
}
