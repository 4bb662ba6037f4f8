/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include "dma.h"

/* An address of the bus: a page of a file, or the number of a page frame. */
#define ADDRESS_FILE	(1ULL << 51)
#define FILE_SHIFT	44
#define FILE_MASK	((1ULL << FILE_SHIFT) - 1)

#define PAGEMAP_PRESENT	(1ULL << 63)
#define PAGEMAP_FILE	(1ULL << 61)	/* of a file, or of shared memory */
#define PAGEMAP_PFN	((1ULL << 55) - 1)

#define ANONYMOUS	1

int dma_open(struct dma *dma, pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	*dma = (struct dma) { .pid = pid };
	dma->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	return dma->pagemap_fd < 0 ? -errno : 0;
}

void dma_close(struct dma *dma)
{
	if (dma->pagemap_fd >= 0)
		close(dma->pagemap_fd);
	dma->pagemap_fd = -1;
}

int dma_add_file(struct dma *dma, int fd)
{
	struct stat st;

	if (dma->n_files == DMA_FILES)
		return -ENOSPC;
	if (fstat(fd, &st) < 0)
		return -errno;
	dma->files[dma->n_files].inode = st.st_ino;
	dma->files[dma->n_files++].fd = fd;
	return 0;
}

/* ---- what is where ---- */

struct mapping {
	uint64_t start, end, offset, inode;
};

/* The mapping at @at.  By its text, as its layout has not changed since 1996. */
static int find_mapping(const struct dma *dma, uint64_t at, struct mapping *ret)
{
	char path[64], line[512];
	int r = -EAGAIN;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)dma->pid);
	file = fopen(path, "re");
	if (!file)
		return errno == ENOENT ? -ESRCH : -errno;
	while (r == -EAGAIN && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*4s %" SCNx64 " %*s %" SCNu64,
			   &ret->start, &ret->end, &ret->offset, &ret->inode) != 4)
			continue;	/* the rest of a long name */
		if (at >= ret->start && at < ret->end)
			r = 0;
	}
	fclose(file);
	return r;
}

static int resolve_file(const struct dma *dma, uint64_t at, struct mapping *mapping,
			uint64_t *ret_address)
{
	uint64_t offset;
	int r;

	if (at < mapping->start || at >= mapping->end) {
		r = find_mapping(dma, at, mapping);
		if (r < 0)
			return r;
	}
	if (!mapping->inode)
		return ANONYMOUS;	/* the huge page of zeros */
	offset = at - mapping->start + mapping->offset;
	for (unsigned int i = 0; i < dma->n_files; i++) {
		/* not by its device as well: some file systems show two numbers for it */
		if (dma->files[i].inode == mapping->inode && offset <= FILE_MASK) {
			*ret_address = ADDRESS_FILE | (uint64_t)i << FILE_SHIFT | offset;
			return 0;
		}
	}
	return -EOPNOTSUPP;
}

int dma_resolve(const struct dma *dma, uint64_t start, uint64_t end, uint64_t *ret_addresses)
{
	struct mapping mapping = { 0, 0, 0, 0 };
	uint64_t *entries = ret_addresses;	/* each becomes its address */
	uint64_t n = (end - start) / DMA_PAGE;
	ssize_t got;
	int r;

	got = pread(dma->pagemap_fd, entries, n * sizeof(entries[0]),
		    (off_t)(start / DMA_PAGE * sizeof(entries[0])));
	if (got != (ssize_t)(n * sizeof(entries[0])))
		return got < 0 ? -errno : -ESRCH;
	for (uint64_t i = 0; i < n; i++) {
		if (!(entries[i] & PAGEMAP_PRESENT))
			return -EAGAIN;
		if (entries[i] & PAGEMAP_FILE) {
			r = resolve_file(dma, start + i * DMA_PAGE, &mapping, &entries[i]);
			if (r < 0)
				return r;
			if (r != ANONYMOUS)
				continue;
		}
		entries[i] = (entries[i] & PAGEMAP_PFN) * DMA_PAGE;
		if (!entries[i])
			return -EPERM;
	}
	return 0;
}

/* ---- access ---- */

static bool is_still_at(const struct dma *dma, uint64_t address, uint64_t hint)
{
	uint64_t entry;

	if (pread(dma->pagemap_fd, &entry, sizeof(entry),
		  (off_t)(hint / DMA_PAGE * sizeof(entry))) != sizeof(entry))
		return false;
	return entry & PAGEMAP_PRESENT && (entry & PAGEMAP_PFN) == address / DMA_PAGE;
}

typedef ssize_t (*process_vm_fn)(pid_t pid, const struct iovec *local, unsigned long n_local,
				 const struct iovec *remote, unsigned long n_remote,
				 unsigned long flags);

/* Before, as a stale address must not be used; after, as it may have become stale. */
static int access_frame(const struct dma *dma, uint64_t address, uint64_t hint, void *buffer,
			size_t n, process_vm_fn move)
{
	struct iovec local = { buffer, n }, remote = { (void *)(uintptr_t)hint, n };

	if (!is_still_at(dma, address, hint) ||
	    move(dma->pid, &local, 1, &remote, 1, 0) != (ssize_t)n ||
	    !is_still_at(dma, address, hint))
		return -EFAULT;
	return 0;
}

static int file_of(const struct dma *dma, uint64_t address)
{
	uint64_t i = (address & ~ADDRESS_FILE) >> FILE_SHIFT;

	return i < dma->n_files ? dma->files[i].fd : -1;
}

int dma_read(const struct dma *dma, uint64_t address, uint64_t hint, void *buffer, size_t n)
{
	off_t offset = (off_t)(address & FILE_MASK);

	if (!(address & ADDRESS_FILE))
		return access_frame(dma, address, hint, buffer, n, process_vm_readv);
	return pread(file_of(dma, address), buffer, n, offset) == (ssize_t)n ? 0 : -EFAULT;
}

int dma_write(const struct dma *dma, uint64_t address, uint64_t hint, const void *buffer,
	      size_t n)
{
	off_t offset = (off_t)(address & FILE_MASK);
	int fd = file_of(dma, address);
	struct stat st;

	if (!(address & ADDRESS_FILE))
		return access_frame(dma, address, hint, (void *)(uintptr_t)buffer, n,
				    process_vm_writev);
	/* A file does not grow because a device has an old address. */
	if (fstat(fd, &st) < 0 || offset + (off_t)n > st.st_size)
		return -EFAULT;
	return pwrite(fd, buffer, n, offset) == (ssize_t)n ? 0 : -EFAULT;
}
