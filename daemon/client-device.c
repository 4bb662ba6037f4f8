/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the device comes from
 *
 *	inherited
 *	"D0"		from the mirrord before us, which had agreed with the kernel on how
 *			to talk: the state says how, and open files were adopted already
 *	"cuse", "fuse"	opened or mounted for us by somebody with more rights
 *	of our own
 *	--cuse NAME	if this kernel has CUSE and we may open it
 *	--fuse PATH	else, if that was asked for too
 *
 * With both options there may be no device in the end: the socket does all that it
 * does, so this is told and we go on.  Who asks for one way alone gets it or an error.
 * A name that is taken is always an error, as it is for the socket.
 */
#include <stdio.h>
#include <string.h>
#include "client-device.h"
#include "client-file.h"
#include "client.h"
#include "manager.h"
#include "sys/log.h"
#include "sys/service.h"
#include "sys/state.h"
#include "sys/store.h"

#define FILE_MODE 0666		/* who may observe what is decided for each request */

static void keep_params(void *userdata, const struct device_params *params)
{
	struct manager *m = userdata;
	struct state_device *st = state_get_device(m->state);

	st->minor = params->minor;
	st->flags = params->flags;
	st->max_write = params->max_write;
	st->mode = params->mode;
	st->uid = params->uid;
	st->gid = params->gid;
	st->max_poll = params->max_poll;
}

static void free_files(struct manager *m)
{
	list_for_each_safe(l, &m->clients) {
		struct client *c = list_entry(l, struct client, link);

		if (c->file)
			client_free(c);
	}
}

static void device_gone(void *userdata)
{
	struct manager *m = userdata;

	log_error("the device is gone: there is only the socket now");
	free_files(m);
	m->device = device_free(m->device);
	state_get_device(m->state)->kind = 0;
	store_remove(m->store, 'D', 0);
}

static const struct device_ops client_device_ops = {
	.open = client_file_open,
	.release = client_file_release,
	.ioctl = client_file_ioctl,
	.read = client_file_read,
	.poll = client_file_poll,
	.params = keep_params,
	.gone = device_gone,
};

/* ---- begin ---- */

/* From now on the next mirrord can go on with it. */
static void keep(struct manager *m, const char *name)
{
	struct state_device *st = state_get_device(m->state);

	keep_params(m, device_get_params(m->device));
	snprintf(st->name, sizeof(st->name), "%s", name);
	st->kind = device_get_params(m->device)->kind;
	store_put(m->store, 'D', 0, device_get_fd(m->device));
}

/* A channel that nobody has talked through yet; @fd is consumed. */
static int begin(struct manager *m, int fd, enum device_kind kind, const char *name)
{
	struct device_params params = {
		.kind = kind, .mode = FILE_MODE, .uid = geteuid(), .gid = getegid(),
	};
	int r;

	r = device_new(&m->device, m->loop, fd, name, &params, &client_device_ops, m);
	if (r < 0) {
		fd_close(fd);
		return r;
	}
	keep(m, name);
	log_debug("the device is %s%s", kind == DEVICE_CUSE ? "/dev/" : "", name);
	return 0;
}

static int begin_cuse(struct manager *m, const char *name)
{
	int fd, r;

	r = device_open_cuse(&fd);
	if (r < 0)
		return r;
	r = begin(m, fd, DEVICE_CUSE, name);
	if (r == -EEXIST)
		log_error("/dev/%s is another's: does another mirrord run?", name);
	return r;
}

static int begin_fuse(struct manager *m, const char *path)
{
	int fd, r;

	r = device_mount_fuse(path, &fd);
	if (r == -EADDRINUSE)
		log_error("%s is mounted already: does another mirrord run?", path);
	if (r < 0)
		return r;
	r = begin(m, fd, DEVICE_FUSE, path);
	if (r < 0)
		device_unmount_fuse(path);
	return r;
}

static bool is_taken(int r)
{
	return r == -EEXIST || r == -EADDRINUSE;
}

static int begin_own(struct manager *m)
{
	const char *cuse = m->options.cuse, *fuse = m->options.fuse;
	int r = 0;

	if (cuse)
		r = begin_cuse(m, cuse);
	if (fuse && !m->device && !is_taken(r)) {
		if (cuse)
			log_debug("no CUSE: %s", strerror(-r));
		r = begin_fuse(m, fuse);
	}
	if (r == 0 || is_taken(r))
		return r;
	if (cuse && fuse) {
		log_error("there is no device, only the socket: %s", strerror(-r));
		return 0;
	}
	log_error("cannot make the device %s: %s", cuse ? cuse : fuse,
		  cuse && r == -ENOENT ? "this kernel has no CUSE" : strerror(-r));
	return r;
}

/* The one that the mirrord before us had. */
static int resume(struct manager *m, int fd)
{
	const struct state_device *st = state_get_device(m->state);
	struct device_params params = {
		.kind = st->kind, .minor = st->minor, .flags = st->flags,
		.max_write = st->max_write, .mode = st->mode, .uid = st->uid, .gid = st->gid,
		.max_poll = st->max_poll,
	};
	int r;

	if ((params.kind != DEVICE_CUSE && params.kind != DEVICE_FUSE) || !params.minor)
		return -EPROTO;
	r = device_new(&m->device, m->loop, fd, st->name, &params, &client_device_ops, m);
	if (r < 0)
		return r;
	list_for_each(l, &m->clients) {
		struct client *c = list_entry(l, struct client, link);

		if (c->file)
			device_add_file(m->device, client_file_get(c->file));
	}
	device_resume(m->device);
	return 0;
}

static int begin_inherited(struct manager *m, struct inherited *in)
{
	int fd = inherited_take(in, "D0"), r;

	if (fd >= 0) {
		r = resume(m, fd);
		if (r == 0)
			return 0;
		log_error("cannot go on with the device: %s", strerror(-r));
		fd_close(fd);
		store_remove(m->store, 'D', 0);
		/* Who may make another one for us does so when we are started anew. */
		if (m->store)
			return r;
	}
	/* An open file is kept under one name only: the old one goes first. */
	fd = inherited_take(in, "cuse");
	if (fd >= 0) {
		store_remove_name(m->store, "cuse");
		return begin(m, fd, DEVICE_CUSE, m->options.cuse ? m->options.cuse : "mirror");
	}
	fd = inherited_take(in, "fuse");
	if (fd >= 0) {
		store_remove_name(m->store, "fuse");
		return begin(m, fd, DEVICE_FUSE, m->options.fuse ? m->options.fuse : "");
	}
	return -ENOENT;
}

int client_device_start(struct manager *m, struct inherited *in)
{
	int r;

	r = begin_inherited(m, in);
	if (r < 0) {
		free_files(m);	/* of a device that there is no more */
		state_get_device(m->state)->kind = 0;
	}
	if (r == -ENOENT || r == -ENODEV)
		r = begin_own(m);
	return r;
}

void client_device_stop(struct manager *m)
{
	const struct state_device *st = state_get_device(m->state);
	int r;

	if (!m->device)
		return;
	device_hang_up(m->device);
	free_files(m);
	m->device = device_free(m->device);
	if (m->store || st->kind != DEVICE_FUSE)
		return;		/* the next one goes on, or the node went with its channel */
	r = device_unmount_fuse(st->name);
	if (r < 0)
		log_debug("cannot unmount %s: %s", st->name, strerror(-r));
}
