/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <stdio.h>
#include "procfs.h"
#include "source/arm.h"
#include "uffd.h"

int arm_init(struct arm *arm, pid_t pid, int uffd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	arm->maps_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (arm->maps_fd < 0)
		return -errno;
	arm->pid = pid;
	arm->uffd = uffd;
	return 0;
}

void arm_deinit(struct arm *arm)
{
	arm->maps_fd = fd_close(arm->maps_fd);
	arm->uffd = -1;
}

static int arm_vma(struct arm *arm, const struct vma *vma, struct arm_result *result)
{
	int r;

	if (vma->special) {
		result->refused++;
		return 0;
	}
	r = uffd_register(arm->uffd, vma->start, vma->end);
	switch (r) {
	case 0:
		result->armed++;
		return 0;
	case UFFD_E_REFUSED:	/* the same answer if it went while we looked */
		if (vma_is_still(arm->maps_fd, arm->pid, vma))
			result->refused++;
		else
			result->hole = true;
		return 0;
	case UFFD_E_BUSY:
		result->busy++;
		return 0;
	case UFFD_E_UNMAPPED:
		result->hole = true;
		return 0;
	}
	return r;
}

static uint32_t arm_seen(const struct arm_result *result)
{
	return result->armed + result->refused + result->busy;
}

/* Where one ioctl finds the next mapping (6.11). */
static int arm_by_query(struct arm *arm, uint64_t start, uint64_t end,
			struct arm_result *result)
{
	uint64_t at = start;
	struct vma vma;
	int r;

	while (at < end && arm_seen(result) < ARM_SLICE) {
		r = vma_query(arm->maps_fd, at, &vma);
		if (r == -ENOENT || (r == 0 && vma.start >= end)) {
			result->hole = true;
			at = end;
			break;
		}
		if (r < 0)
			return r;
		if (vma.start > at)
			result->hole = true;
		r = arm_vma(arm, &vma, result);
		if (r < 0)
			return r;
		at = vma.end;
	}
	result->next = at;
	return 0;
}

static int arm_by_walk(struct arm *arm, uint64_t start, uint64_t end,
		       struct arm_result *result)
{
	struct vma_walk walk;
	uint64_t at = start;
	struct vma vma;
	int r;

	r = vma_walk_begin(&walk, arm->pid);
	if (r < 0)
		return r;
	r = 0;
	while (arm_seen(result) < ARM_SLICE && (r = vma_walk_next(&walk, &vma)) > 0) {
		if (vma.end <= start)
			continue;
		if (vma.start >= end)
			break;
		if (vma.start > at)
			result->hole = true;
		at = vma.end;
		r = arm_vma(arm, &vma, result);
		if (r < 0)
			break;
	}
	vma_walk_end(&walk);
	result->next = at;
	if (arm_seen(result) < ARM_SLICE && at < end) {
		result->hole = true;
		result->next = end;
	}
	return r < 0 ? r : 0;
}

int arm_range(struct arm *arm, uint64_t start, uint64_t end, struct arm_result *ret_result)
{
	struct arm_result result = { .armed = 0 };
	int r;

	r = arm_by_query(arm, start, end, &result);
	if (r == -ENOTTY)
		r = arm_by_walk(arm, start, end, &result);
	if (r < 0)
		return r;
	*ret_result = result;
	return 0;
}
