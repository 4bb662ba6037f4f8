/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Device and CPU use the same memory, and nothing is mapped or unmapped meanwhile. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "scenario.h"

static uint64_t pages_of_area(struct env *e)
{
	return e->size / PAGE;
}

static void protect(struct env *e, uint64_t at, uint64_t size, unsigned int prot)
{
	check_ok(cpu_call(e, SYS_mprotect, at, size, prot));
}

/* What others see who open the file. */
static void file_has(struct env *e, unsigned int generation)
{
	if (e->fd < 0)
		return;
	check_is(pread(e->fd, e->buffer, e->size, 0), e->size, "reading the file");
	check(pattern_is(e->buffer, e->size, generation, 0),
	      "the file does not have generation %u", generation);
}

static void read_all(struct env *e)
{
	check_is(device_read(e, e->area, e->size, 1, 0), 1, "faults of the first read");
	check_is(device_read(e, e->area, e->size, 1, 0), 0, "faults of the second");
	check_is(dmirror_mapped(e->dm), pages_of_area(e), "pages the device has");
	check_is(invalidations(e, e->area, e->size), 0, "pages it was told to forget");
}

static void read_many(struct env *e)
{
	uint64_t n = pages_of_area(e), at, faults = 0;

	for (unsigned int round = 0; round < 2; round++) {
		for (uint64_t i = 0; i < n; i++) {
			at = (i * 7 + 3) % n * PAGE;	/* n is no multiple of 7 */
			faults += device_read(e, e->area + at, PAGE, 1, at);
		}
		check_is(faults, n, "faults of %u rounds", round + 1);
	}
	/* parts of pages, and over their ends */
	for (uint64_t i = 1; i < n && i < 64; i++)
		faults += device_read(e, e->area + i * PAGE - 8 * i, 16 * i, 1, i * PAGE - 8 * i);
	check_is(faults, n, "faults of parts of pages");
}

static void write_all(struct env *e)
{
	check_is(device_write(e, e->area, e->size, 2, 0), 1, "faults of the first write");
	check(cpu_has(e, e->area, e->size, 2, 0), "the CPU does not see it");
	check_is(device_write(e, e->area, e->size, 3, 0), 0, "faults of the second");
	check(cpu_has(e, e->area, e->size, 3, 0), "the CPU does not see the second");
	check_is(device_read(e, e->area, e->size, 3, 0), 0, "faults of reading it back");
	file_has(e, e->type == MEMORY_FILE_PRIVATE ? 1 : 3);
}

static void write_after_read(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	check(device_write(e, e->area, e->size, 2, 0) <= 1, "more than one fault");
	check(cpu_has(e, e->area, e->size, 2, 0), "the CPU does not see it");
	check_is(device_read(e, e->area, e->size, 2, 0), 0, "faults of reading it back");
	file_has(e, e->type == MEMORY_FILE_PRIVATE ? 1 : 2);
}

static void cpu_writes(struct env *e)
{
	device_read(e, e->area, e->size, 1, 0);
	if (e->type == MEMORY_FILE_PRIVATE)
		need_kernel(e, "copies on write");
	cpu_fill(e, e->area, e->size, 2, 0);
	check(device_read(e, e->area, e->size, 2, 0) <= 1, "more than one fault");
	cpu_fill(e, e->area, e->size, 3, 0);
	check_is(device_read(e, e->area, e->size, 3, 0), 0, "faults after the second write");
}

static void cpu_writes_careful(struct env *e)
{
	map_memory(e, e->area, e->size, 0, 1);
	env_device(e, true);
	device_read(e, e->area, e->size, 1, 0);
	for (unsigned int generation = 2; generation < 5; generation++) {
		cpu_fill(e, e->area, e->size, generation, 0);
		check_is(device_read(e, e->area, e->size, generation, 0), 0,
			 "faults after generation %u", generation);
	}
	file_has(e, e->type == MEMORY_FILE_PRIVATE ? 1 : 4);
}

static void read_only(struct env *e)
{
	map_memory(e, e->area, e->size, 0, 1);
	protect(e, e->area, e->size, PROT_READ);
	env_device(e, false);
	device_fails(e, e->area, e->size, true, -EACCES);
	device_read(e, e->area, e->size, 1, 0);
	device_fails(e, e->area, e->size, true, -EACCES);
	check_is(device_read(e, e->area, e->size, 1, 0), 0, "faults");
	check(cpu_has(e, e->area, e->size, 1, 0), "it was written");
	/* more rights are told by nobody, and need not be */
	protect(e, e->area, e->size, PROT_READ | PROT_WRITE);
	device_write(e, e->area, e->size, 2, 0);
	check(cpu_has(e, e->area, e->size, 2, 0), "the CPU does not see it");
}

static void read_only_part(struct env *e)
{
	struct dmirror_cmd cmd = { .address = e->area, .buffer = e->buffer, .bytes = e->size };

	map_memory(e, e->area, e->size, 0, 1);
	protect(e, e->victim, e->victim_end - e->victim, PROT_READ);
	env_device(e, false);
	pattern_fill(e->buffer, e->size, 2, 0);
	check_is(dmirror_write(e->q, &cmd), -EACCES, "the device writes all");
	check_is(cmd.n_done, e->victim - e->area, "bytes written");
	check(cpu_has(e, e->area, cmd.n_done, 2, 0), "what it may is not written");
	check(cpu_has(e, e->victim, e->area + e->size - e->victim, 1, e->victim - e->area),
	      "what it may not is written");
	device_write(e, e->victim_end, e->area + e->size - e->victim_end, 2,
		     e->victim_end - e->area);
	device_read(e, e->victim, e->victim_end - e->victim, 1, e->victim - e->area);
}

static void no_rights(struct env *e)
{
	map_memory(e, e->area, e->size, 0, 1);
	protect(e, e->area, e->size, PROT_NONE);
	env_device(e, false);
	device_fails(e, e->area, e->size, false, -EACCES);
	device_fails(e, e->area, e->size, true, -EACCES);
	protect(e, e->area, e->size, PROT_READ | PROT_WRITE);
	device_read(e, e->area, e->size, 1, 0);
}

static void mprotect_read(struct env *e)
{
	uint64_t size = e->victim_end - e->victim;

	need_event(e, MIRROR_EVENT_PROTECTION_VMA, "mprotect");
	device_write(e, e->area, e->size, 2, 0);
	protect(e, e->victim, size, PROT_READ);
	device_fails(e, e->victim, size, true, -EACCES);
	check_is(device_read(e, e->victim, size, 2, e->victim - e->area), 0,
		 "faults of reading, which it may still");
	rest_is_untouched(e, 2);
}

static void mprotect_none(struct env *e)
{
	uint64_t size = e->victim_end - e->victim;

	need_event(e, MIRROR_EVENT_PROTECTION_VMA, "mprotect");
	device_read(e, e->area, e->size, 1, 0);
	protect(e, e->victim, size, PROT_NONE);
	device_fails(e, e->victim, size, false, -EACCES);
	device_fails(e, e->victim, size, true, -EACCES);
	rest_is_untouched(e, 1);
	protect(e, e->victim, size, PROT_READ | PROT_WRITE);
	device_read(e, e->victim, size, 1, e->victim - e->area);
}

/* By itself, as a driver does that wants to see writes. */
static void driver_downgrades(struct env *e)
{
	struct mirror_device *device = dmirror_device(e->dm);
	uint64_t size = e->victim_end - e->victim;

	device_write(e, e->area, e->size, 2, 0);
	check_ok(mirror_device_downgrade(device, e->victim, e->victim_end, MIRROR_DEVICE_READ));
	check_is(device_read(e, e->area, e->size, 2, 0), 0, "faults of reading");
	check_is(device_write(e, e->victim, size, 3, 0), 1, "faults of writing");
	check_is(device_write(e, e->victim, size, 4, 0), 0, "faults of writing again");
	check(cpu_has(e, e->victim, size, 4, 0), "the CPU does not see it");
	rest_is_untouched(e, 2);
	check_ok(mirror_device_unmap(device, e->victim, e->victim_end));
	/* for the second time: what gets other rights is unmapped first */
	check_is(invalidations(e, e->area, e->size), 2 * size / PAGE, "invalidations");
	check_is(device_read(e, e->victim, size, 4, 0), 1, "faults after all rights are gone");
}

static void untouched_write(struct env *e)
{
	map_memory(e, e->area, e->size, 0, 0);
	env_device(e, false);
	check_is(device_write(e, e->area, e->size, 1, 0), 1, "faults");
	check(cpu_has(e, e->area, e->size, 1, 0), "the CPU does not see it");
	cpu_fill(e, e->area, e->size, 2, 0);
	check_is(device_read(e, e->area, e->size, 2, 0), 0, "faults");
}

static void untouched_read(struct env *e)
{
	map_memory(e, e->area, e->size, 0, 0);
	env_device(e, false);
	check_is(device_read(e, e->area, e->size, 0, 0), 1, "faults of reading zeros");
	device_write(e, e->victim, e->victim_end - e->victim, 1, 0);
	check(cpu_has(e, e->victim, e->victim_end - e->victim, 1, 0), "the CPU does not see it");
	check_is(device_read(e, e->victim, e->victim_end - e->victim, 1, 0), 0, "faults");
	rest_is_untouched(e, 0);
	check(cpu_has(e, e->area, e->victim - e->area, 0, 0), "the device wrote more");
}

static void zero_page_written(struct env *e)
{
	map_memory(e, e->area, e->size, 0, 0);
	env_device(e, false);
	device_read(e, e->area, e->size, 0, 0);
	if (!(OF_SHARED & BIT(e->type)))
		need_kernel(e, "copies on write");
	cpu_fill(e, e->area, e->size, 1, 0);
	device_read(e, e->area, e->size, 1, 0);
}

static void zero_page_written_careful(struct env *e)
{
	map_memory(e, e->area, e->size, 0, 0);
	env_device(e, true);
	device_read(e, e->area, e->size, 0, 0);
	cpu_fill(e, e->area, e->size, 1, 0);
	check_is(device_read(e, e->area, e->size, 1, 0), 0, "faults");
}

/* Every second unit is touched; @bits: what is wanted of these, @others: of the others. */
static void snapshot_is(struct env *e, uint8_t mask, uint8_t bits, uint8_t others)
{
	struct dmirror_cmd cmd = { .address = e->area, .buffer = e->buffer, .bytes = e->size };

	memset(e->buffer, 0xff, pages_of_area(e));
	check_is(dmirror_snapshot(e->q, &cmd), 0, "snapshot");
	for (uint64_t i = 0; i < pages_of_area(e); i++)
		check_is(e->buffer[i] & mask, i * PAGE / e->unit % 2 ? others : bits,
			 "page %llu in the snapshot", (unsigned long long)i);
}

static void snapshot(struct env *e)
{
	uint8_t mask = DMIRROR_PAGE_PRESENT | DMIRROR_PAGE_WRITE | DMIRROR_PAGE_FILE;
	uint8_t file = OF_SHARED & BIT(e->type) ? DMIRROR_PAGE_FILE : 0;

	map_memory(e, e->area, e->size, 0, 0);
	env_device(e, false);
	snapshot_is(e, DMIRROR_PAGE_PRESENT, 0, 0);
	for (uint64_t at = 0; at < e->size; at += 2 * e->unit)
		cpu_fill(e, e->area + at, e->unit, 1, at);
	/* twice: a snapshot faults nothing in */
	for (unsigned int i = 0; i < 2; i++)
		snapshot_is(e, mask, DMIRROR_PAGE_PRESENT | DMIRROR_PAGE_WRITE | file, 0);
	check_is(dmirror_mapped(e->dm), 0, "pages the device has");
	if (e->type == MEMORY_THP)
		need_thp(e, e->area);
	if (e->unit == HUGE)
		snapshot_is(e, DMIRROR_PAGE_HUGE, DMIRROR_PAGE_HUGE, 0);
	protect(e, e->area, e->size, PROT_READ);
	snapshot_is(e, mask, DMIRROR_PAGE_PRESENT | file, 0);
	protect(e, e->area, e->size, PROT_READ | PROT_WRITE);
	if (e->type != MEMORY_ANON)
		return;
	for (uint64_t at = e->unit; at < e->size; at += 2 * e->unit)
		check(cpu_has(e, e->area + at, e->unit, 0, 0), "no zeros");
	snapshot_is(e, mask | DMIRROR_PAGE_ZERO, DMIRROR_PAGE_PRESENT | DMIRROR_PAGE_WRITE,
		    DMIRROR_PAGE_PRESENT | DMIRROR_PAGE_ZERO);
}

const struct scenario access_scenarios[] = {
	{ "read", read_all, OF_ALL, 0 },
	{ "read page by page", read_many, OF_ALL, 0 },
	{ "write", write_all, OF_ALL, 0 },
	{ "write after read", write_after_read, OF_ALL, 0 },
	{ "the CPU writes after the device read", cpu_writes, OF_ALL, 0 },
	{ "the same, a careful device", cpu_writes_careful, OF_ALL, OWN_MEMORY },
	{ "read-only mapping", read_only, OF_ALL, OWN_MEMORY },
	{ "mapping that is read-only in part", read_only_part, OF_ALL, OWN_MEMORY },
	{ "mapping without rights", no_rights, OF_ALL, OWN_MEMORY },
	{ "mprotect to read-only", mprotect_read, OF_ALL, 0 },
	{ "mprotect to none", mprotect_none, OF_ALL, 0 },
	{ "the driver takes rights away", driver_downgrades, OF_ALL, 0 },
	{ "write to what was never touched", untouched_write, OF_ALL, OWN_MEMORY },
	{ "read what was never touched", untouched_read, OF_ALL, OWN_MEMORY },
	{ "the CPU writes what the device read as zeros", zero_page_written, OF_ALL, OWN_MEMORY },
	{ "zeros again, a careful device", zero_page_written_careful, OF_ALL, OWN_MEMORY },
	{ "snapshot", snapshot, OF_ALL, OWN_MEMORY },
	{ NULL, NULL, 0, 0 },
};
