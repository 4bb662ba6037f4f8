/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who may observe whom
 *
 * The rule is that of ptrace(2), and the kernel itself is asked what it says.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "scene.h"

static enum way way;

static void start(struct person *p, uid_t uid, int how)
{
	person_meet(p, uid, how, way);
}

static void users(void)
{
	struct person alice, other, bob, root;

	start(&alice, ALICE, AS_USER);
	start(&other, ALICE, AS_USER);
	start(&bob, BOB, AS_USER);
	start(&root, 0, AS_USER);
	ok(ask(&alice, DO_ATTACH_SELF, 0) > 0, "%s: a process observes itself", way_name(way));
	judge(&other, &alice, true, "another one of the same user");
	judge(&bob, &alice, false, "one of another user");
	judge(&alice, &root, false, "root's");
	judge(&root, &alice, true, "root itself");
	same(ask(&alice, DO_DUMPABLE, 0), 0, "a process forbids to be dumped");
	judge(&other, &alice, false, "the same user, but not dumpable");
	ok(ask(&alice, DO_ATTACH_SELF, 0) > 0, "%s: itself still", way_name(way));
	same(ask(&alice, DO_DUMPABLE, 1), 0, "and allows it again");
	judge(&other, &alice, true, "dumpable again");
	person_end(&alice);
	person_end(&other);
	person_end(&bob);
	person_end(&root);
}

/* The same user, and yet more than the user. */
static void more_than_the_user(void)
{
	struct person alice, group, able, mixed;

	start(&alice, ALICE, AS_USER);
	start(&group, ALICE, OTHER_GROUP);
	start(&able, ALICE, WITH_PTRACE);
	start(&mixed, ALICE, SAVED_USER);
	judge(&alice, &group, false, "one that runs for another group");
	judge(&group, &alice, false, "and the other way round");
	judge(&alice, &able, false, "one that has a capability");
	judge(&able, &alice, true, "it itself observes whom it wants");
	judge(&alice, &mixed, false, "one that can become another user");
	person_end(&alice);
	person_end(&group);
	person_end(&able);
	person_end(&mixed);
}

static void capability(void)
{
	struct person able, bob, root;

	start(&able, ALICE, WITH_PTRACE);
	start(&bob, BOB, AS_USER);
	judge(&able, &bob, true, "CAP_SYS_PTRACE: a process of another user");
	same(ask(&bob, DO_DUMPABLE, 0), 0, "which is not dumpable");
	judge(&able, &bob, true, "CAP_SYS_PTRACE: that too");
	same(ask(&bob, DO_DUMPABLE, 1), 0, "which is dumpable again");
	start(&root, 0, WITHOUT_PTRACE);
	judge(&root, &bob, false, "root without capabilities");
	person_end(&root);
	person_end(&able);
	person_end(&bob);
}

/* What another has attached to is none of our business. */
static void lists(void)
{
	struct person alice, other, bob;
	int target;

	start(&alice, ALICE, AS_USER);
	start(&other, ALICE, AS_USER);
	start(&bob, BOB, AS_USER);
	target = ask(&alice, DO_ATTACH_SELF, 0);
	same(ask(&other, DO_SEE, target), 0, "%s: the same user sees a target", way_name(way));
	same(ask(&bob, DO_SEE, target), -ESRCH, "%s: another user does not", way_name(way));
	same(ask(&bob, DO_RING, 0), 0, "%s: a ring", way_name(way));
	same(ask(&bob, DO_WATCH, target), -ESRCH, "%s: nor watch it", way_name(way));
	same(ask(&bob, DO_FILL, target), -ESRCH, "%s: nor look into it", way_name(way));
	same(ask(&bob, DO_DETACH, target), -ESRCH, "%s: nor detach it", way_name(way));
	same(ask(&alice, DO_DUMPABLE, 0), 0, "a process forbids to be dumped");
	same(ask(&other, DO_SEE, target), -ESRCH, "%s: then nobody does", way_name(way));
	person_end(&alice);
	person_end(&other);
	person_end(&bob);
}

int main(int argc, char **argv)
{
	scene_person(argc, argv);
	scene_begin(argc, argv, 100);
	for (way = BY_SOCKET; way < WAYS; way++) {
		scene_start(NULL);
		if (has_way(way)) {
			users();
			more_than_the_user();
			capability();
			lists();
		}
		scene_stop();
	}
	return test_end();
}
