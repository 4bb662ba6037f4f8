/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line and the configuration file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "settings.h"
#include "unit.h"

static const char good[] =
	"# all of it\n"
	"; also a comment\n"
	"\n"
	"[daemon]\n"
	"verbose = yes\n"
	"peek=no\n"
	"  follow-cpu\t=  no  \r\n"
	"uffd-mode = wp\n"
	"cuse = mirror0\n"
	"fuse = /run/a file\n"
	"[limits]\n"
	"clients = 1\n"
	"channels = 2\n"
	"targets = 3\n"
	"notifiers = 4\n"
	"tables = 5\n"
	"table-nodes = 2147483647\n"
	"[limits root]\n"
	"targets = 0\n"
	"[ limits  4000000000 ]\n"
	"tables = 7";

START_TEST(all_keys)
{
	static const uint32_t wanted[_QUOTA_N] = {
		[QUOTA_CLIENTS] = 1, [QUOTA_CHANNELS] = 2, [QUOTA_TARGETS] = 3,
		[QUOTA_NOTIFIERS] = 4, [QUOTA_TABLES] = 5, [QUOTA_TABLE_NODES] = 2147483647,
	};
	struct settings s;
	char error[256];

	settings_init(&s);
	ck_assert_int_eq(settings_parse(&s, "f", good, strlen(good), error, sizeof(error)), 0);
	ck_assert_str_eq(error, "");
	ck_assert(s.verbose && !s.options.peek && !s.options.follow_cpu);
	ck_assert_int_eq(s.options.uffd_mode, UFFD_MODE_WP);
	ck_assert_str_eq(s.options.cuse, "mirror0");
	ck_assert_str_eq(s.options.fuse, "/run/a file");
	for (int i = 0; i < _QUOTA_N; i++)
		ck_assert_uint_eq(s.limit[i], wanted[i]);
	ck_assert_uint_eq(s.n_rules, 2);
	ck_assert_uint_eq(s.rules[0].uid, 0);
	ck_assert_uint_eq(s.rules[1].uid, 4000000000);
	for (int i = 0; i < _QUOTA_N; i++) {
		ck_assert_uint_eq(s.rules[0].limit[i], i == QUOTA_TARGETS ? 0 : QUOTA_AS_ALL);
		ck_assert_uint_eq(s.rules[1].limit[i], i == QUOTA_TABLES ? 7 : QUOTA_AS_ALL);
	}
	settings_deinit(&s);
}
END_TEST

#define L "[limits]\n"
#define D "[daemon]\n"

/* Each is refused, with a message that has these words. */
static const struct {
	const char *text, *words;
} bad[] = {
	{ "peek = yes\n", "f:1: 'peek' before any section" },
	{ "\n\n[daemon\n", "f:3: a section needs a ']'" },
	{ "[", "f:1: a section needs a ']'" },
	{ "[]", "f:1: unknown section []" },
	{ "[deamon]\n", "f:1: unknown section [deamon]; there are" },
	{ "[limitsroot]\n", "unknown section [limitsroot]" },
	{ "[limits nobody-has-this-name]\n", "f:1: no user 'nobody-has-this-name'" },
	{ "[limits 4294967295]\n", "no user '4294967295'" },
	{ "[limits 1x]\n", "no user '1x'" },
	{ "[limits -1]\n", "no user '-1'" },
	{ "[limits root]\n[limits 0]\n", "f:2: a second section for user 0" },
	{ D "peek\n", "f:2: neither a [section] nor 'key = value'" },
	{ D "peak = yes\n", "f:2: unknown key 'peak' in [daemon]; it has verbose, peek," },
	{ D "clients = 1\n", "unknown key 'clients' in [daemon]" },
	{ L "peek = yes\n", "unknown key 'peek' in [limits]; it has clients, channels, targets, "
			    "notifiers, tables, table-nodes" },
	{ "[limits 5]\npeek = yes\n", "unknown key 'peek'" },
	{ D "peek = maybe\n", "f:2: peek is yes or no, not 'maybe'" },
	{ D "peek = Yes\n", "not 'Yes'" },
	{ D "peek =\n", "not ''" },
	{ D "peek = yes # a comment\n", "not 'yes # a comment'" },
	{ D "peek = yes\npeek = yes\n", "f:3: 'peek' a second time" },
	{ D "peek = yes\n" L D "peek = no\n", "f:5: 'peek' a second time" },
	{ D "= yes\n", "unknown key ''" },
	{ D "uffd-mode = wp_async\n", "uffd-mode is auto, wp-async or wp, not" },
	{ D "cuse = /dev/mirror\n", "cuse is the name of a file in /dev" },
	{ D "cuse = ..\n", "cuse is" },
	{ D "fuse = run/mirror\n", "fuse is a path that begins with" },
	{ L "clients = -1\n", "clients is a number up to 2147483647, not '-1'" },
	{ L "clients = +1\n", "not '+1'" },
	{ L "clients = 0x10\n", "not '0x10'" },
	{ L "clients = 10k\n", "not '10k'" },
	{ L "clients = 2147483648\n", "not '2147483648'" },
	{ L "clients = 99999999999999999999999\n", "not '99999999999999999999999'" },
	{ L "clients = 1\nclients = 1\n", "f:3: 'clients' a second time" },
	{ "[limits 5]\ntargets=1\ntargets=1\n", "f:3: 'targets' a second time for this user" },
	{ D "pe\x1b[2Jek = yes\n", "unknown key 'pe?[2Jek'" },
};

START_TEST(bad_files)
{
	char error[256];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct settings s;
		int r;

		settings_init(&s);
		r = settings_parse(&s, "f", bad[i].text, strlen(bad[i].text), error,
				   sizeof(error));
		ck_assert_msg(r == -EINVAL && strstr(error, bad[i].words),
			      "of \"%s\": %d, \"%s\"", bad[i].text, r, error);
		settings_deinit(&s);
	}
}
END_TEST

START_TEST(zero_byte)
{
	static const char text[] = "[daemon]\npeek = no\0\nverbose = yes\n";
	struct settings s;
	char error[256];

	settings_init(&s);
	ck_assert_int_eq(settings_parse(&s, "f", text, sizeof(text) - 1, error, sizeof(error)),
			 -EINVAL);
	ck_assert_ptr_nonnull(strstr(error, "f:2: a zero byte"));
	settings_deinit(&s);
}
END_TEST

static uint64_t seed = 88172645463325252ULL;

static uint32_t draw(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % n;
}

/* Whatever the file is: settings that are allowed, or one line that says where and why. */
START_TEST(any_bytes)
{
	static const char odd[] = "[]=\n\n\n #;\r\t\0\x80\xff" "0919azlimitsdaemon/-";
	unsigned int n_good = 0, n_bad = 0;

	for (int round = 0; round < 20000; round++) {
		char text[sizeof(good)], error[128];
		size_t len = sizeof(good) - 1 - draw(round % 4 ? 3 : 200);
		unsigned int line = 0;
		struct settings s;
		int r;

		memcpy(text, good, sizeof(good));
		for (uint32_t k = draw(4); k; k--)
			text[draw((uint32_t)len)] = odd[draw(sizeof(odd) - 1)];
		settings_init(&s);
		r = settings_parse(&s, "f", text, len, error, sizeof(error));
		if (r == 0) {
			n_good++;
			for (int i = 0; i < _QUOTA_N; i++)
				ck_assert_uint_le(s.limit[i], INT32_MAX);
			ck_assert_str_eq(error, "");
		} else {
			n_bad++;
			ck_assert_int_eq(r, -EINVAL);
			ck_assert_int_eq(sscanf(error, "f:%u: ", &line), 1);
			ck_assert(line >= 1 && line <= 30);
			for (const char *c = error; *c; c++)
				ck_assert((unsigned char)*c >= 0x20 && *c != 0x7f);
		}
		settings_deinit(&s);
	}
	ck_assert_uint_gt(n_good, 1000);
	ck_assert_uint_gt(n_bad, 1000);
}
END_TEST

static int parse_args(struct settings *s, const char *const *args)
{
	char *argv[12] = { (char *)(uintptr_t)"mirrord" };
	int n = 1;

	while (*args)
		argv[n++] = (char *)(uintptr_t)*args++;
	settings_init(s);
	if (!freopen("/dev/null", "w", stderr))
		return -errno;
	return settings_parse_args(s, n, argv);
}

#define ARGS(_s, ...) parse_args(_s, (const char *const[]) { __VA_ARGS__, NULL })

START_TEST(command_line)
{
	struct settings s;

	ck_assert_int_eq(ARGS(&s, "--verbose", "--no-peek", "--max-targets=0"), 1);
	ck_assert(s.verbose && !s.options.peek && s.options.follow_cpu);
	ck_assert_uint_eq(s.limit[QUOTA_TARGETS], 0);
	ck_assert_uint_gt(s.limit[QUOTA_CLIENTS], 0);
	ck_assert_str_eq(s.socket, SETTINGS_SOCKET);
	ck_assert_int_eq(ARGS(&s, "--embedded", "--client-fd=3"), 1);
	ck_assert(s.options.embedded && s.options.exit_idle && !s.socket);
	ck_assert_int_eq(s.client_fd, 3);
	ck_assert_int_eq(ARGS(&s, "--keep", "--cuse=mirror", "--fuse", "/run/x"), 1);
	ck_assert(s.keep && !strcmp(s.options.cuse, "mirror") && !strcmp(s.options.fuse, "/run/x"));
	ck_assert_uint_eq(s.keep, SETTINGS_KEEP);
	ck_assert_int_eq(ARGS(&s, "--keep=12"), 1);
	ck_assert_uint_eq(s.keep, 12);
	ck_assert_int_eq(ARGS(&s, "--keep=0"), -EINVAL);
	ck_assert_int_eq(ARGS(&s, "--keep=x"), -EINVAL);
	ck_assert_int_eq(ARGS(&s, "--max-targets", "1k"), -EINVAL);
	ck_assert_int_eq(ARGS(&s, "--client-fd", "-1"), -EINVAL);
	ck_assert_int_eq(ARGS(&s, "--uffd-mode", "both"), -EINVAL);
	ck_assert_int_eq(ARGS(&s, "--cuse", "a/b"), -EINVAL);
	ck_assert_int_eq(ARGS(&s, "surplus"), -EINVAL);
	ck_assert_int_eq(ARGS(&s, "--no-such-option"), -EINVAL);
}
END_TEST

static char path[64];

static void write_file(const char *text)
{
	FILE *f;

	snprintf(path, sizeof(path), "/tmp/mirror-settings-%d.conf", getpid());
	f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_ge(fputs(text, f), 0);
	ck_assert_int_eq(fclose(f), 0);
}

/* The command line counts more than the file, but one user's limits are only there. */
START_TEST(command_line_beats_file)
{
	struct settings base, s;
	char error[256];

	write_file(good);
	ck_assert_int_eq(ARGS(&base, "--config", path, "--uffd-mode=wp-async", "--max-tables=50",
			      "--cuse=other"), 1);
	ck_assert_int_eq(settings_load(&s, &base, error, sizeof(error)), 0);
	ck_assert_int_eq(s.options.uffd_mode, UFFD_MODE_WP_ASYNC);
	ck_assert_uint_eq(s.limit[QUOTA_TABLES], 50);
	ck_assert_uint_eq(s.limit[QUOTA_TARGETS], 3);
	ck_assert_uint_eq(s.rules[1].limit[QUOTA_TABLES], 7);
	ck_assert_str_eq(s.options.cuse, "other");
	ck_assert_str_eq(s.options.fuse, "/run/a file");
	ck_assert(s.verbose);
	settings_deinit(&s);
	/* what does not count must be right all the same */
	write_file("[daemon]\nuffd-mode = x\n");
	ck_assert_int_eq(settings_load(&s, &base, error, sizeof(error)), -EINVAL);
	ck_assert_ptr_nonnull(strstr(error, ".conf:2: uffd-mode is"));
	write_file("[limits]\ntables = x\n");
	ck_assert_int_eq(settings_load(&s, &base, error, sizeof(error)), -EINVAL);
	unlink(path);
}
END_TEST

START_TEST(files_that_cannot_be_read)
{
	struct settings base, s = { .client_fd = 77 };
	char error[256];

	write_file("");
	ck_assert_int_eq(ARGS(&base, "--config", path), 1);
	ck_assert_int_eq(settings_load(&s, &base, error, sizeof(error)), 0);
	ck_assert_uint_eq(s.limit[QUOTA_TARGETS], base.limit[QUOTA_TARGETS]);
	settings_deinit(&s);
	s.client_fd = 77;
	ck_assert_int_eq(truncate(path, 2 << 20), 0);
	ck_assert_int_eq(settings_load(&s, &base, error, sizeof(error)), -EFBIG);
	unlink(path);
	ck_assert_int_eq(settings_load(&s, &base, error, sizeof(error)), -ENOENT);
	ck_assert_ptr_nonnull(strstr(error, path));
	/* a pipe is not waited for, a directory is none */
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_int_eq(settings_load(&s, &base, error, sizeof(error)), -EINVAL);
	unlink(path);
	base.config = "/";
	ck_assert_int_eq(settings_load(&s, &base, error, sizeof(error)), -EISDIR);
	ck_assert_int_eq(s.client_fd, 77);	/* untouched */
	/* a private daemon does not look for the system's */
	ck_assert_int_eq(ARGS(&base, "--embedded"), 1);
	ck_assert_int_eq(settings_load(&s, &base, error, sizeof(error)), 0);
	settings_deinit(&s);
}
END_TEST

static int parse_once(void)
{
	struct settings s;
	char error[256];
	int r;

	settings_init(&s);
	r = settings_parse(&s, "f", good, strlen(good), error, sizeof(error));
	settings_deinit(&s);
	return r;
}

/* fopen() of /etc/passwd may be what fails: then there is no such user */
static int parse_numbers(void)
{
	static const char text[] = "[limits 1]\ntargets = 1\n[limits 2]\ntargets = 2\n";
	struct settings s;
	char error[256];
	int r;

	settings_init(&s);
	r = settings_parse(&s, "f", text, strlen(text), error, sizeof(error));
	settings_deinit(&s);
	return r;
}

START_TEST(out_of_memory)
{
	unit_oom(parse_numbers);
	ck_assert_int_eq(parse_once(), 0);
}
END_TEST

UNIT_MAIN("settings", all_keys, bad_files, zero_byte, any_bytes, command_line,
	  command_line_beats_file, files_that_cannot_be_read, out_of_memory)
