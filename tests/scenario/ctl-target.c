/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A target for tests of mirrorctl show, verify and map
 *
 * usage: ctl-target SOCKET FILE
 *
 * Attaches itself, maps memory whose pages are known, and says where.  Then it does
 * what it reads, a word a line, and says "done".
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>
#include <mirror/mirror.h>

#define PAGE		4096UL
#define PAGES		16
#define SIZE		(PAGES * PAGE)
#define GUARD_INSTALL	102	/* MADV_GUARD_INSTALL */

static char *anon, *shared, *file, *shm;
static int shared_fd;
static atomic_bool storming;
static pthread_t storm_thread;

static void fail(const char *what, int error)
{
	fprintf(stderr, "ctl-target: %s: %s\n", what, strerror(error < 0 ? -error : error));
	exit(1);
}

static char *map(int prot, int flags, int fd)
{
	/* each between two holes, so that none becomes one with another */
	char *p = mmap(NULL, SIZE + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || munmap(p, PAGE) < 0 || munmap(p + SIZE + PAGE, PAGE) < 0 ||
	    mmap(p + PAGE, SIZE, prot, flags | MAP_FIXED, fd, 0) == MAP_FAILED)
		fail("mmap", errno);
	return p + PAGE;
}

static void touch(char *p, unsigned int first, unsigned int end, bool write)
{
	for (unsigned int i = first; i < end; i++) {
		volatile char *at = p + i * PAGE;

		if (write)
			*at = 1;
		else
			(void)*at;
	}
}

static void make_memory(const char *path)
{
	char page[PAGE];
	int fd, id;

	anon = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	touch(anon, 0, 8, true);	/* 8 written, 4 read, 4 not there */
	touch(anon, 8, 12, false);

	shared_fd = memfd_create("ctl-shared", MFD_CLOEXEC);
	if (shared_fd < 0 || ftruncate(shared_fd, SIZE) < 0)
		fail("memfd", errno);
	shared = map(PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd);
	touch(shared, 0, PAGES, true);

	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	memset(page, 'x', sizeof(page));
	for (int i = 0; i < PAGES; i++)
		if (fd < 0 || write(fd, page, sizeof(page)) != sizeof(page))
			fail(path, errno);
	file = map(PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	madvise(file, SIZE, MADV_RANDOM);
	touch(file, 0, PAGES, false);
	close(fd);

	id = shmget(IPC_PRIVATE, SIZE, 0600);
	shm = id < 0 ? NULL : shmat(id, NULL, 0);
	shmctl(id, IPC_RMID, NULL);
	if (!shm || shm == (void *)-1)
		fail("shmat", errno);
	touch(shm, 0, PAGES, true);
}

static void on_event(struct mirror_notifier *notifier, const struct mirror_event *event, void *data)
{
	(void)notifier;
	(void)event;
	(void)data;
}

static void *storm(void *arg)
{
	char *p = arg;

	while (storming) {
		touch(p, 0, PAGES, true);
		madvise(p, SIZE / 2, MADV_DONTNEED);
		if (munmap(p + SIZE / 2, SIZE / 2) < 0 ||
		    mmap(p + SIZE / 2, SIZE / 2, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
			abort();
	}
	return NULL;
}

static int storm_begin(void)
{
	storming = true;
	return -pthread_create(&storm_thread, NULL, storm, anon);
}

static int storm_end(void)
{
	storming = false;
	return -pthread_join(storm_thread, NULL);
}

static int obey(const char *word)
{
	errno = EINVAL;
	if (!strcmp(word, "touch"))
		touch(anon, 12, PAGES, true);
	else if (!strcmp(word, "mprotect"))
		return mprotect(anon, 4 * PAGE, PROT_READ);
	else if (!strcmp(word, "unprotect"))
		return mprotect(anon, 4 * PAGE, PROT_READ | PROT_WRITE);
	else if (!strcmp(word, "dontneed"))
		return madvise(anon, 4 * PAGE, MADV_DONTNEED);
	else if (!strcmp(word, "munmap"))
		return munmap(anon + 4 * PAGE, 4 * PAGE);
	else if (!strcmp(word, "remap"))
		return mmap(anon, SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == anon ? 0 : -1;
	else if (!strcmp(word, "copy"))
		touch(file, 0, 2, true);
	else if (!strcmp(word, "punch"))
		return fallocate(shared_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				 3 * PAGE);
	else if (!strcmp(word, "guard"))
		return madvise(anon, 2 * PAGE, GUARD_INSTALL);
	else if (!strcmp(word, "shmdt"))
		return shmdt(shm);
	else if (!strcmp(word, "storm"))
		return storm_begin();
	else if (!strcmp(word, "calm"))
		return storm_end();
	else
		return -1;
	return 0;
}

int main(int argc, char **argv)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	struct mirror_notifier *notifier;
	struct mirror_target *target = NULL;
	struct mirror_ctx *ctx = NULL;
	char word[64];
	int r;

	if (argc != 3)
		return 2;
	opts.path = argv[1];
	opts.flags = MIRROR_OPEN_NO_EMBEDDED;
	r = mirror_open(&ctx, &opts);
	if (r >= 0)
		r = mirror_target_attach_self(&target, ctx, NULL);
	if (r < 0)
		fail("cannot attach", r);

	make_memory(argv[2]);
	r = mirror_notifier_insert(&notifier, target, (uintptr_t)shared, (uintptr_t)shared + SIZE,
				   &ops, NULL);
	if (r < 0)
		fail("cannot watch", r);
	printf("%u %lx %lx %lx %lx\n", mirror_target_get_id(target), (unsigned long)anon,
	       (unsigned long)shared, (unsigned long)file, (unsigned long)shm);
	fflush(stdout);
	while (scanf("%63s", word) == 1) {
		puts(obey(word) < 0 ? strerror(errno) : "done");
		fflush(stdout);
	}
	mirror_notifier_remove(notifier);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
	return 0;
}
