/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "mirrorctl.h"
#include "output.h"
#include "place.h"
#include "say.h"
#include "stream.h"

struct watch {
	/* options */
	const char *file;
	bool json, phases, no_follow;
	uint64_t start, end;

	struct mirror_ctx *ctx;
	struct stream stream;
	struct output output;
	int pidfd;
	int signal_fd;
};

#define WATCH_NULL {							\
		.start = STREAM_START,					\
		.end = STREAM_END,					\
		.stream = STREAM_NULL,					\
		.output = OUTPUT_NULL,					\
		.pidfd = -1,						\
		.signal_fd = -1,					\
	}

static int parse_number(const char *text, int base, uint64_t max, const char **ret_rest,
			uint64_t *ret_number)
{
	unsigned long long number;
	char *rest;

	/* strtoull() takes blanks and signs */
	if (!isxdigit((unsigned char)*text))
		return -EINVAL;

	errno = 0;
	number = strtoull(text, &rest, base);
	if (errno || rest == text || number > max)
		return -EINVAL;
	if (!ret_rest && *rest)
		return -EINVAL;

	if (ret_rest)
		*ret_rest = rest;
	*ret_number = number;

	return 0;
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

/* PID, #TARGET or target:TARGET; @ret_target is 0 for a pid */
static int parse_who(const char *text, uint32_t *ret_target, pid_t *ret_pid)
{
	bool target = true;
	uint64_t number;

	if (!strncmp(text, "target:", 7))
		text += 7;
	else if (*text == '#')
		text++;
	else
		target = false;

	if (parse_number(text, 10, target ? UINT32_MAX : INT32_MAX, NULL, &number) < 0 || !number)
		return -EINVAL;

	*ret_target = target ? (uint32_t)number : 0;
	*ret_pid = target ? 0 : (pid_t)number;

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

static int attach(struct watch *w, const char *who, uint32_t target, pid_t pid)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	char what[64];
	int r;

	if (target) {
		snprintf(what, sizeof(what), "target %u", target);
		r = mirror_query_target(w->ctx, target, 0, &info);
		if (r < 0) {
			say_error(SAY_ASK, r, what);
			return r;
		}
		pid = info.pid;
	} else {
		snprintf(what, sizeof(what), "process %s", who);
	}

	w->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (w->pidfd < 0) {
		r = -errno;
		say_error(SAY_ATTACH, r == -EINVAL ? -ESRCH : r, what);
		return r;
	}

	r = stream_attach(&w->stream, w->ctx, w->pidfd, MIRROR_ATTACH_ARM_ALL, what);
	if (r < 0)
		return r;

	/* the process was named by number; that number may be somebody else's by now */
	if (target && w->stream.id != target) {
		say_error(SAY_ATTACH, -ESRCH, what);
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

static int watch(struct watch *w, const char *who, uint32_t target, pid_t pid)
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

	r = attach(w, who, target, pid);
	if (r < 0)
		return EXIT_NOT_DONE;

	if (!w->no_follow)
		flags |= MIRROR_NOTIFIER_FOLLOW_FORK | MIRROR_NOTIFIER_FOLLOW_EXEC;
	if (w->phases)
		flags |= MIRROR_NOTIFIER_END;

	r = stream_start(&w->stream, &w->output, w->start, w->end, flags, who);
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
	uint32_t target;
	pid_t pid;
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
	if (parse_who(argv[optind], &target, &pid) < 0)
		return say_bad_usage("watch", "a process is named by its pid, a target by #NUMBER");

	status = watch(&w, argv[optind], target, pid);

	stream_stop(&w.stream);
	mirror_ctx_unref(w.ctx);
	output_close(&w.output);
	if (w.signal_fd >= 0)
		close(w.signal_fd);
	if (w.pidfd >= 0)
		close(w.pidfd);

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
