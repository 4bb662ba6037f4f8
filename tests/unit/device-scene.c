/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include "device-scene.h"

struct scene s;

void ok(int r)
{
	ck_assert_msg(r >= 0, "%s", strerror(-r));
}

/* ---- the device ---- */

static void shadow_set(const struct mirror_device_range *range, bool there, uint64_t rights)
{
	uint64_t flags = rights | (range->flags & MIRROR_DEVICE_USER);

	ck_assert_uint_ge(range->start, s.base);
	ck_assert_uint_le(range->end, s.base + SIZE);
	ck_assert_uint_lt(range->start, range->end);
	for (uint64_t a = range->start; a < range->end; a += P) {
		uint64_t *word = &s.shadow[(a - s.base) / P];

		ck_assert_int_eq(*word != 0, there);
		if (there)	/* the device is told of what it has */
			ck_assert_uint_eq(*word & ~MIRROR_ENTRY_FLAGS,
					  range->address + (a - range->start));
		*word = rights ? (range->address + (a - range->start)) | flags |
				 MIRROR_ENTRY_VALID : 0;
	}
	s.unflushed = true;
}

static void on_map(struct mirror_device *device, const struct mirror_device_range *range,
		   void *userdata)
{
	ck_assert_ptr_eq(userdata, &s);
	ck_assert_ptr_eq(device, s.device);
	ck_assert_uint_ne(range->rights, 0);
	shadow_set(range, false, range->rights);
	s.n_map++;
}

static void on_unmap(struct mirror_device *device _unused_,
		     const struct mirror_device_range *range, void *userdata _unused_)
{
	ck_assert_uint_eq(range->rights, 0);
	shadow_set(range, true, 0);
	s.n_unmap++;
}

static void on_downgrade(struct mirror_device *device _unused_,
			 const struct mirror_device_range *range, void *userdata _unused_)
{
	ck_assert_uint_ne(range->rights, 0);
	shadow_set(range, true, range->rights);
	s.n_downgrade++;
}

static void on_flush(struct mirror_device *device _unused_, void *userdata _unused_)
{
	ck_assert(s.unflushed);
	s.unflushed = false;
	s.n_flush++;
}

static void on_event(struct mirror_device *device _unused_, const struct mirror_event *event
		     _unused_, void *userdata _unused_)
{
	void (*inside)(void) = s.inside;

	s.n_event++;
	s.inside = NULL;
	if (inside)
		inside();
}

const struct mirror_device_ops scene_ops = {
	.sz = sizeof(scene_ops), .map = on_map, .unmap = on_unmap, .downgrade = on_downgrade,
	.flush = on_flush, .event = on_event,
};

void forget_counts(void)
{
	s.n_map = s.n_unmap = s.n_downgrade = s.n_flush = s.n_event = 0;
}

void check_counts(unsigned int map, unsigned int unmap, unsigned int downgrade,
			 unsigned int flush)
{
	ck_assert_uint_eq(s.n_map, map);
	ck_assert_uint_eq(s.n_unmap, unmap);
	ck_assert_uint_eq(s.n_downgrade, downgrade);
	ck_assert_uint_eq(s.n_flush, flush);
	ck_assert(!s.unflushed);
	forget_counts();
}

struct mirror_device_stats stats(void)
{
	struct mirror_device_stats stats = { .sz = sizeof(stats) };

	ok(mirror_device_get_stats(s.device, &stats));
	return stats;
}

void check_table(void)
{
	uint64_t mapped = 0;

	for (uint64_t i = 0; i < PAGES; i++) {
		uint64_t entry = radix_get(&s.device->radix, s.base + i * P);

		if (entry != s.model[i] || s.shadow[i] != (s.model[i] & ~ENTRY_AGE))
			ck_abort_msg("page %lu: table %lx, device %lx, expected %lx", i, entry,
				     s.shadow[i], s.model[i]);
		mapped += entry ? P : 0;
	}
	ck_assert_int_eq(radix_check(&s.device->radix), 0);
	ck_assert_uint_eq(stats().mapped, mapped);
	ck_assert_uint_eq(s.ctx->ring.cons->device_bytes, mapped);
	ck_assert_uint_eq(s.device->generation & 1, 0);
}

/* ---- the scene ---- */

void scene_begin(void)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	char *p;

	memset(&s, 0, sizeof(s));
	opts.flags = MIRROR_OPEN_EMBEDDED;
	ok(mirror_open(&s.ctx, &opts));
	ok(mirror_target_attach_self(&s.target, s.ctx, NULL));
	p = mmap(NULL, SIZE + 2 * M, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ck_assert_ptr_ne(p, MAP_FAILED);
	s.base = ((uintptr_t)p + 2 * M - 1) & ~(2 * M - 1);
}

void device_begin_with(const uint8_t *reaction)
{
	struct mirror_device_opts opts = MIRROR_DEVICE_OPTS_INIT;

	opts.owner = OWNER;
	if (reaction)
		memcpy(opts.reaction, reaction, sizeof(opts.reaction));
	memset(s.shadow, 0, sizeof(s.shadow));
	memset(s.model, 0, sizeof(s.model));
	ok(mirror_device_new(&s.device, s.target, s.base, s.base + SIZE, &scene_ops,
			     &opts, &s));
	forget_counts();
}

void device_over(void)
{
	s.device = mirror_device_free(s.device);
	for (uint64_t i = 0; i < PAGES; i++)
		ck_assert_uint_eq(s.shadow[i], 0);
	ck_assert_uint_eq(s.ctx->ring.cons->device_bytes, 0);
}

void scene_end(void)
{
	mirror_target_unref(s.target);
	mirror_ctx_unref(s.ctx);
}

int map(uint64_t start, uint64_t end, uint64_t address, uint32_t rights)
{
	uint64_t version;
	int r;

	ok(mirror_read_begin(s.device->notifier, s.base + start, s.base + end, &version));
	r = mirror_device_map(s.device, s.base + start, s.base + end, address, rights, version);
	for (uint64_t i = start / P; r == 0 && i < end / P; i++)
		s.model[i] = (address + i * P - start) | rights | MIRROR_ENTRY_VALID;
	return r;
}

void fill(void)
{
	ok(map(0, 2 * M, 0x100000000, RW));
	for (uint64_t i = 0; i < PIECES - 2; i++)
		ok(map(2 * M + i * 3 * P, 2 * M + i * 3 * P + P, 0x200000000 + i * 16 * P, RW));
	ok(map(4 * M, 6 * M, 0x300000000, RWX));
	ok(map(30 * M, SIZE, 0x400000000, RW));
	forget_counts();
	check_table();
}

void inject(struct mirror_event ev)
{
	struct mirror_notifier *n = s.device->notifier;

	if (!(ev.flags & MIRROR_EVENT_F_PHASE))
		ev.flags |= MIRROR_EVENT_F_START;
	if (!ev.time_ns)
		ev.time_ns = now_ns();
	pthread_mutex_lock(&s.ctx->lock);
	n->invalidate(n, &ev, n->userdata);
	pthread_mutex_unlock(&s.ctx->lock);
}

struct mirror_event event_of(unsigned int type, unsigned int cause)
{
	return (struct mirror_event) {
		.type = (uint8_t)type, .cause = (uint8_t)cause,
		.start = s.base + FROM, .end = s.base + TO,
	};
}

void model_take(uint64_t from, uint64_t to, uint64_t rights)
{
	for (uint64_t i = from / P; i < to / P; i++) {
		s.model[i] &= ~rights;
		if (!(s.model[i] & MIRROR_DEVICE_RIGHTS))
			s.model[i] = 0;
	}
}
