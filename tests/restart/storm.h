/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Storm: processes that change their memory all the time, and others that watch
 *
 * Each target process has a few places where it maps, unmaps, replaces, moves and empties
 * memory.  What is at a place is told by one number at its first byte, and a log in shared
 * memory says which number is there after which change, and which of these changes have
 * returned.  One consumer follows each target: threads of its own (strict lookups), or
 * another process (ordered ones), in turn.
 *
 * A consumer keeps a device-like table: the number it found at a place, and the version.
 * It counts
 *
 *	stale		lookups that were found good and gave a number from before a change
 *			that had returned when the lookup began (strict: that was seen)
 *	unexpected	records that are not those of the next change in the log; after
 *			OVERFLOW any later one may be the next
 *	untold		lookups that were found good while records of changes from before
 *			had not come; at the end, changes that were never told
 *	gaps		in the numbers of the records
 *	errors		calls that failed in a way they must not
 *
 * Where mirrord may lose them, they are told so, find that nothing they have is good any
 * more, and begin anew.
 */

#include <stdbool.h>
#include <stdint.h>

struct storm_options {
	const char *path;	/* socket or device; NULL for what the library takes */
	unsigned int targets;	/* STORM_TARGETS at most */
	bool may_lose;		/* mirrord may end and forget: they begin anew */
};

#define STORM_TARGETS 8

struct storm_counts {
	uint64_t changes, lookups, hits, again, records, overflows;
	uint64_t lost;			/* how often one had to begin anew */
	uint64_t stale, unexpected, untold, gaps, errors, hung;
};

struct storm;

/* Bails out when it cannot; nobody has changed anything yet when some return. */
struct storm *storm_start(const struct storm_options *options);
/* Until each target has made @changes more and each consumer was good for one lookup. */
bool storm_wait(struct storm *s, uint64_t changes, unsigned int ms);
struct storm_counts storm_counts(const struct storm *s);
/* Ends everything and looks for what was never told.  Frees @s. */
struct storm_counts storm_stop(struct storm *s);
/* Nothing went wrong. */
bool storm_is_good(const struct storm_counts *n);
void storm_print(const struct storm_counts *n);
