/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading records: waiting for them, being told of them, losing them
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "door.h"

#define RECORD	sizeof(struct mirror_event)
#define MANY	700	/* more than are given at once */

static struct door door;

/* An open file that watches @n pages of this process. */
static int watch(char **ret_pages, size_t n)
{
	int fd = door_open(&door, O_RDWR), target = attach_self(fd);

	*ret_pages = map_pages(n);
	if (target <= 0 || insert(fd, (uint32_t)target, *ret_pages, n * PAGE) <= 0)
		bail("cannot watch");
	return fd;
}

static void set_nonblocking(int fd, bool nonblocking)
{
	fcntl(fd, F_SETFL, O_RDWR | (nonblocking ? O_NONBLOCK : 0));
}

static bool is_unmap(const struct mirror_event *ev, const char *page)
{
	return ev->type == MIRROR_EVENT_UNMAP && ev->cause == MIRROR_CAUSE_MUNMAP &&
	       ev->start == (uintptr_t)page && ev->end == (uintptr_t)page + PAGE &&
	       (ev->flags & MIRROR_EVENT_F_PHASE) == MIRROR_EVENT_F_POINT;
}

static int ready(int fd, int ms)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, ms) > 0 ? pfd.revents : 0;
}

static void plain(void)
{
	struct mirror_event ev[4];
	char *p;
	int fd = watch(&p, 8);

	same(ready(fd, 0), 0, "nothing to read yet");
	set_nonblocking(fd, true);
	ok(read(fd, ev, sizeof(ev)) < 0 && errno == EAGAIN, "O_NONBLOCK: EAGAIN");
	ok(read(fd, ev, RECORD - 1) < 0 && errno == EINVAL, "less than a record: EINVAL");
	munmap(p, PAGE);
	same(ready(fd, 0), POLLIN, "poll tells of a record");
	same(read(fd, ev, sizeof(ev)), RECORD, "one record");
	ok(is_unmap(ev, p) && ev->seq == 1 && ev->user_data == (uintptr_t)p, "is the change");
	same(ready(fd, 0), 0, "then nothing again");
	unmap_each(p + PAGE, 7);
	same(read(fd, ev, 3 * RECORD + 1), 3 * RECORD, "as many as fit");
	ok(is_unmap(ev, p + PAGE) && is_unmap(ev + 2, p + 3 * PAGE) && ev[2].seq == 4, "in order");
	same(read(fd, ev, sizeof(ev)), 4 * RECORD, "the rest");
	ok(is_unmap(ev + 3, p + 7 * PAGE), "to the last");
	ok(read(fd, ev, sizeof(ev)) < 0 && errno == EAGAIN, "and nothing twice");
	close(fd);
}

static void without_ring(void)
{
	struct mirror_event ev;
	int fd = door_open(&door, O_RDWR | O_NONBLOCK);

	ok(read(fd, &ev, RECORD) < 0 && errno == EAGAIN, "a file that watches nothing: EAGAIN");
	same(ready(fd, 0), 0, "and nothing to poll for");
	close(fd);
}

static void large(void)
{
	static struct mirror_event ev[2 * MANY];
	struct iovec parts[100];
	char *p, *spread = map_pages(101);
	int fd = watch(&p, MANY + 32);
	ssize_t n, got;

	unmap_each(p, MANY);
	n = read(fd, ev, sizeof(ev));
	ok(n > 0 && n % (ssize_t)RECORD == 0, "a large read gives what there is, at most");
	got = n;
	while (got > 0 && got < (ssize_t)(MANY * RECORD)) {
		n = read(fd, (char *)ev + got, sizeof(ev) - (size_t)got);
		if (n <= 0)
			break;
		got += n;
	}
	same(got, MANY * RECORD, "nothing is missing");
	n = 0;
	while (n < MANY && is_unmap(&ev[n], p + (size_t)n * PAGE) && ev[n].seq == (uint64_t)n + 1)
		n++;
	same(n, MANY, "all in order");
	/* the kernel asks for this in parts: not one of them may wait */
	for (size_t i = 0; i < 100; i++)
		parts[i] = (struct iovec) { .iov_base = spread + i * PAGE, .iov_len = RECORD };
	unmap_each(p + MANY * PAGE, 32);
	same(readv(fd, parts, 100), 32 * RECORD, "a scattered read does not wait for its end");
	ok(is_unmap((const void *)(spread + 31 * PAGE), p + (MANY + 31) * PAGE), "to the last");
	close(fd);
	munmap(spread, 101 * PAGE);
}

/* ---- waiting ---- */

struct reader {
	pthread_t thread;
	struct mirror_event ev;
	ssize_t n;
	int fd;
	pid_t tid;
};

static void *read_one(void *arg)
{
	struct reader *reader = arg;

	__atomic_store_n(&reader->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	reader->n = read(reader->fd, &reader->ev, RECORD);
	return NULL;
}

static void reader_start(struct reader *reader, int fd)
{
	*reader = (struct reader) { .fd = fd };
	pthread_create(&reader->thread, NULL, read_one, reader);
	while (!__atomic_load_n(&reader->tid, __ATOMIC_ACQUIRE))
		nap_ms(1);
	if (!wait_asleep(reader->tid, SYS_read))
		bail("a reader does not sleep");
}

static void blocking(void)
{
	struct reader a, b;
	char *p;
	int fd = watch(&p, 3);

	reader_start(&a, fd);
	munmap(p, PAGE);
	pthread_join(a.thread, NULL);
	ok(a.n == (ssize_t)RECORD && is_unmap(&a.ev, p), "a blocked read is woken by the change");
	reader_start(&a, fd);
	reader_start(&b, fd);
	munmap(p + PAGE, PAGE);
	pthread_join(a.thread, NULL);
	ok(is_unmap(&a.ev, p + PAGE), "who waits first is served first");
	set_nonblocking(fd, true);
	ok(read(fd, &a.ev, RECORD) < 0 && errno == EAGAIN, "O_NONBLOCK holds for the next read");
	ok(wait_asleep(b.tid, SYS_read), "and not for the one that waits");
	munmap(p + 2 * PAGE, PAGE);
	pthread_join(b.thread, NULL);
	ok(is_unmap(&b.ev, p + 2 * PAGE), "who waits last is served last");
	close(fd);
}

static void before_watching(void)
{
	int fd = door_open(&door, O_RDWR), target = attach_self(fd);
	char *p = map_pages(1);
	struct reader a;

	reader_start(&a, fd);
	ok(insert(fd, (uint32_t)target, p, PAGE) > 0, "calls are served while a read waits");
	munmap(p, PAGE);
	pthread_join(a.thread, NULL);
	ok(is_unmap(&a.ev, p), "a read can wait before anything is watched");
	close(fd);
}

static void two_files(void)
{
	struct mirror_event ev;
	char *p;
	int fd = watch(&p, 2), other = door_open(&door, O_RDWR), target;

	target = attach_pid(other, getpid(), 0);
	ok(insert(other, (uint32_t)target, p, 2 * PAGE) > 0, "another file watches the same");
	munmap(p, PAGE);
	ok(read(fd, &ev, RECORD) == (ssize_t)RECORD && is_unmap(&ev, p), "both are told: one");
	ok(read(other, &ev, RECORD) == (ssize_t)RECORD && is_unmap(&ev, p), "both are told: two");
	close(fd);
	munmap(p + PAGE, PAGE);
	ok(read(other, &ev, RECORD) == (ssize_t)RECORD && is_unmap(&ev, p + PAGE),
	   "one goes on when the other is closed");
	close(other);
}

/* ---- being told ---- */

struct poller {
	pthread_t thread;
	int fd, got;
	pid_t tid;
};

static void *poll_one(void *arg)
{
	struct poller *poller = arg;

	__atomic_store_n(&poller->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	poller->got = ready(poller->fd, 20000);
	return NULL;
}

static void polling(void)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	struct mirror_event ev[4];
	struct poller poller;
	char *p;
	int fd = watch(&p, 5), ep = epoll_create1(EPOLL_CLOEXEC);

	poller = (struct poller) { .fd = fd };
	pthread_create(&poller.thread, NULL, poll_one, &poller);
	while (!__atomic_load_n(&poller.tid, __ATOMIC_ACQUIRE))
		nap_ms(1);
	ok(wait_asleep(poller.tid, SYS_poll), "somebody sleeps in poll");
	munmap(p, PAGE);
	pthread_join(poller.thread, NULL);
	same(poller.got, POLLIN, "poll is woken by the change");

	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event) < 0)
		bail("epoll_ctl: %s", strerror(errno));
	same(epoll_wait(ep, &event, 1, 20000), 1, "edge-triggered: there is something");
	same(epoll_wait(ep, &event, 1, 0), 0, "told once");
	munmap(p + PAGE, PAGE);
	same(epoll_wait(ep, &event, 1, 20000), 1, "something new, though nothing was read");
	same(read(fd, ev, sizeof(ev)), 2 * RECORD, "both are there");
	same(epoll_wait(ep, &event, 1, 0), 0, "nothing is left");
	munmap(p + 2 * PAGE, PAGE);
	same(epoll_wait(ep, &event, 1, 20000), 1, "and again something new");
	close(ep);

	ep = epoll_create1(EPOLL_CLOEXEC);
	event.events = EPOLLIN;
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
	same(epoll_wait(ep, &event, 1, 0), 1, "level-triggered: it is there");
	same(epoll_wait(ep, &event, 1, 0), 1, "still");
	same(read(fd, ev, sizeof(ev)), RECORD, "until it is read");
	same(epoll_wait(ep, &event, 1, 0), 0, "then not");
	close(ep);
	close(fd);
}

/* ---- signals ---- */

static void on_signal(int sig)
{
	(void)sig;
}

/* In a child: the errno of a read that a signal interrupts. */
static int interrupted(int flags)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = flags };
	struct mirror_event ev;
	char *p;
	int fd = watch(&p, 1);

	sigaction(SIGUSR1, &action, NULL);
	return read(fd, &ev, RECORD) < 0 ? errno : 0;
}

static void signals(void)
{
	int fd = door_open(&door, O_RDWR), n = count_clients(fd);
	int status;
	pid_t pid;

	for (int restart = 0; restart < 2; restart++) {
		pid = child_fork();
		if (!pid)
			_exit(interrupted(restart ? SA_RESTART : 0));
		if (!wait_asleep(pid, SYS_read))
			bail("no child reads");
		kill(pid, SIGUSR1);
		same(child_wait(pid, 20000) >> 8, EINTR, "a signal%s: EINTR",
		     restart ? " with SA_RESTART" : "");
	}
	pid = child_fork();
	if (!pid)
		_exit(interrupted(0));
	if (!wait_asleep(pid, SYS_read))
		bail("no child reads");
	kill(pid, SIGKILL);
	status = child_wait(pid, 20000);
	ok(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "SIGKILL ends a blocked reader");
	ok(wait_clients(fd, n), "and its file is closed");
	close(fd);
}

static void interrupted_among_others(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct reader a, b;
	char *p;
	int fd = watch(&p, 1);

	sigaction(SIGUSR1, &action, NULL);
	reader_start(&a, fd);
	reader_start(&b, fd);
	pthread_kill(a.thread, SIGUSR1);
	pthread_join(a.thread, NULL);
	same(a.n, -1, "one of two readers is interrupted");
	munmap(p, PAGE);
	pthread_join(b.thread, NULL);
	ok(is_unmap(&b.ev, p), "and the other gets the record");
	close(fd);
}

/* ---- losing ---- */

static void overflow(void)
{
	struct mirror_channel channel = { .size = sizeof(channel), .entries = 8 };
	int fd = door_open(&door, O_RDWR), target;
	struct mirror_event ev[16];
	char *p = map_pages(60);

	same(call(fd, MIRROR_IOC_CHANNEL, &channel), 0, "a ring of eight");
	target = attach_self(fd);
	ok(insert(fd, (uint32_t)target, p, 60 * PAGE) > 0, "watch many pages");
	unmap_each(p, 50);
	same(read(fd, ev, sizeof(ev)), 8 * RECORD, "a slow reader gets what there was room for");
	ok(is_unmap(ev + 7, p + 7 * PAGE), "the oldest");
	same(read(fd, ev, sizeof(ev)), RECORD, "then one record");
	ok(ev->type == MIRROR_EVENT_OVERFLOW && ev->arg.overflow.lost == 42 && ev->start == 0 &&
	   ev->seq == 9, "that says how many were lost");
	munmap(p + 50 * PAGE, PAGE);
	same(read(fd, ev, sizeof(ev)), RECORD, "and then what comes next");
	ok(is_unmap(ev, p + 50 * PAGE) && ev->seq == 10, "as if nothing had been");
	close(fd);
}

static void overflow_wakes(void)
{
	struct mirror_channel channel = { .size = sizeof(channel), .entries = 2 };
	int fd = door_open(&door, O_RDWR), target;
	struct mirror_event ev[3] = { { .type = 0 } };
	char *p = map_pages(4);

	call(fd, MIRROR_IOC_CHANNEL, &channel);
	target = attach_self(fd);
	insert(fd, (uint32_t)target, p, 4 * PAGE);
	unmap_each(p, 4);
	for (int i = 0; i < 3; i++)
		if (read(fd, &ev[i], RECORD) != (ssize_t)RECORD)
			break;
	ok(is_unmap(&ev[1], p + PAGE) && ev[2].type == MIRROR_EVENT_OVERFLOW,
	   "read one by one it is the same");
	close(fd);
}

int main(int argc, char **argv)
{
	int fd;

	test_begin(argc, argv, 100, 100);
	door_init(&door);
	door_start(&door, NULL);
	plain();
	without_ring();
	large();
	blocking();
	before_watching();
	two_files();
	polling();
	signals();
	interrupted_among_others();
	overflow();
	overflow_wakes();
	fd = raw_connect(door.daemon.socket);
	check_empty(fd, "after all this");
	close(fd);
	same(daemon_stop(&door.daemon), 0, "the daemon ends in good order");
	return test_end();
}
