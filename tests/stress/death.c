/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon dies, or stops, under a storm
 *
 * A child storms munmap() and looks up in several threads; at a random moment the
 * daemon is killed.  No lookup may be stale, before or after; no thread may hang; the
 * library must say -EPIPE; and the process must be able to attach anew.  A stopped
 * daemon makes the child wait, and nothing is lost when it goes on.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "lanes.h"

#define SINGLES		2
#define PAIRS		2
#define HANG_MS		15000
#define AFTER		200	/* turns without a daemon */

static struct daemon d;
static struct lanes *lanes;

/* One byte of talk with the child; false when it does not come in time. */
static bool hear(int fd, char wanted)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	char c = 0;

	return poll(&pfd, 1, HANG_MS) > 0 && read(fd, &c, 1) == 1 && c == wanted;
}

static void tell(int fd, char c)
{
	if (write(fd, &c, 1) != 1)
		note("nobody hears '%c'", c);
}

/* Attaches, storms until the daemon is gone, and again until told to stop. */
static int target_main(int fd)
{
	char c;
	int r;

	atomic_store(&lanes->after, AFTER);
	r = lanes_attach(lanes, d.socket);
	if (r < 0)
		return 10;
	lanes_start(lanes);
	tell(fd, 'r');
	lanes_join(lanes);		/* the daemon has died */
	tell(fd, 'd');
	if (read(fd, &c, 1) != 1)	/* a new one is there */
		return 11;
	if (lanes_error(lanes, -EPIPE) != -EPIPE)
		return 12;
	lanes_detach(lanes);
	r = lanes_attach(lanes, d.socket);
	if (r < 0)
		return 13;
	lanes_start(lanes);
	tell(fd, 'r');
	if (read(fd, &c, 1) != 1)
		return 14;
	lanes_stop(lanes);
	if (lanes_error(lanes, 0))
		return 15;
	lanes_detach(lanes);
	return 0;
}

static pid_t start_target(int (*run)(int fd), int *ret_fd)
{
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		bail("socketpair");
	pid = child_fork();
	if (!pid) {
		close(pair[0]);
		_exit(run(pair[1]));
	}
	close(pair[1]);
	*ret_fd = pair[0];
	return pid;
}

/* Some more turns of the storm; false when they do not come. */
static bool wait_turns(uint64_t more)
{
	uint64_t end = now_ms() + HANG_MS, until = lanes_turns(lanes) + more;

	while (lanes_turns(lanes) < until && now_ms() < end)
		nap_ms(1);
	return lanes_turns(lanes) >= until;
}

static void random_moment(void)
{
	struct timespec ts = { .tv_nsec = (long)rnd(5000000) };

	nanosleep(&ts, NULL);
}

/* NULL, or what went wrong. */
static const char *round_of_death(void)
{
	int fd, status;
	pid_t pid;

	daemon_start(&d, NULL);
	pid = start_target(target_main, &fd);
	if (!hear(fd, 'r') || !wait_turns(10)) {
		child_kill(pid);
		return "the target does not start";
	}
	random_moment();
	daemon_kill(&d);
	if (!hear(fd, 'd')) {
		child_kill(pid);
		return "hung after the death";
	}
	daemon_start(&d, NULL);
	tell(fd, 'g');
	if (!hear(fd, 'r') || !wait_turns(10)) {
		child_kill(pid);
		daemon_kill(&d);
		return "cannot attach again";
	}
	tell(fd, 's');
	status = child_wait(pid, HANG_MS);
	close(fd);
	if (daemon_stop(&d))
		return "the second daemon did not end well";
	if (status) {
		note("status of the target: %#x", (unsigned int)status);
		return "the target did not end well";
	}
	return NULL;
}

static void deaths(unsigned int rounds)
{
	unsigned int failed = 0;

	for (unsigned int i = 0; i < rounds && failed < 3; i++) {
		const char *why = round_of_death();

		if (why) {
			failed++;
			note("round %u: %s", i, why);
		}
	}
	note("%llu turns", (unsigned long long)lanes_turns(lanes));
	same(failed, 0, "the daemon was killed %u times: nobody hangs, all attach anew", rounds);
	same((long long)lanes_stale(lanes), 0, "no lookup was stale");
}

/* ---- stop and go on ---- */

static int patient_main(int fd)
{
	char c;
	int r;

	r = lanes_attach(lanes, d.socket);
	if (r < 0)
		return 20;
	lanes_start(lanes);
	tell(fd, 'r');
	if (read(fd, &c, 1) != 1)
		return 21;
	lanes_stop(lanes);
	if (lanes_error(lanes, 0))
		return 22;
	/* the last munmap()s came back when they were read: their records may be a moment later */
	for (unsigned int i = 0; i < lanes->n; i++)
		if (lane_settle(&lanes->lane[i]))
			return 24;
	mirror_dispatch(lanes->ctx);
	tell(fd, 'e');
	if (read(fd, &c, 1) != 1)
		return 23;
	lanes_detach(lanes);
	return 0;
}

/* No turn for a while: each lane is in munmap(), or in a lookup that has to wait. */
static bool wait_still(void)
{
	uint64_t end = now_ms() + HANG_MS, turns = 0;
	unsigned int streak = 0;

	while (streak < 100 && now_ms() < end) {
		streak = lanes_turns(lanes) == turns ? streak + 1 : 0;
		turns = lanes_turns(lanes);
		nap_ms(1);
	}
	return streak == 100;
}

static void stop_and_go_on(void)
{
	unsigned long unmaps = 0, events = 0, lost = 0;
	int fd, status;
	pid_t pid;

	daemon_start(&d, NULL);
	pid = start_target(patient_main, &fd);
	ok(hear(fd, 'r') && wait_turns(50), "a storm");
	for (int i = 0; i < 3; i++) {
		kill(d.pid, SIGSTOP);
		waitid(P_PID, (id_t)d.pid, &(siginfo_t) { 0 }, WSTOPPED);
		ok(wait_still(), "the daemon is stopped: the target waits");
		kill(d.pid, SIGCONT);
		ok(wait_turns(50), "it goes on: so do they");
	}
	tell(fd, 's');
	ok(hear(fd, 'e'), "they end");
	for (unsigned int i = 0; i < lanes->n; i++) {
		unmaps += atomic_load(&lanes->lane[i].unmaps) + 1;	/* the last by the join */
		events += atomic_load(&lanes->lane[i].events);
		lost += atomic_load(&lanes->lane[i].lost);
	}
	same((long long)events, (long long)unmaps, "each change was told once");
	same((long long)lost, 0, "none was lost");
	same((long long)lanes_stale(lanes), 0, "no lookup was stale");
	tell(fd, 'x');
	status = child_wait(pid, HANG_MS);
	same(status, 0, "the target ends well");
	close(fd);
	same(daemon_stop(&d), 0, "the daemon ends well");
}

int main(int argc, char **argv)
{
	test_begin(argc, argv, 100, 280);
	daemon_init(&d);
	lanes = lanes_new(4, 0);
	stop_and_go_on();
	lanes = lanes_new(SINGLES, PAIRS);
	deaths((unsigned int)test_size(20, 50, 200));
	return test_end();
}
