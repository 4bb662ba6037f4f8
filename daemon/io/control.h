/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Control socket
 *
 * Accepts clients, finds out who they are, and hands their packets on.  A client
 * that sends nonsense gets an error; one that does not take its replies loses
 * its connection, since nobody waits for a client.
 */

#include <sys/types.h>
#include "loop/loop.h"
#include "proto.h"

struct control;
struct conn;

struct conn_ops {
	/*
	 * @packet's descriptors that the handler takes become -1; the rest is closed.
	 * Negative: the connection is of no use any more, and hangup() follows.
	 */
	int (*packet)(struct conn *conn, struct packet *packet);
	/*
	 * If not NULL: before a packet is taken off the socket, whatever is in it.  false:
	 * it is left there until conn_resume().
	 */
	bool (*upcoming)(struct conn *conn, const struct mirror_msg *msg);
	/* The peer hung up, or misbehaved.  The owner frees the connection. */
	void (*hangup)(struct conn *conn);
};

/* Embedded in the client. */
struct conn {
	struct loop_op op;
	struct loop *loop;
	const struct conn_ops *ops;
	int fd;
	pid_t pid;		/* of the peer, as it connected */
	int pidfd;		/* -1 if it could not be had */
	uid_t uid;
	gid_t gid;
};

#define CONN_NULL { .op = LOOP_OP_NULL, .fd = -1, .pidfd = -1 }

struct control_ops {
	/* @fd is the callee's. */
	void (*accepted)(void *userdata, int fd);
};

/* @fd: a listening socket, consumed on success. */
int control_new(struct control **ret_control, struct loop *loop, int fd,
		const struct control_ops *ops, void *userdata);
struct control *control_free(struct control *control);

/* A listening socket at @path; a stale one is replaced, a live one is -EADDRINUSE. */
int control_listen(const char *path, mode_t mode, int *ret_fd);

/* Takes over @fd on success. */
int conn_init(struct conn *conn, struct loop *loop, int fd, const struct conn_ops *ops);
void conn_deinit(struct conn *conn);

/* 0, or -errno, and then the connection is of no use any more. */
int conn_reply(struct conn *conn, const struct packet *packet);

/* Until conn_resume() no packet is taken, and nothing is noticed; allowed in packet(). */
void conn_pause(struct conn *conn);
/* Of one that need not be paused.  0 or -ENOMEM */
int conn_resume(struct conn *conn);

/* The head of the packet that comes next, which stays there; false: none. */
bool conn_peek(struct conn *conn, struct mirror_msg *ret_msg);

/* For a client that cannot be served at all. */
void conn_refuse(struct loop *loop, int fd, int error);

DEFINE_CLEANUP(struct control *, control_free)
