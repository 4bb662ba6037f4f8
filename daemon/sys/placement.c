/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <string.h>
#include "sys/placement.h"

void placement_init(struct placement *p, bool enabled)
{
	*p = (struct placement) PLACEMENT_NULL;
	p->enabled = enabled && sched_getaffinity(0, sizeof(p->allowed), &p->allowed) == 0 &&
		     CPU_COUNT(&p->allowed) > 1;
	if (p->enabled)
		p->load_fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
}

void placement_deinit(struct placement *p)
{
	p->load_fd = fd_close(p->load_fd);
}

/* To @set, or with NULL to all that we may use. */
static void bind_to(struct placement *p, const cpu_set_t *set)
{
	if (!set && !p->bound)
		return;
	if (sched_setaffinity(0, sizeof(*set), set ? set : &p->allowed) < 0)
		return;
	p->moves++;
	p->bound = set;
}

static void follow(struct placement *p, pid_t tid)
{
	cpu_set_t set, now;

	if (sched_getaffinity(tid, sizeof(set), &set) < 0)
		return;
	CPU_AND(&set, &set, &p->allowed);
	if (!CPU_COUNT(&set) || CPU_EQUAL(&set, &p->allowed))
		bind_to(p, NULL);
	else if (sched_getaffinity(0, sizeof(now), &now) < 0 || !CPU_EQUAL(&set, &now))
		bind_to(p, &set);
}

/* Threads that run or want to, we among them: "0.30 0.45 0.50 2/118 4711". */
static void look_at_load(struct placement *p)
{
	char buf[128], *slash;
	ssize_t n;

	p->has_room = false;
	n = pread(p->load_fd, buf, sizeof(buf) - 1, 0);
	if (n <= 0)
		return;
	buf[n] = 0;
	slash = strchr(buf, '/');
	while (slash && slash > buf && slash[-1] >= '0' && slash[-1] <= '9')
		slash--;
	p->has_room = slash && atoi(slash) <= CPU_COUNT(&p->allowed);
}

uint64_t placement_note(struct placement *p, uint64_t now_ns, pid_t pid, pid_t tid)
{
	bool fast = now_ns - p->last_ns < PLACEMENT_FAST_NS;

	p->last_ns = now_ns;
	if (!p->enabled)
		return 0;
	if (++p->events >= PLACEMENT_EVENTS) {
		p->events = 0;
		if (pid)
			follow(p, tid ? tid : pid);
	}
	if (!fast || p->bound || p->load_fd < 0)
		return 0;
	if (now_ns - p->load_ns > PLACEMENT_LOAD_NS) {
		p->load_ns = now_ns;
		look_at_load(p);
	}
	return p->has_room ? PLACEMENT_SPIN_NS : 0;
}
