/* SPDX-License-Identifier: LGPL-2.1-or-later WITH Linux-syscall-note */
#ifndef MIRROR_UAPI_IOCTL_H
#define MIRROR_UAPI_IOCTL_H

/*
 * Mirror requests
 *
 * A client talks to mirrord over a SEQPACKET socket, /run/mirror/control.  One
 * packet is one request: struct mirror_msg, then the struct of the operation.
 * The reply has the same form; its payload is there when error is 0.  The same
 * structs are the arguments of the ioctls of /dev/mirror, whose numbers are
 * made from the same operation numbers.  Only a socket carries descriptors: a client
 * of the device makes a socketpair and hands one end over (struct mirror_connect), or
 * does without rings and tables and gets its records by read().
 *
 * Every struct starts with @size and @flags.  Unknown flag bits and reserved
 * members must be zero.  A struct never changes its size once released.
 *
 *	ENOTTY		operation not known at all
 *	E2BIG		a reserved member or flag is used in a way not known here
 *	EINVAL		everything was understood, but a member is wrong
 *	EBADMSG		packet too short, too long, or with the wrong descriptors
 *	EOPNOTSUPP	what is asked for cannot be had here
 *	EPERM		the caller may not observe this process
 *	EXDEV		the caller is in a namespace of processes that mirrord cannot see
 *	ESRCH		no such target or process, or it is gone
 *	ENOENT		no such notifier
 *	ENODATA		the process has not handed over a userfaultfd
 *	EBUSY		memory is registered with somebody else's userfaultfd
 *	EDQUOT		a limit of the calling user is reached
 *	ERESTART	mirrord was restarted meanwhile, what it had begun is undone: ask
 *			again, an attach with a new userfaultfd.  What was to be removed
 *			may be gone all the same: then the second answer is ENOENT or ESRCH
 */

#include <linux/ioctl.h>
#include <linux/types.h>
#include <mirror/uapi/event.h>

#define MIRROR_UAPI_VERSION	1
#define MIRROR_IOC_MAGIC	0xE7

enum mirror_op {
	MIRROR_OP_INFO			= 0x00,
	MIRROR_OP_CHANNEL		= 0x01,
	MIRROR_OP_ATTACH		= 0x02,
	MIRROR_OP_DETACH		= 0x03,
	MIRROR_OP_NOTIFIER_INSERT	= 0x04,
	MIRROR_OP_NOTIFIER_REMOVE	= 0x05,
	MIRROR_OP_ARM			= 0x06,
	MIRROR_OP_TARGET_INFO		= 0x07,
	MIRROR_OP_STATS			= 0x08,
	MIRROR_OP_TABLE			= 0x09,
	MIRROR_OP_FILL			= 0x0a,
	MIRROR_OP_CONSUMER_INFO		= 0x0b,
	MIRROR_OP_CONNECT		= 0x0c,
};

#define MIRROR_MSG_MAX		512	/* no packet is longer */
#define MIRROR_MSG_FDS		4	/* no packet carries more descriptors */

/**
 * struct mirror_msg - head of a packet
 * @size: bytes of the whole packet
 * @op: &enum mirror_op
 * @serial: chosen by the client, copied to the reply
 * @error: 0 in a request; 0 or a positive errno in a reply
 */
struct mirror_msg {
	__u32	size;
	__u32	op;
	__u32	serial;
	__s32	error;
};

/* mirror_info.features, mirror_attach.features: what can be delivered */
#define MIRROR_FEAT_EVENT(_type)	(1ULL << (_type))
#define MIRROR_FEAT_WP_ASYNC	(1ULL << 32) /* every kind of mapping can be watched */
#define MIRROR_FEAT_PEEK	(1ULL << 33) /* causes are known */
#define MIRROR_FEAT_REMOVE_END	(1ULL << 34) /* the end of a CLEAR is proven */
#define MIRROR_FEAT_PROBE	(1ULL << 35) /* in-process lookups can be STRICT */
#define MIRROR_FEAT_KERNEL_FAULTS (1ULL << 36) /* system calls on watched memory too */
#define MIRROR_FEAT_EXEC	(1ULL << 37) /* exec is told apart from exit at once */

/* mirror_info.info_flags */
#define MIRROR_INFO_EMBEDDED	0x1 /* a private daemon */
#define MIRROR_INFO_PRIVILEGED	0x2 /* it may observe other users' processes */
#define MIRROR_INFO_KEPT	0x4 /* what it does outlives it: the next one goes on */

/**
 * struct mirror_info - what this mirrord is (out)
 * @size: sizeof(struct mirror_info)
 * @flags: must be 0
 * @uapi_version: MIRROR_UAPI_VERSION
 * @pid: mirrord's pid, as itself sees it
 * @features: MIRROR_FEAT_* that mirrord can deliver on this kernel
 * @max_targets: limit of the calling user
 * @max_notifiers: limit of the calling user
 * @max_channels: limit of the calling user
 * @info_flags: MIRROR_INFO_*
 * @version: release, as text
 */
struct mirror_info {
	__u32	size;
	__u32	flags;
	__u32	uapi_version;
	__u32	pid;
	__u64	features;
	__u32	max_targets;
	__u32	max_notifiers;
	__u32	max_channels;
	__u32	info_flags;
	char	version[24];
	__u64	__reserved[4];
};

/**
 * struct mirror_channel - make the ring of this client
 * @size: sizeof(struct mirror_channel)
 * @flags: must be 0
 * @entries: records the ring holds, 0 for the default; out: what was made
 * @numa_node: 1 + node its memory should be on, 0 for no preference
 *
 * The reply carries four descriptors: producer memfd, consumer memfd, and two
 * stream sockets, wake and kick.  Sockets and not eventfds: whoever shares an
 * eventfd can make it blocking, and thereby its other users wait; a socket is told
 * at each call not to block.  A client has one ring: EEXIST the second time.
 */
struct mirror_channel {
	__u32	size;
	__u32	flags;
	__u32	entries;
	__u32	numa_node;
	__u64	__reserved[4];
};

/* mirror_attach.flags */
#define MIRROR_ATTACH_F_SELF	0x1 /* the client is the target: its channel tells exec */
#define MIRROR_ATTACH_F_PENDING	0x2 /* the process will hand over its userfaultfd later */
#define MIRROR_ATTACH_F_ARM_ALL	0x4 /* watch every mapping, and look for new ones */
#define MIRROR_ATTACH_F_UFFD	0x8 /* in: a userfaultfd comes along; out: one comes back */
#define MIRROR_ATTACH_F_FDS	0x10 /* device only: @pidfd and @uffd are numbers of the caller's */
#define MIRROR_ATTACH_F_KNOWN	0x1f

/* mirror_attach.state, mirror_target_info.state */
#define MIRROR_TARGET_PENDING	0 /* no address space to observe yet, or any more */
#define MIRROR_TARGET_ARMED	1
#define MIRROR_TARGET_DEAD	2

/**
 * struct mirror_attach - observe a process
 * @size: sizeof(struct mirror_attach)
 * @flags: MIRROR_ATTACH_F_*
 * @lifeline_tid: SELF: thread of the library's that never changes memory, or 0
 * @target: out: id of the target
 * @want: MIRROR_FEAT_* without which attaching is pointless
 * @features: out: MIRROR_FEAT_* of this target
 * @demand: demanded guarantee by event type, 0 for none
 * @guarantee: out: given guarantee by event type.  In-process lookups of a target
 *	with MIRROR_FEAT_PROBE are one better where this says ORDERED.
 * @pid: out: the process
 * @state: out: MIRROR_TARGET_*
 * @pidfd: with F_FDS, -1 for the caller itself with F_SELF; else 0
 * @uffd: with F_FDS and F_UFFD; else 0
 *
 * The request carries a pidfd, then with F_UFFD a userfaultfd made in the
 * process, non-blocking, on which UFFDIO_API was not called.  The reply carries
 * the gate, then with F_UFFD a userfaultfd to probe (only to the target itself).
 *
 * An ioctl of the device carries no descriptors.  It names the caller's by number,
 * with F_FDS; F_SELF alone needs none.  Nothing comes back.
 */
struct mirror_attach {
	__u32	size;
	__u32	flags;
	__u32	lifeline_tid;
	__u32	target;
	__u64	want;
	__u64	features;
	__u8	demand[16];
	__u8	guarantee[16];
	__s32	pid;
	__u32	state;
	__s32	pidfd;
	__s32	uffd;
	__u64	__reserved[3];
};

/**
 * struct mirror_detach - stop observing
 * @size: sizeof(struct mirror_detach)
 * @flags: must be 0
 * @target: id of the target; this client's notifiers on it go too
 */
struct mirror_detach {
	__u32	size;
	__u32	flags;
	__u32	target;
	__u32	__reserved0;
	__u64	__reserved[2];
};

/* mirror_notifier_insert.flags */
#define MIRROR_NOTIFIER_F_END		0x1 /* tell END too, not only START */
#define MIRROR_NOTIFIER_F_FOLLOW_FORK	0x2 /* watch children of the target as well */
#define MIRROR_NOTIFIER_F_FOLLOW_EXEC	0x4 /* go on after exec */
#define MIRROR_NOTIFIER_F_FILL		0x8 /* keep the mirror table of the range filled */
#define MIRROR_NOTIFIER_F_KNOWN		0xf

/**
 * struct mirror_notifier_insert - watch a range
 * @size: sizeof(struct mirror_notifier_insert)
 * @flags: MIRROR_NOTIFIER_F_*
 * @target: id of the target
 * @notifier: out: id of the notifier
 * @start: first byte to watch, page aligned
 * @end: first byte not to watch, page aligned
 * @user_data: copied to every record
 *
 * Mappings in the range are registered with the target's userfaultfd, whole.
 */
struct mirror_notifier_insert {
	__u32	size;
	__u32	flags;
	__u32	target;
	__u32	notifier;
	__u64	start;
	__u64	end;
	__u64	user_data;
	__u64	__reserved[2];
};

/**
 * struct mirror_notifier_remove - stop watching
 * @size: sizeof(struct mirror_notifier_remove)
 * @flags: must be 0
 * @notifier: id of the notifier
 * @last_tail: out: tail of the ring; records of this notifier are all before it
 */
struct mirror_notifier_remove {
	__u32	size;
	__u32	flags;
	__u32	notifier;
	__u32	last_tail;
	__u64	__reserved[2];
};

/**
 * struct mirror_arm - register the mappings of a range now
 * @size: sizeof(struct mirror_arm)
 * @flags: must be 0
 * @target: id of the target
 * @armed: out: mappings registered
 * @refused: out: mappings that the kernel does not let anybody watch
 * @__reserved0: must be 0
 * @start: first byte
 * @end: first byte after the range
 */
struct mirror_arm {
	__u32	size;
	__u32	flags;
	__u32	target;
	__u32	armed;
	__u32	refused;
	__u32	__reserved0;
	__u64	start;
	__u64	end;
	__u64	__reserved[2];
};

/* mirror_target_info.flags */
#define MIRROR_TARGET_INFO_F_NEXT	0x1 /* the first target with an id >= @target */

/**
 * struct mirror_target_info - what is known of a target
 * @size: sizeof(struct mirror_target_info)
 * @flags: MIRROR_TARGET_INFO_F_*
 * @target: id; out: id found.  ESRCH when there is none (left) to see
 * @state: out: MIRROR_TARGET_*
 * @pid: out: the process
 * @uid: out: its user
 * @parent: out: id of the target it was forked from, or 0
 * @consumers: out: clients that watch it
 * @notifiers: out: their notifiers
 * @armed: out: mappings registered, ever
 * @events: out: changes read from its sources
 * @published: out: records made of them
 * @features: out: MIRROR_FEAT_*
 * @guarantee: out: by event type
 * @comm: out: name of the process
 * @table_bytes: out: memory of its mirror table, 0 if it has none
 */
struct mirror_target_info {
	__u32	size;
	__u32	flags;
	__u32	target;
	__u32	state;
	__s32	pid;
	__u32	uid;
	__u32	parent;
	__u32	consumers;
	__u32	notifiers;
	__u32	armed;
	__u64	events;
	__u64	published;
	__u64	features;
	__u8	guarantee[16];
	char	comm[16];
	__u64	table_bytes;
	__u64	__reserved[3];
};

/**
 * struct mirror_stats - counters of this mirrord (out)
 * @size: sizeof(struct mirror_stats)
 * @flags: must be 0
 * @targets: targets now
 * @clients: clients now
 * @notifiers: notifiers now
 * @channels: rings now
 * @events: changes read, ever
 * @published: records published, ever
 * @lost: records lost to full rings, ever
 * @removes: CLEARs whose end had to be proven
 * @removes_pending: of these, not yet proven
 * @moves: how often the daemon moved to the processor of a target
 * @wakeups: consumers woken
 * @refused: requests refused
 * @uptime_ns: time since start
 * @rss_bytes: resident memory of mirrord
 */
struct mirror_stats {
	__u32	size;
	__u32	flags;
	__u32	targets;
	__u32	clients;
	__u32	notifiers;
	__u32	channels;
	__u64	events;
	__u64	published;
	__u64	lost;
	__u64	removes;
	__u64	removes_pending;
	__u64	moves;
	__u64	wakeups;
	__u64	refused;
	__u64	uptime_ns;
	__u64	rss_bytes;
	__u64	__reserved[4];
};

/**
 * struct mirror_table_get - get the mirror table of a target
 * @size: sizeof(struct mirror_table_get)
 * @flags: must be 0
 * @target: id of the target; the client must be attached to it
 * @numa_node: 1 + node its memory should be on if it is made now, 0 for no preference
 *
 * The reply carries one descriptor, the table (uapi/table.h), sealed against writing.
 */
struct mirror_table_get {
	__u32	size;
	__u32	flags;
	__u32	target;
	__u32	numa_node;
	__u64	__reserved[2];
};

/**
 * struct mirror_fill - look at a range and enter it into the mirror table
 * @size: sizeof(struct mirror_fill)
 * @flags: must be 0
 * @target: id of the target; the client must be attached to it
 * @refused: out: mappings in the part done that cannot be watched: left empty
 * @start: first byte, page aligned
 * @end: first byte after the range, page aligned
 * @next: out: first byte that was not done; the client asks again from there
 * @pages: out: pages entered as present
 *
 * The range's mappings are registered first, as by struct mirror_arm.  EAGAIN while a
 * change of @start is announced and not over.
 */
struct mirror_fill {
	__u32	size;
	__u32	flags;
	__u32	target;
	__u32	refused;
	__u64	start;
	__u64	end;
	__u64	next;
	__u64	pages;
	__u64	__reserved[2];
};

/**
 * struct mirror_consumer_info - one consumer of a target
 * @size: sizeof(struct mirror_consumer_info)
 * @flags: must be 0
 * @target: id of the target
 * @index: 0 for the first consumer, and so on; ESRCH behind the last
 * @pid: out: its process
 * @uid: out: its user
 * @notifiers: out: its notifiers on this target
 * @__reserved0: must be 0
 * @published: out: records published to it, of all its targets
 * @lost: out: of these, lost to overflow
 * @device_bytes: out: bytes it has in device page tables, of all its targets, as it
 *	says itself
 * @comm: out: name of the process
 */
struct mirror_consumer_info {
	__u32	size;
	__u32	flags;
	__u32	target;
	__u32	index;
	__s32	pid;
	__u32	uid;
	__u32	notifiers;
	__u32	__reserved0;
	__u64	published;
	__u64	lost;
	__u64	device_bytes;
	char	comm[16];
	__u64	__reserved[4];
};

/**
 * struct mirror_connect - serve a socket of the caller's (device only)
 * @size: sizeof(struct mirror_connect)
 * @flags: must be 0
 * @socket: number, in the caller, of one end of a SEQPACKET socketpair
 * @__reserved0: must be 0
 *
 * From then on it is a control connection as one to /run/mirror/control is, with
 * descriptors and all; it outlives the open file.
 */
struct mirror_connect {
	__u32	size;
	__u32	flags;
	__s32	socket;
	__u32	__reserved0;
	__u64	__reserved[2];
};

#define MIRROR_IOC_INFO		_IOWR(MIRROR_IOC_MAGIC, 0x00, struct mirror_info)
#define MIRROR_IOC_CHANNEL	_IOWR(MIRROR_IOC_MAGIC, 0x01, struct mirror_channel)
#define MIRROR_IOC_ATTACH	_IOWR(MIRROR_IOC_MAGIC, 0x02, struct mirror_attach)
#define MIRROR_IOC_DETACH	_IOWR(MIRROR_IOC_MAGIC, 0x03, struct mirror_detach)
#define MIRROR_IOC_NOTIFIER_INSERT \
	_IOWR(MIRROR_IOC_MAGIC, 0x04, struct mirror_notifier_insert)
#define MIRROR_IOC_NOTIFIER_REMOVE \
	_IOWR(MIRROR_IOC_MAGIC, 0x05, struct mirror_notifier_remove)
#define MIRROR_IOC_ARM		_IOWR(MIRROR_IOC_MAGIC, 0x06, struct mirror_arm)
#define MIRROR_IOC_TARGET_INFO	_IOWR(MIRROR_IOC_MAGIC, 0x07, struct mirror_target_info)
#define MIRROR_IOC_STATS	_IOWR(MIRROR_IOC_MAGIC, 0x08, struct mirror_stats)
#define MIRROR_IOC_TABLE	_IOWR(MIRROR_IOC_MAGIC, 0x09, struct mirror_table_get)
#define MIRROR_IOC_FILL		_IOWR(MIRROR_IOC_MAGIC, 0x0a, struct mirror_fill)
#define MIRROR_IOC_CONSUMER_INFO \
	_IOWR(MIRROR_IOC_MAGIC, 0x0b, struct mirror_consumer_info)
#define MIRROR_IOC_CONNECT	_IOWR(MIRROR_IOC_MAGIC, 0x0c, struct mirror_connect)

#endif /* MIRROR_UAPI_IOCTL_H */
