/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Device page tables from inside: moves, memory, lookups. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "device-scene.h"

#define ALL MIRROR_DEVICE_RIGHTS
#define W MIRROR_DEVICE_WRITE

/* ---- moves ---- */

static struct mirror_event remap(uint64_t from, uint64_t end, uint64_t to, uint64_t flags)
{
	return (struct mirror_event) {
		.type = MIRROR_EVENT_REMAP, .cause = MIRROR_CAUSE_MREMAP,
		.start = s.base + from, .end = s.base + end,
		.arg.remap.to = s.base + to, .arg.remap.flags = flags,
	};
}

/* What is in the device's range at both ends; what was at @to goes. */
static void model_move(int64_t from, int64_t end, int64_t to)
{
	static uint64_t old[PAGES];
	int64_t n = (end - from) / (int64_t)P, a = from / (int64_t)P, b = to / (int64_t)P;

	memcpy(old, s.model, sizeof(old));
	for (int64_t i = 0; i < n; i++)
		if (a + i >= 0 && a + i < (int64_t)PAGES)
			s.model[a + i] = 0;
	for (int64_t i = 0; i < n; i++)
		if (b + i >= 0 && b + i < (int64_t)PAGES)
			s.model[b + i] = a + i >= 0 && a + i < (int64_t)PAGES ? old[a + i] : 0;
}

START_TEST(remap_moves)
{
	struct mirror_event ev;

	scene_begin();
	for (unsigned int cause = 0; cause <= MIRROR_CAUSES; cause++) {
		device_begin_with(NULL);
		fill();
		ok(mirror_device_mark(s.device, s.base + 4 * M, s.base + 5 * M,
				      MIRROR_DEVICE_DIRTY));
		for (uint64_t i = 4 * M / P; i < 6 * M / P; i++)
			s.model[i] |= MIRROR_DEVICE_DIRTY;
		ev = remap(FROM, TO, AWAY + P * (cause % 3), MIRROR_REMAP_ALONE);
		ev.cause = (uint8_t)cause;
		inject(ev);
		model_move(FROM, TO, (int64_t)(AWAY + P * (cause % 3)));
		check_counts(PIECES, PIECES, 0, 1);
		check_table();
		ck_assert_uint_eq(stats().moves, 1);
		ck_assert_uint_eq(stats().unmaps, 0);
		ck_assert_uint_eq(stats().reactions[MIRROR_REACTION_MOVE], 1);
		inject(event_of(MIRROR_EVENT_UNMAP, MIRROR_CAUSE_MREMAP));
		check_counts(0, 0, 0, 0);
		check_table();
		device_over();
	}
	scene_end();
}
END_TEST

/* Out of the device's range, into it, over what is there, and back. */
START_TEST(remap_partly_outside)
{
	static const int64_t moves[][3] = {
		{ 1, 5, 29 }, { 1, 5, 31 }, { 1, 5, 32 }, { 0, 5, -3 }, { -2, 3, 10 },
		{ -3, 4, 29 },
		{ 28, 40, 2 }, { -10, 3, 3 }, { 2, 4, -10 }, { -5, 50, 60 }, { 40, 44, 1 },
		{ 30, 34, 26 }, { 4, 6, 0 }, { 4, 6, 30 },
	};

	scene_begin();
	for (size_t i = 0; i < ARRAY_SIZE(moves); i++) {
		int64_t from = moves[i][0] * (int64_t)M, end = moves[i][1] * (int64_t)M;
		int64_t to = moves[i][2] * (int64_t)M;
		bool overlaps = to < end && from < to + (end - from);

		device_begin_with(NULL);
		fill();
		inject(remap((uint64_t)from, (uint64_t)end, (uint64_t)to, MIRROR_REMAP_ALONE));
		model_move(from, end, to);
		if (overlaps)	/* cannot be; nothing there is trusted */
			model_take((uint64_t)MAX(to, 0),
				   (uint64_t)MIN(to + end - from, (int64_t)SIZE), ALL);
		check_table();
		device_over();
	}
	scene_end();
}
END_TEST

static void unmap_inside(void)
{
	inject((struct mirror_event) {
		.type = MIRROR_EVENT_UNMAP, .start = s.base + AWAY, .end = s.base + AWAY + P,
	});
}

static void check_dropped(void)
{
	model_take(FROM, TO, ALL);
	model_take(AWAY, AWAY + TO - FROM, ALL);
	check_table();
	ck_assert_uint_eq(stats().moves, 0);
	ck_assert_uint_eq(stats().reactions[MIRROR_REACTION_MOVE], 1);
	device_over();
}

/* Where the order of the changes is not known, nothing is moved. */
START_TEST(remap_in_doubt)
{
	static uint8_t vouched[16] = { [MIRROR_EVENT_REMAP] = MIRROR_REACTION_MOVE };

	scene_begin();
	device_begin_with(NULL);
	fill();
	inject(remap(FROM, TO, AWAY, ~(uint64_t)MIRROR_REMAP_ALONE));
	check_dropped();

	device_begin_with(vouched);
	fill();
	inject(remap(FROM, TO, AWAY, 0));
	model_move(FROM, TO, AWAY);
	check_table();
	device_over();

	/* a later one came first, by a dispatch inside of ops.event */
	device_begin_with(vouched);
	fill();
	s.inside = unmap_inside;
	inject(remap(FROM, TO, AWAY, MIRROR_REMAP_ALONE));
	check_dropped();
	scene_end();
}
END_TEST

/* ---- memory ---- */

#define BLOCKS 4096ULL
#define KEPT (64 * P)		/* free nodes that may stay, to be used again */

static uint64_t resident(const struct mirror_device *device)
{
	struct stat st;

	ck_assert_int_eq(fstat(device->fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static struct mirror_device *large_device(uint64_t *ret_base)
{
	uint64_t size = BLOCKS * 2 * M;
	struct mirror_device *device;
	void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ck_assert_ptr_ne(p, MAP_FAILED);
	*ret_base = (uintptr_t)p;
	ok(mirror_device_new(&device, s.target, (uintptr_t)p, (uintptr_t)p + size, NULL, NULL,
			     NULL));
	return device;
}

static void fill_large(struct mirror_device *device, uint64_t base)
{
	uint64_t version;

	for (uint64_t i = 0; i < BLOCKS; i++) {
		uint64_t at = base + i * 2 * M;

		ok(mirror_read_begin(device->notifier, at, at + P, &version));
		ok(mirror_device_map(device, at, at + P, i * 16 * P, RW, version));
	}
}

START_TEST(memory_comes_back)
{
	struct mirror_event ev = { .type = MIRROR_EVENT_CLEAR, .flags = MIRROR_EVENT_F_POINT };
	struct mirror_device_stats st = { .sz = sizeof(st) };
	struct mirror_device *device;
	uint64_t base, empty, full;

	scene_begin();
	device = large_device(&base);
	empty = resident(device);
	for (int round = 0; round < 3; round++) {
		fill_large(device, base);
		full = resident(device);
		ck_assert_uint_ge(full - empty, BLOCKS * P);
		ok(mirror_device_get_stats(device, &st));
		ck_assert_uint_ge(st.nodes, BLOCKS);
		ck_assert_uint_ge(st.bytes, BLOCKS * P);
		ev.start = base;
		ev.end = base + BLOCKS * 2 * M;
		ev.type = MIRROR_EVENT_CLEAR;
		pthread_mutex_lock(&s.ctx->lock);
		device->notifier->invalidate(device->notifier, &ev, device);
		pthread_mutex_unlock(&s.ctx->lock);
		ok(mirror_device_get_stats(device, &st));
		ck_assert_uint_eq(st.mapped, 0);
		ck_assert_uint_ge(st.nodes, BLOCKS);
		ck_assert_uint_eq(resident(device), full);
		ev.type = MIRROR_EVENT_UNMAP;
		pthread_mutex_lock(&s.ctx->lock);
		device->notifier->invalidate(device->notifier, &ev, device);
		pthread_mutex_unlock(&s.ctx->lock);
		ok(mirror_device_get_stats(device, &st));
		ck_assert_uint_eq(st.nodes, 1);
		/* and 16 bytes for each node that ever was */
		ck_assert_uint_le(resident(device), empty + KEPT + 2 * BLOCKS * 16);
		ck_assert_uint_le(st.bytes, empty + KEPT + 2 * BLOCKS * 16);
	}
	mirror_device_free(device);
	scene_end();
}
END_TEST

/* What does not fit is refused, and of the range nothing is left. */
START_TEST(table_is_full)
{
	struct mirror_device_opts opts = MIRROR_DEVICE_OPTS_INIT;
	uint64_t end = 0, last;
	int r = 0;

	scene_begin();
	opts.max_bytes = 100;
	ck_assert_int_eq(mirror_device_new(&s.device, s.target, s.base, s.base + SIZE, &scene_ops,
					   &opts, &s), -EINVAL);
	opts.max_bytes = 8 * P;
	ok(mirror_device_new(&s.device, s.target, s.base, s.base + SIZE, &scene_ops, &opts, &s));
	ok(map(30 * M, SIZE, 0x400000000, RW));
	while (r == 0 && end < 30 * M) {
		end += 2 * M;
		r = map(end - 2 * M, end - 2 * M + P, end * 16, RW);
	}
	ck_assert_int_eq(r, -ENOSPC);
	check_table();

	/* some pages that fit, one that is right already, more, and one too many */
	end -= 2 * M;
	last = end - 2 * M;
	ok(map(last + 5 * P, last + 6 * P, 0x900000000 + 4 * P, RW));
	ck_assert_int_eq(map(last + P, end + P, 0x900000000, RW), -ENOSPC);
	model_take(last + P, end + P, ALL);
	check_table();

	/* no node is left to split the large one: all of it goes, and is told */
	forget_counts();
	inject((struct mirror_event) {
		.type = MIRROR_EVENT_PROTECTION_PAGE,
		.start = s.base + 31 * M, .end = s.base + 31 * M + P,
	});
	model_take(30 * M, SIZE, W);
	check_table();
	inject((struct mirror_event) {
		.type = MIRROR_EVENT_CLEAR,
		.start = s.base + 31 * M, .end = s.base + 31 * M + P,
	});
	model_take(30 * M, SIZE, ALL);
	check_table();

	/* nor can anything be moved: it goes, too */
	ck_assert_int_eq(mirror_device_move(s.device, s.base, s.base + 16 * M, 2 * M), -ENOSPC);
	model_take(0, 2 * M, ALL);
	model_take(16 * M, 18 * M, ALL);
	check_table();
	device_over();
	scene_end();
}
END_TEST

static int new_and_free(void)
{
	struct mirror_device *device;
	int r;

	r = mirror_device_new(&device, s.target, s.base, s.base + SIZE, NULL, NULL, NULL);
	if (r == 0)
		mirror_device_free(device);
	return r;
}

START_TEST(out_of_memory)
{
	scene_begin();
	unit_oom(new_and_free);
	scene_end();
}
END_TEST

/* ---- lookups ---- */

/* What lost the right to write is found as before, and can be given it again. */
START_TEST(protection_and_back)
{
	struct mirror_event ev;
	uint64_t a, b, address;
	struct mirror_tlb tlb;

	scene_begin();
	for (int vma = 0; vma < 2; vma++) {
		device_begin_with(NULL);
		fill();
		mirror_tlb_init(&tlb, s.device);
		address = s.base + 2 * M + 5;
		ok(mirror_tlb_translate(&tlb, address, RW, &a));
		if (vma) {
			ev = event_of(MIRROR_EVENT_PROTECTION_VMA, MIRROR_CAUSE_MPROTECT);
			ev.arg.protection.prot_new = PROT_READ;
		} else {
			ev = event_of(MIRROR_EVENT_PROTECTION_PAGE, MIRROR_CAUSE_WRITEBACK);
		}
		inject(ev);
		check_counts(0, 0, PIECES, 1);
		ck_assert_int_eq(mirror_tlb_translate(&tlb, address, W, &b), -EACCES);
		ok(mirror_tlb_translate(&tlb, address, MIRROR_DEVICE_READ, &b));
		ck_assert_uint_eq(a, b);
		model_take(FROM, TO, vma ? W | MIRROR_DEVICE_EXEC : W);
		ok(map(2 * M, 2 * M + P, 0x200000000, RW));
		ok(mirror_tlb_translate(&tlb, address, W, &b));
		ck_assert_uint_eq(a, b);
		check_table();
		device_over();
	}
	scene_end();
}
END_TEST

static int translated;
static struct mirror_device_range inside_range;

static void translate_inside(void)
{
	translated = mirror_device_translate(s.device, s.base + FROM, 0, &inside_range);
}

/* A record that is being told has not been reacted to: nothing is concluded. */
START_TEST(lookup_in_callback)
{
	struct mirror_device_range range;

	scene_begin();
	device_begin_with(NULL);
	fill();
	s.inside = translate_inside;
	store_relaxed(&s.ctx->caller, (uintptr_t)pthread_self());	/* as in a dispatch */
	inject(event_of(MIRROR_EVENT_UNMAP, MIRROR_CAUSE_MUNMAP));
	store_relaxed(&s.ctx->caller, 0);
	ck_assert_int_eq(translated, -EAGAIN);
	model_take(FROM, TO, ALL);
	check_table();
	ck_assert_int_eq(mirror_device_translate(s.device, s.base + FROM, 0, &range), -ENOENT);
	ok(mirror_device_translate(s.device, s.base, 0, &range));
	device_over();
	scene_end();
}
END_TEST

/* While translations are taken away, nobody remembers what the table still says. */
static uint64_t generation_inside;
static struct mirror_tlb tlb;

static void look_while_unmapping(struct mirror_device *device,
				 const struct mirror_device_range *range _unused_,
				 void *userdata _unused_)
{
	generation_inside = load_relaxed(&device->generation);
	ck_assert_uint_eq(generation_inside & 1, 1);
	ck_assert_uint_ne(radix_get(&device->radix, s.base), 0);
	for (unsigned int i = 0; i < MIRROR_TLB_SLOTS; i++)
		ck_assert(tlb.slots[i].page == ~0ULL ||
			  tlb.slots[i].generation != generation_inside);
}

START_TEST(generation_is_odd_meanwhile)
{
	struct mirror_device_ops looking = { .sz = sizeof(looking), .unmap = look_while_unmapping };
	uint64_t address, version, before;

	scene_begin();
	ok(mirror_device_new(&s.device, s.target, s.base, s.base + SIZE, &looking, NULL, NULL));
	ok(mirror_read_begin(s.device->notifier, s.base, s.base + P, &version));
	ok(mirror_device_map(s.device, s.base, s.base + P, 0, RW, version));
	mirror_tlb_init(&tlb, s.device);
	ok(mirror_tlb_translate(&tlb, s.base, 0, &address));
	before = s.device->generation;
	ok(mirror_device_unmap(s.device, s.base, s.base + P));
	ck_assert_uint_eq(generation_inside, before + 1);
	ck_assert_uint_eq(s.device->generation, before + 2);
	ck_assert_int_eq(mirror_tlb_translate(&tlb, s.base, 0, &address), -ENOENT);
	s.device = mirror_device_free(s.device);
	scene_end();
}
END_TEST

UNIT_MAIN("device-move", remap_moves, remap_partly_outside, remap_in_doubt,
	  memory_comes_back, table_is_full, out_of_memory,
	  protection_and_back, lookup_in_callback, generation_is_odd_meanwhile)
