/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * What a scenario has: a target, memory of one kind in it, and a device
 *
 * The target is this process or a child.  What "the CPU" does, it does there:
 * cpu_call() makes a system call in the target, cpu_fill() stores, cpu_has() loads.
 *
 *	window   |   area   |     ...     |   spare   |      ...       |
 *	         ^ the memory             ^ nothing, as long as the area
 *
 * The device may use all of the window.  Contents are patterns: of a generation and
 * of the distance from the start of what was filled.
 */

#include <mirror/mirror.h>
#include <stdbool.h>
#include <stdint.h>
#include "dmirror.h"
#include "tap.h"

#define PAGE		4096UL
#define HUGE		(2UL << 20)
#define WINDOW		(64UL << 20)

enum memory_type {
	MEMORY_ANON,
	MEMORY_THP,
	MEMORY_MEMFD,
	MEMORY_FILE_PRIVATE,
	MEMORY_FILE_SHARED,
	MEMORY_HUGETLB,
	MEMORY_TYPES,
};

#define BIT(_n)			(1U << (_n))
#define OF_ALL			(BIT(MEMORY_TYPES) - 1)
#define OF_SHARED		(BIT(MEMORY_MEMFD) | BIT(MEMORY_FILE_SHARED))
#define OF_PRIVATE		(OF_ALL & ~OF_SHARED)
#define OF_ANON			(BIT(MEMORY_ANON) | BIT(MEMORY_THP) | BIT(MEMORY_HUGETLB))

extern const char *const memory_names[MEMORY_TYPES];

/* Where the device is, and how it translates. */
struct way {
	const char *name;
	unsigned int walk;
	unsigned int broken;
	bool remote;
	bool strict;
};

struct cpu;

struct env {
	unsigned int type;		/* &enum memory_type */
	const struct way *way;
	struct cpu *cpu;
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	struct dmirror *dm;
	struct dmirror_queue *q;
	uint64_t window, window_size, area, spare;
	uint64_t unit, size;		/* of the area, and of what it is made of */
	uint64_t victim, victim_end;	/* a part of the area, and what it is not */
	int fd;				/* what is behind the area, or -1 */
	uint8_t *buffer;		/* the device's, twice the area */
	bool vouched;			/* see struct dmirror_opts */
	void (*between)(struct env *e);	/* once, then it is NULL */
};

/* Target and window; the area with generation 1; the device. */
void env_begin(struct env *e, unsigned int type, const struct way *way, bool vouched);
/* Only the first; for who wants to make the rest otherwise. */
void env_begin_target(struct env *e, unsigned int type, const struct way *way, bool vouched);
void env_device(struct env *e, bool careful);
/* Exchanges the device with *dm and *q. */
void env_swap_device(struct env *e, struct dmirror **dm, struct dmirror_queue **q);
struct mirror_ctx *env_open_ctx(void);
void env_attach(struct env *e);
/* Both tables say the same still.  The rest goes with the process. */
void env_end(struct env *e);

/* Once for the program, before any scenario. */
void env_prepare(void);

/* ---- the CPU ---- */

typedef long (*cpu_fn)(const uint64_t *args);

#define CPU_ARGS		7
#define cpu_args(...)		((const uint64_t[CPU_ARGS]) { __VA_ARGS__ })

/* Runs @fn in the target. */
long cpu_run(struct env *e, cpu_fn fn, const uint64_t *args);
/* A system call there: what it returns, or -errno. */
long cpu_syscall(const uint64_t *args);
#define cpu_call(_e, ...)	cpu_run(_e, cpu_syscall, cpu_args(__VA_ARGS__))
void cpu_fill(struct env *e, uint64_t at, uint64_t size, unsigned int generation, uint64_t from);
/* Generation 0 is zeros. */
bool cpu_has(struct env *e, uint64_t at, uint64_t size, unsigned int generation, uint64_t from);
/* Keeps the pages there from being used again. */
void cpu_hold(struct env *e, uint64_t at, uint64_t size);
/* The target ends, or becomes another program. */
void cpu_exit(struct env *e);
void cpu_exec(struct env *e);
/* The target forks.  The child fills memory or ends when it is told to. */
void cpu_fork(struct env *e);
void cpu_child_fill(struct env *e, uint64_t at, uint64_t size, unsigned int generation);
bool cpu_child_has(struct env *e, uint64_t at, uint64_t size, unsigned int generation,
		   uint64_t from);
void cpu_child_exit(struct env *e);

/*
 * Memory of the scenario's kind at @at, over what is there, holding @generation from
 * 0 on; for generation 0 nothing is touched.  @offset: in what is behind it, which is
 * four times as large as the area.
 */
void map_memory(struct env *e, uint64_t at, uint64_t size, uint64_t offset,
		unsigned int generation);
void unmap_memory(struct env *e, uint64_t at, uint64_t size);

/* ---- the device ---- */

/* Reads, or writes, all of it; the number of faults. */
uint64_t device_read(struct env *e, uint64_t at, uint64_t size, unsigned int generation,
		     uint64_t from);
uint64_t device_write(struct env *e, uint64_t at, uint64_t size, unsigned int generation,
		      uint64_t from);
/* It must not be able to, and say this. */
void device_fails(struct env *e, uint64_t at, uint64_t size, bool write, int error);
/* The area without its victim has that generation, and the device has not to ask. */
void rest_is_untouched(struct env *e, unsigned int generation);
uint64_t invalidations(struct env *e, uint64_t at, uint64_t size);

/* ---- what can be asked for ---- */

/* Ends the case unless the target's source tells such events in time. */
void need_event(struct env *e, unsigned int type, const char *what);
/* The same for what only the kernel's own notifier tells: copies, truncation, ... */
void need_kernel(struct env *e, const char *what);
bool tells_copies(struct env *e);
/* A transparent huge page is at @at. */
void need_thp(struct env *e, uint64_t at);
unsigned int random_below(unsigned int n);

/* ---- patterns ---- */

void pattern_fill(void *p, uint64_t size, unsigned int generation, uint64_t from);
bool pattern_is(const void *p, uint64_t size, unsigned int generation, uint64_t from);
