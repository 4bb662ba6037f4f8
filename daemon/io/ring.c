/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <assert.h>
#include <numa.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include "io/ring.h"
#include "memfd.h"
#include "shm.h"

static_assert(sizeof(struct mirror_event) == 64, "a slot is a cache line");

static int map_memfd(const char *name, size_t size, uint32_t numa_node, int *ret_fd, void **ret_map)
{
	_cleanup_(fd_closep) int fd = -1;
	void *map;
	int r;

	r = memfd_new(name, size, &fd);
	if (r < 0)
		return r;
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	if (numa_node && numa_available() >= 0 && (int)numa_node - 1 <= numa_max_node())
		numa_tonode_memory(map, size, (int)numa_node - 1);
	*ret_map = map;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Their end must block neither side, whatever its flags: see struct mirror_channel. */
static int make_bell(int *ret_fd, int *ret_peer)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return -errno;
	*ret_fd = fds[0];
	*ret_peer = fds[1];
	return 0;
}

static size_t bytes_of(uint32_t entries)
{
	size_t size = PAGE_BYTES + (size_t)entries * sizeof(struct mirror_event);

	return (size + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
}

static struct ring *ring_alloc(uint32_t entries)
{
	struct ring *ring = calloc(1, sizeof(*ring));

	if (!ring)
		return NULL;
	list_init(&ring->dirty_link);
	ring->producer_fd = ring->consumer_fd = ring->wake_fd = ring->kick_fd = -1;
	ring->peer_wake_fd = ring->peer_kick_fd = ring->kept_fd = -1;
	ring->entries = entries;
	ring->size = bytes_of(entries);
	return ring;
}

int ring_new(struct ring **ret_ring, uint32_t entries, uint32_t numa_node, bool keep)
{
	_cleanup_(ring_freep) struct ring *ring = ring_alloc(entries);
	void *map;
	int r;

	if (!ring)
		return -ENOMEM;
	r = map_memfd("mirror-ring", ring->size, numa_node, &ring->kept_fd, &map);
	if (r < 0)
		return r;
	ring->hdr = map;
	ring->slots = (uint8_t *)map + PAGE_BYTES;
	*ring->hdr = (struct mirror_ring_hdr) {
		.magic = MIRROR_RING_MAGIC,
		.version = MIRROR_RING_VERSION,
		.compat_version = MIRROR_RING_COMPAT,
		.hdr_size = sizeof(struct mirror_ring_hdr),
		.entry_size = sizeof(struct mirror_event),
		.entries = entries,
		.slots_off = PAGE_BYTES,
		.size = ring->size,
	};
	r = memfd_share(ring->kept_fd, keep, &ring->producer_fd);
	if (r < 0)
		return r;
	if (!keep)
		ring_stored(ring);
	r = map_memfd("mirror-cons", PAGE_BYTES, numa_node, &ring->consumer_fd, &map);
	if (r < 0)
		return r;
	ring->cons = map;
	r = make_bell(&ring->wake_fd, &ring->peer_wake_fd);
	if (r == 0)
		r = make_bell(&ring->kick_fd, &ring->peer_kick_fd);
	if (r < 0)
		return r;
	*ret_ring = TAKE_PTR(ring);
	return 0;
}

/* A copy of the header, as another mirrord left it: is it one of ours? */
static int check_hdr(const struct mirror_ring_hdr *hdr)
{
	if (hdr->magic != MIRROR_RING_MAGIC || hdr->version != MIRROR_RING_VERSION ||
	    hdr->hdr_size != sizeof(*hdr) || hdr->entry_size != sizeof(struct mirror_event))
		return -EPROTO;
	if (!hdr->entries || hdr->entries & (hdr->entries - 1) ||
	    hdr->entries > RING_ENTRIES_MAX)
		return -EPROTO;
	if (hdr->slots_off != PAGE_BYTES || hdr->size != bytes_of(hdr->entries))
		return -EPROTO;
	return 0;
}

/*
 * The record before tail has the number that tail is the low half of.  Its slot may hold
 * another one, that was written and never shown: the next that has this slot.
 */
static int find_seq(struct ring *ring)
{
	const uint8_t *slot = ring->slots + (size_t)((ring->tail - 1) & (ring->entries - 1)) *
			      sizeof(struct mirror_event);
	struct mirror_event last;
	uint32_t ahead;

	memcpy(&last, slot, sizeof(last));
	ahead = (uint32_t)last.seq - ring->tail;
	if ((ahead && ahead != ring->entries) || last.seq < ahead)
		return -EPROTO;
	ring->seq = last.seq - ahead;
	return 0;
}

static int map_kept(struct ring *ring, const struct ring_fds *fds)
{
	struct mirror_ring_hdr hdr;
	void *map;
	int r;

	r = memfd_check(fds->producer, PAGE_BYTES, false);
	if (r < 0)
		return r;
	if (pread(fds->producer, &hdr, sizeof(hdr), 0) != sizeof(hdr))
		return -EPROTO;
	r = check_hdr(&hdr);
	if (r == 0)
		r = memfd_check(fds->producer, hdr.size, false);
	if (r == 0)
		r = memfd_check(fds->consumer, PAGE_BYTES, false);
	if (r < 0)
		return r;
	ring->entries = hdr.entries;
	ring->size = hdr.size;
	map = mmap(NULL, ring->size, PROT_READ | PROT_WRITE, MAP_SHARED, fds->producer, 0);
	if (map == MAP_FAILED)
		return -errno;
	ring->hdr = map;
	ring->slots = (uint8_t *)map + PAGE_BYTES;
	map = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds->consumer, 0);
	if (map == MAP_FAILED)
		return -errno;
	ring->cons = map;
	return 0;
}

int ring_adopt(struct ring **ret_ring, struct ring_fds *fds)
{
	_cleanup_(ring_freep) struct ring *ring = ring_alloc(0);
	int r;

	if (!ring)
		return -ENOMEM;
	r = map_kept(ring, fds);
	if (r < 0)
		return r;
	ring->tail = ring->hdr->tail;
	r = find_seq(ring);
	if (r < 0)
		return r;
	ring->revoked = ring->hdr->flags & MIRROR_RING_F_REVOKED;
	/* how many there were is in hdr->lost, and not how many of them are owed */
	ring->owed = ring->hdr->flags & MIRROR_RING_F_OVERFLOW ? 1 : 0;
	ring->wake_fd = TAKE_FD(fds->wake);
	ring->kick_fd = TAKE_FD(fds->kick);
	ring->kept_fd = TAKE_FD(fds->producer);
	ring->consumer_fd = TAKE_FD(fds->consumer);
	*ret_ring = TAKE_PTR(ring);
	return 0;
}

bool ring_holds(const struct ring *ring, bool (*is_it)(const struct mirror_event *ev,
						       const void *userdata),
		const void *userdata)
{
	uint32_t n = ring->seq < ring->entries ? (uint32_t)ring->seq : ring->entries;

	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *slot = ring->slots + (size_t)((ring->tail - 1 - i) &
				      (ring->entries - 1)) * sizeof(struct mirror_event);
		struct mirror_event ev;

		memcpy(&ev, slot, sizeof(ev));
		/* not one that was never shown */
		if (ev.seq == ring->seq - i && is_it(&ev, userdata))
			return true;
	}
	return false;
}

struct ring *ring_free(struct ring *ring)
{
	if (!ring)
		return NULL;
	list_unlink(&ring->dirty_link);
	if (ring->hdr)
		munmap(ring->hdr, ring->size);
	if (ring->cons)
		munmap(ring->cons, PAGE_BYTES);
	ring_sent(ring);
	ring_stored(ring);
	fd_close(ring->wake_fd);
	fd_close(ring->kick_fd);
	free(ring);
	return NULL;
}

void ring_stored(struct ring *ring)
{
	ring->kept_fd = fd_close(ring->kept_fd);
}

void ring_hang_up(struct ring *ring)
{
	if (ring->wake_fd >= 0)
		shutdown(ring->wake_fd, SHUT_RDWR);
	if (ring->kick_fd >= 0)
		shutdown(ring->kick_fd, SHUT_RDWR);
}

void ring_sent(struct ring *ring)
{
	ring->producer_fd = fd_close(ring->producer_fd);
	ring->consumer_fd = fd_close(ring->consumer_fd);
	ring->peer_wake_fd = fd_close(ring->peer_wake_fd);
	ring->peer_kick_fd = fd_close(ring->peer_kick_fd);
}

void ring_revoke(struct ring *ring)
{
	ring->revoked = true;
	store_release(&ring->hdr->flags, ring->hdr->flags | MIRROR_RING_F_REVOKED);
}

/* Slots in use.  A head that no honest consumer can have costs it the ring. */
static uint32_t ring_used(struct ring *ring)
{
	/* Acquire: pairs with the consumer's release of head; the slots are free. */
	uint32_t used = ring->tail - load_acquire(&ring->cons->head);

	if (used > ring->entries) {
		ring_revoke(ring);
		return ring->entries;
	}
	return used;
}

static void ring_write(struct ring *ring, const struct mirror_event *record)
{
	size_t slot = ring->tail & (ring->entries - 1);
	struct mirror_event ev = *record;

	ev.seq = ++ring->seq;
	memcpy(ring->slots + slot * sizeof(ev), &ev, sizeof(ev));
	ring->tail++;
}

bool ring_settle(struct ring *ring, struct ring_counters *counters)
{
	struct mirror_event record = {
		.type = MIRROR_EVENT_OVERFLOW,
		.flags = MIRROR_EVENT_F_POINT | MIRROR_EVENT_F_MERGED,
		.end = USER_END,
		.arg.overflow.lost = ring->owed,
		.time_ns = ring->time_ns,
	};

	if (!ring->owed || ring->revoked || ring_used(ring) >= ring->entries)
		return false;
	ring_write(ring, &record);
	ring->owed = 0;
	counters->published++;
	return true;
}

bool ring_put(struct ring *ring, const struct mirror_event *record,
	      struct ring_counters *counters)
{
	if (ring->revoked)
		return false;
	if (ring->owed)
		ring_settle(ring, counters);
	if (!ring->owed && ring_used(ring) < ring->entries) {
		ring_write(ring, record);
		counters->published++;
		return true;
	}
	ring_lose(ring, record->time_ns, counters);
	return false;
}

void ring_lose(struct ring *ring, uint64_t time_ns, struct ring_counters *counters)
{
	ring->owed++;
	ring->time_ns = time_ns;
	counters->lost++;
	store_relaxed(&ring->hdr->lost, ring->hdr->lost + 1);
	store_release(&ring->hdr->flags, ring->hdr->flags | MIRROR_RING_F_OVERFLOW);
}

void ring_flush(struct ring *ring)
{
	/* Release: pairs with the consumer's acquire of tail; the slots are written. */
	store_release(&ring->hdr->tail, ring->tail);
	/* After the tail: who sees the flag gone finds the OVERFLOW record. */
	if (!ring->owed && (ring->hdr->flags & MIRROR_RING_F_OVERFLOW))
		store_release(&ring->hdr->flags,
			      ring->hdr->flags & ~(uint32_t)MIRROR_RING_F_OVERFLOW);
}

void ring_wake(struct ring *ring, struct ring_counters *counters)
{
	uint32_t gen;

	if (ring->readable) {
		ring->readable(ring, ring->readable_data);
		return;
	}
	/* Pairs with the fence of a consumer between its wait_gen and its look at tail. */
	full_fence();
	gen = load_relaxed(&ring->cons->wait_gen);
	if (!(gen & 1) || gen == ring->signalled)
		return;
	ring->signalled = gen;
	counters->wakeups++;
	/* Full: there is more in it than the consumer has read, so it is awake. */
	if (send(ring->wake_fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

bool ring_was_kicked(struct ring *ring, const struct dropper *dropper)
{
	char buf[256];
	ssize_t n;

	n = socket_recv(ring->kick_fd, buf, sizeof(buf), MSG_DONTWAIT, dropper);
	return n > 0 || n == -EAGAIN;
}

bool ring_has_gate_waiters(const struct ring *ring)
{
	return load_relaxed(&ring->cons->gate_waiters) != 0;
}

bool ring_is_readable(const struct ring *ring)
{
	return ring->hdr->tail != load_relaxed(&ring->cons->head);
}

uint32_t ring_take(struct ring *ring, void *ret_records, uint32_t n)
{
	uint32_t head = load_relaxed(&ring->cons->head), ready = ring->hdr->tail - head;
	uint8_t *out = ret_records;

	/* nobody else has its words, but they may be another mirrord's */
	if (ready > ring->entries) {
		ring_revoke(ring);
		return 0;
	}
	n = MIN(n, ready);
	for (uint32_t i = 0; i < n; i++) {
		size_t slot = (head + i) & (ring->entries - 1);

		memcpy(out + i * sizeof(struct mirror_event),
		       ring->slots + slot * sizeof(struct mirror_event),
		       sizeof(struct mirror_event));
	}
	store_release(&ring->cons->head, head + n);
	return n;
}
