/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * mirrorctl run
 *
 * The order matters: the process is made, then attached to, then watched, and
 * only then let go, so that not even its first mapping is missed.  Its source of
 * events attaches itself later, from inside, when the dynamic linker has loaded
 * the preload object; that is what MIRROR_ATTACH_PENDING is for.
 */

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>
#include "mirrorctl.h"
#include "output.h"
#include "place.h"
#include "say.h"
#include "spawn.h"
#include "stream.h"

/* a program that takes longer to load its libraries than this has none */
#define ARMED_BY_NS	1000000000ULL
/* the end of a process is seen by us and by mirrord, in either order */
#define RELEASE_BY_NS	2000000000ULL

struct run {
	/* options */
	const char *file;
	bool json, phases, embedded, no_follow, quiet;

	struct place place;
	struct stream stream;
	struct output output;
	struct spawn spawn;
	int signal_fd;
	sigset_t old_mask;
	const char *program;

	uint64_t deadline_ns;	/* of the next thing to do about time, 0 for none */
	bool checked_armed;
	bool ended;
};

#define RUN_NULL {							\
		.place = PLACE_NULL,					\
		.stream = STREAM_NULL,					\
		.output = OUTPUT_NULL,					\
		.spawn = SPAWN_NULL,					\
		.signal_fd = -1,					\
	}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);

	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static int open_signals(struct run *run)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGHUP);
	sigaddset(&mask, SIGQUIT);
	sigprocmask(SIG_BLOCK, &mask, &run->old_mask);

	run->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);

	return run->signal_fd < 0 ? -errno : 0;
}

static void forward_signals(struct run *run)
{
	struct signalfd_siginfo info;

	while (read(run->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		/* what the terminal sends reaches the whole process group by itself */
		if (info.ssi_code > 0 || run->ended)
			continue;
		kill(run->spawn.pid, (int)info.ssi_signo);
	}
}

static void check_armed(struct run *run)
{
	if (run->checked_armed)
		return;

	run->checked_armed = true;
	if (run->quiet || stream_was_armed(&run->stream))
		return;

	say("'%s' could not be instrumented: no source of events has attached to it, so only its "
	    "end is seen.  Is it static, setuid, or does it drop LD_PRELOAD?", run->program);
}

static int wait_something(struct run *run)
{
	struct pollfd fds[3] = {
		{ .fd = run->ended ? -1 : run->spawn.pidfd, .events = POLLIN },
		{ .fd = run->signal_fd, .events = POLLIN },
		{ .fd = -1, .events = POLLIN },
	};
	int timeout = -1;
	uint64_t now;
	int r;

	if (run->deadline_ns) {
		now = now_ns();
		timeout = now < run->deadline_ns ?
			  (int)((run->deadline_ns - now) / 1000000) + 1 : 0;
	}

	r = stream_prepare(&run->stream);
	if (r > 0)
		timeout = 0;
	if (r >= 0)
		fds[2].fd = mirror_ctx_get_fd(run->place.ctx);

	r = poll(fds, 3, timeout);
	if (r < 0 && errno != EINTR)
		return -errno;

	return fds[0].revents != 0;
}

static int loop(struct run *run)
{
	int status = EXIT_RUN_FAILED;
	bool late;
	int r;

	run->deadline_ns = now_ns() + ARMED_BY_NS;

	for (;;) {
		r = wait_something(run);
		if (r < 0) {
			say("cannot wait: %s", strerror(-r));
			return EXIT_RUN_FAILED;
		}

		forward_signals(run);
		stream_pump(&run->stream);
		late = run->deadline_ns && now_ns() >= run->deadline_ns;

		if (r > 0) {
			check_armed(run);
			status = spawn_reap(&run->spawn);
			run->ended = true;
			run->deadline_ns = now_ns() + RELEASE_BY_NS;
		} else if (late && !run->ended) {
			check_armed(run);
			run->deadline_ns = 0;
		} else if (late) {
			return status;
		}

		if (run->ended && (run->stream.released || run->stream.lost_daemon))
			return status;
	}
}

static int start(struct run *run, char **argv)
{
	uint32_t flags = 0;
	char *preload;
	int r;

	preload = spawn_find_preload();
	if (!preload)
		return -ENOENT;

	r = output_open(&run->output, run->file, STDERR_FILENO, run->json, run->phases);
	if (r < 0) {
		say("cannot write to '%s': %s", run->file ? run->file : "stderr", strerror(-r));
		goto out;
	}

	r = place_open(&run->place, run->embedded, run->quiet);
	if (r < 0)
		goto out;

	r = open_signals(run);
	if (r >= 0)
		r = spawn_set_environment(run->place.socket, preload);
	if (r >= 0)
		r = spawn_prepare(&run->spawn, argv, &run->old_mask);
	if (r < 0) {
		say("cannot prepare '%s': %s", argv[0], strerror(-r));
		goto out;
	}

	r = stream_attach(&run->stream, run->place.ctx, run->spawn.pidfd,
			  MIRROR_ATTACH_PENDING | MIRROR_ATTACH_ARM_ALL, argv[0]);
	if (r < 0)
		goto out;

	if (!run->no_follow)
		flags |= MIRROR_NOTIFIER_FOLLOW_FORK | MIRROR_NOTIFIER_FOLLOW_EXEC;
	if (run->phases)
		flags |= MIRROR_NOTIFIER_END;

	r = stream_start(&run->stream, &run->output, STREAM_START, STREAM_END, flags, argv[0]);

out:
	free(preload);

	return r;
}

static int run_program(struct run *run, char **argv)
{
	int r;

	run->program = argv[0];
	r = start(run, argv);
	if (r < 0)
		return EXIT_RUN_FAILED;

	r = spawn_go(&run->spawn);
	if (r < 0) {
		say("cannot run '%s': %s", argv[0], strerror(-r));
		return r == -ENOENT ? EXIT_RUN_NOT_FOUND : EXIT_RUN_CANNOT_EXECUTE;
	}

	return loop(run);
}

static int check_source(const char *source)
{
	if (!strcmp(source, "uffd") || !strcmp(source, "auto"))
		return 0;

	say("source '%s' is not in this build; there is: uffd", source);

	return -EOPNOTSUPP;
}

static int run_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "output", required_argument, NULL, 'o' },
		{ "json", no_argument, NULL, 'j' },
		{ "source", required_argument, NULL, 's' },
		{ "embedded", no_argument, NULL, 'e' },
		{ "ends", no_argument, NULL, 'E' },
		{ "no-follow", no_argument, NULL, 'F' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct run run = RUN_NULL;
	int c, status;

	while ((c = getopt_long(argc, argv, "+:o:qh", options, NULL)) >= 0) {
		switch (c) {
		case 'o':
			run.file = optarg;
			break;
		case 'j':
			run.json = true;
			break;
		case 's':
			if (check_source(optarg) < 0)
				return EXIT_RUN_FAILED;
			break;
		case 'e':
			run.embedded = true;
			break;
		case 'E':
			run.phases = true;
			break;
		case 'F':
			run.no_follow = true;
			break;
		case 'q':
			run.quiet = true;
			break;
		case 'h':
			fputs(verb_run.help, stdout);
			return output_finish_stdout() < 0 ? EXIT_RUN_FAILED : 0;
		default:
			return say_bad_option("run", argc, argv, c);
		}
	}

	if (optind == argc)
		return say_bad_usage("run", "no program to run was given");

	status = run_program(&run, argv + optind);

	/* first the program: without it nobody waits for mirrord */
	spawn_deinit(&run.spawn);
	stream_stop(&run.stream);
	place_close(&run.place);
	output_close(&run.output);
	if (run.signal_fd >= 0)
		close(run.signal_fd);

	return status;
}

const struct verb verb_run = {
	.name = "run",
	.summary = "run a program and print its events",
	.help =
"Usage: mirrorctl run [OPTION]... [--] PROGRAM [ARGUMENT]...\n"
"\n"
"Run PROGRAM and print the changes of its address space, live.  The exit status is\n"
"that of PROGRAM, 128 + N when signal N killed it.\n"
"\n"
"  -o, --output=FILE   print to FILE, '-' for stdout, instead of stderr\n"
"      --json          print one JSON object a line\n"
"      --source=S      where events come from: uffd, or auto (the default)\n"
"      --embedded      use a private mirrord, even if the system has one\n"
"      --ends          print the end of a change too, where it is told\n"
"      --no-follow     do not follow fork and exec\n"
"  -q, --quiet         no remarks about what is done on the way\n"
"  -h, --help          print this\n"
"\n"
"PROGRAM must be dynamically linked and not setuid: a preload object attaches it.\n"
"What it maps by system calls of its own, past the C library, is watched only some\n"
"milliseconds later; changes before that do not show.  See mirrorctl(1).\n",
	.main = run_main,
};
