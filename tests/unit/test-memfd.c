/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the others can do with shared memory, by either way of sharing it. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "memfd.h"
#include "unit.h"

/* Since 6.3; the C library's headers may be older. */
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

#define SIZE (4 * PAGE_BYTES)
#define NOBODY 65534

static int fd, shared;
static volatile uint32_t *words;	/* of the maker */

static void make(bool keep)
{
	void *map;

	ck_assert_int_eq(memfd_new("test", SIZE, &fd), 0);
	map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(map, MAP_FAILED);
	words = map;
	words[0] = 1;
	ck_assert_int_eq(memfd_check(fd, SIZE, true), -EPROTO);
	ck_assert_int_eq(memfd_share(fd, keep, &shared), 0);
	ck_assert_int_eq(memfd_check(shared, SIZE, true), 0);
	ck_assert_int_eq(memfd_check(shared, SIZE + 1, true), -EPROTO);
	ck_assert_int_eq(fcntl(shared, F_GETFD), FD_CLOEXEC);
}

static int reopen(int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", shared);
	return open(path, flags | O_CLOEXEC);
}

static bool can_map_writable(int by)
{
	return mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, by, 0) != MAP_FAILED;
}

/* What of all this could be done, as a text; NULL: nothing. */
static const char *write_somehow(int by)
{
	char *map;

	if (can_map_writable(by))
		return "mapped writable";
	map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, by, 0);
	if (map == MAP_FAILED)
		return NULL;
	if (mprotect(map, SIZE, PROT_READ | PROT_WRITE) == 0)
		return "made writable";
	if (madvise(map, SIZE, MADV_REMOVE) == 0)
		return "removed from";
	if (pwrite(by, "x", 1, 0) >= 0)
		return "written";
	if (ftruncate(by, 0) == 0 || ftruncate(by, 2 * SIZE) == 0)
		return "resized";
	if (fallocate(by, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_BYTES) == 0)
		return "punched";
	if (fcntl(by, F_ADD_SEALS, F_SEAL_WRITE) == 0 || fcntl(by, F_ADD_SEALS, F_SEAL_EXEC) == 0)
		return "sealed";
	return NULL;
}

static const char *attack(void)
{
	const char *done = write_somehow(shared);
	int flags[] = { O_RDONLY, O_RDWR, O_WRONLY };

	if (reopen(O_PATH) < 0)
		return "out of reach";	/* then the rest says nothing */
	for (size_t i = 0; !done && i < ARRAY_SIZE(flags); i++) {
		int again = reopen(flags[i]);

		done = again >= 0 ? write_somehow(again) : NULL;
	}
	return done;
}

/* As another user, if we may become one; and who cannot change the mode either. */
static int be_nobody(void)
{
	if (setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0)
		return 1;
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);	/* or our /proc/self/fd is not ours */
	if (fchmod(shared, 0666) == 0)
		return 2;
	return 0;
}

static void others_can_only_read(void)
{
	const char *done;
	int status;
	pid_t pid;

	if (geteuid()) {
		puts("# only as root can it be seen what another user can do");
		return;
	}
	pid = fork();
	if (pid == 0) {
		int r = be_nobody();

		if (r)
			_exit(r);
		done = attack();
		if (done)
			printf("# another user: %s\n", done);
		fflush(stdout);
		_exit(done ? 3 : 0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}

/* And what they read is what the maker writes afterwards. */
static void readers_follow(void)
{
	volatile uint32_t *theirs = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, shared, 0);

	ck_assert_ptr_ne((void *)(uintptr_t)theirs, MAP_FAILED);
	ck_assert_uint_eq(theirs[0], 1);
	words[0] = 2;
	words[SIZE / 4 - 1] = 3;
	ck_assert_uint_eq(theirs[0], 2);
	ck_assert_uint_eq(theirs[SIZE / 4 - 1], 3);
}

/* Nobody can write, the maker's own user neither. */
START_TEST(sealed)
{
	make(false);
	ck_assert_ptr_null(write_somehow(shared));
	ck_assert_ptr_null(attack());
	ck_assert(!can_map_writable(fd));
	others_can_only_read();
	readers_follow();
}
END_TEST

/* The successor can, by the maker's descriptor; by theirs nobody can. */
START_TEST(kept)
{
	make(true);
	ck_assert_ptr_null(write_somehow(shared));
	ck_assert(can_map_writable(fd));
	ck_assert_int_eq(fcntl(shared, F_GETFL) & O_ACCMODE, O_RDONLY);
	others_can_only_read();
	readers_follow();
	/* what others could do to the maker's own, should they come by it */
	ck_assert_int_lt(ftruncate(fd, 0), 0);
	ck_assert_int_lt(ftruncate(fd, 2 * SIZE), 0);
	ck_assert_int_lt(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
}
END_TEST

START_TEST(shared_again)
{
	int first;

	for (int keep = 0; keep < 2; keep++) {
		make(keep);
		first = shared;
		ck_assert_int_eq(memfd_share(fd, keep, &shared), 0);
		ck_assert_int_ne(first, shared);
		ck_assert_int_eq(memfd_check(shared, SIZE, true), 0);
		others_can_only_read();
		readers_follow();
	}
}
END_TEST

UNIT_MAIN("memfd", sealed, kept, shared_again)
