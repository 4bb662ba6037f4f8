/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Functions of libc that make mappings
 *
 * Each does what libc's does and then has the new mapping watched.  The plain ones
 * are system calls here as there, which works at any time, before the dynamic
 * linker is done with us too.  brk() keeps the break in libc's own variable, so
 * libc's must be called.  What goes away needs no hook: the kernel tells.
 */
#undef _FILE_OFFSET_BITS	/* it would rename mmap to mmap64; off_t has 64 bits anyway */
#include <dlfcn.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include "mirror-private.h"
#include "preload.h"

_Static_assert(sizeof(long) == 8, "the system calls here are those of 64 bit machines");

static void *map(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
	void *p;

	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	p = (void *)syscall(SYS_mmap, address, length, prot, flags, fd, offset);
	if (p != MAP_FAILED)
		preload_mapped(p, length);
	return p;
}

MIRROR_PUBLIC void *mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
	return map(address, length, prot, flags, fd, offset);
}

MIRROR_PUBLIC void *mmap64(void *address, size_t length, int prot, int flags, int fd,
			   off64_t offset)
{
	return map(address, length, prot, flags, fd, offset);
}

MIRROR_PUBLIC void *mremap(void *old, size_t old_length, size_t length, int flags, ...)
{
	void *to = NULL, *p;
	va_list args;

	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) {
		va_start(args, flags);
		to = va_arg(args, void *);
		va_end(args);
	}
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	p = (void *)syscall(SYS_mremap, old, old_length, length, flags, to);
	if (p != MAP_FAILED)
		preload_mapped(p, length);
	return p;
}

MIRROR_PUBLIC void *shmat(int id, const void *address, int flags)
{
	void *p;

	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	p = (void *)syscall(SYS_shmat, id, address, flags);
	if (p != MAP_FAILED)
		preload_attached(p);
	return p;
}

typedef void *(*sbrk_function)(intptr_t increment);
typedef int (*brk_function)(void *address);

/* A function pointer is no object pointer in C; POSIX says that this works. */
static sbrk_function next_sbrk(void)
{
	static void *next;

	if (!load_relaxed(&next))
		store_relaxed(&next, dlsym(RTLD_NEXT, "sbrk"));
	return __extension__ (sbrk_function)load_relaxed(&next);
}

static brk_function next_brk(void)
{
	static void *next;

	if (!load_relaxed(&next))
		store_relaxed(&next, dlsym(RTLD_NEXT, "brk"));
	return __extension__ (brk_function)load_relaxed(&next);
}

MIRROR_PUBLIC void *sbrk(intptr_t increment)
{
	void *old = next_sbrk()(increment);

	if (increment > 0 && old != (void *)-1)
		preload_mapped(old, (size_t)increment);
	return old;
}

MIRROR_PUBLIC int brk(void *address)
{
	char *old = next_sbrk()(0);
	int r = next_brk()(address);

	if (r == 0 && (char *)address > old)
		preload_mapped(old, (size_t)((char *)address - old));
	return r;
}
