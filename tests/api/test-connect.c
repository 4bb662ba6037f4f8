/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which of the ways to a daemon is taken. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include "harness.h"

static int try_open(const char *path, uint32_t flags)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_ctx *ctx;
	int r;

	opts.path = path;
	opts.flags = flags;
	r = mirror_open(&ctx, &opts);
	if (r < 0)
		return r;
	r = mirror_ctx_is_embedded(ctx);
	mirror_ctx_unref(ctx);
	return r;
}

/* 0 when mirrord is reached, 1 when a private one is started, or -errno. */
static int by_environment(const char *device, const char *socket)
{
	if (device)
		setenv("MIRROR_DEVICE", device, 1);
	else
		unsetenv("MIRROR_DEVICE");
	if (socket)
		setenv("MIRROR_SOCKET", socket, 1);
	else
		unsetenv("MIRROR_SOCKET");
	return try_open(NULL, 0);
}

static int by_default(void)
{
	unsetenv("MIRROR_DEVICE");
	unsetenv("MIRROR_SOCKET");
	return try_open(NULL, MIRROR_OPEN_NO_EMBEDDED);
}

static const char *make_file(const char *name)
{
	const char *path = scratch_path(name);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	ck_assert_int_ge(fd, 0);
	close(fd);
	return path;
}

/* /run and /dev of our own, with nothing there.  false: that cannot be had. */
static bool hide_system(void)
{
	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		ck_assert_int_eq(errno, EINVAL);
		puts("# SKIP defaults: the root is no mount point, as in a chroot");
		fflush(stdout);
		return false;
	}
	ck_assert_int_eq(mount("tmpfs", "/run", "tmpfs", 0, NULL), 0);
	ck_assert_int_eq(mkdir("/run/mirror", 0755), 0);
	if (!daemon_is_node())
		ck_assert_int_eq(mount("tmpfs", "/dev", "tmpfs", 0, NULL), 0);
	return true;
}

/* What is named and is no mirrord is an error, and nothing else is tried. */
START_TEST(named_device)
{
	const char *file = make_file("file"), *fifo = scratch_path("fifo");

	ck_assert_int_eq(mkfifo(fifo, 0600), 0);
	fails(by_environment(scratch_path("nothing"), NULL), ENOENT);
	fails(by_environment("/dev/null", NULL), EPROTO);
	fails(by_environment(fifo, NULL), EPROTO);
	fails(by_environment("/", NULL), EISDIR);
	fails(by_environment(file, NULL), ECONNREFUSED);
	fails(try_open("/dev/null", 0), EPROTO);
	/* a file that nothing is mounted over: nobody is there */
	ck_assert_int_eq(try_open(file, 0), 1);
	fails(try_open(file, MIRROR_OPEN_NO_EMBEDDED), ECONNREFUSED);
}
END_TEST

START_TEST(environment)
{
	ok(by_environment(NULL, daemon_path()));
	ck_assert_int_eq(by_environment("/dev/null", socket_path()), 0);
	ck_assert_int_eq(by_environment("", socket_path()), 0);
	if (daemon_path() != socket_path())
		ck_assert_int_eq(by_environment(daemon_path(), NULL), 0);
	/* who names a path means it */
	setenv("MIRROR_SOCKET", scratch_path("nothing"), 1);
	ck_assert_int_eq(try_open(daemon_path(), 0), 0);
}
END_TEST

START_TEST(nobody_behind)
{
	const int error = daemon_is_node() ? ENOENT : ECONNREFUSED;

	daemon_kill(SIGKILL);
	/* a node goes when the kernel has closed the last of what the daemon had */
	while (daemon_is_node() && access(daemon_path(), F_OK) == 0)
		sched_yield();
	fails(try_open(daemon_path(), MIRROR_OPEN_NO_EMBEDDED), error);
	ck_assert_int_eq(try_open(daemon_path(), 0), 1);
	if (daemon_path() != socket_path())	/* a device alone is asked for: no private one */
		fails(by_environment(daemon_path(), NULL), error);
}
END_TEST

START_TEST(default_socket)
{
	if (geteuid())
		return;
	if (!hide_system())
		return;
	fails(by_default(), ENOENT);
	ck_assert_int_eq(symlink(socket_path(), "/run/mirror/control"), 0);
	ok(by_default());
	fails(by_environment(scratch_path("nothing"), NULL), ENOENT);
}
END_TEST

START_TEST(default_device)
{
	const char *const places[] = { "/dev/mirror", "/run/mirror/device" };

	if (geteuid() || daemon_path() == socket_path() || daemon_is_node())
		return;
	if (!hide_system())
		return;
	for (unsigned int i = 0; i < ARRAY_LENGTH(places); i++) {
		ck_assert_int_eq(symlink(daemon_path(), places[i]), 0);
		ok(by_default());
		setenv("MIRROR_DEVICE", "", 1);
		fails(try_open(NULL, MIRROR_OPEN_NO_EMBEDDED), ENOENT);
		ck_assert_int_eq(unlink(places[i]), 0);
	}
	fails(by_default(), ENOENT);
}
END_TEST

/* What is in the way of the device does not keep us from the socket. */
START_TEST(default_goes_on)
{
	const char *file = make_file("empty");

	if (geteuid())
		return;
	if (!hide_system())
		return;
	ck_assert_int_eq(symlink(file, "/run/mirror/device"), 0);
	fails(by_default(), ENOENT);
	ck_assert_int_eq(symlink(socket_path(), "/run/mirror/control"), 0);
	ok(by_default());
	unlink("/run/mirror/device");
	ck_assert_int_eq(mkfifo("/run/mirror/device", 0666), 0);
	ok(by_default());
	ck_assert_int_eq(chmod("/run/mirror/device", 0), 0);
	ck_assert_int_eq(seteuid(65534), 0);
	ok(by_default());
	ck_assert_int_eq(seteuid(0), 0);
	unlink("/run/mirror/control");
	ck_assert_int_eq(seteuid(65534), 0);
	fails(by_default(), EACCES);
	ck_assert_int_eq(seteuid(0), 0);	/* who ends can be looked at */
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case_without_daemon(suite, "alone");

	tcase_add_test(tcase, named_device);
	tcase = harness_case(suite, "connect");
	tcase_add_test(tcase, environment);
	tcase_add_test(tcase, nobody_behind);
	tcase_add_test(tcase, default_socket);
	tcase_add_test(tcase, default_device);
	tcase_add_test(tcase, default_goes_on);
}

int main(void)
{
	return harness_main("connect", fill);
}
