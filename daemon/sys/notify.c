/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "shm.h"
#include "sys/notify.h"

int notify_open(void)
{
	_cleanup_(fd_closep) int fd = -1;
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	const char *path = getenv("NOTIFY_SOCKET");
	socklen_t len;
	size_t n;

	if (!path || (path[0] != '/' && path[0] != '@'))
		return -ENOENT;
	n = strlen(path);
	if (n >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	memcpy(sa.sun_path, path, n);
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	if (path[0] == '@')
		sa.sun_path[0] = '\0';
	else
		len++;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&sa, len) < 0)
		return -errno;
	return TAKE_FD(fd);
}

int notify_send(int fd, const char *text, int passed)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = { .buf = "" };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (passed >= 0) {
		struct cmsghdr *cmsg;

		msg.msg_control = control.buf;
		msg.msg_controllen = sizeof(control.buf);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &passed, sizeof(int));
	}
	if (sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return -errno;
	return 0;
}

int notify_send_wait(int fd, const char *text, int passed, unsigned int timeout_ms)
{
	uint64_t end = now_ns() + timeout_ms * 1000000ULL, now;
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	int r;

	while ((r = notify_send(fd, text, passed)) == -EAGAIN) {
		now = now_ns();
		if (now >= end)
			return -ETIMEDOUT;
		poll(&p, 1, (int)((end - now) / 1000000) + 1);
	}
	return r;
}
