/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests to the daemon
 *
 * One at a time.  Replies are matched by serial, so that one that comes after we
 * gave up waiting for it does no harm.
 *
 * Restart
 *   A request that the daemon had not read when it died waits in the socket for the
 *   next one.  One that it had read and not answered, the next one undoes, as far as it
 *   was done, and answers with ERESTART; then it is sent again.  What was to be taken
 *   away may be gone already: the second answer to remove and detach can be an error
 *   that says so, and nobody here looks at it.
 */
#include <string.h>
#include <sys/socket.h>
#include "mirror-private.h"

/* What the daemon did to the connection, as the caller is to see it. */
static int connection_error(struct mirror_ctx *ctx, int r)
{
	switch (r) {
	case 0:
	case -EPIPE:
	case -ECONNRESET:
	case -ENOTCONN:
		ctx_set_dead(ctx);
		return -EPIPE;
	case -EAGAIN:		/* only where a timeout is set */
		return -ETIMEDOUT;
	case -EBADMSG:
		return -EPROTO;
	}
	return r;
}

/* A private daemon that could not start says why in a packet that answers nothing. */
static bool is_farewell(const struct packet *p)
{
	return p->u.msg.serial == 0 && p->u.msg.error > 0;
}

static int receive(struct mirror_ctx *ctx, uint32_t serial, struct packet *reply, int flags)
{
	int r;

	for (;;) {
		r = packet_recv(ctx->fds[CTX_FD_SOCKET], reply, flags);
		if (r <= 0)
			return connection_error(ctx, r);
		if (reply->u.msg.serial == serial || is_farewell(reply))
			return 0;
		packet_clear(reply);
	}
}

static int transact(struct mirror_ctx *ctx, struct packet *request, struct packet *reply)
{
	int r;

	request->u.msg.serial = ++ctx->serial ? ctx->serial : ++ctx->serial;
	r = packet_send(ctx->fds[CTX_FD_SOCKET], request, 0);
	if (r == -EPIPE || r == -ECONNRESET) {
		/* gone, but its last words may be here still */
		if (receive(ctx, request->u.msg.serial, reply, MSG_DONTWAIT) < 0)
			r = connection_error(ctx, r);
		else
			r = 0;
	} else if (r < 0) {
		r = connection_error(ctx, r);
	} else {
		r = receive(ctx, request->u.msg.serial, reply, 0);
	}
	return r;
}

static int check_reply(const struct packet *reply, uint32_t op, size_t size)
{
	const struct mirror_msg *msg = &reply->u.msg;

	if (msg->error)
		return msg->error > 0 && msg->error < 4096 ? -msg->error : -EPROTO;
	if (msg->op != op || packet_payload_size(reply) != size)
		return -EPROTO;
	return 0;
}

/* A userfaultfd serves once: the daemon has begun to use it. */
static bool can_repeat(uint32_t op, unsigned int n_fds)
{
	return op != MIRROR_OP_ATTACH || n_fds < 2;
}

static int exchange(struct mirror_ctx *ctx, struct packet *request, struct packet *reply)
{
	uint32_t op = request->u.msg.op;
	int r;

	pthread_mutex_lock(&ctx->request_lock);
	r = transact(ctx, request, reply);
	pthread_mutex_unlock(&ctx->request_lock);
	if (r == 0)
		r = check_reply(reply, op, op_payload_size(op));
	if (r < 0)
		packet_clear(reply);
	return r;
}

int ctx_request(struct mirror_ctx *ctx, uint32_t op, void *arg, const int *fds,
		unsigned int n_fds, struct packet *reply)
{
	struct packet request = PACKET_NULL, spare = PACKET_NULL;
	size_t size = op_payload_size(op);
	int r;

	r = ctx_check(ctx);
	if (r < 0)
		return r;
	if (!reply)
		reply = &spare;
	request.u.msg.size = (uint32_t)(sizeof(request.u.msg) + size);
	request.u.msg.op = op;
	memcpy(packet_payload(&request), arg, size);
	if (n_fds)
		memcpy(request.fds, fds, n_fds * sizeof(*fds));
	request.n_fds = n_fds;

	r = exchange(ctx, &request, reply);
	for (unsigned int i = 0; r == -ERESTART && can_repeat(op, n_fds) && i < RESTARTS; i++)
		r = exchange(ctx, &request, reply);
	if (r == 0)
		memcpy(arg, packet_payload(reply), size);
	if (reply == &spare)
		packet_clear(reply);
	return r;
}

MIRROR_PUBLIC int mirror_ctx_get_info(struct mirror_ctx *ctx, struct mirror_info *ret_info)
{
	struct mirror_info info = { .size = sizeof(info) };
	int r;

	r = ctx_request(ctx, MIRROR_OP_INFO, &info, NULL, 0, NULL);
	if (r < 0)
		return r;
	return opts_write(ret_info, ret_info->size, &info, sizeof(info), sizeof(info.size));
}

MIRROR_PUBLIC int mirror_daemon_get_stats(struct mirror_ctx *ctx, struct mirror_stats *ret_stats)
{
	struct mirror_stats stats = { .size = sizeof(stats) };
	int r;

	r = ctx_request(ctx, MIRROR_OP_STATS, &stats, NULL, 0, NULL);
	if (r < 0)
		return r;
	return opts_write(ret_stats, ret_stats->size, &stats, sizeof(stats), sizeof(stats.size));
}

MIRROR_PUBLIC int mirror_query_target(struct mirror_ctx *ctx, uint32_t id, int next,
				      struct mirror_target_info *ret_info)
{
	struct mirror_target_info info = {
		.size = sizeof(info),
		.flags = next ? MIRROR_TARGET_INFO_F_NEXT : 0,
		.target = id,
	};
	int r;

	r = ctx_request(ctx, MIRROR_OP_TARGET_INFO, &info, NULL, 0, NULL);
	if (r < 0)
		return r;
	info.flags = 0;
	return opts_write(ret_info, ret_info->size, &info, sizeof(info), sizeof(info.size));
}

MIRROR_PUBLIC int mirror_query_consumer(struct mirror_ctx *ctx, uint32_t id, uint32_t index,
					struct mirror_consumer_info *ret_info)
{
	struct mirror_consumer_info info = {
		.size = sizeof(info), .target = id, .index = index,
	};
	int r;

	r = ctx_request(ctx, MIRROR_OP_CONSUMER_INFO, &info, NULL, 0, NULL);
	if (r < 0)
		return r;
	return opts_write(ret_info, ret_info->size, &info, sizeof(info), sizeof(info.size));
}
