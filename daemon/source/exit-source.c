/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "source/exit-source.h"

static void exit_ready(struct loop_op *op, int res)
{
	struct exit_source *s = container_of(op, struct exit_source, op);

	if (res < 0 || !(res & POLLIN))
		return;
	loop_stop(op);
	s->sink->ops->gone(s->sink, MIRROR_CAUSE_EXIT);
}

int exit_source_start(struct exit_source *s, struct loop *loop, struct source_sink *sink,
		      int pidfd)
{
	s->sink = sink;
	return loop_poll(loop, &s->op, pidfd, POLLIN, exit_ready);
}

void exit_source_stop(struct exit_source *s)
{
	loop_stop(&s->op);
}
