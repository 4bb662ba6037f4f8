/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Consumers and targets that mean harm
 *
 * They scribble over what they share with the daemon, misuse its descriptors, never
 * read, flood it, die.  They lose what is theirs; everybody else is served on.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <mirror/uapi/gate.h>
#include <mirror/uapi/ring.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include "raw.h"

#define PAGES	64
#define TOP	0x700000000000UL	/* nothing is there */

enum { PRODUCER, CONSUMER, WAKE, KICK };

/* This process as a target, seen by a bad consumer and by a good one. */
struct scene {
	int bad, good;			/* sockets */
	struct reply bad_ring, good_ring;
	struct mirror_ring_cons *cons;	/* the bad one's */
	const struct mirror_ring_hdr *bad_hdr, *good_hdr;
	int gate;
	uint32_t target;
	char *pages;
	unsigned int n_gone, n_records;
};

static struct daemon d;

static void *map_fd(int fd, size_t size, int prot)
{
	void *p = mmap(NULL, size, prot, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		bail("mmap: %s", strerror(errno));
	return p;
}

static void scene_init(struct scene *s, uint32_t entries)
{
	uint64_t at;
	int r;

	memset(s, 0, sizeof(*s));
	s->bad = raw_connect(d.socket);
	s->good = raw_connect(d.socket);
	if (raw_channel(s->bad, entries, &s->bad_ring) < 0 ||
	    raw_channel(s->good, 256, &s->good_ring) < 0)
		bail("no ring");
	s->cons = map_fd(s->bad_ring.fds[CONSUMER], PAGE, PROT_READ | PROT_WRITE);
	s->bad_hdr = map_fd(s->bad_ring.fds[PRODUCER], PAGE, PROT_READ);
	s->good_hdr = map_fd(s->good_ring.fds[PRODUCER], PAGE, PROT_READ);
	r = raw_attach_self(s->bad, &s->gate);
	if (r <= 0 || raw_attach_self(s->good, NULL) != r)
		bail("cannot attach: %d", r);
	s->target = (uint32_t)r;
	/* a mapping of its own: the memory of the scene must not be watched */
	s->pages = mmap(NULL, (PAGES + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s->pages == MAP_FAILED)
		bail("mmap");
	s->pages += PAGE;
	mprotect(s->pages, PAGES * PAGE, PROT_READ | PROT_WRITE);
	at = (uintptr_t)s->pages;
	if (raw_insert(s->bad, s->target, at, at + PAGES * PAGE, NULL) < 0 ||
	    raw_insert(s->good, s->target, at, at + PAGES * PAGE, NULL) < 0)
		bail("cannot watch");
}

static void scene_end(struct scene *s, const char *what)
{
	int sock;

	check_service(&d, what, 0);
	close(s->bad);
	close(s->good);
	close(s->gate);
	reply_close(&s->bad_ring);
	reply_close(&s->good_ring);
	munmap(s->cons, PAGE);
	munmap((void *)(uintptr_t)s->bad_hdr, PAGE);
	munmap((void *)(uintptr_t)s->good_hdr, PAGE);
	munmap(s->pages - PAGE, (PAGES + 2) * PAGE);
	sock = raw_connect(d.socket);
	check_empty(sock, what);
	close(sock);
}

static void unmap_one(struct scene *s)
{
	munmap(s->pages + s->n_gone++ * PAGE, PAGE);
	s->n_records++;
}

/* An answer means that everything before it is published. */
static int settle(int sock)
{
	struct mirror_stats stats = { .size = sizeof(stats) };

	return raw_call(sock, MIRROR_OP_STATS, &stats, sizeof(stats), NULL, 0, NULL);
}

static uint32_t tail_of(const struct mirror_ring_hdr *hdr)
{
	return __atomic_load_n(&hdr->tail, __ATOMIC_ACQUIRE);
}

static uint32_t flags_of(const struct mirror_ring_hdr *hdr)
{
	return __atomic_load_n(&hdr->flags, __ATOMIC_ACQUIRE);
}

/* The good one got a record for each page that went. */
static void check_good(struct scene *s, const char *what)
{
	same(settle(s->good), 0, "%s: the other consumer is served", what);
	same(tail_of(s->good_hdr), s->n_records, "%s: and has all its records", what);
}

/* ---- shared memory ---- */

static void scribble(void)
{
	static const uint32_t heads[] = { 1000, 0x80000000, 2 };
	const char *what = "an impossible head";
	struct scene s;

	for (unsigned int i = 0; i < 3; i++) {
		scene_init(&s, 16);
		unmap_one(&s);
		settle(s.bad);
		same(tail_of(s.bad_hdr), 1, "a record for the bad one as well");
		__atomic_store_n(&s.cons->head, heads[i], __ATOMIC_RELEASE);
		unmap_one(&s);
		check_good(&s, what);
		ok(flags_of(s.bad_hdr) & MIRROR_RING_F_REVOKED, "%s: the ring is revoked", what);
		scene_end(&s, what);
	}
}

static void scribble_all(void)
{
	const char *what = "noise all over the consumer page";
	struct scene s;

	scene_init(&s, 16);
	for (unsigned int i = 0; i < PAGES; i++) {
		uint8_t *p = (uint8_t *)s.cons;

		for (unsigned int k = 0; k < PAGE; k++)
			p[k] = (uint8_t)rnd(256);
		unmap_one(&s);
	}
	check_good(&s, what);
	scene_end(&s, what);
}

static void no_access(void)
{
	const char *what = "tampering with shared memory";
	struct scene s;
	int fds[2], r;

	scene_init(&s, 16);
	fds[0] = s.bad_ring.fds[PRODUCER];
	fds[1] = s.gate;
	for (int i = 0; i < 2; i++) {
		const char *name = i ? "the gate" : "the ring";

		ok(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0) == MAP_FAILED,
		   "%s cannot be mapped for writing", name);
		ok(pwrite(fds[i], "x", 1, 0) < 0, "%s cannot be written", name);
		ok(ftruncate(fds[i], 0) < 0, "%s cannot be shortened", name);
		r = fallocate(fds[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE);
		ok(r < 0, "%s cannot be punched", name);
	}
	ok(ftruncate(s.bad_ring.fds[CONSUMER], 0) < 0, "the consumer page cannot be shortened");
	ok(ftruncate(s.bad_ring.fds[CONSUMER], 1 << 20) < 0, "nor be made longer");
	unmap_one(&s);
	/* a hole is allowed, and reads as zeros */
	fallocate(s.bad_ring.fds[CONSUMER], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE);
	unmap_one(&s);
	check_good(&s, what);
	scene_end(&s, what);
}

/* ---- descriptors ---- */

static void blocking(int fd)
{
	if (fcntl(fd, F_SETFL, O_RDWR) < 0)
		bail("fcntl");
}

/* As much into a descriptor as fits. */
static void fill(int fd)
{
	char noise[4096] = { 0 };

	while (send(fd, noise, sizeof(noise), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		;
}

static void bells(int block)
{
	const char *what = block ? "full bells that block" : "full bells";
	struct scene s;

	scene_init(&s, 16);
	fill(s.bad_ring.fds[WAKE]);	/* the wrong way: the daemon never reads it */
	fill(s.bad_ring.fds[KICK]);
	if (block) {
		blocking(s.bad_ring.fds[WAKE]);
		blocking(s.bad_ring.fds[KICK]);
	}
	/* it says that it sleeps, each time anew, until the daemon's side is full too */
	for (uint32_t i = 0; i < 3000; i++) {
		__atomic_store_n(&s.cons->wait_gen, 2 * i + 1, __ATOMIC_SEQ_CST);
		if (i % 100 == 0)
			unmap_one(&s);
		else if (raw_insert(s.bad, s.target, TOP, TOP + PAGE, NULL) < 0)
			break;
	}
	check_good(&s, what);
	fill(s.bad_ring.fds[KICK]);
	settle(s.bad);
	check_good(&s, what);
	scene_end(&s, what);
}

/* A kick that is gone when the daemon comes to read it. */
static void kicks(void)
{
	const char *what = "kicks and no room";
	struct scene s;

	scene_init(&s, 2);
	for (unsigned int i = 0; i < PAGES; i++) {
		unmap_one(&s);
		for (int k = 0; k < 20; k++)
			send(s.bad_ring.fds[KICK], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	shutdown(s.bad_ring.fds[KICK], SHUT_RDWR);
	check_good(&s, what);
	settle(s.bad);
	ok(flags_of(s.bad_hdr) & MIRROR_RING_F_OVERFLOW, "%s: OVERFLOW is owed still", what);
	scene_end(&s, what);
}

static void closed(void)
{
	const char *what = "closed descriptors";
	struct scene s;

	scene_init(&s, 16);
	s.cons->wait_gen = 1;
	reply_close(&s.bad_ring);
	unmap_one(&s);
	check_good(&s, what);
	scene_end(&s, what);
}

/* ---- the target's own userfaultfd ---- */

/* In a child: a target that makes its userfaultfd block, or reads from it itself. */
static int bad_target(int steal)
{
	struct mirror_attach a = {
		.size = sizeof(a), .flags = MIRROR_ATTACH_F_SELF | MIRROR_ATTACH_F_UFFD,
	};
	int fds[] = { raw_pidfd(getpid()), raw_uffd() }, sock = raw_connect(d.socket);
	struct reply ring, reply;
	struct uffd_msg msg;
	uint64_t at;
	char *p;

	p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	at = (uintptr_t)p;
	if (raw_channel(sock, 16, &ring) < 0 ||
	    raw_call(sock, MIRROR_OP_ATTACH, &a, sizeof(a), fds, 2, &reply) < 0 ||
	    raw_insert(sock, a.target, at, at + PAGES * PAGE, NULL) < 0)
		return 1;
	for (int i = 0; i < PAGES; i++) {
		pid_t pid;

		if (!steal) {
			/* it polls as an error now, and a read of nothing would wait */
			if (fcntl(fds[1], F_SETFL, O_RDWR) < 0)
				return 2;
		} else if (i % 8 == 0) {
			pid = fork();
			if (!pid) {	/* takes the messages away from the daemon, sometimes */
				alarm(1);
				for (;;)
					if (read(fds[1], &msg, sizeof(msg)) < 0 && errno != EAGAIN)
						_exit(0);
			}
		}
		munmap(p + (size_t)i * PAGE, PAGE);
		if (!steal)
			raw_insert(sock, a.target, at, at + PAGE, NULL);
	}
	return 0;
}

static void userfaultfds(void)
{
	int sock, status;

	for (int steal = 0; steal < 2; steal++) {
		const char *what = steal ? "a target that reads its own events" :
				   "a target whose userfaultfd blocks";
		pid_t pid = child_fork();

		if (!pid)
			_exit(bad_target(steal));
		status = child_wait(pid, 20000);
		ok(status >= 0, "%s: it does not hang itself", what);
		check_service(&d, what, 0);
		sock = raw_connect(d.socket);
		check_empty(sock, what);
		close(sock);
	}
}

/* ---- behaviour ---- */

static void never_reads(void)
{
	const char *what = "a consumer that never reads";
	struct scene s;

	scene_init(&s, 2);
	while (s.n_gone < PAGES)
		unmap_one(&s);
	check_good(&s, what);
	ok(flags_of(s.bad_hdr) & MIRROR_RING_F_OVERFLOW, "%s: OVERFLOW is set", what);
	same((long long)s.bad_hdr->lost, PAGES - 2, "%s: what was lost is counted", what);
	scene_end(&s, what);
}

static void dies(void)
{
	const char *what = "a consumer that dies holding everything";
	struct scene s;
	siginfo_t si;
	pid_t pid;
	int fd;

	scene_init(&s, 16);
	pid = child_fork();
	if (!pid) {
		struct mirror_attach a = { .size = sizeof(a) };
		int sock = raw_connect(d.socket), me = raw_pidfd(getppid());
		uint64_t at = (uintptr_t)s.pages;
		struct reply ring;

		if (raw_channel(sock, 16, &ring) < 0 ||
		    raw_call(sock, MIRROR_OP_ATTACH, &a, sizeof(a), &me, 1, NULL) < 0)
			_exit(1);
		for (int i = 0; i < 500; i++)
			if (raw_insert(sock, a.target, at, at + PAGES * PAGE, NULL) < 0)
				_exit(2);
		raise(SIGSTOP);
		_exit(3);
	}
	same(waitid(P_PID, (id_t)pid, &si, WSTOPPED | WEXITED | WNOWAIT), 0, "%s: it is ready",
	     what);
	same(si.si_code, CLD_STOPPED, "%s: it holds everything", what);
	settle(s.good);
	s.n_records = tail_of(s.good_hdr);	/* 1 if FORK is told */
	for (int i = 0; i < 20; i++)
		unmap_one(&s);
	fd = raw_pidfd(pid);
	child_kill(pid);
	close(fd);
	unmap_one(&s);
	check_good(&s, what);
	scene_end(&s, what);
}

static void floods(void)
{
	const char *what = "a client that floods and never reads";
	struct {
		struct mirror_msg msg;
		struct mirror_stats stats;
	} request = {
		.msg = { .size = sizeof(request), .op = MIRROR_OP_STATS },
		.stats.size = sizeof(request.stats),
	};
	int sent = 0, r = 0;
	struct scene s;

	scene_init(&s, 16);
	/* until the daemon hangs up: its answers do not fit anywhere any more */
	for (uint64_t end = now_ms() + 20000; now_ms() < end && sent < 1000000; sent++) {
		r = (int)send(s.bad, &request, sizeof(request), MSG_NOSIGNAL);
		if (r < 0)
			break;
		if (sent % 64 == 0 && settle(s.good) < 0)
			break;
	}
	note("%d requests", sent);
	ok(r < 0 && (errno == EPIPE || errno == ECONNRESET), "%s: it is hung up on", what);
	unmap_one(&s);
	check_good(&s, what);
	scene_end(&s, what);
}

int main(int argc, char **argv)
{
	test_begin(argc, argv, 140, 140);
	daemon_init(&d);
	daemon_start(&d, NULL);
	scribble();
	scribble_all();
	no_access();
	bells(0);
	bells(1);
	closed();
	never_reads();
	dies();
	floods();
	kicks();
	userfaultfds();
	ok(daemon_is_alive(&d), "the daemon lives");
	same(daemon_stop(&d), 0, "and ends when asked to");
	return test_end();
}
