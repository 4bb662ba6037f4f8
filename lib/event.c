/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names, and one line for people
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "mirror-private.h"

static const char *const type_names[MIRROR_EVENT_TYPES] = {
	[MIRROR_EVENT_NONE] = "none",
	[MIRROR_EVENT_UNMAP] = "unmap",
	[MIRROR_EVENT_CLEAR] = "clear",
	[MIRROR_EVENT_PROTECTION_VMA] = "protection_vma",
	[MIRROR_EVENT_PROTECTION_PAGE] = "protection_page",
	[MIRROR_EVENT_SOFT_DIRTY] = "soft_dirty",
	[MIRROR_EVENT_RELEASE] = "release",
	[MIRROR_EVENT_MIGRATE] = "migrate",
	[MIRROR_EVENT_EXCLUSIVE] = "exclusive",
	[MIRROR_EVENT_REMAP] = "remap",
	[MIRROR_EVENT_FORK] = "fork",
	[MIRROR_EVENT_FAULT] = "fault",
	[MIRROR_EVENT_OVERFLOW] = "overflow",
};

static const char *const cause_names[MIRROR_CAUSES] = {
	[MIRROR_CAUSE_UNKNOWN] = "unknown",
	[MIRROR_CAUSE_MUNMAP] = "munmap",
	[MIRROR_CAUSE_MAP_FIXED] = "map_fixed",
	[MIRROR_CAUSE_BRK] = "brk",
	[MIRROR_CAUSE_SHMDT] = "shmdt",
	[MIRROR_CAUSE_MREMAP] = "mremap",
	[MIRROR_CAUSE_EXEC] = "exec",
	[MIRROR_CAUSE_EXIT] = "exit",
	[MIRROR_CAUSE_DETACH] = "detach",
	[MIRROR_CAUSE_DONTNEED] = "dontneed",
	[MIRROR_CAUSE_FREE] = "free",
	[MIRROR_CAUSE_REMOVE] = "remove",
	[MIRROR_CAUSE_TRUNCATE] = "truncate",
	[MIRROR_CAUSE_PUNCH_HOLE] = "punch_hole",
	[MIRROR_CAUSE_PAGEOUT] = "pageout",
	[MIRROR_CAUSE_MPROTECT] = "mprotect",
	[MIRROR_CAUSE_PKEY] = "pkey",
	[MIRROR_CAUSE_FORK] = "fork",
	[MIRROR_CAUSE_COW] = "cow",
	[MIRROR_CAUSE_KSM] = "ksm",
	[MIRROR_CAUSE_UFFD_WP] = "uffd_wp",
	[MIRROR_CAUSE_WRITEBACK] = "writeback",
	[MIRROR_CAUSE_SOFT_DIRTY] = "soft_dirty",
	[MIRROR_CAUSE_NUMA] = "numa",
	[MIRROR_CAUSE_COMPACTION] = "compaction",
	[MIRROR_CAUSE_HUGEPAGE_SPLIT] = "hugepage_split",
	[MIRROR_CAUSE_HUGEPAGE_COLLAPSE] = "hugepage_collapse",
	[MIRROR_CAUSE_MUNLOCK] = "munlock",
	[MIRROR_CAUSE_DEVICE] = "device",
};

static const char *const source_names[] = {
	[MIRROR_SOURCE_NONE] = "none",
	[MIRROR_SOURCE_UFFD] = "uffd",
	[MIRROR_SOURCE_KERNEL] = "kernel",
	[MIRROR_SOURCE_SYSCALL] = "syscall",
	[MIRROR_SOURCE_EXIT] = "exit",
};

static const char *const guarantee_names[] = {
	[MIRROR_GUARANTEE_NONE] = "none",
	[MIRROR_GUARANTEE_POINT] = "point",
	[MIRROR_GUARANTEE_ORDERED] = "ordered",
	[MIRROR_GUARANTEE_STRICT] = "strict",
	[MIRROR_GUARANTEE_HOLD] = "hold",
};

#define NAME(_names, _i) ((_i) < ARRAY_SIZE(_names) ? (_names)[_i] : NULL)

MIRROR_PUBLIC const char *mirror_event_type_to_string(unsigned int type)
{
	return NAME(type_names, type);
}

MIRROR_PUBLIC int mirror_event_type_from_string(const char *name)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(type_names); i++)
		if (!strcmp(type_names[i], name))
			return (int)i;
	return -EINVAL;
}

MIRROR_PUBLIC const char *mirror_cause_to_string(unsigned int cause)
{
	return NAME(cause_names, cause);
}

MIRROR_PUBLIC const char *mirror_source_to_string(unsigned int source)
{
	return NAME(source_names, source);
}

MIRROR_PUBLIC const char *mirror_guarantee_to_string(unsigned int guarantee)
{
	return NAME(guarantee_names, guarantee);
}

MIRROR_PUBLIC const char *mirror_event_phase_to_string(unsigned int flags)
{
	if (flags & MIRROR_EVENT_F_START)
		return "start";
	if (flags & MIRROR_EVENT_F_END)
		return "end";
	return flags & MIRROR_EVENT_F_POINT ? "point" : NULL;
}

struct line {
	char *buf;
	size_t size;
	size_t length;	/* as if there were room */
};

_printf_(2, 3) static void line_add(struct line *line, const char *format, ...)
{
	size_t at = MIN(line->length, line->size);
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line->buf ? line->buf + at : NULL, line->size - at, format, args);
	va_end(args);
	if (n > 0)
		line->length += (size_t)n;
}

static const char *or_number(const char *name, unsigned int number, char buf[16])
{
	if (name)
		return name;
	snprintf(buf, 16, "%u", number);
	return buf;
}

static void add_arg(struct line *line, const struct mirror_event *ev)
{
	switch (ev->type) {
	case MIRROR_EVENT_REMAP:
		line_add(line, " to 0x%llx", (unsigned long long)ev->arg.remap.to);
		break;
	case MIRROR_EVENT_PROTECTION_VMA:
		line_add(line, " prot 0x%x", ev->arg.protection.prot_new);
		break;
	case MIRROR_EVENT_MIGRATE:
	case MIRROR_EVENT_EXCLUSIVE:
		line_add(line, " owner 0x%llx", (unsigned long long)ev->arg.owner.cookie);
		break;
	case MIRROR_EVENT_FORK:
		line_add(line, " child %u pid %d", ev->arg.fork.target, (int)ev->arg.fork.pid);
		break;
	case MIRROR_EVENT_FAULT:
		line_add(line, " at 0x%llx prot 0x%x id %u",
			 (unsigned long long)ev->arg.fault.address, ev->arg.fault.prot,
			 ev->arg.fault.id);
		break;
	case MIRROR_EVENT_OVERFLOW:
		line_add(line, " lost %llu", (unsigned long long)ev->arg.overflow.lost);
		break;
	}
}

static const struct {
	unsigned int flag;
	const char *name;
} extra_flags[] = {
	{ MIRROR_EVENT_F_BLOCKABLE, " blockable" },
	{ MIRROR_EVENT_F_CHANGE_PTE, " change_pte" },
	{ MIRROR_EVENT_F_NEED_ACK, " need_ack" },
	{ MIRROR_EVENT_F_MERGED, " merged" },
	{ MIRROR_EVENT_F_LAST, " last" },
};

MIRROR_PUBLIC int mirror_event_format(const struct mirror_event *event, char *buf, size_t n)
{
	unsigned int source = MIRROR_EVENT_SOURCE(event->flags);
	unsigned int guarantee = MIRROR_EVENT_GUARANTEE(event->flags);
	const char *phase = mirror_event_phase_to_string(event->flags);
	struct line line = { .buf = n ? buf : NULL, .size = n };
	char number[4][16];

	line_add(&line, "target %u %s %s 0x%llx-0x%llx cause %s source %s/%s", event->target,
		 or_number(NAME(type_names, event->type), event->type, number[0]),
		 phase ? phase : "-", (unsigned long long)event->start,
		 (unsigned long long)event->end,
		 or_number(NAME(cause_names, event->cause), event->cause, number[1]),
		 or_number(NAME(source_names, source), source, number[2]),
		 or_number(NAME(guarantee_names, guarantee), guarantee, number[3]));
	add_arg(&line, event);
	for (unsigned int i = 0; i < ARRAY_SIZE(extra_flags); i++)
		if (event->flags & extra_flags[i].flag)
			line_add(&line, "%s", extra_flags[i].name);
	return (int)line.length;
}
