/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A private daemon
 *
 * The program it is started in may have threads, handlers and children of its
 * own, and must notice nothing: no zombie, no SIGCHLD, no signal to the daemon
 * when the terminal sends one to the program.  So
 *
 *   - all is prepared before: after the clone only system calls are made, on a
 *     stack of their own, in memory that is shared with the parent, which waits;
 *   - the child has no exit signal and is waited for with __WCLONE, which nobody
 *     else's wait() covers;
 *   - the child makes the grandchild that becomes the daemon, in a session of its
 *     own, and ends;
 *   - no pthread_atfork() handler runs.
 *
 * Whether exec worked is told by a pipe that closes on exec.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "config.h"
#include "mirror-private.h"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

#define STACK_BYTES (64 * 1024)

extern char **environ;

struct spawn {
	char path[PATH_MAX];
	char fd_text[16];
	char *argv[8];
	char **envp;
	int client_fd, null_fd, error_fd;
	bool keep_stderr;
	bool keep_directory;	/* the socket's path is relative to it */
	uint8_t *stacks;	/* two */
};

static bool debug(void)
{
	const char *value = secure_getenv("MIRROR_DEBUG");

	return value && !strcmp(value, "1");
}

/* In the tree it was built in, the daemon is ../daemon/mirrord, seen from here. */
static bool find_beside_us(char path[PATH_MAX])
{
	char guess[PATH_MAX];
	Dl_info info;
	char *slash;
	int n;

	if (!dladdr((void *)(uintptr_t)embed_start, &info) || !info.dli_fname)
		return false;
	slash = strrchr(info.dli_fname, '/');
	if (!slash)
		return false;
	n = snprintf(guess, sizeof(guess), "%.*s/../daemon/mirrord",
		     (int)(slash - info.dli_fname), info.dli_fname);
	if (n < 0 || (size_t)n >= sizeof(guess) || access(guess, X_OK) < 0)
		return false;
	return realpath(guess, path);
}

static int find_daemon(char path[PATH_MAX])
{
	const char *name = secure_getenv("MIRROR_DAEMON");

	if (!name && find_beside_us(path))
		return 0;
	return realpath(name ? name : MIRROR_DAEMON_PATH, path) ? 0 : -errno;
}

static bool is_ours(const char *assignment)
{
	static const char *const names[] = { "LD_PRELOAD=", "MIRROR_PRELOAD=", "MIRROR_EMBEDDED=" };

	for (unsigned int i = 0; i < ARRAY_SIZE(names); i++)
		if (!strncmp(assignment, names[i], strlen(names[i])))
			return true;
	return false;
}

/* The program's, but for what would make the daemon a target. */
static char **make_environment(void)
{
	size_t n = 0, kept = 0;
	char **envp;

	while (environ && environ[n])
		n++;
	envp = calloc(n + 1, sizeof(*envp));
	for (size_t i = 0; envp && i < n; i++)
		if (!is_ours(environ[i]))
			envp[kept++] = environ[i];
	return envp;
}

/* The program's handlers must not run in here, in its memory. */
static void reset_signals(void)
{
	struct sigaction action;
	sigset_t none;

	for (int i = 1; i < _NSIG; i++) {
		if (sigaction(i, NULL, &action) < 0 || action.sa_handler == SIG_IGN ||
		    action.sa_handler == SIG_DFL)
			continue;
		action = (struct sigaction) { .sa_handler = SIG_DFL };
		sigaction(i, &action, NULL);
	}
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int become_daemon(void *data)
{
	struct spawn *spawn = data;
	ssize_t n;
	int e;

	/* none of the program's descriptors, whatever it forgot to mark */
	syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC);
	if (dup2(spawn->null_fd, 0) < 0 || dup2(spawn->null_fd, 1) < 0 ||
	    (!spawn->keep_stderr && dup2(spawn->null_fd, 2) < 0) ||
	    fcntl(spawn->client_fd, F_SETFD, 0) < 0 ||
	    (!spawn->keep_directory && chdir("/") < 0))
		goto fail;
	reset_signals();
	execve(spawn->path, spawn->argv, spawn->envp);
fail:
	e = errno;
	n = write(spawn->error_fd, &e, sizeof(e));
	(void)n;
	return 1;	/* to clone()'s wrapper, which ends the process */
}

static int make_daemon(void *data)
{
	struct spawn *spawn = data;
	ssize_t n;
	int e;

	setsid();
	if (clone(become_daemon, spawn->stacks + 2 * STACK_BYTES, CLONE_VM | CLONE_VFORK | SIGCHLD,
		  spawn) < 0) {
		e = errno;
		n = write(spawn->error_fd, &e, sizeof(e));
		(void)n;
	}
	return 0;
}

static int run(struct spawn *spawn)
{
	sigset_t all, old;
	int r = 0, cancel;
	pid_t pid;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = clone(make_daemon, spawn->stacks + STACK_BYTES, CLONE_VM | CLONE_VFORK, spawn);
	if (pid < 0)
		r = -errno;
	else
		while (waitpid(pid, NULL, __WCLONE) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_setcancelstate(cancel, NULL);
	return r;
}

/* Above the standard streams, which the daemon gets anew; the program may lack them. */
static int move_up(int *fd)
{
	int r;

	if (*fd > 2)
		return 0;
	r = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
	if (r < 0)
		return -errno;
	fd_close(*fd);
	*fd = r;
	return 0;
}

/* 0 when the daemon's program runs. */
static int spawn_daemon(struct spawn *spawn)
{
	_cleanup_(fd_closep) int result_fd = -1;
	int pipe_fds[2], e, r;
	ssize_t n;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	result_fd = pipe_fds[0];
	r = move_up(&pipe_fds[1]);
	spawn->error_fd = pipe_fds[1];
	if (r == 0)
		r = run(spawn);
	fd_close(pipe_fds[1]);
	if (r < 0)
		return r;
	do {
		n = read(result_fd, &e, sizeof(e));
	} while (n < 0 && errno == EINTR);
	return n == sizeof(e) ? -e : 0;
}

static int prepare_and_spawn(struct spawn *spawn, const char *socket_path)
{
	unsigned int n = 0;
	int r;

	r = find_daemon(spawn->path);
	if (r < 0)
		return r;
	snprintf(spawn->fd_text, sizeof(spawn->fd_text), "%d", spawn->client_fd);
	spawn->argv[n++] = spawn->path;
	spawn->argv[n++] = (char *)(uintptr_t)"--embedded";
	spawn->argv[n++] = (char *)(uintptr_t)"--client-fd";
	spawn->argv[n++] = spawn->fd_text;
	if (socket_path) {
		spawn->argv[n++] = (char *)(uintptr_t)"--socket";
		spawn->argv[n++] = (char *)(uintptr_t)socket_path;
	}
	spawn->keep_stderr = debug();
	spawn->keep_directory = socket_path && *socket_path != '/';
	spawn->envp = make_environment();
	if (!spawn->envp)
		return -ENOMEM;
	spawn->stacks = mmap(NULL, 2 * STACK_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (spawn->stacks == MAP_FAILED)
		r = -errno;
	else
		r = spawn_daemon(spawn);
	if (spawn->stacks != MAP_FAILED)
		munmap(spawn->stacks, 2 * STACK_BYTES);
	free(spawn->envp);
	return r;
}

int embed_start(const char *socket_path, int *ret_fd)
{
	_cleanup_(fd_closep) int ours = -1, theirs = -1, null_fd = -1;
	_cleanup_(freep) struct spawn *spawn = NULL;
	int pair[2], r;

	spawn = calloc(1, sizeof(*spawn));
	if (!spawn)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	ours = pair[0];
	theirs = pair[1];
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0)
		return -errno;
	r = move_up(&theirs);
	if (r == 0)
		r = move_up(&null_fd);
	if (r < 0)
		return r;
	spawn->client_fd = theirs;
	spawn->null_fd = null_fd;
	r = prepare_and_spawn(spawn, socket_path);
	if (r < 0)
		return r;
	*ret_fd = TAKE_FD(ours);
	return 0;
}
