/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"
#include "entry.h"
#include "look.h"
#include "mirrorctl.h"
#include "output.h"
#include "progress.h"
#include "say.h"

#define SHOWN	20	/* without --all */

/* the statuses of cmp(1) */
enum {
	EXIT_SAME = 0,
	EXIT_DIFFERENT = 1,
	EXIT_TROUBLE = 2,
};

struct verify {
	bool json, cached, strict, all;
	struct look look;
	struct check check;
	struct progress progress;
	uint64_t done;		/* ranges before this one */
	uint64_t start;		/* of this one */
};

#define VERIFY_NULL { .look = LOOK_NULL, .check = CHECK_NULL }

static bool counts(const struct verify *v, const struct check_wrong *wrong)
{
	return v->strict || wrong->result.why == UNTOLD_NOT;
}

static uint64_t n_differences(const struct verify *v)
{
	return v->check.different + (v->strict ? v->check.n_untold : 0);
}

static const char *kernel_to_string(uint64_t word)
{
	if (word & TRUTH_GUARD)
		return "guard";
	if (word & TRUTH_SWAP)
		return "swapped";
	if (!(word & TRUTH_PRESENT))
		return "no page";
	if (word & TRUTH_FILE)
		return word & TRUTH_UFFD_WP ? "file, clean" : "file";

	return word & TRUTH_UFFD_WP ? "anon, clean" : "anon";
}

static void print_json_wrong(const struct check_wrong *wrong)
{
	char rights[8];

	printf("{\"start\":\"0x%" PRIx64 "\",\"end\":\"0x%" PRIx64 "\",\"pages\":%" PRIu64,
	       wrong->start, wrong->end, (wrong->end - wrong->start) / 4096);
	printf(",\"what\":\"%s\",\"untold\":%s%s%s", compare_to_key(wrong->result.what),
	       wrong->result.why ? "\"" : "",
	       wrong->result.why ? untold_to_key(wrong->result.why) : "null",
	       wrong->result.why ? "\"" : "");
	printf(",\"table\":{\"state\":\"%s\",\"rights\":\"%s\",\"kind\":\"%s\",\"entry\":\"0x%"
	       PRIx64 "\"}", entry_state(wrong->entry), entry_rights(rights, wrong->entry),
	       entry_kind(wrong->entry), wrong->entry);
	printf(",\"kernel\":{\"page\":\"%s\"}}", kernel_to_string(wrong->word));
}

static void print_json(const struct verify *v)
{
	const struct check *c = &v->check;
	const char *separator = "";
	size_t i, n = 0;

	printf("{\"target\":%" PRIu32 ",\"pid\":%d", v->look.who.target, (int)v->look.who.pid);
	printf(",\"compared\":%" PRIu64 ",\"different\":%" PRIu64 ",\"untold\":%" PRIu64,
	       c->compared, c->different, c->n_untold);
	printf(",\"unknown\":%" PRIu64 ",\"changing\":%" PRIu64 ",\"skipped\":%" PRIu64,
	       c->unknown, c->changing, c->skipped);

	fputs(",\"untold_by\":{", stdout);
	for (i = UNTOLD_NOT + 1; i < _UNTOLD_N; i++) {
		if (!c->untold[i])
			continue;
		printf("%s\"%s\":%" PRIu64, separator, untold_to_key((enum untold)i),
		       c->untold[i]);
		separator = ",";
	}

	/* programs filter for themselves */
	fputs("},\"differences\":[", stdout);
	for (i = 0; i < c->n_wrong && (v->all || n < SHOWN); i++) {
		if (!v->all && !counts(v, &c->wrong[i]))
			continue;
		if (n++)
			putchar(',');
		print_json_wrong(&c->wrong[i]);
	}
	puts("]}");
}

static void print_wrong(const struct verify *v)
{
	const struct check *c = &v->check;
	const struct check_wrong *wrong;
	char size[16], rights[8];
	size_t i, n = 0;

	for (i = 0; i < c->n_wrong; i++) {
		wrong = &c->wrong[i];
		if (!v->all && !counts(v, wrong))
			continue;
		if (n++ >= SHOWN && !v->all)
			continue;

		printf("%012" PRIx64 "-%012" PRIx64 " %6s  %s%s: table %s %s %s%s, kernel %s\n",
		       wrong->start, wrong->end, output_size(size, wrong->end - wrong->start),
		       counts(v, wrong) ? "" : "untold: ", compare_to_string(wrong->result.what),
		       entry_state(wrong->entry), entry_rights(rights, wrong->entry),
		       entry_kind(wrong->entry),
		       wrong->entry & MIRROR_PTE_WRITTEN ? " written" : "",
		       kernel_to_string(wrong->word));
	}
	if (n > SHOWN && !v->all)
		printf("... and %zu ranges more; --all prints them\n", n - SHOWN);
}

static void print_human(const struct verify *v)
{
	const struct check *c = &v->check;
	unsigned int i;

	print_wrong(v);
	printf("%" PRIu64 " pages compared, %" PRIu64 " differences\n", c->compared,
	       n_differences(v));

	for (i = UNTOLD_NOT + 1; i < _UNTOLD_N; i++)
		if (c->untold[i])
			printf("%" PRIu64 " pages untold: %s here\n", c->untold[i],
			       untold_to_string((enum untold)i));
	if (c->unknown)
		printf("%" PRIu64 " pages unknown: they are there, the table does not say so\n",
		       c->unknown);
	if (c->changing)
		printf("%" PRIu64 " pages kept changing, and were not compared\n", c->changing);
	if (c->skipped)
		printf("%" PRIu64 " pages not looked at: nothing is known of them, and their "
		       "mappings are very large\n", c->skipped);
}

static int show_progress(uint64_t at, void *userdata)
{
	struct verify *v = userdata;

	progress_show(&v->progress, v->done + (at - v->start));

	return 0;
}

/* With everything most addresses are nobody's: progress is by what is mapped. */
static int show_progress_of_all(uint64_t at, void *userdata)
{
	struct verify *v = userdata;
	const struct truth *truth = &v->look.truth;
	uint64_t done = 0;
	size_t i;

	for (i = 0; i < truth->n_maps && truth->maps[i].start < at; i++)
		done += (truth->maps[i].end < at ? truth->maps[i].end : at) -
			truth->maps[i].start;
	progress_show(&v->progress, done);

	return 0;
}

static uint64_t total_of(const struct look *look)
{
	uint64_t total = 0;
	size_t i;

	if (look->everything)
		return look_mapped(look);
	for (i = 0; i < look->n_ranges; i++)
		total += look->ranges[i].end - look->ranges[i].start;

	return total;
}

static int compare(struct verify *v)
{
	const struct look_range *ranges = v->look.ranges;
	struct check *c = &v->check;
	size_t i, n = v->look.n_ranges;
	int r;

	r = check_init(c, v->look.who.ctx, v->look.who.object, ranges[0].start,
		       ranges[n - 1].end);

	c->progress = v->look.everything ? show_progress_of_all : show_progress;
	c->userdata = v;
	progress_begin(&v->progress, "comparing", total_of(&v->look));
	for (i = 0; i < n && r >= 0; i++) {
		v->start = ranges[i].start;
		r = check_range(c, ranges[i].start, ranges[i].end);
		v->done += ranges[i].end - ranges[i].start;
	}
	progress_end(&v->progress);

	if (r < 0)
		say_error(SAY_LOOK, r, v->look.who.what);

	return r;
}

static int verify(struct verify *v, const char *range)
{
	int r;

	r = look_open(&v->look, range, 0);
	if (r >= 0 && !v->cached)
		r = look_fill(&v->look);
	if (r >= 0)
		r = compare(v);
	if (r < 0)
		return EXIT_TROUBLE;

	if (v->json)
		print_json(v);
	else
		print_human(v);
	if (output_finish_stdout() < 0)
		return EXIT_TROUBLE;

	return n_differences(v) ? EXIT_DIFFERENT : EXIT_SAME;
}

static int verify_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "cached", no_argument, NULL, 'c' },
		{ "strict", no_argument, NULL, 's' },
		{ "all", no_argument, NULL, 'a' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct verify v = VERIFY_NULL;
	int c, status;

	while ((c = getopt_long(argc, argv, ":ah", options, NULL)) >= 0) {
		switch (c) {
		case 'j':
			v.json = true;
			break;
		case 'c':
			v.cached = true;
			break;
		case 's':
			v.strict = true;
			break;
		case 'a':
			v.all = true;
			break;
		case 'h':
			fputs(verb_verify.help, stdout);
			return output_finish_stdout() < 0 ? EXIT_TROUBLE : 0;
		default:
			return say_bad_option("verify", argc, argv, c);
		}
	}

	if (argc - optind < 1 || argc - optind > 2)
		return say_bad_usage("verify", "one target, and at most one range, must be given");
	if (who_parse(&v.look.who, argv[optind]) < 0)
		return say_bad_usage("verify",
				     "a process is named by its pid, a target by #NUMBER");

	status = verify(&v, argv[optind + 1]);

	check_deinit(&v.check);
	look_close(&v.look);

	return status;
}

const struct verb verb_verify = {
	.name = "verify",
	.summary = "compare the mirror table of a target with the kernel",
	.help =
"Usage: mirrorctl verify [OPTION]... PID | #TARGET | target:TARGET [RANGE]\n"
"\n"
"Have mirrord look at the memory of a target, then compare, page by page, what its\n"
"mirror table says with what the kernel says.  The target may run meanwhile.\n"
"\n"
"      --cached   do not have mirrord look: compare what the table holds\n"
"      --strict   what no source of the target tells is a difference too\n"
"  -a, --all      print all that differs, not only the first 20 ranges, and\n"
"                 what is untold\n"
"      --json     print one JSON object\n"
"  -h, --help     print this\n"
"\n"
"RANGE is START-END or START+LENGTH, or the name of a mapping, such as [heap].\n"
"Addresses are hexadecimal, lengths decimal, unless they have a prefix 0x or one of\n"
"the suffixes K, M, G, T.\n"
"\n"
"The exit status is 0 if nothing differs, 1 if something does, and 2 for trouble.\n",
	.main = verify_main,
};
