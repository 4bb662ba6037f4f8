/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a child of fork() gets
 *
 * Nothing.  Its address space is another one, of which the gates it inherited say
 * nothing, and its copies of our descriptors would keep the parent's connection
 * and userfaultfd alive.
 *
 * Lookups fail by a word on a page of MADV_WIPEONFORK: the kernel zeroes it in
 * every child, whichever way it was made, before it runs.  mirror_read_retry()
 * compares with it, so this costs no system call and no flag to be kept.
 *
 * Descriptors are closed in the child handler of pthread_atfork(), by plain
 * close(2) of what is in one list.  The prepare handler takes its lock, so that
 * the list is whole in the child; nothing else is looked at there: other locks may
 * be held by threads that the child does not have.  A child made by a bare clone()
 * keeps the descriptors until it execs; lifeline.c copes with that.
 *
 * This list is the only mutable global state of the library.
 */
#include <sys/mman.h>
#include "mirror-private.h"

static pthread_mutex_t guards_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list guards = LIST_INIT(guards);
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int once_result;

static void prepare(void)
{
	pthread_mutex_lock(&guards_lock);
}

static void parent(void)
{
	pthread_mutex_unlock(&guards_lock);
}

static void child(void)
{
	list_for_each_safe(l, &guards) {
		struct guard *guard = list_entry(l, struct guard, link);

		for (unsigned int i = 0; i < guard->n_fds; i++)
			guard->fds[i] = fd_close(guard->fds[i]);
		list_unlink(&guard->link);
	}
	pthread_mutex_unlock(&guards_lock);
}

static void init(void)
{
	once_result = -pthread_atfork(prepare, parent, child);
}

int fork_init(void)
{
	int r = pthread_once(&once, init);

	return r ? -r : once_result;
}

void guard_add(struct guard *guard, int *fds, unsigned int n_fds)
{
	guard->fds = fds;
	guard->n_fds = n_fds;
	pthread_mutex_lock(&guards_lock);
	list_append(&guards, &guard->link);
	pthread_mutex_unlock(&guards_lock);
}

bool guard_remove(struct guard *guard, bool forked)
{
	/* After fork() it is unlinked.  After a bare clone() the lock cannot be had. */
	if (forked)
		return list_is_empty(&guard->link);
	pthread_mutex_lock(&guards_lock);
	list_unlink(&guard->link);
	pthread_mutex_unlock(&guards_lock);
	return true;
}

int fork_word_new(uint64_t **ret_word)
{
	uint64_t *word;

	word = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (word == MAP_FAILED)
		return -errno;
	if (madvise(word, PAGE_BYTES, MADV_WIPEONFORK) < 0) {
		int r = -errno;

		munmap(word, PAGE_BYTES);
		return r;
	}
	*word = HERE_ALIVE;
	*ret_word = word;
	return 0;
}

void fork_word_free(uint64_t *word)
{
	/*
	 * In a child the page stays: giving it back would be a change of the child's
	 * address space, and would be told to who watches the child.
	 */
	if (word && load_relaxed(word) != HERE_FORKED)
		munmap(word, PAGE_BYTES);
}
