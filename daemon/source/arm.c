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

/*
 * Only if it is one mapping still: part of it may have gone without an event before it
 * was registered, and what comes in that place is not registered.  Merged with its
 * neighbours it may be.
 */
static void tell_span(struct arm *arm, const struct vma *armed, struct arm_spans *spans)
{
	uint64_t start = armed->start, end = armed->end;
	struct vma vma;

	if (vma_find(arm->maps_fd, arm->pid, start, &vma) < 0 || vma.start > start ||
	    vma.end < end)
		return;
	if (spans->n && spans->span[spans->n - 1].end == start) {
		spans->span[spans->n - 1].end = end;
		return;
	}
	spans->span[spans->n].start = start;
	spans->span[spans->n].end = end;
	spans->n++;
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
		if (result->spans)
			tell_span(arm, vma, result->spans);
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

/* As many as may be done at one go? */
static bool is_enough(const struct arm_result *result)
{
	return result->armed + result->refused + result->busy >= ARM_SLICE ||
	       (result->spans && result->spans->n == ARM_SPANS);
}

/* Where one ioctl finds the next mapping (6.11). */
static int arm_by_query(struct arm *arm, uint64_t start, uint64_t end,
			struct arm_result *result)
{
	uint64_t at = start;
	struct vma vma;
	int r;

	while (at < end && !is_enough(result)) {
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
	while (!is_enough(result) && (r = vma_walk_next(&walk, &vma)) > 0) {
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
	if (!is_enough(result) && at < end) {
		result->hole = true;
		result->next = end;
	}
	return r < 0 ? r : 0;
}

static int arm_any_way(struct arm *arm, uint64_t start, uint64_t end, struct arm_spans *spans,
		       struct arm_result *ret_result)
{
	struct arm_result result = { .spans = spans };
	int r;

	r = arm_by_query(arm, start, end, &result);
	if (r == -ENOTTY)
		r = arm_by_walk(arm, start, end, &result);
	if (r < 0)
		return r;
	*ret_result = result;
	return 0;
}

int arm_range(struct arm *arm, uint64_t start, uint64_t end, struct arm_result *ret_result)
{
	return arm_any_way(arm, start, end, NULL, ret_result);
}

int arm_range_telling(struct arm *arm, uint64_t start, uint64_t end,
		      struct arm_spans *ret_spans, struct arm_result *ret_result)
{
	ret_spans->n = 0;
	return arm_any_way(arm, start, end, ret_spans, ret_result);
}
