/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include "base.h"
#include "keeper.h"
#include "shelf.h"

#define MESSAGE_FDS	64
#define STOP_US		20000000	/* that SIGTERM may take */
#define WAIT_US		30000000	/* that a command may take */
#define FAILURES_MAX	30
#define FILL_MAX	(1L << 20)

enum waiting { NOTHING, FOR_STOP, FOR_REST };

struct keeper {
	const struct keeper_options *options;
	int in, out, listener, notify, pidfd;
	struct shelf shelf;
	struct keeper_report report;
	enum waiting waiting;
	int64_t waiting_since;
	bool hold, ended, dying;
	unsigned int failures;			/* starts that came to nothing, in a row */
	int64_t died, pinged, terminated;	/* when; 0: not */
	int64_t deaf_until;
	long lose;				/* this one of the FDSTORE messages to come */
};

static int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void _printf_(2, 3) answer(struct keeper *k, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vdprintf(k->out, format, args);
	va_end(args);
	k->waiting = NOTHING;
}

/* ---- the sockets ---- */

static int bind_at(const char *path, int type)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	_cleanup_(fd_closep) int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	strcpy(sa.sun_path, path);
	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	return TAKE_FD(fd);
}

static int open_sockets(struct keeper *k)
{
	int size = 8 << 20, one = 1;

	k->listener = bind_at(k->options->socket, SOCK_SEQPACKET);
	if (k->listener < 0)
		return k->listener;
	if (chmod(k->options->socket, 0666) < 0 || listen(k->listener, 4096) < 0)
		return -errno;
	k->notify = bind_at(k->options->notify, SOCK_DGRAM | SOCK_NONBLOCK);
	if (k->notify < 0)
		return k->notify;
	setsockopt(k->notify, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (setsockopt(k->notify, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) < 0)
		return -errno;
	return 0;
}

/* ---- starting ---- */

static void set_number(const char *name, long value)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", value);
	setenv(name, text, 1);
}

/* The socket, then what is stored, from descriptor 3 on. */
static void pass_descriptors(const struct keeper *k)
{
	int n = (int)k->shelf.n + 1, *fds = calloc((size_t)n, sizeof(*fds));
	char *stored = shelf_names(&k->shelf), *names;

	if (!fds || !stored || asprintf(&names, "control%s%s", n > 1 ? ":" : "", stored) < 0)
		_exit(125);
	for (int i = 0; i < n; i++) {
		int fd = i ? k->shelf.fds[n - 1 - i].fd : k->listener;

		fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, 3 + n);	/* out of the way */
	}
	for (int i = 0; i < n; i++)
		if (fds[i] < 0 || dup2(fds[i], 3 + i) < 0)
			_exit(125);
	setenv("LISTEN_FDNAMES", names, 1);
	set_number("LISTEN_FDS", n);
	set_number("LISTEN_PID", getpid());
}

static void __attribute__((__noreturn__)) become_mirrord(const struct keeper *k, pid_t parent)
{
	const struct keeper_options *o = k->options;
	const char *argv[32] = { "mirrord" };
	unsigned int n = 1;
	sigset_t none;

	if (o->store_max)
		argv[n++] = "--keep";
	for (unsigned int i = 0; o->args && o->args[i] && n < 31; i++)
		argv[n++] = o->args[i];
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(125);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	pass_descriptors(k);
	setenv("NOTIFY_SOCKET", o->notify, 1);
	if (o->store_max)
		set_number("FDSTORE", o->store_max);
	if (o->watchdog_ms) {
		set_number("WATCHDOG_USEC", (long)o->watchdog_ms * 1000);
		set_number("WATCHDOG_PID", getpid());
	}
	execv(o->daemon, (char *const *)(uintptr_t)argv);
	dprintf(STDERR_FILENO, "keeper: cannot run %s: %s\n", o->daemon, strerror(errno));
	_exit(127);
}

static void start(struct keeper *k)
{
	pid_t self = getpid(), pid = fork();

	if (pid == 0)
		become_mirrord(k, self);
	k->report.pid = pid > 0 ? pid : 0;
	k->pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	k->report.starts++;
	k->report.pings = 0;
	k->pinged = now_us();
}

/* ---- messages of mirrord's ---- */

static bool has_line(const char *text, const char *line)
{
	size_t n = strlen(line);

	for (const char *p = text; p; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (!strncmp(p, line, n) && (p[n] == '\n' || !p[n]))
			return true;
	}
	return false;
}

static void get_value(const char *text, const char *key, char *ret_value, size_t size)
{
	size_t n = strlen(key);

	*ret_value = 0;
	for (const char *p = text; p; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (!strncmp(p, key, n))
			snprintf(ret_value, size, "%.*s", (int)strcspn(p + n, "\n"), p + n);
	}
}

static void on_ready(struct keeper *k)
{
	if (k->dying)
		return;
	k->report.ready = 1;
	k->failures = 0;
	if (!k->died)
		return;
	k->report.away_us = now_us() - k->died;
	k->report.away_max_us = MAX(k->report.away_max_us, k->report.away_us);
	k->died = 0;
}

/* The descriptors of @text that are not kept are closed. */
static void on_message(struct keeper *k, const char *text, int *fds, unsigned int n)
{
	bool put = has_line(text, "FDSTORE=1");
	char name[64];

	get_value(text, "FDNAME=", name, sizeof(name));
	if (put && k->lose > 0 && --k->lose == 0)
		put = false;
	for (unsigned int i = 0; put && i < n; i++)
		shelf_put(&k->shelf, name, TAKE_FD(fds[i]), !has_line(text, "FDPOLL=0"));
	if (has_line(text, "FDSTOREREMOVE=1") && *name)
		shelf_remove(&k->shelf, name);
	if (has_line(text, "READY=1"))
		on_ready(k);
	if (has_line(text, "WATCHDOG=1")) {
		k->pinged = now_us();
		k->report.pings++;
	}
	for (unsigned int i = 0; i < n; i++)
		fd_close(fds[i]);
}

/* false: there is none */
static bool take_message(struct keeper *k)
{
	char text[4096], control[CMSG_SPACE(MESSAGE_FDS * sizeof(int)) +
				 CMSG_SPACE(sizeof(struct ucred))];
	struct iovec iov = { .iov_base = text, .iov_len = sizeof(text) - 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			      .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(k->notify, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	int fds[MESSAGE_FDS];
	unsigned int n_fds = 0;
	pid_t sender = 0;

	if (n < 0)
		return false;
	text[n] = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS)
			sender = ((struct ucred *)(void *)CMSG_DATA(c))->pid;
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n_fds = (unsigned int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), n_fds * sizeof(int));
	}
	if (sender == k->report.pid) {
		on_message(k, text, fds, n_fds);
	} else {
		for (unsigned int i = 0; i < n_fds; i++)
			fd_close(fds[i]);
	}
	return true;
}

/* ---- its end ---- */

static void on_death(struct keeper *k)
{
	int status = 0;

	/* what it said before it died comes first, however deaf we are */
	while (take_message(k))
		;
	if (!k->died)
		k->died = now_us();
	waitpid((pid_t)k->report.pid, &status, 0);
	k->pidfd = fd_close(k->pidfd);
	k->failures += !k->report.ready && !k->dying;
	if (k->failures > FAILURES_MAX)
		k->hold = true;
	k->report.pid = k->report.ready = 0;
	k->report.status = status;
	k->terminated = 0;
	k->dying = false;
	if (k->waiting == FOR_STOP) {
		shelf_remove(&k->shelf, NULL);
		k->died = 0;
		answer(k, "ok %d\n", status);
	} else if (!k->hold) {
		start(k);
	}
}

static void send_signal(struct keeper *k, int sig)
{
	if (sig == SIGKILL || sig == SIGTERM || sig == SIGABRT) {
		k->dying = true;
		k->report.ready = 0;
	}
	kill((pid_t)k->report.pid, sig);
}

static void terminate(struct keeper *k)
{
	send_signal(k, SIGTERM);
	send_signal(k, SIGCONT);
	k->terminated = now_us();
}

static void look_at_clock(struct keeper *k)
{
	int64_t now = now_us();

	if (k->terminated && now > k->terminated + STOP_US) {
		k->report.late++;
		k->terminated = 0;
		send_signal(k, SIGKILL);
	}
	if (k->options->watchdog_ms && k->report.pid && k->report.ready &&
	    now > k->pinged + (int64_t)k->options->watchdog_ms * 1000) {
		k->pinged = now;
		send_signal(k, SIGABRT);
		send_signal(k, SIGCONT);
	}
	if (k->waiting && now > k->waiting_since + WAIT_US)
		answer(k, "error it takes too long\n");
}

/* ---- commands ---- */

static void wait_for(struct keeper *k, enum waiting what)
{
	k->waiting = what;
	k->waiting_since = now_us();
}

static void answer_report(struct keeper *k)
{
	const long *numbers = (const long *)&k->report;
	char text[512];
	size_t n = 0;

	k->report.stored = k->shelf.n;
	k->report.dropped = k->shelf.dropped;
	k->report.twice = k->shelf.twice;
	k->report.refused = k->shelf.refused;
	for (size_t i = 0; i < KEEPER_REPORT_N; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, " %ld", numbers[i]);
	answer(k, "ok%s\n", text);
}

static void command_poke(struct keeper *k, const char *name, long offset, uint32_t value)
{
	int fd = shelf_find(&k->shelf, name);
	ssize_t n = fd < 0 ? -1 : pwrite(fd, &value, sizeof(value), offset);

	answer(k, n == sizeof(value) ? "ok\n" : "error %s\n", strerror(errno));
}

static void command_fill(struct keeper *k, const char *name)
{
	int fd = shelf_find(&k->shelf, name);
	struct stat st = { .st_size = 0 };
	char noise[4096];
	ssize_t n = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		n = -1;
	for (off_t at = 0; n >= 0 && at < MIN(st.st_size, FILL_MAX); at += (off_t)sizeof(noise)) {
		if (getrandom(noise, sizeof(noise), 0) < 0)
			n = -1;
		else
			n = pwrite(fd, noise, MIN(sizeof(noise), (size_t)(st.st_size - at)), at);
	}
	answer(k, n > 0 ? "ok\n" : "error %s\n", strerror(errno));
}

static void command_kill(struct keeper *k, int sig)
{
	if (!k->report.pid) {
		answer(k, "error it does not run\n");
		return;
	}
	send_signal(k, sig);
	answer(k, "ok %ld\n", k->report.pid);
}

static void command_restart(struct keeper *k)
{
	if (!k->report.pid) {
		answer(k, "error it does not run\n");
		return;
	}
	terminate(k);
	wait_for(k, FOR_REST);
}

static void command_stop(struct keeper *k)
{
	wait_for(k, FOR_STOP);
	if (k->report.pid) {
		terminate(k);
		return;
	}
	shelf_remove(&k->shelf, NULL);
	answer(k, "ok %ld\n", k->report.status);
}

static void command_go(struct keeper *k)
{
	k->hold = false;
	if (!k->report.pid)
		start(k);
	answer(k, "ok\n");
}

/* Those with arguments; false: no such thing. */
static bool run_with_arguments(struct keeper *k, const char *line)
{
	char name[64] = "";
	long number, offset;

	if (sscanf(line, "kill %ld", &number) == 1) {
		command_kill(k, (int)number);
	} else if (sscanf(line, "drop %63s", name) == 1 || !strcmp(line, "drop")) {
		answer(k, "ok %u\n", shelf_remove(&k->shelf, *name ? name : NULL));
	} else if (sscanf(line, "lose %ld", &k->lose) == 1) {
		answer(k, "ok\n");
	} else if (sscanf(line, "slow %ld", &number) == 1) {
		k->deaf_until = now_us() + number * 1000;
		answer(k, "ok\n");
	} else if (sscanf(line, "poke %63s %ld %ld", name, &offset, &number) == 3) {
		command_poke(k, name, offset, (uint32_t)number);
	} else if (sscanf(line, "fill %63s", name) == 1) {
		command_fill(k, name);
	} else {
		return false;
	}
	return true;
}

static void command_names(struct keeper *k)
{
	_cleanup_(freep) char *names = shelf_names(&k->shelf);

	answer(k, "ok %s\n", names);
}

static void run_command(struct keeper *k, const char *line)
{
	if (!strcmp(line, "restart")) {
		command_restart(k);
	} else if (!strcmp(line, "stop")) {
		command_stop(k);
	} else if (!strcmp(line, "start") || !strcmp(line, "go")) {
		command_go(k);
	} else if (!strcmp(line, "hold")) {
		k->hold = true;
		answer(k, "ok\n");
	} else if (!strcmp(line, "wait")) {
		wait_for(k, FOR_REST);
	} else if (!strcmp(line, "report")) {
		answer_report(k);
	} else if (!strcmp(line, "names")) {
		command_names(k);
	} else if (!run_with_arguments(k, line)) {
		answer(k, "error what is '%s'\n", line);
	}
}

/* One line, of those that were written whole; the next one waits for the answer. */
static void take_command(struct keeper *k)
{
	char line[256];
	size_t n = 0;

	while (n < sizeof(line) - 1 && read(k->in, line + n, 1) == 1 && line[n] != '\n')
		n++;
	if (n == 0) {
		k->ended = true;
		return;
	}
	line[n] = 0;
	run_command(k, line);
}

static void check_waiting(struct keeper *k)
{
	if (k->waiting == FOR_REST && (k->report.pid ? k->report.ready : k->hold))
		answer(k, "ok %ld\n", k->report.status);
}

static void turn(struct keeper *k)
{
	bool deaf = now_us() < k->deaf_until;
	struct pollfd pfds[3] = {
		{ .fd = k->notify, .events = deaf ? 0 : POLLIN },
		{ .fd = k->pidfd, .events = POLLIN },
		{ .fd = k->waiting ? -1 : k->in, .events = POLLIN },
	};

	poll(pfds, 3, 20);
	/* as systemd: what mirrord says, then that it died, then all else */
	if (pfds[0].revents & POLLIN)
		take_message(k);
	else if (pfds[1].revents & POLLIN)
		on_death(k);
	else if (pfds[2].revents)
		take_command(k);
	shelf_watch(&k->shelf);
	look_at_clock(k);
	check_waiting(k);
}

int keeper_run(const struct keeper_options *options, int in, int out)
{
	static struct keeper k;
	int r;

	k = (struct keeper) { .options = options, .in = in, .out = out, .listener = -1,
			      .notify = -1, .pidfd = -1 };
	k.shelf.max = options->store_max;
	signal(SIGPIPE, SIG_IGN);
	r = open_sockets(&k);
	if (r < 0)
		dprintf(STDERR_FILENO, "keeper: %s: %s\n", options->socket, strerror(-r));
	else
		start(&k);
	while (r == 0 && !k.ended)
		turn(&k);
	if (k.report.pid) {
		kill((pid_t)k.report.pid, SIGKILL);
		waitpid((pid_t)k.report.pid, NULL, 0);
	}
	shelf_remove(&k.shelf, NULL);
	unlink(options->socket);
	unlink(options->notify);
	return r < 0;
}
