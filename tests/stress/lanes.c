/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "lanes.h"

#define ARENA	(1UL << 32)

struct lanes *lanes_new(unsigned int n_single, unsigned int n_pairs)
{
	struct lanes *ls;
	char *arena;

	ls = mmap(NULL, sizeof(*ls), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ls == MAP_FAILED)
		bail("mmap");
	ls->n = n_single + n_pairs;
	ls->memfd = memfd_create("lanes", MFD_CLOEXEC);
	if (ls->n > LANES_MAX || ls->memfd < 0 ||
	    ftruncate(ls->memfd, (off_t)(ls->n * LANE_PAGES * PAGE)) < 0)
		bail("cannot make lanes");
	ls->device = mmap(NULL, ls->n * LANE_PAGES * PAGE, PROT_READ, MAP_SHARED, ls->memfd, 0);
	arena = mmap(NULL, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ls->device == MAP_FAILED || arena == MAP_FAILED)
		bail("mmap: %s", strerror(errno));
	munmap(arena, ARENA);
	for (unsigned int i = 0; i < ls->n; i++) {
		struct lane *l = &ls->lane[i];

		l->lanes = ls;
		/* next to each other, in one stripe: lanes disturb each other all they can */
		l->address = arena + ARENA / 2 + 2 * i * PAGE;
		l->first = i * LANE_PAGES;
		l->pair = i >= n_single;
	}
	return ls;
}

static void on_event(struct mirror_notifier *notifier, const struct mirror_event *event,
		     void *data)
{
	struct lane *l = data;

	(void)notifier;
	if (event->type == MIRROR_EVENT_OVERFLOW)
		atomic_fetch_add(&l->lost, 1);
	else
		atomic_fetch_add(&l->events, 1);
	pthread_mutex_lock(&l->lock);
	l->valid = false;
	pthread_mutex_unlock(&l->lock);
}

int lanes_attach(struct lanes *ls, const char *socket)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	struct mirror_attach_opts attach = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	int r;

	open.path = socket;
	open.flags = MIRROR_OPEN_NO_EMBEDDED;
	r = mirror_open(&ls->ctx, &open);
	if (r < 0)
		return r;
	attach.flags = MIRROR_ATTACH_STRICT;
	r = mirror_target_attach_self(&ls->target, ls->ctx, &attach);
	for (unsigned int i = 0; i < ls->n && r == 0; i++) {
		struct lane *l = &ls->lane[i];
		uint64_t at = (uintptr_t)l->address;

		/* who had it last may have been killed with the lock in its hands */
		pthread_mutex_init(&l->lock, NULL);
		l->valid = false;
		r = mirror_notifier_insert(&l->notifier, ls->target, at, at + PAGE, &ops, l);
	}
	return r;
}

void lanes_detach(struct lanes *ls)
{
	for (unsigned int i = 0; i < ls->n; i++)
		ls->lane[i].notifier = mirror_notifier_remove(ls->lane[i].notifier);
	ls->target = mirror_target_unref(ls->target);
	ls->ctx = mirror_ctx_unref(ls->ctx);
}

/* ---- the memory ---- */

static bool map(struct lane *l)
{
	unsigned int page = l->first + (unsigned int)((l->generation + 1) % LANE_PAGES);
	char *p;

	p = mmap(l->address, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE,
		 l->lanes->memfd, (off_t)(page * PAGE));
	if (p == MAP_FAILED && errno == EEXIST)
		return false;
	if (p != l->address)
		bail("mmap of a lane: %s", strerror(errno));
	l->generation++;
	l->current = page;
	*(volatile uint64_t *)l->address = l->generation;
	return true;
}

static void unmap(struct lane *l)
{
	if (munmap(l->address, PAGE) < 0)
		bail("munmap of a lane: %s", strerror(errno));
	atomic_fetch_add(&l->unmaps, 1);
}

/* ---- the cache ---- */

/* 0 and the page, or what libmirror said. */
static int lookup(struct lane *l, unsigned int *ret_page)
{
	uint64_t at = (uintptr_t)l->address, version;
	unsigned int page;
	bool known;
	int r;

	pthread_mutex_lock(&l->lock);
	known = l->valid && !mirror_read_retry(l->notifier, at, at + PAGE, l->version);
	*ret_page = l->page;
	pthread_mutex_unlock(&l->lock);
	if (known) {
		atomic_fetch_add(&l->hits, 1);
		return 0;
	}
	for (;;) {
		do {
			r = mirror_read_begin(l->notifier, at, at + PAGE, &version);
		} while (r == -EAGAIN && !atomic_load(&l->lanes->stop));
		if (r < 0)
			return r;
		page = l->current;
		pthread_mutex_lock(&l->lock);
		if (!mirror_read_retry(l->notifier, at, at + PAGE, version))
			break;
		pthread_mutex_unlock(&l->lock);
	}
	/* untouched by any callback: then it must be what is there */
	if (!l->valid)
		l->page = page;
	l->valid = true;
	l->version = version;
	*ret_page = l->page;
	pthread_mutex_unlock(&l->lock);
	return 0;
}

static void use(struct lane *l)
{
	unsigned int page;
	uint64_t seen;
	int r;

	for (int i = 0; i < 2; i++) {
		r = lookup(l, &page);
		if (r < 0) {
			atomic_store(&l->error, r);
			return;
		}
		seen = *(volatile uint64_t *)(l->lanes->device + page * PAGE);
		if (seen != *(volatile uint64_t *)l->address)
			atomic_fetch_add(&l->stale, 1);
	}
}

int lane_settle(struct lane *l)
{
	uint64_t at = (uintptr_t)l->address, version;
	int r;

	do {
		r = mirror_read_begin(l->notifier, at, at + PAGE, &version);
	} while (r == -EAGAIN);
	return r == -EFAULT ? 0 : r;	/* nothing is mapped there: asked last */
}

/* ---- the threads ---- */

static void wait_until(atomic_ulong *word, unsigned long value)
{
	for (unsigned int i = 1; atomic_load_explicit(word, memory_order_acquire) < value; i++)
		if (i % 256 == 0)
			sched_yield();
}

static void *second_main(void *data)
{
	struct lane *l = data;
	unsigned long turn = atomic_load(&l->gone);

	for (;;) {
		wait_until(&l->asked, ++turn);
		if (atomic_load(&l->asked) == ~0UL)
			return NULL;
		unmap(l);
		atomic_store_explicit(&l->gone, turn, memory_order_release);
	}
}

static void turn(struct lane *l)
{
	unsigned long n;
	unsigned int i = 0;

	if (l->pair) {
		n = atomic_load(&l->gone) + 1;
		atomic_store_explicit(&l->asked, n, memory_order_release);
		while (!map(l))
			if (++i % 256 == 0)	/* it may need this processor */
				sched_yield();
		if (!atomic_load(&l->error))
			use(l);
		wait_until(&l->gone, n);
	} else {
		unmap(l);
		map(l);
		if (!atomic_load(&l->error))
			use(l);
	}
	atomic_fetch_add(&l->turns, 1);
}

static void *lane_main(void *data)
{
	struct lane *l = data;
	unsigned long left;

	l->tid = (pid_t)syscall(SYS_gettid);
	if (!map(l))
		bail("the address of a lane is taken");
	use(l);
	while (!atomic_load(&l->lanes->stop) && !atomic_load(&l->error))
		turn(l);
	/* nobody watches any more, and nobody may wait for that */
	for (left = atomic_load(&l->error) ? atomic_load(&l->lanes->after) : 0; left; left--)
		turn(l);
	if (l->pair)
		atomic_store(&l->asked, ~0UL);
	return NULL;
}

void lanes_start(struct lanes *ls)
{
	atomic_store(&ls->stop, false);
	for (unsigned int i = 0; i < ls->n; i++) {
		struct lane *l = &ls->lane[i];

		atomic_store(&l->error, 0);
		atomic_store(&l->asked, 0);
		atomic_store(&l->gone, 0);
		if (l->pair && pthread_create(&l->second, NULL, second_main, l))
			bail("thread");
		if (pthread_create(&l->thread, NULL, lane_main, l))
			bail("thread");
	}
}

void lanes_join(struct lanes *ls)
{
	for (unsigned int i = 0; i < ls->n; i++) {
		pthread_join(ls->lane[i].thread, NULL);
		if (ls->lane[i].pair)
			pthread_join(ls->lane[i].second, NULL);
		munmap(ls->lane[i].address, PAGE);
	}
}

void lanes_stop(struct lanes *ls)
{
	atomic_store(&ls->stop, true);
	lanes_join(ls);
}

/* ---- results ---- */

uint64_t lanes_turns(const struct lanes *ls)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < ls->n; i++)
		n += atomic_load(&ls->lane[i].turns);
	return n;
}

uint64_t lanes_stale(const struct lanes *ls)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < ls->n; i++)
		n += atomic_load(&ls->lane[i].stale);
	return n;
}

int lanes_error(const struct lanes *ls, int wanted)
{
	for (unsigned int i = 0; i < ls->n; i++)
		if (atomic_load(&ls->lane[i].error) != wanted)
			return atomic_load(&ls->lane[i].error);
	return wanted;
}
