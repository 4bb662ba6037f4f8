/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Adoption: going on where another mirrord stopped; see adopt.c
 */

struct inherited;
struct manager;

/*
 * Takes what can be used of @in.  State of another version, or none: nothing is
 * adopted, m->state begins anew, and everybody who was served hears that it is over.
 * 0 or -errno; what could not be adopted is no error.
 */
int adopt(struct manager *m, struct inherited *in);

/* It went well for a while.  Too many that do not get here, and the state is dropped. */
void adopt_done(struct manager *m);

/* Before an orderly end: everything is in the store that the next one needs. */
void adopt_prepare(struct manager *m);
