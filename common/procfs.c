/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include "procfs.h"

/* 6.11: struct procmap_query, PROCMAP_QUERY */
struct procmap_query_abi {
	uint64_t size;
	uint64_t query_flags;
	uint64_t query_addr;
	uint64_t vma_start;
	uint64_t vma_end;
	uint64_t vma_flags;
	uint64_t vma_page_size;
	uint64_t vma_offset;
	uint64_t inode;
	uint32_t dev_major;
	uint32_t dev_minor;
	uint32_t vma_name_size;
	uint32_t build_id_size;
	uint64_t vma_name_addr;
	uint64_t build_id_addr;
};

#define PROCMAP_QUERY_ABI	_IOWR('f', 17, struct procmap_query_abi)
#define PROCMAP_READABLE	0x01
#define PROCMAP_WRITABLE	0x02
#define PROCMAP_EXECUTABLE	0x04
#define PROCMAP_SHARED		0x08
#define PROCMAP_COVERING_OR_NEXT 0x10

/*
 * "[vdso]", "[vvar]" and the like can be neither changed nor watched.  Memory that
 * libmirror shares with the daemon is not the program's, and is not watched either.
 */
static bool name_is_special(const char *name)
{
	return !strncmp(name, "[v", 2) || !strncmp(name, "/memfd:mirror-", 14);
}

static void proc_path(char *path, size_t n, pid_t pid, pid_t tid, const char *what)
{
	if (pid && tid)
		snprintf(path, n, "/proc/%d/task/%d/%s", (int)pid, (int)tid, what);
	else if (pid)
		snprintf(path, n, "/proc/%d/%s", (int)pid, what);
	else
		snprintf(path, n, "/proc/self/%s", what);
}

int vma_walk_begin(struct vma_walk *walk, pid_t pid)
{
	char path[64];

	proc_path(path, sizeof(path), pid, 0, "maps");
	walk->fd = open(path, O_RDONLY | O_CLOEXEC);
	walk->len = walk->pos = 0;
	walk->eof = false;
	return walk->fd < 0 ? -errno : 0;
}

void vma_walk_end(struct vma_walk *walk)
{
	walk->fd = fd_close(walk->fd);
}

/* Makes room and reads on; a line never fills the buffer: names end at PATH_MAX. */
static int walk_fill(struct vma_walk *walk)
{
	ssize_t n;

	memmove(walk->buf, walk->buf + walk->pos, walk->len - walk->pos);
	walk->len -= walk->pos;
	walk->pos = 0;
	if (walk->len == sizeof(walk->buf))
		return -EOVERFLOW;
	n = read(walk->fd, walk->buf + walk->len, sizeof(walk->buf) - walk->len);
	if (n < 0)
		return -errno;
	walk->eof = n == 0;
	walk->len += (size_t)n;
	return 0;
}

static uint64_t parse_hex(const char **p)
{
	uint64_t v = 0;

	for (;; (*p)++) {
		if (**p >= '0' && **p <= '9')
			v = v << 4 | (uint64_t)(**p - '0');
		else if (**p >= 'a' && **p <= 'f')
			v = v << 4 | (uint64_t)(**p - 'a' + 10);
		else
			return v;
	}
}

/* " rw-p 00000000 00:01 2049 ...": no sscanf() here, signal handlers come this way. */
static void parse_rights(const char *p, struct vma *vma)
{
	uint64_t rest = 0;

	vma->rights = 0;
	vma->file = false;
	if (strlen(p) < 6)
		return;
	vma->rights = (p[1] == 'r' ? MIRROR_PTE_READ : 0) | (p[2] == 'w' ? MIRROR_PTE_WRITE : 0) |
		      (p[3] == 'x' ? MIRROR_PTE_EXEC : 0) | (p[4] == 's' ? MIRROR_PTE_SHARED : 0);
	p += 6;
	parse_hex(&p);			/* the offset is of no interest */
	for (int i = 0; i < 3 && *p; i++) {
		p++;
		rest |= parse_hex(&p);	/* device and inode: all 0 without a file */
	}
	vma->file = rest;
}

int vma_walk_next(struct vma_walk *walk, struct vma *ret_vma)
{
	char *eol, *name;
	const char *p;
	int r;

	for (;;) {
		eol = memchr(walk->buf + walk->pos, '\n', walk->len - walk->pos);
		if (eol)
			break;
		if (walk->eof)
			return 0;
		r = walk_fill(walk);
		if (r == -EOVERFLOW) {	/* a name of absurd length: drop what we have of it */
			walk->pos = walk->len - 1;
			continue;
		}
		if (r < 0)
			return r;
	}
	*eol = 0;
	p = walk->buf + walk->pos;
	name = strpbrk(p, "[/");
	ret_vma->start = parse_hex(&p);
	p += *p == '-';
	ret_vma->end = parse_hex(&p);
	parse_rights(p, ret_vma);
	ret_vma->special = name && name_is_special(name);
	walk->pos = (size_t)(eol + 1 - walk->buf);
	return 1;
}

int vma_query(int maps_fd, uint64_t address, struct vma *ret_vma)
{
	char name[32] = "";
	struct procmap_query_abi q = {
		.size = sizeof(q),
		.query_flags = PROCMAP_COVERING_OR_NEXT,
		.query_addr = address,
		.vma_name_size = sizeof(name),
		.vma_name_addr = (uintptr_t)name,
	};

	if (ioctl(maps_fd, PROCMAP_QUERY_ABI, &q) < 0) {
		/* a long name is a file's, so not special; ask again without it */
		if (errno != ENAMETOOLONG)
			return -errno;
		q.vma_name_size = 0;
		q.vma_name_addr = 0;
		if (ioctl(maps_fd, PROCMAP_QUERY_ABI, &q) < 0)
			return -errno;
	}
	ret_vma->start = q.vma_start;
	ret_vma->end = q.vma_end;
	ret_vma->special = q.vma_name_size && name_is_special(name);
	ret_vma->file = q.inode || q.dev_major || q.dev_minor;
	ret_vma->rights = (q.vma_flags & PROCMAP_READABLE ? MIRROR_PTE_READ : 0) |
			  (q.vma_flags & PROCMAP_WRITABLE ? MIRROR_PTE_WRITE : 0) |
			  (q.vma_flags & PROCMAP_EXECUTABLE ? MIRROR_PTE_EXEC : 0) |
			  (q.vma_flags & PROCMAP_SHARED ? MIRROR_PTE_SHARED : 0);
	return 0;
}

int vma_find(int maps_fd, pid_t pid, uint64_t address, struct vma *ret_vma)
{
	struct vma_walk walk;
	int r;

	r = vma_query(maps_fd, address, ret_vma);
	if (r != -ENOTTY)
		return r;
	r = vma_walk_begin(&walk, pid);
	if (r < 0)
		return r;
	do {
		r = vma_walk_next(&walk, ret_vma);
	} while (r > 0 && ret_vma->end <= address);
	vma_walk_end(&walk);
	return r > 0 ? 0 : r < 0 ? r : -ENOENT;
}

bool vma_is_still(int maps_fd, pid_t pid, const struct vma *vma)
{
	struct vma now;

	return vma_find(maps_fd, pid, vma->start, &now) == 0 && now.start == vma->start &&
	       now.end == vma->end;
}

/* The whole of a small file, with a final NUL. */
static int read_small(const char *path, char *buf, size_t size)
{
	_cleanup_(fd_closep) int fd = -1;
	ssize_t n;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	if (n < 0)
		return -errno;
	buf[n] = 0;
	return (int)n;
}

int proc_stat_read(pid_t pid, pid_t tid, struct proc_stat *ret_stat)
{
	char path[64], buf[1024], *open_paren, *p;
	struct proc_stat st = { .cpu = -1 };
	unsigned long long start, stack = 0;
	int ppid, r;

	proc_path(path, sizeof(path), pid, tid, "stat");
	r = read_small(path, buf, sizeof(buf));
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	open_paren = strchr(buf, '(');
	p = strrchr(buf, ')');	/* the name may hold anything, brackets too */
	if (!p || !open_paren)
		return -ESRCH;
	*p = 0;
	snprintf(st.comm, sizeof(st.comm), "%s", open_paren + 1);
	if (sscanf(p + 1, " %c %d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
		   "%*d %*d %llu %*u %*d %*u %*u %*u %llu %*u %*u %*u %*u %*u %*u %*u %*u %*u "
		   "%*d %d", &st.state, &ppid, &st.flags, &start, &stack, &st.cpu) < 5)
		return -ESRCH;
	st.ppid = ppid;
	st.start_time = start;
	st.start_stack = stack;
	*ret_stat = st;
	return 0;
}

int proc_owner(pid_t pid, uid_t *ret_uid)
{
	char path[64];
	struct stat st;

	proc_path(path, sizeof(path), pid, 0, "environ");
	if (stat(path, &st) < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	*ret_uid = st.st_uid;
	return 0;
}

/* Points behind "Key:" of /proc/PID/status. */
static const char *status_line(pid_t pid, const char *key, char *buf, size_t size)
{
	char path[64], *p;

	proc_path(path, sizeof(path), pid, 0, "status");
	if (read_small(path, buf, size) < 0)
		return NULL;
	p = strstr(buf, key);
	return p ? p + strlen(key) : NULL;
}

static bool parse_ids(const char *line, const char *key, uint32_t ret_ids[3])
{
	size_t n = strlen(key);

	return !strncmp(line, key, n) &&
	       sscanf(line + n, "%u %u %u", &ret_ids[0], &ret_ids[1], &ret_ids[2]) == 3;
}

static bool parse_caps(const char *line, const char *key, uint64_t *ret_caps)
{
	size_t n = strlen(key);
	unsigned long long caps;

	if (strncmp(line, key, n) || sscanf(line + n, "%llx", &caps) != 1)
		return false;
	*ret_caps = caps;
	return true;
}

int proc_creds_read(pid_t pid, struct proc_creds *ret_creds)
{
	_cleanup_(freep) char *line = NULL;
	unsigned int found = 0;
	struct proc_creds c;
	char path[64];
	size_t size = 0;
	FILE *f;

	proc_path(path, sizeof(path), pid, 0, "status");
	f = fopen(path, "re");
	if (!f)
		return errno == ENOENT ? -ESRCH : -errno;
	/* by lines: that of the groups can be of any length */
	while (getline(&line, &size, f) > 0)
		found += parse_ids(line, "Uid:", c.uid) || parse_ids(line, "Gid:", c.gid) ||
			 parse_caps(line, "CapPrm:", &c.permitted) ||
			 parse_caps(line, "CapEff:", &c.effective);
	fclose(f);
	if (found != 4)
		return -ESRCH;
	*ret_creds = c;
	return 0;
}

bool proc_has_uids(pid_t pid, uid_t uid)
{
	char buf[4096];
	unsigned int real, effective, saved;
	const char *p = status_line(pid, "\nUid:", buf, sizeof(buf));

	if (!p || sscanf(p, "%u %u %u", &real, &effective, &saved) != 3)
		return false;
	return real == uid && effective == uid && saved == uid;
}

int proc_tgid(pid_t tid, pid_t *ret_pid)
{
	char buf[4096];
	const char *p = status_line(tid, "\nTgid:", buf, sizeof(buf));
	int pid;

	if (!p || sscanf(p, "%d", &pid) != 1)
		return -ESRCH;
	*ret_pid = pid;
	return 0;
}

bool proc_has_cap(pid_t pid, unsigned int cap)
{
	char buf[4096];
	unsigned long long caps;
	const char *p = status_line(pid, "\nCapEff:", buf, sizeof(buf));

	if (!p || sscanf(p, "%llx", &caps) != 1)
		return false;
	return caps >> cap & 1;
}

static int thread_children(pid_t pid, pid_t tid, pid_t *ret_pids, size_t n)
{
	char path[64], buf[4096], *p, *end;
	size_t found = 0;
	int r;

	proc_path(path, sizeof(path), pid, tid, "children");
	r = read_small(path, buf, sizeof(buf));
	if (r < 0)
		return r;
	for (p = buf; found < n; p = end) {
		long child = strtol(p, &end, 10);

		if (end == p)
			break;
		ret_pids[found++] = (pid_t)child;
	}
	return (int)found;
}

int proc_children(pid_t pid, pid_t tid, pid_t *ret_pids, size_t n)
{
	char path[64];
	struct dirent *de;
	size_t found = 0;
	DIR *dir;
	int r;

	if (tid)
		return thread_children(pid, tid, ret_pids, n);
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (!dir)
		return -errno;
	while (found < n && (de = readdir(dir))) {
		tid = atoi(de->d_name);
		r = tid > 0 ? thread_children(pid, tid, ret_pids + found, n - found) : 0;
		found += r > 0 ? (size_t)r : 0;
	}
	closedir(dir);
	return (int)found;
}

bool proc_share_memory(pid_t a, pid_t b)
{
	return syscall(SYS_kcmp, a, b, 1 /* KCMP_VM */, 0, 0) == 0;
}

uint64_t proc_now(void)
{
	struct timespec ts;
	uint64_t hz = (uint64_t)sysconf(_SC_CLK_TCK);

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * hz + (uint64_t)ts.tv_nsec * hz / 1000000000;
}

int proc_pidfd(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? -errno : fd;
}

int proc_pid_of(int pidfd, pid_t *ret_pid)
{
	char path[64], buf[1024];
	const char *p;
	int pid, r;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	r = read_small(path, buf, sizeof(buf));
	if (r < 0)
		return r;
	p = strstr(buf, "\nPid:");
	if (!p || sscanf(p + 5, "%d", &pid) != 1)
		return -EBADF;		/* no pidfd at all */
	if (pid <= 0)
		return -ESRCH;
	*ret_pid = pid;
	return 0;
}
