/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include "io/ring.h"
#include "shm.h"
#include "unit.h"

static struct mirror_event unmap_of(uint64_t n)
{
	return (struct mirror_event) {
		.type = MIRROR_EVENT_UNMAP, .flags = MIRROR_EVENT_F_POINT,
		.user_data = 1, .start = n * PAGE_BYTES, .end = (n + 1) * PAGE_BYTES,
	};
}

static bool put(struct ring *ring, uint64_t n, struct ring_counters *c)
{
	struct mirror_event ev = unmap_of(n);

	return ring_put(ring, &ev, c);
}

/* The consumer's side, by the rules of uapi/ring.h.  false: nothing there. */
static bool take(struct ring *ring, struct mirror_event *ret_event)
{
	uint32_t head = load_relaxed(&ring->cons->head);

	if (head == load_acquire(&ring->hdr->tail))
		return false;
	memcpy(ret_event, ring->slots + (head & (ring->entries - 1)) * 64, 64);
	store_release(&ring->cons->head, head + 1);
	return true;
}

START_TEST(nothing_shows_before_the_flush)
{
	struct ring_counters c = { .published = 0 };
	struct mirror_event ev;
	struct ring *ring;

	ck_assert_int_eq(ring_new(&ring, 8, 0, false), 0);
	ck_assert(put(ring, 5, &c));
	ck_assert(!take(ring, &ev));
	ring_flush(ring);
	ck_assert(take(ring, &ev));
	ck_assert_uint_eq(ev.seq, 1);
	ck_assert_uint_eq(ev.start, 5 * PAGE_BYTES);
	ring_free(ring);
}
END_TEST

START_TEST(overflow_is_told_once_there_is_room)
{
	struct ring_counters c = { .published = 0 };
	struct mirror_event ev;
	struct ring *ring;

	ck_assert_int_eq(ring_new(&ring, 4, 0, false), 0);
	for (uint64_t i = 0; i < 4; i++)
		ck_assert(put(ring, i, &c));
	for (uint64_t i = 4; i < 10; i++)
		ck_assert(!put(ring, i, &c));
	ring_flush(ring);
	ck_assert_uint_eq(ring->hdr->flags, MIRROR_RING_F_OVERFLOW);
	ck_assert_uint_eq(ring->hdr->lost, 6);
	ck_assert(!ring_settle(ring, &c));
	for (uint64_t i = 0; i < 4; i++) {
		ck_assert(take(ring, &ev));
		ck_assert_uint_eq(ev.start, i * PAGE_BYTES);
	}
	/* the flag stays up until the record can be seen */
	ck_assert(ring_settle(ring, &c));
	ck_assert_uint_eq(ring->hdr->flags, MIRROR_RING_F_OVERFLOW);
	ring_flush(ring);
	ck_assert_uint_eq(ring->hdr->flags, 0);
	ck_assert(take(ring, &ev));
	ck_assert_uint_eq(ev.type, MIRROR_EVENT_OVERFLOW);
	ck_assert_uint_eq(ev.user_data, 0);
	ck_assert_uint_eq(ev.seq, 5);
	ck_assert_uint_eq(ev.arg.overflow.lost, 6);
	ck_assert(put(ring, 11, &c));
	ring_flush(ring);
	ck_assert(take(ring, &ev));
	ck_assert_uint_eq(ev.seq, 6);
	ring_free(ring);
}
END_TEST

START_TEST(an_impossible_head_revokes)
{
	struct ring_counters c = { .published = 0 };
	struct ring *ring;

	ck_assert_int_eq(ring_new(&ring, 4, 0, false), 0);
	ck_assert(put(ring, 0, &c));
	ring->cons->head = 77;
	ck_assert(!put(ring, 1, &c));
	ck_assert(ring->revoked);
	ck_assert(ring->hdr->flags & MIRROR_RING_F_REVOKED);
	ck_assert(!put(ring, 2, &c));
	ring_free(ring);
}
END_TEST

START_TEST(consumers_cannot_write)
{
	struct ring *ring;
	void *p;

	ck_assert_int_eq(ring_new(&ring, 4, 0, false), 0);
	p = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, ring->producer_fd, 0);
	ck_assert_ptr_eq(p, MAP_FAILED);
	ck_assert_int_eq(errno, EPERM);
	p = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, ring->producer_fd, 0);
	ck_assert_ptr_ne(p, MAP_FAILED);
	ck_assert_int_eq(mprotect(p, PAGE_BYTES, PROT_READ | PROT_WRITE), -1);
	ck_assert_int_eq(ftruncate(ring->producer_fd, 0), -1);
	ck_assert_int_eq(ftruncate(ring->consumer_fd, 0), -1);
	munmap(p, PAGE_BYTES);
	ring_free(ring);
}
END_TEST

START_TEST(only_sleepers_are_woken_and_once)
{
	struct ring_counters c = { .published = 0 };
	struct ring *ring;

	ck_assert_int_eq(ring_new(&ring, 16, 0, false), 0);
	ring_wake(ring, &c);
	ck_assert_uint_eq(c.wakeups, 0);
	ring->cons->wait_gen = 1;
	ring_wake(ring, &c);
	ring_wake(ring, &c);
	ck_assert_uint_eq(c.wakeups, 1);
	ring->cons->wait_gen = 2;
	ring_wake(ring, &c);
	ck_assert_uint_eq(c.wakeups, 1);
	ring->cons->wait_gen = 3;
	ring_wake(ring, &c);
	ck_assert_uint_eq(c.wakeups, 2);
	ring_free(ring);
}
END_TEST

#define RECORDS 300000

struct stream {
	struct ring *ring;
	uint64_t received, lost, next_seq;
	bool done;
};

static void consume(struct stream *s, const struct mirror_event *ev)
{
	ck_assert_uint_eq(ev->seq, s->next_seq);
	s->next_seq++;
	if (ev->type == MIRROR_EVENT_OVERFLOW)
		s->lost += ev->arg.overflow.lost;
	else
		s->received++;
}

static void *consumer(void *arg)
{
	struct stream *s = arg;
	struct ring *ring = s->ring;
	struct mirror_event ev;
	char buf[64];
	ssize_t n;

	(void)n;
	while (s->received + s->lost < RECORDS) {
		struct pollfd pfd = { .fd = ring->peer_wake_fd, .events = POLLIN };

		while (take(ring, &ev))
			consume(s, &ev);
		if (load_acquire(&ring->hdr->flags) & MIRROR_RING_F_OVERFLOW) {
			ck_assert_int_eq(send(ring->peer_kick_fd, "", 1, MSG_NOSIGNAL), 1);
		}
		if (s->received + s->lost >= RECORDS)
			break;
		store_relaxed(&ring->cons->wait_gen, ring->cons->wait_gen + 1);
		full_fence();
		if (ring->cons->head == load_acquire(&ring->hdr->tail))
			ck_assert_int_eq(poll(&pfd, 1, 10000), 1);	/* a lost wake-up fails */
		n = recv(ring->peer_wake_fd, buf, sizeof(buf), MSG_DONTWAIT);
		store_relaxed(&ring->cons->wait_gen, ring->cons->wait_gen + 1);
	}
	store_release(&s->done, true);
	return NULL;
}

/* Two threads and a ring that is far too small: received + lost = published, no gap. */
START_TEST(a_stream_loses_nothing_silently)
{
	struct ring_counters c = { .published = 0 };
	struct stream s = { .next_seq = 1 };
	pthread_t thread;

	ck_assert_int_eq(ring_new(&s.ring, 16, 0, false), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, consumer, &s), 0);
	for (uint64_t i = 0; i < RECORDS; i++) {
		put(s.ring, i, &c);
		if (i % 7 == 0 || i == RECORDS - 1) {
			ring_flush(s.ring);
			ring_wake(s.ring, &c);
		}
	}
	while (!load_acquire(&s.done)) {
		struct pollfd pfd = { .fd = s.ring->kick_fd, .events = POLLIN };

		if (poll(&pfd, 1, 10) > 0 && ring_was_kicked(s.ring, NULL)) {
			ring_settle(s.ring, &c);
			ring_flush(s.ring);
			ring_wake(s.ring, &c);
		}
	}
	pthread_join(thread, NULL);
	ck_assert_uint_eq(s.received + s.lost, RECORDS);
	ck_assert_uint_eq(c.lost, s.lost);
	ring_free(s.ring);
}
END_TEST

static int make_ring(void)
{
	struct ring *ring;
	int r = ring_new(&ring, 8, 0, false);

	if (r == 0)
		ring_free(ring);
	return r;
}

START_TEST(out_of_memory)
{
	unit_oom(make_ring);
}
END_TEST

UNIT_MAIN("ring", nothing_shows_before_the_flush, overflow_is_told_once_there_is_room,
	  an_impossible_head_revokes, consumers_cannot_write, only_sleepers_are_woken_and_once,
	  a_stream_loses_nothing_silently, out_of_memory)
