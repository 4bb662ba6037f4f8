/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The device's way to physical memory, see dmirror.c
 *
 * An address of the bus is that of a page and not of where a process has it mapped.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define DMA_PAGE	4096UL
#define DMA_FILES	4

struct dma {
	pid_t pid;
	int pagemap_fd;
	unsigned int n_files;
	struct {
		uint64_t inode;
		int fd;			/* borrowed */
	} files[DMA_FILES];
};

int dma_open(struct dma *dma, pid_t pid);
void dma_close(struct dma *dma);
/* Pages of this file can be reached. */
int dma_add_file(struct dma *dma, int fd);

/*
 * The page that is at each page of [start, end) now.  -EAGAIN: there is none;
 * -EPERM: we may not know; -EOPNOTSUPP: it is of a file that we do not have.
 */
int dma_resolve(const struct dma *dma, uint64_t start, uint64_t end, uint64_t *ret_addresses);

/*
 * A part of one page.  @hint: where the target has it, or had it.  -EFAULT: that page
 * is not to be reached any more, which on a real bus would be somebody else's memory.
 */
int dma_read(const struct dma *dma, uint64_t address, uint64_t hint, void *buffer, size_t n);
int dma_write(const struct dma *dma, uint64_t address, uint64_t hint, const void *buffer,
	      size_t n);
