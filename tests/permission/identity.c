/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who is who
 *
 * A connection carries the rights of the process that made it, as it was then.  That
 * process can end, and its pid become another's; it can execute a program of another
 * user's; and it can pass the connection on.  Nobody gains anything by that.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "scene.h"

#define SELF	(MIRROR_ATTACH_F_SELF | MIRROR_ATTACH_F_UFFD)
#define PENDING	MIRROR_ATTACH_F_PENDING

static enum way way;

static void start(struct person *p, uid_t uid)
{
	person_meet(p, uid, AS_USER, way);
}

/* @to speaks by @from's connection from now on. */
static void pass_connection(struct person *from, struct person *to)
{
	int fd;

	same(ask_with(from, DO_GIVE_CONNECTION, 0, -1, &fd), 0, "a connection is passed on");
	same(ask_with(to, DO_TAKE_CONNECTION, 0, fd, NULL), 0, "and taken");
	close(fd);
}

static void passed_on(void)
{
	struct person alice, other, bob;

	start(&alice, ALICE);
	start(&other, ALICE);
	start(&bob, BOB);
	pass_connection(&alice, &bob);
	ok(ask_attach(&bob, &other, PENDING) > 0,
	   "%s: by another's connection: what its maker may", way_name(way));
	same(ask_attach(&bob, &bob, PENDING), -EPERM, "%s: not what its maker may not",
	     way_name(way));
	same(ask_attach(&bob, &bob, SELF), -EPERM, "%s: who passes it on is not the target",
	     way_name(way));
	same(ask_attach(&bob, &other, SELF), -EPERM, "%s: nor is a third", way_name(way));
	person_end(&alice);
	same(ask_attach(&bob, &other, PENDING), -EPERM, "%s: when its maker is gone, nothing",
	     way_name(way));
	person_end(&other);
	person_end(&bob);
}

/* The pid of who connected is another's now, which not even its user may look into. */
static void pid_again(void)
{
	struct person first, second, accomplice;
	int old, new, pidfd;

	start(&first, ALICE);
	start(&accomplice, ALICE);
	pidfd = dup(first.pidfd);
	old = ask_attach(&accomplice, &first, PENDING);
	ok(old > 0, "%s: a process is attached to", way_name(way));
	pass_connection(&first, &accomplice);
	second.pid = first.pid;
	person_end(&first);
	person_start(&second, ALICE, WITH_PID);
	ok(second.pid == first.pid, "another process has its pid");
	same(ask(&second, DO_DUMPABLE, 0), 0, "it is not dumpable");
	same(ask_attach(&accomplice, &second, SELF), -EPERM,
	     "%s: it is not taken for who connected", way_name(way));
	same(ask_attach(&accomplice, &second, PENDING), -EPERM, "%s: nor observed",
	     way_name(way));
	same(ask(&accomplice, DO_CONNECT, (int)way), 0, "another connection");
	same(ask_with(&accomplice, DO_ATTACH, (int)PENDING, pidfd, NULL), -ESRCH,
	     "%s: the old pidfd is nobody's", way_name(way));
	same(ask(&second, DO_DUMPABLE, 1), 0, "it is dumpable again");
	new = ask_attach(&accomplice, &second, PENDING);
	ok(new > 0 && new != old, "%s: it is another target", way_name(way));
	close(pidfd);
	person_end(&second);
	person_end(&accomplice);
}

/* Another user's program begins where ours was. */
static void exec_of_others(void)
{
	struct person p, watcher;
	int target;

	start(&p, ALICE);
	start(&watcher, ALICE);
	same(ask(&watcher, DO_RING, 0), 0, "a ring");
	target = ask_attach(&watcher, &p, PENDING);
	same(ask(&watcher, DO_WATCH, target), 0, "%s: a process is waited for", way_name(way));
	pass_connection(&p, &watcher);
	same(ask(&p, DO_EXEC, BOBS), 0, "it executes another user's program");
	same(ask_attach(&watcher, &p, SELF), -EPERM, "%s: by its old connection: EPERM",
	     way_name(way));
	same(ask(&p, DO_BECOME, 0), 0, "which becomes that user");
	same(ask_attach(&watcher, &p, SELF), -EPERM, "%s: still", way_name(way));
	same(ask_attach(&watcher, &p, PENDING), -EPERM, "%s: EPERM to observe it too",
	     way_name(way));
	person_end(&watcher);
	person_end(&p);
}

static void watcher_of_exec(unsigned int n)
{
	struct person p, watcher[2];
	int target = 0, own;

	start(&p, ALICE);
	for (unsigned int i = 0; i < n; i++) {
		start(&watcher[i], ALICE);
		same(ask(&watcher[i], DO_RING, 0), 0, "a ring");
		target = ask_attach(&watcher[i], &p, PENDING);
		same(ask(&watcher[i], DO_WATCH, target), 0, "watcher %u waits", i);
	}
	same(ask(&p, DO_EXEC, BOBS), 0, "its target executes another user's program");
	same(ask(&p, DO_BECOME, 0), 0, "which becomes that user");
	same(ask(&p, DO_CONNECT, (int)way), 0, "and connects");
	own = ask(&p, DO_ATTACH_SELF, 0);
	ok(own > 0, "and attaches itself");
	same(ask(&p, DO_RING, 0), 0, "and makes a ring");
	same(ask(&p, DO_WATCH, own), 0, "and watches itself");
	same(ask(&p, DO_UNMAP, 0), 0, "and unmaps what was to be watched");
	same(ask(&p, DO_COUNT, 0), 1, "%s: which it is told", way_name(way));
	for (unsigned int i = 0; i < n; i++) {
		same(ask(&watcher[i], DO_COUNT, 0), 0, "%s: watcher %u of %u is told nothing",
		     way_name(way), i, n);
		same(ask(&watcher[i], DO_SEE, target), -ESRCH, "%s: and sees nothing",
		     way_name(way));
		person_end(&watcher[i]);
	}
	person_end(&p);
}

/*
 * The memory that was watched lives on in another process, so that its userfaultfd does
 * not tell that its owner is another program now.
 */
static void memory_kept(void)
{
	struct person p, watcher;
	int old, new, pidfd, pages;

	start(&p, ALICE);
	start(&watcher, ALICE);
	same(ask(&p, DO_CLEAR, 1), 0, "a page is empty");
	old = ask(&p, DO_ATTACH_SELF, 0);
	ok(old > 0, "%s: a process is a target", way_name(way));
	same(ask_attach(&watcher, &p, PENDING), old, "%s: which is watched", way_name(way));
	ok(ask_with(&p, DO_SHARED_CHILD, 0, -1, &pidfd) > 0, "its memory gets another user");
	same(ask(&p, DO_EXEC, BOBS), 0, "it executes another user's program");
	same(ask(&p, DO_BECOME, 0), 0, "which becomes that user");
	pages = ask(&watcher, DO_FILL, old);
	ok(pages <= 0, "%s: the watcher does not see into the new program", way_name(way));
	same(ask(&p, DO_CONNECT, (int)way), 0, "%s: that connects", way_name(way));
	new = ask(&p, DO_ATTACH_SELF, 0);
	ok(new > 0 && new != old, "%s: it is another target", way_name(way));
	same(ask(&p, DO_RING, 0), 0, "and makes a ring");
	same(ask(&p, DO_WATCH, new), 0, "and watches itself");
	same(ask(&p, DO_UNMAP, 0), 0, "and unmaps a page");
	same(ask(&p, DO_COUNT, 0), 1, "%s: which it is told", way_name(way));
	close(pidfd);
	person_end(&watcher);
	person_end(&p);
}

/* A capability that the process did not have when it connected. */
static void late_capability(void)
{
	struct person p, accomplice, bob;

	start(&bob, BOB);
	person_start(&p, ALICE, AS_USER);
	person_start(&accomplice, ALICE, AS_USER);
	kill(d.pid, SIGSTOP);
	same(ask(&p, DO_CONNECT, BY_SOCKET), 0, "a connection that is not accepted yet");
	pass_connection(&p, &accomplice);
	same(ask(&p, DO_EXEC, ROOTS), 0, "its maker executes a program of root's");
	kill(d.pid, SIGCONT);
	same(ask_attach(&accomplice, &bob, PENDING), -EPERM,
	     "the connection has none of root's rights");
	person_end(&p);
	person_end(&accomplice);
	person_end(&bob);
}

/* ---- what only the device has ---- */

static void passed_device(void)
{
	struct person alice, other, bob, root;
	int fd;

	start(&alice, ALICE);
	start(&other, ALICE);
	start(&bob, BOB);
	start(&root, 0);
	same(ask_with(&root, DO_OPEN_DEVICE, 0, -1, &fd), 0, "root opens the device");
	same(ask_with(&alice, DO_USE_DEVICE, 0, fd, NULL), -EPERM, "it is of no use to others");
	close(fd);
	same(ask_with(&alice, DO_OPEN_DEVICE, 0, -1, &fd), 0, "a user opens the device");
	same(ask_with(&bob, DO_USE_DEVICE, 0, fd, NULL), -EPERM, "it is of no use to others");
	same(ask_with(&root, DO_USE_DEVICE, 0, fd, NULL), -EPERM, "nor to root");
	same(ask_with(&other, DO_USE_DEVICE, 0, fd, NULL), 0, "but to the same user");
	ok(ask_attach(&other, &other, SELF) > 0, "who is itself by that");
	same(ask_attach(&other, &bob, PENDING), -EPERM, "and nobody else");
	close(fd);
	person_end(&alice);
	person_end(&other);
	person_end(&bob);
	person_end(&root);
}

/* A socket says who made it: a stranger's would be served with a stranger's rights. */
static void foreign_socket(void)
{
	struct person alice, bob;
	int pair[2];

	start(&alice, ALICE);
	start(&bob, BOB);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		bail("socketpair");
	same(ask_with(&alice, DO_OFFER, 0, pair[1], NULL), -EPERM, "a socketpair of root's");
	close(pair[0]);
	close(pair[1]);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		bail("socketpair");
	same(ask_with(&alice, DO_OFFER, 0, pair[1], NULL), -EBADMSG, "a stream");
	close(pair[0]);
	close(pair[1]);
	same(ask_with(&bob, DO_GIVE_CONNECTION, 0, -1, &pair[0]), 0, "a connection of BOB's");
	same(ask_with(&alice, DO_OFFER, 0, pair[0], NULL), -EPERM, "to mirrord itself");
	close(pair[0]);
	person_end(&alice);
	person_end(&bob);
}

int main(int argc, char **argv)
{
	scene_person(argc, argv);
	scene_begin(argc, argv, 100);
	scene_start(NULL);
	for (way = BY_SOCKET; way < WAYS; way++) {
		if (!has_way(way))
			continue;
		passed_on();
		pid_again();
		exec_of_others();
		watcher_of_exec(1);
		watcher_of_exec(2);
		memory_kept();
		if (way == BY_SOCKET) {
			late_capability();
		} else {
			passed_device();
			foreign_socket();
		}
	}
	scene_stop();
	return test_end();
}
