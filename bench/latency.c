/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * bench-latency: how long until a consumer knows
 *
 *	how=mirror|reader	who tells: mirrord, or a bare userfaultfd
 *	in=thread|process	where the consumer is; the process attaches by pidfd
 *	wait=busy|sleep|poll	it dispatches all the time, is in mirror_wait(), or in
 *				poll(2) on mirror_ctx_get_fd()
 *	cpu=N, reader=N		bind the acting thread, the consumer
 *
 * From just before munmap() until the consumer's callback, or the bare read(2),
 * has it.  The acting thread sleeps until then, so at most one change is under way.
 */

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "session.h"
#include "uffd.h"

/* In memory that both processes have. */
struct board {
	uint64_t told_ns;	/* when the consumer knew of the newest change */
	uint32_t n_told;	/* changes it knows of; futex */
	uint32_t active;	/* a turn is on; futex */
	uint32_t ready;		/* it watches; futex */
};

static struct board *board;
static struct mirror_ctx *ctx;
static struct mirror_target *target;
static char *page;
static int uffd = -1, cpu = -1, reader_cpu = -1;
static const char *wait_kind;
static char **args;
static bool bare, apart;
static uint32_t n_changes;

static void futex_wait(uint32_t *word, uint32_t value)
{
	struct timespec limit = { .tv_sec = PATIENCE_NS / 1000000000 };

	if (syscall(SYS_futex, word, FUTEX_WAIT, value, &limit, NULL, 0) < 0 &&
	    errno == ETIMEDOUT)
		fail("a change was never told");
}

static void futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void set_word(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
	futex_wake(word);
}

static uint32_t get_word(uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void told(uint64_t now)
{
	board->told_ns = now;
	set_word(&board->n_told, board->n_told + 1);
}

static void on_change(struct mirror_notifier *n, const struct mirror_event *ev, void *userdata)
{
	uint64_t now = now_ns();

	(void)n;
	(void)userdata;
	if (ev->type == MIRROR_EVENT_UNMAP && ev->start == (uintptr_t)page)
		told(now);
	else if (ev->type != MIRROR_EVENT_RELEASE)
		fail("an event of type %d", ev->type);
}

static void read_events(void)
{
	struct uffd_msg msg;

	for (;;) {
		if (read(uffd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		if (msg.event == UFFD_EVENT_UNMAP)
			told(now_ns());
	}
}

static void consume_busy(void)
{
	for (;;) {
		/* no limit: between turns it may take long */
		while (!get_word(&board->active))
			syscall(SYS_futex, &board->active, FUTEX_WAIT, 0, NULL, NULL, 0);
		while (get_word(&board->active))
			must(mirror_dispatch(ctx), "mirror_dispatch");
	}
}

static void consume_poll(void)
{
	struct pollfd pfd = { .fd = mirror_ctx_get_fd(ctx), .events = POLLIN };
	int r;

	for (;;) {
		r = mirror_prepare_wait(ctx);
		must(r, "mirror_prepare_wait");
		if (r == 0)
			poll(&pfd, 1, -1);
		must(mirror_dispatch(ctx), "mirror_dispatch");
	}
}

static void *consume(void *unused)
{
	pin(reader_cpu);
	if (bare)
		read_events();
	session_watch(target, page, PAGE, on_change, NULL);
	set_word(&board->ready, 1);
	if (!strcmp(wait_kind, "busy"))
		consume_busy();
	if (!strcmp(wait_kind, "poll"))
		consume_poll();
	for (;;)
		must(mirror_wait(ctx, -1), "mirror_wait");
	return unused;
}

/* The consumer in a process of its own; its parent is a target by now. */
static void consume_apart(pid_t parent)
{
	struct mirror_attach_opts opts = MIRROR_ATTACH_OPTS_INIT;
	int pidfd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!get_word(&board->active))
		futex_wait(&board->active, 0);
	pidfd = (int)syscall(SYS_pidfd_open, parent, 0);
	must(pidfd < 0 ? -errno : 0, "pidfd_open");
	ctx = session_open(args, 0);
	must(mirror_target_attach(&target, ctx, pidfd, -1, &opts), "mirror_target_attach");
	consume(NULL);
}

static void start_mirror(void)
{
	pid_t parent = getpid(), child = apart ? fork() : 1;
	pthread_t thread;

	must(child < 0 ? -errno : 0, "fork");
	if (child == 0)
		consume_apart(parent);
	ctx = session_open(args, 0);
	target = session_attach(ctx, 0);
	page_release(page);
	set_word(&board->active, 1);
	if (!apart)
		must(-pthread_create(&thread, NULL, consume, NULL), "pthread_create");
	while (!get_word(&board->ready))
		futex_wait(&board->ready, 0);
	set_word(&board->active, 0);
}

static void start_bare(void)
{
	pthread_t thread;

	uffd = uffd_open(0, UFFD_HAS_WP_ASYNC | UFFD_HAS_WP_UNPOPULATED);
	if (uffd == -EINVAL)
		uffd = uffd_open(0, 0);
	must(uffd, "UFFDIO_API");
	page_release(page);
	must(-pthread_create(&thread, NULL, consume, NULL), "pthread_create");
}

static void arm(void)
{
	if (bare)
		must(uffd_register(uffd, page, PAGE, UFFDIO_REGISTER_MODE_WP),
		     "UFFDIO_REGISTER");
	else
		session_arm(target, page, PAGE);
}

static void run_munmap(unsigned int count)
{
	static struct samples latency = { .name = "latency" }, call = { .name = "munmap" };
	uint64_t t;

	set_word(&board->active, 1);
	for (unsigned int i = 0; i < count; i++) {
		page_map(page);
		arm();
		t = now_ns();
		page_unmap(page);
		samples_add(&call, now_ns() - t);
		n_changes++;
		while (get_word(&board->n_told) != n_changes)
			futex_wait(&board->n_told, n_changes - 1);
		samples_add(&latency, board->told_ns - t);
	}
	set_word(&board->active, 0);
	samples_say(&latency);
	samples_say(&call);
}

int main(int argc, char **argv)
{
	static const struct turn turns[] = { { "munmap", run_munmap } };

	(void)argc;
	args = argv;
	bare = !strcmp(option_text(argv, "how", "mirror"), "reader");
	apart = !strcmp(option_text(argv, "in", "thread"), "process");
	wait_kind = option_text(argv, "wait", "sleep");
	cpu = cpu_at((int)option_number(argv, "cpu", -1));
	reader_cpu = cpu_at((int)option_number(argv, "reader", -1));
	board = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	page = page_reserve();
	if (bare)
		start_bare();
	else
		start_mirror();
	pin(cpu);
	take_turns(turns, ARRAY_SIZE(turns));
	if (!bare && session_events(ctx, target) != n_changes)
		fail("the daemon read another number of changes");
	printf("done changes=%u told=%u\n", n_changes, board->n_told);
	fflush(stdout);
	_exit(0);
}
