/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include "client.h"
#include "config.h"
#include "manager.h"
#include "sys/log.h"
#include "sys/service.h"

#define DEFAULT_SOCKET "/run/mirror/control"

struct daemon {
	struct manager manager;
	struct loop_op signals;
	sigset_t old_mask;
	const char *socket;	/* NULL: none of our own */
	bool made_socket;
	int signal_fd;
	int client_fd;		/* --client-fd, or -1 */
	struct manager_options options;
	uint32_t limit[_QUOTA_N];
};

static void usage(FILE *f)
{
	fputs("Usage: mirrord [OPTION]...\n"
	      "Tells consumers of every change of the address spaces they mirror.\n"
	      "\n"
	      "      --socket PATH         listen there (default " DEFAULT_SOCKET ")\n"
	      "      --embedded            private daemon of one program; no default socket\n"
	      "      --client-fd N         serve the client connected to descriptor N\n"
	      "      --exit-idle           end when the last client is gone\n"
	      "      --no-peek             do not look at targets' threads: no causes, and\n"
	      "                            CLEAR is only POINT\n"
	      "      --no-follow-cpu       leave it to the scheduler where to run, and sleep\n"
	      "                            as soon as there is nothing to do\n"
	      "      --uffd-mode MODE      auto, wp-async or wp\n"
	      "      --max-targets N       limits for each user\n"
	      "      --max-notifiers N\n"
	      "      --max-channels N\n"
	      "      --max-tables N\n"
	      "      --max-table-nodes N   of 4 KiB\n"
	      "  -v, --verbose             say more\n"
	      "      --version             print the version and end\n"
	      "  -h, --help                print this and end\n", f);
}

enum {
	OPT_SOCKET = 256, OPT_EMBEDDED, OPT_CLIENT_FD, OPT_EXIT_IDLE, OPT_NO_PEEK,
	OPT_NO_FOLLOW_CPU, OPT_UFFD_MODE, OPT_MAX_TARGETS, OPT_MAX_NOTIFIERS,
	OPT_MAX_CHANNELS, OPT_MAX_TABLES, OPT_MAX_TABLE_NODES, OPT_VERSION,
};

static const struct option options[] = {
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "embedded", no_argument, NULL, OPT_EMBEDDED },
	{ "client-fd", required_argument, NULL, OPT_CLIENT_FD },
	{ "exit-idle", no_argument, NULL, OPT_EXIT_IDLE },
	{ "no-peek", no_argument, NULL, OPT_NO_PEEK },
	{ "no-follow-cpu", no_argument, NULL, OPT_NO_FOLLOW_CPU },
	{ "uffd-mode", required_argument, NULL, OPT_UFFD_MODE },
	{ "max-targets", required_argument, NULL, OPT_MAX_TARGETS },
	{ "max-notifiers", required_argument, NULL, OPT_MAX_NOTIFIERS },
	{ "max-channels", required_argument, NULL, OPT_MAX_CHANNELS },
	{ "max-tables", required_argument, NULL, OPT_MAX_TABLES },
	{ "max-table-nodes", required_argument, NULL, OPT_MAX_TABLE_NODES },
	{ "verbose", no_argument, NULL, 'v' },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static int parse_number(const char *text, uint32_t *ret_number)
{
	unsigned long v;
	char *end;

	errno = 0;
	v = strtoul(text, &end, 10);
	if (errno || end == text || *end || v > INT32_MAX) {
		fprintf(stderr, "mirrord: '%s' is not a number\n", text);
		return -EINVAL;
	}
	*ret_number = (uint32_t)v;
	return 0;
}

static int parse_mode(const char *text, enum uffd_mode *ret_mode)
{
	static const char *const names[] = {
		[UFFD_MODE_AUTO] = "auto", [UFFD_MODE_WP_ASYNC] = "wp-async",
		[UFFD_MODE_WP] = "wp",
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(names); i++) {
		if (!strcmp(text, names[i])) {
			*ret_mode = (enum uffd_mode)i;
			return 0;
		}
	}
	fprintf(stderr, "mirrord: --uffd-mode is auto, wp-async or wp, not '%s'\n", text);
	return -EINVAL;
}

/* 1: go on, 0: done, negative: wrong */
static int parse_option(struct daemon *d, int opt)
{
	uint32_t number;
	int r;

	switch (opt) {
	case OPT_SOCKET:
		d->socket = optarg;
		return 1;
	case OPT_EMBEDDED:
		d->options.embedded = d->options.exit_idle = true;
		return 1;
	case OPT_CLIENT_FD:
		r = parse_number(optarg, &number);
		d->client_fd = r < 0 ? -1 : (int)number;
		return r < 0 ? r : 1;
	case OPT_EXIT_IDLE:
		d->options.exit_idle = true;
		return 1;
	case OPT_NO_PEEK:
		d->options.peek = false;
		return 1;
	case OPT_NO_FOLLOW_CPU:
		d->options.follow_cpu = false;
		return 1;
	case OPT_UFFD_MODE:
		r = parse_mode(optarg, &d->options.uffd_mode);
		return r < 0 ? r : 1;
	case OPT_MAX_TARGETS:
		r = parse_number(optarg, &d->limit[QUOTA_TARGETS]);
		return r < 0 ? r : 1;
	case OPT_MAX_NOTIFIERS:
		r = parse_number(optarg, &d->limit[QUOTA_NOTIFIERS]);
		return r < 0 ? r : 1;
	case OPT_MAX_CHANNELS:
		r = parse_number(optarg, &d->limit[QUOTA_CHANNELS]);
		return r < 0 ? r : 1;
	case OPT_MAX_TABLES:
		r = parse_number(optarg, &d->limit[QUOTA_TABLES]);
		return r < 0 ? r : 1;
	case OPT_MAX_TABLE_NODES:
		r = parse_number(optarg, &d->limit[QUOTA_TABLE_NODES]);
		return r < 0 ? r : 1;
	case 'v':
		log_level = LOG_VERBOSE;
		return 1;
	case OPT_VERSION:
		puts("mirrord " MIRROR_VERSION);
		return 0;
	case 'h':
		usage(stdout);
		return 0;
	}
	fputs("Try 'mirrord --help'.\n", stderr);
	return -EINVAL;
}

static int parse_args(struct daemon *d, int argc, char **argv)
{
	int opt, r;

	while ((opt = getopt_long(argc, argv, "vh", options, NULL)) >= 0) {
		r = parse_option(d, opt);
		if (r <= 0)
			return r;
	}
	if (optind < argc) {
		fprintf(stderr, "mirrord: unexpected '%s'\nTry 'mirrord --help'.\n",
			argv[optind]);
		return -EINVAL;
	}
	if (!d->socket && !d->options.embedded)
		d->socket = DEFAULT_SOCKET;
	return 1;
}

static void on_signal(struct loop_op *op, int res)
{
	struct daemon *d = container_of(op, struct daemon, signals);
	struct signalfd_siginfo si;

	if (res < 0)
		return;
	while (read(d->signal_fd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo == SIGCHLD)
			zaps_reap(d->manager.zaps);
		else if (si.ssi_signo != SIGPIPE)
			loop_exit(d->manager.loop);
	}
}

static int setup_signals(struct daemon *d)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);	/* threads we trace stop */
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGPIPE);
	if (sigprocmask(SIG_BLOCK, &mask, &d->old_mask) < 0)
		return -errno;
	d->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (d->signal_fd < 0)
		return -errno;
	return loop_poll(d->manager.loop, &d->signals, d->signal_fd, POLLIN, on_signal);
}

/* As many descriptors as we may have: each target and each client needs some. */
static void raise_nofile(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
}

static int listen_somewhere(struct daemon *d)
{
	int fd, r;

	r = service_listen_fd(&fd);
	if (r == -ENOENT && d->socket) {
		if (!strcmp(d->socket, DEFAULT_SOCKET))
			mkdir("/run/mirror", 0755);
		/* Who may observe what is decided for each request, by the peer's user. */
		r = control_listen(d->socket, d->options.embedded ? 0600 : 0666, &fd);
		if (r < 0) {
			log_error("cannot listen at %s: %s", d->socket,
				  r == -EADDRINUSE ? "another mirrord does" : strerror(-r));
			return r;
		}
		d->made_socket = true;
	} else if (r < 0) {
		return d->client_fd >= 0 ? 0 : r;
	}
	r = manager_listen(&d->manager, fd);
	if (r < 0)
		fd_close(fd);
	return r;
}

static int serve_first_client(struct daemon *d)
{
	struct client *c;
	int r;

	if (d->client_fd < 0)
		return 0;
	fcntl(d->client_fd, F_SETFD, FD_CLOEXEC);
	r = client_new(&c, &d->manager, d->client_fd);
	if (r == 0)
		d->client_fd = -1;
	return r;
}

static int run(struct daemon *d)
{
	int r;

	r = manager_init(&d->manager, &d->options);
	if (r < 0)
		return r;
	for (int i = 0; i < _QUOTA_N; i++)
		if (d->limit[i])
			d->manager.quota.limit[i] = d->limit[i];
	r = setup_signals(d);
	if (r == 0)
		r = listen_somewhere(d);
	if (r == 0)
		r = serve_first_client(d);
	if (r == 0) {
		service_ready("serving");
		log_debug("ready");
		r = loop_run(d->manager.loop);
		service_stopping();
	}
	return r;
}

int main(int argc, char **argv)
{
	static struct daemon d = {
		.signals = LOOP_OP_NULL, .signal_fd = -1, .client_fd = -1,
		.options = { .peek = true, .follow_cpu = true },
	};
	int r;

	r = parse_args(&d, argc, argv);
	if (r <= 0)
		return r < 0 ? 2 : 0;
	raise_nofile();
	prctl(PR_SET_TIMERSLACK, 1);	/* the few waits there are, are short */
	r = run(&d);
	loop_stop(&d.signals);
	if (d.manager.loop)
		manager_deinit(&d.manager);
	fd_close(d.signal_fd);
	if (d.made_socket)
		unlink(d.socket);
	if (r < 0) {
		log_error("mirrord ends: %s", strerror(-r));
		/* A client that already waits is told why. */
		if (d.client_fd >= 0)
			conn_refuse(d.client_fd, -r);
		return 1;
	}
	return 0;
}
