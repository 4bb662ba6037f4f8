/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Loop
 *
 * The daemon's only loop, over one io_uring: multishot polls and timeouts.  An
 * operation is embedded in its owner and is found back through a slot: what the kernel
 * carries around is the slot's number and generation, not a pointer.  So an owner can
 * stop an operation and be freed at once, whatever completions are still on their way:
 * these meet another generation and are dropped.
 *
 * Everything runs on the thread that called loop_run().
 */

#include <poll.h>
#include "base.h"

struct loop;
struct loop_op;

/* @res as io_uring has it: poll mask, 0 for a timeout, or -errno. */
typedef void (*loop_fn)(struct loop_op *op, int res);

struct loop_op {
	struct loop *loop;	/* NULL while idle */
	loop_fn fn;
	uint64_t ns;		/* timeouts */
	uint32_t slot;
	uint32_t mask;		/* polls */
	int fd;
	uint8_t kind;
};

#define LOOP_OP_NULL { .loop = NULL, .fd = -1 }

int loop_new(struct loop **ret_loop);
struct loop *loop_free(struct loop *loop);

/*
 * Each starts @op, which must be idle.  Polls go on until loop_stop();
 * timeouts are done when @fn runs.  0 or -ENOMEM.  The descriptor is not consumed.
 */
int loop_poll(struct loop *loop, struct loop_op *op, int fd, uint32_t mask, loop_fn fn);
int loop_timeout(struct loop *loop, struct loop_op *op, uint64_t ns, loop_fn fn);

/*
 * Closes @fd, whatever it is, without ever waiting for it.  What came from a client goes
 * this way, and so do sockets: what was sent through them and not read goes with them.
 */
void loop_close(struct loop *loop, int fd);

/* Takes an idle operation too. */
void loop_stop(struct loop_op *op);

static inline bool loop_op_is_active(const struct loop_op *op)
{
	return op->loop;
}

/* Called after each round of completions, before the loop sleeps. */
void loop_set_idle(struct loop *loop, void (*idle)(void *userdata), void *userdata);

/* Before it sleeps next, the loop looks for completions for so long. */
void loop_look(struct loop *loop, uint64_t ns);

/* Until loop_exit(); 0 or -errno. */
int loop_run(struct loop *loop);
void loop_exit(struct loop *loop);

/* Rounds that did something, ever: what a watchdog may look at. */
uint64_t loop_get_rounds(const struct loop *loop);

DEFINE_CLEANUP(struct loop *, loop_free)
