/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include "harness.h"

#define PATIENCE_S 20

enum transport { BY_SOCKET, BY_FUSE, BY_CUSE };

static char directory[64];
static pid_t daemon_pid;
static enum transport transport;

const char *scratch_path(const char *name)
{
	static char path[4][108];
	static unsigned int next;
	char *p = path[next++ % 4];

	snprintf(p, sizeof(path[0]), "%s/%s.%d", directory, name, (int)getpid());
	return p;
}

const char *socket_path(void)
{
	static char path[108];

	if (!path[0])
		snprintf(path, sizeof(path), "%s", scratch_path("control"));
	return path;
}

const char *daemon_path(void)
{
	static char path[108];

	if (transport == BY_SOCKET)
		return socket_path();
	if (!path[0] && transport == BY_FUSE)
		snprintf(path, sizeof(path), "%s", scratch_path("device"));
	else if (!path[0])
		snprintf(path, sizeof(path), "/dev/mirror-test-%d", (int)getpid());
	return path;
}

bool daemon_is_node(void)
{
	return transport == BY_CUSE;
}

static void remove_directory(void)
{
	struct dirent *entry;
	char path[400];
	DIR *dir = opendir(directory);

	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		if (transport == BY_FUSE)
			umount2(path, MNT_DETACH);
		unlink(path);
	}
	if (dir)
		closedir(dir);
	rmdir(directory);
}

/* Why the tests cannot run that way, or NULL. */
static const char *choose_transport(void)
{
	const char *name = getenv("MIRROR_TEST_TRANSPORT");

	if (!name || !strcmp(name, "socket"))
		return NULL;
	if (!strcmp(name, "cuse")) {
		transport = BY_CUSE;
		return access("/dev/cuse", R_OK | W_OK) < 0 ? "no access to /dev/cuse" : NULL;
	}
	if (strcmp(name, "fuse"))
		return "$MIRROR_TEST_TRANSPORT is not known";
	transport = BY_FUSE;
	if (access("/dev/fuse", R_OK | W_OK) < 0)
		return "no access to /dev/fuse";
	/* in a place of our own no mount outlives us, however we end */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return "only root can mount";
	return NULL;
}

int harness_main(const char *name, void (*fill)(Suite *suite))
{
	Suite *suite = suite_create(name);
	SRunner *runner = srunner_create(suite);
	const char *reason = choose_transport();
	int n_failed;

	if (reason) {
		printf("1..0 # SKIP %s\n", reason);
		return 0;
	}
	/* nothing of the caller's decides what is tested */
	unsetenv("MIRROR_DEVICE");
	unsetenv("MIRROR_SOCKET");
	unsetenv("MIRROR_EMBEDDED");
	snprintf(directory, sizeof(directory), "/tmp/mirror-api-XXXXXX");
	if (!getenv("MIRRORD") || !mkdtemp(directory)) {
		fputs("1..0 # SKIP $MIRRORD is not set\n", stderr);
		return 77;
	}
	chmod(directory, 0777);	/* some tests give up root */
	fill(suite);
	srunner_set_tap(runner, "-");
	srunner_run_all(runner, CK_SILENT);
	n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	remove_directory();
	return n_failed ? 1 : 0;
}

static void teardown(void)
{
	if (daemon_pid)
		daemon_kill(SIGKILL);
}

TCase *harness_case_without_daemon(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);

	tcase_set_timeout(tcase, PATIENCE_S);
	suite_add_tcase(suite, tcase);
	return tcase;
}

TCase *harness_case(Suite *suite, const char *name)
{
	TCase *tcase = harness_case_without_daemon(suite, name);

	tcase_add_checked_fixture(tcase, daemon_start, teardown);
	return tcase;
}

/* The daemon says when it serves, as it does to a service manager. */
static int notify_socket(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = PATIENCE_S };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
	return fd;
}

static void exec_daemon(const char *notify)
{
	const char *argv[] = { "mirrord", "--socket", socket_path(), NULL, NULL, NULL };

	if (transport == BY_FUSE) {
		argv[3] = "--fuse";
		argv[4] = daemon_path();
	} else if (transport == BY_CUSE) {
		argv[3] = "--cuse";
		argv[4] = strrchr(daemon_path(), '/') + 1;
	}
	setenv("NOTIFY_SOCKET", notify, 1);
	execv(getenv("MIRRORD"), (char *const *)(uintptr_t)argv);
	_exit(127);
}

/* What is left of an earlier daemon goes. */
static void make_mount_point(void)
{
	int fd;

	umount2(daemon_path(), MNT_DETACH);
	fd = open(daemon_path(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	close(fd);
}

void daemon_start(void)
{
	const char *notify = scratch_path("notify");
	char said[256] = "";
	int fd;

	daemon_path();	/* the names hold our pid, and not that of a child */
	socket_path();
	unlink(notify);
	fd = notify_socket(notify);
	if (transport == BY_FUSE)
		make_mount_point();
	daemon_pid = fork();
	ck_assert_int_ge(daemon_pid, 0);
	if (daemon_pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		exec_daemon(notify);
	}
	while (!strstr(said, "READY=1"))
		ck_assert_int_gt(recv(fd, said, sizeof(said) - 1, 0), 0);
	close(fd);
	unlink(notify);
	if (transport == BY_CUSE)	/* who may use it is udev's to say, elsewhere */
		ck_assert_int_eq(chmod(daemon_path(), 0666), 0);
}

void daemon_kill(int sig)
{
	ck_assert_int_eq(kill(daemon_pid, sig), 0);
	if (sig == SIGCONT)
		return;
	ck_assert_int_eq(waitpid(daemon_pid, NULL, WUNTRACED), daemon_pid);
	if (sig != SIGSTOP)
		daemon_pid = 0;
}

struct mirror_ctx *open_ctx_with(uint32_t flags, uint32_t ring_entries)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_ctx *ctx;

	opts.path = daemon_path();
	opts.flags = MIRROR_OPEN_NO_EMBEDDED | flags;
	opts.ring_entries = ring_entries;
	ok(mirror_open(&ctx, &opts));
	return ctx;
}

struct mirror_ctx *open_ctx(void)
{
	return open_ctx_with(0, 0);
}

struct mirror_target *attach_self(struct mirror_ctx *ctx, uint32_t flags)
{
	struct mirror_attach_opts opts = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_target *target;

	opts.flags = flags;
	ok(mirror_target_attach_self(&target, ctx, &opts));
	return target;
}

void log_event(struct mirror_notifier *n, const struct mirror_event *event, void *userdata)
{
	struct log *log = userdata;

	(void)n;
	if (!log->n++)
		log->first = *event;
	log->last = *event;
	if (event->type < MIRROR_EVENT_TYPES)
		log->n_type[event->type]++;
}

bool log_covers(const struct log *log, unsigned int type, const void *p, size_t size)
{
	return log->last.type == type && log->last.start <= (uintptr_t)p &&
	       log->last.end >= (uintptr_t)p + size;
}

struct mirror_notifier *watch(struct mirror_target *target, const void *p, size_t size,
			      struct log *log)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = log_event };
	struct mirror_notifier *n;

	ok(mirror_notifier_insert(&n, target, (uintptr_t)p, (uintptr_t)p + size, &ops, log));
	return n;
}

int begin(struct mirror_notifier *n, const void *p, size_t size, uint64_t *ret_version)
{
	return mirror_read_begin(n, (uintptr_t)p, (uintptr_t)p + size, ret_version);
}

int retry(struct mirror_notifier *n, const void *p, size_t size, uint64_t version)
{
	return mirror_read_retry(n, (uintptr_t)p, (uintptr_t)p + size, version);
}

void *map_pages(size_t size)
{
	char *p = mmap(NULL, size + BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *aligned;

	ck_assert_ptr_ne(p, MAP_FAILED);
	aligned = p + (BLOCK - (uintptr_t)p % BLOCK) % BLOCK;
	unmap(p, size + BLOCK);
	p = mmap(aligned, size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	ck_assert_ptr_eq(p, aligned);
	for (size_t i = 0; i < size; i += PAGE)
		p[i] = 1;
	return p;
}

void unmap(void *p, size_t size)
{
	ck_assert_int_eq(munmap(p, size), 0);
}

char *map_over(char *p, size_t size)
{
	return mmap(p, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		    -1, 0);
}

void settle(struct mirror_ctx *ctx)
{
	struct mirror_stats stats = { .size = sizeof(stats) };

	/* one thread serves both: what was read before this was asked is dealt with */
	ok(mirror_daemon_get_stats(ctx, &stats));
}

void peer_start(struct peer *peer, void (*body)(struct peer *me))
{
	int down[2], up[2];

	ck_assert_int_eq(pipe2(down, O_CLOEXEC), 0);
	ck_assert_int_eq(pipe2(up, O_CLOEXEC), 0);
	peer->pid = fork();
	ck_assert_int_ge(peer->pid, 0);
	if (peer->pid == 0) {
		struct peer me = { .pid = getppid(), .pidfd = -1, .to = up[1], .from = down[0] };

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(down[1]);
		close(up[0]);
		body(&me);
		_exit(0);
	}
	close(down[0]);
	close(up[1]);
	peer->to = down[1];
	peer->from = up[0];
	peer->pidfd = (int)syscall(SYS_pidfd_open, peer->pid, 0);
	ck_assert_int_ge(peer->pidfd, 0);
}

void peer_tell(struct peer *peer, uint64_t value)
{
	ck_assert_int_eq(write(peer->to, &value, sizeof(value)), sizeof(value));
}

uint64_t peer_hear(struct peer *peer)
{
	uint64_t value = 0;

	ck_assert_int_eq(read(peer->from, &value, sizeof(value)), sizeof(value));
	return value;
}

void peer_end(struct peer *peer)
{
	int status;

	close(peer->to);
	ck_assert_int_eq(waitpid(peer->pid, &status, 0), peer->pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "peer ended with 0x%x",
		      (unsigned int)status);
	close(peer->from);
	close(peer->pidfd);
}

bool wait_gone(pid_t pid)
{
	struct pollfd pollfd = { .events = POLLIN };
	bool gone;

	pollfd.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pollfd.fd < 0)
		return errno == ESRCH;
	gone = poll(&pollfd, 1, PATIENCE_S * 1000) == 1;
	close(pollfd.fd);
	return gone;
}

bool is_blocked(pid_t tid)
{
	char path[64], text[128];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/wchan", (int)tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	return strstr(text, "userfaultfd");
}

bool wait_blocked(pid_t tid)
{
	time_t end = time(NULL) + PATIENCE_S;

	while (!is_blocked(tid)) {
		if (time(NULL) >= end)
			return false;
		sched_yield();
	}
	return true;
}

/* Is a thread of this process called that? */
static bool has_thread(const char *name)
{
	struct dirent *entry;
	char path[300], comm[32];
	bool found = false;
	ssize_t n;
	DIR *dir;
	int fd;

	dir = opendir("/proc/self/task");
	ck_assert_ptr_nonnull(dir);
	while (!found && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		n = read(fd, comm, sizeof(comm) - 1);
		close(fd);
		comm[n > 0 ? n - 1 : 0] = 0;
		found = !strcmp(comm, name);
	}
	closedir(dir);
	return found;
}

bool wait_lifelines(void)
{
	time_t end = time(NULL) + PATIENCE_S;

	while (has_thread("mirror-life"))
		if (time(NULL) >= end)
			return false;
	return true;
}
