/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Namespaces: of users, where everybody can be root, and of processes; and a mirrord
 * that is not root of the machine
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "scene.h"

#define CAROL	65531
#define START_MS	20000

static enum way way;

static bool has_user_namespaces(void)
{
	int status = -1;
	pid_t pid = fork();

	if (!pid)
		_exit(unshare(CLONE_NEWUSER) < 0);
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static void user_namespace(void)
{
	struct person inner, outer, bob, child = { .sock = -1 };

	if (!has_user_namespaces()) {
		skip("no user namespace can be had, as in a chroot", "a client in one");
		return;
	}
	person_start(&inner, ALICE, AS_USER);
	person_meet(&outer, ALICE, AS_USER, way);
	person_meet(&bob, BOB, AS_USER, way);
	same(ask(&inner, DO_USER_NAMESPACE, 0), 0, "a user becomes root in its own namespace");
	same(ask(&inner, DO_CONNECT, (int)way), 0, "%s: and connects", way_name(way));
	judge(&inner, &bob, false, "another user's process");
	judge(&inner, &outer, false, "its own user's, outside");
	judge(&outer, &inner, true, "its own user from outside");
	judge(&bob, &inner, false, "another user from outside");
	child.pid = ask_with(&inner, DO_CHILD, 0, -1, &child.pidfd);
	judge(&inner, &child, true, "a process in the same namespace");
	judge(&outer, &child, true, "the same from outside");
	ok(ask(&inner, DO_ATTACH_SELF, 0) > 0, "%s: it attaches itself", way_name(way));
	close(child.pidfd);
	person_end(&inner);
	person_end(&outer);
	person_end(&bob);
}

/* Is that process in what mirrorctl says? */
static bool is_listed(pid_t pid)
{
	char command[300], line[1000], number[24];
	bool found = false;
	FILE *f;

	snprintf(command, sizeof(command), "MIRROR_SOCKET=%s %s list --json", d.socket,
		 getenv("MIRRORCTL"));
	snprintf(number, sizeof(number), "\"pid\":%d,", (int)pid);
	f = popen(command, "re");
	while (f && fgets(line, sizeof(line), f))
		found |= strstr(line, number) != NULL;
	if (f)
		pclose(f);
	return found;
}

static pid_t pid_of(int pidfd)
{
	char path[40], line[100];
	int pid = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	f = fopen(path, "re");
	while (f && pid < 0 && fgets(line, sizeof(line), f))
		if (sscanf(line, "Pid: %d", &pid) != 1)
			pid = -1;
	if (f)
		fclose(f);
	return pid;
}

static void pid_namespace(void)
{
	struct person p;
	int child, pidfd;

	person_start(&p, ALICE, IN_PID_NAMESPACE);
	same(ask(&p, DO_CONNECT, (int)way), 0, "%s: the init of a namespace connects",
	     way_name(way));
	ok(ask(&p, DO_ATTACH_SELF, 0) > 0, "%s: and attaches itself", way_name(way));
	child = ask_with(&p, DO_CHILD, 0, -1, &pidfd);
	same(child, 2, "there its child is number 2");
	ok(ask_with(&p, DO_ATTACH, MIRROR_ATTACH_F_PENDING, pidfd, NULL) > 0,
	   "%s: it attaches to that", way_name(way));
	ok(is_listed(p.pid), "mirrorctl lists it by the number that it has here");
	ok(is_listed(pid_of(pidfd)), "and its child");
	ok(!is_listed(child), "and not by the number that it has there");
	close(pidfd);
	person_end(&p);
}

/* ---- mirrord itself elsewhere ---- */

static void exec_daemon(const char *path)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	unsetenv("NOTIFY_SOCKET");
	execl(getenv("MIRROR_DAEMON"), "mirrord", "--socket", path, NULL);
	_exit(95);
}

static void run_in_pid_namespace(const char *path)
{
	pid_t pid;

	if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
		_exit(96);
	pid = fork();
	if (pid < 0)
		_exit(97);
	if (!pid) {
		if (mount("proc", "/proc", "proc", 0, NULL) < 0)
			_exit(98);
		exec_daemon(path);
	}
	waitpid(pid, NULL, 0);
	_exit(0);
}

static void run_as_user(const char *path)
{
	if (setresgid(CAROL, CAROL, CAROL) < 0 || setresuid(CAROL, CAROL, CAROL) < 0)
		_exit(99);
	exec_daemon(path);
}

static void run_in_user_namespace(const char *path)
{
	if (setresgid(CAROL, CAROL, CAROL) < 0 || setresuid(CAROL, CAROL, CAROL) < 0 ||
	    prctl(PR_SET_DUMPABLE, 1) < 0 || become_root_in_namespace() < 0)
		_exit(99);
	exec_daemon(path);
}

/* From now on it is the one that persons connect to. */
static pid_t start_inside(void (*run)(const char *path))
{
	uint64_t end = now_ms() + START_MS;
	pid_t pid;
	int sock;

	snprintf(d.socket, sizeof(d.socket), "%.30s/inside", d.dir);
	if (mkdir(d.socket, 0777) < 0 || chmod(d.socket, 0777) < 0)
		bail("cannot make %s: %s", d.socket, strerror(errno));
	strcat(d.socket, "/control");
	pid = child_fork();
	if (!pid)
		run(d.socket);
	while (raw_try_connect(d.socket, &sock) < 0) {
		if (now_ms() > end)
			bail("the daemon does not start there");
		nap_ms(2);
	}
	close(sock);
	return pid;
}

static void stop_inside(pid_t pid)
{
	child_kill(pid);
	unlink(d.socket);
	*strrchr(d.socket, '/') = 0;
	rmdir(d.socket);
	snprintf(d.socket, sizeof(d.socket), "%.30s/control", d.dir);
}

static void daemon_in_pid_namespace(void)
{
	pid_t pid = start_inside(run_in_pid_namespace);
	struct reply reply;
	int sock = raw_connect(d.socket);

	same(raw_recv(sock, &reply), 1, "mirrord in a pid namespace answers who is outside");
	same(reply.msg.error, EXDEV, "why it cannot be served");
	same(raw_recv(sock, &reply), 0, "and hangs up");
	close(sock);
	stop_inside(pid);
}

/* It sees less itself, and so is no help to others. */
static void daemon_of_a_user(void)
{
	pid_t pid = start_inside(run_as_user);
	struct person carol, other, alice;

	person_meet(&carol, CAROL, AS_USER, BY_SOCKET);
	person_meet(&other, CAROL, AS_USER, BY_SOCKET);
	person_meet(&alice, ALICE, AS_USER, BY_SOCKET);
	ok(ask(&carol, DO_ATTACH_SELF, 0) > 0, "mirrord of a user: that user's process");
	judge(&other, &carol, true, "seen by another of them");
	judge(&alice, &carol, false, "by another user");
	same(ask(&carol, DO_DUMPABLE, 0), 0, "it is not dumpable");
	judge(&other, &carol, false, "then by nobody");
	person_end(&carol);
	person_end(&other);
	person_end(&alice);
	stop_inside(pid);
}

/* All users that it does not know look like one to it. */
static void daemon_in_user_namespace(void)
{
	struct person alice, other, bob;
	pid_t pid;

	if (!has_user_namespaces()) {
		skip("no user namespace can be had, as in a chroot", "mirrord in one");
		return;
	}
	pid = start_inside(run_in_user_namespace);
	person_meet(&alice, ALICE, AS_USER, BY_SOCKET);
	person_meet(&other, ALICE, AS_USER, BY_SOCKET);
	person_meet(&bob, BOB, AS_USER, BY_SOCKET);
	same(ask_attach(&bob, &alice, MIRROR_ATTACH_F_PENDING), -EPERM,
	     "mirrord in a user namespace: users it does not know are not the same");
	same(ask_attach(&other, &alice, MIRROR_ATTACH_F_PENDING), -EPERM,
	     "even if they are: it cannot tell");
	ok(ask_attach(&alice, &alice, MIRROR_ATTACH_F_PENDING) > 0, "but each is itself");
	person_end(&alice);
	person_end(&other);
	person_end(&bob);
	stop_inside(pid);
}

int main(int argc, char **argv)
{
	scene_person(argc, argv);
	scene_begin(argc, argv, 100);
	scene_start(NULL);
	for (way = BY_SOCKET; way < WAYS; way++) {
		if (!has_way(way))
			continue;
		user_namespace();
		pid_namespace();
	}
	scene_stop();
	daemon_in_pid_namespace();
	daemon_in_user_namespace();
	daemon_of_a_user();
	return test_end();
}
