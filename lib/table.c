/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mirror tables, the reading side
 *
 * The daemon's memory is sealed: what is checked here once, sizes and offsets, is the
 * daemon's word for ever, and a walk stays inside by n_nodes.  A table that is not
 * kept any more stays mapped as long as the target object: somebody may be in it.
 */
#include <mirror/table.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include "memfd.h"
#include "mirror-private.h"

#define TABLE_BYTES_MAX (1ULL << 40)
#define NAP_MIN_NS 20000L
#define NAP_MAX_NS 1000000L
#define PATIENCE_NS NSEC_PER_SEC

static int check_head(const struct mirror_table *head, uint64_t size, uint32_t target)
{
	if (head->magic != MIRROR_TABLE_MAGIC || head->version != MIRROR_TABLE_VERSION)
		return -EPROTO;
	if (head->target != target || (head->levels != 4 && head->levels != 5))
		return -EPROTO;
	if (head->size > size || !head->n_nodes)
		return -EPROTO;
	if (head->tags_off < sizeof(*head) || head->tags_off % 8 || head->tags_off > head->size)
		return -EPROTO;
	if (head->n_nodes > (head->size - head->tags_off) / sizeof(struct mirror_table_tag))
		return -EPROTO;
	if (head->nodes_off % PAGE_BYTES || head->nodes_off > head->size ||
	    head->nodes_off < head->tags_off + head->n_nodes * sizeof(struct mirror_table_tag))
		return -EPROTO;
	if (head->n_nodes > (head->size - head->nodes_off) / PAGE_BYTES)
		return -EPROTO;
	return 0;
}

static int map_table(int fd, uint32_t target, struct table_map **ret_map)
{
	struct mirror_table head;
	struct table_map *map;
	struct stat st;
	int r;

	r = memfd_check(fd, sizeof(head), true);
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size > TABLE_BYTES_MAX)
		return -EPROTO;
	map = calloc(1, sizeof(*map));
	if (!map)
		return -ENOMEM;
	map->size = (size_t)st.st_size;
	map->table = mmap(NULL, map->size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (map->table == MAP_FAILED) {
		r = -errno;
		free(map);
		return r;
	}
	memcpy(&head, map->table, sizeof(head));
	r = check_head(&head, map->size, target);
	if (r < 0) {
		table_unmap(map);
		return r;
	}
	*ret_map = map;
	return 0;
}

struct table_map *table_unmap(struct table_map *map)
{
	while (map) {
		struct table_map *older = map->older;

		munmap((void *)(uintptr_t)map->table, map->size);
		free(map);
		map = older;
	}
	return NULL;
}

static bool is_live(const struct table_map *map)
{
	return map && load_relaxed(&map->table->state) == MIRROR_TABLE_LIVE;
}

/* Under ctx->lock. */
static int ask_for_table(struct mirror_target *target)
{
	struct mirror_table_get get = { .size = sizeof(get), .target = target->info.target };
	struct packet reply = PACKET_NULL;
	struct table_map *map = NULL;
	int r;

	r = ctx_request(target->ctx, MIRROR_OP_TABLE, &get, NULL, 0, &reply);
	if (r < 0)
		return r;
	r = reply.n_fds == 1 ? map_table(reply.fds[0], target->info.target, &map) : -EPROTO;
	packet_clear(&reply);
	if (r < 0)
		return r;
	map->older = target->tables;
	/* Release: pairs with the acquire of who takes it without the lock. */
	store_release(&target->tables, map);
	return 0;
}

MIRROR_PUBLIC int mirror_target_get_table(struct mirror_target *target,
					  const struct mirror_table **ret_table)
{
	struct table_map *map;
	int r;

	r = ctx_check(target->ctx);
	if (r < 0)
		return r;
	map = load_acquire(&target->tables);
	if (!is_live(map)) {
		pthread_mutex_lock(&target->ctx->lock);
		if (!is_live(target->tables))
			r = ask_for_table(target);
		map = target->tables;
		pthread_mutex_unlock(&target->ctx->lock);
		if (r < 0)
			return r;
	}
	*ret_table = map->table;
	return 0;
}

/* How long nothing has been done, since when. */
struct waiting {
	uint64_t since_ns;
	long nap_ns;
};

static int wait_a_little(struct waiting *waiting)
{
	struct timespec nap = { .tv_nsec = MAX(waiting->nap_ns, NAP_MIN_NS) };
	uint64_t now = now_ns();

	if (!waiting->since_ns)
		waiting->since_ns = now;
	if (now - waiting->since_ns >= PATIENCE_NS)
		return -EAGAIN;
	clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
	waiting->nap_ns = MIN(nap.tv_nsec * 2, NAP_MAX_NS);
	return 0;
}

MIRROR_PUBLIC int mirror_target_fill(struct mirror_target *target, uint64_t start, uint64_t end,
				     uint64_t *ret_pages)
{
	struct waiting waiting = { .nap_ns = 0 };
	uint64_t pages = 0, at = start;
	int r;

	r = ctx_check(target->ctx);
	if (r < 0)
		return r;
	if (!range_is_valid(start, end))
		return -EINVAL;
	while (at < end) {
		struct mirror_fill fill = {
			.size = sizeof(fill), .target = target->info.target,
			.start = at, .end = end,
		};

		r = ctx_request(target->ctx, MIRROR_OP_FILL, &fill, NULL, 0, NULL);
		if (r == -EAGAIN)
			r = wait_a_little(&waiting);
		else if (r == 0 && (fill.next <= at || fill.next > end))
			r = -EPROTO;
		else if (r == 0)
			waiting = (struct waiting) { .nap_ns = 0 };
		if (r < 0)
			return r;
		if (fill.next > at) {
			at = fill.next;
			pages += fill.pages;
		}
	}
	if (ret_pages)
		*ret_pages = pages;
	return 0;
}
