/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include "loop/loop.h"
#include "shm.h"
#include "sys/log.h"
#include "sys/notify.h"
#include "sys/service.h"

#define SAY_MS 1000	/* how long what must be said may take: targets wait for us */

/*
 * The watchdog is fed in two steps, a timer that makes an event and the event that
 * feeds it: so it is fed only if the loop does both kinds of its work.
 */
static struct {
	int fd;			/* to the manager, -1 if there is none */
	bool opened;
	char status[256];
	struct loop_op tick, answer;
	struct loop *loop;
	int event_fd;
	uint64_t watchdog_ns;
} service = { .fd = -1, .event_fd = -1, .tick = LOOP_OP_NULL, .answer = LOOP_OP_NULL };

static int manager_fd(void)
{
	if (!service.opened) {
		service.opened = true;
		service.fd = notify_open();
		if (service.fd < 0 && service.fd != -ENOENT)
			log_error("the service manager cannot be told anything: %s",
				  strerror(-service.fd));
	}
	return service.fd;
}

static void say(const char *text)
{
	int r;

	if (manager_fd() < 0)
		return;
	r = notify_send_wait(service.fd, text, -1, SAY_MS);
	if (r < 0)
		log_error("the service manager was not told %.*s: %s", (int)strcspn(text, "\n"),
			  text, strerror(-r));
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct inherited_fd *)a)->name,
		      ((const struct inherited_fd *)b)->name);
}

/* How many, with names where these are right. */
static int listen_fds(char ***ret_names)
{
	int n = sd_listen_fds_with_names(0, ret_names);

	if (n < 0) {
		log_error("$LISTEN_FDNAMES is wrong, so descriptors have no names: %s",
			  strerror(-n));
		*ret_names = NULL;
		n = sd_listen_fds(0);
	}
	if (n < 0)
		log_error("$LISTEN_FDS is wrong, so no descriptor is inherited: %s",
			  strerror(-n));
	/* not for our children */
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return n;
}

int service_inherit(struct inherited *ret_inherited)
{
	struct inherited in = INHERITED_NULL;
	char **names = NULL;
	int n;

	n = listen_fds(&names);
	if (n > 0) {
		in.fds = calloc((size_t)n, sizeof(*in.fds));
		if (!in.fds)
			n = -ENOMEM;
	}
	for (int i = 0; i < n; i++) {
		struct inherited_fd *f = &in.fds[i];

		f->fd = SD_LISTEN_FDS_START + i;
		/* Names of ours are short.  What is cut off could be one of these. */
		if (names && strlen(names[i]) < sizeof(f->name))
			strcpy(f->name, names[i]);
	}
	for (char **name = names; name && *name; name++)
		free(*name);
	free(names);
	if (n == -ENOMEM)
		return n;
	in.n = n > 0 ? (unsigned int)n : 0;
	if (in.n)
		qsort(in.fds, in.n, sizeof(*in.fds), by_name);
	*ret_inherited = in;
	return 0;
}

int inherited_take(struct inherited *in, const char *name)
{
	unsigned int from = 0, to = in->n;

	while (from < to) {
		unsigned int mid = from + (to - from) / 2;

		if (strcmp(in->fds[mid].name, name) < 0)
			from = mid + 1;
		else
			to = mid;
	}
	for (; from < in->n && !strcmp(in->fds[from].name, name); from++)
		if (in->fds[from].fd >= 0)
			return TAKE_FD(in->fds[from].fd);
	return -1;
}

int inherited_take_listener(struct inherited *in)
{
	for (unsigned int i = 0; i < in->n; i++) {
		int fd = in->fds[i].fd, flags;

		if (fd < 0 || sd_is_socket(fd, AF_UNIX, SOCK_SEQPACKET, 1) <= 0)
			continue;
		/* The manager hands it over blocking; we must never wait in accept(). */
		flags = fcntl(fd, F_GETFL);
		if (flags >= 0)
			fcntl(fd, F_SETFL, flags | O_NONBLOCK);
		return TAKE_FD(in->fds[i].fd);
	}
	return -1;
}

void inherited_clear(struct inherited *in)
{
	for (unsigned int i = 0; i < in->n; i++)
		fd_close(in->fds[i].fd);
	free(in->fds);
	*in = (struct inherited) INHERITED_NULL;
}

bool service_is_managed(void)
{
	return manager_fd() >= 0;
}

bool service_has_store(void)
{
	const char *n = getenv("FDSTORE");	/* systemd 254 and later */

	return n && strtoul(n, NULL, 10) > 0;
}

void service_status(const char *format, ...)
{
	char text[sizeof(service.status)] = "STATUS=";
	size_t n = strlen(text);
	va_list args;

	va_start(args, format);
	vsnprintf(text + n, sizeof(text) - n, format, args);
	va_end(args);
	if (manager_fd() < 0 || !strcmp(text, service.status))
		return;
	/* A manager that is busy is told the next time. */
	if (notify_send(service.fd, text, -1) == 0)
		strcpy(service.status, text);
}

void service_ready(void)
{
	say("READY=1");
}

void service_reloading(void)
{
	char text[64];

	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu",
		 (unsigned long long)(now_ns() / 1000));
	say(text);
}

void service_stopping(void)
{
	say("STOPPING=1");
}

static void watchdog_tick(struct loop_op *op, int res);

static void watchdog_answer(struct loop_op *op, int res)
{
	uint64_t n;

	if (res >= 0 && read(op->fd, &n, sizeof(n)) == sizeof(n))
		notify_send(service.fd, "WATCHDOG=1", -1);
}

static void watchdog_tick(struct loop_op *op, int res _unused_)
{
	eventfd_write(service.event_fd, 1);
	if (loop_timeout(service.loop, op, service.watchdog_ns, watchdog_tick) < 0)
		log_error("no memory for the watchdog's timer");
}

int service_watchdog_start(struct loop *loop)
{
	uint64_t us;
	int r;

	if (sd_watchdog_enabled(0, &us) <= 0 || manager_fd() < 0)
		return 0;
	service.loop = loop;
	/* Twice in the time allowed, and once more if the manager was too busy to hear. */
	service.watchdog_ns = MAX(us * 1000 / 4, 1000000ULL);
	service.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (service.event_fd < 0)
		return -errno;
	r = loop_poll(loop, &service.answer, service.event_fd, POLLIN, watchdog_answer);
	if (r == 0)
		r = loop_timeout(loop, &service.tick, service.watchdog_ns, watchdog_tick);
	if (r < 0)
		service_watchdog_stop();
	return r;
}

void service_watchdog_stop(void)
{
	loop_stop(&service.tick);
	loop_stop(&service.answer);
	service.event_fd = fd_close(service.event_fd);
}
