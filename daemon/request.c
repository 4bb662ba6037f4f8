/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include "client.h"
#include "config.h"
#include "manager.h"
#include "procfs.h"
#include "shm.h"
#include "request.h"
#include "sys/log.h"
#include "table-fill.h"

/* Every member that must be zero is; the structs end with their reserved room. */
bool request_is_zero(const void *p, size_t n)
{
	const uint8_t *b = p;

	while (n--)
		if (*b++)
			return false;
	return true;
}

#define RESERVED_IS_ZERO(_s) request_is_zero((_s)->__reserved, sizeof((_s)->__reserved))

static int do_info(struct client *c, struct packet *request, struct packet *reply)
{
	const struct mirror_info *in = packet_payload(request);
	struct mirror_info *out = packet_payload(reply);
	struct manager *m = c->manager;

	if (in->flags || !RESERVED_IS_ZERO(in))
		return -E2BIG;
	out->uapi_version = MIRROR_UAPI_VERSION;
	out->pid = (uint32_t)getpid();
	out->features = m->features;
	out->max_targets = m->quota.limit[QUOTA_TARGETS];
	out->max_notifiers = m->quota.limit[QUOTA_NOTIFIERS];
	out->max_channels = m->quota.limit[QUOTA_CHANNELS];
	out->info_flags = (m->options.embedded ? MIRROR_INFO_EMBEDDED : 0) |
			  (m->privileged ? MIRROR_INFO_PRIVILEGED : 0);
	snprintf(out->version, sizeof(out->version), "%s", MIRROR_VERSION);
	return 0;
}

static int do_channel(struct client *c, struct packet *request, struct packet *reply)
{
	const struct mirror_channel *in = packet_payload(request);
	struct mirror_channel *out = packet_payload(reply);
	uint32_t entries = in->entries ? in->entries : RING_ENTRIES_DEFAULT, n = 1;
	int r;

	if (in->flags || !RESERVED_IS_ZERO(in))
		return -E2BIG;
	if (entries > RING_ENTRIES_MAX || in->numa_node > 1024)
		return -EINVAL;
	if (c->ring)
		return -EEXIST;
	while (n < entries)
		n *= 2;
	r = client_make_ring(c, n, in->numa_node);
	if (r < 0)
		return r;
	out->entries = n;
	reply->fds[0] = c->ring->producer_fd;
	reply->fds[1] = c->ring->consumer_fd;
	reply->fds[2] = c->ring->peer_wake_fd;
	reply->fds[3] = c->ring->peer_kick_fd;
	reply->n_fds = 4;
	return 0;
}

static int do_detach(struct client *c, struct packet *request, struct packet *reply _unused_)
{
	const struct mirror_detach *in = packet_payload(request);
	struct target *t = target_by_id(c->manager, in->target);
	struct attachment *a = t ? attachment_find(c, t) : NULL;

	if (in->flags || in->__reserved0 || !RESERVED_IS_ZERO(in))
		return -E2BIG;
	if (!a)
		return -ESRCH;
	attachment_free(a);
	return 0;
}

static int do_insert(struct client *c, struct packet *request, struct packet *reply)
{
	const struct mirror_notifier_insert *in = packet_payload(request);
	struct mirror_notifier_insert *out = packet_payload(reply);
	struct target *t = target_by_id(c->manager, in->target);
	struct attachment *a = t ? attachment_find(c, t) : NULL;
	struct notifier like = {
		.start = in->start, .end = in->end,
		.flags = in->flags, .user_data = in->user_data,
	};
	struct arm_result result;
	struct notifier *n;
	int r;

	if ((in->flags & ~(uint32_t)MIRROR_NOTIFIER_F_KNOWN) || !RESERVED_IS_ZERO(in))
		return -E2BIG;
	if (!range_is_valid(in->start, in->end) || !in->user_data)
		return -EINVAL;
	if (!c->ring)
		return -ENOTCONN;
	if (!a || t->state == MIRROR_TARGET_DEAD)
		return -ESRCH;
	r = notifier_new(&n, a, &like);
	if (r < 0)
		return r;
	r = target_table_follow(n);
	if (r < 0) {
		notifier_free(n);
		return r;
	}
	/* What cannot be watched is found out by whoever looks it up: not an error here. */
	target_arm(t, in->start, in->end, &result);
	out->notifier = n->id;
	return 0;
}

static int do_remove(struct client *c, struct packet *request, struct packet *reply)
{
	const struct mirror_notifier_remove *in = packet_payload(request);
	struct mirror_notifier_remove *out = packet_payload(reply);
	struct notifier *n = client_find_notifier(c, in->notifier);

	if (in->flags || !RESERVED_IS_ZERO(in))
		return -E2BIG;
	if (!n)
		return -ENOENT;
	notifier_free(n);
	out->last_tail = c->ring->tail;
	return 0;
}

static int do_arm(struct client *c, struct packet *request, struct packet *reply)
{
	const struct mirror_arm *in = packet_payload(request);
	struct mirror_arm *out = packet_payload(reply);
	struct target *t = target_by_id(c->manager, in->target);
	struct arm_result result;
	int r;

	if (in->flags || in->__reserved0 || !RESERVED_IS_ZERO(in))
		return -E2BIG;
	if (!range_is_valid(in->start, in->end))
		return -EINVAL;
	if (!t || !attachment_find(c, t))
		return -ESRCH;
	r = target_arm(t, in->start, in->end, &result);
	if (r < 0)
		return r;
	if (result.next < in->end)
		return -E2BIG;	/* more mappings than are registered at one go */
	if (result.busy)
		return -EBUSY;
	if (result.hole)
		return -EFAULT;
	if (result.refused && !result.armed)
		return -EOPNOTSUPP;
	out->armed = result.armed;
	out->refused = result.refused;
	return 0;
}

bool request_may_see(struct client *c, struct target *t)
{
	/* The user first: looking at a process costs, and there may be many. */
	return attachment_find(c, t) || c->privileged ||
	       (t->uid == c->conn.uid && t->pid && client_may_observe(c, t->pid));
}

static struct target *next_visible(struct client *c, uint32_t id)
{
	list_for_each(l, &c->manager->targets) {
		struct target *t = list_entry(l, struct target, link);

		if (t->id >= id && request_may_see(c, t))
			return t;
	}
	return NULL;
}

static int do_target_info(struct client *c, struct packet *request, struct packet *reply)
{
	const struct mirror_target_info *in = packet_payload(request);
	struct mirror_target_info *out = packet_payload(reply);
	struct proc_stat st;
	struct target *t;

	if ((in->flags & ~(uint32_t)MIRROR_TARGET_INFO_F_NEXT) || !RESERVED_IS_ZERO(in))
		return -E2BIG;
	if (in->flags & MIRROR_TARGET_INFO_F_NEXT)
		t = next_visible(c, in->target);
	else
		t = target_by_id(c->manager, in->target);
	if (!t || !request_may_see(c, t))
		return -ESRCH;
	out->target = t->id;
	out->state = t->state;
	out->pid = t->pid;
	out->uid = t->uid;
	out->parent = t->parent;
	list_for_each(l, &t->attachments)
		out->consumers += !list_is_empty(&list_entry(l, struct attachment,
							     target_link)->notifiers);
	out->notifiers = (uint32_t)t->notifiers.tree.n;
	out->armed = t->armed;
	out->events = t->uffd.n_events;
	out->published = t->published;
	out->features = t->features;
	memcpy(out->guarantee, t->guarantee, sizeof(out->guarantee));
	out->table_bytes = target_table_bytes(t);
	if (t->pid && proc_stat_read(t->pid, 0, &st) == 0 && st.start_time == t->start_time)
		memcpy(out->comm, st.comm, sizeof(out->comm));
	return 0;
}

static uint64_t own_rss(void)
{
	unsigned long long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (f) {
		if (fscanf(f, "%*u %llu", &pages) != 1)
			pages = 0;
		fclose(f);
	}
	return pages * PAGE_BYTES;
}

static int do_stats(struct client *c, struct packet *request, struct packet *reply)
{
	const struct mirror_stats *in = packet_payload(request);
	struct mirror_stats *out = packet_payload(reply);
	struct manager *m = c->manager;

	if (in->flags || !RESERVED_IS_ZERO(in))
		return -E2BIG;
	out->targets = m->n_targets;
	out->clients = m->n_clients;
	out->notifiers = m->n_notifiers;
	out->channels = m->n_channels;
	out->events = m->events;
	out->published = m->rings.published;
	out->lost = m->rings.lost;
	out->removes = m->zap_counters.removes;
	out->removes_pending = m->zap_counters.pending;
	out->moves = m->placement.moves;
	out->wakeups = m->rings.wakeups;
	out->refused = m->refused;
	out->uptime_ns = now_ns() - m->start_ns;
	out->rss_bytes = own_rss();
	return 0;
}

static int (*const handlers[])(struct client *c, struct packet *request, struct packet *reply) = {
	[MIRROR_OP_INFO] = do_info,
	[MIRROR_OP_CHANNEL] = do_channel,
	[MIRROR_OP_ATTACH] = request_attach,
	[MIRROR_OP_DETACH] = do_detach,
	[MIRROR_OP_NOTIFIER_INSERT] = do_insert,
	[MIRROR_OP_NOTIFIER_REMOVE] = do_remove,
	[MIRROR_OP_ARM] = do_arm,
	[MIRROR_OP_TARGET_INFO] = do_target_info,
	[MIRROR_OP_STATS] = do_stats,
	[MIRROR_OP_TABLE] = request_table,
	[MIRROR_OP_FILL] = request_fill,
	[MIRROR_OP_CONSUMER_INFO] = request_consumer_info,
};

static int handle(struct client *c, struct packet *request, struct packet *reply)
{
	uint32_t op = request->u.msg.op, size;

	if (op >= ARRAY_SIZE(handlers))
		return -ENOTTY;
	if (packet_payload_size(request) != op_payload_size(op) || request->u.msg.error)
		return -EBADMSG;
	memcpy(&size, packet_payload(request), sizeof(size));
	if (size != op_payload_size(op))
		return -E2BIG;
	if (op != MIRROR_OP_ATTACH && request->n_fds)
		return -EBADMSG;
	/* What goes out begins as size, flags and zeros: nothing of ours leaks. */
	memcpy(packet_payload(reply), packet_payload(request), 2 * sizeof(uint32_t));
	return handlers[op](c, request, reply);
}

int request_handle(struct client *c, struct packet *request)
{
	struct packet reply = PACKET_NULL;
	bool own_fds = request->u.msg.op == MIRROR_OP_CHANNEL;
	int r;

	r = handle(c, request, &reply);
	reply.u.msg = (struct mirror_msg) {
		.size = (uint32_t)sizeof(reply.u.msg),
		.op = request->u.msg.op,
		.serial = request->u.msg.serial,
		.error = -r,
	};
	if (r < 0) {
		c->manager->refused++;
		reply.n_fds = 0;
		log_debug("client %d: request %u refused: error %d", (int)c->conn.pid,
			  request->u.msg.op, -r);
	} else {
		reply.u.msg.size += (uint32_t)op_payload_size(request->u.msg.op);
	}
	r = conn_reply(&c->conn, &reply);
	if (own_fds && reply.n_fds) {
		/* They are the client's now; the mappings stay with us. */
		ring_sent(c->ring);
	}
	return r;
}
