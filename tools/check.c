/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Checking a table while its target runs
 *
 * Model
 *   The address space is looked at in windows.  A look at a window is
 *
 *	mirror_read_begin()	what has changed is known, and out of the table
 *	walk the table
 *	read maps and pagemap
 *	mirror_read_retry()	did anything change since?
 *
 *   Table first, kernel second.  An entry may appear at any time and without a
 *   change, as somebody has the daemon look, so a table that is read second may know
 *   of a page that came after the kernel was asked.  In this order an entry that was
 *   right when it was walked can only be wrong later by a change, and that is told:
 *
 *	us			target			daemon
 *	begin: version
 *	walk: present
 *				munmap
 *							started++, clear
 *	pagemap: no page
 *	retry: 1, look again
 *
 *   A window with a hole in it has no version, as mirror_read_begin() fails.  It does
 *   so after it has waited for all that is in flight, and has run the callbacks.  So
 *   there the second half is another mirror_read_begin(), and whether our notifier
 *   was told of a change in between.  Entries in holes are what matters most.
 *
 * What does not hold still is halved, until what is left is small, and is then
 * counted as such and not compared.
 *
 * Confirming
 *   A change is only known to the daemon when it has read it, and until then its
 *   thread waits in its system call.  The mapping may be gone before, and a look in
 *   between finds the gate quiet and the table wrong.  So what seems wrong is looked at
 *   again, a few times, with a question to the daemon in between: what it can know, it
 *   knows soon.  A real mistake stays.
 */

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"

#define PAGE_SHIFT	12
#define PAGE		(1ULL << PAGE_SHIFT)
#define WINDOW		(64ULL << 20)
#define WINDOW_PAGES	(WINDOW >> PAGE_SHIFT)
#define PIECE		(16 * PAGE)	/* not halved any more */

/* Where the table knows nothing of so large a mapping, it is not read for nothing. */
#define LARGE		(4ULL << 30)

#define TRIES		4
#define TRIES_PIECE	16
#define CONFIRMATIONS	7

/* What a look at a window came to. */
enum look {
	LOOK_GOOD,
	LOOK_CHANGED,
	LOOK_STUCK,		/* a change that does not come to its end */
};

static bool overlaps(const struct check *c, uint64_t start, uint64_t end)
{
	return start < c->end && c->start < end;
}

static void on_event(struct mirror_notifier *notifier, const struct mirror_event *event,
		     void *userdata)
{
	struct check *c = userdata;

	(void)notifier;
	switch (event->type) {
	case MIRROR_EVENT_RELEASE:
		c->released = true;
		c->touched = true;
		break;
	case MIRROR_EVENT_OVERFLOW:
		c->touched = true;
		break;
	case MIRROR_EVENT_REMAP:
		if (overlaps(c, event->arg.remap.to,
			     event->arg.remap.to + (event->end - event->start)))
			c->touched = true;
		break;
	}

	if (overlaps(c, event->start, event->end))
		c->touched = true;
}

int check_init(struct check *check, struct mirror_ctx *ctx, struct mirror_target *target,
	       uint64_t start, uint64_t end)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	int r;

	check->ctx = ctx;
	check->target = target;
	compare_rules_of(&check->rules, target);

	check->entries = malloc(WINDOW_PAGES * sizeof(*check->entries));
	check->words = malloc(WINDOW_PAGES * sizeof(*check->words));
	if (!check->entries || !check->words)
		return -ENOMEM;

	r = truth_open(&check->truth, mirror_target_get_pid(target));
	if (r < 0)
		return r;

	return mirror_notifier_insert(&check->notifier, target, start, end, &ops, check);
}

void check_reset(struct check *check)
{
	check->compared = check->same = check->unknown = check->skipped = 0;
	check->changing = check->different = check->n_untold = 0;
	memset(check->untold, 0, sizeof(check->untold));
	check->n_wrong = 0;
}

void check_deinit(struct check *check)
{
	check->notifier = mirror_notifier_remove(check->notifier);
	truth_close(&check->truth);
	free(check->entries);
	free(check->words);
	free(check->wrong);
	*check = (struct check)CHECK_NULL;
}

uint64_t check_next_known(const struct mirror_table *table, uint64_t at, uint64_t end)
{
	unsigned int shift;
	uint64_t limit;

	limit = 1ULL << (PAGE_SHIFT + MIRROR_TABLE_NODE_SHIFT * table->levels);
	if (limit > end)
		limit = end;

	while (at < limit) {
		if (mirror_table_walk(table, at, &shift))
			return at;
		at = ((at >> shift) + 1) << shift;
	}

	return end;
}

static void read_entries(struct check *c, const struct mirror_table *table)
{
	uint64_t at = c->start, next, entry, limit;
	unsigned int shift;

	limit = 1ULL << (PAGE_SHIFT + MIRROR_TABLE_NODE_SHIFT * table->levels);
	while (at < c->end) {
		if (at < limit) {
			entry = mirror_table_walk(table, at, &shift);
			next = ((at >> shift) + 1) << shift;
		} else {
			entry = 0;
			next = c->end;
		}

		for (; at < next && at < c->end; at += PAGE)
			c->entries[(at - c->start) >> PAGE_SHIFT] = entry;
	}
}

/* Asks the gate.  Not 0 only if there is no more to be had. */
static int begin(struct check *c, uint64_t *ret_version, bool *ret_has_version, enum look *ret_look)
{
	int r;

	*ret_look = LOOK_GOOD;
	r = mirror_read_begin(c->notifier, c->start, c->end, ret_version);
	*ret_has_version = r == 0;
	switch (r) {
	case 0:
	case -EFAULT:		/* a hole */
	case -EOPNOTSUPP:	/* or what cannot be watched */
	case -EBUSY:
		return 0;
	case -EAGAIN:
		*ret_look = LOOK_STUCK;
		return 0;
	}

	return r;
}

static int look_at(struct check *c, enum look *ret_look)
{
	const struct mirror_table *table;
	bool has_version, ignored;
	uint64_t version = 0, other;
	int r;

	r = begin(c, &version, &has_version, ret_look);
	if (r < 0)
		return r;
	c->touched = false;

	r = mirror_target_get_table(c->target, &table);
	if (r < 0)
		return r;
	read_entries(c, table);

	r = truth_read_maps(&c->truth, false);
	if (r >= 0)
		r = truth_read_pages(&c->truth, c->start, c->end, c->words);
	if (r < 0)
		return r;

	if (*ret_look == LOOK_STUCK)
		return 0;
	if (has_version) {
		if (mirror_read_retry(c->notifier, c->start, c->end, version))
			*ret_look = LOOK_CHANGED;
	} else {
		r = begin(c, &other, &ignored, ret_look);
		if (c->touched && *ret_look == LOOK_GOOD)
			*ret_look = LOOK_CHANGED;
	}
	if (__atomic_load_n(&table->state, __ATOMIC_RELAXED) != MIRROR_TABLE_LIVE)
		*ret_look = LOOK_CHANGED;

	return c->released ? -ESRCH : r;
}

/* ---- what a look has found ---- */

struct cursor {
	size_t map;
};

static const struct truth_map *map_at(const struct check *c, struct cursor *cursor, uint64_t at)
{
	while (cursor->map < c->truth.n_maps && c->truth.maps[cursor->map].end <= at)
		cursor->map++;
	if (cursor->map == c->truth.n_maps || c->truth.maps[cursor->map].start > at)
		return NULL;

	return &c->truth.maps[cursor->map];
}

static struct cursor cursor_at(const struct check *c, uint64_t at)
{
	const struct truth_map *map = truth_find(&c->truth, at);

	return (struct cursor) { map ? (size_t)(map - c->truth.maps) : c->truth.n_maps };
}

static struct compare_result result_at(const struct check *c, struct cursor *cursor, uint64_t at)
{
	size_t i = (at - c->start) >> PAGE_SHIFT;

	return compare_page(&c->rules, c->entries[i], c->words[i], map_at(c, cursor, at));
}

/* The worst: 2 with a difference, 1 with something untold, 0. */
static int judge(const struct check *c)
{
	struct cursor cursor = cursor_at(c, c->start);
	struct compare_result result;
	uint64_t at;
	int worst = 0;

	for (at = c->start; at < c->end && worst < 2; at += PAGE) {
		result = result_at(c, &cursor, at);
		if (result.what >= COMPARE_UNMAPPED)
			worst = result.why == UNTOLD_NOT ? 2 : 1;
	}

	return worst;
}

static int add_wrong(struct check *c, uint64_t at, struct compare_result result)
{
	size_t i = (at - c->start) >> PAGE_SHIFT, size;
	struct check_wrong *wrong;

	if (c->n_wrong) {
		wrong = &c->wrong[c->n_wrong - 1];
		if (wrong->end == at && wrong->result.what == result.what &&
		    wrong->result.why == result.why) {
			wrong->end += PAGE;
			return 0;
		}
	}

	if (c->n_wrong == c->wrong_size) {
		size = c->wrong_size ? 2 * c->wrong_size : 64;
		wrong = realloc(c->wrong, size * sizeof(*wrong));
		if (!wrong)
			return -ENOMEM;
		c->wrong = wrong;
		c->wrong_size = size;
	}

	c->wrong[c->n_wrong++] = (struct check_wrong) {
		.start = at,
		.end = at + PAGE,
		.entry = c->entries[i],
		.word = c->words[i],
		.result = result,
	};

	return 0;
}

static int count(struct check *c)
{
	struct cursor cursor = cursor_at(c, c->start);
	struct compare_result result;
	uint64_t at;
	int r;

	for (at = c->start; at < c->end; at += PAGE) {
		result = result_at(c, &cursor, at);
		if (result.what == COMPARE_NOTHING)
			continue;
		if (result.what == COMPARE_UNKNOWN) {
			c->unknown++;
			continue;
		}

		c->compared++;
		if (result.what == COMPARE_SAME) {
			c->same++;
			continue;
		}
		if (result.why == UNTOLD_NOT) {
			c->different++;
		} else {
			c->untold[result.why]++;
			c->n_untold++;
		}
		r = add_wrong(c, at, result);
		if (r < 0)
			return r;
	}

	return 0;
}

static void count_changing(struct check *c)
{
	size_t i, n = (c->end - c->start) >> PAGE_SHIFT;

	for (i = 0; i < n; i++)
		if (c->entries[i] || c->words[i] & TRUTH_PRESENT)
			c->changing++;
}

/* ---- windows ---- */

/* Lets the daemon read what it has to read. */
static int give_time(struct check *c, unsigned int turn)
{
	struct mirror_stats stats = { .size = sizeof(stats) };

	poll(NULL, 0, 1 << turn);

	return mirror_daemon_get_stats(c->ctx, &stats);
}

/* Looks until nothing changes meanwhile; LOOK_CHANGED: it always does. */
static int look_quietly(struct check *c, unsigned int tries, enum look *ret_look)
{
	int r;

	do {
		r = look_at(c, ret_look);
	} while (r >= 0 && *ret_look == LOOK_CHANGED && --tries);

	return r;
}

static int check_window(struct check *c, uint64_t start, uint64_t end)
{
	bool is_piece = end - start <= PIECE;
	unsigned int turn;
	uint64_t middle;
	enum look look;
	int r, worst;

	c->start = start;
	c->end = end;
	for (turn = 0;; turn++) {
		r = look_quietly(c, is_piece ? TRIES_PIECE : TRIES, &look);
		if (r < 0)
			return r;
		if (look != LOOK_GOOD)
			break;

		/* what is untold stays so, but may have come between maps and pagemap */
		worst = judge(c);
		if (!worst || turn == (worst == 2 ? CONFIRMATIONS : 1))
			return count(c);
		r = give_time(c, turn);
		if (r < 0)
			return r;
	}

	if (is_piece || look == LOOK_STUCK) {
		count_changing(c);
		return 0;
	}

	middle = start + (((end - start) / 2) & ~(PAGE - 1));
	r = check_window(c, start, middle);

	return r < 0 ? r : check_window(c, middle, end);
}

/* Where to go on from @at: something is known, or mapped. */
static uint64_t next_at(struct check *c, const struct mirror_table *table, uint64_t at,
			uint64_t end)
{
	uint64_t known = check_next_known(table, at, end), to;
	const struct truth_map *map;

	while (at < known) {
		map = truth_find(&c->truth, at);
		if (!map || map->start >= known)
			return known;

		if (map->start > at)
			at = map->start;
		if (map->end - map->start < LARGE)
			return at;

		to = map->end < known ? map->end : known;
		c->skipped += (to - at) >> PAGE_SHIFT;
		at = to;
	}

	return at;
}

int check_range(struct check *check, uint64_t start, uint64_t end)
{
	const struct mirror_table *table;
	uint64_t at = start, to;
	int r;

	for (;;) {
		r = mirror_target_get_table(check->target, &table);
		if (r >= 0)
			r = truth_read_maps(&check->truth, false);
		if (r < 0)
			return r;

		at = next_at(check, table, at, end);
		if (at >= end)
			return 0;

		to = (at & ~(WINDOW - 1)) + WINDOW;
		if (to > end)
			to = end;
		r = check_window(check, at, to);
		if (r < 0)
			return r;
		at = to;

		r = check->progress ? check->progress(at, check->userdata) : 0;
		if (r)
			return r;
	}
}
