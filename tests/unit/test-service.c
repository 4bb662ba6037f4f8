/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a service manager passes and is told. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include "loop/loop.h"
#include "sys/log.h"
#include "sys/service.h"
#include "unit.h"

#define MANY 500
#define FIRST 3

/*
 * The descriptors 3 and up are Check's: so each case runs in a child, which says where
 * it failed by its exit status.
 */
static int in_child(int (*body)(void))
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(body());
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

#define STEP(_n, _ok) do { if (!(_ok)) return _n; } while (0)

/* Descriptors as a manager passes them: blocking or not, open across exec. */
static void pass(unsigned int n, const char *names)
{
	char text[16];

	for (unsigned int i = 0; i < n; i++) {
		int fd = eventfd(i, 0);

		if (fd != (int)(FIRST + i)) {
			dup2(fd, (int)(FIRST + i));
			close(fd);
		}
	}
	snprintf(text, sizeof(text), "%u", n);
	setenv("LISTEN_FDS", text, 1);
	snprintf(text, sizeof(text), "%d", getpid());
	setenv("LISTEN_PID", text, 1);
	if (names)
		setenv("LISTEN_FDNAMES", names, 1);
	else
		unsetenv("LISTEN_FDNAMES");
	log_level = -1;
}

static bool is_number(int fd, uint64_t n)
{
	uint64_t v = 0;

	fcntl(fd, F_SETFL, O_NONBLOCK);
	return read(fd, &v, sizeof(v)) == (n ? (ssize_t)sizeof(v) : -1) && v == n;
}

static int inherit_many(void)
{
	static char names[MANY * 8];
	struct rlimit lim = { MANY + 50, MANY + 50 };
	struct inherited in;
	char name[24];

	setrlimit(RLIMIT_NOFILE, &lim);
	for (unsigned int i = 0; i < MANY; i++)
		sprintf(names + strlen(names), "%su%u", i ? ":" : "", i);
	pass(MANY, names);
	STEP(1, service_inherit(&in) == 0 && in.n == MANY);
	STEP(2, !getenv("LISTEN_FDS") && !getenv("LISTEN_PID") && !getenv("LISTEN_FDNAMES"));
	for (unsigned int i = 0; i < MANY; i += 7) {
		int fd;

		snprintf(name, sizeof(name), "u%u", i);
		fd = inherited_take(&in, name);
		STEP(3, fd == (int)(FIRST + i) && is_number(fd, i));
		STEP(4, fcntl(fd, F_GETFD) & FD_CLOEXEC);
		STEP(5, inherited_take(&in, name) == -1);
	}
	STEP(6, inherited_take(&in, "u") == -1 && inherited_take(&in, "u500") == -1);
	STEP(7, inherited_take_listener(&in) == -1);
	inherited_clear(&in);
	STEP(8, in.n == 0);
	/* what was taken is open, what nobody took is not */
	for (unsigned int i = 0; i < MANY; i++)
		STEP(9, (fcntl((int)(FIRST + i), F_GETFD) >= 0) == (i % 7 == 0));
	inherited_clear(&in);
	return 0;
}

static int inherit_odd_names(void)
{
	struct inherited in;

	/* the same twice; empty; as long as can be; longer; cut off it would be "u7" */
	pass(6, "c1:c1::0123456789012345678901234567890:"
		"01234567890123456789012345678901:unknown");
	STEP(1, service_inherit(&in) == 0 && in.n == 6);
	STEP(2, inherited_take(&in, "c1") >= 0 && inherited_take(&in, "c1") >= 0);
	STEP(3, inherited_take(&in, "c1") == -1);
	STEP(4, inherited_take(&in, "0123456789012345678901234567890") == 6);
	STEP(5, inherited_take(&in, "0123456789012345678901234567890") == -1);
	STEP(7, inherited_take(&in, "01234567890123456789012345678901") == -1);
	inherited_clear(&in);
	STEP(6, fcntl(7, F_GETFD) == -1);
	return 0;
}

static int inherit_without_names(void)
{
	struct inherited in;

	pass(2, NULL);
	STEP(1, service_inherit(&in) == 0 && in.n == 2);
	inherited_clear(&in);
	/* too few names: none can be trusted, but they are ours to close */
	pass(3, "c1:c2");
	STEP(2, service_inherit(&in) == 0 && in.n == 3);
	STEP(3, inherited_take(&in, "c1") == -1);
	inherited_clear(&in);
	STEP(4, fcntl(FIRST, F_GETFD) == -1);
	return 0;
}

static int inherit_nothing(void)
{
	struct inherited in;

	pass(1, "c1");
	setenv("LISTEN_PID", "1", 1);	/* somebody else's */
	STEP(1, service_inherit(&in) == 0 && in.n == 0);
	STEP(2, fcntl(FIRST, F_GETFD) >= 0);
	inherited_clear(&in);
	pass(1, "c1");
	setenv("LISTEN_FDS", "many", 1);
	STEP(3, service_inherit(&in) == 0 && in.n == 0);
	pass(1, "c1:c2");
	setenv("LISTEN_FDS", "2", 1);	/* the second is not open */
	close(FIRST + 1);
	STEP(4, service_inherit(&in) == 0);
	inherited_clear(&in);
	return 0;
}

static int inherit_listener(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct inherited in;
	int pair[2], fd;

	pass(3, "c1:zz:c2");
	socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
	dup2(pair[0], FIRST);			/* a client is no listener */
	fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	bind(fd, (struct sockaddr *)&sa, sizeof(sa_family_t));
	listen(fd, 1);
	dup2(fd, FIRST + 1);
	STEP(1, service_inherit(&in) == 0 && in.n == 3);
	STEP(2, inherited_take_listener(&in) == FIRST + 1);
	STEP(3, fcntl(FIRST + 1, F_GETFL) & O_NONBLOCK);
	STEP(4, inherited_take_listener(&in) == -1);
	STEP(5, inherited_take(&in, "zz") == -1 && inherited_take(&in, "c1") == FIRST);
	inherited_clear(&in);
	return 0;
}

START_TEST(inherits)
{
	ck_assert_int_eq(in_child(inherit_many), 0);
	ck_assert_int_eq(in_child(inherit_odd_names), 0);
	ck_assert_int_eq(in_child(inherit_without_names), 0);
	ck_assert_int_eq(in_child(inherit_nothing), 0);
	ck_assert_int_eq(in_child(inherit_listener), 0);
}
END_TEST

static int manager_new(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	char name[64];
	int n;

	n = snprintf(name, sizeof(name), "@mirror-service-%d", getpid());
	memcpy(sa.sun_path, name, (size_t)n);
	sa.sun_path[0] = '\0';
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
					  (size_t)n)), 0);
	setenv("NOTIFY_SOCKET", name, 1);
	return fd;
}

static const char *heard(int fd)
{
	static char text[512];
	ssize_t n = recv(fd, text, sizeof(text) - 1, 0);

	if (n < 0)
		return NULL;
	text[n] = '\0';
	return text;
}

START_TEST(tells)
{
	int fd = manager_new();
	unsigned long long us;

	ck_assert(service_is_managed());
	service_ready();
	ck_assert_str_eq(heard(fd), "READY=1");
	service_status("%d of %s", 3, "them");
	ck_assert_str_eq(heard(fd), "STATUS=3 of them");
	service_status("%d of %s", 3, "them");
	ck_assert_ptr_null(heard(fd));		/* it is known */
	service_status("%d of %s", 4, "them");
	ck_assert_str_eq(heard(fd), "STATUS=4 of them");
	service_reloading();
	ck_assert_int_eq(sscanf(heard(fd), "RELOADING=1\nMONOTONIC_USEC=%llu", &us), 1);
	ck_assert_uint_gt(us, 0);
	service_stopping();
	ck_assert_str_eq(heard(fd), "STOPPING=1");
	ck_assert_ptr_null(heard(fd));
}
END_TEST

/* A manager that reads nothing: a status is tried again, and what must be said gives up. */
START_TEST(tells_nobody_who_listens)
{
	int fd = manager_new();
	unsigned int n = 0;
	char text[16];

	log_level = -1;
	for (int i = 0; i < 3000; i++)
		service_status("%d", i);
	service_stopping();
	while (heard(fd))
		n++;
	ck_assert_uint_lt(n, 3000);
	ck_assert_uint_gt(n, 0);
	service_status("%d", 2999);
	snprintf(text, sizeof(text), "STATUS=%d", 2999);
	ck_assert_str_eq(heard(fd), text);
}
END_TEST

START_TEST(without_a_manager)
{
	struct loop *loop;

	unsetenv("NOTIFY_SOCKET");
	setenv("WATCHDOG_USEC", "10000", 1);
	unsetenv("WATCHDOG_PID");
	ck_assert(!service_is_managed());
	service_ready();
	service_status("x");
	ck_assert_int_eq(loop_new(&loop), 0);
	ck_assert_int_eq(service_watchdog_start(loop), 0);
	service_watchdog_stop();
	loop_free(loop);
}
END_TEST

START_TEST(store_is_known)
{
	unsetenv("FDSTORE");
	ck_assert(!service_has_store());
	setenv("FDSTORE", "0", 1);
	ck_assert(!service_has_store());
	setenv("FDSTORE", "512", 1);
	ck_assert(service_has_store());
	setenv("FDSTORE", "x", 1);
	ck_assert(!service_has_store());
}
END_TEST

struct listener {
	struct loop_op op;
	struct loop *loop;
	unsigned int n;
};

static void on_food(struct loop_op *op, int res)
{
	struct listener *l = container_of(op, struct listener, op);
	const char *text;

	ck_assert_int_ge(res, 0);
	while ((text = heard(op->fd))) {
		ck_assert_str_eq(text, "WATCHDOG=1");
		if (++l->n == 5)
			loop_exit(l->loop);
	}
}

START_TEST(watchdog_is_fed)
{
	struct listener l = { .op = LOOP_OP_NULL };
	int fd = manager_new();
	char pid[16];

	setenv("WATCHDOG_USEC", "20000", 1);
	snprintf(pid, sizeof(pid), "%d", getpid());
	setenv("WATCHDOG_PID", pid, 1);
	ck_assert_int_eq(loop_new(&l.loop), 0);
	ck_assert_int_eq(service_watchdog_start(l.loop), 0);
	/* before the loop turns nothing is said, however long that takes */
	poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, 50);
	ck_assert_ptr_null(heard(fd));
	ck_assert_int_eq(loop_poll(l.loop, &l.op, fd, POLLIN, on_food), 0);
	ck_assert_int_eq(loop_run(l.loop), 0);
	ck_assert_uint_ge(l.n, 5);
	service_watchdog_stop();
	service_watchdog_stop();
	loop_stop(&l.op);
	loop_free(l.loop);	/* asserts that nothing is left */
	/* not for us */
	setenv("WATCHDOG_PID", "1", 1);
	ck_assert_int_eq(loop_new(&l.loop), 0);
	ck_assert_int_eq(service_watchdog_start(l.loop), 0);
	loop_free(l.loop);
}
END_TEST

/* A line and its fields, at a journal of our own. */
START_TEST(journal)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	unsigned int n = 0;
	const char *text;

	snprintf(sa.sun_path, sizeof(sa.sun_path), "/tmp/mirror-journal-%d", getpid());
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	ck_assert_int_eq(log_to_journal(sa.sun_path), 0);
	ck_assert_int_eq(log_to_journal("/nobody/is/here"), -ENOENT);
	unlink(sa.sun_path);
	log_error("a %s\nline", "two");
	ck_assert_str_eq(heard(fd), "PRIORITY=3\nSYSLOG_IDENTIFIER=mirrord\n"
				    "MESSAGE=a two?line\n");
	log_event(LOG_NORMAL, LOG_FIELDS(.event = "attach", .target = 7, .client = 8, .pid = 9),
		  "hello");
	ck_assert_str_eq(heard(fd), "PRIORITY=6\nSYSLOG_IDENTIFIER=mirrord\n"
				    "MIRROR_EVENT=attach\nMIRROR_TARGET=7\nMIRROR_CLIENT=8\n"
				    "MIRROR_PID=9\nMIRROR_UID=0\nMESSAGE=hello\n");
	log_debug("more");
	ck_assert_ptr_null(heard(fd));
	/* what can be brought about at will is said some times only */
	for (int i = 0; i < 5000; i++) {
		log_event(LOG_NORMAL, LOG_FIELDS(.event = "quota"), "%d", i);
		while ((text = heard(fd)))
			n++;
	}
	ck_assert_uint_gt(n, 0);
	ck_assert_uint_lt(n, 100);
	/* one that does not read is not waited for, and later hears how much it missed */
	for (int i = 0; i < 3000; i++)
		log_info("%d", i);
	for (n = 0; heard(fd); n++)
		;
	ck_assert_uint_lt(n, 3000);
	log_info("again");
	ck_assert_int_eq(sscanf(heard(fd), "PRIORITY=6\nSYSLOG_IDENTIFIER=mirrord\n"
					   "MIRROR_LOST=%u\n", &n), 1);
	ck_assert_uint_gt(n, 0);
	close(fd);
}
END_TEST

UNIT_MAIN("service", inherits, tells, tells_nobody_who_listens, without_a_manager,
	  store_is_known, watchdog_is_fed, journal)
