/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Device: a character device in user space
 *
 * The kernel's FUSE protocol, spoken directly: as CUSE, where the kernel has it, for a
 * node below /dev; else for a file system whose root is one regular file, mounted
 * over a file.  Both hand on the same calls.  See device.c.
 */

#include <sys/types.h>
#include "list.h"
#include "loop/loop.h"

struct device;
struct device_call;
struct device_file;

enum device_kind { DEVICE_CUSE = 1, DEVICE_FUSE = 2 };

/* What was agreed on with the kernel: enough to go on with the descriptor alone. */
struct device_params {
	enum device_kind kind;
	uint32_t minor, flags, max_write;	/* minor 0: nothing was agreed on yet */
	uint32_t mode, uid, gid;		/* of the file, for FUSE */
	uint64_t max_poll;			/* no poll handle seen was greater */
};

/* Who calls, as we see it; the pid is of a thread, and 0 from outside our namespace. */
struct device_caller {
	pid_t tid;
	uid_t uid;
	gid_t gid;
};

struct device_ops {
	/* 0 and an object that embeds *ret_file, or -errno. */
	int (*open)(void *userdata, struct device_call *call, uint32_t flags,
		    struct device_file **ret_file);
	/* The last close; the owner frees it. */
	void (*release)(struct device_file *file);
	/*
	 * Ends with device_answer().  @arg: @size bytes of the caller's, at most
	 * DEVICE_IOCTL_MAX, and its own room for the answer.
	 */
	void (*ioctl)(struct device_file *file, struct device_call *call, uint32_t cmd,
		      void *arg, size_t size);
	/* Bytes, 0 when there is nothing yet, or -errno. */
	ssize_t (*read)(struct device_file *file, void *buf, size_t size);
	/* POLLIN and its like. */
	uint32_t (*poll)(struct device_file *file);
	/* What is agreed on changed. */
	void (*params)(void *userdata, const struct device_params *params);
	/* Somebody took the device away.  The owner frees it. */
	void (*gone)(void *userdata);
};

#define DEVICE_IOCTL_MAX 16384

/* Embedded in the client. */
struct device_file {
	struct list link;		/* in device.files */
	struct list reads;		/* blocked, in order */
	struct device *device;
	uint64_t fh;
	uint64_t poll_handle;
	uint32_t n_reads;
	bool polled;			/* somebody waits to be told */
	bool serving;
};

/* The owner chooses @fh: a number that is never used twice. */
void device_file_init(struct device_file *file, uint64_t fh);
/* Who is blocked in it hears that it is over.  Harmless when repeated. */
void device_file_deinit(struct device_file *file);
/* There may be something to read. */
void device_file_wake(struct device_file *file);

/*
 * The channel @fd, consumed on success.  Waits until it is agreed on with the kernel
 * how to talk, unless @params says so: then another process did this.  @name: of the
 * node, for CUSE.  -EEXIST: the node is another's.
 */
int device_new(struct device **ret_device, struct loop *loop, int fd, const char *name,
	       const struct device_params *params, const struct device_ops *ops,
	       void *userdata);
/*
 * Lets go of the channel, without a word to anybody: who is blocked is told by the
 * kernel, or, if somebody keeps the channel, waits for the next to serve it.
 */
void device_hang_up(struct device *d);
/* Its files have been freed. */
struct device *device_free(struct device *d);

const struct device_params *device_get_params(const struct device *d);
int device_get_fd(const struct device *d);

/*
 * Another process served the channel: its files are made known, then what it left
 * unanswered is asked for again, and who polls looks again.
 */
void device_add_file(struct device *d, struct device_file *file);
void device_resume(struct device *d);

/* Who makes this call; valid until it is answered. */
const struct device_caller *device_call_get_caller(const struct device_call *call);
/* A number of the call: others have others. */
uint32_t device_call_get_serial(const struct device_call *call);
/* Another process had it, and may have begun it. */
bool device_call_is_resent(const struct device_call *call);
/* @error: 0 or -errno. */
void device_answer(struct device_call *call, int error, const void *data, size_t size);

/* ---- device-mount.c: where channels come from ---- */

/* Opens /dev/cuse.  -ENOENT, -ENXIO, -EACCES: cannot be had. */
int device_open_cuse(int *ret_fd);
/* Is there such a node?  Right after its name was said: then it is ours. */
bool device_node_exists(const char *name);
/*
 * Mounts over @path, which is made if nothing is there.  A dead mount is taken away
 * first; a living one is -EADDRINUSE.
 */
int device_mount_fuse(const char *path, int *ret_fd);
/* A file that was made for it goes too.  Whoever has it open keeps it. */
int device_unmount_fuse(const char *path);

DEFINE_CLEANUP(struct device *, device_free)
