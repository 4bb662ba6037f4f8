/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Limits: of users, and of the daemon itself
 *
 * Who reaches one is told so, exactly; nobody else notices; and when there is room
 * again everything is as before.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "raw.h"

#define SOME	0x10000000UL
#define OTHER	65534
#define CLIENTS	1024	/* that one user may have */
#define FEW	48	/* descriptors */

static struct daemon d;

static pid_t sleeper(void)
{
	pid_t pid = child_fork();

	if (!pid)
		for (;;)
			pause();
	return pid;
}

static int attach_pending(int sock, pid_t pid)
{
	struct mirror_attach a = { .size = sizeof(a), .flags = MIRROR_ATTACH_F_PENDING };
	int fd = raw_pidfd(pid), r;

	r = raw_call(sock, MIRROR_OP_ATTACH, &a, sizeof(a), &fd, 1, NULL);
	close(fd);
	return r;
}

static void serve_other_user(const char *after)
{
	if (getuid())
		skip("only root can become another user", after);
	else
		check_service(&d, after, OTHER);
}

static void notifiers(void)
{
	struct mirror_notifier_remove remove = { .size = sizeof(remove) };
	struct mirror_info info = { .size = sizeof(info) };
	int sock = raw_connect(d.socket), again = raw_connect(d.socket), target, r = 0, n = 0;
	uint32_t id, first = 0;
	struct reply ring;

	same(raw_call(sock, MIRROR_OP_INFO, &info, sizeof(info), NULL, 0, NULL), 0, "INFO");
	same(info.max_notifiers, 10, "it tells the limit of notifiers");
	same(info.max_targets, 2, "and of targets");
	same(info.max_channels, 3, "and of rings");

	target = raw_attach_self(sock, NULL);
	r = raw_channel(sock, 16, &ring);
	reply_close(&ring);
	for (; n < 20 && r == 0; n++) {
		r = raw_insert(sock, (uint32_t)target, SOME, SOME + PAGE, &id);
		first = first ? first : id;
	}
	same(r, -EDQUOT, "one notifier too many");
	same(n, 11, "it was the eleventh");
	/* the same user, another connection */
	r = raw_channel(again, 16, &ring);
	reply_close(&ring);
	raw_attach_self(again, NULL);
	same(raw_insert(again, (uint32_t)target, SOME, SOME + PAGE, NULL), -EDQUOT,
	     "also from another connection");
	serve_other_user("notifiers at the limit");
	remove.notifier = first;
	same(raw_call(sock, MIRROR_OP_NOTIFIER_REMOVE, &remove, sizeof(remove), NULL, 0, NULL), 0,
	     "one goes");
	same(raw_insert(again, (uint32_t)target, SOME, SOME + PAGE, NULL), 0, "another comes");
	close(again);
	/* its end comes by another way than our request: it may be told a bit later */
	do {
		r = raw_insert(sock, (uint32_t)target, SOME, SOME + PAGE, NULL);
	} while (r == -EDQUOT && ++n < 20000);
	same(r, 0, "a connection that closes frees what it had");
	close(sock);
}

static void targets(void)
{
	int sock = raw_connect(d.socket);
	pid_t pids[3];

	for (int i = 0; i < 3; i++)
		pids[i] = sleeper();
	check_empty(sock, "before the targets");
	same(attach_pending(sock, pids[0]), 0, "the first target");
	same(attach_pending(sock, pids[1]), 0, "the second target");
	same(attach_pending(sock, pids[2]), -EDQUOT, "one target too many");
	same(attach_pending(sock, pids[1]), 0, "the second again is no new one");
	serve_other_user("targets at the limit");
	for (int i = 0; i < 3; i++)
		child_kill(pids[i]);
	close(sock);
}

static void rings(void)
{
	int socks[4], r[4];
	struct reply ring;

	for (int i = 0; i < 4; i++) {
		socks[i] = raw_connect(d.socket);
		r[i] = raw_channel(socks[i], 16, &ring);
		reply_close(&ring);
	}
	ok(r[0] == 0 && r[1] == 0 && r[2] == 0, "three rings");
	same(r[3], -EDQUOT, "one ring too many");
	serve_other_user("rings at the limit");
	close(socks[0]);
	for (int i = 0; i < 2000 && r[3] == -EDQUOT; i++) {
		r[3] = raw_channel(socks[3], 16, &ring);
		reply_close(&ring);
		nap_ms(1);
	}
	same(r[3], 0, "there is room again");
	for (int i = 1; i < 4; i++)
		close(socks[i]);
}

static void clients(void)
{
	struct mirror_stats s = { .size = sizeof(s) };
	struct reply reply;
	static int socks[CLIENTS];
	int extra;

	for (int i = 0; i < CLIENTS; i++)
		socks[i] = raw_connect(d.socket);
	same(raw_call(socks[CLIENTS - 1], MIRROR_OP_STATS, &s, sizeof(s), NULL, 0, NULL), 0,
	     "%d clients", CLIENTS);
	extra = raw_connect(d.socket);
	same(raw_recv(extra, &reply), 1, "one client too many is answered");
	same(reply.msg.error, EDQUOT, "why");
	same(raw_recv(extra, &reply), 0, "and hung up on");
	close(extra);
	serve_other_user("clients at the limit");
	for (int i = 1; i < CLIENTS; i++)
		close(socks[i]);
	check_empty(socks[0], "many clients");
	close(socks[0]);
}

/* ---- no descriptor left ---- */

/* A target that forks when told to, and says that fork() returned. */
static int forker(void)
{
	int sock = raw_connect(d.socket), target, status = -1;
	struct reply ring;
	uint64_t at;
	pid_t pid;
	char c;
	char *p;

	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	at = (uintptr_t)p;
	if (raw_channel(sock, 16, &ring) < 0)
		return 2;
	target = raw_attach_self(sock, NULL);
	if (target <= 0 || raw_insert(sock, (uint32_t)target, at, at + PAGE, NULL) < 0)
		return 3;
	if (write(STDERR_FILENO, "r", 1) != 1 || read(STDERR_FILENO, &c, 1) != 1)
		return 4;
	pid = fork();
	if (!pid)
		_exit(0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		return 5;
	return munmap(p, PAGE) < 0 ? 6 : 0;
}

static pid_t start_forker(int *ret_fd)
{
	int pair[2];
	pid_t pid;
	char c;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		bail("socketpair");
	pid = child_fork();
	if (!pid) {
		dup2(pair[1], STDERR_FILENO);
		close(pair[0]);
		_exit(forker());
	}
	close(pair[1]);
	if (read(pair[0], &c, 1) != 1)
		bail("the target does not start");
	*ret_fd = pair[0];
	return pid;
}

/* Clients until one is refused: how many were let in. */
static int fill(int *socks, int max)
{
	struct mirror_stats s = { .size = sizeof(s) };
	struct reply reply;
	int n = 0, fd;

	for (; n < max; n++) {
		fd = raw_connect(d.socket);
		/* not asking: who is refused is told so without */
		if (raw_call(fd, MIRROR_OP_STATS, &s, sizeof(s), NULL, 0, &reply) < 0) {
			close(fd);
			break;
		}
		socks[n] = fd;
	}
	return n;
}

static void descriptors(void)
{
	int sock = raw_connect(d.socket), extra, fork_fd, socks[FEW], n;
	struct mirror_stats s = { .size = sizeof(s) };
	struct reply reply;
	pid_t target;

	target = start_forker(&fork_fd);
	n = fill(socks, FEW);
	note("%d more clients in %d descriptors", n, FEW);
	ok(n > 2 && n < FEW, "the daemon runs out of descriptors");

	same(raw_channel(sock, 16, &reply), -EMFILE, "no descriptor left: a ring");
	same(attach_pending(sock, getpid()), -EMFILE, "no descriptor left: attaching");
	extra = raw_connect(d.socket);
	same(raw_recv(extra, &reply), 1, "no descriptor left: a new client is answered");
	same(reply.msg.error, EMFILE, "why");
	same(raw_recv(extra, &reply), 0, "and hung up on");
	close(extra);
	if (write(fork_fd, "g", 1) != 1)
		bail("write");
	same(child_wait(target, 30000), 0, "no descriptor left: a target that forks goes on");
	same(raw_call(sock, MIRROR_OP_STATS, &s, sizeof(s), NULL, 0, NULL), 0,
	     "no descriptor left: who is there is served");

	while (n > 0)
		close(socks[--n]);
	check_empty(sock, "room again");
	same(raw_channel(sock, 16, &reply), 0, "room again: a ring");
	reply_close(&reply);
	check_service(&d, "room again", 0);
	close(fork_fd);
	close(sock);
}

static void restart(const char *const *args)
{
	int sock = raw_connect(d.socket);

	check_empty(sock, "in the end");
	close(sock);
	same(daemon_stop(&d), 0, "the daemon ends well");
	daemon_start(&d, args);
}

int main(int argc, char **argv)
{
	static const char *const few[] = {
		"--max-notifiers", "10", "--max-targets", "2", "--max-channels", "3", NULL,
	};
	struct rlimit lim;

	test_begin(argc, argv, 120, 120);
	daemon_init(&d);
	daemon_start(&d, few);
	notifiers();
	targets();
	rings();
	d.nofile = FEW;
	restart(NULL);
	descriptors();
	d.nofile = 0;
	restart(NULL);
	if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_max > 2 * CLIENTS + 200) {
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
		clients();
	} else {
		skip("RLIMIT_NOFILE is too small", "one client too many");
	}
	restart(NULL);
	same(daemon_stop(&d), 0, "the daemon ends well");
	return test_end();
}
