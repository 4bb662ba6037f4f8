/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What cannot go out at once waits in a queue, and everything later behind it.  What
 * is removed before it went out never goes out.  The queue has an end: beyond it
 * descriptors are not kept, and whoever they belong to is not served by the next
 * mirrord, which they notice.
 *
 * What a descriptor costs the manager grows with how many it has, and it is the one
 * process that everybody needs.  So after some messages it is asked to say when it has
 * handled them, and then left alone for as long as that took: whatever clients do, they
 * keep it busy for half of its time at most.  Meanwhile what comes and goes stays here.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "list.h"
#include "loop/loop.h"
#include "shm.h"
#include "sys/log.h"
#include "sys/notify.h"
#include "sys/store.h"

#define QUEUE_MAX 16384
#define BATCH 16		/* messages before the manager is asked */
#define REST_MIN_NS 1000000
#define RETRY_NS 20000000	/* where nobody says when there is room again */
#define NAME_MAX_LEN 32		/* as struct inherited_fd has it */

struct entry {
	struct list link;
	char name[NAME_MAX_LEN];
	int fd;			/* -1: remove what has that name */
};

struct store {
	struct loop *loop;
	struct loop_op writable, retry, answer;
	struct list queue;
	unsigned int n_queued;
	unsigned int n_sent;	/* since it was asked last */
	uint64_t asked_ns;
	int fd;			/* -1: the manager is gone */
	int answer_fd;		/* hangs up when the manager has handled all before */
	void (*idle)(void *userdata);
	void *userdata;
	uint64_t *kept;		/* what it has or will have, in no order */
	unsigned int n_kept, kept_size;
	unsigned int limit;	/* 0: not known, and nothing is counted */
	bool warned, warned_full;
};

static void store_send_some(struct store *s);

static struct entry *entry_free(struct store *s, struct entry *e)
{
	list_unlink(&e->link);
	s->n_queued--;
	fd_close(e->fd);
	free(e);
	return NULL;
}

static void queue_clear(struct store *s)
{
	while (!list_is_empty(&s->queue))
		entry_free(s, list_entry(s->queue.next, struct entry, link));
}

int store_new(struct store **ret_store, struct loop *loop)
{
	struct store *s;
	int fd = notify_open();

	if (fd < 0)
		return fd;
	s = calloc(1, sizeof(*s));
	if (!s) {
		fd_close(fd);
		return -ENOMEM;
	}
	*s = (struct store) {
		.loop = loop, .fd = fd, .writable = LOOP_OP_NULL, .retry = LOOP_OP_NULL,
		.answer = LOOP_OP_NULL, .answer_fd = -1,
	};
	list_init(&s->queue);
	*ret_store = s;
	return 0;
}

static void stop_waiting(struct store *s)
{
	loop_stop(&s->writable);
	loop_stop(&s->retry);
	loop_stop(&s->answer);
	s->answer_fd = fd_close(s->answer_fd);
}

struct store *store_free(struct store *s)
{
	if (!s)
		return NULL;
	stop_waiting(s);
	queue_clear(s);
	fd_close(s->fd);
	free(s->kept);
	free(s);
	return NULL;
}

static void store_gone(struct store *s, int error)
{
	log_error("the service manager takes no descriptors any more: %s; a restart will not "
		  "go on with what is served now", strerror(error));
	stop_waiting(s);
	queue_clear(s);
	s->fd = fd_close(s->fd);
}

static void store_dropped(struct store *s, const char *name, const char *why)
{
	if (!s->warned)
		log_error("%s is not kept for a restart: %s", name, why);
	s->warned = true;
}

static int send_one(struct store *s, const char *name, int fd)
{
	char text[NAME_MAX_LEN + 64];

	if (fd >= 0)
		snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
	else
		snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s", name);
	return notify_send(s->fd, text, fd);
}

/* No memory, or more descriptors on their way than a user may have: later, then. */
static bool is_passing(int r)
{
	return r == -ENOBUFS || r == -ENOMEM || r == -ETOOMANYREFS || r == -EINTR;
}

static void store_writable(struct loop_op *op, int res _unused_)
{
	struct store *s = container_of(op, struct store, writable);

	/* Armed anew each time: a poll that goes on tells of changes only. */
	loop_stop(op);
	store_send_some(s);
}

static void store_retry(struct loop_op *op, int res _unused_)
{
	store_send_some(container_of(op, struct store, retry));
}

/* Handled: it has some time for others now. */
static void store_answered(struct loop_op *op, int res _unused_)
{
	struct store *s = container_of(op, struct store, answer);
	uint64_t took = now_ns() - s->asked_ns;

	loop_stop(op);
	s->answer_fd = fd_close(s->answer_fd);
	s->n_sent = 0;
	if (took < REST_MIN_NS || loop_timeout(s->loop, &s->retry, took, store_retry) < 0)
		store_send_some(s);
}

/* Asks the manager to hang up when it has handled all that came before. */
static int send_barrier(struct store *s, int *ret_fd)
{
	int fds[2], r;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	r = notify_send(s->fd, "BARRIER=1", fds[1]);
	fd_close(fds[1]);
	if (r < 0)
		fd_close(fds[0]);
	else
		*ret_fd = fds[0];
	return r;
}

static int ask(struct store *s)
{
	int r;

	r = send_barrier(s, &s->answer_fd);
	if (r < 0)
		return r;
	s->asked_ns = now_ns();
	r = loop_poll(s->loop, &s->answer, s->answer_fd, POLLIN, store_answered);
	if (r < 0)
		s->answer_fd = fd_close(s->answer_fd);
	return r;
}

/* Goes on when there is room, or, if @r is -EBUSY, when the manager has had a rest. */
static void wait_for_room(struct store *s, int r)
{
	if (!s->loop || loop_op_is_active(&s->writable) || loop_op_is_active(&s->retry) ||
	    loop_op_is_active(&s->answer))
		return;
	if (r == -EBUSY) {
		r = ask(s);
		if (r == 0)
			return;
	}
	if (r != -EAGAIN || loop_poll(s->loop, &s->writable, s->fd, POLLOUT, store_writable) < 0)
		loop_timeout(s->loop, &s->retry, RETRY_NS, store_retry);
}

/* 0 when all has gone out, or what the first that has not met. */
static int send_queue(struct store *s, bool paced)
{
	while (!list_is_empty(&s->queue)) {
		struct entry *e = list_entry(s->queue.next, struct entry, link);
		int r;

		if (paced && s->n_sent >= BATCH)
			return -EBUSY;
		r = send_one(s, e->name, e->fd);
		if (r == -EAGAIN || is_passing(r))
			return r;
		if (r < 0) {
			store_gone(s, -r);
			return -EPIPE;
		}
		s->n_sent++;
		entry_free(s, e);
	}
	return 0;
}

static void store_send_some(struct store *s)
{
	int r = send_queue(s, true);

	if (r < 0 && s->fd >= 0)
		wait_for_room(s, r);
	else if (r == 0)
		s->warned = false;
	if (list_is_empty(&s->queue) && s->idle)
		s->idle(s->userdata);
}

bool store_is_behind(const struct store *s)
{
	return s && !list_is_empty(&s->queue);
}

void store_set_idle(struct store *s, void (*idle)(void *userdata), void *userdata)
{
	s->idle = idle;
	s->userdata = userdata;
}

static uint64_t key_of(char letter, uint32_t id)
{
	return (uint64_t)(unsigned char)letter << 32 | id;
}

/* The few that have no number are always kept. */
static bool count(struct store *s, char letter, uint32_t id)
{
	uint64_t *kept = s->kept;

	if (!s->limit || !id)
		return true;
	if (s->n_kept >= s->limit)
		return false;
	if (s->n_kept == s->kept_size) {
		unsigned int n = s->kept_size ? s->kept_size * 2 : 64;

		kept = realloc(kept, n * sizeof(*kept));
		if (!kept)
			return false;
		s->kept = kept;
		s->kept_size = n;
	}
	kept[s->n_kept++] = key_of(letter, id);
	return true;
}

static void uncount(struct store *s, char letter, uint32_t id)
{
	uint64_t key = key_of(letter, id);

	for (unsigned int i = s->n_kept; i-- > 0;) {
		if (s->kept[i] != key)
			continue;
		s->kept[i] = s->kept[--s->n_kept];
		if (s->n_kept < s->limit / 2)
			s->warned_full = false;
		return;
	}
}

static bool is_numbered(const char *name, char *ret_letter, uint32_t *ret_id)
{
	return sscanf(name, "%c%" SCNu32, ret_letter, ret_id) == 2;
}

void store_limit(struct store *s, unsigned int n)
{
	if (s)
		s->limit = n;
}

void store_note(struct store *s, const char *name)
{
	uint32_t id;
	char letter;

	if (s && is_numbered(name, &letter, &id))
		count(s, letter, id);
}

static bool enqueue(struct store *s, const char *name, int fd)
{
	struct entry *e = s->n_queued < QUEUE_MAX ? calloc(1, sizeof(*e)) : NULL;

	if (!e) {
		store_dropped(s, name, "the service manager is too slow");
		return false;
	}
	e->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
	if (fd >= 0 && e->fd < 0) {
		store_dropped(s, name, strerror(errno));
		free(e);
		return false;
	}
	snprintf(e->name, sizeof(e->name), "%s", name);
	list_append(&s->queue, &e->link);
	s->n_queued++;
	return true;
}

/* @fd -1: remove.  false: it was dropped. */
static bool store_say(struct store *s, const char *name, int fd)
{
	int r = -EBUSY;

	if (list_is_empty(&s->queue) && (!s->loop || s->n_sent < BATCH))
		r = send_one(s, name, fd);
	if (r == 0) {
		s->n_sent++;
		return true;
	}
	if (r != -EAGAIN && r != -EBUSY && !is_passing(r)) {
		store_gone(s, -r);
		return false;
	}
	if (!enqueue(s, name, fd))
		return false;
	wait_for_room(s, r);
	return true;
}

void store_put(struct store *s, char letter, uint32_t id, int fd)
{
	char name[STORE_NAME_MAX];

	if (!s || s->fd < 0 || fd < 0)
		return;
	store_name(name, letter, id);
	if (!count(s, letter, id)) {
		if (!s->warned_full)
			log_error("%s and more are not kept for a restart: %u are, and no more "
				  "can be", name, s->n_kept);
		s->warned_full = true;
	} else if (!store_say(s, name, fd)) {
		uncount(s, letter, id);
	}
}

static bool is_name(const char *name)
{
	return *name && strlen(name) < NAME_MAX_LEN && !strchr(name, '\n');
}

void store_put_name(struct store *s, const char *name, int fd)
{
	if (s && s->fd >= 0 && fd >= 0 && is_name(name))
		store_say(s, name, fd);
}

/* The put has not gone out: nobody needs to hear of it. */
static bool take_back(struct store *s, const char *name)
{
	for (struct list *l = s->queue.prev; l != &s->queue; l = l->prev) {
		struct entry *e = list_entry(l, struct entry, link);

		if (e->fd >= 0 && !strcmp(e->name, name)) {
			entry_free(s, e);
			return true;
		}
	}
	return false;
}

void store_remove(struct store *s, char letter, uint32_t id)
{
	char name[STORE_NAME_MAX];

	if (!s || s->fd < 0)
		return;
	store_name(name, letter, id);
	uncount(s, letter, id);
	/* 0 is the one number that is used again: there may be an older one out there */
	if (!id || !take_back(s, name))
		store_say(s, name, -1);
}

void store_remove_name(struct store *s, const char *name)
{
	uint32_t id;
	char letter;

	if (!s || s->fd < 0 || !is_name(name))
		return;
	if (is_numbered(name, &letter, &id))
		uncount(s, letter, id);
	store_say(s, name, -1);
}

/* Room for one more message; in steps, where nobody says when there is. */
static int poll_until(int fd, short events, uint64_t end, bool in_steps)
{
	struct pollfd p = { .fd = in_steps ? -1 : fd, .events = events };
	uint64_t now = now_ns();
	int ms;

	if (now >= end)
		return -ETIMEDOUT;
	ms = (int)MIN((end - now) / 1000000 + 1, 60000ULL);
	poll(&p, 1, in_steps ? MIN(ms, 10) : ms);
	return p.revents;
}

static int barrier(struct store *s, uint64_t end)
{
	_cleanup_(fd_closep) int fd = -1;
	int r;

	while ((r = send_barrier(s, &fd)) < 0) {
		if (r != -EAGAIN && !is_passing(r))
			return -EPIPE;
		r = poll_until(s->fd, POLLOUT, end, r != -EAGAIN);
		if (r < 0)
			return r;
	}
	do {
		r = poll_until(fd, 0, end, false);
	} while (r == 0);
	return r < 0 ? r : 0;
}

int store_flush(struct store *s, unsigned int timeout_ms)
{
	uint64_t end = now_ns() + timeout_ms * 1000000ULL;
	int r;

	if (!s)
		return 0;
	if (s->fd < 0)
		return -EPIPE;
	stop_waiting(s);
	while ((r = send_queue(s, false)) < 0) {
		if (r == -EPIPE)
			return r;
		r = poll_until(s->fd, POLLOUT, end, r != -EAGAIN);
		if (r < 0)
			break;
	}
	if (r >= 0)
		r = barrier(s, end);
	if (!list_is_empty(&s->queue))
		wait_for_room(s, -EAGAIN);
	return r;
}

void store_name(char name[STORE_NAME_MAX], char letter, uint32_t id)
{
	snprintf(name, STORE_NAME_MAX, "%c%u", letter, id);
}
