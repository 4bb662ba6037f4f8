/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include "mirrorctl.h"
#include "output.h"
#include "place.h"
#include "say.h"
#include "stream.h"
#include "who.h"

struct watch {
	/* options */
	const char *file;
	bool json, phases, no_follow;
	uint64_t start, end;

	struct who who;
	struct mirror_ctx *ctx;
	struct stream stream;
	struct output output;
	int signal_fd;
};

#define WATCH_NULL {							\
		.start = STREAM_START,					\
		.end = STREAM_END,					\
		.stream = STREAM_NULL,					\
		.output = OUTPUT_NULL,					\
		.who = WHO_NULL,					\
		.signal_fd = -1,					\
	}

/* as /proc/PID/maps has it, with or without 0x */
static int parse_range(const char *text, uint64_t *ret_start, uint64_t *ret_end)
{
	uint64_t start, end, page = (uint64_t)sysconf(_SC_PAGESIZE);
	const char *rest;

	if (parse_number(text, 16, UINT64_MAX, &rest, &start) < 0 || *rest != '-')
		return -EINVAL;
	if (parse_number(rest + 1, 16, UINT64_MAX, NULL, &end) < 0)
		return -EINVAL;
	if (start >= end || start % page || end % page)
		return -EINVAL;

	*ret_start = start;
	*ret_end = end;

	return 0;
}

static int open_signals(struct watch *w)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGHUP);
	sigprocmask(SIG_BLOCK, &mask, NULL);

	w->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);

	return w->signal_fd < 0 ? -errno : 0;
}

static int attach(struct watch *w)
{
	int r;

	r = who_find(&w->who, w->ctx);
	if (r < 0)
		return r;

	r = stream_attach(&w->stream, w->ctx, w->who.pidfd, MIRROR_ATTACH_ARM_ALL, w->who.what);
	if (r < 0)
		return r;

	/* the process was named by number; that number may be somebody else's by now */
	if (w->who.target && w->stream.id != w->who.target) {
		say_error(SAY_ATTACH, -ESRCH, w->who.what);
		return -ESRCH;
	}

	return 0;
}

static int loop(struct watch *w)
{
	struct pollfd fds[2] = {
		{ .fd = w->signal_fd, .events = POLLIN },
		{ .fd = mirror_ctx_get_fd(w->ctx), .events = POLLIN },
	};
	int r;

	while (!w->stream.released && !w->output.broken) {
		r = stream_prepare(&w->stream);
		if (r < 0)
			return EXIT_NOT_DONE;

		r = poll(fds, 2, r ? 0 : -1);
		if (r < 0 && errno != EINTR) {
			say("cannot wait: %s", strerror(errno));
			return EXIT_NOT_DONE;
		}

		stream_pump(&w->stream);
		if (w->stream.lost_daemon)
			return EXIT_NOT_DONE;
		if (fds[0].revents)
			return EXIT_SUCCESS;
	}

	return EXIT_SUCCESS;
}

static int watch(struct watch *w)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	uint32_t flags = 0;
	int r;

	opts.path = place_system_socket();
	opts.flags = MIRROR_OPEN_NO_EMBEDDED;
	r = mirror_open(&w->ctx, &opts);
	if (r < 0) {
		say_error(SAY_OPEN, r, place_system_socket());
		return EXIT_NOT_DONE;
	}

	r = output_open(&w->output, w->file, STDOUT_FILENO, w->json, w->phases);
	if (r >= 0)
		r = open_signals(w);
	if (r < 0) {
		say("cannot write to '%s': %s", w->file ? w->file : "stdout", strerror(-r));
		return EXIT_NOT_DONE;
	}

	r = attach(w);
	if (r < 0)
		return EXIT_NOT_DONE;

	if (!w->no_follow)
		flags |= MIRROR_NOTIFIER_FOLLOW_FORK | MIRROR_NOTIFIER_FOLLOW_EXEC;
	if (w->phases)
		flags |= MIRROR_NOTIFIER_END;

	r = stream_start(&w->stream, &w->output, w->start, w->end, flags, w->who.text);
	if (r < 0)
		return EXIT_NOT_DONE;

	return loop(w);
}

static int watch_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "output", required_argument, NULL, 'o' },
		{ "json", no_argument, NULL, 'j' },
		{ "range", required_argument, NULL, 'r' },
		{ "ends", no_argument, NULL, 'E' },
		{ "no-follow", no_argument, NULL, 'F' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct watch w = WATCH_NULL;
	int c, status;

	while ((c = getopt_long(argc, argv, ":o:r:h", options, NULL)) >= 0) {
		switch (c) {
		case 'o':
			w.file = optarg;
			break;
		case 'j':
			w.json = true;
			break;
		case 'r':
			if (parse_range(optarg, &w.start, &w.end) < 0)
				return say_bad_usage("watch", "a range is START-END, page aligned, "
						     "in hexadecimal, as in /proc/PID/maps");
			break;
		case 'E':
			w.phases = true;
			break;
		case 'F':
			w.no_follow = true;
			break;
		case 'h':
			fputs(verb_watch.help, stdout);
			return output_finish_stdout() < 0 ? EXIT_NOT_DONE : 0;
		default:
			return say_bad_option("watch", argc, argv, c);
		}
	}

	if (argc - optind != 1)
		return say_bad_usage("watch", "one process or target to watch must be given");
	if (who_parse(&w.who, argv[optind]) < 0)
		return say_bad_usage("watch", "a process is named by its pid, a target by #NUMBER");

	status = watch(&w);

	stream_stop(&w.stream);
	mirror_ctx_unref(w.ctx);
	output_close(&w.output);
	if (w.signal_fd >= 0)
		close(w.signal_fd);
	who_close(&w.who);

	return status;
}

const struct verb verb_watch = {
	.name = "watch",
	.summary = "print the events of a process that is a target already",
	.help =
"Usage: mirrorctl watch [OPTION]... PID | #TARGET | target:TARGET\n"
"\n"
"Print the changes of the address space of a target, live, until it ends or SIGINT.\n"
"\n"
"  -o, --output=FILE      print to FILE instead of stdout\n"
"      --json             print one JSON object a line\n"
"  -r, --range=START-END  only what touches this range: hexadecimal, page aligned\n"
"      --ends             print the end of a change too, where it is told\n"
"      --no-follow        do not follow fork and exec\n"
"  -h, --help             print this\n"
"\n"
"'mirrorctl list' shows the targets.\n",
	.main = watch_main,
};
