/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel's messages, one by one
 *
 * All come from the kernel, and carry what a program said.  A message whose size is not
 * what its head says ends the device; one too short for its operation is answered EIO.
 * What is not known here does not exist: ENOSYS, and the kernel does not ask again.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "io/device-private.h"

#define READS_MAX	256	/* blocked in one file */
#define ATTR_SECONDS	3600

/* ---- answers ---- */

int device_send_parts(struct device *d, uint64_t unique, struct iovec *parts, int n_parts)
{
	struct fuse_out_header header = { .unique = unique, .len = sizeof(header) };

	for (int i = 1; i < n_parts; i++)
		header.len += (uint32_t)parts[i].iov_len;
	parts[0] = (struct iovec) { .iov_base = &header, .iov_len = sizeof(header) };
	return writev(d->fd, parts, n_parts) < 0 ? -errno : 0;
}

int device_send(struct device *d, uint64_t unique, int error, const void *data, size_t size)
{
	struct fuse_out_header header = {
		.len = (uint32_t)(sizeof(header) + size),
		.error = error,
		.unique = unique,
	};
	struct iovec parts[] = {
		{ .iov_base = &header, .iov_len = sizeof(header) },
		{ .iov_base = (void *)(uintptr_t)data, .iov_len = size },
	};

	return writev(d->fd, parts, size ? 2 : 1) < 0 ? -errno : 0;
}

static int answer(const struct device_call *call, int error, const void *data, size_t size)
{
	return device_send(call->device, call->header->unique, error, data, size);
}

/* A notice has its code where an answer has its error, and is of no request. */
int device_notify_poll(struct device *d, uint64_t handle)
{
	struct fuse_notify_poll_wakeup_out out = { .kh = handle };

	return device_send(d, 0, FUSE_NOTIFY_POLL, &out, sizeof(out));
}

int device_notify_resend(struct device *d)
{
	return device_send(d, 0, DEVICE_NOTIFY_RESEND, NULL, 0);
}

const struct device_caller *device_call_get_caller(const struct device_call *call)
{
	return &call->caller;
}

uint32_t device_call_get_serial(const struct device_call *call)
{
	return (uint32_t)(call->header->unique >> 1);
}

bool device_call_is_resent(const struct device_call *call)
{
	return call->header->unique & DEVICE_UNIQUE_RESEND;
}

void device_answer(struct device_call *call, int error, const void *data, size_t size)
{
	struct fuse_ioctl_out out = { .result = 0 };
	struct iovec parts[] = {
		{ .iov_base = NULL },
		{ .iov_base = &out, .iov_len = sizeof(out) },
		{ .iov_base = (void *)(uintptr_t)data, .iov_len = size },
	};

	if (error)
		answer(call, error, NULL, 0);
	else
		device_send_parts(call->device, call->header->unique, parts, size ? 3 : 2);
}

/* ---- open files ---- */

static void serve_open(struct device_call *call)
{
	const struct fuse_open_in *in = call->arg;
	struct fuse_open_out out = {
		/* a stream: no position, so that a read does not lock out another */
		.open_flags = FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE | FOPEN_STREAM |
			      FOPEN_NOFLUSH,
	};
	struct device *d = call->device;
	struct device_file *file;
	int r;

	r = d->ops->open(d->userdata, call, in->flags, &file);
	if (r < 0) {
		answer(call, r, NULL, 0);
		return;
	}
	device_add_file(d, file);
	out.fh = file->fh;
	/* Nobody waits for it any more: nobody will close it either. */
	if (answer(call, 0, &out, sizeof(out)) < 0)
		d->ops->release(file);
}

static void serve_release(struct device_call *call)
{
	const struct fuse_release_in *in = call->arg;
	struct device_file *file = device_find_file(call->device, in->fh);

	if (file)
		call->device->ops->release(file);
	answer(call, 0, NULL, 0);
}

static void serve_read(struct device_call *call)
{
	const struct fuse_read_in *in = call->arg;
	struct device *d = call->device;
	struct device_file *file = device_find_file(d, in->fh);
	uint32_t size = MIN(in->size, (uint32_t)DEVICE_READ_BYTES);
	ssize_t n = -EBADF;

	if (file) {
		/* who waits already is first */
		n = list_is_empty(&file->reads) ? d->ops->read(file, d->out, size) : 0;
		if (n == 0 && !in->offset) {
			if (in->flags & O_NONBLOCK)
				n = -EAGAIN;
			else if (file->n_reads >= READS_MAX)
				n = -EBUSY;
			else
				n = device_read_new(file, call->header->unique, size);
			if (n == 0)
				return;
		}
	}
	answer(call, n < 0 ? (int)n : 0, d->out, n < 0 ? 0 : (size_t)n);
}

static void serve_interrupt(struct device_call *call)
{
	const struct fuse_interrupt_in *in = call->arg;

	device_read_free(device_find_read(call->device, in->unique));
	device_send(call->device, in->unique, -EINTR, NULL, 0);
}

static void serve_poll(struct device_call *call)
{
	const struct fuse_poll_in *in = call->arg;
	struct device *d = call->device;
	struct device_file *file = device_find_file(d, in->fh);
	struct fuse_poll_out out = { .revents = POLLERR | POLLHUP };

	if (file) {
		out.revents = d->ops->poll(file);
		file->poll_handle = in->kh;
		file->polled |= in->flags & FUSE_POLL_SCHEDULE_NOTIFY;
	}
	if (in->kh > d->params.max_poll) {
		d->params.max_poll = in->kh;
		d->ops->params(d->userdata, &d->params);
	}
	answer(call, 0, &out, sizeof(out));
}

static void serve_ioctl(struct device_call *call)
{
	const struct fuse_ioctl_in *in = call->arg;
	struct device_file *file = device_find_file(call->device, in->fh);
	uint8_t arg[DEVICE_IOCTL_MAX] __attribute__((__aligned__(8)));

	if (in->in_size > sizeof(arg) || call->size != sizeof(*in) + in->in_size ||
	    (in->flags & FUSE_IOCTL_UNRESTRICTED)) {
		answer(call, -EIO, NULL, 0);
		return;
	}
	if (!file) {
		answer(call, -EBADF, NULL, 0);
		return;
	}
	/* Our structs are the same for 32 and 64 bit programs: FUSE_IOCTL_COMPAT is fine. */
	memcpy(arg, in + 1, in->in_size);
	call->device->ops->ioctl(file, call, in->cmd, arg, in->in_size);
}

/* ---- the file system of one file ---- */

static void answer_attr(struct device_call *call)
{
	const struct device_params *p = &call->device->params;
	struct fuse_attr_out out = {
		.attr_valid = ATTR_SECONDS,
		.attr = {
			.ino = FUSE_ROOT_ID, .mode = S_IFREG | p->mode, .nlink = 1,
			.uid = p->uid, .gid = p->gid, .blksize = 4096,
		},
	};

	answer(call, 0, &out, sizeof(out));
}

static void serve_setattr(struct device_call *call)
{
	const struct fuse_setattr_in *in = call->arg;
	struct device *d = call->device;

	if (in->valid & FATTR_SIZE) {
		answer(call, -EINVAL, NULL, 0);
		return;
	}
	if (in->valid & FATTR_MODE)
		d->params.mode = in->mode & 07777;
	if (in->valid & FATTR_UID)
		d->params.uid = in->uid;
	if (in->valid & FATTR_GID)
		d->params.gid = in->gid;
	if (in->valid & (FATTR_MODE | FATTR_UID | FATTR_GID))
		d->ops->params(d->userdata, &d->params);
	answer_attr(call);
}

static void serve_statfs(struct device_call *call)
{
	struct fuse_statfs_out out = { .st = { .bsize = 4096, .namelen = 255, .frsize = 4096 } };

	answer(call, 0, &out, sizeof(out));
}

static void serve_write(struct device_call *call)
{
	answer(call, -EINVAL, NULL, 0);
}

static void serve_lookup(struct device_call *call)
{
	answer(call, -ENOENT, NULL, 0);
}

static void serve_silently(struct device_call *call _unused_)
{
}

static const struct {
	uint32_t size;		/* of the argument, at least */
	void (*fn)(struct device_call *call);
} calls[] = {
	[FUSE_LOOKUP] = { 0, serve_lookup },
	[FUSE_FORGET] = { 0, serve_silently },
	[FUSE_GETATTR] = { 0, answer_attr },
	[FUSE_SETATTR] = { sizeof(struct fuse_setattr_in), serve_setattr },
	[FUSE_OPEN] = { sizeof(struct fuse_open_in), serve_open },
	[FUSE_READ] = { sizeof(struct fuse_read_in), serve_read },
	[FUSE_WRITE] = { 0, serve_write },
	[FUSE_STATFS] = { 0, serve_statfs },
	[FUSE_RELEASE] = { sizeof(struct fuse_release_in), serve_release },
	[FUSE_INTERRUPT] = { sizeof(struct fuse_interrupt_in), serve_interrupt },
	[FUSE_IOCTL] = { sizeof(struct fuse_ioctl_in), serve_ioctl },
	[FUSE_POLL] = { sizeof(struct fuse_poll_in), serve_poll },
	[FUSE_BATCH_FORGET] = { 0, serve_silently },
};

static int receive(struct device *d, size_t n, struct device_call *ret_call)
{
	const struct fuse_in_header *header = (const void *)d->in;

	if (n < sizeof(*header) || header->len != n)
		return -EPROTO;
	*ret_call = (struct device_call) {
		.device = d,
		.header = header,
		.arg = header + 1,
		.size = n - sizeof(*header),
		.caller = {
			.tid = (pid_t)header->pid, .uid = header->uid, .gid = header->gid,
		},
	};
	return 0;
}

int device_serve(struct device *d, size_t n)
{
	struct device_call call;
	uint32_t op;
	int r;

	r = receive(d, n, &call);
	if (r < 0)
		return r;
	op = call.header->opcode;
	if (op >= ARRAY_SIZE(calls) || !calls[op].fn)
		answer(&call, -ENOSYS, NULL, 0);
	else if (call.size < calls[op].size)
		answer(&call, -EIO, NULL, 0);
	else
		calls[op].fn(&call);
	return 0;
}

/* ---- how to talk ---- */

static int greet_fuse(struct device_call *call)
{
	const struct fuse_init_in *in = call->arg;
	struct device_params *p = &call->device->params;
	/* open(2) with O_TRUNC is as harmless as with any device */
	uint32_t flags = in->flags & FUSE_ATOMIC_O_TRUNC;
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION, .minor = MIN(in->minor, (uint32_t)DEVICE_MINOR),
		.flags = flags, .max_write = 4096, .time_gran = 1,
	};

	if (in->major != FUSE_KERNEL_VERSION || in->minor < DEVICE_MINOR_MIN)
		return -EPROTO;
	p->minor = out.minor;
	p->flags = flags;
	p->max_write = out.max_write;
	return answer(call, 0, &out, sizeof(out));
}

static int greet_cuse(struct device_call *call, const char *name)
{
	const struct cuse_init_in *in = call->arg;
	struct device_params *p = &call->device->params;
	struct cuse_init_out out = {
		.major = FUSE_KERNEL_VERSION, .minor = MIN(in->minor, (uint32_t)DEVICE_MINOR),
		.max_read = DEVICE_READ_BYTES, .max_write = 4096,
	};
	char info[128];
	int n = snprintf(info, sizeof(info), "DEVNAME=%s", name);
	struct iovec parts[] = {
		{ .iov_base = NULL },
		{ .iov_base = &out, .iov_len = sizeof(out) },
		{ .iov_base = info, .iov_len = (size_t)n + 1 },
	};

	if (in->major != FUSE_KERNEL_VERSION || in->minor < DEVICE_MINOR_MIN)
		return -EPROTO;
	if (n >= (int)sizeof(info))
		return -ENAMETOOLONG;
	p->minor = out.minor;
	p->max_write = out.max_write;
	return device_send_parts(call->device, call->header->unique, parts, 3);
}

int device_greet(struct device *d, size_t n, const char *name)
{
	bool is_cuse = d->params.kind == DEVICE_CUSE;
	struct device_call call;
	int r;

	r = receive(d, n, &call);
	if (r < 0)
		return r;
	/* their first two members are the same in all versions; flags come fourth in both */
	if (call.header->opcode != (is_cuse ? (uint32_t)CUSE_INIT : (uint32_t)FUSE_INIT) ||
	    call.size < sizeof(struct cuse_init_in))
		return -EPROTO;
	return is_cuse ? greet_cuse(&call, name) : greet_fuse(&call);
}
