/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "config.h"
#include "mirrorctl.h"
#include "say.h"
#include "spawn.h"

#define PRELOAD_NAME	"libmirror-preload.so"

#ifndef P_PIDFD
#  define P_PIDFD	3
#endif

static int close_fd(int fd)
{
	if (fd >= 0)
		close(fd);

	return -1;
}

static void __attribute__((__noreturn__))
child_main(int go_fd, int error_fd, char **argv, const sigset_t *mask)
{
	ssize_t n;
	int error;
	char go;

	do
		n = read(go_fd, &go, 1);
	while (n < 0 && errno == EINTR);

	if (n != 1)
		_exit(EXIT_RUN_FAILED);

	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(argv[0], argv);

	error = errno;
	n = write(error_fd, &error, sizeof(error));
	(void)n;
	_exit(error == ENOENT ? EXIT_RUN_NOT_FOUND : EXIT_RUN_CANNOT_EXECUTE);
}

int spawn_prepare(struct spawn *spawn, char **argv, const sigset_t *mask)
{
	int go[2] = { -1, -1 }, err[2] = { -1, -1 };
	int r;

	if (pipe2(go, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0) {
		r = -errno;
		goto out;
	}

	spawn->pid = fork();
	if (spawn->pid < 0) {
		r = -errno;
		goto out;
	}
	if (!spawn->pid) {
		close(go[1]);
		close(err[0]);
		child_main(go[0], err[1], argv, mask);
	}

	spawn->go_fd = go[1];
	spawn->error_fd = err[0];
	go[1] = err[0] = -1;

	spawn->pidfd = (int)syscall(SYS_pidfd_open, spawn->pid, 0);
	r = spawn->pidfd < 0 ? -errno : 0;

out:
	close_fd(go[0]);
	close_fd(go[1]);
	close_fd(err[0]);
	close_fd(err[1]);

	return r;
}

int spawn_go(struct spawn *spawn)
{
	int error = 0;
	ssize_t n;

	n = write(spawn->go_fd, "", 1);
	if (n < 0)
		return -errno;
	spawn->go_fd = close_fd(spawn->go_fd);

	/* end of file when the exec succeeds, or when somebody killed it before */
	do
		n = read(spawn->error_fd, &error, sizeof(error));
	while (n < 0 && errno == EINTR);
	spawn->error_fd = close_fd(spawn->error_fd);

	return n == (ssize_t)sizeof(error) ? -error : 0;
}

int spawn_reap(struct spawn *spawn)
{
	int status = 0;

	while (waitpid(spawn->pid, &status, 0) < 0)
		if (errno != EINTR)
			return EXIT_RUN_FAILED;
	spawn->pid = -1;

	return WIFSIGNALED(status) ? EXIT_RUN_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
}

void spawn_deinit(struct spawn *spawn)
{
	spawn->go_fd = close_fd(spawn->go_fd);
	spawn->error_fd = close_fd(spawn->error_fd);
	if (spawn->pid > 0)
		spawn_reap(spawn);
	spawn->pidfd = close_fd(spawn->pidfd);
}

static int append_preload(const char *preload)
{
	const char *old = getenv("LD_PRELOAD");
	char *both = NULL;
	int r;

	if (!old || !*old)
		return setenv("LD_PRELOAD", preload, 1) < 0 ? -errno : 0;

	if (asprintf(&both, "%s:%s", old, preload) < 0)
		return -ENOMEM;
	r = setenv("LD_PRELOAD", both, 1) < 0 ? -errno : 0;
	free(both);

	return r;
}

int spawn_set_environment(const char *socket, const char *preload)
{
	if (setenv("MIRROR_SOCKET", socket, 1) < 0)
		return -errno;
	if (setenv("MIRROR_PRELOAD", "1", 1) < 0)
		return -errno;

	/* it has a mirrord to talk to, and must not start one of its own */
	if (unsetenv("MIRROR_EMBEDDED") < 0)
		return -errno;

	return append_preload(preload);
}

/* the build tree and an unpacked tree have it next to us: DIR/../lib */
static char *find_relative(void)
{
	char self[PATH_MAX], *slash, *path = NULL;
	ssize_t n;

	n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n < 0)
		return NULL;
	self[n] = 0;

	slash = strrchr(self, '/');
	if (!slash)
		return NULL;
	*slash = 0;

	if (asprintf(&path, "%s/../lib/" PRELOAD_NAME, self) < 0)
		return NULL;

	slash = realpath(path, NULL);
	free(path);

	return slash;
}

char *spawn_find_preload(void)
{
	const char *set = getenv("MIRROR_PRELOAD_OBJECT");
	char *path;

	if (set && *set) {
		path = realpath(set, NULL);
		if (!path) {
			say("MIRROR_PRELOAD_OBJECT is '%s': %s", set, strerror(errno));
			return NULL;
		}
	} else {
		path = find_relative();
		if (!path)
			path = realpath(MIRROR_PRELOAD_PATH, NULL);
		if (!path) {
			say("cannot find " PRELOAD_NAME " (looked in ../lib and at "
			    MIRROR_PRELOAD_PATH "); install it, or set "
			    "MIRROR_PRELOAD_OBJECT to its path");
			return NULL;
		}
	}

	/* ld.so splits LD_PRELOAD at both, and knows no quoting */
	if (strpbrk(path, " :")) {
		say("the path '%s' has a space or a colon in it, which LD_PRELOAD cannot carry",
		    path);
		free(path);
		return NULL;
	}

	return path;
}
