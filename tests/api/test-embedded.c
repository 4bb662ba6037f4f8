/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A private daemon, which needs no rights and leaves no traces. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "harness.h"

#define SIZE (16 * PAGE)

static struct log seen;

static struct mirror_ctx *open_embedded(const char *path)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_ctx *ctx;

	opts.flags = MIRROR_OPEN_EMBEDDED;
	opts.path = path;
	ok(mirror_open(&ctx, &opts));
	ck_assert_int_eq(mirror_ctx_is_embedded(ctx), 1);
	return ctx;
}

static pid_t daemon_of(struct mirror_ctx *ctx)
{
	struct mirror_info info = { .size = sizeof(info) };

	ok(mirror_ctx_get_info(ctx, &info));
	ck_assert(info.info_flags & MIRROR_INFO_EMBEDDED);
	return (pid_t)info.pid;
}

static void use(struct mirror_ctx *ctx)
{
	struct mirror_target *target = attach_self(ctx, 0);
	char *mem = map_pages(SIZE);
	struct mirror_notifier *n = watch(target, mem, SIZE, &seen);
	uint64_t v;

	ok(begin(n, mem, SIZE, &v));
	ck_assert_int_eq(retry(n, mem, SIZE, v), 0);
	ck_assert_int_eq(madvise(mem, PAGE, MADV_DONTNEED), 0);
	ck_assert_int_eq(retry(n, mem, SIZE, v), 1);
	ok(begin(n, mem, SIZE, &v));
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_CLEAR], 1);
	unmap(mem, PAGE);
	ck_assert_int_eq(retry(n, mem, SIZE, v), 1);
	fails(begin(n, mem, SIZE, &v), EFAULT);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], 1);
	mirror_notifier_remove(n);
	mirror_target_unref(target);
}

static atomic_int n_signals;

static void on_signal(int sig)
{
	(void)sig;
	atomic_fetch_add(&n_signals, 1);
}

START_TEST(works)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct mirror_ctx *ctx;
	sigset_t before = { { 0 } }, after = { { 0 } };
	pid_t pid;

	sigaction(SIGCHLD, &action, NULL);
	sigprocmask(SIG_SETMASK, NULL, &before);
	ctx = open_embedded(NULL);
	pid = daemon_of(ctx);
	ck_assert_int_ne(getpgid(pid), getpgid(0));
	use(ctx);
	mirror_ctx_unref(ctx);
	ck_assert(wait_gone(pid));
	/* the program has no child and was told of none */
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG | __WALL), -1);
	ck_assert_int_eq(errno, ECHILD);
	ck_assert_int_eq(atomic_load(&n_signals), 0);
	sigprocmask(SIG_SETMASK, NULL, &after);
	ck_assert_int_eq(memcmp(&before, &after, sizeof(before)), 0);
}
END_TEST

START_TEST(fallback)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_ctx *ctx;

	opts.path = scratch_path("nothing");
	ok(mirror_open(&ctx, &opts));
	ck_assert_int_eq(mirror_ctx_is_embedded(ctx), 1);
	use(ctx);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(forced_by_environment)
{
	struct mirror_ctx *ctx;

	setenv("MIRROR_EMBEDDED", "1", 1);
	setenv("MIRROR_SOCKET", socket_path(), 1);
	ok(mirror_open(&ctx, NULL));
	ck_assert_int_eq(mirror_ctx_is_embedded(ctx), 1);
	mirror_ctx_unref(ctx);
	ctx = open_ctx();	/* who forbids it means it */
	ck_assert_int_eq(mirror_ctx_is_embedded(ctx), 0);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(serves_others)
{
	const char *path = scratch_path("private");
	struct mirror_ctx *ctx = open_embedded(path), *second;
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	pid_t pid = daemon_of(ctx);

	opts.path = path;
	opts.flags = MIRROR_OPEN_NO_EMBEDDED;
	ok(mirror_open(&second, &opts));
	ck_assert_int_eq(daemon_of(second), pid);
	mirror_ctx_unref(ctx);
	use(second);
	mirror_ctx_unref(second);
	ck_assert(wait_gone(pid));
	ck_assert_int_eq(access(path, F_OK), -1);
}
END_TEST

START_TEST(is_killed)
{
	struct mirror_ctx *ctx = open_embedded(NULL);
	struct mirror_target *target = attach_self(ctx, MIRROR_ATTACH_ARM_ALL);
	char *mem = map_pages(SIZE);
	struct mirror_notifier *n = watch(target, mem, SIZE, &seen);
	pid_t pid = daemon_of(ctx);
	uint64_t v;

	ok(begin(n, mem, SIZE, &v));
	kill(pid, SIGKILL);
	ck_assert(wait_gone(pid));
	ck_assert_int_eq(retry(n, mem, SIZE, v), 1);
	unmap(mem, PAGE);
	fails(begin(n, mem, PAGE, &v), EPIPE);
	mirror_notifier_remove(n);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(daemon_missing)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_ctx *ctx = NULL;
	const char *script = scratch_path("script");
	int fd;

	opts.flags = MIRROR_OPEN_EMBEDDED;
	setenv("MIRROR_DAEMON", scratch_path("nothing"), 1);
	fails(mirror_open(&ctx, &opts), ENOENT);
	setenv("MIRROR_DAEMON", "/", 1);
	fails(mirror_open(&ctx, &opts), EACCES);
	setenv("MIRROR_DAEMON", "/bin/false", 1);
	fails(mirror_open(&ctx, &opts), ECONNREFUSED);
	fd = open(script, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	ck_assert_int_eq(write(fd, "nonsense", 8), 8);
	close(fd);
	setenv("MIRROR_DAEMON", script, 1);
	fails(mirror_open(&ctx, &opts), ENOEXEC);
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG | __WALL), -1);
}
END_TEST

static void nobody(struct peer *me)
{
	struct mirror_ctx *ctx;

	if (setgid(65534) < 0 || setuid(65534) < 0 || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0)
		_exit(1);
	ctx = open_embedded(NULL);
	use(ctx);
	mirror_ctx_unref(ctx);
	peer_tell(me, 1);
}

/* What was built may be in a folder that other users cannot enter. */
static void copy_daemon(const char *to)
{
	int in = open(getenv("MIRRORD"), O_RDONLY | O_CLOEXEC);
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);

	ck_assert_int_ge(in, 0);
	ck_assert_int_ge(out, 0);
	while (sendfile(out, in, NULL, 1 << 20) > 0)
		;
	ck_assert_int_eq(fchmod(out, 0755), 0);
	close(in);
	close(out);
	setenv("MIRROR_DAEMON", to, 1);
}

START_TEST(unprivileged)
{
	struct peer peer;

	if (geteuid())
		return;		/* then every other test here is this one */
	copy_daemon(scratch_path("mirrord"));
	peer_start(&peer, nobody);
	ck_assert_uint_eq(peer_hear(&peer), 1);
	peer_end(&peer);
}
END_TEST

static atomic_int stop;

static void *noise_thread(void *data)
{
	(void)data;
	while (!atomic_load(&stop)) {
		void *p = malloc(100000);

		memset(p, 1, 100000);
		free(p);
	}
	return NULL;
}

/* Other threads run on meanwhile, in the memory that the new process borrows. */
START_TEST(among_threads)
{
	pthread_t threads[3];
	struct mirror_ctx *ctx;

	for (unsigned int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, noise_thread, NULL);
	for (unsigned int i = 0; i < 10; i++) {
		ctx = open_embedded(NULL);
		mirror_ctx_unref(ctx);
	}
	atomic_store(&stop, 1);
	for (unsigned int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
}
END_TEST

/* With its standard streams closed a program has descriptors 0 to 2 for us. */
START_TEST(without_standard_streams)
{
	struct mirror_ctx *ctx;
	int saved[3];

	for (int i = 0; i < 3; i++) {
		saved[i] = fcntl(i, F_DUPFD_CLOEXEC, 100);
		close(i);
	}
	ctx = open_embedded(NULL);
	use(ctx);
	mirror_ctx_unref(ctx);
	for (int i = 0; i < 3; i++)
		dup2(saved[i], i);
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case_without_daemon(suite, "embedded");

	tcase_add_test(tcase, works);
	tcase_add_test(tcase, fallback);
	tcase_add_test(tcase, serves_others);
	tcase_add_test(tcase, is_killed);
	tcase_add_test(tcase, daemon_missing);
	tcase_add_test(tcase, unprivileged);
	tcase_add_test(tcase, among_threads);
	tcase_add_test(tcase, without_standard_streams);
	tcase = harness_case(suite, "choice");
	tcase_add_test(tcase, forced_by_environment);
}

int main(void)
{
	return harness_main("embedded", fill);
}
