/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "place.h"
#include "say.h"

#define DEFAULT_SOCKET	"/run/mirror/control"

const char *place_system_socket(void)
{
	const char *path = getenv("MIRROR_SOCKET");

	return path && *path ? path : DEFAULT_SOCKET;
}

static int make_dir(struct place *p)
{
	const char *bases[] = { getenv("XDG_RUNTIME_DIR"), "/tmp" };
	size_t i, n;

	for (i = 0; i < sizeof(bases) / sizeof(*bases); i++) {
		if (!bases[i] || *bases[i] != '/')
			continue;

		n = (size_t)snprintf(p->dir, sizeof(p->dir), "%s/mirror-run-XXXXXX", bases[i]);
		if (n + sizeof("/control") <= sizeof(p->socket) && mkdtemp(p->dir)) {
			memcpy(p->socket, p->dir, n);
			memcpy(p->socket + n, "/control", sizeof("/control"));
			return 0;
		}
	}

	p->dir[0] = 0;

	return -errno;
}

static int open_embedded(struct place *p, bool quiet)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	int r;

	r = make_dir(p);
	if (r < 0) {
		say("cannot make a directory for a private mirrord in $XDG_RUNTIME_DIR or /tmp: %s",
		    strerror(-r));
		return r;
	}

	opts.path = p->socket;
	opts.flags = MIRROR_OPEN_EMBEDDED;
	r = mirror_open(&p->ctx, &opts);
	if (r < 0) {
		say_error(SAY_OPEN_EMBEDDED, r, p->socket);
		return r;
	}

	if (!quiet && !(mirror_ctx_get_features(p->ctx) & MIRROR_FEAT_EVENT(MIRROR_EVENT_FORK)))
		say("without privileges fork is not told, and a child is watched only from when "
		    "it has attached itself");

	return 0;
}

static int open_system(struct place *p)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	int n;

	n = snprintf(p->socket, sizeof(p->socket), "%s", place_system_socket());
	if (n < 0 || (size_t)n >= sizeof(p->socket))
		return -ENAMETOOLONG;

	opts.path = p->socket;
	opts.flags = MIRROR_OPEN_NO_EMBEDDED;

	return mirror_open(&p->ctx, &opts);
}

int place_open(struct place *place, bool embedded, bool quiet)
{
	const char *set = getenv("MIRROR_EMBEDDED");
	int r;

	if (embedded || (set && !strcmp(set, "1")))
		return open_embedded(place, quiet);

	r = open_system(place);
	if (r == -ENOENT || r == -ECONNREFUSED || r == -EACCES) {
		if (!quiet)
			say("no mirrord can be reached at %s; using a private one for this run",
			    place->socket);
		return open_embedded(place, quiet);
	}
	if (r < 0)
		say_error(SAY_OPEN, r, place->socket);

	return r;
}

void place_close(struct place *place)
{
	place->ctx = mirror_ctx_unref(place->ctx);

	/* the daemon removes its socket itself, unless it was killed */
	if (place->dir[0]) {
		unlink(place->socket);
		rmdir(place->dir);
		place->dir[0] = 0;
	}
}
