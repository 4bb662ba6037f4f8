/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A picture of an address space
 *
 * A region is a group of mappings with no more than small gaps between them.  It is a
 * line, and its bar has cells, each of which stands for an equal part of the region
 * and is as dark as that part is full.
 */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <langinfo.h>
#include <locale.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <mirror/table.h>
#include "entry.h"
#include "look.h"
#include "mirrorctl.h"
#include "output.h"
#include "say.h"
#include "stream.h"

#define PAGE		UINT64_C(4096)
#define GAP_MAX		(1ULL << 20)	/* inside a region */
#define CELLS_MAX	512
#define CELLS_MIN	8
#define WIDTH_DEFAULT	80
#define NAME_WIDTH	19

enum kind {
	KIND_ANON,
	KIND_FILE,
	KIND_SHARED,
	_KIND_N,
};

static const char * const kind_names[_KIND_N] = { "anon", "file", "shared" };
static const char * const kind_colors[_KIND_N] = { "32", "34", "35" };

struct cell {
	uint64_t pages;			/* mapped ones, present or not */
	uint64_t kinds[_KIND_N];	/* present */
	uint64_t present, written, swapped;
};

struct region {
	uint64_t start, end;
	uint64_t watched;		/* bytes of mappings with a userfaultfd */
	uint64_t mapped;
	size_t first_map, n_maps;
	struct cell total;
	unsigned int n_cells;
	struct cell cells[CELLS_MAX];
};

struct map_verb {
	bool json, cached;
	bool color, utf8;
	unsigned int width;
	struct look look;
	struct truth truth;		/* with who is watched, after mirrord has looked */
	struct region region;
};

static unsigned int terminal_width(void)
{
	const char *columns = getenv("COLUMNS");
	struct winsize size;
	uint64_t n;

	if (columns && parse_number(columns, 10, 10000, NULL, &n) >= 0 && n)
		return (unsigned int)n;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col)
		return size.ws_col;

	return WIDTH_DEFAULT;
}

/* What is left beside an address of 12 digits, 3 sizes, the mark and the name. */
static unsigned int cells_of(const struct map_verb *m, uint64_t pages)
{
	unsigned int used = 13 + 7 + 7 + 8 + 3 + 2 + NAME_WIDTH, n;

	n = m->width > used + CELLS_MIN ? m->width - used : CELLS_MIN;
	if (n > CELLS_MAX)
		n = CELLS_MAX;

	return n < pages ? n : (unsigned int)pages;
}

/* ---- counting ---- */

/* First byte of a cell; the last one ends with the region. */
static uint64_t cell_start(const struct region *region, unsigned int i)
{
	uint64_t pages = (region->end - region->start) / PAGE;

	return region->start + PAGE * (uint64_t)((unsigned __int128)pages * i / region->n_cells);
}

static void count(struct cell *cell, uint64_t entry, uint64_t pages)
{
	enum kind kind = KIND_ANON;

	if (entry & MIRROR_PTE_SWAPPED)
		cell->swapped += pages;
	if (!(entry & MIRROR_PTE_PRESENT))
		return;

	if (entry & MIRROR_PTE_SHARED)
		kind = KIND_SHARED;
	else if (entry & MIRROR_PTE_FILE)
		kind = KIND_FILE;
	cell->present += pages;
	cell->kinds[kind] += pages;
	if (entry & MIRROR_PTE_WRITTEN)
		cell->written += pages;
}

static void count_mapped(const struct map_verb *m, const struct region *region,
			 struct cell *cell, uint64_t start, uint64_t end)
{
	const struct truth_map *map = truth_find(&m->truth, start);
	const struct truth_map *behind = m->truth.maps + region->first_map + region->n_maps;

	for (; map && map < behind && map->start < end; map++)
		cell->pages += ((map->end < end ? map->end : end) -
				(map->start > start ? map->start : start)) / PAGE;
}

static void count_cell(const struct map_verb *m, const struct mirror_table *table,
		       struct region *region, unsigned int i)
{
	uint64_t at = cell_start(region, i), end = cell_start(region, i + 1), next, entry;
	struct cell *cell = &region->cells[i];
	unsigned int shift;

	memset(cell, 0, sizeof(*cell));
	count_mapped(m, region, cell, at, end);
	for (; at < end; at = next) {
		entry = mirror_table_walk(table, at, &shift);
		next = ((at >> shift) + 1) << shift;
		if (next > end)
			next = end;
		count(cell, entry, (next - at) / PAGE);
		count(&region->total, entry, (next - at) / PAGE);
	}
}

/* The region that begins with the mapping @first. */
static void find_region(struct map_verb *m, size_t first)
{
	const struct truth_map *maps = m->truth.maps;
	struct region *region = &m->region;
	size_t i;

	memset(region, 0, sizeof(*region));
	region->first_map = first;
	region->start = maps[first].start;
	for (i = first; i < m->truth.n_maps && maps[i].end <= STREAM_END; i++) {
		if (i > first && maps[i].start - region->end > GAP_MAX)
			break;
		region->end = maps[i].end;
		region->mapped += maps[i].end - maps[i].start;
		if (maps[i].watched)
			region->watched += maps[i].end - maps[i].start;
		region->n_maps++;
	}
	if (region->n_maps)
		region->n_cells = cells_of(m, (region->end - region->start) / PAGE);
}

/* ---- printing ---- */

/* Of all names in the region the one with the most memory. */
static const char *region_name(const struct map_verb *m, const struct region *region,
			       size_t *ret_n_others)
{
	const struct truth_map *maps = m->truth.maps + region->first_map;
	const char *best = "", *last = NULL;
	uint64_t best_size = 0, size = 0;
	size_t i, n_names = 0;

	for (i = 0; i < region->n_maps; i++) {
		if (!last || strcmp(last, maps[i].name)) {
			size = 0;
			n_names++;
		}
		last = maps[i].name;
		size += maps[i].end - maps[i].start;
		if (size > best_size) {
			best_size = size;
			best = last;
		}
	}
	*ret_n_others = n_names - 1;

	return best;
}

static void print_name(const char *name, size_t n_others)
{
	const char *base = strrchr(name, '/');
	char more[16] = "", text[NAME_WIDTH + 1];
	int room = NAME_WIDTH, i;

	if (n_others)
		room -= snprintf(more, sizeof(more), " +%zu", n_others);
	snprintf(text, sizeof(text), "%.*s", room, *name ? base ? base + 1 : name : "anonymous");

	/* a file may be called anything, also what a terminal acts upon */
	for (i = 0; text[i]; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			text[i] = '?';
	printf("%s%s", text, more);
}

static void print_cell(const struct map_verb *m, const struct cell *cell)
{
	static const char ascii[] = ".:-=+*%#";
	static const char * const blocks[] = { "\u2591", "\u2591", "\u2592", "\u2592", "\u2593",
					       "\u2593", "\u2588", "\u2588" };
	unsigned int shade, i, kind = 0;

	if (!cell->pages && !cell->present) {
		putchar(' ');
		return;
	}
	if (!cell->present) {
		fputs(m->utf8 ? "\u00b7" : "_", stdout);
		return;
	}

	/* only what is full is darkest, and what has one page is not empty */
	shade = cell->present >= cell->pages ? 7 : (unsigned int)(cell->present * 7 / cell->pages);
	for (i = 1; i < _KIND_N; i++)
		if (cell->kinds[i] > cell->kinds[kind])
			kind = i;

	if (m->color)
		printf("\033[%s%sm", 2 * cell->written > cell->present ? "1;" : "",
		       kind_colors[kind]);
	if (m->utf8)
		fputs(blocks[shade], stdout);
	else
		putchar(ascii[shade]);
	if (m->color)
		fputs("\033[0m", stdout);
}

static void print_region(const struct map_verb *m, const struct region *region)
{
	char size[16], present[16], written[16];
	const char *name;
	size_t n_others;
	unsigned int i;

	name = region_name(m, region, &n_others);
	printf("%012" PRIx64 " %6s %6s %7s %s [", region->start,
	       output_size(size, region->end - region->start),
	       output_size(present, region->total.present * PAGE),
	       output_size(written, region->total.written * PAGE),
	       !region->watched ? " " : region->watched < region->mapped ? "w" : "W");
	for (i = 0; i < region->n_cells; i++)
		print_cell(m, &region->cells[i]);
	fputs("] ", stdout);
	print_name(name, n_others);
	putchar('\n');
}

static void print_numbers(const struct cell *cell)
{
	unsigned int i;

	printf("\"present\":%" PRIu64 ",\"written\":%" PRIu64 ",\"swapped\":%" PRIu64,
	       cell->present, cell->written, cell->swapped);
	for (i = 0; i < _KIND_N; i++)
		printf(",\"%s\":%" PRIu64, kind_names[i], cell->kinds[i]);
}

static void print_region_json(const struct map_verb *m, const struct region *region, bool first)
{
	const char *name;
	size_t n_others;
	unsigned int i;

	name = region_name(m, region, &n_others);
	printf("%s{\"start\":\"0x%" PRIx64 "\",\"end\":\"0x%" PRIx64 "\",\"mappings\":%zu,"
	       "\"mapped\":%" PRIu64 ",\"watched\":%" PRIu64 ",\"name\":", first ? "" : ",",
	       region->start, region->end, region->n_maps, region->mapped / PAGE,
	       region->watched / PAGE);
	output_json_string(stdout, name, strlen(name));
	putchar(',');
	print_numbers(&region->total);
	fputs(",\"cells\":[", stdout);
	for (i = 0; i < region->n_cells; i++) {
		printf("%s{\"start\":\"0x%" PRIx64 "\",\"mapped\":%" PRIu64 ",", i ? "," : "",
		       cell_start(region, i), region->cells[i].pages);
		print_numbers(&region->cells[i]);
		putchar('}');
	}
	fputs("]}", stdout);
}

static void print_legend(const struct map_verb *m)
{
	unsigned int i;

	printf("%-12s %6s %6s %7s\n", "START", "SIZE", "HERE", "WRITTEN");
	fputs("a cell: ", stdout);
	fputs(m->utf8 ? "\u00b7 mapped, no page known  \u2591 \u2592 \u2593 some  \u2588 all" :
	      "_ mapped, no page known  . : - = + * % some  # all", stdout);
	if (m->color) {
		for (i = 0; i < _KIND_N; i++)
			printf("  \033[%sm%s\033[0m", kind_colors[i], kind_names[i]);
		fputs("  \033[1mmost written\033[0m", stdout);
	}
	puts("\nW: watched, w: in part");
}

static int print_map(struct map_verb *m, const struct mirror_table *table)
{
	uint64_t limit = 1ULL << (12 + MIRROR_TABLE_NODE_SHIFT * table->levels);
	struct region *region = &m->region;
	unsigned int c;
	bool first = true;
	size_t i;

	if (m->json)
		printf("{\"target\":%" PRIu32 ",\"pid\":%d,\"regions\":[", m->look.who.target,
		       (int)m->look.who.pid);
	else
		print_legend(m);

	for (i = 0; i < m->truth.n_maps; i += region->n_maps) {
		find_region(m, i);
		if (!region->n_maps || region->end > limit)
			break;

		for (c = 0; c < region->n_cells; c++)
			count_cell(m, table, region, c);
		if (m->json)
			print_region_json(m, region, first);
		else
			print_region(m, region);
		first = false;
	}
	if (m->json)
		puts("]}");

	return output_finish_stdout();
}

static void find_terminal(struct map_verb *m)
{
	struct output output;

	m->width = terminal_width();
	if (m->json || !isatty(STDOUT_FILENO))
		return;

	/* one place decides what a terminal that wants colours is */
	if (output_open(&output, NULL, STDOUT_FILENO, false, false) >= 0) {
		m->color = output.color;
		output_close(&output);
	}
	setlocale(LC_CTYPE, "");
	m->utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
}

static int map(struct map_verb *m)
{
	const struct mirror_table *table;
	int r;

	find_terminal(m);
	r = look_open(&m->look, NULL, MIRROR_OPEN_NO_RING);
	if (r >= 0 && !m->cached)
		r = look_fill(&m->look);
	if (r < 0)
		return r;

	r = mirror_target_get_table(m->look.who.object, &table);
	if (r >= 0)
		r = truth_open(&m->truth, m->look.who.pid);
	if (r >= 0)
		r = truth_read_maps(&m->truth, true);
	if (r < 0) {
		say_error(SAY_LOOK, r, m->look.who.what);
		return r;
	}

	return print_map(m, table);
}

static int map_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "cached", no_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct map_verb m = { .look = LOOK_NULL, .truth = TRUTH_NULL };
	int c, r;

	while ((c = getopt_long(argc, argv, ":h", options, NULL)) >= 0) {
		switch (c) {
		case 'j':
			m.json = true;
			break;
		case 'c':
			m.cached = true;
			break;
		case 'h':
			fputs(verb_map.help, stdout);
			return output_finish_stdout() < 0 ? EXIT_NOT_DONE : 0;
		default:
			return say_bad_option("map", argc, argv, c);
		}
	}

	if (argc - optind != 1)
		return say_bad_usage("map", "one target must be given");
	if (who_parse(&m.look.who, argv[optind]) < 0)
		return say_bad_usage("map", "a process is named by its pid, a target by #NUMBER");

	r = map(&m);
	truth_close(&m.truth);
	look_close(&m.look);

	return r < 0 ? EXIT_NOT_DONE : EXIT_SUCCESS;
}

const struct verb verb_map = {
	.name = "map",
	.summary = "draw the address space of a target",
	.help =
"Usage: mirrorctl map [OPTION]... PID | #TARGET | target:TARGET\n"
"\n"
"Have mirrord look at the memory of a target, then draw it from its mirror table: a line\n"
"for each group of mappings, with a cell for each equal part of it, as dark as pages are\n"
"present.  On a terminal the colour tells anonymous, file and shared memory apart.\n"
"\n"
"      --cached   do not have mirrord look: draw what the table holds\n"
"      --json     print the numbers, as one JSON object\n"
"  -h, --help     print this\n"
"\n"
"The width is that of the terminal, or $COLUMNS.\n",
	.main = map_main,
};
