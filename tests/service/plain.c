/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client of the device that has no library
 *
 * usage: plain DEVICE
 *
 * Attaches itself, watches a few pages, and has a thread that reads.  Says "ready PID",
 * then does what it reads, a word a line, and answers with one line:
 *
 *	asleep		when the thread is blocked in read(2)	"asleep"
 *	change		maps the next page anew			"done"
 *	event		when one more was read			"event TYPE ERRNO"
 *	info		by an ioctl				"info PID ERRNO"
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <mirror/uapi/ioctl.h>

#define PAGE	4096UL
#define PAGES	64
#define SIZE	(PAGES * PAGE)

static struct {
	pthread_mutex_t lock;
	pthread_cond_t more;
	unsigned long n;		/* read by the thread, under the lock */
	uint32_t type;
	int error;
	atomic_int tid;			/* while it reads */
} reader = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER };
static unsigned long n_taken;
static char *memory;
static int device;

static void fail(const char *what)
{
	fprintf(stderr, "plain: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *read_all(void *arg)
{
	struct mirror_event event;
	ssize_t n;

	do {
		reader.tid = gettid();
		n = read(device, &event, sizeof(event));
		reader.tid = 0;
		pthread_mutex_lock(&reader.lock);
		reader.n++;
		reader.type = n == sizeof(event) ? event.type : 0;
		reader.error = n < 0 ? errno : 0;
		pthread_cond_signal(&reader.more);
		pthread_mutex_unlock(&reader.lock);
	} while (n == sizeof(event));
	return arg;
}

/* The letter for the state of a thread comes after its name. */
static int is_asleep(int tid)
{
	char path[64], text[512], *end;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n < 0 ? 0 : n] = '\0';
	end = strrchr(text, ')');
	return end && !strncmp(end, ") S", 3);
}

static void wait_asleep(void)
{
	int tid;

	do
		tid = reader.tid;
	while (!tid || !is_asleep(tid) || reader.tid != tid);
	puts("asleep");
}

static void wait_event(void)
{
	pthread_mutex_lock(&reader.lock);
	while (reader.n == n_taken)
		pthread_cond_wait(&reader.more, &reader.lock);
	n_taken++;
	printf("event %u %d\n", reader.type, reader.error);
	pthread_mutex_unlock(&reader.lock);
}

static void change(void)
{
	static unsigned int page;
	char *at = memory + page++ % PAGES * PAGE;

	if (mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		 0) == MAP_FAILED)
		fail("mmap");
	*at = 1;
	puts("done");
}

static void say_info(void)
{
	struct mirror_info info = { .size = sizeof(info) };
	int r = ioctl(device, MIRROR_IOC_INFO, &info);

	printf("info %u %d\n", info.pid, r < 0 ? errno : 0);
}

static void attach(void)
{
	struct mirror_attach attach = {
		.size = sizeof(attach),
		.flags = MIRROR_ATTACH_F_FDS | MIRROR_ATTACH_F_SELF | MIRROR_ATTACH_F_UFFD,
		.pidfd = -1,
	};
	struct mirror_notifier_insert insert = { .size = sizeof(insert), .user_data = 1 };
	int uffd;

	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	memset(memory, 1, SIZE);
	uffd = (int)syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (uffd < 0)
		fail("userfaultfd");
	attach.uffd = uffd;
	if (ioctl(device, MIRROR_IOC_ATTACH, &attach) < 0)
		fail("attach");
	/* A copy of ours would hold us for ever, should mirrord go. */
	close(uffd);

	insert.target = attach.target;
	insert.start = (uintptr_t)memory;
	insert.end = (uintptr_t)memory + SIZE;
	if (ioctl(device, MIRROR_IOC_NOTIFIER_INSERT, &insert) < 0)
		fail("insert");
}

int main(int argc, char **argv)
{
	pthread_t thread;
	char word[64];

	device = argc == 2 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
	if (device < 0)
		fail("open");
	attach();
	errno = pthread_create(&thread, NULL, read_all, NULL);
	if (errno)
		fail("thread");
	printf("ready %d\n", getpid());
	fflush(stdout);
	while (scanf("%63s", word) == 1) {
		if (!strcmp(word, "asleep"))
			wait_asleep();
		else if (!strcmp(word, "change"))
			change();
		else if (!strcmp(word, "event"))
			wait_event();
		else
			say_info();
		fflush(stdout);
	}
	_exit(0);		/* the thread may sleep for ever */
}
