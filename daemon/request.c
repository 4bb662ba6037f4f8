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
#include "sys/state.h"
#include "sys/store.h"
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
	out->max_targets = quota_limit(&m->quota, c->conn.uid, QUOTA_TARGETS);
	out->max_notifiers = quota_limit(&m->quota, c->conn.uid, QUOTA_NOTIFIERS);
	out->max_channels = quota_limit(&m->quota, c->conn.uid, QUOTA_CHANNELS);
	out->info_flags = (m->options.embedded ? MIRROR_INFO_EMBEDDED : 0) |
			  (m->privileged ? MIRROR_INFO_PRIVILEGED : 0) |
			  (m->store ? MIRROR_INFO_KEPT : 0);
	snprintf(out->version, sizeof(out->version), "%s", MIRROR_VERSION);
	return 0;
}

static int reply_ring(struct client *c, struct packet *reply)
{
	reply->fds[0] = c->ring->producer_fd;
	reply->fds[1] = c->ring->consumer_fd;
	reply->fds[2] = c->ring->peer_wake_fd;
	reply->fds[3] = c->ring->peer_kick_fd;
	reply->n_fds = 4;
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
	return reply_ring(c, reply);
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
	r = manager_close_unseen(n);
	if (r == 0)
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

/*
 * What the next mirrord needs to give this answer again.  Requests that change nothing
 * are not among them: it has them asked again.
 */
static void note_answer(struct client *c, struct packet *reply)
{
	const void *payload = packet_payload(reply);
	uint32_t flags = ((const uint32_t *)payload)[1], result = 0;

	switch (reply->u.msg.op) {
	case MIRROR_OP_CHANNEL:
		result = ((const struct mirror_channel *)payload)->entries;
		break;
	case MIRROR_OP_ATTACH:
		result = ((const struct mirror_attach *)payload)->target;
		break;
	case MIRROR_OP_NOTIFIER_INSERT:
		result = ((const struct mirror_notifier_insert *)payload)->notifier;
		break;
	case MIRROR_OP_DETACH:
	case MIRROR_OP_NOTIFIER_REMOVE:
		break;
	default:
		return;
	}
	state_served(c->manager->state, flags, result);
}

/* 0, or -ENOENT: what it was about is no more. */
static int answer_again(struct client *c, const struct state_request *q, struct packet *reply)
{
	uint32_t *words = packet_payload(reply);

	words[0] = (uint32_t)op_payload_size(q->op);
	words[1] = q->flags;
	switch (q->op) {
	case MIRROR_OP_CHANNEL:
		((struct mirror_channel *)(void *)words)->entries = q->result;
		return c->ring ? reply_ring(c, reply) : -ENOENT;
	case MIRROR_OP_ATTACH:
		return request_attach_again(c, q->result, reply);
	case MIRROR_OP_NOTIFIER_INSERT:
		((struct mirror_notifier_insert *)(void *)words)->notifier = q->result;
		return client_find_notifier(c, q->result) ? 0 : -ENOENT;
	case MIRROR_OP_NOTIFIER_REMOVE:
		((struct mirror_notifier_remove *)(void *)words)->last_tail =
			c->ring ? c->ring->tail : 0;
		return 0;
	case MIRROR_OP_DETACH:
		return 0;
	}
	return -ENOENT;
}

int request_again(struct client *c, const struct state_request *q, struct packet *reply)
{
	int r = answer_again(c, q, reply);

	if (r < 0)
		return r;
	reply->u.msg = (struct mirror_msg) {
		.size = (uint32_t)(sizeof(reply->u.msg) + op_payload_size(q->op)),
		.op = q->op, .serial = q->serial,
	};
	return 0;
}

/* A call on the device that the kernel hands to us as well, though it was served. */
static bool was_answered(struct client *c, const struct packet *request, struct packet *reply)
{
	struct state_request q = c->answered;

	c->answered.phase = STATE_DONE;
	return q.phase == STATE_SERVED && q.op == request->u.msg.op &&
	       q.serial == request->u.msg.serial && request_again(c, &q, reply) == 0;
}

/* A call on the device does not wait while an answer is held; a packet would. */
static void set_aside(struct client *c)
{
	struct state_request q = state_get_request(c->manager->state);

	if (q.phase != STATE_DONE && q.client != c->id)
		c->manager->set_aside = q;
}

static void request_done(struct manager *m)
{
	state_done(m->state);
	if (m->set_aside.phase != STATE_DONE)
		state_put_back(m->state, &m->set_aside);
	m->set_aside.phase = STATE_DONE;
}

void request_serve(struct client *c, struct packet *request, struct packet *reply)
{
	int r;

	if (was_answered(c, request, reply))
		return;
	set_aside(c);
	state_begin(c->manager->state, c->id, request->u.msg.op, request->u.msg.serial);
	r = handle(c, request, reply);
	reply->u.msg = (struct mirror_msg) {
		.size = (uint32_t)sizeof(reply->u.msg),
		.op = request->u.msg.op,
		.serial = request->u.msg.serial,
		.error = -r,
	};
	if (r < 0) {
		c->manager->refused++;
		reply->n_fds = 0;
		/* a private daemon's stderr is its program's: that has the error already */
		log_event((r == -EDQUOT || r == -EPERM) && !c->manager->options.embedded ?
			  LOG_NORMAL : LOG_VERBOSE,
			  LOG_FIELDS(.event = "refused", .client = c->id, .pid = c->conn.pid,
				     .uid = c->conn.uid),
			  "process %d of user %u: request %u refused: %s", (int)c->conn.pid,
			  (unsigned int)c->conn.uid, request->u.msg.op, strerror(-r));
	} else {
		reply->u.msg.size += (uint32_t)op_payload_size(request->u.msg.op);
		note_answer(c, reply);
	}
}

void request_sent(struct client *c, const struct packet *reply)
{
	struct manager *m = c->manager;

	request_done(m);
	if (reply->u.msg.op != MIRROR_OP_CHANNEL || !reply->n_fds)
		return;
	/* They are the client's now; the mappings stay with us. */
	ring_sent(c->ring);
	if (c->conn.fd >= 0) {
		store_remove(m->store, 'W', c->id);
		store_remove(m->store, 'K', c->id);
	}
}

/* Descriptors of its own: whose they are may be gone by then. */
static struct packet *copy_packet(const struct packet *p)
{
	struct packet *copy = malloc(sizeof(*copy));

	if (!copy)
		return NULL;
	*copy = *p;
	copy->n_fds = 0;
	for (unsigned int i = 0; i < p->n_fds; i++) {
		copy->fds[i] = fcntl(p->fds[i], F_DUPFD_CLOEXEC, 3);
		if (copy->fds[i] < 0) {
			packet_clear(copy);
			free(copy);
			return NULL;
		}
		copy->n_fds++;
	}
	return copy;
}

void request_drop(struct client *c)
{
	if (!c->held)
		return;
	packet_clear(c->held);
	free(c->held);
	c->held = NULL;
}

static int answer(struct client *c, const struct packet *reply)
{
	int r = conn_reply(&c->conn, reply);

	request_sent(c, reply);
	return r;
}

void request_release(struct client *c)
{
	int r = 0;

	if (c->held)
		r = answer(c, c->held);
	request_drop(c);
	if (r < 0 || conn_resume(&c->conn) < 0)
		client_hung_up(c);
}

int request_handle(struct client *c, struct packet *request)
{
	struct packet reply = PACKET_NULL;

	request_serve(c, request, &reply);
	if (store_is_behind(c->manager->store)) {
		c->held = copy_packet(&reply);
		if (c->held) {
			conn_pause(&c->conn);
			return 0;
		}
	}
	return answer(c, &reply);
}
