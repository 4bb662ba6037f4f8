/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A device with a page table of its own, and what each change of memory does to it
 *
 * The "device" knows a page by a number that we give it; a real one would get an
 * I/O address.  It only prints what it is told, and so shows which reactions the
 * changes of this process's memory have.
 *
 *	cc device.c $(pkg-config --cflags --libs libmirror)
 */
#include <errno.h>
#include <mirror/device.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE	4096UL
#define PAGES	16UL

static char *buffer;

static unsigned long page_of(uint64_t address)
{
	return (unsigned long)((address - (uintptr_t)buffer) / PAGE);
}

static void on_unmap(struct mirror_device *device, const struct mirror_device_range *range,
		     void *userdata)
{
	(void)device;
	(void)userdata;
	printf("    device: forget pages %lu to %lu (its %#llx)\n", page_of(range->start),
	       page_of(range->end) - 1, (unsigned long long)range->address);
}

static void on_event(struct mirror_device *device, const struct mirror_event *event,
		     void *userdata)
{
	(void)device;
	(void)userdata;
	printf("    event:  %s, because of %s\n", mirror_event_type_to_string(event->type),
	       mirror_cause_to_string(event->cause));
}

/* Makes pages known to the device, unless memory changes all the time. */
static int teach(struct mirror_device *device, unsigned long first, unsigned long n)
{
	uint64_t start = (uintptr_t)buffer + first * PAGE, end = start + n * PAGE, version;
	int r;

	do {
		r = mirror_read_begin(mirror_device_get_notifier(device), start, end, &version);
		if (r < 0)
			return r;
		/* here: whatever makes the memory ready for the device */
		r = mirror_device_map(device, start, end, 0x10000 + first * PAGE,
				      MIRROR_DEVICE_READ | MIRROR_DEVICE_WRITE, version);
	} while (r == -EAGAIN);
	return r;
}

static void ask(struct mirror_device *device, unsigned long page)
{
	struct mirror_device_range range;
	int r;

	r = mirror_device_translate(device, (uintptr_t)buffer + page * PAGE, MIRROR_DEVICE_WRITE,
				    &range);
	if (r < 0)
		printf("    page %lu: %s\n", page, r == -ENOENT ? "not known" : strerror(-r));
	else
		printf("    page %lu: device address %#llx\n", page,
		       (unsigned long long)range.address);
}

static int show(struct mirror_device *device)
{
	int r;

	printf("the device learns %lu pages\n", PAGES);
	r = teach(device, 0, PAGES);
	if (r < 0)
		return r;
	ask(device, 1);
	ask(device, 5);

	printf("madvise(page 4 to 7, MADV_DONTNEED): contents gone, addresses stay\n");
	madvise(buffer + 4 * PAGE, 4 * PAGE, MADV_DONTNEED);
	ask(device, 5);
	ask(device, 1);

	printf("the device learns page 5 again\n");
	r = teach(device, 5, 1);
	if (r < 0)
		return r;
	ask(device, 5);

	printf("mremap(page 0 to 1 to page 14): the translations move, nobody asks again\n");
	if (mremap(buffer, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		   buffer + 14 * PAGE) == MAP_FAILED)
		return -1;
	ask(device, 0);
	ask(device, 15);

	printf("munmap(page 2 to 15)\n");
	munmap(buffer + 2 * PAGE, 14 * PAGE);
	ask(device, 15);
	return 0;
}

int main(void)
{
	struct mirror_device_ops ops = {
		.sz = sizeof(ops), .unmap = on_unmap, .event = on_event,
	};
	struct mirror_device *device = NULL;
	struct mirror_target *target = NULL;
	struct mirror_ctx *ctx = NULL;
	uint64_t start;
	int r;

	buffer = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	if (buffer == MAP_FAILED)
		return 1;
	memset(buffer, 1, PAGES * PAGE);
	start = (uintptr_t)buffer;

	r = mirror_open(&ctx, NULL);
	if (r == 0)
		r = mirror_target_attach_self(&target, ctx, NULL);
	if (r == 0)
		r = mirror_device_new(&device, target, start, start + PAGES * PAGE, &ops, NULL,
				      NULL);
	if (r == 0)
		r = show(device);
	if (r < 0)
		fprintf(stderr, "device: %s\n", strerror(-r));
	mirror_device_free(device);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
	return r < 0;
}
