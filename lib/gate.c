/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lookups by the gate
 *
 * Model
 *   The daemon writes, everybody reads: `seq`, odd while it knows of a change but
 *   not of its range, and for each stripe of addresses `started` and `ended`.  All
 *   only grow.  A translation carries a version: the sum of `started` over the
 *   stripes of its range, as it was when it was looked up.  Each term only grows, so
 *   the sum is the same only if every term is.
 *
 * mirror_read_retry(): is it good?
 *   life and seq by one load-acquire, then `started` of each stripe, relaxed.
 *
 *	daemon				consumer
 *	seq = odd
 *	full fence
 *	read() lets the target go	...its system call returned, we look up:
 *	started++			load-acquire life, seq
 *	seq = even (release)		load started
 *
 *   A lookup that begins after the system call returned begins after seq became
 *   odd.  So it loads seq odd: retry; or it loads a later value, and then, by the
 *   acquire, also `started` as it was when that value was written: different from
 *   the version, retry.  That is ORDERED.  Relaxed loads of `started` are enough:
 *   the acquire keeps them behind, and among themselves their order is of no
 *   interest, as each of them only has to be as new as the seq that was loaded.
 *
 *   STRICT needs one thing more.  Between the moment a mapping changes and the
 *   moment the daemon makes seq odd, the change can be seen by other threads, and
 *   nobody knows of it but the kernel, which is asked by a probe.  First the probe,
 *   then the gate: between the two the daemon may learn of the change, but then the
 *   gate tells.  The other way round it could learn of it and read it in between.
 *
 * mirror_read_begin(): order matters
 *   1. wait until seq moved on if it was odd: the changes that we must know of, as
 *      their system calls returned, are counted now.
 *   2. take `started` of each stripe, and wait until `ended` has reached it.
 *      A change announced before it happens (CLEAR of madvise) stays started and
 *      not ended until it is known to be over, so that nobody resolves a page that
 *      is about to go.  `ended` counts in any order: with two changes in flight it
 *      may reach our `started` by the end of the second one.  That is harmless, for
 *      then `started` has moved and the version can never be good.
 *   3. drain the ring.  Records are published before `ended`, so every change that
 *      the version counts has been told to the callbacks: what they left alone may
 *      be kept under the new version.
 *   4. arm.  A change of memory that was not watched before this step is told by
 *      nobody, so what the caller resolves, it must resolve afterwards, and what it
 *      keeps was armed when it was resolved and has been watched ever since; if that
 *      watched mapping was replaced, step 3 or mirror_read_retry() tells.
 *
 *   Arming is not skipped for a range that was armed before.  It would seem that a
 *   watched mapping can only go with an event; but shmat() with SHM_REMAP, shmdt()
 *   and remap_file_pages() put another, unwatched one in its place without any.
 *
 * Death
 *   life is not live: all is invalid.  The kernel changes life, at the death of the
 *   daemon, before it lets go of any target.
 *
 *   It may be the end, or another daemon goes on, with the same gate and the same
 *   sockets.  In the first case the sockets hang up.  As long as they do not, a lookup
 *   waits, and looks at them each 10 ms; its patience is that for any other wait.
 *
 * Restart
 *	old daemon	kernel			new daemon		lookup
 *	life == live
 *	SIGKILL		life = died					life != live
 *						OVERFLOW, if it was not quiet
 *						started++ of every stripe
 *						ended++ of every stripe
 *						seq = even
 *						live = its own
 *						life = live (release)	load-acquire life
 *									take live anew
 *
 *   The copies of `live` are taken anew by whoever finds that the gate lives, without a
 *   lock, while others compare with them.  No old version can become good by that,
 *   whichever copy a thread sees: it is good only if the life that was loaded, by an
 *   acquire, is that copy.  If that life is of the old daemon, all is as before.  If it is
 *   of the new one, `started` is loaded after every stripe has been counted, and no
 *   version from before is equal to that.  The copy is only there to tell life from
 *   death; it says nothing about versions, so a thread may see an old one (one more
 *   retry) or a new one at any time.  Should the new daemon have the thread id, and so
 *   the `live`, of the old one, nothing changes in this.
 *
 *   Nothing is lost in between.  What was read, and perhaps not told, OVERFLOW covers;
 *   it is there before life is good, as records are before `ended`.  What was not read
 *   keeps its thread waiting until the new daemon has read it.
 */
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include "memfd.h"
#include "uffd.h"
#include "mirror-private.h"

#define GATE_BYTES_MAX (1ULL << 28)
#define SPINS 2000
#define PROBE_SPINS 64
#define PATIENCE_NS NSEC_PER_SEC

/* What the word holds of a living daemon: a thread's id, so none of the higher bits. */
static bool is_live(uint32_t live)
{
	return live && live <= FUTEX_TID_MASK;
}

static int check_head(const struct mirror_gate *head, uint64_t size, uint32_t target)
{
	if (head->magic != MIRROR_GATE_MAGIC || head->version != MIRROR_GATE_VERSION)
		return -EPROTO;
	if (head->target != target || !is_live(head->live))
		return -EPROTO;
	if (head->size > size || !head->n_stripes || head->n_stripes & (head->n_stripes - 1))
		return -EPROTO;
	if (head->stripe_shift < 12 || head->stripe_shift > 55)
		return -EPROTO;
	if (head->stripes_off < sizeof(*head) || head->stripes_off % 8 ||
	    head->stripes_off > head->size)
		return -EPROTO;
	if (head->n_stripes > (head->size - head->stripes_off) / sizeof(struct mirror_gate_stripe))
		return -EPROTO;
	return 0;
}

int gate_map(struct gate *gate, int fd, uint32_t target)
{
	struct mirror_gate head;
	struct stat st;
	void *map;
	int r;

	r = memfd_check(fd, sizeof(head), true);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size > GATE_BYTES_MAX)
		return -EPROTO;
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	memcpy(&head, map, sizeof(head));	/* what is checked cannot change any more */
	r = check_head(&head, (uint64_t)st.st_size, target);
	if (r < 0) {
		munmap(map, (size_t)st.st_size);
		return r;
	}
	*gate = (struct gate) {
		.head = map,
		.stripes = (const void *)((const uint8_t *)map + head.stripes_off),
		.not_live = ~head.live,
		.shift = head.stripe_shift,
		.bits = (uint32_t)__builtin_ctz(head.n_stripes),
		.n_stripes = head.n_stripes,
		.size = (size_t)st.st_size,
	};
	return 0;
}

void gate_unmap(struct gate *gate)
{
	if (gate->head)
		munmap((void *)(uintptr_t)gate->head, gate->size);
	*gate = (struct gate) GATE_NULL;
}

/* gate_index() by a shift instead of a division. */
static inline uint32_t stripe_index(const struct gate *gate, uint64_t block)
{
	return (uint32_t)(block ^ block >> gate->bits) & (gate->n_stripes - 1);
}

/*
 * The stripes of a range.  As many blocks as there are stripes need not be all
 * stripes: the order changes from one run of blocks to the next.  So a range that
 * has as many takes each stripe once, by its number.
 */
struct stripes {
	uint64_t block;
	uint32_t n;
	bool all;
};

static struct stripes stripes_of(const struct gate *gate, uint64_t start, uint64_t end)
{
	uint64_t first = start >> gate->shift, n = ((end - 1) >> gate->shift) - first + 1;
	bool all = n >= gate->n_stripes;

	return (struct stripes) {
		.block = first, .n = all ? gate->n_stripes : (uint32_t)n, .all = all,
	};
}

static const struct mirror_gate_stripe *stripe_at(const struct gate *gate,
						  const struct stripes *s, uint32_t i)
{
	return &gate->stripes[s->all ? i : stripe_index(gate, s->block + i)];
}

static uint64_t sum_many(const struct gate *gate, uint64_t start, uint64_t end)
{
	struct stripes s = stripes_of(gate, start, end);
	uint64_t sum = 0;

	for (uint32_t i = 0; i < s.n; i++)
		sum += load_relaxed(&stripe_at(gate, &s, i)->started);
	return sum;
}

uint64_t lookup_sum(const struct mirror_notifier *n, uint64_t start, uint64_t end)
{
	return start < end ? sum_many(&n->gate, start, end) : 0;
}

/* Kept out of line, so that the way to "good" saves no register. */
static __attribute__((__noinline__)) int retry_slow(struct mirror_notifier *n)
{
	count(n->target->ctx, retries);
	return 1;
}

static __attribute__((__noinline__)) int retry_many(struct mirror_notifier *n, uint64_t start,
						    uint64_t end, uint64_t version)
{
	return sum_many(&n->gate, start, end) == version ? 0 : retry_slow(n);
}

static inline int retry(struct mirror_notifier *n, uint64_t start, uint64_t end,
			uint64_t version)
{
	const struct gate *gate = &n->gate;
	uint64_t block = start >> gate->shift;
	struct gate_head head;

	/* Outside of the notifier nothing is counted, so nothing is good. */
	if (unlikely(start < n->start || end > n->end || start >= end))
		return retry_slow(n);
	head = gate_head_load(gate->head);
	if (unlikely(head.life != gate_life(gate, n->here) || head.seq & 1))
		return retry_slow(n);
	if (unlikely(block != (end - 1) >> gate->shift))
		return retry_many(n, start, end, version);
	if (unlikely(load_relaxed(&gate->stripes[stripe_index(gate, block)].started) != version))
		return retry_slow(n);
	return 0;
}

bool lookup_moved(struct mirror_notifier *n, uint64_t start, uint64_t end, uint64_t version)
{
	return retry(n, start, end, version);
}

static __attribute__((__noinline__)) int retry_strict(struct mirror_notifier *n, uint64_t start,
						      uint64_t end, uint64_t version)
{
	/* The probe comes first; the ioctl is a barrier to what follows. */
	if (uffd_probe(load_relaxed(&n->target->fds[TARGET_FD_UFFD])))
		return retry_slow(n);
	return retry(n, start, end, version);
}

MIRROR_PUBLIC int mirror_read_retry(struct mirror_notifier *n, uint64_t start, uint64_t end,
				    uint64_t version)
{
	if (unlikely(n->strict))
		return retry_strict(n, start, end, version);
	return retry(n, start, end, version);
}

/* One lookup's patience, for all its waits together. */
struct patience {
	struct mirror_ctx *ctx;
	uint64_t deadline_ns;	/* 0: it has not waited yet */
};

static int patience_check(struct patience *p)
{
	uint64_t now = now_ns();

	if (!p->deadline_ns) {
		count(p->ctx, lookups_waited);
		p->deadline_ns = now + PATIENCE_NS;
	}
	return now < p->deadline_ns ? 0 : -EAGAIN;
}

/*
 * Waits until *@word is not @value, for 10 ms at most: nobody wakes us when the
 * daemon dies, so the caller looks at everything anew.
 */
static int wait_word(struct patience *p, const uint32_t *word, uint32_t value)
{
	static const struct timespec tick = { .tv_nsec = 10 * NSEC_PER_MSEC };
	uint32_t *waiters = &p->ctx->ring.cons->gate_waiters;
	int r;

	r = patience_check(p);
	if (r < 0)
		return r;
	for (unsigned int i = 0; i < SPINS; i++) {
		if (load_relaxed(word) != value)
			return 0;
		cpu_relax();
	}
	__atomic_fetch_add(waiters, 1, __ATOMIC_RELAXED);
	/*
	 * Pairs with the daemon's fence between its store of the word and its load of
	 * gate_waiters: it sees us, or the futex sees its store.
	 */
	full_fence();
	futex_wait(word, value, &tick);
	__atomic_fetch_sub(waiters, 1, __ATOMIC_RELAXED);
	return 0;
}

int gate_look(struct mirror_target *target, struct gate *gate)
{
	const struct mirror_gate *head = gate->head;
	uint32_t life, live;

	life = gate_head_load(head).life;
	/* Relaxed: the acquire of a life came after the release of the live it equals. */
	live = load_relaxed(&head->live);
	if (life == live && is_live(live)) {
		store_relaxed(&gate->not_live, ~live);
		store_relaxed(&target->gate.not_live, ~live);
		return 1;
	}
	if (life & FUTEX_OWNER_DIED)
		return ctx_daemon_is_gone(target->ctx) ? -EPIPE : 0;
	if (life)	/* died since we loaded it, and live is of the next one */
		return 0;
	switch (load_acquire(&head->state)) {
	case MIRROR_GATE_RELEASED:
		return -ESRCH;
	case MIRROR_GATE_CLOSED:
		return -EPIPE;
	}
	return ctx_daemon_is_gone(target->ctx) ? -EPIPE : -ESRCH;
}

/* life is not the one we know. */
static int wait_life(struct patience *p, struct mirror_notifier *n)
{
	uint32_t life = load_relaxed(&n->gate.head->life);
	int r;

	r = gate_look(n->target, &n->gate);
	if (r == 0)
		r = wait_word(p, &n->gate.head->life, life);
	return MIN(r, 0);
}

/* The kernel has begun a change that the daemon does not know of yet. */
static int wait_probe(struct patience *p, struct mirror_notifier *n)
{
	static const struct timespec moment = { .tv_nsec = 50000 };
	int fd = load_relaxed(&n->target->fds[TARGET_FD_UFFD]);

	for (unsigned int i = 0; i < PROBE_SPINS; i++) {
		if (!uffd_probe(fd))
			return 0;
		sched_yield();
	}
	clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);	/* no word to wait for */
	return patience_check(p);
}

static int wait_head(struct patience *p, struct mirror_notifier *n)
{
	struct gate_head head;
	bool probed = !n->strict;
	int r;

	for (;;) {
		head = gate_head_load(n->gate.head);
		if (head.life != gate_live(&n->gate)) {
			r = wait_life(p, n);
		} else if (!probed && uffd_probe(load_relaxed(&n->target->fds[TARGET_FD_UFFD]))) {
			r = wait_probe(p, n);
		} else if (head.seq & 1) {
			/* any other value will do: what made it odd is counted then */
			probed = true;
			r = wait_word(p, &n->gate.head->seq, head.seq);
			if (r == 0 && load_acquire(&n->gate.head->seq) != head.seq)
				return 0;
		} else {
			return 0;
		}
		if (r < 0)
			return r;
	}
}

static const uint32_t *low_half(const __u64 *word)
{
	return (const uint32_t *)(const void *)word +
	       (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}

static int wait_stripe(struct patience *p, struct mirror_notifier *n,
		       const struct mirror_gate_stripe *stripe, uint64_t *version)
{
	uint64_t started, ended;
	int r;

	for (;;) {
		/*
		 * started first: taken afterwards it could count a change that the
		 * ended we compare with does not.  Acquire, for that order.  Acquire
		 * of ended pairs with the daemon's release: the records are there.
		 */
		started = load_acquire(&stripe->started);
		ended = load_acquire(&stripe->ended);
		if (ended >= started)
			break;
		r = wait_word(p, low_half(&stripe->ended), (uint32_t)ended);
		if (r == 0)	/* who comes after the one that began it, ends it */
			r = MIN(gate_look(n->target, &n->gate), 0);
		if (r < 0)
			return r;
	}
	*version += started;
	return 0;
}

static int wait_quiet(struct patience *p, struct mirror_notifier *n, uint64_t start,
		      uint64_t end, uint64_t *ret_version)
{
	struct stripes s = stripes_of(&n->gate, start, end);
	uint64_t version = 0;
	int r;

	r = wait_head(p, n);
	for (uint32_t i = 0; r == 0 && i < s.n; i++)
		r = wait_stripe(p, n, stripe_at(&n->gate, &s, i), &version);
	if (r == 0)
		*ret_version = version;
	return r;
}

/* Runs the callbacks of everything the version counts, losses included. */
static int catch_up(struct patience *p)
{
	uint32_t flags;
	int r;

	for (;;) {
		/* before the tail; a loss that the version counts was flagged before */
		flags = ring_flags(&p->ctx->ring);
		r = ctx_dispatch(p->ctx, false);	/* life has just been looked at */
		if (r < 0)
			return r;
		if (!(flags & MIRROR_RING_F_OVERFLOW))
			return 0;
		r = patience_check(p);	/* dispatching has kicked the daemon */
		if (r < 0)
			return r;
		poll(NULL, 0, 1);
	}
}

int lookup_begin(struct mirror_notifier *n, uint64_t start, uint64_t end, uint64_t *ret_version)
{
	struct mirror_ctx *ctx = n->target->ctx;
	struct patience patience = { .ctx = ctx };
	uint64_t version = 0;
	int r;

	r = ctx_check(ctx);
	if (r == -ECHILD)
		return r;
	if (!range_is_valid(start, end) || start < n->start || end > n->end)
		return -EINVAL;
	count(ctx, lookups_begun);
	if (r == 0)
		r = wait_quiet(&patience, n, start, end, &version);
	if (r == -EPIPE || r == -ESRCH) {
		/* the callbacks hear of it, but ours is the reason that counts */
		int q = ctx_dispatch(ctx, true);

		return q == -ECHILD || q == -EPIPE ? q : r;
	}
	if (r == 0)
		r = catch_up(&patience);
	if (r < 0)
		return r;
	*ret_version = version;
	return 0;
}

MIRROR_PUBLIC int mirror_read_begin(struct mirror_notifier *n, uint64_t start, uint64_t end,
				    uint64_t *ret_version)
{
	uint64_t version;
	int r;

	r = lookup_begin(n, start, end, &version);
	if (r == 0)
		r = arm_range(n->target, start, end);
	if (r < 0)
		return r;
	*ret_version = version;
	return 0;
}
