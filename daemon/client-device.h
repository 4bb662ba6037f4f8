/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * The device's side of clients: open files of /dev/mirror; see client-device.c
 */

#include <stdint.h>
#include <sys/types.h>

struct client;
struct client_file;
struct inherited;
struct manager;

/*
 * Opens the device that the options ask for, or goes on with the one in @in: then
 * its clients have been adopted already.  Looked for in @in are "D0", which is agreed
 * on with the kernel as the state says, then "cuse" and "fuse", which are new.  0 or
 * -errno; that there is no device is an error only if just one way was asked for.
 */
int client_device_start(struct manager *m, struct inherited *in);
/* Clients that are files are freed; what was mounted goes, unless it is kept for others. */
void client_device_stop(struct manager *m);

/* For adoption: the client is the open file @fh from now on.  Its ring is there already. */
int client_device_adopt(struct client *c, uint64_t fh, uint32_t open_flags);

/* From client_free(). */
struct client_file *client_file_free(struct client_file *file);
