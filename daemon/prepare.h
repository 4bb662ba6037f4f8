/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Getting a device ready for a mirrord that has no right to make one
 */

struct settings;

/*
 * Opens CUSE, or else mounts the file, and leaves the channel with the service manager,
 * which passes it to the main process as "cuse" or "fuse".  Nothing is done about a
 * device that is alive: its channel is with the manager.  0 or -errno.
 */
int prepare_device(const struct settings *s);
