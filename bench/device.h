/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BENCH_DEVICE_H
#define BENCH_DEVICE_H

/* A device page table, where nothing may fail but for its not being there. */

#include <mirror/device.h>
#include "session.h"

/*
 * The device address of @address: scattered, so that no two units of @unit bytes that are
 * neighbours have neighbouring device addresses; aligned as they are.
 */
static inline uint64_t device_address(uint64_t address, size_t unit)
{
	return address ^ 0x55 * unit;
}

/* Maps all of it, for reading and writing, in units of @unit bytes. */
void device_fill(struct mirror_device *device, char *start, size_t bytes, size_t unit);

/* Addresses of nobody's, aligned. */
char *device_room(size_t bytes, size_t align, int prot);

#endif /* BENCH_DEVICE_H */
