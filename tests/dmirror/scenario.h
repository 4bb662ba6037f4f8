/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

#include "env.h"

#define ONLY_REMOTE	0x1	/* the target must be another process */
#define OWN_MEMORY	0x2	/* makes area and device itself */
#define MOVES		0x4	/* once more by a device that vouches for the target */

struct scenario {
	const char *name;
	void (*run)(struct env *e);
	unsigned int types;
	unsigned int flags;
};

/* Up to one without a name. */
extern const struct scenario access_scenarios[];
extern const struct scenario unmap_scenarios[];
extern const struct scenario remap_scenarios[];
extern const struct scenario process_scenarios[];
