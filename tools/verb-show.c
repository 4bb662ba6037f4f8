/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <mirror/table.h>
#include "entry.h"
#include "look.h"
#include "mirrorctl.h"
#include "output.h"
#include "say.h"

#define PAGE	4096ULL

/* what makes entries alike; the rest is counted */
#define ALIKE	(MIRROR_ENTRY_VALID | MIRROR_PTE_PRESENT | MIRROR_PTE_SWAPPED | MIRROR_PTE_READ | \
		 MIRROR_PTE_WRITE | MIRROR_PTE_EXEC | MIRROR_PTE_FILE | MIRROR_PTE_SHARED)

/* A run of entries that are alike, or the sum of all. */
struct row {
	uint64_t start, end;
	uint64_t alike;
	const struct truth_map *map;
	uint64_t pages, swapped, written, huge;
	uint64_t nodes[ENTRY_NODES];	/* pages by 1 + node */
};

struct show {
	bool json, cached, all;
	struct look look;
	struct row row, total;
	size_t n_rows;
};

static void count(struct row *row, uint64_t entry, uint64_t n)
{
	if (entry & MIRROR_PTE_SWAPPED)
		row->swapped += n;
	if (!(entry & MIRROR_PTE_PRESENT))
		return;

	row->pages += n;
	if (entry & MIRROR_PTE_WRITTEN)
		row->written += n;
	if (entry & MIRROR_PTE_HUGE)
		row->huge += n;
	row->nodes[entry_node(entry)] += n;
}

static void print_nodes(const struct row *row, bool json)
{
	const char *separator = "";
	unsigned int i;

	for (i = 1; i < ENTRY_NODES; i++) {
		if (!row->nodes[i])
			continue;
		printf(json ? "%s\"%u\":%" PRIu64 : "%sN%u=%" PRIu64, separator, i - 1,
		       row->nodes[i]);
		separator = json ? "," : " ";
	}
	if (!*separator && !json)
		putchar('-');
}

/* A file may be called anything, also what a terminal acts upon. */
static void print_name(const char *name)
{
	for (; *name; name++)
		putchar((unsigned char)*name < 0x20 || *name == 0x7f ? '?' : *name);
}

static void print_row_json(struct show *s, const struct row *row)
{
	const char *name = row->map ? row->map->name : "";
	char rights[8];

	printf("%s{\"start\":\"0x%" PRIx64 "\",\"end\":\"0x%" PRIx64 "\",\"bytes\":%" PRIu64,
	       s->n_rows ? "," : "", row->start, row->end, row->end - row->start);
	printf(",\"state\":\"%s\"", entry_state(row->alike));
	if (row->alike)
		printf(",\"rights\":\"%s\",\"kind\":\"%s\"", entry_rights(rights, row->alike),
		       entry_kind(row->alike));
	printf(",\"pages\":%" PRIu64 ",\"written\":%" PRIu64 ",\"huge\":%" PRIu64 ",\"nodes\":{",
	       row->pages, row->written, row->huge);
	print_nodes(row, true);
	fputs("},\"mapping\":", stdout);
	output_json_string(stdout, name, strlen(name));
	putchar('}');
}

static void print_row_human(const struct row *row)
{
	char size[16], rights[8];

	printf("%012" PRIx64 "-%012" PRIx64 " %8s  %-7s %-6s %-6s %8" PRIu64 " %8" PRIu64 " %8"
	       PRIu64 "  ", row->start, row->end, output_size(size, row->end - row->start),
	       entry_state(row->alike), row->alike ? entry_rights(rights, row->alike) : "-",
	       row->alike ? entry_kind(row->alike) : "-", row->pages, row->written, row->huge);
	print_nodes(row, false);
	if (row->map && *row->map->name) {
		fputs("  ", stdout);
		print_name(row->map->name);
	}
	putchar('\n');
}

static void end_row(struct show *s)
{
	if (s->row.start == s->row.end)
		return;

	if (s->json)
		print_row_json(s, &s->row);
	else
		print_row_human(&s->row);
	s->n_rows++;
	s->row.start = s->row.end = 0;
}

/* What looks like one mapping can be several: the heap grows by pieces. */
static bool are_called_alike(const struct truth_map *a, const struct truth_map *b)
{
	return a && b ? !strcmp(a->name, b->name) : a == b;
}

static void add_to_row(struct show *s, uint64_t start, uint64_t end, uint64_t entry,
		       const struct truth_map *map)
{
	struct row *row = &s->row;

	if (row->end != start || row->alike != (entry & ALIKE) ||
	    !are_called_alike(row->map, map)) {
		end_row(s);
		memset(row, 0, sizeof(*row));
		row->start = start;
		row->alike = entry & ALIKE;
		row->map = map;
	}

	row->end = end;
	count(row, entry, (end - start) / PAGE);
	count(&s->total, entry, (end - start) / PAGE);
}

/* What is not mapped is no row unless something is known. */
static void add(struct show *s, uint64_t start, uint64_t end, uint64_t entry)
{
	const struct truth_map *map;
	uint64_t to;

	for (; start < end; start = to) {
		map = truth_find(&s->look.truth, start);
		if (map && map->start <= start)
			to = map->end;
		else
			to = map ? map->start : end;
		if (to > end)
			to = end;
		if (map && map->start > start)
			map = NULL;

		if (entry || (s->all && map))
			add_to_row(s, start, to, entry, map);
	}
}

static void show_range(struct show *s, const struct mirror_table *table, uint64_t at,
		       uint64_t end)
{
	uint64_t entry, next, limit;
	unsigned int shift;

	limit = 1ULL << (12 + MIRROR_TABLE_NODE_SHIFT * table->levels);
	if (end > limit)
		end = limit;

	while (at < end) {
		entry = mirror_table_walk(table, at, &shift);
		next = ((at >> shift) + 1) << shift;
		if (next > end)
			next = end;
		add(s, at, next, entry);
		at = next;
	}
}

static void print_consumer(const struct mirror_consumer_info *info, uint32_t index, bool json)
{
	char size[16];

	if (json) {
		printf("%s{\"pid\":%d,\"uid\":%" PRIu32 ",\"notifiers\":%" PRIu32
		       ",\"records\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"device_bytes\":%" PRIu64
		       ",\"command\":", index ? "," : "", (int)info->pid, (uint32_t)info->uid,
		       (uint32_t)info->notifiers, (uint64_t)info->published,
		       (uint64_t)info->lost, (uint64_t)info->device_bytes);
		output_json_string(stdout, info->comm, sizeof(info->comm));
		putchar('}');
		return;
	}

	if (!index)
		printf("\n%7s %6s %9s %9s %8s %8s  %s\n", "PID", "UID", "NOTIFIERS", "RECORDS",
		       "LOST", "DEVICE", "CONSUMER");
	printf("%7d %6" PRIu32 " %9" PRIu32 " %9" PRIu64 " %8" PRIu64 " %8s  ", (int)info->pid,
	       (uint32_t)info->uid, (uint32_t)info->notifiers, (uint64_t)info->published,
	       (uint64_t)info->lost, output_size(size, info->device_bytes));
	print_name(info->comm);
	putchar('\n');
}

static int print_consumers(struct show *s)
{
	struct mirror_consumer_info info;
	uint32_t i;
	int r;

	for (i = 0;; i++) {
		info = (struct mirror_consumer_info) { .size = sizeof(info) };
		r = mirror_query_consumer(s->look.who.ctx, s->look.who.target, i, &info);
		if (r < 0)
			break;
		info.comm[sizeof(info.comm) - 1] = 0;
		print_consumer(&info, i, s->json);
	}
	if (r == -ESRCH && !i && !s->json)
		puts("\nno consumer watches it");
	if (r == -ESRCH)
		return 0;

	say_error(SAY_ASK, r, "the consumers");

	return r;
}

static void print_head(const struct show *s, const struct mirror_target_info *info)
{
	char size[16];

	if (s->json) {
		printf("{\"target\":%" PRIu32 ",\"pid\":%d,\"table_bytes\":%" PRIu64
		       ",\"ranges\":[", s->look.who.target, (int)s->look.who.pid,
		       (uint64_t)info->table_bytes);
		return;
	}

	printf("target %" PRIu32 ", process %d (", s->look.who.target, (int)s->look.who.pid);
	print_name(info->comm);
	printf("), mirror table of %s\n\n", output_size(size, info->table_bytes));
	printf("%-25s %8s  %-7s %-6s %-6s %8s %8s %8s  %s\n", "RANGE", "SIZE", "STATE", "RIGHTS",
	       "KIND", "PAGES", "WRITTEN", "HUGE", "NODES, MAPPING");
}

static void print_total(const struct show *s)
{
	const struct row *total = &s->total;

	if (s->json) {
		printf("],\"pages\":%" PRIu64 ",\"swapped\":%" PRIu64 ",\"written\":%" PRIu64
		       ",\"huge\":%" PRIu64 ",\"nodes\":{", total->pages, total->swapped,
		       total->written, total->huge);
		print_nodes(total, true);
		fputs("},\"consumers\":[", stdout);
		return;
	}

	printf("%zu range%s, %" PRIu64 " pages present, %" PRIu64 " written, %" PRIu64
	       " huge, %" PRIu64 " swapped; by node: ", s->n_rows, s->n_rows == 1 ? "" : "s",
	       total->pages, total->written, total->huge, total->swapped);
	print_nodes(total, false);
	putchar('\n');
}

static int show(struct show *s, const char *range)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	const struct mirror_table *table;
	size_t i;
	int r;

	r = look_open(&s->look, range, MIRROR_OPEN_NO_RING);
	if (r >= 0 && !s->cached)
		r = look_fill(&s->look);
	if (r < 0)
		return r;

	r = mirror_target_get_table(s->look.who.object, &table);
	if (r >= 0)
		r = mirror_query_target(s->look.who.ctx, s->look.who.target, 0, &info);
	if (r < 0) {
		say_error(SAY_LOOK, r, s->look.who.what);
		return r;
	}
	info.comm[sizeof(info.comm) - 1] = 0;

	print_head(s, &info);
	for (i = 0; i < s->look.n_ranges; i++) {
		show_range(s, table, s->look.ranges[i].start, s->look.ranges[i].end);
		end_row(s);
	}
	print_total(s);
	r = print_consumers(s);
	if (s->json)
		puts("]}");
	if (output_finish_stdout() < 0)
		return -EPIPE;

	return r;
}

static int show_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "cached", no_argument, NULL, 'c' },
		{ "all", no_argument, NULL, 'a' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct show s = { .look = LOOK_NULL };
	int c, r;

	while ((c = getopt_long(argc, argv, ":ah", options, NULL)) >= 0) {
		switch (c) {
		case 'j':
			s.json = true;
			break;
		case 'c':
			s.cached = true;
			break;
		case 'a':
			s.all = true;
			break;
		case 'h':
			fputs(verb_show.help, stdout);
			return output_finish_stdout() < 0 ? EXIT_NOT_DONE : 0;
		default:
			return say_bad_option("show", argc, argv, c);
		}
	}

	if (argc - optind < 1 || argc - optind > 2)
		return say_bad_usage("show", "one target, and at most one range, must be given");
	if (who_parse(&s.look.who, argv[optind]) < 0)
		return say_bad_usage("show", "a process is named by its pid, a target by #NUMBER");

	r = show(&s, argv[optind + 1]);
	look_close(&s.look);

	return r == -EINVAL ? EXIT_USAGE : r < 0 ? EXIT_NOT_DONE : EXIT_SUCCESS;
}

const struct verb verb_show = {
	.name = "show",
	.summary = "show what the mirror table of a target says, and who uses it",
	.help =
"Usage: mirrorctl show [OPTION]... PID | #TARGET | target:TARGET [RANGE]\n"
"\n"
"Have mirrord look at the memory of a target, then print its mirror table, a line for\n"
"each run of pages that are alike, and the consumers of the target.\n"
"\n"
"      --cached   do not have mirrord look: print what the table holds\n"
"  -a, --all      print also mapped memory of which the table says nothing\n"
"      --json     print one JSON object\n"
"  -h, --help     print this\n"
"\n"
"RANGE is START-END or START+LENGTH, or the name of a mapping, such as [heap].\n"
"Addresses are hexadecimal, lengths decimal, unless they have a prefix 0x or one of\n"
"the suffixes K, M, G, T.\n",
	.main = show_main,
};
