/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * bench-targets: many processes that change their memory at the same time
 *
 *	targets=N	processes, each a target and a consumer
 *
 *	munmap		the call, in all of them
 *	change		time of a turn divided by the changes of all, in picoseconds
 *
 * Each dispatches what it was told at the end of the turn, and counts it.
 */

#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "session.h"

#define TARGETS_MAX 200
#define EACH_MAX 100	/* changes of one process in one turn */

struct board {
	uint32_t turn;		/* number of the turn; futex */
	uint32_t each;		/* changes that each makes in it */
	uint32_t n_done;	/* processes that have come so far; futex */
	uint32_t n_failed;
	uint64_t value[TARGETS_MAX][EACH_MAX];
};

static struct board *board;
static uint32_t n_targets;
static pid_t children[TARGETS_MAX];

static void futex_wait(uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

static void futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void on_change(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	(void)n;
	if (ev->type == MIRROR_EVENT_UNMAP)
		++*(uint64_t *)userdata;
}

static void arrive(bool ok)
{
	if (!ok)
		__atomic_fetch_add(&board->n_failed, 1, __ATOMIC_RELEASE);
	__atomic_fetch_add(&board->n_done, 1, __ATOMIC_RELEASE);
	futex_wake(&board->n_done);
}

static bool turn_of_child(struct mirror_ctx *ctx, struct mirror_target *target, char *page,
			  uint64_t *value, const uint64_t *n_heard)
{
	uint64_t due = *n_heard + board->each, deadline, t;

	for (uint32_t i = 0; i < board->each; i++) {
		page_map(page);
		session_arm(target, page, PAGE);
		t = now_ns();
		page_unmap(page);
		value[i] = now_ns() - t;
	}
	deadline = now_ns() + PATIENCE_NS;
	while (*n_heard < due && now_ns() < deadline)
		must(mirror_wait(ctx, 1000), "mirror_wait");
	return *n_heard == due;
}

static void child(char **argv, uint32_t index)
{
	struct mirror_target *target;
	struct mirror_ctx *ctx;
	uint64_t n_heard = 0;
	uint32_t turn = 0;
	char *page;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	page = page_reserve();
	ctx = session_open(argv, 1024);
	target = session_attach(ctx, 0);
	page_release(page);
	session_watch(target, page, PAGE, on_change, &n_heard);
	arrive(true);
	for (;;) {
		while (__atomic_load_n(&board->turn, __ATOMIC_ACQUIRE) == turn)
			futex_wait(&board->turn, turn);
		turn++;
		arrive(turn_of_child(ctx, target, page, board->value[index], &n_heard));
	}
}

static void wait_all(void)
{
	uint64_t deadline = now_ns() + 6 * PATIENCE_NS;
	uint32_t n;

	while ((n = __atomic_load_n(&board->n_done, __ATOMIC_ACQUIRE)) != n_targets) {
		struct timespec limit = { .tv_sec = 1 };

		if (now_ns() > deadline || waitpid(-1, NULL, WNOHANG) > 0)
			fail("only %u of %u processes came", n, n_targets);
		syscall(SYS_futex, &board->n_done, FUTEX_WAIT, n, &limit, NULL, 0);
	}
	if (board->n_failed)
		fail("%u processes were not told of all their changes", board->n_failed);
}

static void run_munmap(unsigned int each)
{
	static struct samples call = { .name = "munmap" }, change = { .name = "change" };
	uint64_t t;

	if (each > EACH_MAX)
		fail("at most %d each", EACH_MAX);
	board->each = each;
	board->n_done = 0;
	t = now_ns();
	__atomic_fetch_add(&board->turn, 1, __ATOMIC_RELEASE);
	futex_wake(&board->turn);
	wait_all();
	samples_add(&change, (now_ns() - t) * 1000 / ((uint64_t)n_targets * each));
	for (uint32_t i = 0; i < n_targets; i++)
		for (uint32_t k = 0; k < each; k++)
			samples_add(&call, board->value[i][k]);
	samples_say(&call);
	samples_say(&change);
}

int main(int argc, char **argv)
{
	static const struct turn turns[] = { { "munmap", run_munmap } };

	(void)argc;
	n_targets = (uint32_t)option_number(argv, "targets", 1);
	if (!n_targets || n_targets > TARGETS_MAX)
		fail("1 to %d targets", TARGETS_MAX);
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		     -1, 0);
	if (board == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	fflush(stdout);
	for (uint32_t i = 0; i < n_targets; i++) {
		children[i] = fork();
		must(children[i] < 0 ? -errno : 0, "fork");
		if (children[i] == 0)
			child(argv, i);
	}
	wait_all();
	take_turns(turns, ARRAY_SIZE(turns));
	for (uint32_t i = 0; i < n_targets; i++)
		kill(children[i], SIGKILL);
	printf("done targets=%u\n", n_targets);
	return 0;
}
