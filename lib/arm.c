/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Arming: having mappings watched
 *
 * In our own process we register them ourselves, with our copy of the
 * userfaultfd: an ioctl or two instead of a round trip.  For other processes, and
 * where /proc does not answer, the daemon does it.
 *
 * A mapping is registered whole.  A part would split it, and the number of
 * mappings is limited.
 */
#include <poll.h>
#include "procfs.h"
#include "uffd.h"
#include "mirror-private.h"

#define BUSY_MS 20
#define REFUSALS 3	/* in a row, until they are believed */

static int arm_by_request(struct mirror_target *target, uint64_t start, uint64_t end)
{
	struct mirror_arm arm = {
		.size = sizeof(arm),
		.target = target->info.target,
		.start = start,
		.end = end,
	};
	int r;

	r = ctx_request(target->ctx, MIRROR_OP_ARM, &arm, NULL, 0, NULL);
	if (r < 0)
		return r;
	return arm.refused ? -EOPNOTSUPP : 0;
}

/* 0, a UFFD_E_*, or -errno. */
static int arm_vma(struct mirror_target *target, uint64_t start, uint64_t end)
{
	int fd, r;

	fd = uffd_enter(target);
	if (fd < 0)
		return -EPIPE;
	r = uffd_register(fd, start, end);
	uffd_leave(target);
	if (r == 0)
		count(target->ctx, armed);
	return r;
}

/*
 * Arms the mapping at @address.  0 and where it ends; 1 if it went away under our
 * hands; -ENOTTY if /proc does not tell.
 */
static int arm_at(struct mirror_target *target, uint64_t address, uint64_t *ret_end)
{
	struct vma vma;
	int r;

	r = vma_find(target->fds[TARGET_FD_MAPS], 0, address, &vma);
	if (r == -ENOENT || (r == 0 && vma.start > address))
		return -EFAULT;
	if (r < 0)
		return -ENOTTY;
	if (vma.special)
		return -EOPNOTSUPP;
	/* it may also have gone when it was tried, and be back when it is looked for */
	for (unsigned int i = 0; i < REFUSALS; i++) {
		r = arm_vma(target, vma.start, vma.end);
		if (r != UFFD_E_REFUSED)
			break;
		if (!vma_is_still(target->fds[TARGET_FD_MAPS], 0, &vma))
			return 1;
	}
	switch (r) {
	case 0:
		*ret_end = vma.end;
		return 0;
	case UFFD_E_BUSY:
		return -EBUSY;
	case UFFD_E_REFUSED:
		return -EOPNOTSUPP;
	case UFFD_E_UNMAPPED:
		return 1;
	}
	return r;
}

/*
 * @busy_ms: how long to wait for another userfaultfd to let go of a mapping.  That
 * of a target that was detached a moment ago may be closed and not gone yet: the
 * kernel drops the last reference to a file when it likes.
 */
static int arm_self(struct mirror_target *target, uint64_t start, uint64_t end,
		    unsigned int busy_ms)
{
	uint64_t at = start;
	int r;

	while (at < end) {
		r = arm_at(target, at, &at);
		if (r == 1)	/* once more: another mapping may be in its place */
			r = arm_at(target, at, &at);
		if (r == -EBUSY && busy_ms-- > 0) {
			poll(NULL, 0, 1);
			continue;
		}
		if (r != 0)
			return r == 1 ? -EFAULT : r;
	}
	return 0;
}

int arm_range(struct mirror_target *target, uint64_t start, uint64_t end)
{
	int r = -ENOTTY;

	if (target->fds[TARGET_FD_MAPS] >= 0)
		r = arm_self(target, start, end, BUSY_MS);
	return r == -ENOTTY ? arm_by_request(target, start, end) : r;
}

int arm_everything(struct mirror_target *target)
{
	struct vma_walk walk;
	struct vma vma;
	int r;

	r = vma_walk_begin(&walk, 0);
	if (r < 0)
		return r;
	while ((r = vma_walk_next(&walk, &vma)) > 0)
		if (!vma.special)
			arm_vma(target, vma.start, vma.end);
	vma_walk_end(&walk);
	return r;
}

void arm_new(struct mirror_target *target, uint64_t start, uint64_t end)
{
	uint64_t at = start & ~(PAGE_BYTES - 1);
	int r;

	end = (end + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	if (at >= end)
		return;
	r = arm_vma(target, at, end);
	if (r > 0)	/* huge pages, say: let the kernel tell what the mapping is */
		arm_self(target, at, end, 0);
}

MIRROR_PUBLIC int mirror_target_arm(struct mirror_target *target, uint64_t start, uint64_t end)
{
	int r;

	r = ctx_check(target->ctx);
	if (r < 0)
		return r;
	if (!range_is_valid(start, end))
		return -EINVAL;
	r = gate_look(target, &target->gate);
	if (r < 0)
		return r;
	return arm_range(target, start, end);
}
