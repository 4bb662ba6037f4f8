/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * bench-drop: one munmap() of a GiB, and a device that knows all of it
 *
 *	socket=PATH	of the daemon; none: nobody listens
 *	unit=N		bytes of each of the device's translations
 *	cpu=N		bind the thread that acts to the N-th processor
 *
 *	munmap		the system call alone; the memory was touched, by huge pages
 *	empty		from just before it until the device's table is empty, as the
 *			same thread begins its next look-up
 */

#include <sys/mman.h>
#include <unistd.h>
#include "device.h"

#define GIB (1UL << 30)

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_device *device;
static char *memory;
static size_t unit;
static uint64_t n_unmapped, n_changes;

static void on_unmap(struct mirror_device *d, const struct mirror_device_range *range,
		     void *userdata)
{
	(void)d;
	(void)userdata;
	n_unmapped += range->end - range->start;
}

static void map_all(void)
{
	void *p = mmap(memory, GIB, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);

	if (p != memory)
		fail("mmap: %s", strerror(errno));
	madvise(memory, GIB, MADV_HUGEPAGE);
	for (size_t i = 0; i < GIB; i += 2UL << 20)
		touch(memory + i, PAGE);
}

/* This address space has no page there any more, so it fails; but first it dispatches. */
static void begin_again(void)
{
	uint64_t start = (uintptr_t)memory, version;
	int r = mirror_read_begin(mirror_device_get_notifier(device), start, start + GIB, &version);

	if (r != -EFAULT)
		fail("a look-up of unmapped memory begins: %d", r);
}

static void run_munmap(unsigned int count)
{
	static struct samples unmap = { .name = "munmap" }, empty = { .name = "empty" };
	uint64_t t;

	for (unsigned int i = 0; i < count; i++) {
		map_all();
		if (device)
			device_fill(device, memory, GIB, unit);
		n_unmapped = 0;
		t = now_ns();
		must(munmap(memory, GIB) < 0 ? -errno : 0, "munmap");
		samples_add(&unmap, now_ns() - t);
		n_changes++;
		if (!device)
			continue;
		begin_again();
		samples_add(&empty, now_ns() - t);
		if (n_unmapped != GIB)
			fail("%llu bytes of a GiB are unmapped", (unsigned long long)n_unmapped);
	}
	samples_say(&unmap);
	samples_say(&empty);
}

int main(int argc, char **argv)
{
	static const struct turn turns[] = { { "munmap", run_munmap } };
	struct mirror_device_ops ops = { .sz = sizeof(ops), .unmap = on_unmap };

	(void)argc;
	unit = (size_t)option_number(argv, "unit", PAGE);
	memory = device_room(GIB, GIB, PROT_NONE);
	if (option_text(argv, "socket", NULL)) {
		ctx = session_open(argv, 0);
		target = session_attach(ctx, 0);
		must_be_there(mirror_device_new(&device, target, (uintptr_t)memory,
						(uintptr_t)memory + GIB, &ops, NULL, NULL),
			      "mirror_device_new");
	}
	pin(cpu_at((int)option_number(argv, "cpu", -1)));
	take_turns(turns, ARRAY_SIZE(turns));
	printf("done changes=%llu\n", (unsigned long long)n_changes);
	fflush(stdout);
	_exit(0);
}
