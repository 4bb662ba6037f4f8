/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include "io/device.h"

#define DEAD_MOUNTS_MAX 16	/* one above the other */
#define FILE_MODE 0444		/* of what lies below; that it has this tells that it is ours */

int device_open_cuse(int *ret_fd)
{
	int fd = open("/dev/cuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

bool device_node_exists(const char *name)
{
	char path[160];

	snprintf(path, sizeof(path), "/sys/class/cuse/%s", name);
	if (access(path, F_OK) == 0)
		return true;
	/* a sandbox can hide either */
	snprintf(path, sizeof(path), "/dev/%s", name);
	return access(path, F_OK) == 0;
}

/* Asks who serves the mount, and does not believe what the kernel remembers of it. */
static int take_dead_away(const char *path)
{
	struct statfs fs;

	for (int i = 0; i < DEAD_MOUNTS_MAX; i++) {
		if (statfs(path, &fs) == 0)
			return fs.f_type == FUSE_SUPER_MAGIC ? -EADDRINUSE : 0;
		if (errno == ENOENT)
			return 0;
		if (errno != ENOTCONN && errno != ECONNABORTED)
			return -errno;
		if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			return -errno;
	}
	return -EADDRINUSE;
}

/* Nobody reads or writes the file itself: it is what a mount needs. */
static int make_file(const char *path)
{
	struct stat st;
	int fd, r;

	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, FILE_MODE);
	if (fd >= 0) {
		r = fchmod(fd, FILE_MODE) < 0 ? -errno : 0;
		fd_close(fd);
		return r;
	}
	if (errno != EEXIST)
		return -errno;
	if (lstat(path, &st) < 0)
		return -errno;
	return S_ISREG(st.st_mode) ? 0 : -EEXIST;
}

int device_mount_fuse(const char *path, int *ret_fd)
{
	_cleanup_(fd_closep) int fd = -1;
	char options[128];
	int r;

	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	r = take_dead_away(path);
	if (r == 0)
		r = make_file(path);
	if (r < 0)
		return r;
	snprintf(options, sizeof(options), "fd=%d,rootmode=100000,user_id=0,group_id=0,"
		 "allow_other,default_permissions", fd);
	if (mount("mirror", path, "fuse.mirror", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int device_unmount_fuse(const char *path)
{
	struct stat st;

	/* Not looked at first: whoever would answer may be ourselves. */
	if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
		return -errno;
	if (lstat(path, &st) == 0 && st.st_mode == (S_IFREG | FILE_MODE) && !st.st_size &&
	    st.st_uid == geteuid())
		unlink(path);
	return 0;
}
