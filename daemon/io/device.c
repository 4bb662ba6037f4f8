/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device
 *
 * Model
 *   The kernel hands calls of programs to us as messages, read from one descriptor, the
 *   channel; what we write there answers them, or tells the kernel something unasked.
 *   The programs are blocked meanwhile, so every message is answered at once, but for
 *   a read(2) that waits for records.  We speak the protocol ourselves: a channel can
 *   then be taken over from another process without asking anybody, no library has
 *   threads or memory that we do not see, and the descriptor never blocks us.
 *
 *	program		kernel			here
 *	open		OPEN			ops.open, a file with a number, fh
 *	ioctl		IOCTL			ops.ioctl -> device_answer()
 *	read		READ			ops.read; nothing there: it is kept
 *	poll		POLL			ops.poll; "tell me": the file is polled
 *	last close	RELEASE, by nobody	ops.release
 *	signal		INTERRUPT		EINTR to the read that is meant
 *			<- NOTIFY_POLL		records for a file that is polled
 *
 * A file
 *	      OPEN			   RELEASE, or the device goes
 *	 ------------> open, n_reads blocked ------------> gone
 *
 *   It is known by its fh, a number and no pointer: what comes from the channel is
 *   looked up, and outlives us.  The kernel sends RELEASE at the last close, without
 *   saying whose.  Until a program's call is answered it cannot die, so its thread id
 *   means it and nobody else.
 *
 * A blocked read
 *   A read with nothing to give waits in its file, in order of arrival, until
 *   device_file_wake() finds something, a signal comes, or the file goes.  O_NONBLOCK
 *   is a flag of each read.  A large read(2) comes in parts: a part with an offset is
 *   not the first, so it never waits.  A signal gives EINTR, SA_RESTART or not: there
 *   is no answer by which the kernel would start the call again.  An INTERRUPT
 *   for a read that we do not know is answered in the name of that read: it was another
 *   process of ours that took it, and nobody else will ever answer.
 *
 * Polling
 *   A POLL that wants to be told sets `polled`; we tell once, and the kernel asks again.
 *   So there is one message for each time somebody went to sleep, and an edge-triggered
 *   waiter hears of each batch.
 *
 * The other end goes away
 *   The node can be taken away (CUSE: abort in sysfs; FUSE: umount): the channel reads as
 *   ENODEV, and ops.gone follows.  When we die with the channel, programs see ENOTCONN
 *   and POLLERR, and can close.  When somebody keeps the channel they wait instead, also
 *   in close(2), until there is a mirrord again: device_resume() asks the kernel to send
 *   what was read and not answered once more (6.9; before that only a signal helps), and
 *   wakes all who poll, since who waited is known to the kernel alone.
 *
 * Nothing of ours may use our own device: we would wait for ourselves.  Descriptors that
 * came from a client could be of it, and are closed by loop_close() only.
 */
#include <assert.h>
#include <fcntl.h>
#include "io/device-private.h"

#define ROUND_CALLS	64	/* before others get their turn */
#define GREET_MS	10000
#define POLL_MAX	(1U << 20)	/* handles that are told without being known */

static struct list *bucket(struct list *buckets, uint64_t key)
{
	return &buckets[key % DEVICE_BUCKETS];
}

/* The kernel counts its requests in twos, and marks those that it sends again. */
static uint64_t unique_key(uint64_t unique)
{
	return unique >> 1;
}

/* ---- files and their blocked reads ---- */

void device_file_init(struct device_file *file, uint64_t fh)
{
	*file = (struct device_file) { .fh = fh };
	list_init(&file->link);
	list_init(&file->reads);
}

void device_add_file(struct device *d, struct device_file *file)
{
	file->device = d;
	list_append(bucket(d->files, file->fh), &file->link);
}

struct device_file *device_find_file(struct device *d, uint64_t fh)
{
	list_for_each(l, bucket(d->files, fh)) {
		struct device_file *file = list_entry(l, struct device_file, link);

		if (file->fh == fh)
			return file;
	}
	return NULL;
}

int device_read_new(struct device_file *file, uint64_t unique, uint32_t size)
{
	struct device *d = file->device;
	struct device_read *read;

	read = malloc(sizeof(*read));
	if (!read)
		return -ENOMEM;
	*read = (struct device_read) { .file = file, .unique = unique, .size = size };
	list_append(&file->reads, &read->link);
	list_append(bucket(d->reads, unique_key(unique)), &read->unique_link);
	file->n_reads++;
	return 0;
}

struct device_read *device_read_free(struct device_read *read)
{
	if (!read)
		return NULL;
	read->file->n_reads--;
	list_unlink(&read->link);
	list_unlink(&read->unique_link);
	free(read);
	return NULL;
}

struct device_read *device_find_read(struct device *d, uint64_t unique)
{
	list_for_each(l, bucket(d->reads, unique_key(unique))) {
		struct device_read *read = list_entry(l, struct device_read, unique_link);

		if (read->unique == unique)
			return read;
	}
	return NULL;
}

static struct device_read *first_read(struct device_file *file)
{
	return list_is_empty(&file->reads) ? NULL :
	       list_entry(file->reads.next, struct device_read, link);
}

void device_file_deinit(struct device_file *file)
{
	struct device_read *read;

	while ((read = first_read(file))) {
		device_send(file->device, read->unique, -EIO, NULL, 0);
		device_read_free(read);
	}
	list_unlink(&file->link);
	file->device = NULL;
}

static void serve_reads(struct device_file *file)
{
	struct device *d = file->device;
	struct device_read *read;
	uint64_t unique;
	ssize_t n;

	while ((read = first_read(file))) {
		n = d->ops->read(file, d->out, read->size);
		if (n == 0)
			return;
		unique = read->unique;
		device_read_free(read);
		device_send(d, unique, n < 0 ? (int)n : 0, d->out, n < 0 ? 0 : (size_t)n);
	}
}

void device_file_wake(struct device_file *file)
{
	/* What a read takes out can let more in, and that calls us again. */
	if (!file->device || file->serving)
		return;
	file->serving = true;
	serve_reads(file);
	file->serving = false;
	if (!file->polled || !(file->device->ops->poll(file) & (POLLIN | POLLERR | POLLHUP)))
		return;
	file->polled = false;
	device_notify_poll(file->device, file->poll_handle);
}

/* ---- the channel ---- */

static void device_ready(struct loop_op *op, int res);

/* 1: something was read, 0: there is nothing (more), or -errno: the device is gone. */
static int device_receive(struct device *d, size_t *ret_n)
{
	ssize_t n = read(d->fd, d->in, sizeof(d->in));

	if (n >= 0) {
		*ret_n = (size_t)n;
		return n > 0 ? 1 : -ENODEV;
	}
	switch (errno) {
	case EAGAIN:
		return 0;
	case ENOENT:	/* it was taken back just now */
	case EINTR:
		*ret_n = 0;
		return 1;
	}
	return -errno;
}

static int poll_again(struct device *d)
{
	loop_stop(&d->op);
	return loop_poll(d->loop, &d->op, d->fd, POLLIN, device_ready);
}

static void device_ready(struct loop_op *op, int res)
{
	struct device *d = container_of(op, struct device, op);
	size_t n = 0;
	int r = res < 0 ? res : 1;

	for (int i = 0; i < ROUND_CALLS && r > 0; i++) {
		r = device_receive(d, &n);
		if (r > 0 && n && device_serve(d, n) < 0)
			r = -EPROTO;
	}
	/* More may be waiting, and the poll tells only of what is new: ask again. */
	if (r > 0)
		r = poll_again(d);
	if (r < 0)
		d->ops->gone(d->userdata);
}

/* The kernel asks first, and creates the node while it takes our answer. */
static int greet(struct device *d, const char *name)
{
	struct pollfd pfd = { .fd = d->fd, .events = POLLIN };
	size_t n = 0;
	int r;

	do {
		r = poll(&pfd, 1, GREET_MS);
		if (r == 0)
			return -ETIMEDOUT;
		if (r > 0)
			r = device_receive(d, &n);
		else
			r = errno == EINTR ? 1 : -errno;
	} while (r == 0 || (r > 0 && !n));
	if (r < 0)
		return r;
	r = device_greet(d, n, name);
	if (r < 0)
		return r;
	if (d->params.kind != DEVICE_CUSE)
		return 0;
	/* The name is taken: there is no error, the channel just dies. */
	pfd.events = 0;
	if (poll(&pfd, 1, 0) > 0)
		return -EEXIST;
	return device_node_exists(name) ? 0 : -EEXIST;
}

int device_new(struct device **ret_device, struct loop *loop, int fd, const char *name,
	       const struct device_params *params, const struct device_ops *ops,
	       void *userdata)
{
	_cleanup_(device_freep) struct device *d = NULL;
	int r;

	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	for (unsigned int i = 0; i < DEVICE_BUCKETS; i++) {
		list_init(&d->files[i]);
		list_init(&d->reads[i]);
	}
	d->op = (struct loop_op) LOOP_OP_NULL;
	d->loop = loop;
	d->ops = ops;
	d->userdata = userdata;
	d->params = *params;
	d->fd = fd;
	r = fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0 ? -errno : 0;
	if (r == 0 && !params->minor)
		r = greet(d, name);
	if (r == 0)
		r = loop_poll(loop, &d->op, fd, POLLIN, device_ready);
	if (r < 0) {
		d->fd = -1;	/* the caller's still */
		return r;
	}
	*ret_device = TAKE_PTR(d);
	return 0;
}

void device_hang_up(struct device *d)
{
	loop_stop(&d->op);
	d->fd = fd_close(d->fd);
}

struct device *device_free(struct device *d)
{
	if (!d)
		return NULL;
	for (unsigned int i = 0; i < DEVICE_BUCKETS; i++)
		assert(list_is_empty(&d->files[i]));
	device_hang_up(d);
	free(d);
	return NULL;
}

void device_resume(struct device *d)
{
	uint64_t max = d->params.max_poll;

	/* The kernel may not know how to: see above. */
	device_notify_resend(d);
	for (uint64_t handle = max; handle && max - handle < POLL_MAX; handle--)
		device_notify_poll(d, handle);
}

const struct device_params *device_get_params(const struct device *d)
{
	return &d->params;
}

int device_get_fd(const struct device *d)
{
	return d->fd;
}
