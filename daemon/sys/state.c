/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <assert.h>
#include <mirror/uapi/ioctl.h>
#include <string.h>
#include <sys/mman.h>
#include "memfd.h"
#include "sys/state.h"

#define STATE_MAGIC 0x4154534dU	/* "MSTA", little endian */
#define STATE_VERSION 1
#define NO_SLOT UINT32_MAX

struct header {
	uint32_t magic;
	uint32_t version;
	uint32_t uapi_version;
	uint32_t header_size, slot_size, n_slots;
	uint32_t next_id, next_target;
	uint32_t n_used;		/* slots from here on were never used */
	uint32_t attempts;		/* to go on with it, that did not get far */
	uint64_t last_number;		/* of requests and forks */
	uint64_t fork;			/* 0: none */
	struct state_request request;
	struct state_device device;
};

struct state {
	struct header *header;
	struct state_slot *slots;
	uint32_t first_free;		/* a list, through slots that are free */
	int fd;				/* -1: private memory */
};

#define STATE_BYTES (PAGE_BYTES + (size_t)STATE_SLOTS * sizeof(struct state_slot))

static_assert(sizeof(struct header) <= PAGE_BYTES, "the slots begin at the second page");

/* What comes next in the program is written next. */
static void settle(void)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static int map(struct state *state, int fd)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *p;

	p = mmap(NULL, STATE_BYTES, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	state->header = p;
	state->slots = (struct state_slot *)(void *)((char *)p + PAGE_BYTES);
	return 0;
}

static struct state *state_alloc(void)
{
	struct state *state = calloc(1, sizeof(*state));

	if (!state)
		return NULL;
	state->fd = -1;
	state->first_free = NO_SLOT;
	return state;
}

int state_new(struct state **ret_state, bool kept)
{
	_cleanup_(state_freep) struct state *state = state_alloc();
	int r;

	if (!state)
		return -ENOMEM;
	if (kept) {
		r = memfd_new("mirror-state", STATE_BYTES, &state->fd);
		if (r < 0)
			return r;
	}
	r = map(state, state->fd);
	if (r < 0)
		return r;
	*state->header = (struct header) {
		.version = STATE_VERSION,
		.uapi_version = MIRROR_UAPI_VERSION,
		.header_size = sizeof(struct header),
		.slot_size = sizeof(struct state_slot),
		.n_slots = STATE_SLOTS,
		.next_id = 1,
		.next_target = 1,
	};
	settle();
	state->header->magic = STATE_MAGIC;
	*ret_state = TAKE_PTR(state);
	return 0;
}

static int check(const struct header *h)
{
	if (h->magic != STATE_MAGIC || h->version != STATE_VERSION ||
	    h->uapi_version != MIRROR_UAPI_VERSION)
		return -EPROTO;
	if (h->header_size != sizeof(*h) || h->slot_size != sizeof(struct state_slot) ||
	    h->n_slots != STATE_SLOTS || h->n_used > STATE_SLOTS)
		return -EPROTO;
	return 0;
}

static void push(struct state *state, uint32_t i)
{
	state->slots[i].u.next_free = state->first_free;
	state->first_free = i;
}

int state_open(struct state **ret_state, int fd)
{
	_cleanup_(state_freep) struct state *state = NULL;
	int r;

	r = memfd_check(fd, STATE_BYTES, false);
	if (r < 0)
		return r;
	state = state_alloc();
	if (!state)
		return -ENOMEM;
	r = map(state, fd);
	if (r == 0)
		r = check(state->header);
	if (r < 0)
		return r;
	/* the lowest is to be taken first */
	for (uint32_t i = state->header->n_used; i-- > 0;) {
		struct state_slot *slot = &state->slots[i];

		if (slot->kind > STATE_FREE && slot->kind < _STATE_KINDS)
			continue;
		slot->kind = STATE_FREE;
		push(state, i);
	}
	state->header->device.name[sizeof(state->header->device.name) - 1] = 0;
	state->fd = fd;
	*ret_state = TAKE_PTR(state);
	return 0;
}

struct state *state_free(struct state *state)
{
	if (!state)
		return NULL;
	if (state->header)
		munmap(state->header, STATE_BYTES);
	fd_close(state->fd);
	free(state);
	return NULL;
}

int state_get_fd(const struct state *state)
{
	return state->fd;
}

struct state_device *state_get_device(struct state *state)
{
	return &state->header->device;
}

static uint32_t take(uint32_t *counter)
{
	uint32_t id = *counter;

	/* it is used up before it is used */
	if (id)
		*counter = id + 1;
	settle();
	return id;
}

uint32_t state_next_id(struct state *state)
{
	return take(&state->header->next_id);
}

uint32_t state_next_target(struct state *state)
{
	return take(&state->header->next_target);
}

static void note(uint32_t *counter, uint32_t id)
{
	if (*counter && id >= *counter)
		*counter = id + 1;
}

void state_note_id(struct state *state, uint32_t id)
{
	note(&state->header->next_id, id);
}

void state_note_target(struct state *state, uint32_t id)
{
	note(&state->header->next_target, id);
}

uint32_t state_attempt(struct state *state)
{
	return ++state->header->attempts;
}

void state_attempt_done(struct state *state)
{
	state->header->attempts = 0;
}

void state_begin(struct state *state, uint32_t client, uint32_t op, uint32_t serial)
{
	struct state_request *q = &state->header->request;

	if (q->phase == STATE_BEGUN && q->client == client && q->op == op && q->serial == serial)
		return;
	q->phase = STATE_DONE;
	settle();
	q->number = ++state->header->last_number;
	q->client = client;
	q->op = op;
	q->serial = serial;
	settle();
	q->phase = STATE_BEGUN;
	settle();
}

void state_served(struct state *state, uint32_t flags, uint32_t result)
{
	struct state_request *q = &state->header->request;

	q->flags = flags;
	q->result = result;
	settle();
	q->phase = STATE_SERVED;
	settle();
}

void state_done(struct state *state)
{
	settle();
	state->header->request.phase = STATE_DONE;
	settle();
}

void state_put_back(struct state *state, const struct state_request *q)
{
	struct state_request *to = &state->header->request;

	to->phase = STATE_DONE;
	settle();
	*to = *q;
	to->phase = STATE_DONE;
	settle();
	to->phase = q->phase;
	settle();
}

uint64_t state_current(const struct state *state)
{
	const struct header *h = state->header;

	if (h->fork)
		return h->fork;
	return h->request.phase == STATE_BEGUN ? h->request.number : 0;
}

void state_fork_begin(struct state *state)
{
	uint64_t number = ++state->header->last_number;

	settle();
	state->header->fork = number;
	settle();
}

void state_fork_end(struct state *state)
{
	settle();
	state->header->fork = 0;
	settle();
}

uint64_t state_get_fork(const struct state *state)
{
	return state->header->fork;
}

struct state_request state_get_request(const struct state *state)
{
	return state->header->request;
}

int state_slot_new(struct state *state, struct state_slot **ret_slot)
{
	uint32_t i = state->first_free;
	struct state_slot *slot;

	if (i != NO_SLOT) {
		state->first_free = state->slots[i].u.next_free;
	} else {
		i = state->header->n_used;
		if (i == STATE_SLOTS)
			return -EDQUOT;
		state->slots[i].kind = STATE_FREE;
		settle();
		state->header->n_used = i + 1;
	}
	slot = &state->slots[i];
	*slot = (struct state_slot) {
		.kind = STATE_FREE,
		.made_by = state_current(state),
	};
	*ret_slot = slot;
	return 0;
}

void state_slot_set(struct state_slot *slot, enum state_kind kind)
{
	settle();
	slot->kind = kind;
	settle();
}

struct state_slot *state_slot_free(struct state *state, struct state_slot *slot)
{
	if (!slot)
		return NULL;
	settle();
	slot->kind = STATE_FREE;
	settle();
	push(state, state_slot_index(state, slot));
	return NULL;
}

uint32_t state_slot_index(const struct state *state, const struct state_slot *slot)
{
	return (uint32_t)(slot - state->slots);
}

uint32_t state_n_slots(const struct state *state)
{
	return state->header->n_used;
}

struct state_slot *state_slot_at(struct state *state, uint32_t index)
{
	return &state->slots[index];
}
