/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Faulting in another process's pages
 *
 * process_vm_readv() and process_vm_writev() work in two steps, for up to 1024
 * pages of the other side at a time: they pin the pages, which faults them in as an
 * access of that process's would, then they copy.  For the first step our own buffer
 * counts for nothing, not even its length.  So we have the pages pinned, and see to
 * it that nothing is copied:
 *
 *	read	our buffer is one byte
 *	write	our buffer is one byte on a page that may not be read.  The copy fails
 *		at its first byte, and the call with it: -EFAULT, whatever it did before
 *
 * A pin for writing leaves what a store would leave: the page of zeros replaced, a
 * file's page in a private mapping copied, a page shared after fork() made the
 * process's own, a shared file's page marked dirty.  No byte changes, not even for a
 * moment, so stores of the process's own are not undone by ours.
 *
 * A pin for reading gives a process its own copy of a page it shares after fork()
 * too, as the kernel wants pinned pages to stay.  So only pages are asked for that
 * are not there.
 *
 * What the call returns says little: nothing distinguishes a failure to pin from our
 * own page.  The caller looks at the page table again.
 *
 * The same serves our own process where the kernel has no MADV_POPULATE_*.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include "pagescan.h"
#include "procfs.h"
#include "mirror-private.h"

#define PIN_PAGES 1024	/* as many as the kernel pins at a time */

/* The target's number here.  0 is not known to the daemon yet, or no more. */
static int pid_of(struct mirror_target *target, pid_t *ret_pid)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	int r;

	info.pid = (int32_t)target->info.pid;
	if (!info.pid) {
		r = mirror_query_target(target->ctx, target->info.target, 0, &info);
		if (r < 0)
			return r;
	}
	if (!info.pid)
		return -ESRCH;
	*ret_pid = info.pid;
	return 0;
}

/* Another thread may do the same; the first one's stays. */
static int keep(struct mirror_target *target, unsigned int which, int fd)
{
	int none = -1;

	fd = fd_hide(target->ctx, fd);
	if (!__atomic_compare_exchange_n(&target->fds[which], &none, fd, false,
					 __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
		fd_close(fd);
		return none;
	}
	return fd;
}

static int open_error(int r)
{
	return r == -EACCES ? -EPERM : r == -ENOENT ? -ESRCH : r;
}

int fault_open(struct mirror_target *target, struct pagescan *scan)
{
	struct pagescan mine = PAGESCAN_NULL;
	struct vma_walk walk;
	pid_t pid = 0;
	int r;

	if (!target->lifeline.started) {
		r = pid_of(target, &pid);
		if (r < 0)
			return r;
	}
	mine.pid = pid;
	mine.maps_fd = load_relaxed(&target->fds[TARGET_FD_SCAN_MAPS]);
	mine.pagemap_fd = load_relaxed(&target->fds[TARGET_FD_PAGEMAP]);
	if (mine.pagemap_fd < 0) {
		r = pagescan_open(&mine, pid, -1);
		if (r < 0)
			return open_error(r);
		mine.pagemap_fd = keep(target, TARGET_FD_PAGEMAP, mine.pagemap_fd);
	}
	if (mine.maps_fd < 0) {
		r = vma_walk_begin(&walk, pid);
		if (r < 0)
			return open_error(r);
		mine.maps_fd = keep(target, TARGET_FD_SCAN_MAPS, walk.fd);
		mine.no_query = false;
	}
	*scan = mine;
	return 0;
}

static int get_nowhere(struct mirror_target *target, void **ret_page)
{
	void *page = __atomic_load_n(&target->nowhere, __ATOMIC_RELAXED);
	void *mine;

	if (!page) {
		mine = mmap(NULL, PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mine == MAP_FAILED)
			return -errno;
		if (__atomic_compare_exchange_n(&target->nowhere, &page, mine, false,
						__ATOMIC_RELAXED, __ATOMIC_RELAXED))
			page = mine;
		else
			munmap(mine, PAGE_BYTES);
	}
	*ret_page = page;
	return 0;
}

int fault_remote(struct mirror_target *target, pid_t pid, uint64_t start, uint64_t end,
		 bool write)
{
	struct iovec local = { .iov_len = 1 }, remote;
	uint8_t byte;
	ssize_t n;
	int r;

	local.iov_base = &byte;
	if (write) {
		r = get_nowhere(target, &local.iov_base);
		if (r < 0)
			return r;
	}
	if (!pid)
		pid = getpid();
	while (start < end) {
		remote.iov_base = (void *)(uintptr_t)start;
		remote.iov_len = MIN(end - start, PIN_PAGES * PAGE_BYTES);
		start += remote.iov_len;
		n = write ? process_vm_writev(pid, &local, 1, &remote, 1, 0) :
			    process_vm_readv(pid, &local, 1, &remote, 1, 0);
		if (n < 0 && errno != EFAULT)
			return -errno;
	}
	return 0;
}

/* Only where something failed: the kernel looks at every page it counts for smaps. */
bool fault_is_device(pid_t pid, uint64_t address)
{
	unsigned long long start, end;
	char path[32], line[512];
	bool here = false, device = false;
	FILE *f;

	if (!pid)
		pid = getpid();
	snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "VmFlags:", 8) && here) {
			device = strstr(line, " pf") || strstr(line, " io");
			break;
		}
		/* a key of smaps begins with a capital letter, an address does not */
		if (line[0] < 'A' || line[0] > 'Z')
			if (sscanf(line, "%llx-%llx ", &start, &end) == 2)
				here = start <= address && address < end;
	}
	fclose(f);
	return device;
}
