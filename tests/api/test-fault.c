/* SPDX-License-Identifier: GPL-2.0-or-later */
/* mirror_fault() on the process itself. */
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include "world.h"

#define READ MIRROR_FAULT_READ
#define WRITE MIRROR_FAULT_WRITE
#define THERE (MIRROR_ENTRY_VALID | MIRROR_PTE_PRESENT | MIRROR_PTE_READ)
#define WRITABLE (THERE | MIRROR_PTE_WRITE)
#define MiB (1UL << 20)

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_notifier *notifier;
static struct log seen;
static char *world;
static uint64_t entries[W_PAGES];

static void begin_with(uint32_t flags)
{
	ctx = open_ctx();
	target = attach_self(ctx, flags);
}

static void begin_world(void)
{
	world = world_make();
	begin_with(0);
	notifier = watch(target, world, W_PAGES * PAGE, &seen);
}

static void finish(void)
{
	mirror_notifier_remove(notifier);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

static void check_bytes(int n)
{
	for (int i = 0; i < n; i++)
		ck_assert_int_eq(world[i * PAGE], world_byte[i]);
}

START_TEST(snapshot)
{
	struct mirror_fault fault;

	begin_world();
	fault = fault_of(world, W_PAGES * PAGE, 0, entries);
	ok(mirror_fault(notifier, &fault));
	ck_assert_uint_eq(fault.done, fault.end);
	check_entries(getpid(), world, entries, W_PAGES);
	ck_assert_uint_eq(entries[W_ANON] & PROC_MASK, THERE | MIRROR_PTE_WRITE);
	ck_assert_uint_eq(entries[W_ABSENT], 0);
	ck_assert_uint_eq(entries[W_HOLE], 0);
	ck_assert_uint_eq(entries[W_FORKED] & MIRROR_PTE_WRITE, 0);
	ck_assert(is_good(notifier, &fault));
	unmap(world + W_LAST * PAGE, PAGE);
	ck_assert(!is_good(notifier, &fault));
	finish();
}
END_TEST

START_TEST(snapshot_with_nodes)
{
	struct mirror_fault fault;

	begin_world();
	fault = fault_of(world, W_PAGES * PAGE, MIRROR_FAULT_NODES, entries);
	ok(mirror_fault(notifier, &fault));
	for (int i = 0; i < W_PAGES; i++) {
		/* of its page of zeros, where there are many nodes, the kernel says none */
		if (!(entries[i] & MIRROR_PTE_ZERO))
			ck_assert(!(entries[i] & MIRROR_PTE_NODE_MASK) ==
				  !(entries[i] & MIRROR_PTE_PRESENT));
	}
	finish();
}
END_TEST

START_TEST(read_fault)
{
	struct mirror_fault fault;

	begin_world();
	fault = fault_of(world, W_NONE * PAGE, READ, entries);
	ok(mirror_fault(notifier, &fault));
	ck_assert_uint_eq(fault.done, fault.end);
	ck_assert(is_good(notifier, &fault));
	check_entries(getpid(), world, entries, W_NONE);
	for (int i = 0; i < W_NONE; i++)
		ck_assert_uint_eq(entries[i] & THERE, THERE);
	/* nothing was copied that need not be */
	ck_assert_uint_eq(entries[W_FORKED] & MIRROR_PTE_WRITE, 0);
	ck_assert_uint_eq(entries[W_FILE_ABSENT] & MIRROR_PTE_FILE, MIRROR_PTE_FILE);
	check_bytes(W_NONE);
	finish();
}
END_TEST

START_TEST(write_fault)
{
	struct mirror_fault fault;

	begin_world();
	fault = fault_of(world, W_WRITABLE * PAGE, WRITE, entries);
	ok(mirror_fault(notifier, &fault));
	ck_assert_uint_eq(fault.done, fault.end);
	ck_assert(is_good(notifier, &fault));
	check_entries(getpid(), world, entries, W_WRITABLE);
	for (int i = 0; i < W_WRITABLE; i++)
		ck_assert_uint_eq(entries[i] & WRITABLE, WRITABLE);
	ck_assert_uint_eq(entries[W_FILE] & MIRROR_PTE_FILE, 0);
	check_bytes(W_WRITABLE);
	/* a second time there is nothing to do */
	fault = fault_of(world, W_WRITABLE * PAGE, READ | WRITE, NULL);
	ok(mirror_fault(notifier, &fault));
	finish();
}
END_TEST

/* It fails at @page, and what comes before is as if it alone had been asked for. */
static void fails_at(int first, int page, uint32_t flags, int error)
{
	struct mirror_fault fault = fault_of(world + first * PAGE, (W_PAGES - first) * PAGE, flags,
					     entries);

	fails(mirror_fault(notifier, &fault), error);
	ck_assert_uint_eq(fault.done, (uintptr_t)world + page * PAGE);
	if (first == page)
		return;
	check_entries(getpid(), world + first * PAGE, entries, (size_t)(page - first));
	for (int i = 0; i < page - first; i++)
		ck_assert_uint_eq(entries[i] & THERE, THERE);
	ck_assert(is_good(notifier, &fault));
	fault = fault_of(world + first * PAGE, (page - first) * PAGE, flags, entries);
	ok(mirror_fault(notifier, &fault));
}

START_TEST(partial)
{
	struct mirror_fault fault;

	begin_world();
	fails_at(0, W_NONE, READ, EACCES);
	fails_at(0, W_RDONLY, WRITE, EACCES);
	fails_at(W_RDONLY, W_NONE, READ, EACCES);
	fails_at(W_RDONLY, W_RDONLY, WRITE, EACCES);
	ck_assert_int_eq(mprotect(world + W_RDONLY * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE), 0);
	fails_at(0, W_HOLE, READ, EFAULT);
	fails_at(0, W_HOLE, WRITE, EFAULT);
	fails_at(W_HOLE, W_HOLE, READ, EFAULT);
	/* that version too notices a change */
	fault = fault_of(world, W_PAGES * PAGE, READ, entries);
	fails(mirror_fault(notifier, &fault), EFAULT);
	ck_assert(is_good(notifier, &fault));
	unmap(world, PAGE);
	ck_assert(!is_good(notifier, &fault));
	finish();
}
END_TEST

/* The version of a part is that of its stripes, and of no others. */
START_TEST(partial_version)
{
	struct mirror_fault fault;
	char *mem = map_pages(8 * BLOCK);
	uint64_t version;

	begin_with(0);
	unmap(mem + 4 * BLOCK, PAGE);
	notifier = watch(target, mem, 8 * BLOCK, &seen);
	fault = fault_of(mem, 8 * BLOCK, READ, NULL);
	fails(mirror_fault(notifier, &fault), EFAULT);
	ck_assert_uint_eq(fault.done, (uintptr_t)mem + 4 * BLOCK);
	ok(begin(notifier, mem, 4 * BLOCK, &version));
	ck_assert_uint_eq(version, fault.version);
	unmap(mem + 7 * BLOCK, PAGE);
	settle(ctx);	/* the gate is closed for all until its range is known */
	ck_assert(is_good(notifier, &fault));
	unmap(mem + 3 * BLOCK, PAGE);
	ck_assert(!is_good(notifier, &fault));
	finish();
}
END_TEST

struct steps {
	unsigned int n, stop_at;
	uint64_t last;
};

static int on_progress(uint64_t done, void *userdata)
{
	struct steps *steps = userdata;

	ck_assert_uint_gt(done, steps->last);
	ck_assert_uint_le(done - steps->last, 64 * MiB);
	steps->last = done;
	return ++steps->n == steps->stop_at ? 42 : 0;
}

START_TEST(progress)
{
	size_t size = 160 * MiB;
	char *mem = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct steps steps = { .last = (uintptr_t)mem };
	struct mirror_fault fault = fault_of(mem, size, READ, NULL);

	begin_with(0);
	notifier = watch(target, mem, size, &seen);
	fault.progress = on_progress;
	fault.userdata = &steps;
	ok(mirror_fault(notifier, &fault));
	ck_assert_uint_eq(steps.n, 2);
	steps = (struct steps) { .stop_at = 1, .last = (uintptr_t)mem };
	ck_assert_int_eq(mirror_fault(notifier, &fault), 42);
	ck_assert_uint_eq(fault.done, fault.start + 64 * MiB);
	ck_assert(is_good(notifier, &fault));
	fault.flags = 0;
	steps = (struct steps) { .last = (uintptr_t)mem };
	ok(mirror_fault(notifier, &fault));
	ck_assert_uint_eq(steps.n, 2);
	finish();
}
END_TEST

static int change_it(uint64_t done, void *userdata)
{
	unsigned int *changes = userdata;

	(void)done;
	if (*changes) {
		--*changes;
		unmap(world, PAGE);
		ck_assert_ptr_eq(map_over(world, PAGE), world);
	}
	return 0;
}

static int change_and_stop(uint64_t done, void *userdata)
{
	unsigned int *calls = userdata, one = 1;

	++*calls;
	change_it(done, &one);
	return 42;
}

/* A change between two pieces begins it anew, but not for ever. */
START_TEST(change_between)
{
	size_t size = 65 * MiB;
	struct mirror_fault fault;
	unsigned int changes = 3;

	world = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	begin_with(0);
	notifier = watch(target, world, size, &seen);
	fault = fault_of(world, size, READ, NULL);
	fault.progress = change_it;
	fault.userdata = &changes;
	ok(mirror_fault(notifier, &fault));
	ck_assert_uint_eq(changes, 0);
	ck_assert(is_good(notifier, &fault));
	ck_assert(proc_entry(getpid(), world) & MIRROR_PTE_PRESENT);
	changes = ~0U;
	fails(mirror_fault(notifier, &fault), EAGAIN);
	ck_assert_uint_eq(fault.done, fault.start);
	/* who is to stop is not begun anew; nothing is told, as it was in vain */
	changes = 0;
	fault.progress = change_and_stop;
	ck_assert_int_eq(mirror_fault(notifier, &fault), 42);
	ck_assert_uint_eq(changes, 1);
	ck_assert_uint_eq(fault.done, fault.start);
	finish();
}
END_TEST

static bool stop;
static unsigned int n_changes;

static void *changer(void *data)
{
	char *mem = data;

	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		munmap(mem, PAGE);
		if (map_over(mem, PAGE) != mem)
			break;
		*(volatile char *)mem = 1;
		__atomic_fetch_add(&n_changes, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Another thread changes it all the time: an answer that is good is right. */
START_TEST(changing)
{
	char *mem = map_pages(BLOCK);
	unsigned int good = 0, i;
	uint64_t entry[4];
	pthread_t thread;
	int r;

	begin_with(MIRROR_ATTACH_STRICT);
	notifier = watch(target, mem, BLOCK, &seen);
	ck_assert_int_eq(pthread_create(&thread, NULL, changer, mem + PAGE), 0);
	for (i = 0; i < 20000 && __atomic_load_n(&n_changes, __ATOMIC_RELAXED) < 300; i++) {
		struct mirror_fault fault = fault_of(mem, 4 * PAGE, READ, entry);
		uint64_t now;

		r = mirror_fault(notifier, &fault);
		ck_assert_msg(r == 0 || r == -EAGAIN || r == -EFAULT, "%d", r);
		if (r == -EAGAIN)
			continue;
		now = proc_entry(getpid(), mem + PAGE);
		if (r == 0)
			ck_assert_uint_eq(entry[1] & THERE, THERE);
		else
			ck_assert_uint_eq(fault.done, fault.start + PAGE);
		if (r == 0 && is_good(notifier, &fault)) {
			ck_assert_uint_eq(now & THERE, THERE);
			good++;
		}
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	printf("# %u of %u were good, %u changes\n", good, i, n_changes);
	fflush(stdout);
	finish();
}
END_TEST

START_TEST(arguments)
{
	struct {
		struct mirror_fault fault;
		uint64_t more;
	} longer;
	struct mirror_fault *fault = &longer.fault;

	begin_world();
	longer.more = 1;
	*fault = fault_of(world, PAGE, READ, NULL);
	fault->sz = sizeof(longer);
	fails(mirror_fault(notifier, fault), E2BIG);
	longer.more = 0;
	ok(mirror_fault(notifier, fault));
	fault->sz = offsetof(struct mirror_fault, progress);
	ok(mirror_fault(notifier, fault));
	fault->sz = offsetof(struct mirror_fault, version);
	fails(mirror_fault(notifier, fault), EINVAL);
	fault->sz = sizeof(*fault);
	fault->flags = 0x80;
	fails(mirror_fault(notifier, fault), E2BIG);
	*fault = fault_of(world, 0, READ, NULL);
	fails(mirror_fault(notifier, fault), EINVAL);
	*fault = fault_of(world + 1, PAGE, READ, NULL);
	fails(mirror_fault(notifier, fault), EINVAL);
	*fault = fault_of(world, (W_PAGES + 1) * PAGE, READ, NULL);
	fails(mirror_fault(notifier, fault), EINVAL);
	*fault = fault_of(world - PAGE, 2 * PAGE, READ, NULL);
	fails(mirror_fault(notifier, fault), EINVAL);
	finish();
}
END_TEST

START_TEST(end_of_the_daemon)
{
	struct mirror_fault fault;

	begin_world();
	fault = fault_of(world, W_WRITABLE * PAGE, WRITE, NULL);
	ok(mirror_fault(notifier, &fault));
	daemon_kill(SIGKILL);
	ck_assert(!is_good(notifier, &fault));
	fails(mirror_fault(notifier, &fault), EPIPE);
	ck_assert_uint_eq(fault.done, fault.start);
	fault.flags = 0;
	fails(mirror_fault(notifier, &fault), EPIPE);
	finish();
}
END_TEST

START_TEST(child_of_fork)
{
	struct mirror_fault fault;
	int status;
	pid_t pid;

	begin_world();
	fault = fault_of(world, PAGE, READ, NULL);
	ok(mirror_fault(notifier, &fault));
	pid = fork();
	if (!pid)
		_exit(mirror_fault(notifier, &fault) == -ECHILD ? 0 : 1);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "fault");

	tcase_add_test(tcase, snapshot);
	tcase_add_test(tcase, snapshot_with_nodes);
	tcase_add_test(tcase, read_fault);
	tcase_add_test(tcase, write_fault);
	tcase_add_test(tcase, partial);
	tcase_add_test(tcase, partial_version);
	tcase_add_test(tcase, progress);
	tcase_add_test(tcase, change_between);
	tcase_add_test(tcase, changing);
	tcase_add_test(tcase, arguments);
	tcase_add_test(tcase, end_of_the_daemon);
	tcase_add_test(tcase, child_of_fork);
}

int main(void)
{
	return harness_main("fault", fill);
}
