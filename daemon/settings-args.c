/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include "config.h"
#include "settings.h"
#include "settings-key.h"

static void usage(FILE *f)
{
	fputs("Usage: mirrord [OPTION]...\n"
	      "Tells consumers of every change of the address spaces they mirror.\n"
	      "\n"
	      "      --config PATH         settings (default " MIRROR_CONFIG_PATH ")\n"
	      "      --socket PATH         listen there (default " SETTINGS_SOCKET ")\n"
	      "      --cuse NAME           be the character device /dev/NAME\n"
	      "      --fuse PATH           the same as a file system of one file, at PATH\n"
	      "      --keep[=N]            the service manager keeps so many descriptors: a\n"
	      "                            restart goes on where this one ended\n"
	      "      --prepare-device      only get the device ready for the next mirrord\n"
	      "      --embedded            private daemon of one program; no default socket\n"
	      "      --client-fd N         serve the client connected to descriptor N\n"
	      "      --exit-idle           end when the last client is gone\n"
	      "      --no-peek             do not look at targets' threads: no causes, and\n"
	      "                            CLEAR is only POINT\n"
	      "      --no-follow-cpu       leave it to the scheduler where to run, and sleep\n"
	      "                            as soon as there is nothing to do\n"
	      "      --uffd-mode MODE      auto, wp-async or wp\n"
	      "      --max-clients N       limits for each user\n"
	      "      --max-channels N\n"
	      "      --max-targets N\n"
	      "      --max-notifiers N\n"
	      "      --max-tables N\n"
	      "      --max-table-nodes N   of 4 KiB\n"
	      "  -v, --verbose             say more\n"
	      "      --version             print the version and end\n"
	      "  -h, --help                print this and end\n", f);
}

enum {
	/* below: the enum setting that it gives */
	OPT_SETTING = 256,
	OPT_NO_PEEK = OPT_SETTING + _SETTING_N, OPT_NO_FOLLOW_CPU,
	OPT_CONFIG, OPT_SOCKET, OPT_KEEP, OPT_PREPARE_DEVICE, OPT_EMBEDDED, OPT_CLIENT_FD,
	OPT_EXIT_IDLE, OPT_VERSION,
};

#define OPT(_setting) (OPT_SETTING + SETTING_##_setting)
#define OPT_MAX(_kind) (OPT_SETTING + SETTING_LIMIT + QUOTA_##_kind)

static const struct option options[] = {
	{ "config", required_argument, NULL, OPT_CONFIG },
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "cuse", required_argument, NULL, OPT(CUSE) },
	{ "fuse", required_argument, NULL, OPT(FUSE) },
	{ "keep", optional_argument, NULL, OPT_KEEP },
	{ "prepare-device", no_argument, NULL, OPT_PREPARE_DEVICE },
	{ "embedded", no_argument, NULL, OPT_EMBEDDED },
	{ "client-fd", required_argument, NULL, OPT_CLIENT_FD },
	{ "exit-idle", no_argument, NULL, OPT_EXIT_IDLE },
	{ "no-peek", no_argument, NULL, OPT_NO_PEEK },
	{ "no-follow-cpu", no_argument, NULL, OPT_NO_FOLLOW_CPU },
	{ "uffd-mode", required_argument, NULL, OPT(UFFD_MODE) },
	{ "max-clients", required_argument, NULL, OPT_MAX(CLIENTS) },
	{ "max-channels", required_argument, NULL, OPT_MAX(CHANNELS) },
	{ "max-targets", required_argument, NULL, OPT_MAX(TARGETS) },
	{ "max-notifiers", required_argument, NULL, OPT_MAX(NOTIFIERS) },
	{ "max-tables", required_argument, NULL, OPT_MAX(TABLES) },
	{ "max-table-nodes", required_argument, NULL, OPT_MAX(TABLE_NODES) },
	{ "verbose", no_argument, NULL, 'v' },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

/* 1 or -EINVAL */
static int give(struct settings *s, enum setting setting, const char *value)
{
	const struct key *key = key_get(setting);

	if (key_set(s, key, value) < 0) {
		fprintf(stderr, "mirrord: --%s%s is %s, not '%s'\n",
			setting >= SETTING_LIMIT ? "max-" : "", key->name, key->values, value);
		return -EINVAL;
	}
	s->given |= 1U << setting;
	return 1;
}

/* 1: go on, 0: done, -EINVAL: wrong */
static int parse_option(struct settings *s, int opt)
{
	uint32_t number;

	switch (opt) {
	case 'v':
		return give(s, SETTING_VERBOSE, "yes");
	case OPT_NO_PEEK:
		return give(s, SETTING_PEEK, "no");
	case OPT_NO_FOLLOW_CPU:
		return give(s, SETTING_FOLLOW_CPU, "no");
	case OPT_CONFIG:
		s->config = optarg;
		return 1;
	case OPT_SOCKET:
		s->socket = optarg;
		return 1;
	case OPT_KEEP:
		s->keep = SETTINGS_KEEP;
		if (optarg && (key_number(optarg, &s->keep) < 0 || !s->keep)) {
			fprintf(stderr, "mirrord: --keep is a number, not '%s'\n", optarg);
			return -EINVAL;
		}
		return 1;
	case OPT_PREPARE_DEVICE:
		s->prepare_device = true;
		return 1;
	case OPT_EMBEDDED:
		s->options.embedded = s->options.exit_idle = true;
		return 1;
	case OPT_CLIENT_FD:
		if (key_number(optarg, &number) < 0) {
			fprintf(stderr, "mirrord: --client-fd is a descriptor, not '%s'\n", optarg);
			return -EINVAL;
		}
		s->client_fd = (int)number;
		return 1;
	case OPT_EXIT_IDLE:
		s->options.exit_idle = true;
		return 1;
	case OPT_VERSION:
		puts("mirrord " MIRROR_VERSION);
		return 0;
	case 'h':
		usage(stdout);
		return 0;
	}
	if (opt >= OPT_SETTING && opt < OPT_SETTING + _SETTING_N)
		return give(s, (enum setting)(opt - OPT_SETTING), optarg);
	fputs("Try 'mirrord --help'.\n", stderr);
	return -EINVAL;
}

int settings_parse_args(struct settings *s, int argc, char **argv)
{
	int opt, r;

	optind = 1;
	while ((opt = getopt_long(argc, argv, "vh", options, NULL)) >= 0) {
		r = parse_option(s, opt);
		if (r <= 0)
			return r;
	}
	if (optind < argc) {
		fprintf(stderr, "mirrord: unexpected '%s'\nTry 'mirrord --help'.\n",
			argv[optind]);
		return -EINVAL;
	}
	if (!s->socket && !s->options.embedded)
		s->socket = SETTINGS_SOCKET;
	return 1;
}
