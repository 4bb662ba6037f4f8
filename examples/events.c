/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The smallest consumer: watch a buffer of one's own and print what happens to it
 */

#define _GNU_SOURCE 1
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <mirror/mirror.h>

#define SIZE	(16UL * 4096)

static void on_invalidate(struct mirror_notifier *notifier, const struct mirror_event *event,
			  void *userdata)
{
	char line[256];

	(void)notifier;
	(void)userdata;

	/* a real consumer empties its device page table here, before it returns */
	mirror_event_format(event, line, sizeof(line));
	puts(line);
}

static void check(int r, const char *what)
{
	if (r >= 0)
		return;

	fprintf(stderr, "events: %s: %s\n", what, strerror(-r));
	exit(EXIT_FAILURE);
}

int main(void)
{
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops),
		.flags = MIRROR_NOTIFIER_END,
		.invalidate = on_invalidate,
	};
	struct mirror_notifier *notifier;
	struct mirror_target *target;
	struct mirror_ctx *ctx;
	char *buffer, *moved;
	pid_t child;
	int r;

	buffer = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer == MAP_FAILED)
		check(-errno, "mmap");
	memset(buffer, 1, SIZE);

	check(mirror_open(&ctx, NULL), "mirror_open");
	check(mirror_target_attach_self(&target, ctx, NULL), "mirror_target_attach_self");
	check(mirror_notifier_insert(&notifier, target, (uintptr_t)buffer,
				     (uintptr_t)buffer + SIZE, &ops, NULL),
	      "mirror_notifier_insert");

	/* the first quarter gets other pages, the last goes, the rest moves */
	madvise(buffer, SIZE / 4, MADV_DONTNEED);
	munmap(buffer + SIZE / 4 * 3, SIZE / 4);
	moved = mremap(buffer, SIZE / 4 * 3, SIZE * 4, MREMAP_MAYMOVE);
	if (moved == MAP_FAILED)
		check(-errno, "mremap");
	child = fork();
	if (!child)
		_exit(0);
	waitpid(child, NULL, 0);

	/* who looks up addresses gets all records from mirror_read_begin(); here we wait */
	do {
		r = mirror_wait(ctx, 200);
		check(r, "mirror_wait");
	} while (r > 0);

	munmap(moved, SIZE * 4);
	mirror_notifier_remove(notifier);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);

	return EXIT_SUCCESS;
}
