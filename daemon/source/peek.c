/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include "source/peek.h"

static bool changes_memory(long nr)
{
	switch (nr) {
	case SYS_munmap:
	case SYS_mmap:
	case SYS_mremap:
	case SYS_brk:
	case SYS_madvise:
	case SYS_clone:
#ifdef SYS_fork
	case SYS_fork:
	case SYS_vfork:
#endif
#ifdef SYS_clone3
	case SYS_clone3:
#endif
#ifdef SYS_process_madvise
	case SYS_process_madvise:
#endif
	case SYS_shmdt:
	case SYS_shmat:
	case SYS_remap_file_pages:
		return true;
	}
	return false;
}

static void forget_threads(struct peek *peek)
{
	for (unsigned int i = 0; i < peek->n; i++)
		fd_close(peek->threads[i].fd);
	peek->n = 0;
	peek->links = 0;
}

void peek_deinit(struct peek *peek)
{
	forget_threads(peek);
	peek->task_fd = fd_close(peek->task_fd);
}

static bool is_skipped(const struct peek *peek, pid_t tid)
{
	for (unsigned int i = 0; i < peek->n_skip; i++)
		if (peek->skip[i] == tid)
			return true;
	return false;
}

static void list_threads(struct peek *peek)
{
	struct dirent *de;
	struct stat st;
	DIR *dir;
	int fd;

	forget_threads(peek);
	peek->partial = false;
	fd = openat(peek->task_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		fd_close(fd);
		return;
	}
	/* Before the walk: a thread born during it makes the next look list again. */
	if (fstat(fd, &st) == 0)
		peek->links = (unsigned int)st.st_nlink;
	while ((de = readdir(dir))) {
		pid_t tid = atoi(de->d_name);
		char name[32];

		if (tid <= 0 || is_skipped(peek, tid))
			continue;
		if (peek->n == PEEK_THREADS) {
			peek->partial = true;
			break;
		}
		snprintf(name, sizeof(name), "%d/syscall", (int)tid);
		fd = openat(peek->task_fd, name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		peek->threads[peek->n].tid = tid;
		peek->threads[peek->n++].fd = fd;
	}
	closedir(dir);
}

/* 1 blocked in a system call, 0 running or elsewhere, or -errno. */
static int read_syscall(int fd, struct peek_hit *ret_hit)
{
	char buf[256], *p;
	ssize_t n;

	n = pread(fd, buf, sizeof(buf) - 1, 0);
	if (n <= 0)
		return n < 0 ? -errno : -ESRCH;
	buf[n] = 0;
	if (buf[0] == 'r')	/* "running" */
		return 0;
	ret_hit->nr = strtol(buf, &p, 10);
	for (int i = 0; i < 6; i++)
		ret_hit->args[i] = ret_hit->nr < 0 ? 0 : strtoull(p, &p, 16);
	return 1;
}

void peek_skip(struct peek *peek, pid_t tid)
{
	if (tid > 0 && peek->n_skip < PEEK_SKIP)
		peek->skip[peek->n_skip++] = tid;
	peek->links = 0;	/* list again */
}

int peek_init(struct peek *peek, pid_t pid)
{
	char path[64];
	struct peek_hit hit;
	int fd, r;

	*peek = (struct peek) PEEK_NULL;
	peek->pid = pid;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	peek->task_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (peek->task_fd < 0)
		return -errno;
	/* The right is checked at each read, so read once to know. */
	snprintf(path, sizeof(path), "/proc/%d/syscall", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	r = fd < 0 ? -errno : read_syscall(fd, &hit);
	fd_close(fd);
	if (r < 0 && r != -ESRCH) {
		peek_deinit(peek);
		return r;
	}
	return 0;
}

static void move_to_front(struct peek *peek, unsigned int i)
{
	__typeof__(peek->threads[0]) t = peek->threads[i];

	memmove(&peek->threads[1], &peek->threads[0], i * sizeof(t));
	peek->threads[0] = t;
}

/* One pass over the threads we know.  *ret_gone: one of them is no more. */
static unsigned int look_once(struct peek *peek, struct peek_hit *ret_hits, bool *ret_gone)
{
	unsigned int n = 0;

	*ret_gone = false;
	for (unsigned int i = 0; i < peek->n && n < PEEK_HITS; i++) {
		int r = read_syscall(peek->threads[i].fd, &ret_hits[n]);

		*ret_gone = *ret_gone || r < 0;
		if (r <= 0 || !changes_memory(ret_hits[n].nr))
			continue;
		ret_hits[n].tid = peek->threads[i].tid;
		if (i > n)
			move_to_front(peek, i);
		n++;
	}
	return n;
}

/* The one thread that has been acting all the time is blocked again. */
static bool look_at_actor(struct peek *peek, struct peek_hit *ret_hit)
{
	if (peek->streak < PEEK_STREAK || !peek->n || peek->threads[0].tid != peek->actor ||
	    peek->n_kept)
		return false;
	ret_hit->tid = peek->actor;
	return read_syscall(peek->threads[0].fd, ret_hit) > 0 &&
	       changes_memory(ret_hit->nr) && !peek_is_madvise(ret_hit);
}

static unsigned int look_at_threads(struct peek *peek, struct peek_hit *ret_hits)
{
	unsigned int n;
	struct stat st;
	bool gone;

	peek->alone = false;
	if (peek->n > 1 && look_at_actor(peek, ret_hits))
		return 1;
	/*
	 * Asked each time, although it costs a system call: were it asked only when
	 * nobody is found blocked, a new thread would hide behind an old one.
	 */
	if (fstat(peek->task_fd, &st) < 0)
		return 0;
	if (!peek->n || st.st_nlink != peek->links)
		list_threads(peek);
	n = look_once(peek, ret_hits, &gone);
	if (gone) {
		list_threads(peek);	/* one ended, another may have come in its place */
		n = look_once(peek, ret_hits, &gone);
	}
	peek->alone = peek->n == 1 && !peek->partial && n == 1;
	return n;
}

void peek_prime(struct peek *peek)
{
	list_threads(peek);
	peek->was_alone = peek->n == 1 && !peek->partial;
}

bool peek_is_alone(const struct peek *peek)
{
	return peek->alone && peek->was_alone;
}

static int open_of_thread(pid_t pid, pid_t tid, const char *what)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", (int)pid, (int)tid, what);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* What a thread sleeps on, in the kernel's words. */
static bool read_wchan(pid_t pid, pid_t tid, char *buf, size_t size)
{
	_cleanup_(fd_closep) int fd = open_of_thread(pid, tid, "wchan");
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (n <= 0)
		return false;
	buf[n] = 0;
	return true;
}

/* Blocked in madvise can also mean: waiting for the lock, with no event sent yet. */
static bool waits_for_event(const struct peek *peek, const struct peek_hit *hit)
{
	char buf[64];

	if (!peek_is_madvise(hit))
		return true;	/* only its cause is wanted: no harm in a wrong one */
	return read_wchan(peek->pid, hit->tid, buf, sizeof(buf)) &&
	       !strcmp(buf, "userfaultfd_event_wait_completion");
}

bool peek_worker_is_idle(pid_t pid, pid_t tid)
{
	char buf[64];

	return read_wchan(pid, tid, buf, sizeof(buf)) && !strncmp(buf, "io_wq", 5);
}

static bool is_among(const struct peek_hit *hits, unsigned int n, pid_t tid)
{
	for (unsigned int i = 0; i < n; i++)
		if (hits[i].tid == tid)
			return true;
	return false;
}

unsigned int peek_look(struct peek *peek, struct peek_hit *ret_hits)
{
	unsigned int seen = look_at_threads(peek, ret_hits), n = seen;

	for (unsigned int i = 0; i < peek->n_kept && n < PEEK_HITS; i++)
		if (!is_among(ret_hits, seen, peek->kept[i].tid))
			ret_hits[n++] = peek->kept[i];
	/* One alone is explained by the very next event: nothing to keep. */
	peek->n_kept = 0;
	for (unsigned int i = 0; i < n && n > 1; i++)
		if (i >= seen || waits_for_event(peek, &ret_hits[i]))
			peek->kept[peek->n_kept++] = ret_hits[i];
	return n;
}

void peek_done(struct peek *peek, pid_t tid)
{
	unsigned int n = 0;

	peek->was_alone = peek->alone;
	peek->alone = false;
	if (!tid || tid != peek->actor)
		peek->streak = 0;
	else if (++peek->streak > PEEK_STREAK_MAX)
		/* once all are looked at: those that ended meanwhile are forgotten */
		peek->streak = PEEK_STREAK - 1;
	peek->actor = tid;
	for (unsigned int i = 0; i < peek->n_kept; i++)
		if (peek->kept[i].tid != tid)
			peek->kept[n++] = peek->kept[i];
	peek->n_kept = n;
}

void peek_quiet(struct peek *peek)
{
	peek->n_kept = 0;
}

int peek_thread(pid_t pid, pid_t tid, struct peek_hit *ret_hit)
{
	_cleanup_(fd_closep) int fd = open_of_thread(pid, tid, "syscall");

	if (fd < 0)
		return fd;
	ret_hit->tid = tid;
	return read_syscall(fd, ret_hit);
}

int peek_list(pid_t pid, pid_t **ret_tids, size_t *ret_n)
{
	_cleanup_(freep) pid_t *tids = NULL;
	size_t n = 0, room = 0;
	struct dirent *de;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while ((de = readdir(dir))) {
		pid_t tid = atoi(de->d_name);

		if (tid > 0 && n == room) {
			size_t more = room ? room * 2 : 64;
			pid_t *p = realloc(tids, more * sizeof(*p));

			if (!p) {
				closedir(dir);
				return -ENOMEM;
			}
			tids = p;
			room = more;
		}
		if (tid > 0)
			tids[n++] = tid;
	}
	closedir(dir);
	*ret_tids = TAKE_PTR(tids);
	*ret_n = n;
	return 0;
}
