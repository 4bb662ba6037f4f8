/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/gate.h"
#include "shm.h"

void gate_init(struct gate *gate, void *shm, uint32_t target, uint32_t live)
{
	struct mirror_gate *g = shm;

	*g = (struct mirror_gate) {
		.life = 0,
		.state = MIRROR_GATE_RELEASED,
		.magic = MIRROR_GATE_MAGIC,
		.version = MIRROR_GATE_VERSION,
		.live = live,
		.target = target,
		.stripes_off = sizeof(struct mirror_gate),
		.n_stripes = GATE_STRIPES,
		.stripe_shift = GATE_STRIPE_SHIFT,
		.size = GATE_BYTES,
	};
	gate->shm = g;
	gate->stripes = (struct mirror_gate_stripe *)(g + 1);
}

int gate_adopt(struct gate *gate, void *shm, uint32_t target)
{
	struct mirror_gate *g = shm;

	if (g->magic != MIRROR_GATE_MAGIC || g->version != MIRROR_GATE_VERSION ||
	    g->target != target || g->stripes_off != sizeof(*g) || g->size != GATE_BYTES ||
	    g->n_stripes != GATE_STRIPES || g->stripe_shift != GATE_STRIPE_SHIFT)
		return -EPROTO;
	gate->shm = g;
	gate->stripes = (struct mirror_gate_stripe *)(g + 1);
	return 0;
}

bool gate_is_quiet(const struct gate *gate)
{
	if (gate->shm->seq & 1)
		return false;
	for (unsigned int i = 0; i < GATE_STRIPES; i++)
		if (gate->stripes[i].started != gate->stripes[i].ended)
			return false;
	return true;
}

void gate_renew(struct gate *gate, uint32_t live, bool revive, bool open)
{
	/* what gate_end() of all there is will add to each stripe */
	uint64_t left = open ? gate_blocks(0, USER_END, GATE_STRIPE_SHIFT, GATE_STRIPES) /
			       GATE_STRIPES : 0;

	gate_start(gate, 0, USER_END);
	for (unsigned int i = 0; i < GATE_STRIPES; i++) {
		struct mirror_gate_stripe *s = &gate->stripes[i];

		store_release(&s->ended, s->started - left);
	}
	if (gate->shm->seq & 1)
		gate_unknown_end(gate);
	store_relaxed(&gate->shm->live, live);
	if (!revive)
		return;
	store_relaxed(&gate->shm->state, MIRROR_GATE_LIVE);
	/* Release: who finds life finds the new versions, and OVERFLOW in its ring. */
	store_release(&gate->shm->life, live);
}

void gate_unknown_begin(struct gate *gate)
{
	store_relaxed(&gate->shm->seq, gate->shm->seq + 1);
	/*
	 * Pairs with the lookups of the thread that the read() to come lets go: the
	 * store is visible before the kernel wakes that thread.
	 */
	full_fence();
}

void gate_unknown_end(struct gate *gate)
{
	/* Release: pairs with gate_head_load().  Who sees it even sees gate_start(). */
	store_release(&gate->shm->seq, gate->shm->seq + 1);
}

void gate_start(struct gate *gate, uint64_t start, uint64_t end)
{
	uint64_t block = start >> GATE_STRIPE_SHIFT;
	uint64_t n = gate_blocks(start, end, GATE_STRIPE_SHIFT, GATE_STRIPES);

	store_relaxed(&gate->shm->changes, gate->shm->changes + 1);
	for (uint64_t i = 0; i < n; i++) {
		struct mirror_gate_stripe *s;

		s = &gate->stripes[gate_index(block + i, GATE_STRIPES)];
		store_relaxed(&s->started, s->started + 1);
	}
	/*
	 * Pairs with the consumer's fence between "head moved" and its lookups: if
	 * the ring is found full after this, what the consumer establishes from now
	 * on carries the new version.
	 */
	full_fence();
}

void gate_end(struct gate *gate, uint64_t start, uint64_t end)
{
	uint64_t block = start >> GATE_STRIPE_SHIFT;
	uint64_t n = gate_blocks(start, end, GATE_STRIPE_SHIFT, GATE_STRIPES);

	for (uint64_t i = 0; i < n; i++) {
		struct mirror_gate_stripe *s;

		s = &gate->stripes[gate_index(block + i, GATE_STRIPES)];
		/* Release: who sees the end sees the records of the change. */
		store_release(&s->ended, s->ended + 1);
	}
}

void gate_release(struct gate *gate, uint32_t state)
{
	store_relaxed(&gate->shm->state, state);
	/* Release: a reader that finds no life finds the state that says why. */
	store_release(&gate->shm->life, 0);
}

void gate_revive(struct gate *gate)
{
	/* All that was established in the address space before is void. */
	gate_start(gate, 0, USER_END);
	store_relaxed(&gate->shm->state, MIRROR_GATE_LIVE);
	store_release(&gate->shm->life, gate->shm->live);
	gate_end(gate, 0, USER_END);
}
