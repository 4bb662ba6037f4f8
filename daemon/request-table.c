/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests for mirror tables, and for who else watches a target
 */
#include <string.h>
#include "client.h"
#include "manager.h"
#include "procfs.h"
#include "request.h"
#include "shm.h"
#include "table-fill.h"

#define NODE_MAX 1024		/* as for rings */

static struct target *attached_target(struct client *c, uint32_t id)
{
	struct target *t = target_by_id(c->manager, id);

	return t && attachment_find(c, t) ? t : NULL;
}

int request_table(struct client *c, struct packet *request, struct packet *reply)
{
	const struct mirror_table_get *in = packet_payload(request);
	struct mirror_table_get *out = packet_payload(reply);
	struct target *t = attached_target(c, in->target);
	int r;

	if (in->flags || !request_is_zero(in->__reserved, sizeof(in->__reserved)))
		return -E2BIG;
	if (in->numa_node > NODE_MAX)
		return -EINVAL;
	if (!t)
		return -ESRCH;
	r = target_table_get(t, c->conn.uid, in->numa_node);
	if (r < 0)
		return r;
	out->target = in->target;
	out->numa_node = in->numa_node;
	reply->fds[0] = t->table->fd;	/* ours still */
	reply->n_fds = 1;
	return 0;
}

int request_fill(struct client *c, struct packet *request, struct packet *reply)
{
	const struct mirror_fill *in = packet_payload(request);
	struct mirror_fill *out = packet_payload(reply);
	struct target *t = attached_target(c, in->target);
	struct fill_result result;
	int r;

	if (in->flags || !request_is_zero(in->__reserved, sizeof(in->__reserved)))
		return -E2BIG;
	if (!range_is_valid(in->start, in->end))
		return -EINVAL;
	if (!t)
		return -ESRCH;
	r = target_table_get(t, c->conn.uid, 0);
	if (r == 0)
		r = target_table_fill(t, in->start, in->end, &result);
	if (r < 0)
		return r;
	out->target = in->target;
	out->start = in->start;
	out->end = in->end;
	out->next = result.next;
	out->pages = result.pages;
	out->refused = result.refused;
	return 0;
}

static struct attachment *consumer_at(const struct target *t, uint32_t index)
{
	list_for_each(l, &t->attachments) {
		struct attachment *a = list_entry(l, struct attachment, target_link);

		if (!list_is_empty(&a->notifiers) && !index--)
			return a;
	}
	return NULL;
}

int request_consumer_info(struct client *c, struct packet *request, struct packet *reply)
{
	const struct mirror_consumer_info *in = packet_payload(request);
	struct mirror_consumer_info *out = packet_payload(reply);
	struct target *t = target_by_id(c->manager, in->target);
	const struct attachment *a;
	const struct client *other;
	struct proc_stat st;

	if (in->flags || in->__reserved0 ||
	    !request_is_zero(in->__reserved, sizeof(in->__reserved)))
		return -E2BIG;
	if (!t || !request_may_see(c, t))
		return -ESRCH;
	a = consumer_at(t, in->index);
	if (!a)
		return -ESRCH;
	other = a->client;
	out->target = in->target;
	out->index = in->index;
	out->pid = other->conn.pid;
	out->uid = other->conn.uid;
	list_for_each(l, &a->notifiers)
		out->notifiers++;
	if (other->ring) {
		out->published = other->ring->seq;
		out->lost = other->ring->hdr->lost;
		/* the consumer's own word: told, never used */
		out->device_bytes = load_relaxed(&other->ring->cons->device_bytes);
	}
	if (proc_stat_read(other->conn.pid, 0, &st) == 0)
		memcpy(out->comm, st.comm, sizeof(out->comm));
	return 0;
}
