/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Limits are of users
 *
 * Who reaches one is told so, in whatever process; another user does not notice: none of
 * its events is lost.  When something is given back there is room again.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
#include "scene.h"

#define CLIENTS		100
#define EVENTS		20
#define PATIENCE_MS	20000

static enum way way;
static struct person bob;

/* How something ends that others have to give back first, which they do in the end. */
static int ask_until(struct person *p, enum deed deed, int arg)
{
	uint64_t end = now_ms() + PATIENCE_MS;
	int r;

	do {
		r = ask(p, deed, arg);
	} while (r == -EDQUOT && now_ms() < end);
	return r;
}

/* The other user's process goes on as if nothing was. */
static void undisturbed(const char *when)
{
	int before = ask(&bob, DO_COUNT, 0);

	same(ask(&bob, DO_CLEAR, EVENTS), 0, "%s, %s: another user works on", way_name(way), when);
	same(ask(&bob, DO_COUNT, 0) - before, EVENTS, "%s, %s: and is told all", way_name(way),
	     when);
}

static void start_bob(void)
{
	int target;

	person_meet(&bob, BOB, AS_USER, way);
	target = ask(&bob, DO_ATTACH_SELF, 0);
	same(ask(&bob, DO_RING, 0), 0, "the other user's ring");
	same(ask(&bob, DO_WATCH, target), 0, "and notifier");
	undisturbed("at first");
}

static void notifiers(void)
{
	struct person alice, again;
	int target, others;

	person_meet(&alice, ALICE, AS_USER, way);
	person_meet(&again, ALICE, AS_USER, way);
	target = ask(&alice, DO_ATTACH_SELF, 0);
	others = ask(&again, DO_ATTACH_SELF, 0);
	same(ask(&alice, DO_RING, 0), 0, "a ring");
	same(ask(&again, DO_RING, 0), 0, "a ring");
	for (int i = 0; i < 3; i++)
		same(ask(&alice, DO_WATCH, target), 0, "notifier %d", i);
	same(ask(&alice, DO_WATCH, target), -EDQUOT, "%s: one too many", way_name(way));
	same(ask(&again, DO_WATCH, others), -EDQUOT, "%s: also for another process",
	     way_name(way));
	undisturbed("no notifiers left");
	same(ask(&alice, DO_UNWATCH, 0), 0, "one is removed");
	same(ask(&again, DO_WATCH, others), 0, "%s: there is room again", way_name(way));
	person_end(&alice);
	person_end(&again);
}

static void targets(void)
{
	struct person alice[3];
	int target = 0;

	for (int i = 0; i < 3; i++) {
		person_meet(&alice[i], ALICE, AS_USER, way);
		target = i < 2 ? ask_until(&alice[i], DO_ATTACH_SELF, 0) : target;
	}
	ok(target > 0, "%s: two targets", way_name(way));
	same(ask(&alice[2], DO_ATTACH_SELF, 0), -EDQUOT, "%s: one too many", way_name(way));
	undisturbed("no targets left");
	same(ask(&alice[1], DO_DETACH, target), 0, "one is detached");
	ok(ask(&alice[2], DO_ATTACH_SELF, 0) > 0, "%s: there is room again", way_name(way));
	for (int i = 0; i < 3; i++)
		person_end(&alice[i]);
}

static void rings(void)
{
	struct person alice[3];

	for (int i = 0; i < 3; i++)
		person_meet(&alice[i], ALICE, AS_USER, way);
	same(ask_until(&alice[0], DO_RING, 0), 0, "a ring");
	same(ask_until(&alice[1], DO_RING, 0), 0, "a ring");
	same(ask(&alice[2], DO_RING, 0), -EDQUOT, "%s: one too many", way_name(way));
	undisturbed("no rings left");
	person_end(&alice[0]);
	same(ask_until(&alice[2], DO_RING, 0), 0, "%s: there is room again", way_name(way));
	person_end(&alice[1]);
	person_end(&alice[2]);
}

static void tables(void)
{
	struct person alice[2];
	int target[2];

	for (int i = 0; i < 2; i++) {
		person_meet(&alice[i], ALICE, AS_USER, way);
		target[i] = ask_until(&alice[i], DO_ATTACH_SELF, 0);
	}
	same(ask_until(&alice[0], DO_FILL, target[0]), 1, "a mirror table");
	same(ask(&alice[1], DO_FILL, target[1]), -EDQUOT, "%s: one too many", way_name(way));
	undisturbed("no tables left");
	same(ask(&alice[0], DO_DETACH, target[0]), 0, "one target is detached");
	same(ask(&alice[1], DO_FILL, target[1]), 1, "%s: there is room again", way_name(way));
	person_end(&alice[0]);
	person_end(&alice[1]);
}

/* Each open file is a client. */
static void files(void)
{
	struct person alice, again;

	person_start(&alice, ALICE, AS_USER);
	person_start(&again, ALICE, AS_USER);
	same(ask(&alice, DO_OPEN_MANY, 2 * CLIENTS), CLIENTS, "the device is opened very often");
	same(ask(&again, DO_CONNECT, BY_DEVICE), -EDQUOT, "it cannot be opened once more");
	undisturbed("no clients left");
	same(ask(&alice, DO_CLOSE_ONE, 0), 0, "one is closed");
	same(ask_until(&again, DO_CONNECT, BY_SOCKET), 0, "there is room for a connection");
	person_end(&alice);
	person_end(&again);
}

int main(int argc, char **argv)
{
	static const char *const few[] = {
		"--max-notifiers", "3", "--max-targets", "2", "--max-channels", "2",
		"--max-tables", "1", "--max-clients", "100", NULL,
	};

	scene_person(argc, argv);
	scene_begin(argc, argv, 100);
	scene_start(few);
	for (way = BY_SOCKET; way < WAYS; way++) {
		if (!has_way(way))
			continue;
		start_bob();
		notifiers();
		targets();
		rings();
		tables();
		if (way == BY_DEVICE)
			files();
		person_end(&bob);
	}
	scene_stop();
	return test_end();
}
