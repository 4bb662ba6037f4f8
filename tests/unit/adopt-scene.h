/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * One manager that dies by SIGKILL wherever a test wants it to, another that adopts what
 * it left, and a store between them
 *
 * The target is this very process, with a userfaultfd that nothing is registered with, so
 * that what is told is what the test hands to the sink.  Or it is a child of its own.
 */

#include <sys/types.h>
#include "client.h"
#include "manager.h"
#include "sys/service.h"
#include "target.h"

/* Far from everything that is mapped. */
#define A 0x200000000000ULL
#define P PAGE_BYTES

#define SHELF 64

struct scene {
	struct manager m;
	struct client *client;
	struct target *target;
	struct attachment *attachment;
	int peer, client_fd;		/* the two ends of its socket */
	int uffd;
	pid_t pid;			/* of the target */
	bool is_self, peek;
	uint32_t entries;
	/* what is stored */
	int notify;
	struct inherited shelf;
};

/* One of this process, on which UFFDIO_API is done. */
int scene_new_uffd(void);
/* Sockets and store; no manager yet. */
void scene_init(struct scene *s, uint32_t entries);
/* The target is a child from now on, that only waits. */
void scene_use_child(struct scene *s);
void scene_end(struct scene *s);

/* Runs @fn in a process of its own with a manager, client and target, then kills it. */
void scene_die(struct scene *s, void (*fn)(struct scene *s));
/* The same from here on: what is there is adopted first. */
void scene_die_again(struct scene *s, void (*fn)(struct scene *s));
/* Takes what died into a manager of this process: 0 or -errno. */
int scene_adopt(struct scene *s);

/*
 * A process with a manager that serves: the one end of the socket, or whom it adopts.
 * Messages to the store are to be taken meanwhile.
 */
pid_t scene_serve(struct scene *s, bool again);
void scene_take_messages(struct scene *s);

/* The descriptor that is stored under this name, ours still; -1: none. */
int scene_stored(struct scene *s, const char *name);
/* That descriptor is lost. */
void scene_lose(struct scene *s, char letter);
/* How many of that letter there are. */
unsigned int scene_count(struct scene *s, char letter);

/* Turns the loop until @done, or for a long time. */
bool scene_run(struct scene *s, bool (*done)(struct scene *s));

struct notifier *scene_watch(struct scene *s, uint64_t start, uint64_t end, uint32_t flags);
/* The next record, as a consumer takes it. */
bool scene_take(struct scene *s, struct mirror_event *ret_event);
