/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * What an open file of the device is asked for: see client-file.c
 */

#include "io/device.h"

struct client_file;

/* For struct device_ops; the userdata is the manager. */
int client_file_open(void *userdata, struct device_call *call, uint32_t flags,
		     struct device_file **ret_file);
void client_file_release(struct device_file *f);
void client_file_ioctl(struct device_file *f, struct device_call *call, uint32_t cmd, void *arg,
		       size_t size);
ssize_t client_file_read(struct device_file *f, void *buf, size_t size);
uint32_t client_file_poll(struct device_file *f);

struct device_file *client_file_get(struct client_file *file);
