/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef MIRROR_FAULT_H
#define MIRROR_FAULT_H

/*
 * Fault: what hmm_range_fault() is inside the kernel
 */

#include <mirror/common.h>
#include <mirror/mirror.h>
#include <mirror/uapi/table.h>

MIRROR_BEGIN_DECLS

/* mirror_fault.flags: without READ and WRITE it is a snapshot */
#define MIRROR_FAULT_READ	0x1 /* every page must be there, and be readable */
#define MIRROR_FAULT_WRITE	0x2 /* that, and writable, copies made, zero pages replaced */
#define MIRROR_FAULT_NODES	0x4 /* tell the NUMA node of each page, which costs */

/**
 * struct mirror_fault - what is asked and what is told
 * @sz: size of this struct
 * @flags: MIRROR_FAULT_*
 * @start: first byte, page aligned
 * @end: first byte after the range, page aligned; both in the notifier's range
 * @entries: one MIRROR_PTE_* entry for each page, or NULL if none is wanted
 * @done: out, also on failure: first byte that is not done, or bad
 * @version: out: version for mirror_read_retry() with @start and @done
 * @progress: if not NULL, called between pieces with @done so far; what it returns
 *	if not 0 ends the call and is returned.  A piece is at most 64 MiB, in a
 *	snapshot of pages that are there.  @done goes back to @start when the range
 *	changed meanwhile
 * @userdata: for @progress
 *
 * In a snapshot an entry is 0 where nothing is mapped, no page is there, or the
 * memory cannot be watched.
 */
struct mirror_fault {
	size_t		sz;
	uint32_t	flags;
	uint32_t	__reserved;
	uint64_t	start;
	uint64_t	end;
	uint64_t	*entries;
	uint64_t	done;
	uint64_t	version;
	int		(*progress)(uint64_t done, void *userdata);
	void		*userdata;
};

#define MIRROR_FAULT_INIT { sizeof(struct mirror_fault), 0, 0, 0, 0, NULL, 0, 0, NULL, NULL }

/**
 * mirror_fault() - snapshot a range, or fault it in
 * @notifier: notifier whose range holds that of @fault
 * @fault: question and answer
 *
 * Begins a lookup (mirror_read_begin()), faults in what is missing, reads the page
 * table, and begins again if the range changed meanwhile.  The caller then takes its
 * lock, calls mirror_read_retry() with @fault->version and on 0 programs its device.
 * May wait as long as a page fault of the target may.  Another process's pages are
 * faulted without changing them and without stopping it.
 *
 * On failure everything before @fault->done is as if it alone had been asked for.
 *
 * Return: 0; -EFAULT if nothing is mapped at @fault->done, or nothing can be there
 * (past the end of a file, a guard page); -EACCES if the mapping there lacks the
 * right; -EOPNOTSUPP if that memory cannot be watched or faulted (a device's, the
 * kernel's own); -EBUSY if somebody else's userfaultfd has it; -EAGAIN if the range
 * kept changing; -EPERM if the caller may not look into the process; -EINVAL; -E2BIG;
 * -ESRCH; -EPIPE; -ECHILD; -ENOMEM; or what @progress returned.  Since 0.1.
 */
MIRROR_MUST_CHECK
int mirror_fault(struct mirror_notifier *notifier, struct mirror_fault *fault);

MIRROR_END_DECLS

#endif /* MIRROR_FAULT_H */
