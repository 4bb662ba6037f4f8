/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef MIRROR_EVENT_H
#define MIRROR_EVENT_H

/*
 * Events: names and helpers for the records of uapi/event.h
 *
 * All functions here are pure and may be called from anywhere, signal handlers
 * included.  Names are lower case: "unmap", "protection_vma", "map_fixed".
 */

#include <mirror/common.h>
#include <mirror/uapi/event.h>

MIRROR_BEGIN_DECLS

/**
 * mirror_event_type_to_string() - name of an event type
 * @type: one of &enum mirror_event_type
 *
 * Return: a static string, or NULL for an unknown type.  Since 0.1.
 */
const char *mirror_event_type_to_string(unsigned int type);

/**
 * mirror_event_type_from_string() - the inverse
 * @name: name as given by mirror_event_type_to_string()
 *
 * Return: the type, or -EINVAL.  Since 0.1.
 */
int mirror_event_type_from_string(const char *name);

/**
 * mirror_cause_to_string() - name of a cause
 * @cause: one of &enum mirror_cause
 *
 * Return: a static string, or NULL for an unknown cause.  Since 0.1.
 */
const char *mirror_cause_to_string(unsigned int cause);

/**
 * mirror_source_to_string() - name of a source
 * @source: one of &enum mirror_source
 *
 * Return: a static string, or NULL for an unknown source.  Since 0.1.
 */
const char *mirror_source_to_string(unsigned int source);

/**
 * mirror_guarantee_to_string() - name of a guarantee
 * @guarantee: one of &enum mirror_guarantee
 *
 * Return: a static string, or NULL for an unknown one.  Since 0.1.
 */
const char *mirror_guarantee_to_string(unsigned int guarantee);

/**
 * mirror_event_phase_to_string() - "start", "end" or "point"
 * @flags: &mirror_event.flags
 *
 * Return: a static string, or NULL if no phase is set.  Since 0.1.
 */
const char *mirror_event_phase_to_string(unsigned int flags);

/**
 * mirror_event_format() - one line for people
 * @event: event
 * @buf: buffer, may be NULL if @n is 0
 * @n: size of @buf
 *
 * Return: length of the whole line without the final NUL, like snprintf(3).
 * Since 0.1.
 */
int mirror_event_format(const struct mirror_event *event, char *buf, size_t n);

MIRROR_END_DECLS

#endif /* MIRROR_EVENT_H */
