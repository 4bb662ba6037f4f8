/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include "uffd.h"

int uffd_new(int *ret_fd, bool *ret_user_only)
{
	int fd, dev;

	*ret_user_only = false;
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && (errno == EPERM || errno == ENOSYS)) {
		/* not privileged, or under valgrind: the device may be open to us all the same */
		dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
		if (dev >= 0) {
			fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
			fd_close(dev);
		}
	}
	if (fd < 0) {
		fd = (int)syscall(SYS_userfaultfd,
				  O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
		if (fd < 0)
			return -errno;
		*ret_user_only = true;
	}
	*ret_fd = fd;
	return 0;
}

int uffd_api(int fd, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

int uffd_query_features(uint64_t *ret_features)
{
	_cleanup_(fd_closep) int fd = -1;
	struct uffdio_api api = { .api = UFFD_API };
	bool user_only;
	int r;

	r = uffd_new(&fd, &user_only);
	if (r < 0)
		return r;
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return -errno;
	*ret_features = api.features;
	return 0;
}

int uffd_register(int fd, uint64_t start, uint64_t end)
{
	struct uffdio_register reg = {
		.range = { .start = start, .len = end - start },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	if (ioctl(fd, UFFDIO_REGISTER, &reg) == 0)
		return 0;
	switch (errno) {
	case EBUSY:
		return UFFD_E_BUSY;
	case EPERM:	/* a shared mapping that may never be written */
	case EINVAL:	/* of devices, of a kind this mode refuses, or not there any more */
		return UFFD_E_REFUSED;
	case ENOMEM:	/* nothing there, or no memory left: the caller looks again */
		if (!uffd_mm_is_alive(fd))
			return -ESRCH;
		return UFFD_E_UNMAPPED;
	}
	return -errno;
}

int uffd_unregister(int fd, uint64_t start, uint64_t end)
{
	struct uffdio_range range = { .start = start, .len = end - start };

	return ioctl(fd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

int uffd_probe(int fd)
{
	struct uffdio_writeprotect wp = { .range = { .start = 0, .len = 0 } };

	/* EAGAIN comes before every other check of the kernel's; then EINVAL. */
	return ioctl(fd, UFFDIO_WRITEPROTECT, &wp) < 0 && errno == EAGAIN;
}

bool uffd_mm_is_alive(int fd)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = PAGE_BYTES, .len = PAGE_BYTES },
	};

	/* Below mmap_min_addr, or at least never registered: the call changes nothing. */
	return !(ioctl(fd, UFFDIO_WRITEPROTECT, &wp) < 0 && errno == ESRCH);
}

bool uffd_is_uffd(int fd)
{
	char path[40], link[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return false;
	link[n] = 0;
	return !strcmp(link, "anon_inode:[userfaultfd]");
}
