/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding and reaching a daemon
 *
 * All ways end with the same connection, a SEQPACKET socket.  The device cannot carry
 * one to us; so we make a pair of sockets, and an ioctl tells the daemon which number
 * one end has here, for the daemon to take.  The device is needed no more then.
 *
 * A way that the caller names is the only one that is tried, and what goes wrong there
 * is told.  Else it is the device, then the socket; a way that is not there, or not for
 * us, leaves it to the next.
 *
 * Whoever waits for a device cannot be called back from there: until the daemon answers
 * nothing but a deadly signal ends open(2) or ioctl(2).  So where waits are bounded the
 * device is not tried unless it is named.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/un.h>
#include "mirror-private.h"

#define CHARACTER_DEVICE "/dev/mirror"
#define FILE_DEVICE "/run/mirror/device"
#define SOCKET_PATH "/run/mirror/control"

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif

static int set_timeout(int fd, unsigned int timeout_ms)
{
	struct timeval tv = {
		.tv_sec = timeout_ms / 1000,
		.tv_usec = timeout_ms % 1000 * 1000,
	};

	/* connect() obeys SO_SNDTIMEO too; 0 is for ever */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) < 0)
		return -errno;
	return 0;
}

static int connect_socket(const char *path, unsigned int timeout_ms, int *ret_fd)
{
	_cleanup_(fd_closep) int fd = -1;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int r;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	r = set_timeout(fd, timeout_ms);
	if (r < 0)
		return r;
	do {
		r = connect(fd, (const struct sockaddr *)&address, sizeof(address));
	} while (r < 0 && errno == EINTR);
	if (r < 0)	/* EPROTOTYPE: a socket of another type, so not ours */
		return errno == EAGAIN ? -ETIMEDOUT : errno == EPROTOTYPE ? -EPROTO : -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* What an error of a device means; @e is positive. */
static int device_error(int e)
{
	switch (e) {
	case ENXIO:		/* a node that nobody is behind */
	case ENODEV:
	case ENOTCONN:		/* a mount that nobody is behind */
	case ECONNABORTED:
		return -ECONNREFUSED;
	case ENOTTY:		/* somebody else's device */
	case ENOSYS:
	case EINVAL:
		return -EPROTO;
	}
	return -e;
}

static int open_device(const char *path, int *ret_fd)
{
	_cleanup_(fd_closep) int fd = -1;
	struct statfs fs;
	struct stat st;

	/* not blocking: if it is not ours, it may be a line that waits for a carrier */
	do {
		fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	} while (fd < 0 && errno == EINTR);
	if (fd < 0)
		return device_error(errno);
	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
		return device_error(errno);
	if (S_ISREG(st.st_mode) && fs.f_type != FUSE_SUPER_MAGIC)
		return -ECONNREFUSED;	/* the file that the device is mounted over */
	if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode))
		return -EPROTO;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int tell_device(int device_fd, int socket_fd)
{
	struct mirror_connect arg = { .size = sizeof(arg), .socket = socket_fd };
	int r;

	do {	/* ERESTART: the daemon was replaced meanwhile */
		r = ioctl(device_fd, MIRROR_IOC_CONNECT, &arg);
	} while (r < 0 && (errno == EINTR || errno == ERESTART));
	return r < 0 ? device_error(errno) : 0;
}

static int connect_device(const char *path, unsigned int timeout_ms, int *ret_fd)
{
	enum { OURS, THEIRS, DEVICE, _N };
	int fds[_N] = { -1, -1, -1 }, r;
	struct guard guard;

	r = open_device(path, &fds[DEVICE]);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		r = -errno;
	/* a child that kept their end would hide from us that the daemon is gone */
	guard_add(&guard, fds, _N);
	if (r == 0)
		r = set_timeout(fds[OURS], timeout_ms);
	if (r == 0)
		r = tell_device(fds[DEVICE], fds[THEIRS]);
	guard_remove(&guard, false);
	fd_close(fds[THEIRS]);
	fd_close(fds[DEVICE]);
	if (r == 0)
		*ret_fd = fds[OURS];
	else
		fd_close(fds[OURS]);
	return r;
}

/* The caller says where; what is there says which way that is. */
static int connect_named(const char *path, unsigned int timeout_ms, int *ret_fd)
{
	struct stat st;

	if (stat(path, &st) < 0) {
		if (errno == ENOTCONN || errno == ECONNABORTED)
			return -ECONNREFUSED;
	} else if (S_ISCHR(st.st_mode) || S_ISREG(st.st_mode)) {
		return connect_device(path, timeout_ms, ret_fd);
	}
	return connect_socket(path, timeout_ms, ret_fd);
}

static bool env_is_one(const char *name)
{
	const char *value = secure_getenv(name);

	return value && !strcmp(value, "1");
}

/* Nobody there, as opposed to somebody who does not want us. */
static bool is_absent(int r)
{
	return r == -ENOENT || r == -ECONNREFUSED;
}

/* Nor is a device that this user may not open, or that is not mirrord's, an answer. */
static bool is_answer(int r)
{
	return !is_absent(r) && r != -EACCES && r != -EPERM && r != -EPROTO;
}

/* *ret_private: nobody is found, so a private daemon will do. */
static int connect_default(bool devices, unsigned int timeout_ms, int *ret_fd, bool *ret_private)
{
	static const char *const paths[] = { CHARACTER_DEVICE, FILE_DEVICE };
	int refused = 0, r;

	*ret_private = false;
	for (unsigned int i = 0; devices && i < ARRAY_SIZE(paths); i++) {
		r = connect_device(paths[i], timeout_ms, ret_fd);
		if (is_answer(r))
			return r;
		if (!is_absent(r) && !refused)
			refused = r;
	}
	r = connect_socket(SOCKET_PATH, timeout_ms, ret_fd);
	if (!is_absent(r))
		return r;
	*ret_private = true;
	return refused ? refused : r;
}

static int connect_somewhere(const char *path, unsigned int timeout_ms, int *ret_fd,
			     bool *ret_private)
{
	const char *device = secure_getenv("MIRROR_DEVICE");
	int r;

	if (!path)
		path = secure_getenv("MIRROR_SOCKET");
	if (!path && device && *device) {
		*ret_private = false;
		return connect_device(device, timeout_ms, ret_fd);
	}
	if (!path)
		return connect_default(!device && !timeout_ms, timeout_ms, ret_fd, ret_private);
	r = connect_named(path, timeout_ms, ret_fd);
	*ret_private = is_absent(r);
	return r;
}

int ctx_connect(struct mirror_ctx *ctx, const struct mirror_open_opts *opts,
		unsigned int timeout_ms)
{
	bool forced, forbidden, private = true;
	int r;

	forbidden = opts->flags & MIRROR_OPEN_NO_EMBEDDED;
	forced = opts->flags & MIRROR_OPEN_EMBEDDED ||
		 (!forbidden && env_is_one("MIRROR_EMBEDDED"));
	if (!forced) {
		r = connect_somewhere(opts->path, timeout_ms, &ctx->fds[CTX_FD_SOCKET], &private);
		if (!private || forbidden)
			return r;
	}
	ctx->embedded = true;
	/* who forces a private daemon and names a path wants it to serve others there */
	return embed_start(opts->flags & MIRROR_OPEN_EMBEDDED ? opts->path : NULL,
			   &ctx->fds[CTX_FD_SOCKET]);
}
