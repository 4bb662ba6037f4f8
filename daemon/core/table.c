/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror table
 *
 * Model
 *   An entry says what the kernel's page table said when it was looked at.  There are
 *   two operations and no third: a look at the kernel enters what it finds, over what
 *   was there; an event takes away.  No event ever enters anything, so it does not
 *   matter in which order events come, or how often.
 *
 * Why an entry is right
 *   A range is entered only if its mapping was registered before the look, in the
 *   same go, without reading any event between.  So each change of it after that is
 *   told by an event, and each event is read by the one thread that also looks:
 *
 *	target			daemon			reader, another process
 *	------			------			-----------------------
 *				register [a, b)
 *	munmap [a, b): waits
 *	another thread maps
 *	[a, b) anew, touches it
 *				look: pages of the
 *				new mapping		walks: what is there now,
 *				enter them		which is newer than it must be
 *				seq odd
 *				read(): UNMAP [a, b)
 *	munmap() returns				read_begin: waits
 *				started++, seq even	its version is no good
 *				clear [a, b)
 *				publish, ended++
 *							read_begin: a new version
 *							walks: nothing is known
 *
 *   A change before the look is in what the look sees, and its event, read later,
 *   clears once too often.  A change after the look is told by an event that is
 *   read later, too.  So whatever is wrong in the table is wrong because of a change
 *   whose event has not been read: the target still sits in that system call.
 *
 *   The new mapping in the picture is not registered.  That is why holes, and what
 *   could not be registered, are never entered even if the look finds pages there: a
 *   mapping that came between would go again without a word.  Where one took the
 *   place of a mapping that was registered, the event that says so is on its way.
 *
 * A change with two ends
 *   CLEAR is told before the pages go.  Looked at in between they are there still,
 *   and nothing would be read later that takes them away.  So from START to END
 *   nothing is entered in the range, and END clears again.  That holds for ranges
 *   that nobody watches too: whoever begins to watch one will believe the table.
 *
 *	START: clear, open	the kernel zaps ...	END: clear, not open
 *	|<------------- table_first_open() stops looks here ------------->|
 *
 * REMAP
 *   The entries are not moved along, though mremap() keeps the pages.  Events of
 *   two threads need not come in the order of the changes: both are queued after the
 *   kernel's lock was dropped.
 *
 *	thread 1			thread 2		read in this order
 *	munmap(A): done, not queued
 *					maps A, fills it
 *					A moves to C		REMAP A -> C: takes along
 *	queued						what the old A had
 *							UNMAP A
 *
 *   Moved, C would have entries of pages that were never there, and no event left to
 *   take them away.  Cleared at both ends it is right in any order; the manager looks
 *   at C anew soon after.
 *
 * Readers
 *   With each change the gate's stripes of what is watched have started before, and
 *   end after.  An entry that is seen between mirror_read_begin() and a
 *   mirror_read_retry() that says "good" was there after all changes that the version
 *   counts, and no other has been read since.  A look needs no gate: what it replaces
 *   was right, and so is what it enters.
 *   The node a reader stands in may be used again; tags tell, see uapi/table.h.
 *
 * What is told by no event, is not in the table
 *   Truncating a file, reclaim, mprotect(): an entry is what was when it was looked at,
 *   and the target's guarantees say so.  shmdt(), shmat() with SHM_REMAP and
 *   remap_file_pages() are the same, though they replace a mapping as munmap() does:
 *   who must know of them looks again.
 *
 * FORK makes private pages copy-on-write.  No stripe is moved for it, so it is done
 * while the gate is closed for the whole target.
 */
#include <string.h>
#include <sys/mman.h>
#include "core/table.h"
#include "shm.h"

#define LEVELS 4		/* 48 bits: what is above, a process must ask for */
#define FORK_RUNS 4096		/* told apart at a fork; beyond, shared ones lose WRITE too */

int table_init(struct table *table, void *memory, uint32_t n_nodes, uint32_t target)
{
	*table = (struct table) { .radix = RADIX_NULL };
	return radix_init(&table->radix, memory, n_nodes, LEVELS, target, false);
}

void table_deinit(struct table *table)
{
	if (table->radix.head)
		/* Release: who finds nodes that are not kept any more sees it afterwards. */
		store_release(&table->radix.head->state, MIRROR_TABLE_MOVED);
	radix_deinit(&table->radix);
}

static uint64_t limit(const struct table *table, uint64_t address)
{
	return MIN(address, radix_limit(&table->radix));
}

static void clear(struct table *table, uint64_t start, uint64_t end, bool trim)
{
	start = limit(table, start & ~(PAGE_BYTES - 1));
	end = limit(table, (MIN(end, USER_END) + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1));
	if (start < end)
		radix_clear(&table->radix, start, end, trim, NULL);
}

/* Rights, all of them of the mapping, are less than they were. */
static void take(struct table *table, uint64_t start, uint64_t end, uint64_t flags)
{
	start = limit(table, start & ~(PAGE_BYTES - 1));
	end = limit(table, (MIN(end, USER_END) + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1));
	if (start < end && flags)
		radix_downgrade(&table->radix, start, end, flags, 0, NULL);
}

/*
 * Rights that are taken away go.  What is given now is not added: whether a write
 * would need a copy, only a look can tell.
 */
static void protect(struct table *table, const struct event *ev)
{
	uint32_t prot = (uint32_t)ev->arg[0];
	uint64_t flags = 0;

	if (!(prot & (PROT_READ | PROT_WRITE | PROT_EXEC))) {
		clear(table, ev->start, ev->end, false);
		return;
	}
	flags |= prot & PROT_READ ? 0 : MIRROR_PTE_READ;
	flags |= prot & PROT_WRITE ? 0 : MIRROR_PTE_WRITE;
	flags |= prot & PROT_EXEC ? 0 : MIRROR_PTE_EXEC;
	take(table, ev->start, ev->end, flags);
}

static void open_change(struct table *table, const struct event *ev)
{
	if (table->n_open == TABLE_OPEN) {
		table->n_more++;
		return;
	}
	table->open[table->n_open].start = ev->start;
	table->open[table->n_open].end = ev->end;
	table->n_open++;
}

static void close_change(struct table *table, const struct event *ev)
{
	for (unsigned int i = 0; i < table->n_open; i++) {
		if (table->open[i].start != ev->start || table->open[i].end != ev->end)
			continue;
		table->open[i] = table->open[--table->n_open];
		return;
	}
	if (table->n_more)
		table->n_more--;
}

void table_event(struct table *table, const struct event *ev)
{
	if (ev->flags & MIRROR_EVENT_F_START)
		open_change(table, ev);
	switch (ev->type) {
	case MIRROR_EVENT_UNMAP:
		clear(table, ev->start, ev->end, true);
		break;
	case MIRROR_EVENT_REMAP:
		clear(table, ev->start, ev->end, true);
		clear(table, ev->arg[0], ev->arg[0] + (ev->end - ev->start), false);
		break;
	case MIRROR_EVENT_PROTECTION_VMA:
		protect(table, ev);
		break;
	case MIRROR_EVENT_PROTECTION_PAGE:
		take(table, ev->start, ev->end, MIRROR_PTE_WRITE);
		break;
	case MIRROR_EVENT_RELEASE:
		table_reset(table);
		break;
	case MIRROR_EVENT_FORK:
		table_fork(table);
		break;
	case MIRROR_EVENT_SOFT_DIRTY:
	case MIRROR_EVENT_FAULT:
		break;
	default:	/* CLEAR, MIGRATE, EXCLUSIVE, and what is not known yet */
		clear(table, ev->start, ev->end, false);
		break;
	}
}

void table_end(struct table *table, const struct event *ev)
{
	struct event end = *ev;

	close_change(table, ev);
	end.flags &= (uint16_t)~MIRROR_EVENT_F_PHASE;
	table_event(table, &end);
}

void table_fork(struct table *table)
{
	uint64_t at = 0, end = radix_limit(&table->radix);
	struct radix_run run;

	for (unsigned int i = 0; i < FORK_RUNS; i++) {
		if (!radix_next(&table->radix, at, end, &run))
			return;
		if ((run.entry & (MIRROR_PTE_WRITE | MIRROR_PTE_SHARED)) == MIRROR_PTE_WRITE)
			take(table, run.start, run.end, MIRROR_PTE_WRITE);
		at = run.end;
	}
	take(table, at, end, MIRROR_PTE_WRITE);
}

void table_reset(struct table *table)
{
	clear(table, 0, USER_END, true);
	table->n_open = table->n_more = 0;
}

uint64_t table_first_open(const struct table *table, uint64_t start, uint64_t end)
{
	uint64_t first = end;

	if (table->n_more)
		return start;
	for (unsigned int i = 0; i < table->n_open; i++)
		if (ranges_overlap(start, first, table->open[i].start, table->open[i].end))
			first = MAX(table->open[i].start, start);
	return first;
}

int table_enter(struct table *table, uint64_t start, uint64_t end, uint64_t entry)
{
	int r;

	if (end > radix_limit(&table->radix))
		return 0;	/* not known: no walk would find it */
	r = radix_fill(&table->radix, start, end, entry);
	if (r < 0)
		clear(table, start, end, false);
	return r;
}

void table_forget(struct table *table, uint64_t start, uint64_t end, bool trim)
{
	clear(table, start, end, trim);
}
