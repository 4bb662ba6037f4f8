/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "storm-private.h"

struct slot {
	bool there, away, in_file, armed;
	unsigned int pages;
	uint64_t number;
};

struct target {
	struct storm *s;
	struct shared_target *t;
	struct consumer consumer;	/* of its own memory; else only the attachment */
	bool watches;
	pthread_rwlock_t lock;		/* held for writing to begin anew */
	struct slot slots[SLOTS];
	uint64_t random, numbers;
	unsigned int index;
};

/* ---- the log ---- */

static void place_begin(struct place *p, uint64_t value)
{
	uint64_t n = atomic_load_explicit(&p->begun, memory_order_relaxed) + 1;

	atomic_store_explicit(&p->history[n % HISTORY], value, memory_order_relaxed);
	atomic_store_explicit(&p->begun, n, memory_order_release);
}

static void place_end(struct place *p)
{
	uint64_t n = atomic_load_explicit(&p->begun, memory_order_relaxed);

	atomic_store_explicit(&p->done, n, memory_order_release);
}

static void log_begin(struct target *x, const struct change *changes, unsigned int n)
{
	uint64_t at = atomic_load_explicit(&x->t->begun, memory_order_relaxed);

	for (unsigned int i = 0; i < n; i++)
		x->t->log[(at + i) % LOG] = changes[i];
	atomic_store_explicit(&x->t->begun, at + n, memory_order_release);
}

static void log_end(struct target *x)
{
	uint64_t at = atomic_load_explicit(&x->t->begun, memory_order_relaxed);

	atomic_store_explicit(&x->t->done, at, memory_order_release);
	atomic_fetch_add(&x->t->n.changes, 1);
}

/* ---- changes ---- */

static struct place *place_of(struct target *x, unsigned int slot, bool away)
{
	return &x->t->places[2 * slot + away];
}

static char *address_of(struct target *x, unsigned int slot, bool away)
{
	return (char *)(uintptr_t)place_address(x->s, 2 * slot + away);
}

static struct change change_of(struct target *x, unsigned int slot, uint32_t type)
{
	struct slot *sl = &x->slots[slot];
	uint64_t start = (uintptr_t)address_of(x, slot, sl->away);

	return (struct change) { .type = type, .start = start, .end = start + sl->pages * PAGE,
				 .optional = !sl->armed };
}

/* -EPIPE: mirrord is gone */
static int arm(struct target *x, unsigned int slot)
{
	struct slot *sl = &x->slots[slot];
	uint64_t at = (uintptr_t)address_of(x, slot, sl->away);
	int r = -EPIPE;

	sl->armed = false;
	if (!x->consumer.target)
		return 0;
	r = mirror_target_arm(x->consumer.target, at, at + sl->pages * PAGE);
	sl->armed = r == 0;
	if (r < 0 && r != -EPIPE && !(r == -EBUSY && x->s->options.may_lose))
		complain(x->s, &x->t->n.errors, "mirror_target_arm: %s", strerror(-r));
	return r == -EPIPE ? r : 0;
}

/* Over what is there, or not.  What is there is what it says, even before it is written. */
static int do_map(struct target *x, unsigned int slot)
{
	struct slot *sl = &x->slots[slot];
	struct change gone = change_of(x, slot, MIRROR_EVENT_UNMAP);
	struct place *p = place_of(x, slot, sl->away);
	bool in_file = next_random(&x->random) % 2, was_there = sl->there;
	unsigned int page = (unsigned int)(next_random(&x->random) % (FILE_PAGES - SLOT_PAGES)) +
			    (x->index * SLOTS + slot) * FILE_PAGES;
	char *at = address_of(x, slot, sl->away), *q;

	/* a mapping next to it would be one with it, and so would what is told of them */
	sl->pages = was_there ? sl->pages : SLOT_PAGES;
	sl->number = in_file ? page + 1 : ++x->numbers;
	log_begin(x, &gone, was_there);
	place_begin(p, sl->number | (in_file ? 0 : OR_ZERO));
	q = mmap(at, sl->pages * PAGE, PROT_READ | PROT_WRITE,
		 (in_file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) |
		 (was_there ? MAP_FIXED : MAP_FIXED_NOREPLACE),
		 in_file ? x->s->memfd : -1, in_file ? (off_t)(page * PAGE) : 0);
	if (q != at)
		bail("mmap of a place: %s", strerror(errno));
	place_end(p);
	log_end(x);
	if (!in_file)
		*(volatile uint64_t *)at = sl->number;
	sl->there = true;
	sl->in_file = in_file;
	return arm(x, slot);
}

/* All of it, or the tail. */
static int do_unmap(struct target *x, unsigned int slot)
{
	struct slot *sl = &x->slots[slot];
	unsigned int from = sl->pages > 1 && next_random(&x->random) % 3 == 0 ? sl->pages / 2 : 0;
	struct change gone = change_of(x, slot, MIRROR_EVENT_UNMAP);
	struct place *p = place_of(x, slot, sl->away);

	gone.start += from * PAGE;
	log_begin(x, &gone, 1);
	if (!from)
		place_begin(p, GONE);
	if (munmap((void *)(uintptr_t)gone.start, gone.end - gone.start) < 0)
		bail("munmap of a place: %s", strerror(errno));
	if (!from)
		place_end(p);
	log_end(x);
	sl->there = from;
	sl->pages = from;
	return 0;
}

static int do_empty(struct target *x, unsigned int slot)
{
	struct slot *sl = &x->slots[slot];
	struct change clear = change_of(x, slot, MIRROR_EVENT_CLEAR);
	struct place *p = place_of(x, slot, sl->away);
	char *at = address_of(x, slot, sl->away);

	if (!sl->in_file)
		sl->number = ++x->numbers;
	log_begin(x, &clear, 1);
	place_begin(p, sl->number | (sl->in_file ? 0 : OR_ZERO));
	if (madvise(at, sl->pages * PAGE, MADV_DONTNEED) < 0)
		bail("madvise of a place: %s", strerror(errno));
	place_end(p);
	log_end(x);
	if (!sl->in_file)
		*(volatile uint64_t *)at = sl->number;
	return 0;
}

static int do_move(struct target *x, unsigned int slot)
{
	struct slot *sl = &x->slots[slot];
	struct place *from = place_of(x, slot, sl->away), *to = place_of(x, slot, !sl->away);
	struct change changes[2] = { change_of(x, slot, MIRROR_EVENT_REMAP),
				     change_of(x, slot, MIRROR_EVENT_UNMAP) };
	char *at = address_of(x, slot, sl->away), *dest = address_of(x, slot, !sl->away);

	changes[0].to = (uintptr_t)dest;
	log_begin(x, changes, 2);
	place_begin(from, GONE);
	place_begin(to, sl->number);
	if (mremap(at, sl->pages * PAGE, sl->pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, dest) !=
	    dest)
		bail("mremap of a place: %s", strerror(errno));
	place_end(from);
	place_end(to);
	log_end(x);
	sl->away = !sl->away;
	return sl->armed ? 0 : arm(x, slot);	/* watched as it was */
}

static int do_something(struct target *x, unsigned int slot)
{
	struct slot *sl = &x->slots[slot];

	if (!sl->there)
		return do_map(x, slot);
	switch (next_random(&x->random) % 4) {
	case 0:
		return do_map(x, slot);
	case 1:
		return x->consumer.clear_is_ordered ? do_empty(x, slot) : do_unmap(x, slot);
	case 2:
		return do_move(x, slot);
	}
	return do_unmap(x, slot);
}

/* ---- the attachment ---- */

static int try_attach(struct target *x)
{
	struct mirror_attach_opts attach = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	struct consumer *c = &x->consumer;
	int r;

	open.path = x->s->options.path;
	open.flags = MIRROR_OPEN_NO_EMBEDDED | (x->watches ? 0 : MIRROR_OPEN_NO_RING);
	attach.flags = MIRROR_ATTACH_STRICT;
	r = mirror_open(&c->ctx, &open);
	if (r == 0)
		r = mirror_target_attach_self(&c->target, c->ctx, &attach);
	if (r == 0)
		c->clear_is_ordered = mirror_target_get_guarantee(c->target, MIRROR_EVENT_CLEAR) >=
				      MIRROR_GUARANTEE_ORDERED;
	if (r == 0 && x->watches)
		r = consumer_watch(c);
	if (r < 0)
		consumer_forget(c, false);
	return r;
}

/* What is there already is watched from now on, or it is seen to go by nobody. */
static int arm_all(struct target *x)
{
	int r = 0;

	for (unsigned int i = 0; i < SLOTS && r == 0; i++)
		if (x->slots[i].there)
			r = arm(x, i);
	return r;
}

/* While it is not attached, it goes on changing. */
static void attach(struct target *x)
{
	int r;

	if (x->consumer.target)
		return;
	pthread_rwlock_wrlock(&x->lock);
	r = try_attach(x);
	pthread_rwlock_unlock(&x->lock);
	if (r == 0 && arm_all(x) == 0)
		atomic_store(&x->t->attached, true);
	if (r < 0 && !(x->s->options.may_lose && (r == -EPIPE || r == -ECONNREFUSED ||
						  r == -ENOENT || r == -ECONNRESET)))
		complain(x->s, &x->t->n.errors, "target %u: attach: %s", x->index, strerror(-r));
}

static void begin_anew(struct target *x)
{
	if (!x->s->options.may_lose)
		complain(x->s, &x->t->n.errors, "target %u: mirrord has let go of it", x->index);
	atomic_fetch_add(&x->t->n.lost, 1);
	atomic_store(&x->t->attached, false);
	pthread_rwlock_wrlock(&x->lock);
	consumer_forget(&x->consumer, true);
	pthread_rwlock_unlock(&x->lock);
	for (unsigned int i = 0; i < SLOTS; i++)
		x->slots[i].armed = false;
}

/* ---- threads ---- */

static void *look_main(void *data)
{
	struct target *x = data;
	struct consumer *c = &x->consumer;
	uint64_t random = x->random * 3 + 1;

	while (storm_phase(x->s) == STORM) {
		pthread_rwlock_rdlock(&x->lock);
		if (c->notifier)
			consumer_look(c, &c->caches[1],
				      (unsigned int)(next_random(&random) % PLACES));
		pthread_rwlock_unlock(&x->lock);
	}
	return NULL;
}

/* The consumer needs the log from its tail on. */
static void wait_for_consumer(struct target *x)
{
	while (atomic_load(&x->t->following) && storm_phase(x->s) == STORM &&
	       atomic_load(&x->t->begun) - atomic_load(&x->t->tail) > LOG / 2)
		nap_ms(1);
}

static void one_turn(struct target *x)
{
	unsigned int slot = (unsigned int)(next_random(&x->random) % SLOTS);
	struct consumer *c = &x->consumer;
	int r;

	if (!c->target)
		attach(x);
	wait_for_consumer(x);
	r = do_something(x, slot);
	if (r == 0 && c->notifier)
		r = consumer_look(c, &c->caches[0], 2 * slot + x->slots[slot].away);
	if (r == 0 && c->notifier)
		r = consumer_look(c, &c->caches[0], (2 * slot + 7) % PLACES);
	if (r < 0)
		begin_anew(x);
}

static void wait_phase(struct storm *s, enum phase phase)
{
	while (storm_phase(s) < phase)
		nap_ms(1);
}

int target_main(struct storm *s, unsigned int i)
{
	static struct target x;
	pthread_t looker;

	x = (struct target) { .s = s, .t = &s->target[i], .watches = i % 2 == 0, .index = i,
			      .random = s->seed + i + 1, .numbers = 1ULL << 32,
			      .lock = PTHREAD_RWLOCK_INITIALIZER };
	x.consumer.s = s;
	x.consumer.t = x.t;
	x.consumer.strict = x.watches;
	x.t->pid = getpid();
	attach(&x);
	if (x.watches && pthread_create(&looker, NULL, look_main, &x))
		bail("thread");
	while (storm_phase(s) == STORM)
		one_turn(&x);
	if (x.watches)
		pthread_join(looker, NULL);
	atomic_store(&x.t->parked, true);
	wait_phase(s, SETTLE);
	if (x.watches) {
		consumer_settle(&x.consumer);
		atomic_store(&x.t->settled, true);
	}
	wait_phase(s, END);
	consumer_forget(&x.consumer, false);
	return 0;
}
