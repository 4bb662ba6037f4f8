/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "mirrorctl.h"
#include "output.h"
#include "place.h"
#include "say.h"

#define EVENTS	0xffffffffULL	/* the features that are types of events */

/* by name, once for people and programs; sizes and times people want otherwise */
enum kind {
	KIND_U32,
	KIND_U64,
	KIND_BYTES,
	KIND_NS,
};

struct counter {
	const char *key;
	const char *text;
	size_t offset;
	enum kind kind;
};

#define COUNTER(_kind, _member, _text) \
	{ #_member, _text, offsetof(struct mirror_stats, _member), KIND_##_kind }

static const struct counter counters[] = {
	COUNTER(U32, targets, "targets"),
	COUNTER(U32, clients, "clients"),
	COUNTER(U32, notifiers, "notifiers"),
	COUNTER(U32, channels, "channels"),
	COUNTER(U64, events, "changes read"),
	COUNTER(U64, published, "records published"),
	COUNTER(U64, lost, "records lost"),
	COUNTER(U64, removes, "clears to prove"),
	COUNTER(U64, removes_pending, "  not yet proven"),
	COUNTER(U64, moves, "processor changes"),
	COUNTER(U64, wakeups, "consumers woken"),
	COUNTER(U64, refused, "requests refused"),
	COUNTER(NS, uptime_ns, "up for"),
	COUNTER(BYTES, rss_bytes, "resident memory"),
};

static uint64_t counter_value(const struct counter *counter, const struct mirror_stats *stats)
{
	const char *at = (const char *)stats + counter->offset;
	uint32_t small;
	uint64_t big;

	if (counter->kind == KIND_U32) {
		memcpy(&small, at, sizeof(small));
		return small;
	}
	memcpy(&big, at, sizeof(big));

	return big;
}

static void print_json(const struct mirror_info *info, const struct mirror_stats *stats)
{
	size_t i;

	fputs("{\"version\":", stdout);
	output_json_string(stdout, info->version, sizeof(info->version));
	printf(",\"uapi_version\":%" PRIu32 ",\"pid\":%" PRIu32, (uint32_t)info->uapi_version,
	       (uint32_t)info->pid);
	printf(",\"embedded\":%s", info->info_flags & MIRROR_INFO_EMBEDDED ? "true" : "false");
	printf(",\"privileged\":%s", info->info_flags & MIRROR_INFO_PRIVILEGED ? "true" : "false");
	fputs(",\"features\":[", stdout);
	output_features(stdout, info->features, true);
	printf("],\"limits\":{\"targets\":%" PRIu32 ",\"notifiers\":%" PRIu32 ",\"channels\":%"
	       PRIu32 "}", (uint32_t)info->max_targets, (uint32_t)info->max_notifiers,
	       (uint32_t)info->max_channels);

	fputs(",\"counters\":{", stdout);
	for (i = 0; i < sizeof(counters) / sizeof(*counters); i++)
		printf("%s\"%s\":%" PRIu64, i ? "," : "", counters[i].key,
		       counter_value(&counters[i], stats));
	puts("}}");
}

static void print_human(const struct mirror_info *info, const struct mirror_stats *stats)
{
	uint64_t value;
	char size[16];
	size_t i;

	printf("mirrord %.*s, process %" PRIu32 "%s%s\n", (int)sizeof(info->version),
	       info->version, (uint32_t)info->pid,
	       info->info_flags & MIRROR_INFO_EMBEDDED ? ", private" : "",
	       info->info_flags & MIRROR_INFO_PRIVILEGED ?
	       "" : ", unprivileged: observes processes of its own user only");
	printf("protocol version  %" PRIu32 "\n", (uint32_t)info->uapi_version);

	fputs("events            ", stdout);
	output_features(stdout, info->features & EVENTS, false);
	fputs("\nabilities         ", stdout);
	output_features(stdout, info->features & ~EVENTS, false);
	fputs("\nnot here          ", stdout);
	output_features(stdout, ~info->features, false);

	printf("\nlimits per user   %" PRIu32 " targets, %" PRIu32 " notifiers, %" PRIu32
	       " channels\n\n", (uint32_t)info->max_targets, (uint32_t)info->max_notifiers,
	       (uint32_t)info->max_channels);

	for (i = 0; i < sizeof(counters) / sizeof(*counters); i++) {
		value = counter_value(&counters[i], stats);
		printf("%-17s ", counters[i].text);
		if (counters[i].kind == KIND_BYTES)
			printf("%s\n", output_size(size, value));
		else if (counters[i].kind == KIND_NS)
			printf("%" PRIu64 ".%" PRIu64 " s\n", value / 1000000000,
			       value / 100000000 % 10);
		else
			printf("%" PRIu64 "\n", value);
	}
}

static int status(struct mirror_ctx *ctx, bool json)
{
	struct mirror_info info = { .size = sizeof(info) };
	struct mirror_stats stats = { .size = sizeof(stats) };
	int r;

	r = mirror_ctx_get_info(ctx, &info);
	if (r >= 0)
		r = mirror_daemon_get_stats(ctx, &stats);
	if (r < 0) {
		say_error(SAY_ASK, r, "the state of mirrord");
		return r;
	}

	if (json)
		print_json(&info, &stats);
	else
		print_human(&info, &stats);

	return output_finish_stdout();
}

static int status_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "embedded", no_argument, NULL, 'e' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	bool json = false, embedded = false;
	struct mirror_ctx *ctx;
	int c, r;

	while ((c = getopt_long(argc, argv, ":h", options, NULL)) >= 0) {
		switch (c) {
		case 'j':
			json = true;
			break;
		case 'e':
			embedded = true;
			break;
		case 'h':
			fputs(verb_status.help, stdout);
			return output_finish_stdout() < 0 ? EXIT_NOT_DONE : 0;
		default:
			return say_bad_option("status", argc, argv, c);
		}
	}

	if (optind != argc)
		return say_bad_usage("status", "it takes no arguments");

	opts.flags = MIRROR_OPEN_NO_RING;
	opts.flags |= embedded ? MIRROR_OPEN_EMBEDDED : MIRROR_OPEN_NO_EMBEDDED;
	r = mirror_open(&ctx, &opts);
	if (r < 0) {
		say_error(embedded ? SAY_OPEN_EMBEDDED : SAY_OPEN, r, place_system_socket());
		return EXIT_NOT_DONE;
	}

	r = status(ctx, json);
	mirror_ctx_unref(ctx);

	return r < 0 ? EXIT_NOT_DONE : EXIT_SUCCESS;
}

const struct verb verb_status = {
	.name = "status",
	.summary = "show what mirrord is, can do and has done",
	.help =
"Usage: mirrorctl status [OPTION]...\n"
"\n"
"Show the version, abilities, limits and counters of mirrord.\n"
"\n"
"      --json       print one JSON object\n"
"      --embedded   start a private mirrord and show what that can do here\n"
"  -h, --help       print this\n",
	.main = status_main,
};
