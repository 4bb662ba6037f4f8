/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is kept over a restart, and what is lost with the store
 *
 * Each scene has a few who watch a page, and something that happens to them, to mirrord
 * or to what is kept of it while it is away.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include "watch.h"

#define STORE_MAX	8192
#define N		3	/* who watch */

static struct kept kept;
static char *page;

/* SIGKILL, and until the next one serves, or until it is dead and held. */
static void kill_it(void)
{
	kept_do(&kept, "kill %d", SIGKILL);
	kept_do(&kept, "wait");
}

static void begin(const char *const *args)
{
	kept_start(&kept, args, STORE_MAX);
	page_map(page);
}

static void end(const char *what)
{
	struct mirror_stats stats = wait_stats(&kept, 0, 0);

	same(stats.clients + stats.targets + stats.notifiers + stats.channels, 0,
	     "%s: nothing is left", what);
	same(kept_report(&kept).late, 0, "%s: mirrord ends when it is told to", what);
	munmap(page, PAGE);
	kept_end(&kept);
}

static bool watch_n(struct watch *w, unsigned int n)
{
	bool good = true;

	for (unsigned int i = 0; i < n; i++)
		good = good && watch_self(&w[i], &kept, page, 0) == 0 && watch_look(&w[i]) == 0;
	return good;
}

/* A change is told, once, by the next record. */
static bool is_served(struct watch *w)
{
	unsigned int before;

	if (watch_look(w) < 0)
		return false;
	before = w->records;
	page_change(page);
	return !watch_is_good(w) && watch_look(w) == 0 && w->records == before + 1 &&
	       w->last.type == MIRROR_EVENT_UNMAP && !w->gaps;
}

/* ---- nothing happens ---- */

static void idle(unsigned int rounds)
{
	unsigned int old = 0, bad = 0;
	struct mirror_stats stats;
	struct watch w[N];
	long stored = 0;

	begin(NULL);
	ok(watch_n(w, N), "idle: %u watch a page", N);
	for (unsigned int i = 0; i < rounds; i++) {
		if (i % 2)
			kept_do(&kept, "restart");
		else
			kill_it();
		for (unsigned int k = 0; k < N; k++) {
			struct watch before = w[k];

			old += watch_is_good(&before);
			bad += watch_look(&w[k]) < 0 || !watch_is_good(&w[k]);
			old += watch_is_good(&before);	/* nor by what has been learnt now */
		}
		if (i == 0)
			stored = kept_report(&kept).stored;
	}
	same(old, 0, "idle, %u restarts: no version from before is good", rounds);
	same(bad, 0, "idle: each lookup finds a new one");
	same(kept_report(&kept).stored, stored, "idle: as much is kept as in the beginning");
	stats = ask_stats(&kept);
	same(stats.clients, N, "idle: as many clients");
	same(stats.targets, 1, "idle: one target");
	same(stats.notifiers, N, "idle: as many notifiers");
	same(stats.channels, N, "idle: as many rings");
	same(w[0].records + w[1].records + w[2].records, 0, "idle: nobody was told anything");
	ok(is_served(&w[0]), "idle: then the first change is told");
	for (unsigned int k = 0; k < N; k++)
		watch_end(&w[k]);
	end("idle");
}

/* ---- limits ---- */

#define LIMIT	10

static void on_nothing(struct mirror_notifier *notifier, const struct mirror_event *ev, void *data)
{
	(void)notifier;
	(void)ev;
	(void)data;
}

static int one_more(struct watch *w, struct mirror_notifier **ret)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_nothing };
	uint64_t at = (uintptr_t)page;

	return mirror_notifier_insert(ret, w->target, at, at + PAGE, &ops, NULL);
}

static void limits(void)
{
	static const char *const args[] = { "--max-notifiers", "10", NULL };
	struct mirror_notifier *more[LIMIT] = { NULL }, *none;
	struct watch w;
	unsigned int n = 0;
	int r;

	begin(args);
	ok(watch_n(&w, 1), "limits: somebody watches");
	do
		r = one_more(&w, &more[n]);
	while (r == 0 && ++n < LIMIT);
	same(r, -EDQUOT, "limits: one notifier too many");
	same(n, LIMIT - 1, "limits: after as many as there may be");
	for (unsigned int i = 0; i < 3; i++) {
		kill_it();
		same(one_more(&w, &none), -EDQUOT, "limits: nor is there room after a restart");
	}
	more[0] = mirror_notifier_remove(more[0]);
	same(one_more(&w, &more[0]), 0, "limits: what was given back can be had");
	same(one_more(&w, &none), -EDQUOT, "limits: and no more");
	for (unsigned int i = 0; i < n; i++)
		mirror_notifier_remove(more[i]);
	watch_end(&w);
	end("limits");
}

/* ---- parts of the store are lost ---- */

static void lost_client(char letter)
{
	unsigned int told = 0;
	struct watch w[N];

	begin(NULL);
	ok(watch_n(w, N), "'%c' lost: %u watch a page", letter, N);
	kept_do(&kept, "hold");
	kill_it();
	kept_do(&kept, "drop %s", kept_first(&kept, letter));
	kept_do(&kept, "go");
	kept_do(&kept, "wait");
	/* of one process: the library of the one that lost it unregisters the memory of all */
	for (unsigned int i = 0; i < N; i++)
		told += watch_is_told(&w[i]);
	same(told, N, "'%c' lost: who is of that process is told so", letter);
	for (unsigned int i = 0; i < N; i++)
		watch_end(&w[i]);
	end("a client lost");
}

/* One of the messages that make a client is lost; it goes on, or is told. */
static void lost_messages(unsigned int max)
{
	unsigned int bad = 0, told = 0;
	struct watch w, other;

	begin(NULL);
	for (unsigned int i = 1; i <= max; i++) {
		char *second = page + 2 * PAGE;

		kept_do(&kept, "lose %u", i);
		if (watch_self(&w, &kept, page, 0) < 0)
			bail("cannot watch");
		kill_it();
		kept_do(&kept, "lose 0");
		if (watch_look(&w) == -EPIPE) {
			told += watch_is_told(&w);
		} else if (!is_served(&w)) {
			note("it lost its message %u, and is not served", i);
			bad++;
		}
		watch_end(&w);
		/* that it was told is all: another one finds everything */
		page_map(second);
		if (watch_self(&other, &kept, second, 0) < 0 || watch_look(&other) < 0)
			bad++;
		watch_end(&other);
		munmap(second, PAGE);
	}
	same(bad, 0, "messages lost: who lost something is told or goes on");
	ok(told > 0, "messages lost: some are told");
	note("%u of %u are told", told, max);
	end("messages lost");
}

/* @command: what the keeper does with the state */
static void damaged(const char *what, const char *command, const char *arguments)
{
	unsigned int told = 0, names;
	struct watch w[N], new;

	begin(NULL);
	ok(watch_n(w, N), "%s: %u watch a page", what, N);
	kept_do(&kept, "hold");
	kill_it();
	kept_do(&kept, "%s %s %s", command, kept_first(&kept, 'S'), arguments);
	kept_do(&kept, "go");
	kept_do(&kept, "wait");
	for (unsigned int i = 0; i < N; i++) {
		told += watch_is_told(&w[i]);
		watch_end(&w[i]);
	}
	same(told, N, "%s: everybody is told", what);
	ok(watch_n(&new, 1) && is_served(&new), "%s: who comes anew is served", what);
	names = kept_count(&kept, 'c') + kept_count(&kept, 'g') + kept_count(&kept, 'S');
	same(names, 3, "%s: of what was kept nothing is", what);
	kill_it();
	ok(is_served(&new), "%s: and it is kept as well", what);
	watch_end(&new);
	end(what);
}

static void stopped(void)
{
	unsigned int told = 0;
	struct watch w[N], new;

	begin(NULL);
	ok(watch_n(w, N), "stop: %u watch a page", N);
	kept_do(&kept, "stop");
	/* at once: nobody is there to wait for */
	for (unsigned int i = 0; i < N; i++)
		told += !watch_is_good(&w[i]) && mirror_dispatch(w[i].ctx) == -EPIPE &&
			w[i].overflows == 1;
	same(told, N, "stop: everybody is told, as soon as it has stopped");
	page_change(page);		/* nobody waits */
	for (unsigned int i = 0; i < N; i++)
		watch_end(&w[i]);
	kept_do(&kept, "start");
	kept_do(&kept, "wait");
	ok(watch_n(&new, 1) && is_served(&new), "stop: after a start all is as ever");
	watch_end(&new);
	end("stop");
}

/* ---- processes that go while mirrord is away ---- */

/* A consumer; it tells by a byte that it watches, and waits for its end. */
static int consumer_main(int fd, pid_t pid)
{
	struct watch w;
	char c = 'r';

	if (watch_other(&w, &kept, pid, page, 0) < 0 || watch_look(&w) < 0)
		return 1;
	if (write(fd, &c, 1) != 1 || read(fd, &c, 1) < 0)
		return 2;
	return 0;
}

static void consumer_killed(void)
{
	struct mirror_stats stats;
	struct watch w;
	int pair[2];
	char c = 0;
	pid_t pid, self = getpid();

	begin(NULL);
	if (!watch_n(&w, 1) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		bail("cannot watch");
	pid = child_fork();
	if (!pid) {
		close(pair[0]);
		_exit(consumer_main(pair[1], self));
	}
	close(pair[1]);
	ok(read(pair[0], &c, 1) == 1 && c == 'r', "a consumer killed: it watches");
	kept_do(&kept, "hold");
	kill_it();
	child_kill(pid);
	kept_do(&kept, "go");
	kept_do(&kept, "wait");
	stats = wait_stats(&kept, 1, 1);
	same(stats.clients, 1, "a consumer killed: it is gone, the other is not");
	same(stats.notifiers, 1, "a consumer killed: so is its notifier");
	same(kept_count(&kept, 'c'), 1, "a consumer killed: nothing of it is kept");
	ok(is_served(&w), "a consumer killed: the other goes on");
	watch_end(&w);
	close(pair[0]);
	end("a consumer killed");
}

/* Attaches itself, detaches when told to, and changes its memory. */
static int detaching_main(int fd)
{
	struct watch w;
	char c = 'r';

	page_map(page);
	if (watch_self(&w, &kept, page, 0) < 0 || watch_look(&w) < 0)
		return 1;
	if (write(fd, &c, 1) != 1 || read(fd, &c, 1) != 1)
		return 2;
	watch_end(&w);
	page_change(page);
	return write(fd, &c, 1) != 1;
}

/* What is kept of it meanwhile must not hold it up. */
static void detached(void)
{
	struct pollfd pfd = { .events = POLLIN };
	int pair[2];
	char c = 0;
	pid_t pid;

	kept_start(&kept, NULL, STORE_MAX);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		bail("socketpair");
	pid = child_fork();
	if (!pid) {
		close(pair[0]);
		_exit(detaching_main(pair[1]));
	}
	close(pair[1]);
	pfd.fd = pair[0];
	ok(read(pair[0], &c, 1) == 1 && c == 'r', "detached, slow manager: it was a target");
	kept_do(&kept, "slow 1000000");
	if (write(pair[0], &c, 1) != 1)
		bail("the target is gone");
	ok(poll(&pfd, 1, 10000) > 0 && read(pair[0], &c, 1) == 1,
	   "detached, slow manager: it changes its memory as it likes");
	kept_do(&kept, "slow 0");
	same(child_wait(pid, 20000), 0, "detached, slow manager: it ends well");
	close(pair[0]);
	page_map(page);
	end("detached, slow manager");
}

enum last { BY_KILL, BY_EXIT, BY_EXEC, BY_FORK };

/* Attaches itself, tells so, waits for a byte, and ends. */
static int target_main(int fd, enum last how)
{
	struct watch w;
	char c = 'r';
	pid_t pid;

	page_map(page);
	if (watch_self(&w, &kept, page, 0) < 0 || watch_look(&w) < 0)
		return 1;
	if (write(fd, &c, 1) != 1 || read(fd, &c, 1) < 0)
		return 2;
	if (how == BY_EXEC) {
		dup2(fd, STDIN_FILENO);
		execl("/bin/cat", "cat", NULL);
	}
	if (how != BY_FORK)
		return 0;
	pid = fork();
	if (pid == 0) {
		page_change(page);	/* told to who follows */
		_exit(read(fd, &c, 1) < 0);
	}
	return pid < 0 || read(fd, &c, 1) < 0;
}

static pid_t start_target(enum last how, int *ret_fd)
{
	int pair[2];
	char c = 0;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		bail("socketpair");
	pid = child_fork();
	if (!pid) {
		close(pair[0]);
		_exit(target_main(pair[1], how));
	}
	close(pair[1]);
	if (read(pair[0], &c, 1) != 1 || c != 'r')
		bail("the target does not start");
	*ret_fd = pair[0];
	return pid;
}

static void wait_exec(pid_t pid)
{
	uint64_t until = now_ms() + 20000;
	char path[48], name[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	while (strcmp(name, "cat\n") && now_ms() < until) {
		f = fopen(path, "re");
		if (!f || !fgets(name, sizeof(name), f))
			*name = 0;
		if (f)
			fclose(f);
		nap_ms(1);
	}
}

static void check_end(struct watch *w, enum last how, const char *what)
{
	if (how == BY_FORK) {
		ok(watch_wait(w, MIRROR_EVENT_UNMAP), "%s: the child's change is told", what);
		same(w->fork.type, MIRROR_EVENT_FORK, "%s: after that it is there", what);
		ok(w->fork.arg.fork.target, "%s: and followed", what);
		same(w->last.target, w->fork.arg.fork.target, "%s: as the child's", what);
		return;
	}
	ok(watch_wait(w, MIRROR_EVENT_RELEASE), "%s: it is told", what);
	same(w->last.cause, how == BY_EXEC ? MIRROR_CAUSE_EXEC : MIRROR_CAUSE_EXIT,
	     "%s: with its cause", what);
	same(w->gaps, 0, "%s: records have no gaps", what);
}

static void target_ends(enum last how, const char *what)
{
	struct watch w;
	pid_t pid;
	int fd;

	kept_start(&kept, NULL, STORE_MAX);
	pid = start_target(how, &fd);
	if (watch_other(&w, &kept, pid, page, how == BY_FORK ? MIRROR_NOTIFIER_FOLLOW_FORK : 0) < 0)
		bail("cannot watch the target");
	same(watch_look(&w), 0, "%s: somebody watches", what);
	kept_do(&kept, "hold");
	kill_it();
	if (how == BY_KILL)
		child_kill(pid);
	else if (write(fd, "e", 1) != 1)
		bail("the target is gone");
	if (how == BY_EXIT)
		same(child_wait(pid, 20000), 0, "%s: it ends, mirrord or not", what);
	else if (how == BY_EXEC)
		wait_exec(pid);
	kept_do(&kept, "go");
	kept_do(&kept, "wait");
	check_end(&w, how, what);
	watch_end(&w);
	close(fd);
	if (how == BY_EXEC || how == BY_FORK)
		same(child_wait(pid, 20000), 0, "%s: it ends well", what);
	page_map(page);
	end(what);
}

int main(int argc, char **argv)
{
	test_begin(argc, argv, 150, 280);
	kept_init(&kept);
	page = watch_page();
	idle((unsigned int)test_size(20, 40, 100));
	limits();
	for (const char *p = "cpqwk"; *p; p++)
		lost_client(*p);
	lost_messages(10);
	damaged("noise in the state", "fill", "");
	damaged("another version", "poke", "4 999");
	stopped();
	consumer_killed();
	detached();
	target_ends(BY_KILL, "target killed");
	target_ends(BY_EXIT, "target exits");
	target_ends(BY_EXEC, "target executes");
	target_ends(BY_FORK, "target forks");
	return test_end();
}
