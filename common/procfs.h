/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What /proc says of a process
 */

#include <mirror/uapi/table.h>
#include <sys/types.h>
#include "base.h"

/*
 * One mapping.  @special: the kernel's own (vdso, vvar, vsyscall).  @file: there is a
 * file behind it, shared memory's included.  @rights: MIRROR_PTE_READ, _WRITE, _EXEC
 * and _SHARED.
 */
struct vma {
	uint64_t start, end;
	uint64_t rights;
	bool special;
	bool file;
};

/*
 * Walks mappings in order of address, in bounded memory.  A mapping that changes
 * during the walk may show up twice or not at all.
 */
struct vma_walk {
	int fd;
	size_t len, pos;
	bool eof;
	char buf[4096];
};

/* @pid 0 is the calling process. */
int vma_walk_begin(struct vma_walk *walk, pid_t pid);
/* 1 with the next mapping, 0 at the end, or -errno. */
int vma_walk_next(struct vma_walk *walk, struct vma *ret_vma);
void vma_walk_end(struct vma_walk *walk);

/*
 * The first mapping that ends after @address, by one ioctl where the kernel has
 * it (6.11).  @maps_fd is a descriptor of /proc/PID/maps.  -ENOENT: there is none;
 * -ENOTTY: ask vma_walk instead.
 */
int vma_query(int maps_fd, uint64_t address, struct vma *ret_vma);

/* The same by either way. */
int vma_find(int maps_fd, pid_t pid, uint64_t address, struct vma *ret_vma);

/* Is it still the mapping it was? */
bool vma_is_still(int maps_fd, pid_t pid, const struct vma *vma);

struct proc_stat {
	pid_t ppid;
	uint64_t start_time;	/* with the pid, names a process for ever */
	uint64_t start_stack;	/* of its program: fork copies it, exec draws a new one */
	unsigned int flags;	/* PF_* */
	int cpu;
	char state;
	char comm[16];
};

#define PROC_PF_EXITING 0x4

/* @tid 0: the process itself. */
int proc_stat_read(pid_t pid, pid_t tid, struct proc_stat *ret_stat);

/* The user a process belongs to for ptrace: root's if it is not dumpable. */
int proc_owner(pid_t pid, uid_t *ret_uid);

/* Real, effective and saved ids; capabilities of its user namespace. */
struct proc_creds {
	uint32_t uid[3], gid[3];
	uint64_t permitted, effective;
};

int proc_creds_read(pid_t pid, struct proc_creds *ret_creds);

/* Real, effective and saved user ids all equal @uid? */
bool proc_has_uids(pid_t pid, uid_t uid);

/* The process a thread is of. */
int proc_tgid(pid_t tid, pid_t *ret_pid);

/* Does its effective set hold @cap? */
bool proc_has_cap(pid_t pid, unsigned int cap);

/* Children of one thread, or with @tid 0 of all; at most @n.  How many, or -errno. */
int proc_children(pid_t pid, pid_t tid, pid_t *ret_pids, size_t n);

/* Do two processes share one address space (vfork, before exec)?  false if not known. */
bool proc_share_memory(pid_t a, pid_t b);

/* CLOCK_BOOTTIME in the unit of &proc_stat.start_time. */
uint64_t proc_now(void);

/* A pidfd, or -errno. */
int proc_pidfd(pid_t pid);

/* The process a pidfd means, or -ESRCH if it is gone. */
int proc_pid_of(int pidfd, pid_t *ret_pid);
