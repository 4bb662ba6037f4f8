/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * A client without manners: requests byte by byte
 */

#include <mirror/uapi/ioctl.h>
#include "harness.h"

#define RAW_FDS	8

/* What a reply brought.  The descriptors are the caller's. */
struct reply {
	struct mirror_msg msg;
	uint8_t payload[MIRROR_MSG_MAX];
	size_t n;		/* bytes of the payload */
	int fds[RAW_FDS];
	unsigned int n_fds;
};

/* Bails out when the daemon does not let us in. */
int raw_connect(const char *path);
/* 0 or -errno */
int raw_try_connect(const char *path, int *ret_fd);

int raw_send(int sock, const void *bytes, size_t n, const int *fds, unsigned int n_fds);
/* 1 a reply, 0 the daemon hung up, -errno; it waits 20 s */
int raw_recv(int sock, struct reply *ret_reply);
void reply_close(struct reply *reply);

/*
 * A whole request.  @payload is also where the reply goes, when it is there.
 * Returns the error of the reply as -errno, or what raw_recv() returned: never 1.
 */
int raw_call(int sock, uint32_t op, void *payload, size_t n, const int *fds, unsigned int n_fds,
	     struct reply *ret_reply);

int raw_pidfd(pid_t pid);
/* A userfaultfd, non-blocking, nothing done with it. */
int raw_uffd(void);

/* Attaches the calling process; its target id, or -errno.  *ret_gate may be NULL. */
int raw_attach_self(int sock, int *ret_gate);
int raw_insert(int sock, uint32_t target, uint64_t start, uint64_t end, uint32_t *ret_id);
/* A ring with descriptors in reply->fds. */
int raw_channel(int sock, uint32_t entries, struct reply *ret_reply);

/*
 * The daemon still does what it is for: a child attaches itself, watches a page,
 * unmaps it and gets its record.  As another user if @uid is not 0.
 */
void check_service(const struct daemon *d, const char *after, uid_t uid);
/* Nobody is left but @sock, which asks: the counters are back at zero. */
void check_empty(int sock, const char *after);
