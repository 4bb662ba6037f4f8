/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <sys/mman.h>
#include "device.h"

#define BLOCK (2UL << 20)

static uint64_t begin(struct mirror_device *device, uint64_t start, uint64_t end)
{
	uint64_t version;

	must(mirror_read_begin(mirror_device_get_notifier(device), start, end, &version),
	     "mirror_read_begin");
	return version;
}

/*
 * Pages ask for a version once for each block: it holds for all pages of it, as long as a
 * stripe of the gate is no smaller.  Where it is, they are told to ask again.
 */
void device_fill(struct mirror_device *device, char *start, size_t bytes, size_t unit)
{
	uint64_t at = (uintptr_t)start, end = at + bytes, version = 0;
	int r;

	for (bool first = true; at < end; at += unit, first = false) {
		if (first || at % BLOCK == 0)
			version = begin(device, at, at + unit);
		for (;;) {
			r = mirror_device_map(device, at, at + unit, device_address(at, unit),
					      MIRROR_DEVICE_READ | MIRROR_DEVICE_WRITE, version);
			if (r != -EAGAIN)
				break;
			version = begin(device, at, at + unit);
		}
		must_be_there(r, "mirror_device_map");
	}
}

char *device_room(size_t bytes, size_t align, int prot)
{
	char *p = mmap(NULL, bytes + align, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		       -1, 0);

	if (p == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	return (char *)(((uintptr_t)p + align - 1) & ~(align - 1));
}
