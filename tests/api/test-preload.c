/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The preload object in a program that knows nothing of it: this one, again. */
#include <signal.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include "harness.h"

#define SIZE (16 * PAGE)
#define PROGRAM "--program"

static struct log seen;

/* ---- the program: one command after the other ---- */

enum command {
	DO_UNMAP,	/* a page of what was mapped before main() had anything to say */
	DO_MAP,		/* where it is told, and unmaps it at once */
	DO_MAP_OLD,	/* the same by mmap() of 32 bit interfaces, where there is one */
	DO_MREMAP,	/* moves a mapping there, and unmaps it */
	DO_BRK,		/* grows and shrinks */
	DO_SBRK,
	DO_SHM,
	DO_FORK,	/* the child obeys until it is told to end, then the parent */
	DO_EXEC,
	DO_END,
};

static void *anywhere(size_t size, void *at, int flags)
{
	return mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static void map_shm(void *at)
{
	int id = shmget(IPC_PRIVATE, PAGE, 0600);

	if (shmat(id, at, 0) != at)
		_exit(10);
	shmctl(id, IPC_RMID, NULL);
	munmap(at, PAGE);
}

static int change(uint64_t command, char *mem, char *at)
{
	char *p;

	switch (command) {
	case DO_UNMAP:
		return munmap(mem, PAGE);
	case DO_MAP:
		return anywhere(PAGE, at, MAP_FIXED_NOREPLACE) == at ? munmap(at, PAGE) : -1;
	case DO_MAP_OLD:
		p = mmap64(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		return p == at ? munmap(at, PAGE) : -1;
	case DO_MREMAP:
		p = anywhere(PAGE, NULL, 0);
		if (mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at) != at)
			return -1;
		return munmap(at, PAGE);
	case DO_BRK:
		return brk(at + PAGE) < 0 ? -1 : brk(at);
	case DO_SBRK:
		return sbrk((intptr_t)PAGE) != at || sbrk(-(intptr_t)PAGE) == (void *)-1 ? -1 : 0;
	case DO_SHM:
		map_shm(at);
		return 0;
	}
	return -1;
}

/* No Check in here. */
static void say(uint64_t value)
{
	if (write(1, &value, sizeof(value)) != sizeof(value))
		_exit(11);
}

static uint64_t hear(void)
{
	uint64_t value;

	if (read(0, &value, sizeof(value)) != sizeof(value))
		_exit(12);
	return value;
}

static int program(const char *self)
{
	char *mem = anywhere(SIZE, NULL, 0);
	uint64_t command, argument;
	int status;

	say((uintptr_t)mem);
	say((uintptr_t)sbrk(0));
	for (;;) {
		command = hear();
		argument = hear();
		if (command == DO_END)
			return 0;
		if (command == DO_EXEC) {
			execl(self, self, PROGRAM, NULL);
			return 1;
		}
		if (command == DO_FORK) {
			pid_t pid = fork();

			if (pid == 0)
				say((uint64_t)getpid());
			else if (waitpid(pid, &status, 0) != pid || status)
				return 2;
			else
				say(0);
			continue;
		}
		/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
		say((uint64_t)change(command, mem, (char *)(uintptr_t)argument));
	}
}

/* ---- the other side ---- */

static void exec_program(struct peer *me)
{
	dup2(me->from, 0);
	dup2(me->to, 1);
	setenv("LD_PRELOAD", getenv("MIRROR_PRELOAD_OBJECT"), 1);
	setenv("MIRROR_PRELOAD", "1", 1);
	setenv("MIRROR_SOCKET", socket_path(), 1);
	execl("/proc/self/exe", "program", PROGRAM, NULL);
	_exit(127);
}

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct peer peer;
static char *mem, *heap_end;

static void setup(void)
{
	ctx = open_ctx();
	peer_start(&peer, exec_program);
	mem = (char *)(uintptr_t)peer_hear(&peer);
	heap_end = (char *)(uintptr_t)peer_hear(&peer);
	/* by main() it is a target, so no userfaultfd is needed */
	ok(mirror_target_attach(&target, ctx, peer.pidfd, -1, NULL));
}

static void command(enum command what, const void *argument)
{
	peer_tell(&peer, what);
	peer_tell(&peer, (uintptr_t)argument);
}

static void finish(void)
{
	command(DO_END, NULL);
	peer_end(&peer);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

START_TEST(is_watched)
{
	struct mirror_notifier *n;
	uint64_t v;

	setup();
	n = watch(target, mem, SIZE, &seen);
	ok(begin(n, mem, SIZE, &v));
	command(DO_UNMAP, NULL);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	ck_assert_int_eq(retry(n, mem, SIZE, v), 1);
	fails(begin(n, mem, PAGE, &v), EFAULT);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], 1);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

/* Nobody arms these but the hooks: they are gone before the daemon looks again. */
static void new_mapping(enum command what, char *at)
{
	struct mirror_notifier *n = watch(target, at, PAGE, &seen);
	unsigned int before = seen.n_type[MIRROR_EVENT_UNMAP];

	command(what, at);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert_msg(seen.n_type[MIRROR_EVENT_UNMAP] > before, "command %u", what);
	mirror_notifier_remove(n);
}

START_TEST(new_mappings_are_watched)
{
	setup();
	command(DO_UNMAP, NULL);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	new_mapping(DO_MAP, mem);
	new_mapping(DO_MAP_OLD, mem);
	new_mapping(DO_MREMAP, mem);
	new_mapping(DO_SHM, mem);
	new_mapping(DO_BRK, heap_end);
	new_mapping(DO_SBRK, heap_end);
	finish();
}
END_TEST

START_TEST(child_is_watched)
{
	struct mirror_target *child;
	struct mirror_notifier *n;
	int pidfd;
	pid_t pid;

	setup();
	command(DO_FORK, NULL);
	pid = (pid_t)peer_hear(&peer);
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	ok(mirror_target_attach(&child, ctx, pidfd, -1, NULL));
	ck_assert_uint_ne(mirror_target_get_id(child), mirror_target_get_id(target));
	n = watch(child, mem, SIZE, &seen);
	command(DO_UNMAP, NULL);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], 1);
	mirror_notifier_remove(n);
	mirror_target_unref(child);
	close(pidfd);
	command(DO_END, NULL);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	finish();
}
END_TEST

START_TEST(followed_child_is_watched)
{
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops), .flags = MIRROR_NOTIFIER_FOLLOW_FORK, .invalidate = log_event,
	};
	struct mirror_notifier *n;

	setup();
	if (!(mirror_target_get_features(target) & MIRROR_FEAT_EVENT(MIRROR_EVENT_FORK))) {
		finish();
		return;
	}
	ok(mirror_notifier_insert(&n, target, (uintptr_t)mem, (uintptr_t)mem + SIZE, &ops, &seen));
	command(DO_FORK, NULL);
	peer_hear(&peer);
	command(DO_UNMAP, NULL);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_FORK], 1);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], 1);
	ck_assert_uint_ne(seen.last.target, mirror_target_get_id(target));
	new_mapping(DO_MAP, mem);	/* of the child's, and by the child's hooks */
	command(DO_END, NULL);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

START_TEST(exec_is_watched)
{
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops), .flags = MIRROR_NOTIFIER_FOLLOW_EXEC, .invalidate = log_event,
	};
	struct mirror_notifier *n;

	setup();
	ok(mirror_notifier_insert(&n, target, (uintptr_t)mem, (uintptr_t)mem + PAGE, &ops, &seen));
	command(DO_EXEC, NULL);
	peer_hear(&peer);
	peer_hear(&peer);
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_RELEASE], 1);
	ck_assert_uint_eq(seen.last.cause, MIRROR_CAUSE_EXEC);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

START_TEST(daemon_dies)
{
	setup();
	daemon_kill(SIGKILL);
	command(DO_UNMAP, NULL);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	command(DO_MAP, mem);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	command(DO_FORK, NULL);
	peer_hear(&peer);
	command(DO_END, NULL);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	finish();
}
END_TEST

/* Somebody listens and never answers: the program waits for a while, and runs. */
START_TEST(daemon_silent)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path());
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	ck_assert_int_eq(listen(fd, 1), 0);
	peer_start(&peer, exec_program);
	mem = (char *)(uintptr_t)peer_hear(&peer);
	peer_hear(&peer);
	command(DO_UNMAP, NULL);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	command(DO_END, NULL);
	peer_end(&peer);
	close(fd);
}
END_TEST

START_TEST(without_daemon)
{
	peer_start(&peer, exec_program);
	mem = (char *)(uintptr_t)peer_hear(&peer);
	peer_hear(&peer);
	command(DO_UNMAP, NULL);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	command(DO_MAP, mem);
	ck_assert_uint_eq(peer_hear(&peer), 0);
	command(DO_END, NULL);
	peer_end(&peer);
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "preload");

	tcase_add_test(tcase, is_watched);
	tcase_add_test(tcase, new_mappings_are_watched);
	tcase_add_test(tcase, child_is_watched);
	tcase_add_test(tcase, followed_child_is_watched);
	tcase_add_test(tcase, exec_is_watched);
	tcase_add_test(tcase, daemon_dies);
	tcase = harness_case_without_daemon(suite, "alone");
	tcase_add_test(tcase, without_daemon);
	tcase_add_test(tcase, daemon_silent);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], PROGRAM))
		return program("/proc/self/exe");
	return harness_main("preload", fill);
}
