/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include "mirrorctl.h"
#include "output.h"
#include "place.h"
#include "say.h"

static const char *state_to_string(uint32_t state)
{
	switch (state) {
	case MIRROR_TARGET_PENDING:
		return "pending";
	case MIRROR_TARGET_ARMED:
		return "armed";
	case MIRROR_TARGET_DEAD:
		return "dead";
	default:
		return "unknown";
	}
}

static void print_guarantees(const struct mirror_target_info *info)
{
	const char *separator = "";
	const char *type, *guarantee;
	unsigned int i;

	for (i = 1; i < MIRROR_EVENT_TYPES; i++) {
		type = mirror_event_type_to_string(i);
		guarantee = mirror_guarantee_to_string(info->guarantee[i]);
		if (!info->guarantee[i] || !type || !guarantee)
			continue;
		printf("%s\"%s\":\"%s\"", separator, type, guarantee);
		separator = ",";
	}
}

static void print_json(const struct mirror_target_info *info)
{
	printf("{\"target\":%" PRIu32 ",\"pid\":%d,\"uid\":%" PRIu32 ",\"state\":\"%s\"",
	       (uint32_t)info->target, (int)info->pid, (uint32_t)info->uid,
	       state_to_string(info->state));
	printf(",\"parent\":%" PRIu32 ",\"consumers\":%" PRIu32 ",\"notifiers\":%" PRIu32,
	       (uint32_t)info->parent, (uint32_t)info->consumers, (uint32_t)info->notifiers);
	printf(",\"armed\":%" PRIu32 ",\"events\":%" PRIu64 ",\"published\":%" PRIu64,
	       (uint32_t)info->armed, (uint64_t)info->events, (uint64_t)info->published);
	fputs(",\"features\":[", stdout);
	output_features(stdout, info->features, true);
	fputs("],\"guarantees\":{", stdout);
	print_guarantees(info);
	fputs("},\"command\":", stdout);
	output_json_string(stdout, info->comm, sizeof(info->comm));
	puts("}");
}

static void print_human(const struct mirror_target_info *info)
{
	size_t i;
	char c;

	printf("%6" PRIu32 " %7d %6" PRIu32 " %-7s %6" PRIu32 " %5" PRIu32 " %5" PRIu32
	       " %8" PRIu64 " %9" PRIu64 "  ",
	       (uint32_t)info->target, (int)info->pid, (uint32_t)info->uid,
	       state_to_string(info->state), (uint32_t)info->parent, (uint32_t)info->consumers,
	       (uint32_t)info->notifiers, (uint64_t)info->events, (uint64_t)info->published);

	/* a process may call itself anything, also what a terminal acts upon */
	for (i = 0; i < sizeof(info->comm) && info->comm[i]; i++) {
		c = info->comm[i];
		putchar((unsigned char)c < 0x20 || c == 0x7f ? '?' : c);
	}
	putchar('\n');
}

static int list(struct mirror_ctx *ctx, bool json)
{
	struct mirror_target_info info;
	uint32_t id = 0;
	int r;

	if (!json)
		printf("%6s %7s %6s %-7s %6s %5s %5s %8s %9s  %s\n", "TARGET", "PID", "UID",
		       "STATE", "PARENT", "CONS", "NOTIF", "EVENTS", "PUBLISHED", "COMMAND");

	for (;;) {
		info = (struct mirror_target_info){ .size = sizeof(info) };
		r = mirror_query_target(ctx, id, 1, &info);
		if (r == -ESRCH)
			return 0;
		if (r < 0) {
			say_error(SAY_ASK, r, "the targets");
			return r;
		}

		if (json)
			print_json(&info);
		else
			print_human(&info);

		if (info.target == UINT32_MAX)
			return 0;
		id = info.target + 1;
	}
}

static int list_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_ctx *ctx;
	bool json = false;
	int c, r;

	while ((c = getopt_long(argc, argv, ":h", options, NULL)) >= 0) {
		switch (c) {
		case 'j':
			json = true;
			break;
		case 'h':
			fputs(verb_list.help, stdout);
			return output_finish_stdout() < 0 ? EXIT_NOT_DONE : 0;
		default:
			return say_bad_option("list", argc, argv, c);
		}
	}

	if (optind != argc)
		return say_bad_usage("list", "it takes no arguments");

	opts.path = place_system_socket();
	opts.flags = MIRROR_OPEN_NO_EMBEDDED | MIRROR_OPEN_NO_RING;
	r = mirror_open(&ctx, &opts);
	if (r < 0) {
		say_error(SAY_OPEN, r, place_system_socket());
		return EXIT_NOT_DONE;
	}

	r = list(ctx, json);
	mirror_ctx_unref(ctx);
	if (r >= 0)
		r = output_finish_stdout();

	return r < 0 ? EXIT_NOT_DONE : EXIT_SUCCESS;
}

const struct verb verb_list = {
	.name = "list",
	.summary = "list the targets that you may observe",
	.help =
"Usage: mirrorctl list [OPTION]...\n"
"\n"
"List the targets that you may observe.\n"
"\n"
"      --json   print one JSON object a line\n"
"  -h, --help   print this\n",
	.main = list_main,
};
