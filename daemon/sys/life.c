/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "shm.h"
#include "sys/life.h"

struct entry {
	struct robust_list list;	/* first: what the kernel walks */
	struct entry *prev;
};

static struct robust_list_head head;
static uint32_t n_entries;

static struct entry *entry_of(const struct life_map *map)
{
	return (struct entry *)((char *)map->shared - sizeof(struct entry));
}

int life_init(uint32_t *ret_live)
{
	head.list.next = &head.list;
	head.futex_offset = (long)sizeof(struct entry);
	/*
	 * This replaces glibc's list of the thread.  We use no robust mutexes, so
	 * nothing of glibc's was ever on it.
	 */
	if (syscall(SYS_set_robust_list, &head, sizeof(head)) < 0)
		return -errno;
	*ret_live = (uint32_t)syscall(SYS_gettid) & FUTEX_TID_MASK;
	return 0;
}

int life_map(int fd, size_t size, struct life_map *ret_map)
{
	struct life_map map = { .size = size };
	struct entry *entry, *next;

	if (n_entries >= LIFE_MAX)
		return -EDQUOT;
	map.private_page = mmap(NULL, PAGE_BYTES + size, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map.private_page == MAP_FAILED)
		return -errno;
	map.shared = mmap((char *)map.private_page + PAGE_BYTES, size, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_FIXED, fd, 0);
	if (map.shared == MAP_FAILED) {
		int r = -errno;

		munmap(map.private_page, PAGE_BYTES + size);
		return r;
	}
	entry = entry_of(&map);
	entry->list.next = head.list.next;
	entry->prev = NULL;
	if (head.list.next != &head.list) {
		next = (struct entry *)head.list.next;
		next->prev = entry;
	}
	/* One store makes it a member: death finds the list whole at every moment. */
	store_release(&head.list.next, &entry->list);
	n_entries++;
	*ret_map = map;
	return 0;
}

void life_unmap(struct life_map *map)
{
	struct entry *entry, *next;

	if (!map->private_page)
		return;
	entry = entry_of(map);
	if (entry->list.next != &head.list) {
		next = (struct entry *)entry->list.next;
		next->prev = entry->prev;
	}
	if (entry->prev)
		store_release(&entry->prev->list.next, entry->list.next);
	else
		store_release(&head.list.next, entry->list.next);
	n_entries--;
	munmap(map->private_page, PAGE_BYTES + map->size);
	*map = (struct life_map) { .private_page = NULL };
}
