/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tap.h"

#define CASE_MS		30000
#define READY_MS	20000

enum { FAILED = 1, SKIPPED = 77 };

/* What a case says, in memory that its process shares with us. */
struct verdict {
	bool checked;		/* a check of the case's failed, and nothing worse happened */
	char text[400];
	char remark[400];
};

static struct verdict *verdict;
static unsigned int n_cases, n_failed;
static char directory[40];
static char socket_path[64], notify_path[64];
static char files[4][80];
static unsigned int n_files;
static void (*undo[4])(void);
static const char *(*excuse)(void);
static unsigned int n_undo;
static pid_t main_pid, daemon_pid, case_pid;

/* ---- the end ---- */

/* Only what a signal handler may do. */
static void clean_up(void)
{
	if (getpid() != main_pid)
		return;
	while (n_undo)
		undo[--n_undo]();
	if (case_pid > 0)
		kill(case_pid, SIGKILL);
	if (daemon_pid > 0)
		kill(daemon_pid, SIGKILL);
	for (unsigned int i = 0; i < n_files; i++)
		unlink(files[i]);
	unlink(socket_path);
	unlink(notify_path);
	rmdir(directory);
}

static void on_signal(int sig)
{
	static const char late[] = "Bail out! The watchdog: the whole takes too long\n";

	if (sig == SIGALRM && write(STDOUT_FILENO, late, sizeof(late) - 1) < 0)
		sig = SIGTERM;
	clean_up();
	_exit(2);
}

static void __attribute__((__noreturn__)) bail(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	fflush(stdout);
	exit(2);
}

void tap_at_end(void (*function)(void))
{
	if (n_undo < ARRAY_LENGTH(undo))
		undo[n_undo++] = function;
}

/* ---- the daemon ---- */

static int notify_socket(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", notify_path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		bail("the socket for the daemon to say that it is ready");
	return fd;
}

/* It says when it serves, as it does to a service manager. */
static void daemon_start(void)
{
	struct pollfd pollfd = { .events = POLLIN };
	char said[256] = "";

	if (!getenv("MIRROR_DAEMON"))
		bail("$MIRROR_DAEMON must name the daemon to test");
	pollfd.fd = notify_socket();
	daemon_pid = fork();
	if (daemon_pid < 0)
		bail("fork");
	if (daemon_pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		setenv("NOTIFY_SOCKET", notify_path, 1);
		execl(getenv("MIRROR_DAEMON"), "mirrord", "--socket", socket_path, NULL);
		_exit(127);
	}
	if (poll(&pollfd, 1, READY_MS) != 1 ||
	    recv(pollfd.fd, said, sizeof(said) - 1, 0) <= 0 || !strstr(said, "READY=1"))
		bail("the daemon does not start");
	close(pollfd.fd);
}

void tap_begin(unsigned int seconds)
{
	static const int signals[] = { SIGALRM, SIGTERM, SIGINT, SIGHUP };
	struct rlimit none = { 0, 0 };

	setvbuf(stdout, NULL, _IOLBF, 0);
	unsetenv("MIRROR_SOCKET");	/* nothing of the caller's decides what is tested */
	unsetenv("MIRROR_EMBEDDED");
	setrlimit(RLIMIT_CORE, &none);
	signal(SIGPIPE, SIG_IGN);
	verdict = mmap(NULL, sizeof(*verdict), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	strcpy(directory, "/tmp/mirror-device-XXXXXX");
	if (verdict == MAP_FAILED || !mkdtemp(directory))
		bail("a directory in /tmp");
	snprintf(socket_path, sizeof(socket_path), "%s/control", directory);
	snprintf(notify_path, sizeof(notify_path), "%s/notify", directory);
	main_pid = getpid();
	atexit(clean_up);
	for (unsigned int i = 0; i < ARRAY_LENGTH(signals); i++)
		signal(signals[i], on_signal);
	alarm(seconds);
	daemon_start();
}

int tap_end(void)
{
	if (waitpid(daemon_pid, NULL, WNOHANG) != 0) {
		daemon_pid = 0;
		printf("not ok %u - the daemon is alive at the end\n", ++n_cases);
		n_failed++;
	}
	printf("1..%u\n", n_cases);
	return n_failed ? 1 : 0;
}

const char *tap_socket(void)
{
	return socket_path;
}

const char *tap_file(const char *name)
{
	char path[sizeof(files[0])];

	snprintf(path, sizeof(path), "%s/%.30s", directory, name);
	for (unsigned int i = 0; i < n_files; i++)
		if (!strcmp(files[i], path))
			return files[i];
	if (n_files == ARRAY_LENGTH(files))
		bail("too many files");
	strcpy(files[n_files], path);
	return files[n_files++];
}

/* ---- cases ---- */

static void __attribute__((__noreturn__)) case_child(void (*run)(const void *arg),
						     const void *arg)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != main_pid)
		_exit(FAILED);
	alarm(0);
	signal(SIGALRM, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	run(arg);
	_exit(0);
}

/* 0, FAILED or SKIPPED; the verdict says why. */
static int run_case(void (*run)(const void *arg), const void *arg)
{
	struct pollfd pollfd = { .events = POLLIN };
	int status, r;

	memset(verdict, 0, sizeof(*verdict));
	fflush(stdout);
	case_pid = fork();
	if (case_pid < 0)
		bail("fork");
	if (case_pid == 0)
		case_child(run, arg);
	pollfd.fd = (int)syscall(SYS_pidfd_open, case_pid, 0);
	do {
		r = poll(&pollfd, 1, CASE_MS);
	} while (r < 0 && errno == EINTR);
	close(pollfd.fd);
	if (r != 1)
		kill(case_pid, SIGKILL);
	waitpid(case_pid, &status, 0);
	case_pid = 0;
	if (r != 1 || WIFSIGNALED(status))
		verdict->checked = false;
	if (r != 1)
		snprintf(verdict->text, sizeof(verdict->text), "it hangs");
	else if (WIFSIGNALED(status))
		snprintf(verdict->text, sizeof(verdict->text), "ended by signal %d",
			 WTERMSIG(status));
	else if (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == SKIPPED)
		return WEXITSTATUS(status);
	return FAILED;
}

void tap_case(const char *name, void (*run)(const void *arg), const void *arg)
{
	int r = run_case(run, arg);

	n_failed += r == FAILED;
	printf("%s %u - %s%s%s\n", r == FAILED ? "not ok" : "ok", ++n_cases, name,
	       r == SKIPPED ? " # SKIP " : "", r == SKIPPED ? verdict->text : "");
	if (r == FAILED)
		tap_note("%s: %s", name, verdict->text);
	if (verdict->remark[0])
		tap_note("%s: %s", name, verdict->remark);
}

void tap_case_must_fail(const char *name, void (*run)(const void *arg), const void *arg)
{
	int r = run_case(run, arg);

	bool good = r == SKIPPED || (r == FAILED && verdict->checked);

	n_failed += !good;
	printf("%s %u - %s is found out%s%s\n", good ? "ok" : "not ok", ++n_cases, name,
	       r == SKIPPED ? " # SKIP " : "", r == SKIPPED ? verdict->text : "");
	if (r == FAILED)
		tap_note("%s: %s", name, verdict->text);
}

void tap_skip(const char *name, const char *reason)
{
	printf("ok %u - %s # SKIP %s\n", ++n_cases, name, reason);
}

void tap_note(const char *format, ...)
{
	va_list args;

	printf("# ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

/* ---- in a case ---- */

void tap_remark(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(verdict->remark, sizeof(verdict->remark), format, args);
	va_end(args);
}

static __attribute__((__format__(__printf__, 3, 0)))
void say(const char *file, int line, const char *format, va_list args)
{
	const char *name = strrchr(file, '/');
	int n;

	verdict->checked = true;
	n = snprintf(verdict->text, sizeof(verdict->text), "%s:%d: ", name ? name + 1 : file, line);
	vsnprintf(verdict->text + n, sizeof(verdict->text) - (size_t)n, format, args);
}

void tap_set_excuse(const char *(*function)(void))
{
	excuse = function;
}

static void __attribute__((__noreturn__)) end_failed(void)
{
	const char *reason = excuse ? excuse() : NULL;

	if (!reason)
		_exit(FAILED);
	snprintf(verdict->remark, sizeof(verdict->remark), "%.300s", verdict->text);
	tap_skip_case("%s", reason);
}

void tap_fail(const char *file, int line, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(file, line, format, args);
	va_end(args);
	end_failed();
}

void tap_fail_is(const char *file, int line, long long got, long long wanted,
		 const char *format, ...)
{
	va_list args;
	size_t n;

	va_start(args, format);
	say(file, line, format, args);
	va_end(args);
	n = strlen(verdict->text);
	snprintf(verdict->text + n, sizeof(verdict->text) - n, ": %lld (%s), not %lld (%s)", got,
		 tap_errno(got), wanted, tap_errno(wanted));
	end_failed();
}

void tap_skip_case(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(verdict->text, sizeof(verdict->text), format, args);
	va_end(args);
	_exit(SKIPPED);
}

const char *tap_errno(long long r)
{
	return r < 0 && r > -4096 ? strerror((int)-r) : "a number";
}
