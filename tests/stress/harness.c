/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "harness.h"

#define CHILDREN_MAX	1024
#define DIRS_MAX	8
#define READY_MS	20000
#define STOP_MS		20000

static enum { QUICK, SOME, FULL } size;
static unsigned int n_tests, n_failed;
static uint64_t seed;
static pid_t children[CHILDREN_MAX];
static char base_dir[40];
static pid_t main_pid;

/* ---- ends ---- */

/*
 * The test is a child of a guardian that does nothing but wait.  A test that is a
 * target itself can come to sleep where no signal reaches it but SIGKILL.
 */
static volatile pid_t guarded;
static volatile sig_atomic_t late;

static void on_alarm(int sig)
{
	(void)sig;
	late = 1;
	kill(guarded, SIGKILL);
}

static void on_end(int sig)
{
	(void)sig;
	kill(guarded, SIGKILL);
}

static void remove_dirs(void)
{
	static const char *const names[] = { "control", "notify" };
	char path[64];

	for (unsigned int i = 0; i < DIRS_MAX; i++) {
		for (unsigned int k = 0; k < 2; k++) {
			snprintf(path, sizeof(path), "%s/%u/%s", base_dir, i, names[k]);
			unlink(path);
		}
		snprintf(path, sizeof(path), "%s/%u", base_dir, i);
		rmdir(path);
	}
	rmdir(base_dir);
}

static void __attribute__((__noreturn__)) guard(unsigned int seconds)
{
	struct sigaction action = { .sa_handler = on_alarm };
	int status = 0;

	sigaction(SIGALRM, &action, NULL);
	action.sa_handler = on_end;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	alarm(seconds);
	while (waitpid(guarded, &status, 0) < 0 && errno == EINTR)
		;
	remove_dirs();
	if (late)
		printf("Bail out! The watchdog: something hangs\n");
	else if (WIFSIGNALED(status))
		printf("Bail out! The test was ended by signal %d\n", WTERMSIG(status));
	fflush(stdout);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 2);
}

static void kill_children(void)
{
	if (getpid() != main_pid)
		return;
	for (unsigned int i = 0; i < CHILDREN_MAX; i++)
		if (children[i])
			child_kill(children[i]);
}

static void become_guarded(unsigned int seconds)
{
	strcpy(base_dir, "/tmp/mirror-test-XXXXXX");
	if (!mkdtemp(base_dir) || chmod(base_dir, 0755) < 0)
		bail("cannot make a directory in /tmp: %s", strerror(errno));
	guarded = fork();
	if (guarded < 0)
		bail("cannot fork: %s", strerror(errno));
	if (guarded)
		guard(seconds);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	main_pid = getpid();
	atexit(kill_children);
}

void test_begin(int argc, char **argv, unsigned int quick_seconds, unsigned int full_seconds)
{
	const char *text = getenv("MIRROR_SEED");
	struct rlimit none = { 0, 0 };
	struct timespec ts;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--some")) {
			size = SOME;
		} else if (!strcmp(argv[i], "--full")) {
			size = FULL;
		} else {
			fprintf(stderr, "usage: %s [--some|--full]\n", argv[0]);
			exit(2);
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	clock_gettime(CLOCK_REALTIME, &ts);
	seed = text ? strtoull(text, NULL, 0) : (uint64_t)ts.tv_nsec * 2654435761U + 1;
	note("MIRROR_SEED=%llu", (unsigned long long)seed);
	seed |= 1;
	setrlimit(RLIMIT_CORE, &none);
	signal(SIGPIPE, SIG_IGN);
	become_guarded(size == FULL ? full_seconds : quick_seconds);
}

unsigned long test_size(unsigned long quick, unsigned long some, unsigned long full)
{
	return size == QUICK ? quick : size == SOME ? some : full;
}

int test_end(void)
{
	printf("1..%u\n", n_tests);
	if (n_failed)
		note("%u of %u failed", n_failed, n_tests);
	return n_failed ? 1 : 0;
}

/* ---- results ---- */

static __attribute__((__format__(__printf__, 2, 0)))
void print_result(bool good, const char *format, va_list args)
{
	printf("%s %u - ", good ? "ok" : "not ok", ++n_tests);
	vprintf(format, args);
	putchar('\n');
	n_failed += !good;
}

bool ok(bool good, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_result(good, format, args);
	va_end(args);
	return good;
}

bool same(long long got, long long wanted, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	print_result(got == wanted, format, args);
	va_end(args);
	if (got != wanted)
		note("wanted %lld, got %lld", wanted, got);
	return got == wanted;
}

void skip(const char *reason, const char *what)
{
	printf("ok %u - %s # SKIP %s\n", ++n_tests, what, reason);
}

void note(const char *format, ...)
{
	va_list args;

	printf("# ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

void bail(const char *format, ...)
{
	va_list args;

	printf("Bail out! ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	exit(2);
}

/* ---- chance and time ---- */

uint64_t rnd(uint64_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return below ? seed % below : 0;
}

uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void nap_ms(unsigned int ms)
{
	poll(NULL, 0, (int)ms);
}

/* ---- children ---- */

static void remember(pid_t pid)
{
	for (unsigned int i = 0; i < CHILDREN_MAX; i++) {
		if (!children[i]) {
			children[i] = pid;
			return;
		}
	}
	bail("too many children");
}

static void forget(pid_t pid)
{
	for (unsigned int i = 0; i < CHILDREN_MAX; i++)
		if (children[i] == pid)
			children[i] = 0;
}

pid_t child_fork(void)
{
	sigset_t all, old;
	pid_t pid;

	/* so that no signal finds a child that is not remembered yet */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		bail("cannot fork: %s", strerror(errno));
	if (pid) {
		remember(pid);
		sigprocmask(SIG_SETMASK, &old, NULL);
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != main_pid)
		_exit(1);
	memset(children, 0, sizeof(children));
	sigprocmask(SIG_SETMASK, &old, NULL);
	return 0;
}

static void note_file(pid_t pid, const char *tid, const char *name)
{
	char path[96], text[256] = "";
	ssize_t n = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%.16s/%s", (int)pid, tid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	text[strcspn(text, "\n")] = 0;
	if (n > 0)
		note("  %d %s %s: %s", (int)pid, tid, name, text);
}

/* Where it hangs, for whoever reads the log. */
static void note_threads(pid_t pid)
{
	struct dirent *de;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	while (dir && (de = readdir(dir))) {
		if (de->d_name[0] == '.')
			continue;
		note_file(pid, de->d_name, "comm");
		note_file(pid, de->d_name, "wchan");
		note_file(pid, de->d_name, "syscall");
	}
	if (dir)
		closedir(dir);
}

int child_wait(pid_t pid, unsigned int ms)
{
	struct pollfd pfd = { .events = POLLIN };
	uint64_t end = now_ms() + ms, now;
	int status = 0, r;

	pfd.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pfd.fd < 0)
		bail("pidfd_open %d: %s", (int)pid, strerror(errno));
	do {
		now = now_ms();
		r = poll(&pfd, 1, now < end ? (int)(end - now) : 0);
	} while (r < 0 && errno == EINTR);
	close(pfd.fd);
	if (r <= 0) {
		note_threads(pid);
		child_kill(pid);
		return -ETIMEDOUT;
	}
	waitpid(pid, &status, 0);
	forget(pid);
	return status;
}

void child_kill(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	forget(pid);
}

/* ---- the daemon ---- */

void daemon_init(struct daemon *d)
{
	static unsigned int n;

	*d = (struct daemon) { .pid = 0 };
	snprintf(d->dir, sizeof(d->dir), "%.30s/%u", base_dir, n);
	if (n++ == DIRS_MAX || mkdir(d->dir, 0755) < 0)
		bail("cannot make %s: %s", d->dir, strerror(errno));
	snprintf(d->socket, sizeof(d->socket), "%s/control", d->dir);
}

static int notify_socket(const struct daemon *d, char *path, size_t n)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd;

	snprintf(path, n, "%s/notify", d->dir);
	unlink(path);
	strcpy(sa.sun_path, path);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		bail("cannot make %s: %s", path, strerror(errno));
	return fd;
}

static void daemon_exec(const struct daemon *d, const char *notify, const char *const *args)
{
	const char *path = getenv("MIRROR_DAEMON"), *argv[24];
	struct rlimit lim = { d->nofile, d->nofile };
	unsigned int n = 0;

	argv[n++] = "mirrord";
	argv[n++] = "--socket";
	argv[n++] = d->socket;
	for (; args && *args && n < 23; args++)
		argv[n++] = *args;
	argv[n] = NULL;
	setenv("NOTIFY_SOCKET", notify, 1);
	if (d->nofile && setrlimit(RLIMIT_NOFILE, &lim) < 0)
		_exit(126);
	execv(path, (char *const *)(uintptr_t)argv);
	_exit(127);
}

void daemon_start(struct daemon *d, const char *const *args)
{
	char path[64], text[256] = "";
	struct pollfd pfds[2] = { { .events = POLLIN }, { .events = POLLIN } };
	ssize_t n = 0;

	if (!getenv("MIRROR_DAEMON"))
		bail("MIRROR_DAEMON must name the daemon to test");
	pfds[0].fd = notify_socket(d, path, sizeof(path));
	d->pid = child_fork();
	if (!d->pid)
		daemon_exec(d, path, args);
	pfds[1].fd = (int)syscall(SYS_pidfd_open, d->pid, 0);
	if (poll(pfds, 2, READY_MS) > 0 && (pfds[0].revents & POLLIN))
		n = recv(pfds[0].fd, text, sizeof(text) - 1, 0);
	close(pfds[0].fd);
	close(pfds[1].fd);
	unlink(path);
	if (n <= 0 || !strstr(text, "READY=1"))
		bail("the daemon %s does not start", getenv("MIRROR_DAEMON"));
}

int daemon_stop(struct daemon *d)
{
	pid_t pid = d->pid;

	d->pid = 0;
	kill(pid, SIGTERM);
	return child_wait(pid, STOP_MS);
}

void daemon_kill(struct daemon *d)
{
	child_kill(d->pid);
	d->pid = 0;
}

bool daemon_is_alive(const struct daemon *d)
{
	siginfo_t si = { .si_pid = 0 };

	return waitid(P_PID, (id_t)d->pid, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && !si.si_pid;
}
