/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "scene.h"

#define FUSE_MAGIC	0x65735546

struct daemon d;

static char device_path[64];

static int copy_file(const char *from, const char *to, uid_t uid, mode_t mode)
{
	int in = open(from, O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	struct stat st;
	int r = -1;

	if (in >= 0 && out >= 0 && fstat(in, &st) == 0 &&
	    sendfile(out, in, NULL, (size_t)st.st_size) == st.st_size &&
	    fchown(out, uid, uid) == 0 && fchmod(out, mode) == 0)
		r = 0;
	close(in);
	close(out);
	return r;
}

/* Programs to exec, all the same, but for whom they make of their caller. */
static void make_programs(void)
{
	static const struct {
		uid_t owner;
		mode_t mode;
	} files[] = { [OURS] = { 0, 0755 }, [BOBS] = { BOB, 06755 }, [ROOTS] = { 0, 06755 } };
	char path[64];

	for (int i = 0; i < PROGRAMS; i++) {
		snprintf(path, sizeof(path), "%s/program%d", d.dir, i);
		if (copy_file("/proc/self/exe", path, files[i].owner, files[i].mode) < 0)
			bail("cannot make %s: %s", path, strerror(errno));
	}
}

/* ---- the stage ---- */

void scene_begin(int argc, char **argv, unsigned int seconds)
{
	if (getuid()) {
		puts("1..0 # SKIP only root can become other users");
		exit(0);
	}
	test_begin(argc, argv, seconds, seconds);
	daemon_init(&d);
	/* what is mounted in a place of our own goes with us, and all files there */
	if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 &&
	    errno == EINVAL) {
		puts("1..0 # SKIP the root is no mount point, as in a chroot");
		exit(0);
	}
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", d.dir, "tmpfs", 0, "mode=755") < 0)
		bail("no mount namespace: %s", strerror(errno));
	snprintf(device_path, sizeof(device_path), "%s/device", d.dir);
	make_programs();
}

void scene_take(const char *directory)
{
	snprintf(d.dir, sizeof(d.dir), "%s", directory);
	snprintf(d.socket, sizeof(d.socket), "%.40s/control", d.dir);
	snprintf(device_path, sizeof(device_path), "%.40s/device", d.dir);
}

void scene_start(const char *const *args)
{
	const char *all[20] = { "--fuse", device_path };
	unsigned int n = 2;
	int fd;

	while (args && *args && n < 19)
		all[n++] = *args++;
	fd = open(device_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		bail("cannot make %s: %s", device_path, strerror(errno));
	close(fd);
	daemon_start(&d, access("/dev/fuse", R_OK | W_OK) == 0 ? all : args);
}

void scene_stop(void)
{
	same(daemon_stop(&d), 0, "the daemon ends well");
	umount2(device_path, MNT_DETACH);
}

bool has_way(enum way way)
{
	struct statfs fs;

	if (way == BY_SOCKET || (statfs(device_path, &fs) == 0 && fs.f_type == FUSE_MAGIC))
		return true;
	skip("there is no FUSE here", "by the device");
	return false;
}

const char *way_name(enum way way)
{
	return way == BY_SOCKET ? "socket" : "device";
}

int device_open(void)
{
	int fd = open(device_path, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int device_connect(int device_fd, int socket_fd)
{
	struct mirror_connect arg = { .size = sizeof(arg), .socket = socket_fd };

	return ioctl(device_fd, MIRROR_IOC_CONNECT, &arg) < 0 ? -errno : 0;
}

int device_connect_by(int device_fd)
{
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	r = device_connect(device_fd, pair[1]);
	close(pair[1]);
	if (r < 0)
		close(pair[0]);
	return r < 0 ? r : pair[0];
}

int way_connect(enum way way)
{
	int fd, r;

	if (way == BY_SOCKET) {
		r = raw_try_connect(d.socket, &fd);
		return r < 0 ? r : fd;
	}
	fd = device_open();
	if (fd < 0)
		return fd;
	r = device_connect_by(fd);
	close(fd);
	return r;
}
