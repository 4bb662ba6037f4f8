/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Adoption
 *
 * A mirrord ends, by SIGTERM, a crash or SIGKILL, and another one goes on, with nothing
 * lost.  The service manager keeps the descriptors meanwhile (sys/store.h), one of them
 * the state (sys/state.h), which says what the others are.
 *
 * What is kept, and what goes on by itself
 *   sockets	what clients send waits in them
 *   userfaultfds	a target that changes memory waits in its system call: its message is
 *		read by the next mirrord, not by the dead one
 *   rings	the records that were shown, and who consumes them goes on doing so
 *   gates	closed by the kernel, before any descriptor of the dead was closed: nothing
 *		is good meanwhile, and nobody who looks up goes wrong, he waits
 *   mirror tables	not continued: what happened to them last is not known.  Each is
 *		marked as not kept any more, and whoever wants one asks for another
 *   traced threads	let go by the kernel
 *
 * Where death can fall, and what becomes of the change
 *
 *	target		dead mirrord		found		next mirrord
 *	------		------------		-----		------------
 *	munmap: waits				quiet		reads it, tells it: nothing
 *								is lost, nothing told twice
 *			seq odd			not quiet	told OVERFLOW; if it was not
 *								read yet, it is read then
 *	goes on		read()			not quiet	OVERFLOW
 *			started++, seq even	not quiet	OVERFLOW
 *			record written		not quiet	not shown, overwritten; OVERFLOW
 *			tail moved		not quiet	told already, and OVERFLOW
 *			ended++			quiet		told already
 *			consumer woken		quiet		all are woken once more
 *
 *   OVERFLOW is flagged in the ring first, then the gate lives: so a lookup that finds
 *   life finds the flag, and trusts nothing until it has the record.  All versions are
 *   new, as a change of every stripe is counted.  Death can fall here as well: until
 *   the flag is up the gate keeps what shows that it was not quiet.
 *
 *   A CLEAR can be under way that the dead mirrord read and let go.  Its stripes were
 *   open, so the gate is not quiet.  All stripes are left open, and end when no thread
 *   of the target is inside of madvise any more that could have been there before
 *   (source/zap.h).
 *
 *   RELEASE is told to each notifier, and OVERFLOW does not cover it.  The state says
 *   that it is being told, and the ring whether this notifier has it already.
 *
 * Where death can fall in a request
 *   peeked, then taken off the socket, served, answered, done.  The state has phase and
 *   serial (enum state_phase).  BEGUN: what it made bears its number and is not adopted;
 *   the client hears ERESTART and asks again - unless the packet is still there.
 *   SERVED: it is answered once more, which a client that has the answer recognizes by
 *   the serial.  A child of a fork is made as if by a request: half made it runs free.
 *   What was not stored yet dies with its mirrord.  So an answer is held until all that
 *   it promises is stored, and no other request is begun meanwhile; events go on.
 *
 * What cannot be adopted
 *   State of another version, or none: everything is closed, and all are told by the hang-up.
 *   A client that lacks a descriptor is hung up on.  If it is a target, its library sees
 *   that nobody is there and unregisters the memory of the process, so that nothing is told
 *   any more, whoever else watches: the target ends as well.  A target that lacks its
 *   userfaultfd, or a table to mark, ends: RELEASE, cause detach; the process itself is
 *   hung up on, since it may wait for an event to be read, and only its library has the
 *   means to.
 *   One that lacks its gate, which its consumers go by, takes them along as well; but
 *   nobody goes by the gate of a child that he only follows.
 *   Whatever a mirrord dies of as it goes on, the next one dies of as well, while targets
 *   wait: so after some the state is one that cannot be used.
 *   Nothing that is found is believed: bounds, duplicates and references are checked.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include "adopt.h"
#include "adopt-private.h"
#include "client.h"
#include "manager.h"
#include "request.h"
#include "sys/log.h"
#include "sys/store.h"
#include "target.h"

#define FLUSH_MS 1000
#define ATTEMPTS 16	/* targets wait all the time */

static const char letters[] = "SDcpqwkWKugt";

/* "c12"; not "c012", nor a socket that the unit named. */
static bool parse_name(const char *name, struct stored *ret_stored)
{
	char again[STORE_NAME_MAX];
	unsigned long id;

	if (!name[0] || !strchr(letters, name[0]) || name[1] < '0' || name[1] > '9')
		return false;
	errno = 0;
	id = strtoul(name + 1, NULL, 10);
	if (errno || id > UINT32_MAX)
		return false;
	store_name(again, name[0], (uint32_t)id);
	ret_stored->letter = name[0];
	ret_stored->id = (uint32_t)id;
	return !strcmp(again, name);
}

static int by_name(const void *a, const void *b)
{
	const struct stored *x = a, *y = b;

	if (x->letter != y->letter)
		return x->letter < y->letter ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static int index_descriptors(struct adoption *ad, struct inherited *in)
{
	ad->stored = calloc((size_t)in->n + 1, sizeof(*ad->stored));
	if (!ad->stored)
		return -ENOMEM;
	for (unsigned int i = 0; i < in->n; i++) {
		struct stored s = { .from = &in->fds[i] };

		if (in->fds[i].fd >= 0 && parse_name(in->fds[i].name, &s))
			ad->stored[ad->n_stored++] = s;
	}
	qsort(ad->stored, ad->n_stored, sizeof(*ad->stored), by_name);
	return 0;
}

int *adoption_fd(struct adoption *ad, char letter, uint32_t id)
{
	static int none;
	struct stored key = { .letter = letter, .id = id }, *found;

	none = -1;
	found = bsearch(&key, ad->stored, ad->n_stored, sizeof(key), by_name);
	if (!found)
		return &none;
	/* of two with one name neither is to be trusted */
	if ((found > ad->stored && !by_name(found - 1, found)) ||
	    (found + 1 < ad->stored + ad->n_stored && !by_name(found, found + 1)))
		return &none;
	return &found->from->fd;
}

/* What nobody took; who waits at the other end hears that it is over. */
static void drop_rest(struct adoption *ad, bool device_too)
{
	for (size_t i = 0; i < ad->n_stored; i++) {
		struct stored *s = &ad->stored[i];

		if (s->from->fd < 0 || (s->letter == 'D' && !device_too))
			continue;
		if (strchr("cwk", s->letter))
			shutdown(s->from->fd, SHUT_RDWR);
		s->from->fd = fd_close(s->from->fd);
		store_remove_name(ad->manager->store, s->from->name);
	}
}

bool adoption_is_half_made(const struct adoption *ad, uint64_t made_by)
{
	return made_by && (made_by == ad->fork || (ad->request.phase == STATE_BEGUN &&
						   made_by == ad->request.number));
}

void adoption_for_each(struct adoption *ad, enum state_kind kind,
		       int (*fn)(struct adoption *ad, struct state_slot *slot))
{
	struct state *state = ad->manager->state;

	for (uint32_t i = 0; i < state_n_slots(state); i++) {
		struct state_slot *slot = state_slot_at(state, i);
		int r;

		if (slot->kind != (uint32_t)kind)
			continue;
		r = adoption_is_half_made(ad, slot->made_by) ? -ERESTART : fn(ad, slot);
		if (r >= 0)
			continue;
		log_debug("slot %u of kind %u, id %u is not adopted: error %d", i,
			  slot->kind, slot->id, -r);
		if (r != -ERESTART && (kind == STATE_CLIENT || kind == STATE_TARGET))
			ad->n_lost++;
		if (slot->kind != STATE_FREE)	/* an object was made and freed with it */
			state_slot_free(state, slot);
	}
}

static int adopt_everything(struct adoption *ad)
{
	struct manager *m = ad->manager;

	ad->request = state_get_request(m->state);
	ad->fork = state_get_fork(m->state);
	ad->objects = calloc((size_t)state_n_slots(m->state) + 1, sizeof(*ad->objects));
	if (!ad->objects)
		return -ENOMEM;
	m->quota.adopting = true;	/* what was allowed once is not refused now */
	adoption_for_each(ad, STATE_CLIENT, adopt_client);
	adoption_for_each(ad, STATE_TARGET, adopt_target);
	adoption_for_each(ad, STATE_ATTACHMENT, adopt_attachment);
	adoption_for_each(ad, STATE_NOTIFIER, adopt_notifier);
	list_for_each_safe(l, &m->targets)
		adopt_target_finish(ad, list_entry(l, struct target, link));
	m->quota.adopting = false;
	adopt_client_request(ad);
	state_done(m->state);
	state_fork_end(m->state);
	adopt_clients_finish(ad);
	free(ad->objects);
	log_event(LOG_NORMAL, LOG_FIELDS(.event = "adopted"),
		  "adopted %u targets, %u clients; %u could not be", m->n_targets, m->n_clients,
		  ad->n_lost);
	return 0;
}

/* Nothing to go on with: a state of our own, for the next one. */
static int begin_anew(struct manager *m)
{
	struct state *state;
	int r;

	r = state_new(&state, true);
	if (r < 0)
		return r;
	state_free(m->state);
	m->state = state;
	store_put(m->store, 'S', 0, state_get_fd(state));
	return 0;
}

static int adopt_state(struct adoption *ad)
{
	int *fd = adoption_fd(ad, 'S', 0), r;
	struct state *state;

	r = *fd < 0 ? -ENOENT : state_open(&state, *fd);
	if (r < 0) {
		if (r != -ENOENT)
			log_error("what was kept cannot be used: %s", strerror(-r));
		return r;
	}
	*fd = -1;
	if (state_attempt(state) > ATTEMPTS) {
		log_error("%d mirrords died of going on with what was kept: it is dropped",
			  ATTEMPTS);
		state_free(state);
		store_remove(ad->manager->store, 'S', 0);
		return -ENOTRECOVERABLE;
	}
	state_free(ad->manager->state);
	ad->manager->state = state;
	return 0;
}

/* All is stored: who was kept waiting for that goes on. */
static void release_answers(void *userdata)
{
	struct manager *m = userdata;

	list_for_each_safe(l, &m->clients) {
		struct client *c = list_entry(l, struct client, link);

		if (store_is_behind(m->store))
			return;		/* that of one more has to be stored, first */
		if (c->conn.fd >= 0)
			request_release(c);
	}
}

int adopt(struct manager *m, struct inherited *in)
{
	struct adoption ad = { .manager = m };
	int r;

	if (!m->store)
		return 0;
	store_set_idle(m->store, release_answers, m);
	r = index_descriptors(&ad, in);
	if (r < 0)
		return r;
	if (adopt_state(&ad) < 0) {
		drop_rest(&ad, true);
		r = begin_anew(m);
	} else {
		r = adopt_everything(&ad);
		drop_rest(&ad, false);
	}
	free(ad.stored);
	return r;
}

void adopt_done(struct manager *m)
{
	state_attempt_done(m->state);
}

void adopt_prepare(struct manager *m)
{
	adopt_done(m);		/* an orderly end: it did not die of anything */
	if (m->store && store_flush(m->store, FLUSH_MS) < 0)
		log_error("not everything could be stored: who lacks it will be hung up on");
}
