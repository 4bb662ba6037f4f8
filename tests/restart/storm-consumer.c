/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "storm-private.h"

/* ---- records ---- */

static void touch(struct consumer *c, uint64_t start, uint64_t end)
{
	for (unsigned int p = 0; p < PLACES; p++) {
		uint64_t at = place_address(c->s, p);

		if (start < at + PAGE && at < end)
			for (unsigned int i = 0; i < CACHES; i++)
				atomic_store(&c->caches[i].touched[p], true);
	}
}

static void on_event(struct mirror_notifier *notifier, const struct mirror_event *ev, void *data)
{
	struct consumer *c = data;
	struct follow *f = &c->follow;

	(void)notifier;
	touch(c, ev->start, ev->end);
	if (!ev->seq)			/* the library says that it is over */
		return;
	atomic_fetch_add(&c->t->n.records, 1);
	if (ev->seq != ++f->seq) {
		complain(c->s, &c->t->n.gaps, "record %llu came after %llu",
			 (unsigned long long)ev->seq, (unsigned long long)f->seq - 1);
		f->seq = ev->seq;
	}
	if (ev->type == MIRROR_EVENT_OVERFLOW) {
		atomic_fetch_add(&c->t->n.overflows, 1);
		follow_reset(f, f->lo, atomic_load(&c->t->begun));
	} else if (!follow_step(f, ev)) {
		complain(c->s, &c->t->n.unexpected,
			 "record %llu: event %u, cause %u, of %llx-%llx is not what comes at %llu",
			 (unsigned long long)ev->seq, ev->type, ev->cause,
			 (unsigned long long)ev->start, (unsigned long long)ev->end,
			 (unsigned long long)f->lo);
	}
}

int consumer_watch(struct consumer *c)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	uint64_t start = (uintptr_t)c->s->arena, from;
	int r;

	memset(c->caches, 0, sizeof(c->caches));
	atomic_store(&c->t->tail, atomic_load(&c->t->done));
	atomic_store(&c->t->following, true);	/* from now on the log is kept for us */
	from = atomic_load(&c->t->done);
	c->follow.t = c->t;
	c->follow.seq = 0;
	r = mirror_notifier_insert(&c->notifier, c->target, start,
				   start + SLOTS * SLOT_STRIDE * PAGE, &ops, c);
	/* the first record can be of anything that was changed meanwhile */
	follow_reset(&c->follow, from, atomic_load(&c->t->begun));
	return r;
}

/* Everything before that position, but for what need not be told. */
static bool was_told(const struct consumer *c, uint64_t position)
{
	uint64_t told = atomic_load_explicit(&c->follow.told, memory_order_acquire);

	while (told < position && c->t->log[told % LOG].optional)
		told++;
	return told >= position;
}

void consumer_forget(struct consumer *c, bool dead)
{
	atomic_store(&c->t->following, false);
	for (unsigned int i = 0; dead && c->notifier && i < CACHES * PLACES; i++) {
		const struct entry *e = &c->caches[i / PLACES].entries[i % PLACES];
		uint64_t at = place_address(c->s, i % PLACES);

		if (e->known && !mirror_read_retry(c->notifier, at, at + PAGE, e->version))
			complain(c->s, &c->t->n.stale, "good, though mirrord is gone");
	}
	c->notifier = mirror_notifier_remove(c->notifier);
	c->target = mirror_target_unref(c->target);
	c->ctx = mirror_ctx_unref(c->ctx);
}

/* ---- lookups ---- */

/* What the processor sees there. */
static uint64_t peek(struct consumer *c, uint64_t address)
{
	uint64_t number = 0;
	struct iovec here = { &number, sizeof(number) };
	struct iovec there = { (void *)(uintptr_t)address, sizeof(number) };

	if (process_vm_readv(c->t->pid, &here, 1, &there, 1, 0) == sizeof(number))
		return number;
	if (errno != EFAULT)
		complain(c->s, &c->t->n.errors, "cannot look into the target: %s",
			 strerror(errno));
	return GONE;
}

static bool is_number(uint64_t state, uint64_t number)
{
	if (state == GONE || !(state & OR_ZERO))
		return state == number;
	return number == 0 || number == (state & ~OR_ZERO);
}

/* The first change, not before @from, after which that number was there; 0: none. */
static uint64_t when_there(struct place *p, uint64_t from, uint64_t number)
{
	uint64_t to = atomic_load_explicit(&p->begun, memory_order_acquire);

	for (uint64_t n = from; n <= to; n++)
		if (is_number(atomic_load(&p->history[n % HISTORY]), number))
			return n;
	/* so far behind that the history has been written over */
	return atomic_load(&p->begun) - from >= HISTORY ? from : 0;
}

/* 0, with the entry good or not known any more, or what libmirror says. */
static int refresh(struct consumer *c, struct cache *cache, unsigned int place, uint64_t at)
{
	struct entry *e = &cache->entries[place];
	bool touched;
	int r;

	for (unsigned int i = 0; i < 100; i++) {
		r = mirror_read_begin(c->notifier, at, at + PAGE, &e->version);
		if (r < 0)
			break;
		/* untouched by any record: then what is known is still there */
		touched = atomic_exchange(&cache->touched[place], false) || !e->known;
		if (touched)
			e->content = peek(c, at);
		if (!mirror_read_retry(c->notifier, at, at + PAGE, e->version)) {
			e->known = e->content != GONE;
			return 0;
		}
		if (touched)
			atomic_store(&cache->touched[place], true);
	}
	e->known = false;
	return r;
}

static int on_error(struct consumer *c, int r)
{
	switch (r) {
	case 0:
	case -EFAULT:		/* nothing is mapped there */
	case -EPIPE:
		return r;
	case -EAGAIN:
		atomic_fetch_add(&c->t->n.again, 1);
		return 0;
	case -EBUSY:		/* the userfaultfd from before is not gone yet */
		if (c->s->options.may_lose)
			return 0;
		break;
	}
	complain(c->s, &c->t->n.errors, "a lookup failed: %s", strerror(-r));
	return 0;
}

static void complain_stale(struct consumer *c, unsigned int place, uint64_t n,
			   const struct entry *e)
{
	struct place *p = &c->t->places[place];
	uint64_t to = atomic_load(&p->begun);

	complain(c->s, &c->t->n.stale,
		 "%s lookup of place %u, good by version %llu: %llx, but that is not there since "
		 "change %llu of %llu: %llx, %llx", c->strict ? "strict" : "ordered", place,
		 (unsigned long long)e->version, (unsigned long long)e->content,
		 (unsigned long long)n, (unsigned long long)to,
		 (unsigned long long)p->history[n % HISTORY],
		 (unsigned long long)p->history[to % HISTORY]);
}

int consumer_look(struct consumer *c, struct cache *cache, unsigned int place)
{
	uint64_t at = place_address(c->s, place), seen = GONE, from, position, n;
	struct place *p = &c->t->places[place];
	struct entry *e = &cache->entries[place];
	int r;

	position = atomic_load_explicit(&c->t->done, memory_order_acquire);
	from = atomic_load_explicit(&p->done, memory_order_acquire);
	if (c->strict)
		seen = peek(c, at);
	atomic_fetch_add(&c->t->n.lookups, 1);
	if (e->known && !mirror_read_retry(c->notifier, at, at + PAGE, e->version)) {
		atomic_fetch_add(&c->t->n.hits, 1);
	} else {
		r = refresh(c, cache, place, at);
		if (r < 0)
			return on_error(c, r) == -EPIPE ? -EPIPE : 0;
		if (!was_told(c, position))
			complain(c->s, &c->t->n.untold, "good, but told until %llu of %llu",
				 (unsigned long long)atomic_load(&c->follow.told),
				 (unsigned long long)position);
	}
	if (!e->known)
		return 0;
	n = c->strict ? when_there(p, from, seen) : 0;
	if (!when_there(p, n ? n : from, e->content))
		complain_stale(c, place, n ? n : from, e);
	return 0;
}

void consumer_settle(struct consumer *c)
{
	uint64_t end = now_ms() + PATIENCE_MS, at, version, done = atomic_load(&c->t->done);
	int r = 0;

	for (unsigned int i = 0; i < PLACES && c->notifier && r != -EPIPE; i++) {
		at = place_address(c->s, i);
		do
			r = mirror_read_begin(c->notifier, at, at + PAGE, &version);
		while (r == -EAGAIN && now_ms() < end);
		r = r < 0 ? on_error(c, r) : r;
	}
	if (c->notifier && r != -EPIPE && !was_told(c, done))
		complain(c->s, &c->t->n.untold, "in the end: told until %llu of %llu",
			 (unsigned long long)atomic_load(&c->follow.told),
			 (unsigned long long)done);
	if ((r == -EPIPE || !c->notifier) && !c->s->options.may_lose)
		complain(c->s, &c->t->n.errors, "in the end it is not connected");
}

/* ---- another process ---- */

static int try_attach(struct consumer *c)
{
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	int pidfd, r;

	open.path = c->s->options.path;
	open.flags = MIRROR_OPEN_NO_EMBEDDED;
	r = mirror_open(&c->ctx, &open);
	if (r < 0)
		return r;
	pidfd = (int)syscall(SYS_pidfd_open, c->t->pid, 0);
	r = mirror_target_attach(&c->target, c->ctx, pidfd, -1, NULL);
	close(pidfd);
	if (r == 0)
		r = consumer_watch(c);
	return r;
}

static void attach(struct consumer *c)
{
	int r;

	if (!atomic_load(&c->t->attached)) {
		nap_ms(1);
		return;
	}
	r = try_attach(c);
	if (r == 0)
		return;
	consumer_forget(c, false);
	if (!c->s->options.may_lose)
		complain(c->s, &c->t->n.errors, "a consumer cannot attach: %s", strerror(-r));
	nap_ms(1);
}

static void one_turn(struct consumer *c)
{
	uint64_t n = next_random(&c->random);
	int r;

	if (!c->notifier) {
		attach(c);
		return;
	}
	r = n % 64 ? consumer_look(c, &c->caches[0], (unsigned int)(n >> 32) % PLACES) :
		     mirror_wait(c->ctx, 5);
	if (r == -EPIPE) {
		if (!c->s->options.may_lose)
			complain(c->s, &c->t->n.errors, "mirrord has let go of a consumer");
		atomic_fetch_add(&c->t->n.lost, 1);
		consumer_forget(c, true);
	} else if (r < 0) {
		on_error(c, r);
	}
}

int consumer_main(struct storm *s, unsigned int i)
{
	static struct consumer c;

	c = (struct consumer) { .s = s, .t = &s->target[i], .random = s->seed * 7 + i };
	while (storm_phase(s) == STORM)
		one_turn(&c);
	while (storm_phase(s) < SETTLE)
		nap_ms(1);
	consumer_settle(&c);
	atomic_store(&c.t->settled, true);
	consumer_forget(&c, false);
	return 0;
}
