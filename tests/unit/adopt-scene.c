/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "adopt.h"
#include "adopt-scene.h"
#include "procfs.h"
#include "sys/store.h"
#include "uffd.h"
#include "unit.h"

#define FLUSH_MS 20000
#define RUN_NS 1000000ULL
#define RUN_TURNS 20000

int scene_new_uffd(void)
{
	bool user_only;
	int fd;

	return uffd_new(&fd, &user_only) == 0 && uffd_api(fd, UFFD_EVENT_FEATURES) == 0 ? fd : -1;
}

/* An abstract address, which nobody has to remove. */
static int listen_for_stores(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	char name[64];

	snprintf(name, sizeof(name), "@mirror-test-%d", (int)getpid());
	setenv("NOTIFY_SOCKET", name, 1);
	memcpy(sa.sun_path + 1, name + 1, strlen(name) - 1);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&sa, (socklen_t)(
			 offsetof(struct sockaddr_un, sun_path) + strlen(name))), 0);
	return fd;
}

void scene_init(struct scene *s, uint32_t entries)
{
	int fds[2];

	*s = (struct scene) { .entries = entries, .pid = getpid(), .is_self = true };
	s->notify = listen_for_stores();
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	s->client_fd = fds[0];
	s->peer = fds[1];
	s->uffd = scene_new_uffd();
	ck_assert_int_ge(s->uffd, 0);
	s->shelf.fds = calloc(SHELF, sizeof(*s->shelf.fds));
}

static void pass_uffd(int sock)
{
	struct packet p = PACKET_NULL;
	bool user_only;
	int fd = -1;

	p.u.msg.size = sizeof(p.u.msg);
	/* UFFDIO_API is the daemon's to do, and needs no rights here */
	if (uffd_new(&fd, &user_only) < 0 || uffd_api(fd, UFFD_EVENT_FEATURES) < 0)
		_exit(1);
	p.fds[0] = fd;
	p.n_fds = 1;
	packet_send(sock, &p, 0);
	for (;;)
		pause();
}

void scene_use_child(struct scene *s)
{
	struct packet p = PACKET_NULL;
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
	s->pid = fork();
	if (!s->pid)
		pass_uffd(fds[1]);
	ck_assert_int_eq(packet_recv(fds[0], &p, 0), 1);
	ck_assert_uint_eq(p.n_fds, 1);
	close(s->uffd);
	s->uffd = p.fds[0];
	s->is_self = false;
	s->peek = true;
	close(fds[0]);
	close(fds[1]);
}

void scene_end(struct scene *s)
{
	if (s->m.loop)
		manager_deinit(&s->m);	/* asserts that nothing is left */
	for (unsigned int i = 0; i < s->shelf.n; i++)
		fd_close(s->shelf.fds[i].fd);
	free(s->shelf.fds);
	fd_close(s->peer);
	fd_close(s->client_fd);
	fd_close(s->uffd);
	fd_close(s->notify);
	if (s->pid != getpid()) {
		kill(s->pid, SIGKILL);
		waitpid(s->pid, NULL, 0);
	}
}

/* ---- the store ---- */

static void shelve(struct scene *s, const char *name, int fd)
{
	struct inherited_fd *at = NULL;

	for (unsigned int i = 0; i < s->shelf.n; i++)
		if (s->shelf.fds[i].fd < 0)
			at = &s->shelf.fds[i];
	if (!at) {
		ck_assert_uint_lt(s->shelf.n, SHELF);
		at = &s->shelf.fds[s->shelf.n++];
	}
	snprintf(at->name, sizeof(at->name), "%s", name);
	at->fd = fd;
}

static void unshelve(struct scene *s, const char *name)
{
	for (unsigned int i = 0; i < s->shelf.n; i++)
		if (s->shelf.fds[i].fd >= 0 && !strcmp(s->shelf.fds[i].name, name))
			s->shelf.fds[i].fd = fd_close(s->shelf.fds[i].fd);
}

static int fd_of(struct msghdr *msg)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(msg);
	int fd = -1;

	if (c && c->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

/* What was said by now. */
static void take_messages(struct scene *s)
{
	char buf[512], control[CMSG_SPACE(sizeof(int))];
	ssize_t n;

	for (;;) {
		struct iovec iov = { .iov_base = buf, .iov_len = sizeof(buf) - 1 };
		struct msghdr msg = {
			.msg_iov = &iov, .msg_iovlen = 1,
			.msg_control = control, .msg_controllen = sizeof(control),
		};
		char *name;
		int fd;

		n = recvmsg(s->notify, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0)
			return;
		buf[n] = 0;
		fd = fd_of(&msg);
		name = strstr(buf, "FDNAME=");
		if (!name) {
			fd_close(fd);
			continue;
		}
		name += strlen("FDNAME=");
		name[strcspn(name, "\n")] = 0;
		if (strstr(buf, "FDSTOREREMOVE=1"))
			unshelve(s, name);
		else
			shelve(s, name, fd);
	}
}

int scene_stored(struct scene *s, const char *name)
{
	take_messages(s);
	for (unsigned int i = 0; i < s->shelf.n; i++)
		if (s->shelf.fds[i].fd >= 0 && !strcmp(s->shelf.fds[i].name, name))
			return s->shelf.fds[i].fd;
	return -1;
}

void scene_lose(struct scene *s, char letter)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < s->shelf.n; i++) {
		if (s->shelf.fds[i].fd < 0 || s->shelf.fds[i].name[0] != letter)
			continue;
		s->shelf.fds[i].fd = fd_close(s->shelf.fds[i].fd);
		n++;
	}
	ck_assert_uint_ge(n, 1);
}

unsigned int scene_count(struct scene *s, char letter)
{
	unsigned int n = 0;

	take_messages(s);
	for (unsigned int i = 0; i < s->shelf.n; i++)
		n += s->shelf.fds[i].fd >= 0 && s->shelf.fds[i].name[0] == letter;
	return n;
}

/* ---- managers ---- */

static int begin(struct scene *s)
{
	struct manager_options options = { .peek = s->peek };
	int r;

	r = manager_init(&s->m, &options);
	if (r == 0)
		r = store_new(&s->m.store, s->m.loop);
	return r;
}

static int make(struct scene *s)
{
	int pidfd = proc_pidfd(s->pid), r;

	r = client_new(&s->client, &s->m, s->client_fd);
	if (r == 0)
		r = client_make_ring(s->client, s->entries, 0);
	if (r == 0)
		ring_sent(s->client->ring);
	if (r == 0)
		r = target_new(&s->target, &s->m, s->pid, pidfd, getuid());
	if (r == 0)
		r = attachment_new(&s->attachment, s->target, s->client);
	if (r == 0) {
		s->attachment->is_self = s->is_self;
		attachment_keep(s->attachment);
		r = target_start(s->target, s->uffd);
	}
	return r;
}

static void find(struct scene *s)
{
	struct manager *m = &s->m;

	s->client = NULL;
	s->target = NULL;
	s->attachment = NULL;
	if (!list_is_empty(&m->clients))
		s->client = list_entry(m->clients.next, struct client, link);
	if (!list_is_empty(&m->targets))
		s->target = list_entry(m->targets.next, struct target, link);
	if (s->client && s->target)
		s->attachment = attachment_find(s->client, s->target);
}

/* As if it had been started with them: copies, as the store keeps its own. */
static int adopt_copies(struct scene *s)
{
	struct inherited in = { .n = 0 };
	int r;

	take_messages(s);
	in.fds = calloc((size_t)s->shelf.n + 1, sizeof(*in.fds));
	if (!in.fds)
		return -ENOMEM;
	for (unsigned int i = 0; i < s->shelf.n; i++) {
		if (s->shelf.fds[i].fd < 0)
			continue;
		in.fds[in.n] = s->shelf.fds[i];
		in.fds[in.n++].fd = fcntl(s->shelf.fds[i].fd, F_DUPFD_CLOEXEC, 3);
	}
	r = adopt(&s->m, &in);
	inherited_clear(&in);
	find(s);
	return r;
}

static void die(struct scene *s, void (*fn)(struct scene *s), bool again)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct inherited none = INHERITED_NULL;
		int r = begin(s);

		if (r == 0)
			r = again ? adopt_copies(s) : adopt(&s->m, &none);
		if (r == 0 && !again)
			r = make(s);
		if (r < 0) {
			fprintf(stderr, "# the scene cannot be made: error %d\n", -r);
			_exit(1);
		}
		fn(s);
		store_flush(s->m.store, FLUSH_MS);
		kill(getpid(), SIGKILL);
	}
	/* the queue of a socket is short: what is said must be taken meanwhile */
	do {
		struct pollfd pfd = { .fd = s->notify, .events = POLLIN };

		poll(&pfd, 1, 1);
		take_messages(s);
	} while (waitpid(pid, &status, WNOHANG) == 0);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	take_messages(s);
	/* nobody but the store has these any more */
	s->client_fd = fd_close(s->client_fd);
	s->uffd = fd_close(s->uffd);
}

void scene_die(struct scene *s, void (*fn)(struct scene *s))
{
	die(s, fn, false);
}

void scene_die_again(struct scene *s, void (*fn)(struct scene *s))
{
	die(s, fn, true);
}

/* Threads that are traced stop. */
struct reaper {
	struct loop_op op;
	struct scene *scene;
	int fd;
};

void scene_take_messages(struct scene *s)
{
	take_messages(s);
}

static void thread_stopped(struct loop_op *op, int res _unused_)
{
	struct reaper *reaper = container_of(op, struct reaper, op);
	struct signalfd_siginfo si;

	while (read(reaper->fd, &si, sizeof(si)) == sizeof(si))
		zaps_reap(reaper->scene->m.zaps);
}

static int reap(struct scene *s, struct reaper *reaper)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	*reaper = (struct reaper) {
		.op = LOOP_OP_NULL, .scene = s,
		.fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK),
	};
	return loop_poll(s->m.loop, &reaper->op, reaper->fd, POLLIN, thread_stopped);
}

pid_t scene_serve(struct scene *s, bool again)
{
	struct inherited none = INHERITED_NULL;
	struct reaper reaper;
	pid_t pid = fork();
	int r;

	if (pid)
		return pid;
	s->peer = fd_close(s->peer);
	r = begin(s);
	if (r == 0)
		r = reap(s, &reaper);
	if (r == 0)
		r = again ? adopt_copies(s) : adopt(&s->m, &none);
	/* the store's, which this process would keep open */
	for (unsigned int i = 0; i < s->shelf.n; i++)
		s->shelf.fds[i].fd = fd_close(s->shelf.fds[i].fd);
	if (r == 0 && !again)
		r = client_new(&s->client, &s->m, s->client_fd);
	if (r == 0)
		r = loop_run(s->m.loop);
	_exit(r < 0);
}

int scene_adopt(struct scene *s)
{
	int r = begin(s);

	return r < 0 ? r : adopt_copies(s);
}

struct run {
	struct loop_op op;
	struct scene *scene;
	bool (*done)(struct scene *s);
	unsigned int turns;
	bool is_done;
};

static void turn(struct loop_op *op, int res _unused_)
{
	struct run *run = container_of(op, struct run, op);

	run->is_done = run->done(run->scene);
	if (run->is_done || !--run->turns)
		loop_exit(run->scene->m.loop);
	else
		loop_timeout(run->scene->m.loop, op, RUN_NS, turn);
}

bool scene_run(struct scene *s, bool (*done)(struct scene *s))
{
	struct run run = {
		.op = LOOP_OP_NULL, .scene = s, .done = done, .turns = RUN_TURNS,
	};

	loop_timeout(s->m.loop, &run.op, 1, turn);
	loop_run(s->m.loop);
	find(s);
	return run.is_done;
}

struct notifier *scene_watch(struct scene *s, uint64_t start, uint64_t end, uint32_t flags)
{
	struct notifier like = {
		.start = start, .end = end, .flags = flags, .user_data = start,
	};
	struct notifier *n;

	return notifier_new(&n, s->attachment, &like) < 0 ? NULL : n;
}

bool scene_take(struct scene *s, struct mirror_event *ret_event)
{
	struct ring *ring = s->client->ring;
	uint32_t head = ring->cons->head;

	if (head == ring->hdr->tail)
		return false;
	memcpy(ret_event, ring->slots + (head & (ring->entries - 1)) * 64, 64);
	ring->cons->head = head + 1;
	return true;
}
