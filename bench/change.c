/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * bench-change: what a change of the address space costs the one who makes it
 *
 *	how=NAME	who listens, see watch.h
 *	cpu=N		bind the thread that acts to the N-th processor
 *	idle=N		threads more, which do nothing
 *	spin=N		one thread more, which computes on the N-th processor while it is
 *			our turn: then every change has to interrupt that processor, as it
 *			has to for a busy consumer
 *
 * One page and one of 2 MiB, in a hole of their own, so that no mapping is ever
 * merged with a neighbour.  Only the system call itself is timed.
 */

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "watch.h"

#define BIG (2UL << 20)

static const struct watch *const ways[] = {
	&watch_none, &watch_reader, &watch_cache,
	&watch_mirror, &watch_mirror_apart, &watch_mirror_unarmed,
#ifdef HAVE_LIBFABRIC
	&watch_fabric,
#endif
};

static const struct watch *way;
static char *page, *big;
static uint64_t expected;
static uint32_t spinning;	/* futex */
static bool has_spin;
static struct samples a, b, c;

/* Waits, not too long, until all changes so far were heard of. */
static void settle(void)
{
	uint64_t deadline = now_ns() + PATIENCE_NS, heard;

	if (way->silent)
		return;
	while ((heard = way->heard()) != expected) {
		if (heard > expected)
			fail("%llu changes, but heard of %llu", (unsigned long long)expected,
			     (unsigned long long)heard);
		if (now_ns() > deadline)
			fail("heard of %llu changes of %llu", (unsigned long long)heard,
			     (unsigned long long)expected);
		sched_yield();
	}
}

static void map_at(char *where, size_t bytes, int flags)
{
	void *p = mmap(where, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | flags, -1, 0);

	if (p != where)
		fail("the address is taken");
}

static void run_empty(unsigned int count)
{
	uint64_t t;

	a.name = "empty";
	for (unsigned int i = 0; i < count; i++) {
		t = now_ns();
		samples_add(&a, now_ns() - t);
	}
	samples_say(&a);
}

static void *idle(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void start_idle(long n)
{
	pthread_t thread;

	for (long i = 0; i < n; i++)
		must(-pthread_create(&thread, NULL, idle, NULL), "pthread_create");
}

static void *spin(void *cpu)
{
	pin(*(int *)cpu);
	for (;;) {
		while (!__atomic_load_n(&spinning, __ATOMIC_ACQUIRE))
			syscall(SYS_futex, &spinning, FUTEX_WAIT, 0, NULL, NULL, 0);
		while (__atomic_load_n(&spinning, __ATOMIC_RELAXED))
			;
	}
	return NULL;
}

static void start_spin(long index)
{
	static int cpu;
	pthread_t thread;

	if (index < 0)
		return;
	cpu = cpu_at((int)index);
	has_spin = true;
	must(-pthread_create(&thread, NULL, spin, &cpu), "pthread_create");
}

static void begin(void)
{
	if (has_spin) {
		__atomic_store_n(&spinning, 1, __ATOMIC_RELEASE);
		syscall(SYS_futex, &spinning, FUTEX_WAKE, 1, NULL, NULL, 0);
	}
	way->begin();
}

static void end(void)
{
	__atomic_store_n(&spinning, 0, __ATOMIC_RELEASE);
	way->end();
}

static void run_munmap(unsigned int count)
{
	uint64_t t0, t1, t2, t3;

	a.name = "munmap";
	b.name = "mmap+munmap";
	c.name = "arm";
	begin();
	for (unsigned int i = 0; i < count; i++) {
		t0 = now_ns();
		map_at(page, PAGE, MAP_POPULATE);
		t1 = now_ns();
		way->arm(page, PAGE);
		t2 = now_ns();
		must(munmap(page, PAGE) < 0 ? -errno : 0, "munmap");
		t3 = now_ns();
		expected++;
		samples_add(&a, t3 - t2);
		samples_add(&b, (t1 - t0) + (t3 - t2));
		samples_add(&c, t2 - t1);
	}
	settle();
	end();
	samples_say(&a);
	samples_say(&b);
	samples_say(&c);
}

static void drop(const char *name, char *where, size_t bytes, unsigned int count)
{
	uint64_t t;

	a.name = name;
	map_at(where, bytes, 0);
	begin();
	if (!way->arm_again)
		way->arm(where, bytes);
	for (unsigned int i = 0; i < count; i++) {
		touch(where, bytes);
		if (way->arm_again)
			way->arm(where, bytes);
		t = now_ns();
		must(madvise(where, bytes, MADV_DONTNEED) < 0 ? -errno : 0, "madvise");
		samples_add(&a, now_ns() - t);
		expected++;
		/* who unregisters what was dropped must have done so before the next touch */
		if (way->arm_again)
			settle();
	}
	settle();
	if (way->arm_again)
		way->arm(where, bytes);
	must(munmap(where, bytes) < 0 ? -errno : 0, "munmap");
	expected++;
	settle();
	end();
	samples_say(&a);
}

static void run_dontneed(unsigned int count)
{
	drop("dontneed", page, PAGE, count);
}

static void run_dontneed_big(unsigned int count)
{
	drop("dontneed-2m", big, BIG, count);
}

/* A hole, with room around it that nobody else's mapping gets near. */
static void make_room(void)
{
	size_t bytes = 4 * BIG;
	char *room;

	room = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	big = (char *)(((uintptr_t)room + BIG) & ~(BIG - 1));
	page = big + BIG + 16 * PAGE;
	must(munmap(big, BIG) < 0 ? -errno : 0, "munmap");
	must(munmap(page, PAGE) < 0 ? -errno : 0, "munmap");
}

int main(int argc, char **argv)
{
	static const struct turn turns[] = {
		{ "empty", run_empty },
		{ "munmap", run_munmap },
		{ "dontneed", run_dontneed },
		{ "dontneed-2m", run_dontneed_big },
	};
	const char *how = option_text(argv, "how", "none");
	int cpu;

	(void)argc;
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
		if (!strcmp(ways[i]->name, how))
			way = ways[i];
	if (!way)
		skip("built without %s", how);
	cpu = cpu_at((int)option_number(argv, "cpu", -1));
	way->start(argv);
	start_idle(option_number(argv, "idle", 0));
	start_spin(option_number(argv, "spin", -1));
	make_room();
	way->watch(big, (size_t)(page + PAGE - big));
	pin(cpu);
	take_turns(turns, ARRAY_SIZE(turns));
	printf("done changes=%llu", (unsigned long long)expected);
	way->stop(expected);
	putchar('\n');
	fflush(stdout);
	/* whoever listens still lives: ending at once is the one way not to hang */
	_exit(0);
}
