/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include "adopt.h"
#include "client-device.h"
#include "client.h"
#include "manager.h"
#include "prepare.h"
#include "settings.h"
#include "sys/log.h"
#include "sys/service.h"
#include "sys/store.h"

#define STATUS_NS 3000000000ULL
#define SETTLED_NS 100000000ULL

struct daemon {
	struct manager manager;
	struct loop_op signals, status, settled;
	sigset_t old_mask;
	bool made_socket;
	bool serves;
	int signal_fd;
	struct settings given;		/* on the command line */
	struct settings settings;	/* and in the file, at the start */
	struct inherited inherited;
};

/* Limits and how much is said; all else is as it was at the start. */
static int apply_settings(struct daemon *d, const struct settings *s)
{
	int r = quota_set_limits(&d->manager.quota, s->limit, s->rules, s->n_rules);

	if (r == 0)
		log_level = s->verbose ? LOG_VERBOSE : LOG_NORMAL;
	return r;
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static bool needs_restart(const struct manager_options *a, const struct manager_options *b)
{
	return a->peek != b->peek || a->follow_cpu != b->follow_cpu ||
	       a->uffd_mode != b->uffd_mode || !same_text(a->cuse, b->cuse) ||
	       !same_text(a->fuse, b->fuse);
}

static void reload(struct daemon *d)
{
	struct settings s;
	char error[512];
	int r;

	service_reloading();
	r = settings_load(&s, &d->given, error, sizeof(error));
	if (r < 0) {
		log_error("%s", error);
	} else {
		r = apply_settings(d, &s);
		if (r == 0 && needs_restart(&d->settings.options, &s.options))
			log_error("of what is new, only limits and verbose count before a restart");
		settings_deinit(&s);
	}
	if (r < 0)
		log_error("the settings stay as they were");
	else
		log_info("the settings were read again");
	service_ready();
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
		else if (si.ssi_signo == SIGHUP)
			reload(d);
		else if (si.ssi_signo != SIGPIPE)
			loop_exit(d->manager.loop);
	}
}

static int setup_signals(struct daemon *d)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);	/* threads we trace stop */
	sigaddset(&mask, SIGHUP);
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

/*
 * Where the scheduler has a group for each session (autogroup), our priority counts only
 * among ourselves, until our group has it too.  Needs RLIMIT_NICE.
 */
static void raise_group(void)
{
	int n = getpriority(PRIO_PROCESS, 0), fd;

	if (n >= 0 || getsid(0) != getpid())
		return;
	fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (dprintf(fd, "%d", n) < 0)
		log_debug("the group's priority stays as it is: %s", strerror(errno));
	close(fd);
}

static int listen_somewhere(struct daemon *d)
{
	int fd = inherited_take_listener(&d->inherited), r;
	const struct settings *s = &d->settings;

	if (fd < 0 && s->socket) {
		if (!strcmp(s->socket, SETTINGS_SOCKET))
			mkdir("/run/mirror", 0755);
		/* Who may observe what is decided for each request, by the peer's user. */
		r = control_listen(s->socket, s->options.embedded ? 0600 : 0666, &fd);
		if (r < 0) {
			log_error("cannot listen at %s: %s", s->socket,
				  r == -EADDRINUSE ? "another mirrord does" : strerror(-r));
			return r;
		}
		d->made_socket = true;
	} else if (fd < 0) {
		return s->client_fd >= 0 ? 0 : -ENOENT;
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

	if (d->settings.client_fd < 0)
		return 0;
	fcntl(d->settings.client_fd, F_SETFD, FD_CLOEXEC);
	r = client_new(&c, &d->manager, d->settings.client_fd);
	if (r == 0)
		d->settings.client_fd = -1;
	return r;
}

/* Without it all works, until a restart. */
static void find_store(struct daemon *d)
{
	int r;

	if (!d->settings.keep && service_has_store())
		d->settings.keep = SETTINGS_KEEP;
	if (!d->settings.keep)
		return;
	r = store_new(&d->manager.store, d->manager.loop);
	if (r < 0)
		log_error("a restart will not go on where this mirrord ends: %s",
			  r == -ENOENT ? "no service manager" : strerror(-r));
	store_limit(d->manager.store, d->settings.keep);
	for (unsigned int n = 0; n < d->inherited.n; n++)
		store_note(d->manager.store, d->inherited.fds[n].name);
}

/* Those who were served first, then who may come. */
static int begin_or_go_on(struct daemon *d)
{
	int r;

	find_store(d);
	r = adopt(&d->manager, &d->inherited);
	if (r == 0)
		r = client_device_start(&d->manager, &d->inherited);
	if (r == 0)
		r = listen_somewhere(d);
	if (r == 0)
		r = serve_first_client(d);
	if (r == 0)
		r = service_watchdog_start(d->manager.loop);
	return r;
}

static void say_status(struct loop_op *op, int res _unused_)
{
	struct daemon *d = container_of(op, struct daemon, status);
	struct manager *m = &d->manager;

	service_status("%u target%s, %u client%s, %llu change%s told", m->n_targets,
		       m->n_targets == 1 ? "" : "s", m->n_clients, m->n_clients == 1 ? "" : "s",
		       (unsigned long long)m->events, m->events == 1 ? "" : "s");
	if (loop_timeout(m->loop, op, STATUS_NS, say_status) < 0)
		log_debug("no memory to tell the status");
}

static void on_settled(struct loop_op *op, int res _unused_)
{
	struct daemon *d = container_of(op, struct daemon, settled);

	adopt_done(&d->manager);
}

static int run(struct daemon *d)
{
	int r;

	r = manager_init(&d->manager, &d->settings.options);
	if (r == 0)
		r = apply_settings(d, &d->settings);
	if (r == 0)
		r = setup_signals(d);
	if (r == 0)
		r = service_inherit(&d->inherited);
	if (r == 0)
		r = begin_or_go_on(d);
	if (r == 0)
		r = loop_timeout(d->manager.loop, &d->settled, SETTLED_NS, on_settled);
	if (r < 0)
		return r;
	inherited_clear(&d->inherited);
	d->serves = true;
	service_ready();
	log_debug("ready");
	if (service_is_managed())
		say_status(&d->status, 0);
	r = loop_run(d->manager.loop);
	service_stopping();
	adopt_prepare(&d->manager);
	return r;
}

static void fini(struct daemon *d)
{
	loop_stop(&d->signals);
	loop_stop(&d->status);
	loop_stop(&d->settled);
	service_watchdog_stop();
	/* if all is kept, the next one needs everything as it is, and nobody is told of an end */
	if (d->manager.store)
		d->manager.store = store_free(d->manager.store);
	else if (d->manager.loop)
		manager_deinit(&d->manager);
	fd_close(d->signal_fd);
	if (d->made_socket)
		unlink(d->settings.socket);
}

/* 1: go on, 0: done, negative: wrong */
static int get_settings(struct daemon *d, int argc, char **argv)
{
	char error[512];
	int r;

	settings_init(&d->given);
	r = settings_parse_args(&d->given, argc, argv);
	if (r <= 0)
		return r;
	r = settings_load(&d->settings, &d->given, error, sizeof(error));
	if (r < 0)
		log_error("%s", error);
	return r < 0 ? r : 1;
}

int main(int argc, char **argv)
{
	static struct daemon d = {
		.signals = LOOP_OP_NULL, .status = LOOP_OP_NULL, .settled = LOOP_OP_NULL,
		.signal_fd = -1,
		.inherited = INHERITED_NULL,
	};
	int r;

	log_init();
	r = get_settings(&d, argc, argv);
	if (r <= 0)
		return r < 0 ? 2 : 0;
	if (d.settings.prepare_device) {
		r = prepare_device(&d.settings);
		settings_deinit(&d.settings);
		return r < 0 ? 1 : 0;
	}
	raise_nofile();
	raise_group();
	prctl(PR_SET_TIMERSLACK, 1);	/* the few waits there are, are short */
	r = run(&d);
	fini(&d);
	if (r < 0) {
		log_error("mirrord ends: %s", strerror(-r));
		/* A client that already waits is told why. */
		if (d.settings.client_fd >= 0)
			conn_refuse(NULL, d.settings.client_fd, -r);
	}
	settings_deinit(&d.settings);
	/* 2: it would not start the next time either */
	return r >= 0 ? 0 : d.serves ? 1 : 2;
}
