/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Device page tables: never a stale translation, whoever changes what
 *
 * A page holds a number that no other page ever had, and its device address is that
 * number in pages.  So a translation can be compared with what is at the address.
 */
#include <mirror/device.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include "harness.h"

#define SLOTS 8
#define SIZE (SLOTS * PAGE)
#define RW (MIRROR_DEVICE_READ | MIRROR_DEVICE_WRITE)

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_device *device;
static char *mem;
static bool has_clear;		/* MADV_DONTNEED is told in time */

static void setup_with(uint32_t flags)
{
	ctx = open_ctx();
	target = attach_self(ctx, flags);
	mem = map_pages(SIZE);
	ok(mirror_device_new(&device, target, (uintptr_t)mem, (uintptr_t)mem + SIZE, NULL, NULL,
			     NULL));
	has_clear = mirror_target_get_guarantee(target, MIRROR_EVENT_CLEAR) >=
		    MIRROR_GUARANTEE_ORDERED;
}

static void finish(void)
{
	device = mirror_device_free(device);
	target = mirror_target_unref(target);
	ctx = mirror_ctx_unref(ctx);
}

/* What is there, or ~0 if nothing is mapped.  It may go while we look. */
static uint64_t content(const char *p)
{
	uint64_t value;
	struct iovec to = { &value, sizeof(value) };
	struct iovec from = { (void *)(uintptr_t)p, sizeof(value) };

	return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == sizeof(value) ? value : ~0UL;
}

static atomic_ulong numbers = 1;

static uint64_t new_number(void)
{
	return atomic_fetch_add(&numbers, 1);
}

/* What a user of a device does before the device may use a page. */
static int make_ready(char *p)
{
	uint64_t a = (uintptr_t)p, version, value;
	int r;

	do {
		r = mirror_read_begin(mirror_device_get_notifier(device), a, a + PAGE, &version);
		if (r < 0)
			return r;
		value = content(p);
		if (value == ~0UL)
			return -EFAULT;
		r = mirror_device_map(device, a, a + PAGE, value * PAGE, RW, version);
	} while (r == -EAGAIN);
	return r;
}

/* A page with a new number, in place of whatever is there. */
static void replace(char *p)
{
	char *fresh = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(fresh, MAP_FAILED);
	*(volatile uint64_t *)fresh = new_number();
	ck_assert_ptr_eq(mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p), p);
}

/* ---- one changes, others look up ---- */

static atomic_ulong published;
static atomic_int stop;

static void *replace_thread(void *data)
{
	(void)data;
	while (!atomic_load(&stop)) {
		replace(mem);
		atomic_store(&published, *(volatile uint64_t *)mem);
	}
	return NULL;
}

static void *unrelated_thread(void *data)
{
	(void)data;
	while (!atomic_load(&stop)) {
		uint64_t a = (uintptr_t)mem + PAGE;

		if (make_ready(mem + PAGE) == 0)
			mirror_device_unmap(device, a, a + PAGE);
	}
	return NULL;
}

struct lookups {
	pthread_t thread;
	bool strict, by_tlb;
	unsigned int n, n_found;
};

static void *lookup_thread(void *data)
{
	struct lookups *l = data;
	struct mirror_device_range range;
	struct mirror_tlb tlb;
	uint64_t expected, address = 0;
	int r;

	mirror_tlb_init(&tlb, device);
	for (unsigned int i = 0; i < l->n || atomic_load(&published) < 400; i++) {
		expected = l->strict ? *(volatile uint64_t *)mem : atomic_load(&published);
		if (l->by_tlb) {
			r = mirror_tlb_translate(&tlb, (uintptr_t)mem, RW, &address);
		} else {
			r = mirror_device_translate(device, (uintptr_t)mem, RW, &range);
			address = range.address;
		}
		if (r == 0) {
			ck_assert_msg(address / PAGE >= expected, "found %lu, but %lu was there",
				      (unsigned long)(address / PAGE), (unsigned long)expected);
			l->n_found++;
		} else if (r == -ENOENT) {
			r = make_ready(mem);
		}
		if (r != -EAGAIN && r != -EFAULT)
			ok(r);
	}
	return NULL;
}

static void storm(bool strict, unsigned int n_threads, unsigned int n)
{
	struct lookups l[2] = { { .strict = strict, .by_tlb = true }, { .strict = strict } };
	pthread_t changer, other;

	setup_with(strict ? MIRROR_ATTACH_STRICT : 0);
	replace(mem);
	atomic_store(&published, *(volatile uint64_t *)mem);
	pthread_create(&changer, NULL, replace_thread, NULL);
	pthread_create(&other, NULL, unrelated_thread, NULL);
	for (unsigned int i = 0; i < n_threads; i++) {
		l[i].n = n;
		pthread_create(&l[i].thread, NULL, lookup_thread, &l[i]);
	}
	for (unsigned int i = 0; i < n_threads; i++) {
		pthread_join(l[i].thread, NULL);
		ck_assert_uint_gt(l[i].n_found, 0);
	}
	atomic_store(&stop, 1);
	pthread_join(changer, NULL);
	pthread_join(other, NULL);
	finish();
}

START_TEST(storm_strict)
{
	storm(true, 2, 20000);
}
END_TEST

START_TEST(storm_ordered)
{
	storm(false, 2, 20000);
}
END_TEST

/* ---- all kinds of changes, one after the other ---- */

static uint64_t seed = 1;

static unsigned int dice(unsigned int n)
{
	seed = seed * 6364136223846793005 + 1442695040888963407;
	return (unsigned int)(seed >> 33) % n;
}

static void move(char *from, char *to, size_t size)
{
	/* holes, and mappings that are not one: it fails, or does half of it */
	(void)!mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

static void change(unsigned int what, unsigned int i, unsigned int j)
{
	size_t n = 1 + i % 2;
	char *p = mem + i * PAGE;

	switch (what) {
	case 0:
		munmap(p, (i + n <= SLOTS ? n : 1) * PAGE);
		break;
	case 1:
		replace(p);
		break;
	case 2:
		if (has_clear && content(p) != ~0UL && madvise(p, PAGE, MADV_DONTNEED) == 0)
			replace(p);	/* zero is no number of its own */
		break;
	default:
		if (i + n <= SLOTS && j + n <= SLOTS && (i + n <= j || j + n <= i))
			move(p, mem + j * PAGE, n * PAGE);
	}
}

/* What is found is what is there.  What is not found is made ready, now and then. */
static void compare(struct mirror_tlb *tlb, unsigned int i, bool fill)
{
	struct mirror_device_range range;
	uint64_t a = (uintptr_t)mem + i * PAGE, address = 0, value = content(mem + i * PAGE);
	int r, q;

	r = mirror_tlb_translate(tlb, a, RW, &address);
	q = mirror_device_translate(device, a, RW, &range);
	ck_assert_int_eq(r, q);
	if (r == 0) {
		ck_assert_uint_eq(address, range.address + (a - range.start));
		ck_assert_msg(address / PAGE == value, "slot %u: found %lu, but %ld is there", i,
			      (unsigned long)(address / PAGE), (long)value);
		return;
	}
	ck_assert_int_eq(r, -ENOENT);
	if (fill && value != ~0UL)
		ok(make_ready(mem + i * PAGE));
}

static void one_after_the_other(uint32_t flags, unsigned int rounds)
{
	struct mirror_device_stats stats = { .sz = sizeof(stats) };
	struct mirror_tlb tlb;

	setup_with(flags);
	mirror_tlb_init(&tlb, device);
	for (unsigned int i = 0; i < SLOTS; i++)
		replace(mem + i * PAGE);
	for (unsigned int round = 0; round < rounds; round++) {
		change(dice(5), dice(SLOTS), dice(SLOTS));
		for (unsigned int i = 0; i < SLOTS; i++)
			compare(&tlb, i, dice(2));
	}
	ok(mirror_device_get_stats(device, &stats));
	if (!HAS_THREADS)	/* they could have changed memory meanwhile */
		ck_assert_uint_gt(stats.moves, 0);
	ck_assert_uint_gt(stats.reactions[MIRROR_REACTION_FREE], 0);
	finish();
}

START_TEST(random_ordered)
{
	one_after_the_other(0, 4000);
}
END_TEST

START_TEST(random_strict)
{
	one_after_the_other(MIRROR_ATTACH_STRICT, 4000);
}
END_TEST

/* ---- several at once ---- */

static pthread_barrier_t barrier;

struct racer {
	pthread_t thread;
	unsigned int what[3], i[3], j[3];
};

static void *race_thread(void *data)
{
	struct racer *r = data;

	for (;;) {
		pthread_barrier_wait(&barrier);
		if (atomic_load(&stop))
			return NULL;
		for (unsigned int k = 0; k < ARRAY_LENGTH(r->what); k++) {
			change(r->what[k], r->i[k], r->j[k]);
			make_ready(mem + r->j[k] * PAGE);
		}
		pthread_barrier_wait(&barrier);
	}
}

/*
 * The messages of changes can overtake each other.  When all is quiet, no translation
 * may be left that is none: moved to where something else has been put meanwhile, say.
 */
static void race(uint32_t flags, unsigned int rounds)
{
	struct racer racers[3];
	struct mirror_tlb tlb;

	setup_with(flags);
	has_clear = false;	/* replace() would race with itself */
	mirror_tlb_init(&tlb, device);
	pthread_barrier_init(&barrier, NULL, ARRAY_LENGTH(racers) + 1);
	for (unsigned int i = 0; i < SLOTS; i++)
		replace(mem + i * PAGE);
	for (unsigned int i = 0; i < ARRAY_LENGTH(racers); i++)
		pthread_create(&racers[i].thread, NULL, race_thread, &racers[i]);
	for (unsigned int round = 0; round < rounds; round++) {
		for (unsigned int i = 0; i < ARRAY_LENGTH(racers); i++)
			for (unsigned int k = 0; k < ARRAY_LENGTH(racers[i].what); k++) {
				racers[i].what[k] = dice(5);
				racers[i].i[k] = dice(3);	/* few, so that they meet */
				racers[i].j[k] = dice(3);
			}
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		for (unsigned int i = 0; i < SLOTS; i++)
			compare(&tlb, i, true);
	}
	atomic_store(&stop, 1);
	pthread_barrier_wait(&barrier);
	for (unsigned int i = 0; i < ARRAY_LENGTH(racers); i++)
		pthread_join(racers[i].thread, NULL);
	finish();
}

START_TEST(race_ordered)
{
	race(0, 2000);
}
END_TEST

START_TEST(race_strict)
{
	race(MIRROR_ATTACH_STRICT, 2000);
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "device-storm");

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, storm_strict);
	tcase_add_test(tcase, storm_ordered);
	tcase_add_test(tcase, random_ordered);
	tcase_add_test(tcase, random_strict);
	tcase_add_test(tcase, race_ordered);
	tcase_add_test(tcase, race_strict);
}

int main(void)
{
	return harness_main("device-storm", fill);
}
