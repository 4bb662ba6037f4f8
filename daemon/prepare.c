/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The manager passes its store to the main process only.  So what tells a restart from
 * the first start is whether the device is alive: it is for as long as somebody has its
 * channel.
 */
#include <ctype.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include "io/device.h"
#include "prepare.h"
#include "settings.h"
#include "sys/log.h"
#include "sys/store.h"

#define LOOKS 5		/* a millisecond apart */
#define FLUSH_MS 5000

/* Is @pid asleep in that system call? */
static bool sleeps_in(pid_t pid, long nr)
{
	_cleanup_(fd_closep) int fd = -1;
	char path[64], text[32] = "";

	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return false;
	return isdigit((unsigned char)*text) && strtol(text, NULL, 10) == nr;
}

/*
 * A mount that is alive and has nobody to serve it just now answers nothing; a dead one
 * answers at once.  So a child asks, and we look whether it waits.  Killed, it waits no
 * longer, as nobody has taken its question.
 */
static bool mount_is_alive(const char *path)
{
	int status = 0, looks = 0;
	struct statfs fs;
	pid_t pid;

	pid = fork();
	if (pid == 0)
		_exit(syscall(SYS_statfs, path, &fs) == 0 && fs.f_type == FUSE_SUPER_MAGIC ?
		      0 : 1);
	if (pid < 0)
		return false;
	while (looks < LOOKS) {
		if (waitpid(pid, &status, WNOHANG) != 0)
			return WIFEXITED(status) && !WEXITSTATUS(status);
		looks = sleeps_in(pid, SYS_statfs) ? looks + 1 : 0;
		poll(NULL, 0, 1);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return true;
}

/* Returns when the manager has it: it asks who we are, and must find us. */
static int leave(const char *name, int fd)
{
	_cleanup_(store_freep) struct store *store = NULL;
	int r;

	r = store_new(&store, NULL);
	if (r == -ENOENT)
		log_error("there is no service manager to leave a device with");
	if (r < 0)
		return r;
	store_put_name(store, name, fd);
	return store_flush(store, FLUSH_MS);
}

static int prepare_cuse(const char *name)
{
	_cleanup_(fd_closep) int fd = -1;
	int r;

	if (device_node_exists(name))
		return 0;
	r = device_open_cuse(&fd);
	return r < 0 ? r : leave("cuse", fd);
}

static void make_folder_of(const char *path)
{
	char dir[256];

	snprintf(dir, sizeof(dir), "%s", path);
	if (strrchr(dir, '/') > dir) {
		*strrchr(dir, '/') = '\0';
		mkdir(dir, 0755);
	}
}

/*
 * A manager gives even what it starts with all rights a mount namespace that ends with
 * it, if the unit has one.  The file must be where everybody sees it.
 */
static int join_manager(void)
{
	_cleanup_(fd_closep) int fd = -1;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)getppid());
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNS) < 0)
		return -errno;
	return 0;
}

static int prepare_fuse(const char *path)
{
	_cleanup_(fd_closep) int fd = -1;
	int r;

	r = join_manager();
	if (r < 0)
		return r;
	if (mount_is_alive(path))
		return 0;
	make_folder_of(path);
	r = device_mount_fuse(path, &fd);
	if (r < 0)
		return r;
	r = leave("fuse", fd);
	if (r < 0)
		device_unmount_fuse(path);
	return r;
}

int prepare_device(const struct settings *s)
{
	const char *cuse = s->options.cuse, *fuse = s->options.fuse;
	int r = 0;

	umask(022);		/* it is for everybody */
	if (cuse)
		r = prepare_cuse(cuse);
	if (fuse && (r < 0 || !cuse)) {
		if (cuse)
			log_info("no CUSE: %s", strerror(-r));
		r = prepare_fuse(fuse);
	}
	if (r < 0)
		log_error("no device could be made ready: %s", strerror(-r));
	return r;
}
