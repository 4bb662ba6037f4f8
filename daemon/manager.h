/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Manager: everything there is, and the one place where a change is put in order
 */

#include "core/event.h"
#include "core/quota.h"
#include "io/control.h"
#include "io/ring.h"
#include "source/uffd-source.h"
#include "source/zap.h"
#include "sys/placement.h"
#include "sys/state.h"

struct attachment;
struct device;
struct notifier;
struct store;
struct target;

struct manager_options {
	enum uffd_mode uffd_mode;
	bool peek;		/* look at the targets' threads */
	bool follow_cpu;
	bool embedded;
	bool exit_idle;		/* end when the last client is gone */
	const char *cuse;	/* name below /dev of the character device, or NULL */
	const char *fuse;	/* file over which it is mounted where there is no CUSE, or NULL */
};

struct manager {
	struct manager_options options;
	struct loop *loop;
	struct zaps *zaps;
	struct quota quota;
	struct placement placement;
	struct uffd_support support;
	struct control *control;
	struct device *device;		/* NULL: none */
	struct store *store;		/* NULL: nobody keeps descriptors for us */
	struct state *state;
	struct state_request set_aside;	/* its answer is held, and another one came between */
	struct list targets;
	struct list clients;
	struct list dirty;		/* rings with records not yet flushed */
	struct ring_counters rings;
	struct zap_counters zap_counters;
	uint64_t events, refused;
	uint64_t start_ns;
	uint64_t features;
	uint32_t live;			/* what a life word holds */
	uint32_t n_targets, n_clients, n_notifiers, n_channels;
	bool had_client;
	bool privileged;
};

int manager_init(struct manager *m, const struct manager_options *options);
void manager_deinit(struct manager *m);

/* @fd is taken over on success. */
int manager_listen(struct manager *m, int fd);

/*
 * Publishing.  manager_put() adds the record of @ev for one notifier; records
 * become visible by manager_flush(), consumers are woken by manager_wake().
 */
void manager_put(struct manager *m, struct notifier *n, const struct event *ev, uint16_t flags);
void manager_flush(struct manager *m);
void manager_wake(struct manager *m, struct target *t, const struct event *ev);

/*
 * A CLEAR that nobody watched may have been let go and be under way: the pages that the
 * owner of a new notifier looks at are about to go.  Its range is closed until no thread can
 * be in such a call.  0 or -EAGAIN.
 */
int manager_close_unseen(struct notifier *n);

/* How a change of @t reaches the world; see manager.c. */
extern const struct source_sink_ops manager_sink_ops;
