/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Open files over a restart of the daemon: who has one sees that something takes longer,
 * and nothing else
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "door.h"
#include "kept.h"

#define RECORD		sizeof(struct mirror_event)
#define STORE_MAX	512
#define PAGES		32

static struct door door;
static struct kept kept;

/* ---- a process that is watched ---- */

struct subject {
	pid_t pid;
	int go, done;		/* pipes: a byte for each page */
	unsigned int n_told, n_seen;
	char *p;
	uint64_t seq;
};

static void __attribute__((__noreturn__)) be_subject(const char *p, int go, int done)
{
	int fd = door_open(&door, O_RDWR), target = attach_self(fd);
	char c;

	if (target <= 0 || write(done, &target, sizeof(target)) != sizeof(target))
		_exit(1);
	for (size_t i = 0; read(go, &c, 1) == 1; i++) {
		munmap((void *)(uintptr_t)(p + i * PAGE), PAGE);
		if (write(done, &c, 1) != 1)
			_exit(2);
	}
	_exit(0);
}

static int subject_start(struct subject *s)
{
	int go[2], done[2], target = 0, fd;

	*s = (struct subject) { .p = map_pages(PAGES) };
	if (pipe2(go, O_CLOEXEC) < 0 || pipe2(done, O_CLOEXEC) < 0)
		bail("pipe");
	s->pid = child_fork();
	if (!s->pid) {
		close(go[1]);
		be_subject(s->p, go[0], done[1]);
	}
	close(go[0]);
	close(done[1]);
	s->go = go[1];
	s->done = done[0];
	if (read(s->done, &target, sizeof(target)) != sizeof(target))
		bail("no subject");
	fd = door_open(&door, O_RDWR);
	if (attach_pid(fd, s->pid, 0) != target ||
	    insert(fd, (uint32_t)target, s->p, PAGES * PAGE) <= 0)
		bail("cannot watch the subject");
	return fd;
}

static void subject_end(struct subject *s)
{
	close(s->go);
	same(child_wait(s->pid, 20000), 0, "the subject ends");
	close(s->done);
	munmap(s->p, PAGES * PAGE);
}

/* It unmaps its next page, or tries to. */
static void tell(struct subject *s)
{
	if (write(s->go, "", 1) != 1)
		bail("the subject is gone");
	s->n_told++;
}

static void wait_done(struct subject *s)
{
	char c;

	if (read(s->done, &c, 1) != 1)
		bail("the subject is gone");
}

/* The record of the next page, with the next number. */
static bool is_next(struct subject *s, const struct mirror_event *ev)
{
	uint64_t start = (uintptr_t)s->p + s->n_seen++ * PAGE;

	return ev->type == MIRROR_EVENT_UNMAP && ev->start == start && ev->end == start + PAGE &&
	       ev->seq == ++s->seq;
}

/* ---- calls in threads ---- */

enum what { READ, POLL, INFO, OPEN, CLOSE };

static const long numbers[] = {
	[READ] = SYS_read, [POLL] = SYS_poll, [INFO] = SYS_ioctl, [OPEN] = SYS_openat,
	[CLOSE] = SYS_close,
};

struct task {
	pthread_t thread;
	enum what what;
	int fd;
	pid_t tid;
	long result;
	struct mirror_event ev;
};

static void *task_main(void *arg)
{
	struct task *t = arg;
	struct pollfd pfd = { .fd = t->fd, .events = POLLIN };
	struct mirror_info info = { .size = sizeof(info) };

	__atomic_store_n(&t->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	switch (t->what) {
	case READ:
		t->result = read(t->fd, &t->ev, RECORD) < 0 ? -errno : (long)RECORD;
		break;
	case POLL:
		t->result = poll(&pfd, 1, 60000) == 1 ? pfd.revents : 0;
		break;
	case INFO:
		t->result = call(t->fd, MIRROR_IOC_INFO, &info);
		break;
	case OPEN:
		t->result = door_try_open(&door, O_RDWR, &t->fd);
		break;
	case CLOSE:
		t->result = close(t->fd);
		break;
	}
	return NULL;
}

static void task_begin(struct task *t, enum what what, int fd)
{
	*t = (struct task) { .what = what, .fd = fd };
	pthread_create(&t->thread, NULL, task_main, t);
	while (!__atomic_load_n(&t->tid, __ATOMIC_ACQUIRE))
		nap_ms(1);
}

static void task_start(struct task *t, enum what what, int fd)
{
	task_begin(t, what, fd);
	if (!wait_asleep(t->tid, numbers[what]))
		bail("a thread does not sleep");
}

static long task_end(struct task *t)
{
	pthread_join(t->thread, NULL);
	return t->result;
}

/* ---- scenes ---- */

/* By SIGKILL, or in good order. */
static void restart(bool is_kill)
{
	if (!is_kill) {
		kept_do(&kept, "restart");
		return;
	}
	kept_do(&kept, "kill %d", SIGKILL);
	kept_do(&kept, "wait");
}

static void go_away(void)
{
	kept_do(&kept, "hold");
	kept_do(&kept, "kill %d", SIGKILL);
	kept_do(&kept, "wait");
}

static void come_back(void)
{
	kept_do(&kept, "go");
	kept_do(&kept, "wait");
}

static void waiting(struct subject *s, int fd, bool is_kill)
{
	const char *how = is_kill ? "SIGKILL" : "restart";
	struct mirror_event ev;
	struct task t;

	task_start(&t, READ, fd);
	restart(is_kill);
	tell(s);
	wait_done(s);
	ok(task_end(&t) == (long)RECORD && is_next(s, &t.ev), "%s: a blocked read goes on", how);
	task_start(&t, POLL, fd);
	restart(is_kill);
	tell(s);
	wait_done(s);
	same(task_end(&t), POLLIN, "%s: so does a poll", how);
	restart(is_kill);
	ok(read(fd, &ev, RECORD) == (ssize_t)RECORD && is_next(s, &ev),
	   "%s: what was not read yet is there", how);
}

static void away(struct subject *s, int fd)
{
	struct task info, open, closed;
	struct mirror_event ev;

	go_away();
	tell(s);
	task_start(&info, INFO, fd);
	task_start(&open, OPEN, -1);
	ok(wait_asleep(s->pid, SYS_munmap), "away: a change waits, an ioctl and an open too");
	come_back();
	wait_done(s);
	same(task_end(&info), 0, "back: the ioctl is done");
	same(task_end(&open), 0, "back: the file is open");
	ok(read(fd, &ev, RECORD) == (ssize_t)RECORD && is_next(s, &ev), "back: the change is told");
	go_away();
	task_begin(&closed, CLOSE, open.fd);
	come_back();
	same(task_end(&closed), 0, "a close when it is away ends when it is back");
}

static void on_signal(int sig)
{
	(void)sig;
}

static void interrupted(struct subject *s, int fd)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct task a, b;

	sigaction(SIGUSR1, &action, NULL);
	task_start(&a, READ, fd);
	task_start(&b, READ, fd);
	go_away();
	pthread_kill(a.thread, SIGUSR1);
	come_back();
	same(task_end(&a), -EINTR, "a signal when it is away interrupts a read when it is back");
	tell(s);
	wait_done(s);
	ok(task_end(&b) == (long)RECORD && is_next(s, &b.ev), "and no other");
}

int main(int argc, char **argv)
{
	const char *options[3];
	struct subject s;
	int fd, clients;

	test_begin(argc, argv, 120, 120);
	door_init(&door);
	kept_init(&kept);
	door_options(&door, options);
	kept_start(&kept, options, STORE_MAX);
	fd = subject_start(&s);
	clients = count_clients(fd);
	same(clients, 2, "two files are open");
	for (int i = 0; i < 4; i++)
		waiting(&s, fd, i % 2);
	away(&s, fd);
	interrupted(&s, fd);
	ok(wait_clients(fd, clients), "the same two are open");
	subject_end(&s);
	ok(wait_clients(fd, clients - 1), "then one");
	close(fd);
	kept_end(&kept);
	return test_end();
}
