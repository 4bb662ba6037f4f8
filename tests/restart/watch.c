/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "watch.h"

#define WAIT_MS	20000
#define ROOM	(1UL << 30)

char *watch_page(void)
{
	char *room = mmap(NULL, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);

	if (room == MAP_FAILED)
		bail("mmap: %s", strerror(errno));
	munmap(room, ROOM);
	return room + ROOM / 2;
}

void page_map(char *page)
{
	if (mmap(page, PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != page)
		bail("mmap of a page: %s", strerror(errno));
	*page = 1;
}

void page_change(char *page)
{
	if (munmap(page, PAGE) < 0)
		bail("munmap of a page: %s", strerror(errno));
	page_map(page);
}

static void on_event(struct mirror_notifier *notifier, const struct mirror_event *ev, void *data)
{
	struct watch *w = data;

	(void)notifier;
	if (ev->type == MIRROR_EVENT_OVERFLOW)
		w->overflows++;
	else
		w->last = *ev;
	if (ev->type == MIRROR_EVENT_FORK)
		w->fork = *ev;
	if (!ev->seq)			/* the library says that it is over */
		return;
	w->records++;
	w->gaps += ev->seq != ++w->seq;
	w->seq = ev->seq;
}

static int watch_any(struct watch *w, const struct kept *k, pid_t pid, char *page, uint32_t flags)
{
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops), .invalidate = on_event, .flags = flags,
	};
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	uint64_t at = (uintptr_t)page;
	int pidfd, r;

	*w = (struct watch) { .page = page };
	open.path = k->place.socket;
	open.flags = MIRROR_OPEN_NO_EMBEDDED;
	r = mirror_open(&w->ctx, &open);
	if (r < 0)
		return r;
	if (pid) {
		pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		r = mirror_target_attach(&w->target, w->ctx, pidfd, -1, NULL);
		close(pidfd);
	} else {
		r = mirror_target_attach_self(&w->target, w->ctx, NULL);
	}
	if (r == 0)
		r = mirror_notifier_insert(&w->notifier, w->target, at, at + PAGE, &ops, w);
	return r;
}

int watch_self(struct watch *w, const struct kept *k, char *page, uint32_t flags)
{
	return watch_any(w, k, 0, page, flags);
}

int watch_other(struct watch *w, const struct kept *k, pid_t pid, char *page, uint32_t flags)
{
	return watch_any(w, k, pid, page, flags);
}

void watch_end(struct watch *w)
{
	w->notifier = mirror_notifier_remove(w->notifier);
	w->target = mirror_target_unref(w->target);
	w->ctx = mirror_ctx_unref(w->ctx);
}

int watch_look(struct watch *w)
{
	uint64_t at = (uintptr_t)w->page, end = now_ms() + WAIT_MS;
	int r;

	do
		r = mirror_read_begin(w->notifier, at, at + PAGE, &w->version);
	while ((r == -EAGAIN || (r == 0 && !watch_is_good(w))) && now_ms() < end);
	return r == 0 && !watch_is_good(w) ? -ETIMEDOUT : r;
}

bool watch_is_good(const struct watch *w)
{
	uint64_t at = (uintptr_t)w->page;

	return !mirror_read_retry(w->notifier, at, at + PAGE, w->version);
}

bool watch_is_told(struct watch *w)
{
	uint64_t end = now_ms() + WAIT_MS;
	int r;

	do
		r = mirror_wait(w->ctx, 100);
	while (r >= 0 && now_ms() < end);
	return r == -EPIPE && !watch_is_good(w);
}

bool watch_wait(struct watch *w, uint32_t type)
{
	uint64_t end = now_ms() + WAIT_MS;
	int r = 0;

	while (w->last.type != type && r >= 0 && now_ms() < end)
		r = mirror_wait(w->ctx, 100);
	return w->last.type == type;
}

struct mirror_stats ask_stats(const struct kept *k)
{
	struct mirror_open_opts open = MIRROR_OPEN_OPTS_INIT;
	struct mirror_stats stats = { .size = sizeof(stats) };
	struct mirror_ctx *ctx;

	open.path = k->place.socket;
	open.flags = MIRROR_OPEN_NO_RING | MIRROR_OPEN_NO_EMBEDDED;
	if (mirror_open(&ctx, &open) < 0 || mirror_daemon_get_stats(ctx, &stats) < 0)
		bail("no statistics");
	mirror_ctx_unref(ctx);
	stats.clients--;
	return stats;
}

struct mirror_stats wait_stats(const struct kept *k, uint32_t clients, uint32_t targets)
{
	uint64_t end = now_ms() + WAIT_MS;
	struct mirror_stats stats;

	do {
		stats = ask_stats(k);
		nap_ms(1);
	} while ((stats.clients > clients || stats.targets > targets) && now_ms() < end);
	return stats;
}
