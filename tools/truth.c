/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "truth.h"

#define PAGE_SHIFT	12
#define TEXT_MIN	(64 * 1024)

static int open_file(pid_t pid, const char *name)
{
	char path[48];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;

	return fd;
}

int truth_open(struct truth *truth, pid_t pid)
{
	struct truth t = TRUTH_NULL;

	t.pid = pid;
	t.pagemap_fd = open_file(pid, "pagemap");
	if (t.pagemap_fd < 0)
		return t.pagemap_fd;
	*truth = t;

	return 0;
}

void truth_close(struct truth *truth)
{
	if (truth->pagemap_fd >= 0)
		close(truth->pagemap_fd);
	free(truth->text);
	free(truth->maps);
	*truth = (struct truth)TRUTH_NULL;
}

/* The whole file, with a zero at the end. */
static int read_text(struct truth *t, int fd)
{
	size_t n = 0, size;
	ssize_t got;
	char *text;

	for (;;) {
		if (t->text_size - n < TEXT_MIN / 2) {
			size = t->text_size ? 2 * t->text_size : TEXT_MIN;
			text = realloc(t->text, size);
			if (!text)
				return -ENOMEM;
			t->text = text;
			t->text_size = size;
		}

		got = read(fd, t->text + n, t->text_size - n - 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			break;
		n += (size_t)got;
	}
	t->text[n] = 0;

	return 0;
}

static bool has_flag(const char *flags, const char *flag)
{
	const char *at = strstr(flags, flag);

	return at && at > flags && at[-1] == ' ' && (!at[2] || at[2] == ' ');
}

/* A line of maps; false for any other, as smaps has them. */
static bool parse_line(char *line, struct truth_map *ret_map)
{
	struct truth_map map = { .name = "" };
	unsigned int major, minor;
	unsigned long inode;
	char rights[5];
	int at = 0;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %x:%x %lu%n", &map.start, &map.end,
		   rights, &major, &minor, &inode, &at) != 6)
		return false;

	map.read = rights[0] == 'r';
	map.write = rights[1] == 'w';
	map.exec = rights[2] == 'x';
	map.shared = rights[3] == 's';
	map.file = inode || major || minor;
	map.name = line + at + strspn(line + at, " ");
	map.sysv = !strncmp(map.name, "/SYSV", 5);
	*ret_map = map;

	return true;
}

static int add_map(struct truth *t, const struct truth_map *map)
{
	struct truth_map *maps;
	size_t size;

	if (t->n_maps == t->maps_size) {
		size = t->maps_size ? 2 * t->maps_size : 256;
		maps = realloc(t->maps, size * sizeof(*maps));
		if (!maps)
			return -ENOMEM;
		t->maps = maps;
		t->maps_size = size;
	}

	/* the file is read in pieces, and what moves meanwhile can show up twice */
	if (t->n_maps && map->start < t->maps[t->n_maps - 1].end)
		return 0;
	t->maps[t->n_maps++] = *map;

	return 0;
}

int truth_read_maps(struct truth *truth, bool watched)
{
	struct truth_map map;
	char *line, *next;
	int fd, r;

	fd = open_file(truth->pid, watched ? "smaps" : "maps");
	if (fd < 0)
		return fd;
	r = read_text(truth, fd);
	close(fd);
	if (r < 0)
		return r;

	truth->n_maps = 0;
	for (line = truth->text; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;

		if (parse_line(line, &map)) {
			r = add_map(truth, &map);
			if (r < 0)
				return r;
		} else if (truth->n_maps && !strncmp(line, "VmFlags:", 8)) {
			truth->maps[truth->n_maps - 1].watched = has_flag(line, "um") ||
				has_flag(line, "uw") || has_flag(line, "ui");
		}
	}

	return truth->n_maps ? 0 : -ESRCH;
}

const struct truth_map *truth_find(const struct truth *truth, uint64_t address)
{
	size_t low = 0, high = truth->n_maps, middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (truth->maps[middle].end > address)
			high = middle;
		else
			low = middle + 1;
	}

	return low < truth->n_maps ? &truth->maps[low] : NULL;
}

int truth_read_pages(struct truth *truth, uint64_t start, uint64_t end, uint64_t *words)
{
	size_t size = (size_t)((end - start) >> PAGE_SHIFT) * sizeof(*words), n = 0;
	off_t at = (off_t)((start >> PAGE_SHIFT) * sizeof(*words));
	ssize_t got;

	while (n < size) {
		got = pread(truth->pagemap_fd, (char *)words + n, size - n, at + (off_t)n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			break;
		n += (size_t)got;
	}

	/* behind the end of user space, and of a process that has ended */
	memset((char *)words + n, 0, size - n);

	return 0;
}
