/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ring, consumer side
 *
 * Model
 *   The daemon writes records to a memfd that we can only map read-only; we write
 *   `head` and a few words to another one, which the daemon does not trust.  Both
 *   indices run freely; tail - head is the number of records there are.
 *
 * Consuming
 *   tail is loaded with acquire, the slot copied, then head stored with release.
 *
 *	daemon				consumer
 *	write slot			load-acquire tail
 *	store-release tail	 ...	copy slot
 *	load-acquire head	 ...	store-release head
 *	write slot again
 *
 *   Without the first pair we could copy a slot that is not yet written, without
 *   the second one the daemon could write it again while we copy.  The slot is
 *   given back before the callback runs: a callback may take its time, and one
 *   that changes memory makes records itself.
 *
 * Sleeping
 *	consumer			daemon
 *	wait_gen = odd			store-release tail
 *	full fence			full fence
 *	load tail			load wait_gen
 *	nothing: poll			odd and new: send a byte
 *
 *   Store, fence, load on both sides: at least one of the two loads sees the other
 *   side's store, so we do not sleep, or we are woken.  With weaker fences both
 *   loads may be early, and the record waits for the next one.  A lost record
 *   counts as one: flags in place of tail.
 *
 *   The wake socket is emptied before the generation is taken.  The other way round
 *   the signal for this very generation could be cleared, and the daemon does not
 *   signal the same one twice.
 *
 * Losing
 *   OVERFLOW in flags is set before a lost change is let go, and dropped after the
 *   OVERFLOW record was published.  So flags must be looked at before the tail:
 *   flag not seen, then the record is seen.
 *
 * Trust
 *   We run with the rights of our process, the daemon may be somebody else's.  The
 *   geometry is checked once and copied; a tail that is out of bounds ends the
 *   context.  No pointer ever comes out of shared memory.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "memfd.h"
#include "ring.h"

#define RING_BYTES_MAX (1ULL << 32)

static bool is_power_of_two(uint32_t v)
{
	return v && !(v & (v - 1));
}

/* Works on a copy of the header: what was checked cannot change afterwards. */
static int check_hdr(const struct mirror_ring_hdr *hdr, uint64_t size)
{
	if (hdr->magic != MIRROR_RING_MAGIC)
		return -EPROTO;
	if (hdr->compat_version > MIRROR_RING_VERSION || hdr->version < hdr->compat_version)
		return -EPROTO;
	if (hdr->hdr_size < sizeof(*hdr) || hdr->size > size)
		return -EPROTO;
	if (!is_power_of_two(hdr->entries) || hdr->entries > 1U << 30)
		return -EPROTO;
	if (!is_power_of_two(hdr->entry_size) || hdr->entry_size < sizeof(struct mirror_event))
		return -EPROTO;
	if (hdr->slots_off < hdr->hdr_size || hdr->slots_off % 64 || hdr->slots_off > hdr->size)
		return -EPROTO;
	if ((uint64_t)hdr->entries * hdr->entry_size > hdr->size - hdr->slots_off)
		return -EPROTO;
	return 0;
}

static int map_producer(struct ring *ring, int fd)
{
	struct mirror_ring_hdr hdr;
	struct stat st;
	void *map;
	int r;

	r = memfd_check(fd, sizeof(hdr), true);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size > RING_BYTES_MAX)
		return -EPROTO;
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	ring->hdr = map;
	ring->hdr_bytes = (size_t)st.st_size;
	memcpy(&hdr, map, sizeof(hdr));
	r = check_hdr(&hdr, (uint64_t)st.st_size);
	if (r < 0)
		return r;
	ring->slots = (const uint8_t *)map + hdr.slots_off;
	ring->entries = hdr.entries;
	ring->stride = hdr.entry_size;
	return 0;
}

static int map_consumer(struct ring *ring, int fd)
{
	void *map;
	int r;

	r = memfd_check(fd, sizeof(struct mirror_ring_cons), false);
	if (r < 0)
		return r;
	map = mmap(NULL, sizeof(struct mirror_ring_cons), PROT_READ | PROT_WRITE, MAP_SHARED,
		   fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	ring->cons = map;
	ring->cons_bytes = sizeof(struct mirror_ring_cons);
	return 0;
}

int ring_map(struct ring *ring, int producer_fd, int consumer_fd)
{
	int r;

	*ring = (struct ring) RING_NULL;
	r = map_producer(ring, producer_fd);
	if (r == 0)
		r = map_consumer(ring, consumer_fd);
	if (r < 0)
		ring_unmap(ring);
	return r;
}

void ring_unmap(struct ring *ring)
{
	if (ring->hdr)
		munmap((void *)(uintptr_t)ring->hdr, ring->hdr_bytes);
	if (ring->cons)
		munmap(ring->cons, ring->cons_bytes);
	*ring = (struct ring) RING_NULL;
}

int ring_tail(const struct ring *ring, uint32_t *ret_tail)
{
	/* Acquire: pairs with the daemon's release of tail; the slots are written. */
	uint32_t tail = load_acquire(&ring->hdr->tail);

	if (tail - ring->head > ring->entries)
		return -EPROTO;
	*ret_tail = tail;
	return 0;
}

int ring_take(struct ring *ring, uint32_t tail, struct mirror_event *ret_event)
{
	uint32_t slot = ring->head & (ring->entries - 1);

	/* signed: a callback may have gone past @tail by dispatching itself */
	if ((int32_t)(tail - ring->head) <= 0)
		return 0;
	memcpy(ret_event, ring->slots + (size_t)slot * ring->stride, sizeof(*ret_event));
	ring->head++;
	/* Release: pairs with the daemon's acquire of head; the copy is complete. */
	store_release(&ring->cons->head, ring->head);
	return 1;
}

void ring_ack(struct ring *ring, uint64_t seq)
{
	/* Release: what the callbacks did is done for whoever sees this. */
	store_release(&ring->cons->acked_seq, seq);
}

void ring_sleep(struct ring *ring)
{
	/* a new generation also if the last one was never ended: it may be used up */
	ring->wait_gen += ring->wait_gen & 1 ? 2 : 1;
	store_relaxed(&ring->cons->wait_gen, ring->wait_gen);
	/* pairs with the daemon's between tail and wait_gen; see above */
	full_fence();
}

void ring_wake(struct ring *ring)
{
	if (!(ring->wait_gen & 1))
		return;
	/* Relaxed: seen late it costs one needless signal. */
	store_relaxed(&ring->cons->wait_gen, ++ring->wait_gen);
}
