/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * A scene for device page tables from inside
 *
 * A real device of this very process, with a real (embedded) daemon; the events are
 * our own, handed to the callback of the device's notifier.  What the operations are
 * told is kept in a shadow of one word for each page, what should be there in a model
 * likewise; after each step the table, the shadow and the model must be the same.
 */
#include "device-private.h"
#include "unit.h"

#define P PAGE_BYTES
#define M (1ULL << 20)
#define SIZE (32 * M)
#define PAGES (SIZE / P)
#define RW (MIRROR_DEVICE_READ | MIRROR_DEVICE_WRITE)
#define RWX (RW | MIRROR_DEVICE_EXEC)
#define OWNER 0x6f776e6572ULL

/* What the events are about; what is mapped reaches over both of its ends. */
#define FROM (1 * M)
#define TO (5 * M)
#define PIECES 10		/* in there, not adjacent or not alike */
#define AWAY (20 * M)		/* where it is moved to */

struct scene {
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	struct mirror_device *device;
	uint64_t base;
	uint64_t shadow[PAGES], model[PAGES];
	unsigned int n_map, n_unmap, n_downgrade, n_flush, n_event;
	bool unflushed;
	void (*inside)(void);	/* run in the first ops.event */
};

extern struct scene s;
extern const struct mirror_device_ops scene_ops;

void ok(int r);

void scene_begin(void);
void scene_end(void);
/* A device for all of the scene; @reaction: by type of event, or NULL. */
void device_begin_with(const uint8_t *reaction);
void device_over(void);

/* In the table and in the model, from offsets in the scene. */
int map(uint64_t start, uint64_t end, uint64_t address, uint32_t rights);
/* Large, small and scattered; all of the first block and the third are one leaf. */
void fill(void);
void model_take(uint64_t from, uint64_t to, uint64_t rights);

void inject(struct mirror_event ev);
struct mirror_event event_of(unsigned int type, unsigned int cause);

struct mirror_device_stats stats(void);
void forget_counts(void);
/* What the device was told since; forgets it. */
void check_counts(unsigned int map, unsigned int unmap, unsigned int downgrade,
		  unsigned int flush);
void check_table(void);
