/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <assert.h>
#include <liburing.h>
#include <sched.h>
#include "loop.h"
#include "shm.h"

enum { KIND_NONE, KIND_POLL, KIND_TIMEOUT };

struct slot {
	struct loop_op *op;	/* NULL: free */
	uint32_t generation;
	uint32_t next_free;
};

struct loop {
	struct io_uring ring;
	struct slot *slots;
	uint32_t n_slots, first_free;
	void (*idle)(void *userdata);
	void *userdata;
	uint64_t rounds;
	uint64_t look_ns;
	bool has_ring, exit;
};

#define NO_SLOT UINT32_MAX
#define IGNORED UINT64_MAX	/* completions of cancellations */
#define BATCH 64

int loop_new(struct loop **ret_loop)
{
	_cleanup_(loop_freep) struct loop *loop = NULL;
	int r;

	loop = calloc(1, sizeof(*loop));
	if (!loop)
		return -ENOMEM;
	loop->first_free = NO_SLOT;
	/* Completions only when we ask for them: nothing interrupts the hot path. */
	r = io_uring_queue_init(512, &loop->ring,
				IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
	if (r == -EINVAL)	/* before 6.1 */
		r = io_uring_queue_init(512, &loop->ring, 0);
	if (r < 0)
		return r;
	loop->has_ring = true;
	*ret_loop = TAKE_PTR(loop);
	return 0;
}

struct loop *loop_free(struct loop *loop)
{
	if (!loop)
		return NULL;
	for (uint32_t i = 0; i < loop->n_slots; i++)
		assert(!loop->slots[i].op);
	if (loop->has_ring)
		io_uring_queue_exit(&loop->ring);
	free(loop->slots);
	free(loop);
	return NULL;
}

static int slots_grow(struct loop *loop)
{
	uint32_t n = loop->n_slots ? loop->n_slots * 2 : 256;
	struct slot *slots;

	slots = realloc(loop->slots, n * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	for (uint32_t i = loop->n_slots; i < n; i++)
		slots[i] = (struct slot) { .next_free = i + 1 < n ? i + 1 : NO_SLOT };
	loop->first_free = loop->n_slots;
	loop->slots = slots;
	loop->n_slots = n;
	return 0;
}

static struct io_uring_sqe *get_sqe(struct loop *loop)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);

	/* A full submission queue is handed to the kernel, which empties it. */
	while (!sqe) {
		io_uring_submit(&loop->ring);
		sqe = io_uring_get_sqe(&loop->ring);
	}
	return sqe;
}

static uint64_t op_tag(const struct loop_op *op)
{
	return (uint64_t)op->loop->slots[op->slot].generation << 32 | op->slot;
}

static void submit(struct loop_op *op)
{
	struct io_uring_sqe *sqe = get_sqe(op->loop);

	io_uring_prep_poll_multishot(sqe, op->fd, op->mask);
	io_uring_sqe_set_data64(sqe, op_tag(op));
}

static int op_start(struct loop *loop, struct loop_op *op, int kind, int fd, loop_fn fn)
{
	struct slot *slot;
	int r;

	assert(!op->loop);
	if (loop->first_free == NO_SLOT) {
		r = slots_grow(loop);
		if (r < 0)
			return r;
	}
	op->slot = loop->first_free;
	slot = &loop->slots[op->slot];
	loop->first_free = slot->next_free;
	slot->op = op;
	op->loop = loop;
	op->kind = (uint8_t)kind;
	op->fd = fd;
	op->fn = fn;
	return 0;
}

/* Whatever still comes for this slot is for a generation that is over. */
static void op_release(struct loop_op *op)
{
	struct slot *slot = &op->loop->slots[op->slot];

	slot->op = NULL;
	slot->generation++;
	slot->next_free = op->loop->first_free;
	op->loop->first_free = op->slot;
	op->loop = NULL;
}

int loop_poll(struct loop *loop, struct loop_op *op, int fd, uint32_t mask, loop_fn fn)
{
	int r;

	r = op_start(loop, op, KIND_POLL, fd, fn);
	if (r < 0)
		return r;
	op->mask = mask;
	submit(op);
	return 0;
}

int loop_timeout(struct loop *loop, struct loop_op *op, uint64_t ns, loop_fn fn)
{
	struct __kernel_timespec ts = {
		.tv_sec = (long long)(ns / 1000000000),
		.tv_nsec = (long long)(ns % 1000000000),
	};
	struct io_uring_sqe *sqe;
	int r;

	r = op_start(loop, op, KIND_TIMEOUT, -1, fn);
	if (r < 0)
		return r;
	op->ns = ns;
	sqe = get_sqe(loop);
	io_uring_prep_timeout(sqe, &ts, 0, 0);
	io_uring_sqe_set_data64(sqe, op_tag(op));
	io_uring_submit(&loop->ring);	/* the kernel copies ts now */
	return 0;
}

void loop_close(struct loop *loop, int fd)
{
	struct io_uring_sqe *sqe = get_sqe(loop);

	io_uring_prep_close(sqe, fd);
	/*
	 * By a worker, always: io_uring sees by itself that close(2) may wait, but not that
	 * the last of a file may, and that may be one that we have to serve.
	 */
	io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data64(sqe, IGNORED);
}

void loop_stop(struct loop_op *op)
{
	struct io_uring_sqe *sqe;
	uint64_t tag;

	if (!op->loop)
		return;
	tag = op_tag(op);
	sqe = get_sqe(op->loop);
	/*
	 * Not POLL_REMOVE: it gives up with EALREADY on a poll that is just being told
	 * of something, and that one would stay armed, and its file open, for ever.
	 */
	if (op->kind == KIND_TIMEOUT)
		io_uring_prep_timeout_remove(sqe, tag, 0);
	else
		io_uring_prep_cancel64(sqe, tag, 0);
	io_uring_sqe_set_data64(sqe, IGNORED);
	/*
	 * The request holds its file open: a descriptor closed next must really go.
	 * Submitting is not enough, the cancellation is work that we have to do.
	 */
	io_uring_submit_and_get_events(&op->loop->ring);
	op_release(op);
}

static void complete(struct loop *loop, uint64_t tag, int res, uint32_t flags)
{
	uint32_t slot = (uint32_t)tag;
	struct loop_op *op;

	if (tag == IGNORED || slot >= loop->n_slots)
		return;
	op = loop->slots[slot].op;
	if (!op || loop->slots[slot].generation != (uint32_t)(tag >> 32))
		return;
	if (op->kind == KIND_TIMEOUT) {
		op_release(op);
		if (res == -ETIME)
			res = 0;
	} else if (!(flags & IORING_CQE_F_MORE)) {
		/* The kernel ended the multishot (queue full, or an error): go on. */
		if (res != -ECANCELED && res != -EBADF)
			submit(op);
	}
	op->fn(op, res);
}

void loop_set_idle(struct loop *loop, void (*idle)(void *userdata), void *userdata)
{
	loop->idle = idle;
	loop->userdata = userdata;
}

/*
 * A round: what has completed is taken off the queue first and then run, so that
 * operations started meanwhile wait for their turn and nobody starves.
 */
static void run_round(struct loop *loop)
{
	struct { uint64_t tag; int res; uint32_t flags; } batch[BATCH];
	struct io_uring_cqe *cqes[BATCH];
	unsigned int n;

	n = io_uring_peek_batch_cqe(&loop->ring, cqes, BATCH);
	for (unsigned int i = 0; i < n; i++) {
		batch[i].tag = io_uring_cqe_get_data64(cqes[i]);
		batch[i].res = cqes[i]->res;
		batch[i].flags = cqes[i]->flags;
	}
	io_uring_cq_advance(&loop->ring, n);
	for (unsigned int i = 0; i < n; i++)
		complete(loop, batch[i].tag, batch[i].res, batch[i].flags);
	loop->rounds += n > 0;
}

void loop_look(struct loop *loop, uint64_t ns)
{
	loop->look_ns = ns;
}

/* Who else wants this processor gets it: each look gives it up. */
static void look(struct loop *loop)
{
	uint64_t until = now_ns() + loop->look_ns;

	loop->look_ns = 0;
	do {
		io_uring_submit_and_get_events(&loop->ring);
		if (io_uring_cq_ready(&loop->ring))
			return;
		sched_yield();
	} while (now_ns() < until);
}

int loop_run(struct loop *loop)
{
	int r;

	loop->exit = false;
	while (!loop->exit) {
		if (loop->idle)
			loop->idle(loop->userdata);
		if (loop->exit)
			break;
		if (loop->look_ns)
			look(loop);
		r = io_uring_submit_and_wait(&loop->ring, 1);
		if (r < 0 && r != -EINTR && r != -EBUSY && r != -EAGAIN)
			return r;
		run_round(loop);
	}
	return 0;
}

void loop_exit(struct loop *loop)
{
	loop->exit = true;
}

uint64_t loop_get_rounds(const struct loop *loop)
{
	return loop->rounds;
}
