/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Between the files of the device: see device.c
 */

#include <linux/fuse.h>
#include <sys/uio.h>
#include "io/device.h"

/* Debian 12's headers are those of 6.1; what is newer is defined here. */
#define DEVICE_NOTIFY_RESEND	7	/* FUSE_NOTIFY_RESEND, 6.9 */
#define DEVICE_UNIQUE_RESEND	(1ULL << 63)	/* FUSE_UNIQUE_RESEND */

#define DEVICE_MINOR		38	/* newest protocol that we know */
#define DEVICE_MINOR_MIN	31	/* that of Linux 5.4: structs have their sizes of today */
#define DEVICE_IN_BYTES		(64 * 1024)
#define DEVICE_READ_BYTES	(32 * 1024)	/* answered to one read(2), at most */
#define DEVICE_BUCKETS		256

struct device {
	struct loop *loop;
	struct loop_op op;
	const struct device_ops *ops;
	void *userdata;
	struct device_params params;
	int fd;
	struct list files[DEVICE_BUCKETS];	/* by fh */
	struct list reads[DEVICE_BUCKETS];	/* blocked ones, by request */
	uint8_t in[DEVICE_IN_BYTES] __attribute__((__aligned__(8)));
	uint8_t out[DEVICE_READ_BYTES] __attribute__((__aligned__(8)));
};

/* One request of the kernel's, in device.in. */
struct device_call {
	struct device *device;
	const struct fuse_in_header *header;
	const void *arg;
	size_t size;			/* of @arg */
	struct device_caller caller;
};

/* A read(2) that waits for records. */
struct device_read {
	struct list link;		/* in device_file.reads */
	struct list unique_link;	/* in device.reads */
	struct device_file *file;
	uint64_t unique;
	uint32_t size;
};

/* @n bytes of device.in are a request: serves it.  -EPROTO: its form is wrong. */
int device_serve(struct device *d, size_t n);
/* The first request of all.  -EPROTO: it is another. */
int device_greet(struct device *d, size_t n, const char *name);

/* 0 or -errno.  -ENOENT: nobody waits for it any more. */
int device_send(struct device *d, uint64_t unique, int error, const void *data, size_t size);
int device_send_parts(struct device *d, uint64_t unique, struct iovec *parts, int n_parts);
int device_notify_poll(struct device *d, uint64_t handle);
int device_notify_resend(struct device *d);

struct device_file *device_find_file(struct device *d, uint64_t fh);

/* Blocks a read; 0 or -errno. */
int device_read_new(struct device_file *file, uint64_t unique, uint32_t size);
struct device_read *device_read_free(struct device_read *read);
struct device_read *device_find_read(struct device *d, uint64_t unique);
