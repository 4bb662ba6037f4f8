/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Mirror table of a target, the daemon's side: what events do to it; see table.c
 */

#include "core/event.h"
#include "radix.h"

/* CLEARs that have started and not ended; of more it is known only that there are. */
#define TABLE_OPEN 128

struct table {
	struct radix radix;
	struct {
		uint64_t start, end;
	} open[TABLE_OPEN];
	unsigned int n_open;
	unsigned int n_more;
};

/* @memory: radix_bytes(@n_nodes) of zeros, the caller's.  0 or -ENOMEM. */
int table_init(struct table *table, void *memory, uint32_t n_nodes, uint32_t target);
/* Readers are told first that it is not kept any more. */
void table_deinit(struct table *table);

/* What an event says is not known any more.  FORK: see table_fork(). */
void table_event(struct table *table, const struct event *ev);
/* The change that @ev started is over. */
void table_end(struct table *table, const struct event *ev);
void table_fork(struct table *table);
/* The address space is gone. */
void table_reset(struct table *table);

/* The first byte of [@start, @end) whose CLEAR has not ended; @end if there is none. */
uint64_t table_first_open(const struct table *table, uint64_t start, uint64_t end);

/*
 * What a look at the kernel's page table found.  -ENOSPC: the table is full; then
 * nothing is known of the range.
 */
int table_enter(struct table *table, uint64_t start, uint64_t end, uint64_t entry);
/* It found nothing, or what cannot be watched. */
void table_forget(struct table *table, uint64_t start, uint64_t end, bool trim);
