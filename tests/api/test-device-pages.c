/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Many pages at once: mirror_fault(), then mirror_device_map_pages(). */
#include <mirror/device.h>
#include <mirror/fault.h>
#include "harness.h"

#define PAGES 1024UL			/* two stripes and more of the gate */
#define SIZE (PAGES * PAGE)
#define R MIRROR_DEVICE_READ
#define W MIRROR_DEVICE_WRITE

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_device *device;
static char *mem;
static uint64_t entries[PAGES];

static uint64_t at(size_t page)
{
	return (uintptr_t)mem + page * PAGE;
}

static void setup(uint64_t max_bytes)
{
	struct mirror_device_opts opts = MIRROR_DEVICE_OPTS_INIT;

	opts.max_bytes = max_bytes;
	ctx = open_ctx();
	target = attach_self(ctx, 0);
	mem = map_pages(SIZE);
	ok(mirror_device_new(&device, target, at(0), at(PAGES), NULL, &opts, NULL));
}

static void finish(void)
{
	device = mirror_device_free(device);
	target = mirror_target_unref(target);
	ctx = mirror_ctx_unref(ctx);
}

static uint64_t version_of(size_t first, size_t end)
{
	uint64_t version;

	ok(mirror_read_begin(mirror_device_get_notifier(device), at(first), at(end), &version));
	return version;
}

/* No two pages follow each other in the device, and every third has no right to write. */
static void scatter(void)
{
	for (size_t i = 0; i < PAGES; i++)
		entries[i] = (1 + i * 7919 % PAGES) * 2 * PAGE | R | (i % 3 ? W : 0);
}

static void is_at(size_t page, uint64_t entry)
{
	struct mirror_device_range range;

	ok(mirror_device_translate(device, at(page), R, &range));
	ck_assert_uint_eq(range.address + (at(page) - range.start), entry & ~(PAGE - 1));
	ck_assert_uint_eq(range.rights, entry & (PAGE - 1));
}

static void is_gone(size_t page)
{
	struct mirror_device_range range;

	fails(mirror_device_translate(device, at(page), 0, &range), ENOENT);
}

START_TEST(pages_anywhere)
{
	uint64_t version;

	setup(0);
	scatter();
	ok(mirror_device_map_pages(device, at(0), at(PAGES), entries, version_of(0, PAGES)));
	for (size_t i = 0; i < PAGES; i++)
		is_at(i, entries[i]);

	/* some that stay, some that are others then */
	version = version_of(8, 16);
	ok(mirror_device_map_pages(device, at(8), at(16),
				   (uint64_t[8]) { 0, PAGE | R, 2 * PAGE | R, 0, 9 * PAGE | W | R },
				   version));
	is_at(8, entries[8]);
	is_at(9, PAGE | R);
	is_at(10, 2 * PAGE | R);
	is_at(11, entries[11]);
	is_at(12, 9 * PAGE | W | R);
	is_at(13, entries[13]);
	finish();
}
END_TEST

START_TEST(pages_refused)
{
	uint64_t version;

	setup(0);
	scatter();
	version = version_of(0, PAGES);
	entries[700] |= MIRROR_ENTRY_LINK;
	fails(mirror_device_map_pages(device, at(0), at(PAGES), entries, version), EINVAL);
	entries[700] = 5 * PAGE;	/* an address, but no right */
	fails(mirror_device_map_pages(device, at(0), at(PAGES), entries, version), EINVAL);
	scatter();
	fails(mirror_device_map_pages(device, at(1), at(1), entries, version), EINVAL);
	fails(mirror_device_map_pages(device, at(0), at(PAGES) + PAGE, entries, version), EINVAL);
	is_gone(0);

	/* a version of another range, and one from before a change */
	fails(mirror_device_map_pages(device, at(0), at(PAGES), entries, version_of(0, 1)),
	      EAGAIN);
	unmap(mem + 900 * PAGE, PAGE);
	fails(mirror_device_map_pages(device, at(0), at(PAGES), entries, version), EAGAIN);
	is_gone(0);
	is_gone(899);
	finish();
}
END_TEST

/* All of them or none. */
START_TEST(pages_too_many)
{
	setup(4 * PAGE);	/* no room for all the nodes it takes */
	scatter();
	fails(mirror_device_map_pages(device, at(0), at(PAGES), entries, version_of(0, PAGES)),
	      ENOSPC);
	for (size_t i = 0; i < PAGES; i++)
		is_gone(i);
	finish();
}
END_TEST

/* What a user does at a fault of the device. */
START_TEST(faulted_pages)
{
	struct mirror_fault fault = MIRROR_FAULT_INIT;
	uint64_t found[PAGES];
	int r;

	setup(0);
	ck_assert_int_eq(madvise(mem, SIZE / 2, MADV_DONTNEED), 0);
	fault.flags = MIRROR_FAULT_WRITE;
	fault.start = at(0);
	fault.end = at(PAGES);
	fault.entries = found;
	do {
		ok(mirror_fault(mirror_device_get_notifier(device), &fault));
		scatter();
		for (size_t i = 0; i < PAGES; i++)
			entries[i] |= found[i] & MIRROR_PTE_WRITE ? W : 0;
		r = mirror_device_map_pages(device, fault.start, fault.done, entries,
					    fault.version);
	} while (r == -EAGAIN);
	ok(r);
	for (size_t i = 0; i < PAGES; i++)
		is_at(i, entries[i] | W);
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "device-pages");

	tcase_add_test(tcase, pages_anywhere);
	tcase_add_test(tcase, pages_refused);
	tcase_add_test(tcase, pages_too_many);
	tcase_add_test(tcase, faulted_pages);
}

int main(void)
{
	return harness_main("device-pages", fill);
}
