/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Intrusive doubly linked list.  An unlinked link points to itself, so that
 * unlinking twice is harmless and "is it linked" needs no second word.
 */

#include <stdbool.h>
#include "base.h"

struct list {
	struct list *next, *prev;
};

#define LIST_INIT(_l) { .next = &(_l), .prev = &(_l) }

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}

static inline bool list_is_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_append(struct list *head, struct list *l)
{
	l->prev = head->prev;
	l->next = head;
	head->prev->next = l;
	head->prev = l;
}

static inline void list_unlink(struct list *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
	list_init(l);
}

#define list_entry(_l, _type, _member) container_of(_l, _type, _member)

#define list_for_each(_l, _head) \
	for (struct list *_l = (_head)->next; _l != (_head); _l = _l->next)

/* The body may unlink and free the entry it is at. */
#define list_for_each_safe(_l, _head)						\
	for (struct list *_l = (_head)->next, *_l##_next = _l->next;		\
	     _l != (_head); _l = _l##_next, _l##_next = _l->next)
