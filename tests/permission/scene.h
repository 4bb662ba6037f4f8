/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Users and their processes, played by children that do what they are told
 */

#include "raw.h"

/* Nobody has these, and they need no entry anywhere. */
#define ALICE	65533
#define BOB	65532

enum way { BY_SOCKET, BY_DEVICE, WAYS };

extern struct daemon d;

/* In a program that was executed: the stage is there. */
void scene_take(const char *directory);
/* First of all: does not return in a person that was told to exec. */
void scene_person(int argc, char **argv);
/* Skips everything unless root runs it. */
void scene_begin(int argc, char **argv, unsigned int seconds);
/* With a device too, where it can be had. */
void scene_start(const char *const *args);
void scene_stop(void);
bool has_way(enum way way);	/* prints a skip where it has not */
const char *way_name(enum way way);

/* A connection, or -errno. */
int way_connect(enum way way);
/* The same with that end of a socketpair: 0 or -errno. */
int device_connect(int device_fd, int socket_fd);
int device_open(void);
int device_connect_by(int device_fd);
/* The caller becomes root in a user namespace of its own: 0 or -errno. */
int become_root_in_namespace(void);

struct person {
	pid_t pid;		/* of whom does it, as we see it */
	pid_t keeper;		/* of our child, which is another in a pid namespace */
	int sock, pidfd;
};

/* What a person can be told to do; each answers with 0, a number, or -errno. */
enum deed {
	DO_NOTHING,
	DO_CONNECT,		/* arg: the way */
	DO_TAKE_CONNECTION,	/* fd: from now on its own */
	DO_GIVE_CONNECTION,	/* fd comes back */
	DO_ATTACH_SELF,		/* target */
	DO_ATTACH,		/* fd: a pidfd; arg: flags; target */
	DO_DETACH,		/* arg: target */
	DO_SEE,			/* arg: target; 0 or why not */
	DO_RING,
	DO_WATCH,		/* arg: target; the page that every person has */
	DO_UNWATCH,		/* what was watched last */
	DO_UNMAP,		/* that page, and maps it again */
	DO_CLEAR,		/* arg: how many times */
	DO_COUNT,		/* records in the ring */
	DO_FILL,		/* arg: target; pages found present */
	DO_DUMPABLE,		/* arg: the flag */
	DO_USER_NAMESPACE,	/* becomes root in a new one */
	DO_CHILD,		/* a child that waits; pidfd comes back */
	DO_SHARED_CHILD,	/* the same, in the same memory */
	DO_OPEN_DEVICE,		/* fd comes back */
	DO_USE_DEVICE,		/* fd: a device; connects by it */
	DO_OPEN_MANY,		/* arg: at most; opens the device that often: how often it could */
	DO_CLOSE_ONE,		/* of these */
	DO_OFFER,		/* fd: a socket; connects it by a device of the person's own */
	DO_PTRACE,		/* arg: a pid; 0 or what the kernel says */
	DO_EXEC,		/* arg: enum program */
	DO_BECOME,		/* what it can be by that: its real user too */
};

enum program { OURS, BOBS, ROOTS, PROGRAMS };

enum {
	AS_USER,
	IN_PID_NAMESPACE,
	WITH_PID,		/* with the pid of @p, which must be free again */
	WITH_PTRACE,		/* it has CAP_SYS_PTRACE, and no other */
	WITHOUT_PTRACE,		/* it has none */
	OTHER_GROUP,
	SAVED_USER,		/* it can become BOB */
};

/* A process of @uid, dumpable as those that a login starts. */
void person_start(struct person *p, uid_t uid, int how);
void person_end(struct person *p);
int ask(struct person *p, enum deed deed, int arg);
int ask_with(struct person *p, enum deed deed, int arg, int fd, int *ret_fd);
/* With @p's pidfd. */
int ask_attach(struct person *who, struct person *whom, uint32_t flags);
/* A person that has connected. */
void person_meet(struct person *p, uid_t uid, int how, enum way way);
/* May @who observe @whom?  The kernel is asked too, and says the same. */
void judge(struct person *who, struct person *whom, bool allowed, const char *what);
