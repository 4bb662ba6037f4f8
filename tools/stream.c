/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <time.h>
#include "say.h"
#include "stream.h"

static pid_t target_to_pid(struct stream *s, uint32_t target)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	pid_t pid;
	int r;

	if (!target)
		return 0;

	pid = pids_get(&s->pids, target);
	if (pid > 0 || s->lost_daemon)
		return pid;

	r = mirror_query_target(s->ctx, target, 0, &info);
	if (r < 0 || info.pid <= 0)
		return 0;

	pids_set(&s->pids, target, info.pid);

	return info.pid;
}

/*
 * The kernel tells of a fork before the child can be seen, and mirrord has to go
 * looking for it.  People read pids, so it is worth a few milliseconds here; the
 * target does not wait for us.
 */
static pid_t wait_for_pid(struct stream *s, uint32_t target)
{
	const struct timespec pause = { .tv_nsec = 500000 };
	pid_t pid;
	int i;

	for (i = 0; i < 16 && !s->lost_daemon; i++) {
		pid = target_to_pid(s, target);
		if (pid > 0)
			return pid;
		nanosleep(&pause, NULL);
	}

	return 0;
}

static pid_t child_to_pid(struct stream *s, const struct mirror_event *event)
{
	if (event->arg.fork.pid <= 0)
		return event->arg.fork.target ? wait_for_pid(s, event->arg.fork.target) : 0;

	if (event->arg.fork.target)
		pids_set(&s->pids, event->arg.fork.target, event->arg.fork.pid);

	return event->arg.fork.pid;
}

static void on_event(struct mirror_notifier *notifier, const struct mirror_event *event,
		     void *userdata)
{
	struct stream *s = userdata;
	pid_t pid, child = 0;
	bool gone;

	(void)notifier;

	pid = target_to_pid(s, event->target);
	if (event->type == MIRROR_EVENT_FORK)
		child = child_to_pid(s, event);

	output_event(s->output, event, pid, child);

	/* an exec ends the address space, not the target: we asked to go on after it */
	gone = event->type == MIRROR_EVENT_RELEASE &&
	       (event->cause != MIRROR_CAUSE_EXEC || (event->flags & MIRROR_EVENT_F_LAST));
	if (gone && event->target == s->id)
		s->released = true;
	else if (gone)
		pids_forget(&s->pids, event->target);
}

int stream_attach(struct stream *stream, struct mirror_ctx *ctx, int pidfd, uint32_t flags,
		  const char *what)
{
	struct mirror_attach_opts opts = MIRROR_ATTACH_OPTS_INIT;
	int r;

	opts.flags = flags;
	r = mirror_target_attach(&stream->target, ctx, pidfd, -1, &opts);
	if (r < 0) {
		say_error(SAY_ATTACH, r, what);
		return r;
	}

	stream->ctx = ctx;
	stream->id = mirror_target_get_id(stream->target);
	pids_set(&stream->pids, stream->id, mirror_target_get_pid(stream->target));

	return 0;
}

int stream_start(struct stream *stream, struct output *output, uint64_t start, uint64_t end,
		 uint32_t flags, const char *what)
{
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops),
		.flags = flags,
		.invalidate = on_event,
	};
	int r;

	stream->output = output;
	r = mirror_notifier_insert(&stream->notifier, stream->target, start, end, &ops, stream);
	if (r < 0)
		say_error(SAY_WATCH, r, what);

	return r;
}

void stream_stop(struct stream *stream)
{
	stream->notifier = mirror_notifier_remove(stream->notifier);
	stream->target = mirror_target_unref(stream->target);
	pids_deinit(&stream->pids);
}

static void lose_daemon(struct stream *s)
{
	if (s->lost_daemon)
		return;

	s->lost_daemon = true;
	say("mirrord is gone; changes from here on are not seen.  Its log, if it is not a private "
	    "one: 'journalctl -u mirrord'");
}

int stream_prepare(struct stream *stream)
{
	int r;

	if (stream->lost_daemon)
		return -EPIPE;

	r = mirror_prepare_wait(stream->ctx);
	if (r < 0)
		lose_daemon(stream);

	return r;
}

void stream_pump(struct stream *stream)
{
	int r;

	if (!stream->lost_daemon) {
		r = mirror_dispatch(stream->ctx);
		if (r < 0)
			lose_daemon(stream);
	}

	output_flush(stream->output);
}

bool stream_was_armed(struct stream *stream)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	int r;

	/* when in doubt do not complain */
	if (stream->lost_daemon)
		return true;

	r = mirror_query_target(stream->ctx, stream->id, 0, &info);
	if (r < 0)
		return true;

	return info.state == MIRROR_TARGET_ARMED || info.armed || info.events;
}
