/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A device that is not there
 *
 * Model
 *   A driver and its hardware, as a user of libmirror would write them.  The hardware
 *   reads and writes a target's memory by pages whose bus addresses the driver gave
 *   it.  An access translates; where there is no translation, or not the right to
 *   write, the device faults: the driver has the pages made present, looks up where
 *   they are, and enters them under the version of before that look-up.  The contract
 *   is that of the kernel's test device for HMM: commands read, write and snapshot a
 *   range, and count their faults.
 *
 *	device			driver			target
 *	translate: nothing
 *				mirror_fault()
 *				where are the pages?
 *							munmap()
 *				mirror_device_map()
 *				  -EAGAIN: once more
 *				mirror_fault()
 *				  -EFAULT
 *	command fails
 *
 * Two ways to translate
 *   TLB: each access asks libmirror's table, which validates.  The callbacks are of no
 *   importance then, so what is tested is the lookup.
 *   HARDWARE: the device walks a table of its own, which only the callbacks write, and
 *   nobody validates; before a command the driver lets everything be told that has
 *   happened (mirror_read_begin()).  What is tested is that the callbacks tell all.
 *   Both tables are compared at the end of each scenario.
 *
 * What a page is
 *   The device must not look at memory through the target's page table: then it could
 *   never see an old page.  So for each kind of memory there is another way to it:
 *
 *   memfd, shared file	the bus address is the offset in the file, and the device has
 *		the file.  What it reads there is what that page of the file holds, no
 *		matter what the target has mapped at the address now.
 *   private file	the same while the page is the file's, which /proc/PID/pagemap
 *		tells; the copy that a write made is anonymous memory.
 *   anonymous memory, huge pages and copies
 *		have no second name.  The bus address is the number of the page frame in
 *		pagemap, which only root may see.  Before the device reads or writes it
 *		looks if the target has that very frame at the address still, and only
 *		then uses the address.  If not, the translation is stale: a read gives
 *		garbage, as the frame may be anybody's by now.
 *
 *   Frames are used again, and then an old number is right by chance.  Scenarios that
 *   replace pages hold the old ones by a pipe until the new ones are there.
 *
 * What a source does not tell
 *   A userfaultfd tells nothing of copies on write: a device that only reads keeps the
 *   page of before.  A careful device therefore takes each page for writing if it
 *   may: the copy is made before the device sees the page.  fork() shares the
 *   pages again, and of that there is an event: then it drops everything.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "dma.h"
#include "dmirror.h"

#define PAGE		DMA_PAGE
#define TRIES		10000
#define FAULT_PAGES	16384UL		/* asked for at once */

/* What the hardware has for one page. */
struct hw_page {
	uint64_t entry;		/* bus address, and MIRROR_DEVICE_* rights; 0: nothing */
	uint64_t n_forgotten;
};

struct dmirror {
	struct mirror_device *device;
	struct mirror_target *target;
	uint64_t start, end;
	struct dmirror_opts opts;
	struct dma dma;
	struct hw_page *pages;
	uint64_t n_mapped;
	struct dmirror_told told;
};

struct dmirror_queue {
	struct dmirror *dm;
	struct mirror_tlb tlb;
	uint64_t entries[FAULT_PAGES];
	uint64_t addresses[FAULT_PAGES];
};

#define load(_p)	__atomic_load_n((_p), __ATOMIC_RELAXED)
#define add(_p, _n)	__atomic_fetch_add((_p), (_n), __ATOMIC_RELAXED)

/* ---- hardware: what the callbacks tell, under libmirror's lock ---- */

static struct hw_page *hw_page(struct dmirror *dm, uint64_t address)
{
	return &dm->pages[(address - dm->start) / PAGE];
}

static bool hw_range_is_good(struct dmirror *dm, const struct mirror_device_range *range)
{
	if (range->start >= dm->start && range->end <= dm->end && range->start < range->end &&
	    !(range->start % PAGE) && !(range->end % PAGE) && !(range->address % PAGE))
		return true;
	add(&dm->told.contradictions, 1);
	return false;
}

static void hw_set(struct dmirror *dm, struct hw_page *page, uint64_t entry)
{
	add(&dm->n_mapped, !!entry - !!page->entry);
	__atomic_store_n(&page->entry, entry, __ATOMIC_RELEASE);
}

static void on_map(struct mirror_device *device, const struct mirror_device_range *range,
		   void *userdata)
{
	struct dmirror *dm = userdata;
	uint64_t bus = range->address;

	(void)device;
	add(&dm->told.maps, 1);
	if (!hw_range_is_good(dm, range))
		return;
	if (!(range->rights & MIRROR_DEVICE_RIGHTS))
		add(&dm->told.contradictions, 1);
	for (uint64_t at = range->start; at < range->end; at += PAGE, bus += PAGE) {
		struct hw_page *page = hw_page(dm, at);

		/* where it differs it is unmapped first */
		if (page->entry && (page->entry & ~MIRROR_ENTRY_FLAGS) != bus)
			add(&dm->told.contradictions, 1);
		hw_set(dm, page, bus | (range->rights & MIRROR_DEVICE_RIGHTS));
	}
}

static void on_unmap(struct mirror_device *device, const struct mirror_device_range *range,
		     void *userdata)
{
	struct dmirror *dm = userdata;
	uint64_t bus = range->address;

	(void)device;
	add(&dm->told.unmaps, 1);
	if (!hw_range_is_good(dm, range))
		return;
	for (uint64_t at = range->start; at < range->end; at += PAGE, bus += PAGE) {
		struct hw_page *page = hw_page(dm, at);

		if ((page->entry & ~MIRROR_ENTRY_FLAGS) != bus || !page->entry)
			add(&dm->told.contradictions, 1);
		page->n_forgotten++;
		if (dm->opts.broken != DMIRROR_BROKEN_UNMAP)
			hw_set(dm, page, 0);
	}
}

static void on_downgrade(struct mirror_device *device, const struct mirror_device_range *range,
			 void *userdata)
{
	struct dmirror *dm = userdata;

	(void)device;
	add(&dm->told.downgrades, 1);
	if (!hw_range_is_good(dm, range) || dm->opts.broken == DMIRROR_BROKEN_DOWNGRADE)
		return;
	for (uint64_t at = range->start; at < range->end; at += PAGE) {
		struct hw_page *page = hw_page(dm, at);

		if (!page->entry)
			add(&dm->told.contradictions, 1);
		else
			hw_set(dm, page, (page->entry & ~MIRROR_DEVICE_RIGHTS) |
					 (range->rights & MIRROR_DEVICE_RIGHTS));
	}
}

static void on_event(struct mirror_device *device, const struct mirror_event *event,
		     void *userdata)
{
	struct dmirror *dm = userdata;

	if (event->type < MIRROR_EVENT_TYPES)
		add(&dm->told.events[event->type], 1);
	if (event->type == MIRROR_EVENT_FORK && dm->opts.careful)
		mirror_device_unmap(device, dm->start, dm->end);
}

/* ---- driver: life ---- */

int dmirror_new(struct dmirror **ret_dm, struct mirror_target *target, uint64_t start,
		uint64_t end, const struct dmirror_opts *opts)
{
	static const struct mirror_device_ops ops = {
		.sz = sizeof(ops), .map = on_map, .unmap = on_unmap,
		.downgrade = on_downgrade, .event = on_event,
	};
	struct dmirror *dm = calloc(1, sizeof(*dm));
	struct mirror_device_opts device_opts = MIRROR_DEVICE_OPTS_INIT;
	size_t size = (end - start) / PAGE * sizeof(struct hw_page);
	int r;

	if (opts->vouched)
		device_opts.reaction[MIRROR_EVENT_REMAP] = MIRROR_REACTION_MOVE;
	if (!dm)
		return -ENOMEM;
	dm->start = start;
	dm->end = end;
	dm->opts = *opts;
	r = dma_open(&dm->dma, mirror_target_get_pid(target));
	dm->pages = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (dm->pages == MAP_FAILED) {
		dm->pages = NULL;
		r = -ENOMEM;
	}
	if (r == 0)
		r = mirror_device_new(&dm->device, target, start, end, &ops, &device_opts, dm);
	if (r < 0) {
		dm->device = NULL;
		dmirror_free(dm);
		return r;
	}
	dm->target = mirror_target_ref(target);
	*ret_dm = dm;
	return 0;
}

void dmirror_stop(struct dmirror *dm)
{
	dm->device = mirror_device_free(dm->device);
}

struct dmirror *dmirror_free(struct dmirror *dm)
{
	if (!dm)
		return NULL;
	dmirror_stop(dm);
	mirror_target_unref(dm->target);
	if (dm->pages)
		munmap(dm->pages, (dm->end - dm->start) / PAGE * sizeof(struct hw_page));
	dma_close(&dm->dma);
	free(dm);
	return NULL;
}

int dmirror_add_file(struct dmirror *dm, int fd)
{
	return dma_add_file(&dm->dma, fd);
}

struct mirror_device *dmirror_device(struct dmirror *dm)
{
	return dm->device;
}

int dmirror_queue_new(struct dmirror_queue **ret_q, struct dmirror *dm)
{
	struct dmirror_queue *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->dm = dm;
	mirror_tlb_init(&q->tlb, dm->device);
	*ret_q = q;
	return 0;
}

struct dmirror_queue *dmirror_queue_free(struct dmirror_queue *q)
{
	free(q);
	return NULL;
}

/* ---- driver: faults ---- */

/* Enters the pages that were faulted in: all that the version is good for, at once. */
static int program(struct dmirror_queue *q, const struct mirror_fault *whole)
{
	uint64_t n = (whole->done - whole->start) / PAGE;

	for (uint64_t i = 0; i < n; i++) {
		q->addresses[i] |= MIRROR_DEVICE_READ;
		if (q->entries[i] & MIRROR_PTE_WRITE)
			q->addresses[i] |= MIRROR_DEVICE_WRITE;
	}
	return mirror_device_map_pages(q->dm->device, whole->start, whole->done, q->addresses,
				       whole->version);
}

static int fault_once(struct dmirror_queue *q, uint64_t start, uint64_t end, uint32_t flags)
{
	struct mirror_notifier *notifier = mirror_device_get_notifier(q->dm->device);
	struct mirror_fault fault = MIRROR_FAULT_INIT;
	int r;

	fault.flags = flags;
	fault.start = start;
	fault.end = end;
	fault.entries = q->entries;
	r = mirror_fault(notifier, &fault);
	/* what comes before the bad page is good */
	if (r < 0 && ((r != -EFAULT && r != -EACCES) || fault.done == start))
		return r;
	r = dma_resolve(&q->dm->dma, start, fault.done, q->addresses);
	if (r < 0)
		return r;
	if (q->dm->opts.between)
		q->dm->opts.between(q->dm->opts.userdata);
	if (q->dm->opts.broken == DMIRROR_BROKEN_VERSION) {
		r = mirror_read_begin(notifier, start, fault.done, &fault.version);
		if (r < 0)
			return r;
	}
	return program(q, &fault);
}

static int device_fault(struct dmirror_queue *q, uint64_t start, uint64_t end, bool write)
{
	int r;

	if (end - start > FAULT_PAGES * PAGE)
		end = start + FAULT_PAGES * PAGE;
	if (!write && (q->dm->opts.eager || q->dm->opts.careful)) {
		r = fault_once(q, start, end, MIRROR_FAULT_WRITE);
		if (r != -EACCES)
			return r;
	}
	return fault_once(q, start, end, write ? MIRROR_FAULT_WRITE : MIRROR_FAULT_READ);
}

/* ---- device: access ---- */

static int hw_translate(struct dmirror *dm, uint64_t address, uint32_t rights,
			uint64_t *ret_bus)
{
	uint64_t entry;

	if (address < dm->start || address >= dm->end)
		return -EINVAL;
	/* acquire: pairs with hw_set() */
	entry = __atomic_load_n(&hw_page(dm, address)->entry, __ATOMIC_ACQUIRE);
	if (!entry)
		return -ENOENT;
	if ((entry & rights) != rights)
		return -EACCES;
	*ret_bus = (entry & ~MIRROR_ENTRY_FLAGS) | (address & (PAGE - 1));
	return 0;
}

static int translate(struct dmirror_queue *q, uint64_t address, uint32_t rights,
		     uint64_t *ret_bus)
{
	if (q->dm->opts.walk == DMIRROR_WALK_HARDWARE ||
	    q->dm->opts.broken == DMIRROR_BROKEN_VALIDATE)
		return hw_translate(q->dm, address, rights, ret_bus);
	return mirror_tlb_translate(&q->tlb, address, rights, ret_bus);
}

static void move_page(struct dmirror_queue *q, uint64_t bus, uint64_t address, char *buffer,
		      size_t n, bool write)
{
	int r;

	if (write)
		r = dma_write(&q->dm->dma, bus, address, buffer, n);
	else
		r = dma_read(&q->dm->dma, bus, address, buffer, n);
	if (r < 0) {
		add(&q->dm->told.stale, 1);
		if (!write)
			memset(buffer, DMIRROR_GARBAGE, n);
	}
}

/* As far as translations go. */
static int access_mapped(struct dmirror_queue *q, struct dmirror_cmd *cmd, bool write)
{
	uint32_t rights = write ? MIRROR_DEVICE_WRITE : MIRROR_DEVICE_READ;
	uint64_t address, bus, n;
	int r;

	while (cmd->n_done < cmd->bytes) {
		address = cmd->address + cmd->n_done;
		n = PAGE - address % PAGE;
		if (n > cmd->bytes - cmd->n_done)
			n = cmd->bytes - cmd->n_done;
		r = translate(q, address, rights, &bus);
		if (r < 0)
			return r;
		move_page(q, bus, address, (char *)cmd->buffer + cmd->n_done, n, write);
		cmd->n_done += n;
	}
	return 0;
}

/*
 * Everything that happened before the command is told before it begins.  Memory that
 * is not there is no mistake here; the end of the target is.
 */
static int settle(struct dmirror_queue *q, const struct dmirror_cmd *cmd)
{
	uint64_t start = cmd->address / PAGE * PAGE, version;
	uint64_t end = (cmd->address + cmd->bytes + PAGE - 1) / PAGE * PAGE;
	int r;

	if (q->dm->opts.broken == DMIRROR_BROKEN_VALIDATE ||
	    (q->dm->opts.walk != DMIRROR_WALK_HARDWARE && !q->dm->opts.careful))
		return 0;
	do {
		r = mirror_read_begin(mirror_device_get_notifier(q->dm->device), start, end,
				      &version);
	} while (r == -EAGAIN);
	return r == -EFAULT || r == -EOPNOTSUPP ? 0 : r;
}

static int access_memory(struct dmirror_queue *q, struct dmirror_cmd *cmd, bool write)
{
	uint64_t end = (cmd->address + cmd->bytes + PAGE - 1) / PAGE * PAGE;
	unsigned int tries = TRIES;
	int r;

	cmd->n_done = 0;
	cmd->n_faults = 0;
	r = settle(q, cmd);
	while (r == 0) {
		r = access_mapped(q, cmd, write);
		if (r == -EAGAIN && tries-- > 0) {
			r = 0;
			continue;
		}
		if (r != -ENOENT && r != -EACCES)
			break;
		if (tries-- == 0)
			return -EAGAIN;
		cmd->n_faults++;
		r = device_fault(q, (cmd->address + cmd->n_done) / PAGE * PAGE, end, write);
		if (r == -EAGAIN)
			r = 0;
	}
	return r;
}

int dmirror_read(struct dmirror_queue *q, struct dmirror_cmd *cmd)
{
	return access_memory(q, cmd, false);
}

int dmirror_write(struct dmirror_queue *q, struct dmirror_cmd *cmd)
{
	return access_memory(q, cmd, true);
}

static uint8_t page_bits(uint64_t entry)
{
	if (!(entry & MIRROR_PTE_PRESENT))
		return 0;
	return DMIRROR_PAGE_PRESENT | (entry & MIRROR_PTE_WRITE ? DMIRROR_PAGE_WRITE : 0) |
	       (entry & MIRROR_PTE_ZERO ? DMIRROR_PAGE_ZERO : 0) |
	       (entry & MIRROR_PTE_HUGE ? DMIRROR_PAGE_HUGE : 0) |
	       (entry & MIRROR_PTE_FILE ? DMIRROR_PAGE_FILE : 0);
}

int dmirror_snapshot(struct dmirror_queue *q, struct dmirror_cmd *cmd)
{
	struct mirror_notifier *notifier = mirror_device_get_notifier(q->dm->device);
	struct mirror_fault fault = MIRROR_FAULT_INIT;
	uint8_t *bits = cmd->buffer;
	int r;

	cmd->n_done = 0;
	cmd->n_faults = 0;
	fault.start = cmd->address;
	fault.end = cmd->address + cmd->bytes;
	fault.entries = q->entries;
	if (cmd->bytes > FAULT_PAGES * PAGE)
		return -EINVAL;
	do {
		r = mirror_fault(notifier, &fault);
		if (r < 0)
			return r;
		for (uint64_t i = 0; i < cmd->bytes / PAGE; i++)
			bits[i] = page_bits(q->entries[i]);
	} while (mirror_read_retry(notifier, fault.start, fault.end, fault.version));
	cmd->n_done = cmd->bytes;
	return 0;
}

/* ---- what the device was told ---- */

uint64_t dmirror_invalidations(struct dmirror *dm, uint64_t start, uint64_t end)
{
	uint64_t n = 0;

	for (uint64_t at = start; at < end; at += PAGE)
		n += hw_page(dm, at)->n_forgotten;
	return n;
}

uint64_t dmirror_mapped(struct dmirror *dm)
{
	return load(&dm->n_mapped);
}

struct dmirror_told dmirror_told(struct dmirror *dm)
{
	return dm->told;
}

struct comparison {
	struct dmirror *dm;
	uint64_t n_pages;
	int n_differences;
};

static int compare_range(const struct mirror_device_range *range, void *userdata)
{
	struct comparison *c = userdata;
	uint64_t bus = range->address;

	for (uint64_t at = range->start; at < range->end; at += PAGE, bus += PAGE) {
		c->n_pages++;
		c->n_differences += load(&hw_page(c->dm, at)->entry) !=
				    (bus | (range->rights & MIRROR_DEVICE_RIGHTS));
	}
	return 0;
}

int dmirror_compare(struct dmirror *dm)
{
	struct comparison c = { .dm = dm };
	int r;

	r = mirror_device_for_each(dm->device, dm->start, dm->end, compare_range, &c);
	if (r < 0)
		return r;
	return c.n_differences + (c.n_pages != dmirror_mapped(dm));
}
