/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <mirror/table.h>
#include <stdio.h>
#include <sys/mman.h>
#include "radix-model.h"

#define FLAGS (MIRROR_DEVICE_READ | MIRROR_DEVICE_WRITE | MIRROR_DEVICE_EXEC | MIRROR_DEVICE_DIRTY)
#define MARGIN 600 /* pages to each side that are compared after each operation */

struct model {
	struct radix radix;
	void *memory;
	size_t size;
	uint64_t *pages;		/* of all windows */
	char why[200];
};

/* The second one lies across two entries of the root. */
static const uint64_t bases[MODEL_WINDOWS] = { 0, (3ULL << 39) - (1ULL << 30), 65ULL << 40 };

#define FAIL(_model, _what, _address)							\
	(snprintf((_model)->why, sizeof((_model)->why), "%s:%d: %s at %#lx", __FILE__,	\
		  __LINE__, _what, (unsigned long)(_address)), (_model)->why)

/* A range of a window, as pages and as addresses. */
struct part {
	uint64_t *pages;
	uint64_t first, n, start, end;
};

static void discard(struct radix *radix, void *memory, size_t size)
{
	(void)radix;
	madvise(memory, size, MADV_DONTNEED);
}

struct model *model_new(unsigned int bits, uint32_t n_nodes)
{
	_cleanup_(model_freep) struct model *model = calloc(1, sizeof(*model));
	unsigned int levels = bits & 2 ? 5 : 4;

	if (!model)
		return NULL;
	model->size = radix_bytes(n_nodes);
	model->memory = mmap(NULL, model->size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	model->pages = mmap(NULL, MODEL_WINDOWS * MODEL_PAGES * sizeof(uint64_t),
			    PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (model->memory == MAP_FAILED || model->pages == MAP_FAILED)
		return NULL;
	if (radix_init(&model->radix, model->memory, n_nodes, levels, 1, bits & 1) < 0)
		return NULL;
	model->radix.discard = bits & 4 ? NULL : discard;
	return TAKE_PTR(model);
}

struct model *model_free(struct model *model)
{
	if (!model)
		return NULL;
	radix_deinit(&model->radix);
	if (model->memory && model->memory != MAP_FAILED)
		munmap(model->memory, model->size);
	if (model->pages && model->pages != MAP_FAILED)
		munmap(model->pages, MODEL_WINDOWS * MODEL_PAGES * sizeof(uint64_t));
	free(model);
	return NULL;
}

static uint64_t window_base(const struct model *model, unsigned int window)
{
	/* With five levels the last one is where only they reach. */
	return bases[window] | (window == 2 && model->radix.levels == 5 ? 1ULL << 55 : 0);
}

static struct part part_of(const struct model *model, unsigned int window, uint64_t first,
			   uint64_t n)
{
	uint64_t start = window_base(model, window) + first * PAGE_BYTES;

	return (struct part) {
		.pages = model->pages + window * MODEL_PAGES, .first = first, .n = n,
		.start = start, .end = start + n * PAGE_BYTES,
	};
}

static uint64_t ahead(const struct model *model, uint64_t entry, uint64_t pages)
{
	return model->radix.linear ? entry + pages * PAGE_BYTES : entry;
}

static struct part widened(const struct part *part)
{
	uint64_t before = MIN(part->first, MARGIN);
	uint64_t after = MIN(MODEL_PAGES - part->first - part->n, MARGIN);

	return (struct part) {
		.pages = part->pages, .first = part->first - before,
		.n = part->n + before + after,
		.start = part->start - before * PAGE_BYTES,
		.end = part->end + after * PAGE_BYTES,
	};
}

/* The runs of the radix are those of the array, and as long as they can be. */
static const char *compare(struct model *model, const struct part *part)
{
	const uint64_t *v = part->pages + part->first;
	struct radix_run run = { .start = 0 };
	uint64_t i = 0, at, stop;
	bool more;

	while (i < part->n) {
		at = part->start + i * PAGE_BYTES;
		more = radix_next(&model->radix, at, part->end, &run);
		stop = more ? (run.start - part->start) / PAGE_BYTES : part->n;
		if (more && (run.start < at || run.end <= run.start || run.end > part->end))
			return FAIL(model, "a run out of range", at);
		for (; i < stop; i++)
			if (v[i])
				return FAIL(model, "a page is lost", part->start + i * PAGE_BYTES);
		if (!more)
			break;
		stop = (run.end - part->start) / PAGE_BYTES;
		for (uint64_t first = i; i < stop; i++)
			if (v[i] != ahead(model, run.entry, i - first))
				return FAIL(model, "a wrong page", part->start + i * PAGE_BYTES);
		if (i < part->n && v[i - 1] && v[i] == ahead(model, v[i - 1], 1))
			return FAIL(model, "a short run", run.end);
	}
	return NULL;
}

static const char *compare_point(struct model *model, const struct part *part, uint64_t page)
{
	uint64_t address = part->start + (page - part->first) * PAGE_BYTES, entry;
	unsigned int shift;

	if (radix_get(&model->radix, address | 123) != part->pages[page])
		return FAIL(model, "radix_get()", address);
	entry = mirror_table_walk(model->memory, address, &shift);
	if (entry)
		entry = ahead(model, entry, (address & ((1ULL << shift) - 1)) / PAGE_BYTES);
	if (entry != part->pages[page])
		return FAIL(model, "mirror_table_walk()", address);
	return NULL;
}

/* What the leaves reach to that stand at the ends of the range. */
static struct radix_hull reach_of(const struct model *model, const struct part *part)
{
	struct radix_hull hull = { .start = part->start, .end = part->end };
	unsigned int shift;

	if (mirror_table_walk(model->memory, part->start, &shift))
		hull.start &= ~((1ULL << shift) - 1);
	if (mirror_table_walk(model->memory, part->end - 1, &shift))
		hull.end = ((part->end - 1) | ((1ULL << shift) - 1)) + 1;
	return hull;
}

/* As a part; a leaf never reaches out of a window. */
static struct part part_of_hull(const struct part *part, const struct radix_hull *hull)
{
	return (struct part) {
		.pages = part->pages,
		.first = part->first - (part->start - hull->start) / PAGE_BYTES,
		.n = (hull->end - hull->start) / PAGE_BYTES,
		.start = hull->start, .end = hull->end,
	};
}

static bool is_in(const struct part *part, uint64_t page)
{
	return page - part->first < part->n;
}

static uint64_t changed(uint64_t v, uint64_t take, uint64_t must)
{
	v &= ~take;
	return must && !(v & must) ? 0 : v;
}

/*
 * There was no node: in the reach of the range pages may have changed as those in the
 * range have.  The array takes over what the radix says.
 */
static const char *adopt(struct model *model, const struct part *part,
			 const struct radix_hull *reach, uint64_t take, uint64_t must)
{
	struct part all = part_of_hull(part, reach);

	for (uint64_t i = all.first; i < all.first + all.n; i++) {
		uint64_t *v = &all.pages[i], address = all.start + (i - all.first) * PAGE_BYTES;
		uint64_t now = is_in(part, i) ? *v : radix_get(&model->radix, address);

		if (now != *v && now != changed(*v, take, must))
			return FAIL(model, "a page beside the range", address);
		*v = now;
	}
	return NULL;
}

/* A value of the page at @address, one of few, so that pages become alike. */
static uint64_t value_of(const struct model *model, uint8_t value, uint64_t address)
{
	uint64_t flags = MIRROR_ENTRY_VALID | ((uint64_t)value << 2 & FLAGS);

	if (!model->radix.linear)
		return flags | (uint64_t)(value >> 6) << MIRROR_PTE_NODE_SHIFT;
	/* Large leaves of addresses that are aligned to nothing, too. */
	return flags + address + ((uint64_t)(value >> 6) << (value & 32 ? 12 : 41));
}

static const char *fill(struct model *model, const struct part *part, const struct model_op *op)
{
	struct radix_hull reach = reach_of(model, part);
	uint64_t entry = value_of(model, op->value, part->start);
	int r = radix_fill(&model->radix, part->start, part->end, entry);

	if (r != 0 && (r != -ENOSPC || model->radix.n_nodes > 10000))
		return FAIL(model, "radix_fill()", r);
	for (uint64_t i = 0; i < part->n; i++)
		part->pages[part->first + i] = r ? 0 : ahead(model, entry, i);
	return r ? adopt(model, part, &reach, ~0ULL, 0) : NULL;
}

/* Page by page, no two neighbours alike, or all. */
static const char *fill_pages(struct model *model, const struct part *all,
			      const struct model_op *op)
{
	struct model_op one = *op;
	const char *why = NULL;

	for (uint64_t i = 0; i < MIN(all->n, 2048) && !why; i++) {
		struct part part = *all;

		part.first += i;
		part.start += i * PAGE_BYTES;
		part.end = part.start + PAGE_BYTES;
		part.n = 1;
		one.value = (uint8_t)(op->value ^ (op->where & 0x80 ? i & 1 : 0));
		why = fill(model, &part, &one);
	}
	return why;
}

static const char *clear(struct model *model, const struct part *part, const struct model_op *op)
{
	bool down = op->kind == MODEL_DOWNGRADE;
	uint64_t take = down ? (uint64_t)op->value << 2 & FLAGS : ~0ULL;
	uint64_t must = down ? (uint64_t)(op->value >> 4) << 2 & FLAGS : 0;
	struct radix_hull reach = reach_of(model, part), hull;
	bool plenty = model->radix.n_nodes > 10000;

	if (down)
		radix_downgrade(&model->radix, part->start, part->end, take, must, &hull);
	else
		radix_clear(&model->radix, part->start, part->end, op->kind == MODEL_TRIM, &hull);
	if (hull.start > part->start || hull.end < part->end || hull.start < reach.start ||
	    hull.end > reach.end)
		return FAIL(model, "a hull", hull.start);
	if (plenty && (hull.start != part->start || hull.end != part->end))
		return FAIL(model, "a large hull", hull.start);
	for (uint64_t i = part->first; i < part->first + part->n; i++)
		part->pages[i] = changed(part->pages[i], take, must);
	return adopt(model, part, &hull, take, must);
}

/* These go as far as the leaves reach. */
static const char *flags(struct model *model, const struct part *part, const struct model_op *op)
{
	struct radix_hull reach = reach_of(model, part);
	struct part all = part_of_hull(part, &reach);
	uint64_t bits = (uint64_t)op->value << 2 & FLAGS;
	bool expected = false, result = false;

	if (op->kind == MODEL_TEST)
		result = radix_test(&model->radix, part->start, part->end, bits);
	else if (op->kind == MODEL_UNMARK)
		result = radix_unmark(&model->radix, part->start, part->end, bits);
	else
		radix_mark(&model->radix, part->start, part->end, bits);
	for (uint64_t i = all.first; i < all.first + all.n; i++) {
		uint64_t *v = &all.pages[i];

		expected |= (*v & bits) != 0;
		if (op->kind == MODEL_UNMARK)
			*v &= ~bits;
		else if (op->kind == MODEL_MARK && *v)
			*v |= bits;
	}
	if (op->kind != MODEL_MARK && result != expected)
		return FAIL(model, "what it says about flags", part->start);
	return NULL;
}

static const char *move(struct model *model, const struct part *part, const struct part *to)
{
	struct radix_hull reach = reach_of(model, part), to_reach = reach_of(model, to);
	uint64_t *from_v = part->pages + part->first, *to_v = to->pages + to->first;
	const char *why;
	int r = radix_move(&model->radix, part->start, to->start, part->end - part->start);

	if (ranges_overlap(part->start, part->end, to->start, to->end))
		return r == -EINVAL ? NULL : FAIL(model, "it overlaps", part->start);
	if (r != 0 && (r != -ENOSPC || model->radix.n_nodes > 10000))
		return FAIL(model, "radix_move()", r);
	for (uint64_t i = 0; i < part->n; i++) {
		uint64_t there = r ? radix_get(&model->radix, to->start + i * PAGE_BYTES) : 0;

		if (r && there && there != from_v[i])
			return FAIL(model, "what was moved in part", to->start + i * PAGE_BYTES);
		to_v[i] = r ? there : from_v[i];
		from_v[i] = 0;
	}
	if (!r)
		return NULL;
	/* The one's reach may be in the other's range, where all is as it should be. */
	why = adopt(model, part, &reach, ~0ULL, 0);
	return why ? why : adopt(model, to, &to_reach, ~0ULL, 0);
}

/* @how: two bits, of what the place is a multiple */
static uint64_t aligned(uint64_t v, unsigned int how)
{
	static const uint64_t align[] = { 1, 16, 512, 1ULL << 18 };

	return v % MODEL_PAGES & ~(align[how & 3] - 1);
}

static uint64_t length(uint64_t v, unsigned int how)
{
	switch (how & 15) {
	case 0:
		return v % MODEL_PAGES + 1;
	case 1:
		return 1ULL << 18;
	case 2 ... 4:
		return 512 * (v % 4 + 1);
	case 5 ... 9:
		return v % 1500 + 1;
	default:
		return v % 8 + 1;
	}
}

const char *model_apply(struct model *model, const struct model_op *op, uint64_t *steps)
{
	struct model_op o = *op;
	uint64_t first = aligned(o.start, o.shape), to = aligned(o.to, o.shape >> 2);
	uint64_t n = MIN(length(o.n, o.shape >> 4), MODEL_PAGES - first);
	struct part part, target, wide;
	const char *why;

	o.kind %= MODEL_N_KINDS;
	if (o.kind == MODEL_MOVE)
		n = MIN(n, MODEL_PAGES - to);
	part = part_of(model, o.where % MODEL_WINDOWS, first, n);
	target = part_of(model, (o.where >> 4) % MODEL_WINDOWS, to, n);
	if (steps)
		*steps += n;
	if (o.kind == MODEL_FILL)
		why = fill(model, &part, &o);
	else if (o.kind == MODEL_FILL_PAGES)
		why = fill_pages(model, &part, &o);
	else if (o.kind == MODEL_CLEAR || o.kind == MODEL_TRIM || o.kind == MODEL_DOWNGRADE)
		why = clear(model, &part, &o);
	else if (o.kind == MODEL_MOVE)
		why = move(model, &part, &target);
	else if (o.kind == MODEL_LOOK)
		why = compare_point(model, &part, first);
	else
		why = flags(model, &part, &o);
	wide = widened(&part);
	if (!why)
		why = compare(model, &wide);
	if (!why && o.kind == MODEL_MOVE) {
		wide = widened(&target);
		why = compare(model, &wide);
	}
	return why ? why : compare_point(model, &part, first + n - 1);
}

const char *model_check(struct model *model)
{
	const char *why = NULL;
	int r = radix_check(&model->radix);

	if (r)
		return FAIL(model, "radix_check()", r);
	for (unsigned int i = 0; i < MODEL_WINDOWS && !why; i++) {
		struct part part = part_of(model, i, 0, MODEL_PAGES);

		why = compare(model, &part);
	}
	return why;
}

const char *model_end(struct model *model)
{
	struct radix_run run;
	int r;

	radix_clear(&model->radix, 0, UINT64_MAX, true, NULL);
	if (radix_next(&model->radix, 0, UINT64_MAX, &run))
		return FAIL(model, "a page is left", run.start);
	if (model->radix.head->live != 1)
		return FAIL(model, "nodes are left", model->radix.head->live);
	if (model->radix.discard && model->radix.n_resident_free > 64)
		return FAIL(model, "memory is left", model->radix.n_resident_free);
	r = radix_check(&model->radix);
	return r ? FAIL(model, "radix_check()", r) : NULL;
}
