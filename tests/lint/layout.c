/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The wire ABI, as released
 *
 * Size of every struct, offset of every member, value of every constant of
 * <mirror/uapi/...>.  Compiled by layout.py in 64 and in 32 bit, by gcc and clang,
 * as C and as C++, with -Wpadded.  layout.py finds what is missing here; what it
 * prints with --print may be added, what is here already does not change.
 */

#include <stddef.h>
#include <mirror/uapi/event.h>
#include <mirror/uapi/gate.h>
#include <mirror/uapi/ioctl.h>
#include <mirror/uapi/ring.h>
#include <mirror/uapi/table.h>

#ifdef __cplusplus
#  define _Static_assert static_assert
#endif

#define SIZE(_struct, _n) _Static_assert(sizeof(struct _struct) == (_n), #_struct)
#define OFFSET(_struct, _member, _n) \
	_Static_assert(offsetof(struct _struct, _member) == (_n), #_struct "." #_member)
#define VALUE(_name, _n) _Static_assert((_name) == (_n), #_name)

SIZE(mirror_event, 64);
OFFSET(mirror_event, seq, 0);
OFFSET(mirror_event, user_data, 8);
OFFSET(mirror_event, type, 16);
OFFSET(mirror_event, cause, 17);
OFFSET(mirror_event, flags, 18);
OFFSET(mirror_event, target, 20);
OFFSET(mirror_event, start, 24);
OFFSET(mirror_event, end, 32);
OFFSET(mirror_event, arg, 40);
OFFSET(mirror_event, arg.remap, 40);
OFFSET(mirror_event, arg.remap.to, 40);
OFFSET(mirror_event, arg.remap.flags, 48);
OFFSET(mirror_event, arg.protection, 40);
OFFSET(mirror_event, arg.protection.prot_new, 40);
OFFSET(mirror_event, arg.protection.prot_old, 44);
OFFSET(mirror_event, arg.protection.__reserved, 48);
OFFSET(mirror_event, arg.owner, 40);
OFFSET(mirror_event, arg.owner.cookie, 40);
OFFSET(mirror_event, arg.owner.__reserved, 48);
OFFSET(mirror_event, arg.fork, 40);
OFFSET(mirror_event, arg.fork.target, 40);
OFFSET(mirror_event, arg.fork.pid, 44);
OFFSET(mirror_event, arg.fork.__reserved, 48);
OFFSET(mirror_event, arg.fault, 40);
OFFSET(mirror_event, arg.fault.address, 40);
OFFSET(mirror_event, arg.fault.prot, 48);
OFFSET(mirror_event, arg.fault.id, 52);
OFFSET(mirror_event, arg.overflow, 40);
OFFSET(mirror_event, arg.overflow.lost, 40);
OFFSET(mirror_event, arg.overflow.__reserved, 48);
OFFSET(mirror_event, arg.raw, 40);
OFFSET(mirror_event, time_ns, 56);

SIZE(mirror_gate, 128);
OFFSET(mirror_gate, life, 0);
OFFSET(mirror_gate, seq, 4);
OFFSET(mirror_gate, state, 8);
OFFSET(mirror_gate, __reserved0, 12);
OFFSET(mirror_gate, changes, 16);
OFFSET(mirror_gate, __reserved1, 24);
OFFSET(mirror_gate, magic, 64);
OFFSET(mirror_gate, version, 68);
OFFSET(mirror_gate, live, 72);
OFFSET(mirror_gate, target, 76);
OFFSET(mirror_gate, stripes_off, 80);
OFFSET(mirror_gate, n_stripes, 84);
OFFSET(mirror_gate, stripe_shift, 88);
OFFSET(mirror_gate, size, 92);
OFFSET(mirror_gate, __reserved2, 96);

SIZE(mirror_gate_stripe, 16);
OFFSET(mirror_gate_stripe, started, 0);
OFFSET(mirror_gate_stripe, ended, 8);

SIZE(mirror_msg, 16);
OFFSET(mirror_msg, size, 0);
OFFSET(mirror_msg, op, 4);
OFFSET(mirror_msg, serial, 8);
OFFSET(mirror_msg, error, 12);

SIZE(mirror_info, 96);
OFFSET(mirror_info, size, 0);
OFFSET(mirror_info, flags, 4);
OFFSET(mirror_info, uapi_version, 8);
OFFSET(mirror_info, pid, 12);
OFFSET(mirror_info, features, 16);
OFFSET(mirror_info, max_targets, 24);
OFFSET(mirror_info, max_notifiers, 28);
OFFSET(mirror_info, max_channels, 32);
OFFSET(mirror_info, info_flags, 36);
OFFSET(mirror_info, version, 40);
OFFSET(mirror_info, __reserved, 64);

SIZE(mirror_channel, 48);
OFFSET(mirror_channel, size, 0);
OFFSET(mirror_channel, flags, 4);
OFFSET(mirror_channel, entries, 8);
OFFSET(mirror_channel, numa_node, 12);
OFFSET(mirror_channel, __reserved, 16);

SIZE(mirror_attach, 104);
OFFSET(mirror_attach, size, 0);
OFFSET(mirror_attach, flags, 4);
OFFSET(mirror_attach, lifeline_tid, 8);
OFFSET(mirror_attach, target, 12);
OFFSET(mirror_attach, want, 16);
OFFSET(mirror_attach, features, 24);
OFFSET(mirror_attach, demand, 32);
OFFSET(mirror_attach, guarantee, 48);
OFFSET(mirror_attach, pid, 64);
OFFSET(mirror_attach, state, 68);
OFFSET(mirror_attach, pidfd, 72);
OFFSET(mirror_attach, uffd, 76);
OFFSET(mirror_attach, __reserved, 80);

SIZE(mirror_detach, 32);
OFFSET(mirror_detach, size, 0);
OFFSET(mirror_detach, flags, 4);
OFFSET(mirror_detach, target, 8);
OFFSET(mirror_detach, __reserved0, 12);
OFFSET(mirror_detach, __reserved, 16);

SIZE(mirror_notifier_insert, 56);
OFFSET(mirror_notifier_insert, size, 0);
OFFSET(mirror_notifier_insert, flags, 4);
OFFSET(mirror_notifier_insert, target, 8);
OFFSET(mirror_notifier_insert, notifier, 12);
OFFSET(mirror_notifier_insert, start, 16);
OFFSET(mirror_notifier_insert, end, 24);
OFFSET(mirror_notifier_insert, user_data, 32);
OFFSET(mirror_notifier_insert, __reserved, 40);

SIZE(mirror_notifier_remove, 32);
OFFSET(mirror_notifier_remove, size, 0);
OFFSET(mirror_notifier_remove, flags, 4);
OFFSET(mirror_notifier_remove, notifier, 8);
OFFSET(mirror_notifier_remove, last_tail, 12);
OFFSET(mirror_notifier_remove, __reserved, 16);

SIZE(mirror_arm, 56);
OFFSET(mirror_arm, size, 0);
OFFSET(mirror_arm, flags, 4);
OFFSET(mirror_arm, target, 8);
OFFSET(mirror_arm, armed, 12);
OFFSET(mirror_arm, refused, 16);
OFFSET(mirror_arm, __reserved0, 20);
OFFSET(mirror_arm, start, 24);
OFFSET(mirror_arm, end, 32);
OFFSET(mirror_arm, __reserved, 40);

SIZE(mirror_target_info, 128);
OFFSET(mirror_target_info, size, 0);
OFFSET(mirror_target_info, flags, 4);
OFFSET(mirror_target_info, target, 8);
OFFSET(mirror_target_info, state, 12);
OFFSET(mirror_target_info, pid, 16);
OFFSET(mirror_target_info, uid, 20);
OFFSET(mirror_target_info, parent, 24);
OFFSET(mirror_target_info, consumers, 28);
OFFSET(mirror_target_info, notifiers, 32);
OFFSET(mirror_target_info, armed, 36);
OFFSET(mirror_target_info, events, 40);
OFFSET(mirror_target_info, published, 48);
OFFSET(mirror_target_info, features, 56);
OFFSET(mirror_target_info, guarantee, 64);
OFFSET(mirror_target_info, comm, 80);
OFFSET(mirror_target_info, table_bytes, 96);
OFFSET(mirror_target_info, __reserved, 104);

SIZE(mirror_stats, 136);
OFFSET(mirror_stats, size, 0);
OFFSET(mirror_stats, flags, 4);
OFFSET(mirror_stats, targets, 8);
OFFSET(mirror_stats, clients, 12);
OFFSET(mirror_stats, notifiers, 16);
OFFSET(mirror_stats, channels, 20);
OFFSET(mirror_stats, events, 24);
OFFSET(mirror_stats, published, 32);
OFFSET(mirror_stats, lost, 40);
OFFSET(mirror_stats, removes, 48);
OFFSET(mirror_stats, removes_pending, 56);
OFFSET(mirror_stats, moves, 64);
OFFSET(mirror_stats, wakeups, 72);
OFFSET(mirror_stats, refused, 80);
OFFSET(mirror_stats, uptime_ns, 88);
OFFSET(mirror_stats, rss_bytes, 96);
OFFSET(mirror_stats, __reserved, 104);

SIZE(mirror_table_get, 32);
OFFSET(mirror_table_get, size, 0);
OFFSET(mirror_table_get, flags, 4);
OFFSET(mirror_table_get, target, 8);
OFFSET(mirror_table_get, numa_node, 12);
OFFSET(mirror_table_get, __reserved, 16);

SIZE(mirror_fill, 64);
OFFSET(mirror_fill, size, 0);
OFFSET(mirror_fill, flags, 4);
OFFSET(mirror_fill, target, 8);
OFFSET(mirror_fill, refused, 12);
OFFSET(mirror_fill, start, 16);
OFFSET(mirror_fill, end, 24);
OFFSET(mirror_fill, next, 32);
OFFSET(mirror_fill, pages, 40);
OFFSET(mirror_fill, __reserved, 48);

SIZE(mirror_consumer_info, 104);
OFFSET(mirror_consumer_info, size, 0);
OFFSET(mirror_consumer_info, flags, 4);
OFFSET(mirror_consumer_info, target, 8);
OFFSET(mirror_consumer_info, index, 12);
OFFSET(mirror_consumer_info, pid, 16);
OFFSET(mirror_consumer_info, uid, 20);
OFFSET(mirror_consumer_info, notifiers, 24);
OFFSET(mirror_consumer_info, __reserved0, 28);
OFFSET(mirror_consumer_info, published, 32);
OFFSET(mirror_consumer_info, lost, 40);
OFFSET(mirror_consumer_info, device_bytes, 48);
OFFSET(mirror_consumer_info, comm, 56);
OFFSET(mirror_consumer_info, __reserved, 72);

SIZE(mirror_connect, 32);
OFFSET(mirror_connect, size, 0);
OFFSET(mirror_connect, flags, 4);
OFFSET(mirror_connect, socket, 8);
OFFSET(mirror_connect, __reserved0, 12);
OFFSET(mirror_connect, __reserved, 16);

SIZE(mirror_ring_hdr, 128);
OFFSET(mirror_ring_hdr, magic, 0);
OFFSET(mirror_ring_hdr, version, 4);
OFFSET(mirror_ring_hdr, compat_version, 8);
OFFSET(mirror_ring_hdr, hdr_size, 12);
OFFSET(mirror_ring_hdr, entry_size, 16);
OFFSET(mirror_ring_hdr, entries, 20);
OFFSET(mirror_ring_hdr, slots_off, 24);
OFFSET(mirror_ring_hdr, size, 32);
OFFSET(mirror_ring_hdr, __reserved0, 40);
OFFSET(mirror_ring_hdr, tail, 64);
OFFSET(mirror_ring_hdr, flags, 68);
OFFSET(mirror_ring_hdr, lost, 72);
OFFSET(mirror_ring_hdr, __reserved1, 80);

SIZE(mirror_ring_cons, 64);
OFFSET(mirror_ring_cons, head, 0);
OFFSET(mirror_ring_cons, wait_gen, 4);
OFFSET(mirror_ring_cons, acked_seq, 8);
OFFSET(mirror_ring_cons, gate_waiters, 16);
OFFSET(mirror_ring_cons, __reserved0, 20);
OFFSET(mirror_ring_cons, device_bytes, 24);
OFFSET(mirror_ring_cons, __reserved1, 32);

SIZE(mirror_table, 128);
OFFSET(mirror_table, magic, 0);
OFFSET(mirror_table, version, 4);
OFFSET(mirror_table, state, 8);
OFFSET(mirror_table, levels, 12);
OFFSET(mirror_table, target, 16);
OFFSET(mirror_table, n_nodes, 20);
OFFSET(mirror_table, tags_off, 24);
OFFSET(mirror_table, nodes_off, 32);
OFFSET(mirror_table, size, 40);
OFFSET(mirror_table, live, 48);
OFFSET(mirror_table, __reserved, 56);

SIZE(mirror_table_tag, 16);
OFFSET(mirror_table_tag, gen, 0);
OFFSET(mirror_table_tag, where, 8);

VALUE(MIRROR_EVENT_NONE, 0x0);
VALUE(MIRROR_EVENT_UNMAP, 0x1);
VALUE(MIRROR_EVENT_CLEAR, 0x2);
VALUE(MIRROR_EVENT_PROTECTION_VMA, 0x3);
VALUE(MIRROR_EVENT_PROTECTION_PAGE, 0x4);
VALUE(MIRROR_EVENT_SOFT_DIRTY, 0x5);
VALUE(MIRROR_EVENT_RELEASE, 0x6);
VALUE(MIRROR_EVENT_MIGRATE, 0x7);
VALUE(MIRROR_EVENT_EXCLUSIVE, 0x8);
VALUE(MIRROR_EVENT_REMAP, 0x9);
VALUE(MIRROR_EVENT_FORK, 0xa);
VALUE(MIRROR_EVENT_FAULT, 0xb);
VALUE(MIRROR_EVENT_OVERFLOW, 0xc);
VALUE(MIRROR_CAUSE_UNKNOWN, 0x0);
VALUE(MIRROR_CAUSE_MUNMAP, 0x1);
VALUE(MIRROR_CAUSE_MAP_FIXED, 0x2);
VALUE(MIRROR_CAUSE_BRK, 0x3);
VALUE(MIRROR_CAUSE_SHMDT, 0x4);
VALUE(MIRROR_CAUSE_MREMAP, 0x5);
VALUE(MIRROR_CAUSE_EXEC, 0x6);
VALUE(MIRROR_CAUSE_EXIT, 0x7);
VALUE(MIRROR_CAUSE_DETACH, 0x8);
VALUE(MIRROR_CAUSE_DONTNEED, 0x9);
VALUE(MIRROR_CAUSE_FREE, 0xa);
VALUE(MIRROR_CAUSE_REMOVE, 0xb);
VALUE(MIRROR_CAUSE_TRUNCATE, 0xc);
VALUE(MIRROR_CAUSE_PUNCH_HOLE, 0xd);
VALUE(MIRROR_CAUSE_PAGEOUT, 0xe);
VALUE(MIRROR_CAUSE_MPROTECT, 0xf);
VALUE(MIRROR_CAUSE_PKEY, 0x10);
VALUE(MIRROR_CAUSE_FORK, 0x11);
VALUE(MIRROR_CAUSE_COW, 0x12);
VALUE(MIRROR_CAUSE_KSM, 0x13);
VALUE(MIRROR_CAUSE_UFFD_WP, 0x14);
VALUE(MIRROR_CAUSE_WRITEBACK, 0x15);
VALUE(MIRROR_CAUSE_SOFT_DIRTY, 0x16);
VALUE(MIRROR_CAUSE_NUMA, 0x17);
VALUE(MIRROR_CAUSE_COMPACTION, 0x18);
VALUE(MIRROR_CAUSE_HUGEPAGE_SPLIT, 0x19);
VALUE(MIRROR_CAUSE_HUGEPAGE_COLLAPSE, 0x1a);
VALUE(MIRROR_CAUSE_MUNLOCK, 0x1b);
VALUE(MIRROR_CAUSE_DEVICE, 0x1c);
VALUE(MIRROR_SOURCE_NONE, 0x0);
VALUE(MIRROR_SOURCE_UFFD, 0x1);
VALUE(MIRROR_SOURCE_KERNEL, 0x2);
VALUE(MIRROR_SOURCE_SYSCALL, 0x3);
VALUE(MIRROR_SOURCE_EXIT, 0x4);
VALUE(MIRROR_GUARANTEE_NONE, 0x0);
VALUE(MIRROR_GUARANTEE_POINT, 0x1);
VALUE(MIRROR_GUARANTEE_ORDERED, 0x2);
VALUE(MIRROR_GUARANTEE_STRICT, 0x3);
VALUE(MIRROR_GUARANTEE_HOLD, 0x4);
VALUE(MIRROR_EVENT_TYPES, 0xd);
VALUE(MIRROR_CAUSES, 0x1d);
VALUE(MIRROR_EVENT_F_START, 0x1);
VALUE(MIRROR_EVENT_F_END, 0x2);
VALUE(MIRROR_EVENT_F_POINT, 0x4);
VALUE(MIRROR_EVENT_F_BLOCKABLE, 0x8);
VALUE(MIRROR_EVENT_F_CHANGE_PTE, 0x10);
VALUE(MIRROR_EVENT_F_NEED_ACK, 0x20);
VALUE(MIRROR_EVENT_F_MERGED, 0x40);
VALUE(MIRROR_EVENT_F_LAST, 0x80);
VALUE(MIRROR_EVENT_F_PHASE, 0x7);
VALUE(MIRROR_REMAP_ALONE, 0x1);
VALUE(MIRROR_EVENT_SOURCE_SHIFT, 0x8);
VALUE(MIRROR_EVENT_SOURCE_MASK, 0xf00);
VALUE(MIRROR_EVENT_GUARANTEE_SHIFT, 0xc);
VALUE(MIRROR_EVENT_GUARANTEE_MASK, 0x7000);
VALUE(MIRROR_GATE_MAGIC, 0x4554474d);
VALUE(MIRROR_GATE_VERSION, 0x1);
VALUE(MIRROR_GATE_LIVE, 0x0);
VALUE(MIRROR_GATE_RELEASED, 0x1);
VALUE(MIRROR_GATE_CLOSED, 0x2);
VALUE(MIRROR_OP_INFO, 0x0);
VALUE(MIRROR_OP_CHANNEL, 0x1);
VALUE(MIRROR_OP_ATTACH, 0x2);
VALUE(MIRROR_OP_DETACH, 0x3);
VALUE(MIRROR_OP_NOTIFIER_INSERT, 0x4);
VALUE(MIRROR_OP_NOTIFIER_REMOVE, 0x5);
VALUE(MIRROR_OP_ARM, 0x6);
VALUE(MIRROR_OP_TARGET_INFO, 0x7);
VALUE(MIRROR_OP_STATS, 0x8);
VALUE(MIRROR_OP_TABLE, 0x9);
VALUE(MIRROR_OP_FILL, 0xa);
VALUE(MIRROR_OP_CONSUMER_INFO, 0xb);
VALUE(MIRROR_OP_CONNECT, 0xc);
VALUE(MIRROR_UAPI_VERSION, 0x1);
VALUE(MIRROR_IOC_MAGIC, 0xe7);
VALUE(MIRROR_MSG_MAX, 0x200);
VALUE(MIRROR_MSG_FDS, 0x4);
VALUE(MIRROR_FEAT_WP_ASYNC, 0x100000000);
VALUE(MIRROR_FEAT_PEEK, 0x200000000);
VALUE(MIRROR_FEAT_REMOVE_END, 0x400000000);
VALUE(MIRROR_FEAT_PROBE, 0x800000000);
VALUE(MIRROR_FEAT_KERNEL_FAULTS, 0x1000000000);
VALUE(MIRROR_FEAT_EXEC, 0x2000000000);
VALUE(MIRROR_INFO_EMBEDDED, 0x1);
VALUE(MIRROR_INFO_PRIVILEGED, 0x2);
VALUE(MIRROR_INFO_KEPT, 0x4);
VALUE(MIRROR_ATTACH_F_SELF, 0x1);
VALUE(MIRROR_ATTACH_F_PENDING, 0x2);
VALUE(MIRROR_ATTACH_F_ARM_ALL, 0x4);
VALUE(MIRROR_ATTACH_F_UFFD, 0x8);
VALUE(MIRROR_ATTACH_F_FDS, 0x10);
VALUE(MIRROR_ATTACH_F_KNOWN, 0x1f);
VALUE(MIRROR_TARGET_PENDING, 0x0);
VALUE(MIRROR_TARGET_ARMED, 0x1);
VALUE(MIRROR_TARGET_DEAD, 0x2);
VALUE(MIRROR_NOTIFIER_F_END, 0x1);
VALUE(MIRROR_NOTIFIER_F_FOLLOW_FORK, 0x2);
VALUE(MIRROR_NOTIFIER_F_FOLLOW_EXEC, 0x4);
VALUE(MIRROR_NOTIFIER_F_FILL, 0x8);
VALUE(MIRROR_NOTIFIER_F_KNOWN, 0xf);
VALUE(MIRROR_TARGET_INFO_F_NEXT, 0x1);
VALUE(MIRROR_IOC_INFO, 0xc060e700);
VALUE(MIRROR_IOC_CHANNEL, 0xc030e701);
VALUE(MIRROR_IOC_ATTACH, 0xc068e702);
VALUE(MIRROR_IOC_DETACH, 0xc020e703);
VALUE(MIRROR_IOC_NOTIFIER_INSERT, 0xc038e704);
VALUE(MIRROR_IOC_NOTIFIER_REMOVE, 0xc020e705);
VALUE(MIRROR_IOC_ARM, 0xc038e706);
VALUE(MIRROR_IOC_TARGET_INFO, 0xc080e707);
VALUE(MIRROR_IOC_STATS, 0xc088e708);
VALUE(MIRROR_IOC_TABLE, 0xc020e709);
VALUE(MIRROR_IOC_FILL, 0xc040e70a);
VALUE(MIRROR_IOC_CONSUMER_INFO, 0xc068e70b);
VALUE(MIRROR_IOC_CONNECT, 0xc020e70c);
VALUE(MIRROR_RING_MAGIC, 0x474e524d);
VALUE(MIRROR_RING_VERSION, 0x1);
VALUE(MIRROR_RING_COMPAT, 0x1);
VALUE(MIRROR_RING_F_OVERFLOW, 0x1);
VALUE(MIRROR_RING_F_REVOKED, 0x2);
VALUE(MIRROR_TABLE_MAGIC, 0x4254474d);
VALUE(MIRROR_TABLE_VERSION, 0x1);
VALUE(MIRROR_TABLE_NODE_SHIFT, 0x9);
VALUE(MIRROR_TABLE_ENTRIES, 0x200);
VALUE(MIRROR_TABLE_LEAF_LEVELS, 0x3);
VALUE(MIRROR_TABLE_LIVE, 0x0);
VALUE(MIRROR_TABLE_MOVED, 0x1);
VALUE(MIRROR_ENTRY_VALID, 0x1);
VALUE(MIRROR_ENTRY_LINK, 0x2);
VALUE(MIRROR_ENTRY_FLAGS, 0xfff);
VALUE(MIRROR_ENTRY_SHIFT, 0xc);
VALUE(MIRROR_PTE_PRESENT, 0x4);
VALUE(MIRROR_PTE_READ, 0x8);
VALUE(MIRROR_PTE_WRITE, 0x10);
VALUE(MIRROR_PTE_EXEC, 0x20);
VALUE(MIRROR_PTE_WRITTEN, 0x40);
VALUE(MIRROR_PTE_HUGE, 0x80);
VALUE(MIRROR_PTE_FILE, 0x100);
VALUE(MIRROR_PTE_SHARED, 0x200);
VALUE(MIRROR_PTE_SWAPPED, 0x400);
VALUE(MIRROR_PTE_ZERO, 0x800);
VALUE(MIRROR_PTE_NODE_SHIFT, 0xc);
VALUE(MIRROR_PTE_NODE_MASK, 0x3ff000);
VALUE(MIRROR_DEVICE_READ, 0x4);
VALUE(MIRROR_DEVICE_WRITE, 0x8);
VALUE(MIRROR_DEVICE_EXEC, 0x10);
VALUE(MIRROR_DEVICE_RIGHTS, 0x1c);
VALUE(MIRROR_DEVICE_ACCESSED, 0x20);
VALUE(MIRROR_DEVICE_DIRTY, 0x40);
VALUE(MIRROR_DEVICE_USER, 0xf00);
