/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Processes come and go while things happen
 *
 * A target storms and a consumer watches it from outside.  At a random moment one of
 * them, or both, are killed, or the target ends or executes another program, with
 * events on their way.  Nothing may hang, and in the end the daemon has nothing left.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "lanes.h"

#define WAIT_MS	20000

enum end { KILL_TARGET, KILL_CONSUMER, KILL_BOTH, EXIT, EXEC, DETACH, N_ENDS };

static const char *const ends[] = {
	"target killed", "consumer killed", "both killed", "target exits", "target executes",
	"target detaches",
};

static struct daemon d;
static struct lanes *lanes;

static bool heard(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	char c;

	return poll(&pfd, 1, WAIT_MS) > 0 && read(fd, &c, 1) == 1;
}

static int target_main(int fd, enum end how)
{
	char c;

	if (lanes_attach(lanes, d.socket) < 0)
		return 10;
	lanes_start(lanes);
	if (write(fd, "r", 1) != 1)
		return 11;
	if (read(fd, &c, 1) != 1)
		return 12;
	if (how == EXEC) {
		/* in the middle of its threads' work; alive until all have seen it */
		dup2(fd, STDIN_FILENO);
		execl("/bin/cat", "cat", NULL);
	}
	if (how == DETACH) {
		lanes_stop(lanes);
		lanes_detach(lanes);
	}
	return 0;
}

static void on_event(struct mirror_notifier *notifier, const struct mirror_event *ev, void *data)
{
	(void)notifier;
	if (ev->type == MIRROR_EVENT_RELEASE)
		*(int *)data = ev->cause;
}

/* Until RELEASE: 0, or by how it came. */
static int consumer_main(int fd, pid_t target_pid, enum end how)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	int pidfd = (int)syscall(SYS_pidfd_open, target_pid, 0), released = 0, r;
	uint64_t at = (uintptr_t)lanes->lane[0].address;
	struct mirror_notifier *notifier;
	struct mirror_target *target;
	struct mirror_ctx *ctx;

	opts.path = d.socket;
	r = mirror_open(&ctx, &opts);
	if (r == 0)
		r = mirror_target_attach(&target, ctx, pidfd, -1, NULL);
	if (r == 0)
		r = mirror_notifier_insert(&notifier, target, at, at + 64 * PAGE, &ops, &released);
	if (r < 0)
		return 20;
	if (write(fd, "r", 1) != 1)
		return 21;
	for (uint64_t end = now_ms() + WAIT_MS; !released && now_ms() < end;)
		if (mirror_wait(ctx, 500) < 0)
			return 22;
	if (released != (how == EXEC ? MIRROR_CAUSE_EXEC : MIRROR_CAUSE_EXIT))
		return 30 + released;
	mirror_notifier_remove(notifier);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
	return 0;
}

static void pair_of(int pair[2])
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		bail("socketpair");
}

static const char *end_consumer(enum end how, pid_t consumer)
{
	int status = child_wait(consumer, WAIT_MS);

	if (how == KILL_CONSUMER || how == KILL_BOTH)
		return status < 0 ? "the consumer hangs" : NULL;
	if (status)
		note("the consumer: %#x", (unsigned int)status);
	return status ? "the consumer was not told right" : NULL;
}

/* NULL, or what went wrong.  Closes @target_fd. */
static const char *end_them(enum end how, pid_t target, int target_fd, pid_t consumer)
{
	const char *why = NULL;
	int status;

	if (how == KILL_CONSUMER || how == KILL_BOTH)
		kill(consumer, SIGKILL);
	if (how == KILL_TARGET || how == KILL_BOTH)
		kill(target, SIGKILL);
	else if (write(target_fd, "e", 1) != 1)
		why = "the target is gone";
	if (how == EXEC)
		why = end_consumer(how, consumer);
	close(target_fd);	/* the end of its input, for what it has executed */
	status = child_wait(target, WAIT_MS);
	if (status < 0)
		why = "the target hangs";
	else if (status && how != KILL_TARGET && how != KILL_BOTH)
		why = "the target did not end well";
	if (why && status)
		note("the target: %d", status);
	if (how != EXEC && !why)
		why = end_consumer(how, consumer);
	else if (how != EXEC)
		child_kill(consumer);
	return why;
}

static const char *one_round(enum end how)
{
	struct timespec ts = { .tv_nsec = (long)rnd(3000000) };
	int target_pair[2], consumer_pair[2];
	pid_t target, consumer;
	const char *why;

	pair_of(target_pair);
	target = child_fork();
	if (!target)
		_exit(target_main(target_pair[1], how));
	close(target_pair[1]);
	if (!heard(target_pair[0])) {
		child_kill(target);
		return "the target does not start";
	}
	pair_of(consumer_pair);
	consumer = child_fork();
	if (!consumer)
		_exit(consumer_main(consumer_pair[1], target, how));
	close(consumer_pair[1]);
	if (!heard(consumer_pair[0])) {
		child_kill(target);
		child_kill(consumer);
		return "the consumer does not start";
	}
	nanosleep(&ts, NULL);
	why = end_them(how, target, target_pair[0], consumer);
	close(consumer_pair[0]);
	return why;
}

static void check_empty(void)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_stats s = { .size = sizeof(s) };
	uint64_t end = now_ms() + WAIT_MS;
	struct mirror_ctx *ctx;

	opts.path = d.socket;
	opts.flags = MIRROR_OPEN_NO_RING | MIRROR_OPEN_NO_EMBEDDED;
	if (mirror_open(&ctx, &opts) < 0)
		bail("the daemon is gone");
	do {
		s = (struct mirror_stats) { .size = sizeof(s) };
		if (mirror_daemon_get_stats(ctx, &s) < 0)
			bail("no statistics");
	} while ((s.targets || s.notifiers || s.clients > 1 || s.channels || s.removes_pending) &&
		 now_ms() < end);
	same(s.targets, 0, "no target is left");
	same(s.clients, 1, "no client is left but the one that asks");
	same(s.notifiers, 0, "no notifier is left");
	same(s.channels, 0, "no ring is left");
	same((long long)s.removes_pending, 0, "no change is without its end");
	mirror_ctx_unref(ctx);
}

int main(int argc, char **argv)
{
	unsigned int rounds, failed[N_ENDS] = { 0 };

	test_begin(argc, argv, 120, 280);
	rounds = (unsigned int)test_size(8, 25, 100);
	daemon_init(&d);
	daemon_start(&d, NULL);
	lanes = lanes_new(1, 1);
	for (unsigned int i = 0; i < rounds * N_ENDS; i++) {
		enum end how = i % N_ENDS;
		const char *why;

		if (failed[how] >= 2)
			continue;
		why = one_round(how);
		if (why)
			note("round %u: %s", i, why);
		failed[how] += why != NULL;
	}
	for (unsigned int i = 0; i < N_ENDS; i++)
		same(failed[i], 0, "%s, %u times", ends[i], rounds);
	same((long long)lanes_stale(lanes), 0, "no lookup was stale");
	ok(daemon_is_alive(&d), "the daemon lives");
	check_empty();
	same(daemon_stop(&d), 0, "the daemon ends well");
	return test_end();
}
