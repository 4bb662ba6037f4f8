/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "memfd.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int memfd_new(const char *name, size_t size, int *ret_fd)
{
	_cleanup_(fd_closep) int fd = -1;

	fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL)	/* before 6.3 */
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) < 0)
		return -errno;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* The last seals it gets.  It may have them. */
static int seal(int fd, int seals)
{
	int have = fcntl(fd, F_GET_SEALS);

	if (have >= 0 && (have & seals) == seals)
		return 0;
	return fcntl(fd, F_ADD_SEALS, seals) < 0 ? -errno : 0;
}

int memfd_seal_writes(int fd)
{
	return seal(fd, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
}

static int reopen_read_only(int fd, int *ret_fd)
{
	char path[32];
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = open(path, O_RDONLY | O_CLOEXEC);
	if (r < 0)
		return -errno;
	*ret_fd = r;
	return 0;
}

int memfd_share(int fd, bool keep, int *ret_fd)
{
	int r;

	if (!keep) {
		r = memfd_seal_writes(fd);
		if (r < 0)
			return r;
		r = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (r < 0)
			return -errno;
		*ret_fd = r;
		return 0;
	}
	/* no seals by anybody else, lest they forbid what the successor needs */
	r = seal(fd, F_SEAL_SEAL);
	if (r < 0)
		return r;
	if (fchmod(fd, 0400) < 0)
		return -errno;
	return reopen_read_only(fd, ret_fd);
}

int memfd_check(int fd, size_t size, bool read_only)
{
	struct stat st;
	int seals;

	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK))
		return -EPROTO;
	if (read_only && !(seals & (F_SEAL_FUTURE_WRITE | F_SEAL_WRITE)) &&
	    (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY)
		return -EPROTO;
	if (fstat(fd, &st) < 0)
		return -errno;
	return (uint64_t)st.st_size < size ? -EPROTO : 0;
}
