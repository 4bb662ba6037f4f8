/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <mirror/table.h>
#include "look.h"
#include "output.h"
#include "progress.h"
#include "say.h"
#include "stream.h"

#define PAGE		4096ULL
#define STEP		(256ULL << 20)	/* of one request, so that progress shows */
#define TRIES		20		/* while a range keeps changing */

/* In hexadecimal as in maps, or decimal with one of K, M and G behind it. */
static int parse_address(const char *text, int base, const char **ret_rest, uint64_t *ret_number)
{
	static const char units[] = "KMGT";
	const char *rest, *unit;
	uint64_t number;
	int shift;

	/* a decimal number ends at its unit, a hexadecimal one never has any */
	if (parse_number(text, 10, UINT64_MAX, &rest, &number) >= 0 && *rest &&
	    (unit = strchr(units, *rest))) {
		shift = 10 * (int)(unit - units + 1);
		if (number > UINT64_MAX >> shift)
			return -EINVAL;
		*ret_number = number << shift;
		*ret_rest = rest + 1;
		return 0;
	}

	return parse_number(text, strncmp(text, "0x", 2) ? base : 16, UINT64_MAX, ret_rest,
			    ret_number);
}

int look_parse_range(const char *text, uint64_t *ret_start, uint64_t *ret_end)
{
	uint64_t start, end;
	const char *rest;
	char sign;

	if (parse_address(text, 16, &rest, &start) < 0)
		return -EINVAL;
	sign = *rest;
	if (sign != '-' && sign != '+')
		return -EINVAL;
	if (parse_address(rest + 1, sign == '-' ? 16 : 10, &rest, &end) < 0 || *rest)
		return -EINVAL;

	if (sign == '+' && __builtin_add_overflow(start, end, &end))
		return -EINVAL;
	if (start >= end || end > UINT64_MAX - PAGE)
		return -EINVAL;

	*ret_start = start & ~(PAGE - 1);
	*ret_end = (end + PAGE - 1) & ~(PAGE - 1);

	return 0;
}

static bool is_called(const struct truth_map *map, const char *name)
{
	const char *base = strrchr(map->name, '/');

	return *map->name && (!strcmp(map->name, name) || (base && !strcmp(base + 1, name)));
}

static int find_named(struct look *l, const char *name)
{
	const struct truth_map *map, *maps_end = l->truth.maps + l->truth.n_maps;
	struct look_range *last = NULL;

	for (map = l->truth.maps; map < maps_end; map++) {
		if (!is_called(map, name) || map->end > STREAM_END)
			continue;
		if (last && last->end == map->start) {
			last->end = map->end;
			continue;
		}
		last = &l->ranges[l->n_ranges++];
		*last = (struct look_range) { map->start, map->end };
	}

	return l->n_ranges ? 0 : -ENOENT;
}

static int find_ranges(struct look *l, const char *text)
{
	int r;

	l->ranges = calloc(l->truth.n_maps + 1, sizeof(*l->ranges));
	if (!l->ranges)
		return -ENOMEM;

	if (!text) {
		l->everything = true;
		l->ranges[0] = (struct look_range) { STREAM_START, STREAM_END };
		l->n_ranges = 1;
		return 0;
	}

	r = look_parse_range(text, &l->ranges[0].start, &l->ranges[0].end);
	if (r >= 0 && l->ranges[0].end <= STREAM_END) {
		l->n_ranges = 1;
		return 0;
	}
	if (r >= 0) {
		say("the range '%s' is not in user space, which ends at %llx", text, STREAM_END);
		return -EINVAL;
	}

	r = find_named(l, text);
	if (r < 0) {
		say("'%s' is no mapping of %s, and no range START-END or START+LENGTH; "
		    "see /proc/%d/maps", text, l->who.what, (int)l->who.pid);
		return -EINVAL;
	}

	return 0;
}

int look_open(struct look *look, const char *range, uint32_t open_flags)
{
	int r;

	r = who_open(&look->who, open_flags);
	if (r < 0)
		return r;

	r = truth_open(&look->truth, look->who.pid);
	if (r >= 0)
		r = truth_read_maps(&look->truth, false);
	if (r < 0) {
		say_error(SAY_LOOK, r, look->who.what);
		return r;
	}

	return find_ranges(look, range);
}

void look_close(struct look *look)
{
	truth_close(&look->truth);
	free(look->ranges);
	look->ranges = NULL;
	who_close(&look->who);
}

/* The next piece of what is mapped, at @at or behind it; false if there is none. */
static bool next_piece(const struct look *l, size_t *range, uint64_t *at, uint64_t *ret_end)
{
	const struct truth_map *map;
	uint64_t end;

	for (; *range < l->n_ranges; (*range)++) {
		end = l->ranges[*range].end;
		if (*at < l->ranges[*range].start)
			*at = l->ranges[*range].start;
		map = truth_find(&l->truth, *at);
		if (!map || map->start >= end || *at >= end)
			continue;

		if (*at < map->start)
			*at = map->start;
		*ret_end = map->end < end ? map->end : end;
		return true;
	}

	return false;
}

uint64_t look_mapped(const struct look *look)
{
	uint64_t at = 0, end, total = 0;
	size_t range = 0;

	for (; next_piece(look, &range, &at, &end); at = end)
		total += end - at;

	return total;
}

static int fill_piece(struct look *l, uint64_t start, uint64_t end)
{
	unsigned int tries;
	int r;

	for (tries = 0; tries < TRIES; tries++) {
		r = mirror_target_fill(l->who.object, start, end, NULL);
		if (r != -EAGAIN)
			return r;
		poll(NULL, 0, 5);
	}
	say("%" PRIx64 "-%" PRIx64 " keeps changing, so mirrord could not look at all of it",
	    start, end);

	return 0;
}

/* Adjacent mappings go in one request, as far as a step goes. */
static uint64_t end_of_step(const struct look *l, uint64_t at, uint64_t end, uint64_t limit)
{
	const struct truth_map *map = truth_find(&l->truth, end);

	while (end - at < STEP && end < limit && map && map->start == end) {
		end = map->end < limit ? map->end : limit;
		map = truth_find(&l->truth, end);
	}

	return end - at > STEP ? at + STEP : end;
}

int look_fill(struct look *look)
{
	uint64_t at = 0, end, done = 0;
	struct progress progress;
	size_t range = 0;
	int r = 0;

	progress_begin(&progress, "looking", look_mapped(look));
	for (; r >= 0 && next_piece(look, &range, &at, &end); at = end) {
		end = end_of_step(look, at, end, look->ranges[range].end);
		r = fill_piece(look, at, end);
		done += end - at;
		progress_show(&progress, done);
	}
	progress_end(&progress);

	if (r < 0)
		say_error(SAY_LOOK, r, look->who.what);

	return r;
}
