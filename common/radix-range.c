/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ranges of the radix
 *
 * All of them go down from the root, along the slots that the range touches, and do
 * what they do at the highest slot that is all in the range: there a leaf counts as
 * one, and an empty slot as nothing.  On the way back up a node that has become
 * uniform is merged: tried only if all its entries are used, and given up at the
 * first that is unlike.
 *
 * Where a leaf reaches beyond the range it is split, from above: 1 GiB first into
 * 512 of 2 MiB, then that one of them.  When no node is left for that, what cannot
 * fail takes the whole leaf, that is the smallest one it could get, and tells so by
 * the hull.
 *
 * Moving clears the place it moves to, has no leaf lie across any of the four ends,
 * and then goes on piece by piece: a node is relinked if it is whole in the range
 * and begins where one of its level may begin at the other place, too; of anything
 * else a run of like pages is entered anew.
 */
#include "radix-private.h"

static uint64_t clip(const struct radix *radix, uint64_t *start, uint64_t end)
{
	uint64_t limit = radix_limit(radix);

	*start &= ~(PAGE_BYTES - 1);
	return end >= limit ? limit : (end + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

/* One page, where its node is there and has no reason to be merged: false, if it is
 * not so. */
static bool fill_page(struct radix *radix, uint64_t address, uint64_t entry)
{
	unsigned int i = radix_index(address, 0);
	uint64_t low, high, link;
	uint32_t node = 0;

	for (unsigned int level = radix->levels - 1; level; level--) {
		link = radix_load(radix, node, radix_index(address, level));
		if (!(link & MIRROR_ENTRY_LINK))
			return false;
		node = radix_child(link);
	}
	if (radix->counts[node] >= MIRROR_TABLE_ENTRIES - 1) {
		/* Full, or nearly so: like its neighbour, or else nothing to merge. */
		low = i & 1 ? radix_load(radix, node, i - 1) : entry;
		high = i & 1 ? entry : radix_load(radix, node, i + 1);
		if (radix_ahead(radix, low, PAGE_BYTES) == high)
			return false;
	}
	radix_store(radix, node, i, entry);
	return true;
}

/* The nodes that @address is in, from below, as long as they are uniform. */
static void merge_at(struct radix *radix, uint64_t address)
{
	unsigned int level = radix->levels - 1;
	uint32_t path[5] = { 0 };
	uint64_t entry;

	while ((entry = radix_load(radix, path[level], radix_index(address, level))) &
	       MIRROR_ENTRY_LINK)
		path[--level] = radix_child(entry);
	while (++level <= RADIX_LEAF_MAX)
		if (!radix_merge(radix, path[level], radix_index(address, level), level))
			return;
}

/* @entry is of @start.  The range lies in @node, which is at @level. */
static int fill_node(struct radix *radix, uint32_t node, unsigned int level, uint64_t start,
		     uint64_t end, uint64_t entry)
{
	uint64_t span = radix_span(level), base, a, b, e;
	int r;

	for (a = start; a < end; a = b) {
		unsigned int i = radix_index(a, level);
		uint64_t old = radix_load(radix, node, i);

		base = a & ~(span - 1);
		b = MIN(end, base + span);
		e = radix_ahead(radix, entry, a - start);
		if (b - a == span && level <= RADIX_LEAF_MAX) {
			radix_replace(radix, node, i, level, e);
			continue;
		}
		if (!old)
			r = radix_grow(radix, node, i, level, base);
		else if (old & MIRROR_ENTRY_LINK)
			r = 0;
		else if (radix_ahead(radix, old, a - base) == e)
			continue;
		else
			r = radix_split(radix, node, i, level, base);
		if (r < 0)
			return r;
		r = fill_node(radix, radix_child(radix_load(radix, node, i)), level - 1, a, b, e);
		if (r < 0)
			return r;
	}
	return 0;
}

int radix_fill(struct radix *radix, uint64_t start, uint64_t end, uint64_t entry)
{
	int r;

	if (start >= end || end > radix_limit(radix) || (start | end) & (PAGE_BYTES - 1) ||
	    (entry & (MIRROR_ENTRY_VALID | MIRROR_ENTRY_LINK)) != MIRROR_ENTRY_VALID)
		return -EINVAL;
	if (end - start == PAGE_BYTES && fill_page(radix, start, entry))
		return 0;
	r = fill_node(radix, 0, radix->levels - 1, start, end, entry);
	if (r < 0) {
		radix_clear(radix, start, end, true, NULL);
		return r;
	}
	/* Between the ends all leaves are as high as can be.  Not before it is certain
	 * that nothing has to be taken back: that might need the nodes again. */
	merge_at(radix, start);
	merge_at(radix, end - 1);
	radix_settle(radix);
	return 0;
}

/* What is to be done to leaves. */
struct change {
	uint64_t take, set, must;
	bool wipe;		/* leaves become empty */
	bool trim;		/* empty nodes go */
	bool exact;		/* a leaf that is not all in the range is split */
	bool merge;
	bool seen;		/* there was one of @take */
	struct radix_hull hull;
};

static uint64_t changed(struct change *change, uint64_t entry)
{
	if (change->wipe)
		return 0;
	change->seen |= (entry & change->take) != 0;
	entry = (entry & ~change->take) | change->set;
	return change->must && !(entry & change->must) ? 0 : entry;
}

static void change_node(struct radix *radix, struct change *change, uint32_t node,
			unsigned int level, uint64_t start, uint64_t end)
{
	uint64_t span = radix_span(level), base, a, b, old, new;
	uint32_t child;

	for (a = start; a < end && radix->counts[node]; a = b) {
		unsigned int i = radix_index(a, level);

		base = a & ~(span - 1);
		b = MIN(end, base + span);
		old = radix_load(radix, node, i);
		if (!old)
			continue;
		if (old & MIRROR_ENTRY_LINK) {
			child = radix_child(old);
			if (!(change->wipe && change->trim && b - a == span))
				change_node(radix, change, child, level - 1, a, b);
			if (change->trim && (b - a == span || !radix->counts[child]))
				radix_replace(radix, node, i, level, 0);
			else if (change->merge)
				radix_merge(radix, node, i, level);
			continue;
		}
		new = changed(change, old);
		if (new == old)
			continue;
		if (b - a != span && change->exact) {
			if (radix_split(radix, node, i, level, base) == 0) {
				child = radix_child(radix_load(radix, node, i));
				change_node(radix, change, child, level - 1, a, b);
				continue;
			}
			change->hull.start = MIN(change->hull.start, base);
			change->hull.end = MAX(change->hull.end, base + span);
		}
		radix_store(radix, node, i, new);
	}
}

static void change_range(struct radix *radix, struct change *change, uint64_t start, uint64_t end)
{
	end = clip(radix, &start, end);
	change->hull = (struct radix_hull) { .start = start, .end = end };
	if (start < end)
		change_node(radix, change, 0, radix->levels - 1, start, end);
	radix_settle(radix);
}

void radix_clear(struct radix *radix, uint64_t start, uint64_t end, bool trim,
		 struct radix_hull *ret_hull)
{
	struct change change = { .wipe = true, .trim = trim, .exact = true };

	change_range(radix, &change, start, end);
	if (ret_hull)
		*ret_hull = change.hull;
}

/* No operation makes an entry something else than a leaf. */
static uint64_t flags_of(uint64_t flags)
{
	return flags & MIRROR_ENTRY_FLAGS & ~(MIRROR_ENTRY_VALID | MIRROR_ENTRY_LINK);
}

void radix_downgrade(struct radix *radix, uint64_t start, uint64_t end, uint64_t take,
		     uint64_t must, struct radix_hull *ret_hull)
{
	struct change change = {
		.take = flags_of(take), .must = must, .exact = true, .merge = true,
	};

	change_range(radix, &change, start, end);
	if (ret_hull)
		*ret_hull = change.hull;
}

void radix_mark(struct radix *radix, uint64_t start, uint64_t end, uint64_t flags)
{
	struct change change = { .set = flags_of(flags) };

	change_range(radix, &change, start, end);
}

bool radix_unmark(struct radix *radix, uint64_t start, uint64_t end, uint64_t flags)
{
	struct change change = { .take = flags_of(flags), .merge = true };

	change_range(radix, &change, start, end);
	return change.seen;
}

static bool test_node(const struct radix *radix, uint32_t node, unsigned int level, uint64_t start,
		      uint64_t end, uint64_t flags)
{
	uint64_t span = radix_span(level), a, b, entry;

	if (!radix->counts[node])
		return false;
	for (a = start; a < end; a = b) {
		b = MIN(end, (a & ~(span - 1)) + span);
		entry = radix_load(radix, node, radix_index(a, level));
		if (entry & MIRROR_ENTRY_LINK) {
			if (test_node(radix, radix_child(entry), level - 1, a, b, flags))
				return true;
		} else if (entry & flags) {
			return true;
		}
	}
	return false;
}

bool radix_test(const struct radix *radix, uint64_t start, uint64_t end, uint64_t flags)
{
	end = clip(radix, &start, end);
	return start < end &&
	       test_node(radix, 0, radix->levels - 1, start, end, flags & MIRROR_ENTRY_FLAGS);
}

/* false: the run is over.  One that has not begun has an end of 0. */
static bool next_node(const struct radix *radix, uint32_t node, unsigned int level, uint64_t start,
		      uint64_t end, struct radix_run *run)
{
	uint64_t span = radix_span(level), base, a, b, entry;

	if (!radix->counts[node])
		return !run->end;
	for (a = start; a < end; a = b) {
		base = a & ~(span - 1);
		b = MIN(end, base + span);
		entry = radix_load(radix, node, radix_index(a, level));
		if (entry & MIRROR_ENTRY_LINK) {
			if (!next_node(radix, radix_child(entry), level - 1, a, b, run))
				return false;
			continue;
		}
		if (!entry) {
			if (run->end)
				return false;
			continue;
		}
		entry = radix_ahead(radix, entry, a - base);
		if (!run->end)
			*run = (struct radix_run) { .start = a, .end = b, .entry = entry };
		else if (entry == radix_ahead(radix, run->entry, a - run->start))
			run->end = b;
		else
			return false;
	}
	return true;
}

bool radix_next(const struct radix *radix, uint64_t start, uint64_t end,
		struct radix_run *ret_run)
{
	struct radix_run run = { .end = 0 };

	end = clip(radix, &start, end);
	if (start < end)
		next_node(radix, 0, radix->levels - 1, start, end, &run);
	if (!run.end)
		return false;
	*ret_run = run;
	return true;
}

/* No leaf may lie across @address. */
static int split_at(struct radix *radix, uint64_t address)
{
	uint32_t node = 0;
	int r;

	if (address >= radix_limit(radix))
		return 0;
	for (unsigned int level = radix->levels - 1; address & (radix_span(level) - 1); level--) {
		unsigned int i = radix_index(address, level);
		uint64_t entry = radix_load(radix, node, i);

		if (!entry)
			return 0;
		if (!(entry & MIRROR_ENTRY_LINK)) {
			r = radix_split(radix, node, i, level,
					address & ~(radix_span(level) - 1));
			if (r < 0)
				return r;
		}
		node = radix_child(radix_load(radix, node, i));
	}
	return 0;
}

/* Links @child, of the level below @level, at @to, where nothing is. */
static int link_at(struct radix *radix, uint64_t to, unsigned int level, uint64_t by,
		   uint32_t from_node, unsigned int from_i)
{
	uint64_t link = radix_load(radix, from_node, from_i);
	uint32_t node = 0;
	int r;

	for (unsigned int l = radix->levels - 1; l > level; l--) {
		unsigned int i = radix_index(to, l);

		if (!radix_load(radix, node, i)) {
			r = radix_grow(radix, node, i, l, to & ~(radix_span(l) - 1));
			if (r < 0)
				return r;
		}
		node = radix_child(radix_load(radix, node, i));
	}
	radix_store(radix, from_node, from_i, 0);
	radix_rebase(radix, radix_child(link), level - 1, by);
	radix_store(radix, node, radix_index(to, level), link);
	return 0;
}

/* Moves what begins at @from: at most @len bytes, of which *ret_done were. */
static int move_some(struct radix *radix, uint64_t from, uint64_t to, uint64_t len,
		     uint64_t *ret_done)
{
	unsigned int level = radix->levels - 1, alike = 0, i;
	uint64_t entry, left, reach;
	struct radix_run run;
	uint32_t node = 0;

	while (alike < level && !((from ^ to) & (radix_span(alike + 1) - 1)))
		alike++;
	for (;; level--) {
		i = radix_index(from, level);
		entry = radix_load(radix, node, i);
		left = radix_span(level) - (from & (radix_span(level) - 1));
		if (!(entry & MIRROR_ENTRY_LINK))
			break;
		if (level <= alike && left == radix_span(level) && left <= len) {
			*ret_done = left;
			return link_at(radix, to, level, to - from, node, i);
		}
		node = radix_child(entry);
	}
	*ret_done = MIN(left, len);
	if (!entry)
		return 0;

	/* Behind this leaf's node, or where the next can be relinked, begin again. */
	alike = MIN(alike, level + 1);
	reach = alike ? radix_span(alike) - (from & (radix_span(alike) - 1)) : len;
	radix_next(radix, from, from + MIN(len, MAX(reach, left)), &run);
	*ret_done = run.end - run.start;
	radix_clear(radix, run.start, run.end, true, NULL);
	return radix_fill(radix, to, to + *ret_done, run.entry);
}

int radix_move(struct radix *radix, uint64_t from, uint64_t to, uint64_t len)
{
	uint64_t limit = radix_limit(radix), done, part;
	int r;

	if (!len || (from | to | len) & (PAGE_BYTES - 1) || from >= limit || to >= limit ||
	    len > limit - from || len > limit - to ||
	    ranges_overlap(from, from + len, to, to + len))
		return -EINVAL;
	r = split_at(radix, from);
	if (r == 0)
		r = split_at(radix, from + len);
	if (r == 0)
		r = split_at(radix, to);
	if (r == 0)
		r = split_at(radix, to + len);
	radix_clear(radix, to, to + len, true, NULL);
	for (done = 0; r == 0 && done < len; done += r == 0 ? part : 0)
		r = move_some(radix, from + done, to + done, len - done, &part);
	if (r < 0)
		radix_clear(radix, to + done, to + len, true, NULL);
	radix_clear(radix, from, from + len, true, NULL);
	return r;
}
