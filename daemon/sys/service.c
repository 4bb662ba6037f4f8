/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include "sys/service.h"

int service_listen_fd(int *ret_fd)
{
	int n = sd_listen_fds(1);

	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		int fd = SD_LISTEN_FDS_START + i;

		if (sd_is_socket(fd, AF_UNIX, SOCK_SEQPACKET, 1) > 0) {
			*ret_fd = fd;
			return 0;
		}
	}
	return -ENOENT;
}

void service_ready(const char *status)
{
	sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

void service_stopping(void)
{
	sd_notify(0, "STOPPING=1");
}
