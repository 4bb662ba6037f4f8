/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Device page tables: every function, and real changes of this very process. */
#include <mirror/device.h>
#include "harness.h"

#define SIZE (8 * BLOCK)
#define DEVICE 0x40000000UL	/* device address of mem */
#define RW (MIRROR_DEVICE_READ | MIRROR_DEVICE_WRITE)

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_device *device;
static struct mirror_tlb tlb;
static char *mem;
static struct {
	unsigned int map, unmap, downgrade, flush, event;
	struct mirror_device_range last;
} told;

static void on_map(struct mirror_device *d, const struct mirror_device_range *range,
		   void *userdata)
{
	(void)d;
	ck_assert_ptr_eq(userdata, &told);
	told.map++;
	told.last = *range;
}

static void on_unmap(struct mirror_device *d, const struct mirror_device_range *range,
		     void *userdata)
{
	(void)d;
	(void)userdata;
	told.unmap++;
	told.last = *range;
}

static void on_downgrade(struct mirror_device *d, const struct mirror_device_range *range,
			 void *userdata)
{
	(void)d;
	(void)userdata;
	told.downgrade++;
	told.last = *range;
}

static void on_flush(struct mirror_device *d, void *userdata)
{
	(void)d;
	(void)userdata;
	told.flush++;
}

static void on_event(struct mirror_device *d, const struct mirror_event *event, void *userdata)
{
	(void)d;
	(void)event;
	(void)userdata;
	told.event++;
}

static const struct mirror_device_ops ops = {
	.sz = sizeof(ops), .map = on_map, .unmap = on_unmap, .downgrade = on_downgrade,
	.flush = on_flush, .event = on_event,
};

static void setup_with(uint32_t attach_flags)
{
	ctx = open_ctx();
	target = attach_self(ctx, attach_flags);
	mem = map_pages(SIZE);
	ok(mirror_device_new(&device, target, (uintptr_t)mem, (uintptr_t)mem + SIZE, &ops, NULL,
			     &told));
	mirror_tlb_init(&tlb, device);
}

static void setup(void)
{
	setup_with(0);
}

static void finish(void)
{
	device = mirror_device_free(device);
	target = mirror_target_unref(target);
	ctx = mirror_ctx_unref(ctx);
}

static uint64_t at(size_t offset)
{
	return (uintptr_t)mem + offset;
}

static int map_at(size_t offset, size_t size, uint64_t address, uint32_t rights)
{
	uint64_t version;
	int r;

	r = mirror_read_begin(mirror_device_get_notifier(device), at(offset), at(offset + size),
			      &version);
	if (r < 0)
		return r;
	return mirror_device_map(device, at(offset), at(offset + size), address, rights, version);
}

static struct mirror_device_stats stats(void)
{
	struct mirror_device_stats stats = { .sz = sizeof(stats) };

	ok(mirror_device_get_stats(device, &stats));
	return stats;
}

/* Both ways of looking up say the same. */
static int look(size_t offset, uint32_t rights, uint64_t *ret_address)
{
	struct mirror_device_range range;
	uint64_t address = 0;
	int r, q;

	r = mirror_device_translate(device, at(offset), rights, &range);
	q = mirror_tlb_translate(&tlb, at(offset), rights, &address);
	ck_assert_int_eq(r, q);
	if (r == 0) {
		ck_assert_uint_le(range.start, at(offset));
		ck_assert_uint_gt(range.end, at(offset));
		ck_assert_uint_eq(range.address + (at(offset) - range.start), address);
		ck_assert_uint_eq((range.rights | range.flags) & rights, rights);
		*ret_address = address;
	}
	return r;
}

static void is_at(size_t offset, uint64_t address)
{
	uint64_t found = 0;

	ok(look(offset, 0, &found));
	ck_assert_uint_eq(found, address);
}

static void is_gone(size_t offset)
{
	uint64_t found;

	fails(look(offset, 0, &found), ENOENT);
}

START_TEST(new_refused)
{
	struct mirror_device_opts opts = MIRROR_DEVICE_OPTS_INIT;
	struct mirror_device_ops bad = ops;
	struct mirror_device *d = NULL;
	struct mirror_target *t;
	struct mirror_ctx *c;

	setup();
	fails(mirror_device_new(&d, target, at(0), at(0), &ops, NULL, NULL), EINVAL);
	fails(mirror_device_new(&d, target, at(1), at(PAGE), &ops, NULL, NULL), EINVAL);
	fails(mirror_device_new(&d, target, at(0), 1UL << 60, &ops, NULL, NULL), EINVAL);
	bad.sz = 1;
	fails(mirror_device_new(&d, target, at(0), at(PAGE), &bad, NULL, NULL), EINVAL);
	opts.flags = 1;
	fails(mirror_device_new(&d, target, at(0), at(PAGE), &ops, &opts, NULL), E2BIG);
	opts.flags = 0;
	opts.reaction[15] = MIRROR_REACTIONS;
	fails(mirror_device_new(&d, target, at(0), at(PAGE), &ops, &opts, NULL), E2BIG);
	opts.reaction[15] = 0;
	opts.max_bytes = PAGE;
	fails(mirror_device_new(&d, target, at(0), at(PAGE), &ops, &opts, NULL), EINVAL);
	ck_assert_ptr_null(d);
	ck_assert_ptr_null(mirror_device_free(NULL));

	c = open_ctx_with(MIRROR_OPEN_NO_RING, 0);
	t = attach_self(c, 0);
	fails(mirror_device_new(&d, t, at(0), at(PAGE), &ops, NULL, NULL), ENOTCONN);
	mirror_target_unref(t);
	mirror_ctx_unref(c);

	/* no operations at all, and the largest range there is */
	ok(mirror_device_new(&d, target, 0, 1UL << 56, NULL, NULL, NULL));
	ck_assert_uint_eq(mirror_notifier_get_end(mirror_device_get_notifier(d)), 1UL << 56);
	mirror_device_free(d);
	finish();
}
END_TEST

static int no_callback(const struct mirror_device_range *range, void *userdata)
{
	(void)range;
	(void)userdata;
	return 0;
}

START_TEST(arguments_refused)
{
	struct mirror_device_range range;
	struct mirror_device_stats few = { .sz = 4 };
	uint64_t v, a;

	setup();
	ok(mirror_read_begin(mirror_device_get_notifier(device), at(0), at(PAGE), &v));
	fails(mirror_device_map(device, at(0), at(0), 0, RW, v), EINVAL);
	fails(mirror_device_map(device, at(0), at(PAGE), 1, RW, v), EINVAL);
	fails(mirror_device_map(device, at(0), at(PAGE), 0, 0, v), EINVAL);
	fails(mirror_device_map(device, at(0), at(PAGE), 0, MIRROR_DEVICE_USER, v), EINVAL);
	fails(mirror_device_map(device, at(0), at(PAGE), 0, RW | MIRROR_DEVICE_DIRTY, v), EINVAL);
	fails(mirror_device_map(device, at(0), at(PAGE), 0, RW | 1, v), EINVAL);
	fails(mirror_device_map(device, at(0), at(2 * PAGE), -PAGE, RW, v), EINVAL);
	fails(mirror_device_map(device, at(0) - PAGE, at(PAGE), 0, RW, v), EINVAL);
	fails(mirror_device_map(device, at(0), at(PAGE), 0, RW, v + 1), EAGAIN);
	ck_assert_uint_eq(stats().retries, 1);
	fails(mirror_device_unmap(device, at(0) - PAGE, at(PAGE)), EINVAL);
	fails(mirror_device_unmap(device, at(0), at(SIZE + PAGE)), EINVAL);
	fails(mirror_device_downgrade(device, at(0), at(PAGE), MIRROR_DEVICE_DIRTY), EINVAL);
	fails(mirror_device_move(device, at(0), at(PAGE), 2 * PAGE), EINVAL);
	fails(mirror_device_move(device, at(0), at(PAGE), 0), EINVAL);
	fails(mirror_device_move(device, at(0), at(SIZE), PAGE), EINVAL);
	fails(mirror_device_move(device, at(0), at(PAGE), -PAGE), EINVAL);
	fails(mirror_device_for_each(device, at(0), at(0), no_callback, NULL), EINVAL);
	fails(mirror_device_for_each(device, at(0), at(PAGE), NULL, NULL), EINVAL);
	fails(mirror_device_mark(device, at(0), at(PAGE), 0), EINVAL);
	fails(mirror_device_mark(device, at(0), at(PAGE), MIRROR_DEVICE_READ), EINVAL);
	fails(mirror_device_mark(device, at(0), at(1), MIRROR_DEVICE_DIRTY), EINVAL);
	fails(mirror_device_test_young(device, at(0), at(0)), EINVAL);
	fails(mirror_device_clear_dirty(device, at(0), at(SIZE + PAGE)), EINVAL);
	fails(mirror_device_translate(device, at(SIZE), 0, &range), EINVAL);
	fails(mirror_device_translate(device, at(0) - 1, 0, &range), EINVAL);
	fails(mirror_device_translate(device, at(0), MIRROR_DEVICE_DIRTY, &range), EINVAL);
	fails(mirror_tlb_translate(&tlb, at(SIZE), 0, &a), EINVAL);
	fails(mirror_device_get_stats(device, &few), EINVAL);
	is_gone(0);
	ck_assert_uint_eq(told.map + told.unmap + told.flush, 0);
	finish();
}
END_TEST

START_TEST(map_and_look)
{
	struct mirror_device_range range;
	uint64_t a;

	setup();
	ok(map_at(PAGE, 2 * BLOCK, DEVICE, RW | 0x300));
	ck_assert_uint_eq(told.map, 1);
	ck_assert_uint_eq(told.flush, 1);
	ck_assert_uint_eq(told.last.start, at(PAGE));
	ck_assert_uint_eq(told.last.end, at(PAGE + 2 * BLOCK));
	ck_assert_uint_eq(told.last.address, DEVICE);
	ck_assert_uint_eq(told.last.rights, RW);
	ck_assert_uint_eq(told.last.flags, 0x300);
	is_gone(0);
	is_gone(2 * BLOCK + PAGE);
	for (size_t i = PAGE; i < 2 * BLOCK + PAGE; i += 7 * PAGE + 5)
		is_at(i, DEVICE + i - PAGE);
	fails(look(PAGE, MIRROR_DEVICE_EXEC, &a), EACCES);
	fails(look(PAGE, MIRROR_DEVICE_READ | MIRROR_DEVICE_EXEC, &a), EACCES);
	ok(look(PAGE, RW, &a));
	ok(look(PAGE, RW | 0x100, &a));
	fails(look(PAGE, RW | 0x400, &a), EACCES);
	ok(mirror_device_translate(device, at(BLOCK + 3 * PAGE + 7), RW, &range));
	ck_assert_uint_eq(range.rights, RW);
	ck_assert_uint_eq(range.flags, 0x300);
	ck_assert_uint_eq(range.end % PAGE, 0);

	/* the same again tells nobody, and what differs in the middle only that */
	ok(map_at(PAGE, 2 * BLOCK, DEVICE, RW | 0x300));
	ck_assert_uint_eq(told.map, 1);
	ck_assert_uint_eq(told.unmap, 0);
	ok(map_at(0, BLOCK, DEVICE - PAGE, RW | 0x300));
	ck_assert_uint_eq(told.map, 2);
	ck_assert_uint_eq(told.unmap, 0);
	ck_assert_uint_eq(told.last.end, at(PAGE));
	ok(map_at(2 * PAGE, PAGE, 4 * DEVICE, RW));
	ck_assert_uint_eq(told.map, 3);
	ck_assert_uint_eq(told.unmap, 1);
	is_at(2 * PAGE, 4 * DEVICE);
	is_at(3 * PAGE, DEVICE + 2 * PAGE);
	ck_assert_uint_eq(stats().maps, 4);
	ck_assert_uint_eq(stats().mapped, 2 * BLOCK + PAGE);
	ck_assert_uint_eq(stats().unmaps, 1);
	finish();
	ck_assert_uint_eq(told.unmap, 4);
}
END_TEST

/* One leaf of 1 GiB; what is known of one block of it is not known of all. */
START_TEST(large_leaf)
{
	size_t gib = 1UL << 30;
	struct mirror_device_range range;
	char *p;

	ctx = open_ctx();
	target = attach_self(ctx, 0);
	p = mmap(NULL, 2 * gib, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ck_assert_ptr_ne(p, MAP_FAILED);
	mem = p + (gib - (uintptr_t)p % gib) % gib;
	ok(mirror_device_new(&device, target, at(0), at(gib), &ops, NULL, &told));
	ok(map_at(0, gib, 64 * DEVICE, RW));
	ck_assert_uint_le(stats().nodes, 3);
	ok(mirror_device_translate(device, at(gib / 2 + 5), RW, &range));
	ck_assert_uint_eq(range.start, at(gib / 2));
	ck_assert_uint_eq(range.end, at(gib / 2 + BLOCK));
	ck_assert_uint_eq(range.address, 64 * DEVICE + gib / 2);
	finish();
}
END_TEST

static int collect(const struct mirror_device_range *range, void *userdata)
{
	struct mirror_device_range *into = userdata;

	while (into->end)
		into++;
	*into = *range;
	return 0;
}

static int stop(const struct mirror_device_range *range, void *userdata)
{
	*(struct mirror_device_range *)userdata = *range;
	return 77;
}

START_TEST(unmap_downgrade_move)
{
	struct mirror_device_range ranges[8] = { { .end = 0 } };
	uint64_t a;

	setup();
	ok(map_at(0, 4 * BLOCK, DEVICE, RW | MIRROR_DEVICE_EXEC));
	ok(look(0, RW, &a));
	ok(mirror_device_unmap(device, at(BLOCK), at(2 * BLOCK + PAGE)));
	ck_assert_uint_eq(told.unmap, 1);
	ck_assert_uint_eq(told.last.rights, 0);
	ck_assert_uint_eq(told.last.address, DEVICE + BLOCK);
	is_gone(BLOCK);
	is_gone(2 * BLOCK);
	is_at(2 * BLOCK + PAGE, DEVICE + 2 * BLOCK + PAGE);
	ok(mirror_device_unmap(device, at(BLOCK), at(2 * BLOCK)));	/* holes are allowed */
	ck_assert_uint_eq(told.unmap, 1);

	ok(mirror_device_downgrade(device, at(0), at(PAGE), MIRROR_DEVICE_READ));
	ck_assert_uint_eq(told.downgrade, 1);
	ck_assert_uint_eq(told.last.rights, MIRROR_DEVICE_READ);
	fails(look(0, MIRROR_DEVICE_WRITE, &a), EACCES);
	ok(look(0, MIRROR_DEVICE_READ, &a));
	ok(look(PAGE, MIRROR_DEVICE_WRITE, &a));
	ok(mirror_device_downgrade(device, at(0), at(PAGE), RW));	/* gives none back */
	ck_assert_uint_eq(told.downgrade, 1);
	fails(look(0, MIRROR_DEVICE_WRITE, &a), EACCES);
	ok(mirror_device_downgrade(device, at(0), at(2 * PAGE), MIRROR_DEVICE_WRITE));
	ck_assert_uint_eq(told.unmap, 2);	/* one had no right left */
	ck_assert_uint_eq(told.downgrade, 2);
	is_gone(0);

	ok(mirror_device_move(device, at(0), at(4 * BLOCK), BLOCK));
	is_gone(PAGE);
	is_at(4 * BLOCK + PAGE, DEVICE + PAGE);
	fails(look(4 * BLOCK + PAGE, MIRROR_DEVICE_READ, &a), EACCES);
	ck_assert_uint_eq(stats().moves, 1);

	ok(mirror_device_for_each(device, at(0), at(SIZE), collect, ranges));
	ck_assert_uint_eq(ranges[0].start, at(2 * BLOCK + PAGE));
	ck_assert_uint_eq(ranges[0].end, at(4 * BLOCK));
	ck_assert_uint_eq(ranges[1].start, at(4 * BLOCK + PAGE));
	ck_assert_uint_eq(ranges[1].end, at(4 * BLOCK + 2 * PAGE));
	ck_assert_uint_eq(ranges[1].rights, MIRROR_DEVICE_WRITE);
	ck_assert_uint_eq(ranges[2].start, at(4 * BLOCK + 2 * PAGE));
	ck_assert_uint_eq(ranges[2].end, at(5 * BLOCK));
	ck_assert_uint_eq(ranges[2].address, DEVICE + 2 * PAGE);
	ck_assert_uint_eq(ranges[3].end, 0);
	ck_assert_int_eq(mirror_device_for_each(device, at(3 * BLOCK), at(SIZE), stop, ranges), 77);
	ck_assert_uint_eq(ranges[0].start, at(3 * BLOCK));
	finish();
}
END_TEST

START_TEST(aging)
{
	uint64_t a, misses;

	setup();
	ok(map_at(0, 2 * PAGE, DEVICE, RW));
	ok(map_at(BLOCK, BLOCK, DEVICE + BLOCK, RW));
	ok(look(0, RW, &a));
	ck_assert_int_eq(mirror_device_test_young(device, at(0), at(SIZE)), 0);
	ok(mirror_device_mark(device, at(PAGE), at(BLOCK + PAGE), MIRROR_DEVICE_ACCESSED));
	ck_assert_int_eq(mirror_device_test_young(device, at(0), at(PAGE)), 0);
	ck_assert_int_eq(mirror_device_test_young(device, at(0), at(2 * PAGE)), 1);
	ck_assert_int_eq(mirror_device_test_young(device, at(2 * PAGE), at(BLOCK)), 0);
	/* one bit for all of a large one */
	ck_assert_int_eq(mirror_device_test_young(device, at(2 * BLOCK - PAGE), at(2 * BLOCK)), 1);
	ck_assert_int_eq(mirror_device_test_dirty(device, at(0), at(SIZE)), 0);
	ck_assert_int_eq(mirror_device_clear_dirty(device, at(0), at(SIZE)), 0);

	ok(mirror_device_mark(device, at(0), at(PAGE),
			      MIRROR_DEVICE_ACCESSED | MIRROR_DEVICE_DIRTY));
	misses = stats().misses;
	ok(mirror_tlb_translate(&tlb, at(0), RW, &a));
	ck_assert_int_eq(mirror_device_clear_young(device, at(0), at(SIZE)), 1);
	ck_assert_int_eq(mirror_device_clear_young(device, at(0), at(SIZE)), 0);
	ck_assert_int_eq(mirror_device_test_dirty(device, at(0), at(SIZE)), 1);
	ck_assert_int_eq(mirror_device_clear_dirty(device, at(0), at(SIZE)), 1);
	ck_assert_int_eq(mirror_device_clear_dirty(device, at(0), at(SIZE)), 0);
	ok(mirror_tlb_translate(&tlb, at(0), RW, &a));	/* nobody forgets for that */
	ck_assert_uint_eq(stats().misses, misses);
	ck_assert_uint_eq(told.unmap + told.downgrade, 0);

	/* what was marked is told when it goes, and kept by a map of the same */
	ok(mirror_device_mark(device, at(0), at(PAGE), MIRROR_DEVICE_DIRTY));
	ok(map_at(0, 2 * PAGE, DEVICE, RW));
	ck_assert_int_eq(mirror_device_test_dirty(device, at(0), at(PAGE)), 1);
	ok(mirror_device_unmap(device, at(0), at(PAGE)));
	ck_assert_uint_eq(told.last.flags, MIRROR_DEVICE_DIRTY);
	finish();
}
END_TEST

START_TEST(tlb_hits)
{
	uint64_t a, misses;

	setup();
	ok(map_at(0, SIZE, DEVICE, RW));
	for (size_t i = 0; i < 32; i++)
		is_at(i * PAGE + 5, DEVICE + i * PAGE + 5);
	misses = stats().misses;
	for (size_t i = 0; i < 320; i++) {
		ok(mirror_tlb_translate(&tlb, at(i % 32 * PAGE), RW, &a));
		ck_assert_uint_eq(a, DEVICE + i % 32 * PAGE);
	}
	ck_assert_uint_eq(stats().misses, misses);
	/* two pages that share a slot, and the rights they lack */
	is_at(0, DEVICE);
	is_at(MIRROR_TLB_SLOTS * PAGE, DEVICE + MIRROR_TLB_SLOTS * PAGE);
	is_at(0, DEVICE);
	fails(mirror_tlb_translate(&tlb, at(0), MIRROR_DEVICE_EXEC, &a), EACCES);
	/* each change of the table is noticed */
	ok(mirror_device_downgrade(device, at(0), at(PAGE), MIRROR_DEVICE_READ));
	fails(mirror_tlb_translate(&tlb, at(0), MIRROR_DEVICE_WRITE, &a), EACCES);
	ok(mirror_device_move(device, at(PAGE), at(PAGE * 40), PAGE));
	fails(mirror_tlb_translate(&tlb, at(PAGE), 0, &a), ENOENT);
	ok(mirror_tlb_translate(&tlb, at(40 * PAGE), 0, &a));
	ck_assert_uint_eq(a, DEVICE + PAGE);
	ok(map_at(3 * PAGE, PAGE, 0, RW));
	ok(mirror_tlb_translate(&tlb, at(3 * PAGE), 0, &a));
	ck_assert_uint_eq(a, 0);
	ok(mirror_device_unmap(device, at(0), at(SIZE)));
	for (size_t i = 0; i < 64; i++)
		fails(mirror_tlb_translate(&tlb, at(i * PAGE), 0, &a), ENOENT);
	finish();
}
END_TEST

/* ---- real changes ---- */

static void changes(uint32_t attach_flags)
{
	struct mirror_device_stats before;

	setup_with(attach_flags);
	for (size_t round = 0; round < 50; round++) {
		ok(map_at(0, SIZE, DEVICE, RW));
		is_at(PAGE, DEVICE + PAGE);
		is_at(3 * BLOCK, DEVICE + 3 * BLOCK);

		unmap(mem + PAGE, PAGE);
		is_gone(PAGE);
		is_at(0, DEVICE);
		is_at(2 * PAGE, DEVICE + 2 * PAGE);
		ck_assert_ptr_eq(map_over(mem + PAGE, PAGE), mem + PAGE);
		is_gone(PAGE);
		ok(map_at(PAGE, PAGE, 2 * DEVICE, RW));
		is_at(PAGE, 2 * DEVICE);

		ck_assert_ptr_eq(map_over(mem + BLOCK, BLOCK), mem + BLOCK);
		is_gone(BLOCK);
		is_gone(2 * BLOCK - 1);
		is_at(2 * BLOCK, DEVICE + 2 * BLOCK);

		ck_assert_int_eq(madvise(mem + 3 * BLOCK, PAGE, MADV_DONTNEED), 0);
		if (mirror_target_get_guarantee(target, MIRROR_EVENT_CLEAR) >=
		    MIRROR_GUARANTEE_ORDERED)
			is_gone(3 * BLOCK);
		is_at(3 * BLOCK + PAGE, DEVICE + 3 * BLOCK + PAGE);
		ok(mirror_device_unmap(device, at(0), at(SIZE)));
	}
	before = stats();
	ck_assert_uint_eq(before.mapped, 0);
	ck_assert_uint_eq(before.nodes, 1);
	/* each munmap one, each MAP_FIXED over what is watched one */
	ck_assert_uint_ge(before.reactions[MIRROR_REACTION_FREE], 100);
	ck_assert_uint_ge(told.event, 100);
	finish();
}

START_TEST(changes_are_followed)
{
	changes(0);
}
END_TEST

START_TEST(changes_are_followed_strict)
{
	changes(MIRROR_ATTACH_STRICT);
}
END_TEST

/* The pages move, and their translations with them: nothing is mapped anew. */
START_TEST(mremap_keeps_translations)
{
	char *a, *b;

	setup();
	a = mem;
	b = mem + 4 * BLOCK;
	ok(map_at(0, BLOCK + PAGE, DEVICE, RW));
	ok(mirror_device_mark(device, at(0), at(PAGE), MIRROR_DEVICE_DIRTY));
	unmap(b, 4 * BLOCK);
	is_gone(4 * BLOCK);	/* settles */
	for (unsigned int i = 0; i < 20; i++) {
		size_t old = i % 2 ? 4 * BLOCK : 0, new = i % 2 ? 0 : 4 * BLOCK;

		ck_assert_ptr_eq(mremap(i % 2 ? b : a, 2 * BLOCK, 2 * BLOCK,
					MREMAP_MAYMOVE | MREMAP_FIXED, i % 2 ? a : b),
				 i % 2 ? a : b);
		is_gone(old);
		is_at(new, DEVICE);
		is_at(new + BLOCK, DEVICE + BLOCK);
		is_gone(new + BLOCK + PAGE);
		is_gone(old + BLOCK);
		ck_assert_uint_eq(stats().moves, i + 1);
		ck_assert_uint_eq(stats().maps, 1);
		ck_assert_uint_eq(stats().mapped, BLOCK + PAGE);
		ck_assert_int_eq(mirror_device_test_dirty(device, at(new), at(new + PAGE)), 1);
	}
	/* partly out of the device's range: what leaves is dropped */
	ok(mirror_device_free(device) ? -1 : 0);
	ok(mirror_device_new(&device, target, at(0), at(3 * BLOCK), &ops, NULL, &told));
	mirror_tlb_init(&tlb, device);
	ok(map_at(0, 2 * BLOCK, DEVICE, RW));
	unmap(mem + 2 * BLOCK, 2 * BLOCK);
	is_gone(2 * BLOCK);
	ck_assert_ptr_eq(mremap(mem, 2 * BLOCK, 2 * BLOCK, MREMAP_MAYMOVE | MREMAP_FIXED,
				mem + 2 * BLOCK), mem + 2 * BLOCK);
	is_gone(0);
	is_at(2 * BLOCK, DEVICE);
	ck_assert_uint_eq(stats().mapped, BLOCK);
	finish();
}
END_TEST

START_TEST(overflow)
{
	uint64_t found;

	ctx = open_ctx_with(0, 4);
	target = attach_self(ctx, 0);
	mem = map_pages(SIZE);
	ok(mirror_device_new(&device, target, at(0), at(SIZE), &ops, NULL, &told));
	mirror_tlb_init(&tlb, device);
	ok(map_at(0, SIZE, DEVICE, RW));
	is_at(SIZE - PAGE, DEVICE + SIZE - PAGE);
	for (size_t i = 0; i < 50; i++)
		unmap(mem + 2 * i * PAGE, PAGE);
	for (size_t i = 0; i < 50; i++)
		is_gone(2 * i * PAGE);
	fails(look(SIZE - PAGE, 0, &found), ENOENT);	/* which were lost nobody knows */
	ck_assert_uint_eq(stats().mapped, 0);
	ok(map_at(SIZE - PAGE, PAGE, DEVICE, RW));
	is_at(SIZE - PAGE, DEVICE);
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "device");

	tcase_add_test(tcase, new_refused);
	tcase_add_test(tcase, arguments_refused);
	tcase_add_test(tcase, map_and_look);
	tcase_add_test(tcase, large_leaf);
	tcase_add_test(tcase, unmap_downgrade_move);
	tcase_add_test(tcase, aging);
	tcase_add_test(tcase, tlb_hits);
	tcase_add_test(tcase, changes_are_followed);
	tcase_add_test(tcase, changes_are_followed_strict);
	if (!HAS_THREADS)	/* they could have changed memory meanwhile */
		tcase_add_test(tcase, mremap_keeps_translations);
	tcase_add_test(tcase, overflow);
}

int main(void)
{
	return harness_main("device", fill);
}
