/* SPDX-License-Identifier: GPL-2.0-or-later */
/* mirror_fault() on another process. */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "world.h"

#define READ MIRROR_FAULT_READ
#define WRITE MIRROR_FAULT_WRITE
#define THERE (MIRROR_ENTRY_VALID | MIRROR_PTE_PRESENT | MIRROR_PTE_READ)
#define WRITABLE (THERE | MIRROR_PTE_WRITE)
#define COUNTERS 8UL

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_notifier *notifier;
static struct log seen;
static struct peer peer;
static char *world;
static uint64_t entries[W_PAGES];

static int new_uffd(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = dev < 0 ? (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK) :
			   ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

	close(dev);
	ck_assert_int_ge(fd, 0);
	return fd;
}

enum { SAY_END, SAY_UNMAP, SAY_SUM, SAY_COUNT };

/* A child that shares our pages until it is ended; the last one is. */
static pid_t share_anew(pid_t last)
{
	pid_t pid;

	if (last) {
		kill(last, SIGKILL);
		waitpid(last, NULL, 0);
	}
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		pause();
}

/*
 * Adds to words of its own, on pages that are to be copied again and again, until
 * somebody writes to the pipe.  How many times one was not what it should be.
 */
static uint64_t count_up(struct peer *me, volatile uint64_t *words)
{
	uint64_t expected[COUNTERS] = { 0 }, lost = 0;
	int available = 0;
	pid_t child = 0;

	peer_tell(me, 0);
	for (unsigned int n = 0; !available && ioctl(me->from, FIONREAD, &available) == 0; n++) {
		if (n % 256 == 0)
			child = share_anew(child);
		for (size_t i = 0; i < COUNTERS; i++) {
			volatile uint64_t *word = words + i * PAGE / 8;

			lost += *word != expected[i];
			*word = ++expected[i];
		}
	}
	peer_hear(me);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return lost;
}

/* The process that is looked at. */
static void target_body(struct peer *me)
{
	char *mem = world_make(), *words = map_pages(COUNTERS * PAGE);
	int fd = new_uffd();
	uint64_t said, sum;

	peer_tell(me, (uintptr_t)mem);
	peer_tell(me, (uint64_t)fd);
	memset(words, 0, COUNTERS * PAGE);
	peer_tell(me, (uintptr_t)words);
	peer_hear(me);
	close(fd);
	while ((said = peer_hear(me)) != SAY_END) {
		switch (said & 0xf) {
		case SAY_UNMAP:
			munmap(mem + (said >> 4) * PAGE, PAGE);
			peer_tell(me, 0);
			break;
		case SAY_SUM:
			sum = 0;
			for (int i = 0; i < W_NONE; i++)
				sum += mem[i * PAGE] != world_byte[i];
			peer_tell(me, sum);
			break;
		case SAY_COUNT:
			peer_tell(me, count_up(me, (uint64_t *)(uintptr_t)(said & ~0xfffUL)));
			break;
		}
	}
}

static char *counters;

static int start_target(void)
{
	int fd, taken;

	peer_start(&peer, target_body);
	world = (char *)(uintptr_t)peer_hear(&peer);
	fd = (int)peer_hear(&peer);
	counters = (char *)(uintptr_t)peer_hear(&peer);
	taken = (int)syscall(SYS_pidfd_getfd, peer.pidfd, fd, 0);
	ck_assert_int_ge(taken, 0);
	return taken;
}

static void attach_with(int fd)
{
	ctx = open_ctx();
	ok(mirror_target_attach(&target, ctx, peer.pidfd, fd, NULL));
	close(fd);
	peer_tell(&peer, 0);
	notifier = watch(target, world, W_PAGES * PAGE, &seen);
}

static void begin_other(void)
{
	attach_with(start_target());
}

static void finish(void)
{
	peer_tell(&peer, SAY_END);
	peer_end(&peer);
	mirror_notifier_remove(notifier);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

static uint64_t ask(uint64_t what)
{
	peer_tell(&peer, what);
	return peer_hear(&peer);
}

START_TEST(snapshot)
{
	struct mirror_fault fault;

	begin_other();
	fault = fault_of(world, W_PAGES * PAGE, MIRROR_FAULT_NODES, entries);
	ok(mirror_fault(notifier, &fault));
	ck_assert_uint_eq(fault.done, fault.end);
	check_entries(peer.pid, world, entries, W_PAGES);
	ck_assert_uint_eq(entries[W_ANON] & PROC_MASK, THERE | MIRROR_PTE_WRITE);
	ck_assert(entries[W_LAST] & MIRROR_PTE_NODE_MASK);
	ck_assert_uint_eq(entries[W_HOLE], 0);
	ck_assert(is_good(notifier, &fault));
	ask(SAY_UNMAP | W_LAST << 4);
	ck_assert(!is_good(notifier, &fault));
	finish();
}
END_TEST

START_TEST(read_fault)
{
	struct mirror_fault fault;

	begin_other();
	fault = fault_of(world, W_NONE * PAGE, READ, entries);
	ok(mirror_fault(notifier, &fault));
	ck_assert(is_good(notifier, &fault));
	check_entries(peer.pid, world, entries, W_NONE);
	for (int i = 0; i < W_NONE; i++)
		ck_assert_uint_eq(entries[i] & THERE, THERE);
	ck_assert_uint_eq(entries[W_FORKED] & MIRROR_PTE_WRITE, 0);
	ck_assert_uint_eq(entries[W_FILE_ABSENT] & MIRROR_PTE_FILE, MIRROR_PTE_FILE);
	ck_assert_uint_eq(ask(SAY_SUM), 0);
	finish();
}
END_TEST

START_TEST(write_fault)
{
	struct mirror_fault fault;

	begin_other();
	fault = fault_of(world, W_WRITABLE * PAGE, READ | WRITE, entries);
	ok(mirror_fault(notifier, &fault));
	ck_assert(is_good(notifier, &fault));
	check_entries(peer.pid, world, entries, W_WRITABLE);
	for (int i = 0; i < W_WRITABLE; i++)
		ck_assert_uint_eq(entries[i] & WRITABLE, WRITABLE);
	ck_assert_uint_eq(entries[W_FILE] & MIRROR_PTE_FILE, 0);
	ck_assert_uint_eq(ask(SAY_SUM), 0);
	finish();
}
END_TEST

/* The target writes all the time, and is neither stopped nor are its stores undone. */
START_TEST(nothing_is_changed)
{
	struct mirror_notifier *n;
	struct mirror_fault fault;
	int r;

	begin_other();
	n = watch(target, counters, COUNTERS * PAGE, &seen);
	peer_tell(&peer, SAY_COUNT | (uintptr_t)counters);
	peer_hear(&peer);
	for (size_t i = 0; i < 2000; i++) {
		fault = fault_of(counters + i % COUNTERS * PAGE, PAGE, WRITE, entries);
		r = mirror_fault(n, &fault);
		ck_assert_msg(r == 0 || r == -EAGAIN, "%d", r);
		if (r == 0)
			ck_assert(entries[0] & MIRROR_PTE_WRITE);
	}
	ck_assert_uint_eq(ask(0), 0);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

static void fails_at(int page, uint32_t flags, int error)
{
	struct mirror_fault fault = fault_of(world, W_PAGES * PAGE, flags, entries);

	fails(mirror_fault(notifier, &fault), error);
	ck_assert_uint_eq(fault.done, (uintptr_t)world + page * PAGE);
	check_entries(peer.pid, world, entries, (size_t)page);
	for (int i = 0; i < page; i++)
		ck_assert_uint_eq(entries[i] & THERE, THERE);
	ck_assert(is_good(notifier, &fault));
}

START_TEST(partial)
{
	struct mirror_fault fault;

	begin_other();
	fails_at(W_NONE, READ, EACCES);
	fails_at(W_RDONLY, WRITE, EACCES);
	ask(SAY_UNMAP | W_SHM << 4);
	fails_at(W_SHM, READ, EFAULT);
	fails_at(W_SHM, WRITE, EFAULT);
	fault = fault_of(world, W_PAGES * PAGE, READ, entries);
	fails(mirror_fault(notifier, &fault), EFAULT);
	ck_assert(is_good(notifier, &fault));
	ask(SAY_UNMAP | W_ANON << 4);
	ck_assert(!is_good(notifier, &fault));
	finish();
}
END_TEST

START_TEST(gone)
{
	struct mirror_fault fault;

	begin_other();
	fault = fault_of(world, W_WRITABLE * PAGE, READ, entries);
	ok(mirror_fault(notifier, &fault));
	kill(peer.pid, SIGKILL);
	ck_assert_int_eq(waitpid(peer.pid, NULL, 0), peer.pid);
	fails(mirror_fault(notifier, &fault), ESRCH);
	fault.flags = 0;
	fails(mirror_fault(notifier, &fault), ESRCH);
	mirror_notifier_remove(notifier);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(gone_at_once)
{
	struct mirror_fault fault;

	begin_other();
	kill(peer.pid, SIGKILL);
	ck_assert_int_eq(waitpid(peer.pid, NULL, 0), peer.pid);
	fault = fault_of(world, W_WRITABLE * PAGE, 0, entries);
	fails(mirror_fault(notifier, &fault), ESRCH);
	mirror_notifier_remove(notifier);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(end_of_the_daemon)
{
	struct mirror_fault fault;

	begin_other();
	fault = fault_of(world, W_WRITABLE * PAGE, WRITE, entries);
	ok(mirror_fault(notifier, &fault));
	daemon_kill(SIGKILL);
	fails(mirror_fault(notifier, &fault), EPIPE);
	finish();
}
END_TEST

static int target_fd;

/* Attaches as root, and gives that up before it looks; or after it looked once. */
static void stranger(struct peer *me)
{
	bool looked = peer_hear(me);
	struct mirror_fault fault;

	ctx = open_ctx();
	if (mirror_target_attach(&target, ctx, peer.pidfd, target_fd, NULL) < 0)
		_exit(1);
	notifier = watch(target, world, W_PAGES * PAGE, &seen);
	fault = fault_of(world, W_PAGES * PAGE, 0, entries);
	if (looked && mirror_fault(notifier, &fault) != 0)
		_exit(2);
	if (setgid(65534) < 0 || setuid(65534) < 0)
		_exit(3);
	if (mirror_fault(notifier, &fault) != (looked ? 0 : -EPERM))
		_exit(4);
	fault.flags = READ;
	if (mirror_fault(notifier, &fault) != -EPERM)
		_exit(5);
	if (fault.done != fault.start + (looked ? W_ABSENT * PAGE : 0))
		_exit(6);
}

static void try_stranger(bool looked)
{
	struct peer other;

	if (geteuid()) {
		not_tested("strangers", "only root can become somebody else");
		return;
	}
	target_fd = start_target();
	peer_start(&other, stranger);
	peer_tell(&other, looked);
	peer_end(&other);
	close(target_fd);
	peer_tell(&peer, 0);
	peer_tell(&peer, SAY_END);
	peer_end(&peer);
}

START_TEST(forbidden)
{
	try_stranger(false);
}
END_TEST

START_TEST(forbidden_later)
{
	try_stranger(true);
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "fault-other");

	tcase_add_test(tcase, snapshot);
	tcase_add_test(tcase, read_fault);
	tcase_add_test(tcase, write_fault);
	tcase_add_test(tcase, nothing_is_changed);
	tcase_add_test(tcase, partial);
	tcase_add_test(tcase, gone);
	tcase_add_test(tcase, gone_at_once);
	tcase_add_test(tcase, end_of_the_daemon);
	tcase_add_test(tcase, forbidden);
	tcase_add_test(tcase, forbidden_later);
}

int main(void)
{
	return harness_main("fault-other", fill);
}
