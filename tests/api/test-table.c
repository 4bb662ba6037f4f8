/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirror table: filled, walked, and changed by what the target does
 */
#include <mirror/table.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include "harness.h"

#define N 16
#define SIZE (N * PAGE)
#define PATIENCE_S 10
#define PRESENT MIRROR_PTE_PRESENT
#define WRITE MIRROR_PTE_WRITE
#define USER_MAX (1ULL << 47)

static struct log seen;

static uint64_t walk(const struct mirror_table *table, const void *p)
{
	unsigned int shift = 0;
	uint64_t entry = mirror_table_walk(table, (uintptr_t)p, &shift);

	ck_assert(shift >= 12 && shift <= 48);
	ck_assert(!(entry & MIRROR_ENTRY_LINK));
	return entry;
}

/* How many of the pages are known to be there. */
static unsigned int known(const struct mirror_table *table, const char *p, size_t size)
{
	unsigned int n = 0;

	for (size_t i = 0; i < size; i += PAGE)
		n += !!(walk(table, p + i) & PRESENT);
	return n;
}

static uint64_t fill(struct mirror_target *target, const void *p, size_t size)
{
	uint64_t pages = 99;

	ok(mirror_target_fill(target, (uintptr_t)p, (uintptr_t)p + size, &pages));
	return pages;
}

static const struct mirror_table *table_of(struct mirror_target *target)
{
	const struct mirror_table *table = NULL;

	ok(mirror_target_get_table(target, &table));
	return table;
}

/* Kept filled in the background: soon. */
static bool comes(const struct mirror_table *table, const char *p, size_t size, unsigned int n)
{
	time_t end = time(NULL) + PATIENCE_S;

	while (known(table, p, size) != n) {
		if (time(NULL) > end)
			return false;
		sched_yield();
	}
	return true;
}

START_TEST(fill_and_walk)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	const struct mirror_table *table;
	char *mem = map_pages(SIZE), *ro;

	ok(mirror_query_target(ctx, mirror_target_get_id(target), 0, &info));
	ck_assert_uint_eq(info.table_bytes, 0);
	table = table_of(target);
	ck_assert_ptr_eq(table_of(target), table);
	ck_assert_uint_eq(table->target, mirror_target_get_id(target));
	ck_assert_uint_eq(known(table, mem, SIZE), 0);
	ck_assert_uint_eq(fill(target, mem, SIZE), N);
	for (size_t i = 0; i < SIZE; i += PAGE) {
		uint64_t entry = walk(table, mem + i);

		ck_assert_uint_eq(entry & (MIRROR_ENTRY_VALID | PRESENT | MIRROR_PTE_READ | WRITE |
					   MIRROR_PTE_EXEC | MIRROR_PTE_FILE | MIRROR_PTE_SHARED |
					   MIRROR_PTE_ZERO | MIRROR_PTE_SWAPPED),
				  MIRROR_ENTRY_VALID | PRESENT | MIRROR_PTE_READ | WRITE);
	}
	ck_assert_uint_eq(walk(table, mem + SIZE), 0);
	ok(mirror_query_target(ctx, info.target, 0, &info));
	ck_assert_uint_ge(info.table_bytes, 4 * PAGE);

	/* what is not there is not known */
	ro = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(ro, MAP_FAILED);
	ck_assert_int_eq(*(volatile char *)(ro + PAGE), 0);
	ck_assert_uint_eq(fill(target, ro, SIZE), 1);
	ck_assert_uint_eq(walk(table, ro), 0);
	ck_assert_uint_eq(walk(table, ro + PAGE) & (PRESENT | WRITE | MIRROR_PTE_READ),
			  PRESENT | MIRROR_PTE_READ);

	/* all there is, from end to end */
	ok(mirror_target_fill(target, 0, USER_MAX, NULL));
	ck_assert_uint_eq(known(table, mem, SIZE), N);
	ck_assert_uint_eq(walk(table, (void *)(uintptr_t)&info) & PRESENT, PRESENT);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(changes)
{
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	const struct mirror_table *table = table_of(target);
	char *mem = map_pages(SIZE);

	/* nobody watches any of it: the table is right nevertheless */
	ck_assert_uint_eq(fill(target, mem, SIZE), N);
	unmap(mem, PAGE);
	settle(ctx);
	ck_assert_uint_eq(walk(table, mem), 0);
	ck_assert_uint_eq(known(table, mem, SIZE), N - 1);
	ck_assert_uint_eq(fill(target, mem, SIZE), N - 1);

	ck_assert_int_eq(madvise(mem + PAGE, 2 * PAGE, MADV_DONTNEED), 0);
	settle(ctx);
	ck_assert_uint_eq(known(table, mem, SIZE), N - 3);
	ck_assert_uint_eq(fill(target, mem, SIZE), N - 3);
	mem[PAGE] = 2;
	ck_assert_uint_eq(fill(target, mem, SIZE), N - 2);
	ck_assert_uint_eq(known(table, mem, SIZE), N - 2);

	ck_assert_ptr_eq(map_over(mem, SIZE), mem);
	settle(ctx);
	ck_assert_uint_eq(known(table, mem, SIZE), 0);
	ck_assert_uint_eq(fill(target, mem, SIZE), 0);
	memset(mem, 1, SIZE);
	ck_assert_uint_eq(known(table, mem, SIZE), 0);
	ck_assert_uint_eq(fill(target, mem, SIZE), N);
	unmap(mem, SIZE);
	settle(ctx);
	ck_assert_uint_eq(known(table, mem, SIZE), 0);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(moves)
{
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	const struct mirror_table *table = table_of(target);
	char *mem = map_pages(SIZE), *to = map_pages(SIZE);

	unmap(to, SIZE);
	fill(target, mem, SIZE);
	ck_assert_int_eq(madvise(mem, PAGE, MADV_DONTNEED), 0);
	ck_assert_ptr_eq(mremap(mem, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to), to);
	settle(ctx);
	ck_assert_uint_eq(known(table, mem, SIZE), 0);
	ck_assert(comes(table, to, SIZE, N - 1));
	ck_assert_uint_eq(walk(table, to), 0);
	/* and it is watched at its new place */
	unmap(to + SIZE - PAGE, PAGE);
	settle(ctx);
	ck_assert_uint_eq(known(table, to, SIZE), N - 2);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(keeps_old_range)
{
#ifdef MREMAP_DONTUNMAP
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	const struct mirror_table *table = table_of(target);
	char *mem = map_pages(SIZE), *to;

	fill(target, mem, SIZE);
	to = mremap(mem, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	ck_assert_ptr_ne(to, MAP_FAILED);
	settle(ctx);
	ck_assert_uint_eq(known(table, mem, SIZE), 0);
	ck_assert(comes(table, to, SIZE, N));
	mem[0] = 1;
	ck_assert_uint_eq(fill(target, mem, SIZE), 1);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
#endif
}
END_TEST

/* Somebody else watches it, so no event would ever say that it went. */
START_TEST(refused_stays_empty)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	const struct mirror_table *table = table_of(target);
	char *mem = map_pages(3 * SIZE), *foreign = mem + SIZE;
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ioctl(fd, UFFDIO_API, &api), 0);
	reg.range.start = (uintptr_t)foreign;
	reg.range.len = SIZE;
	ck_assert_int_eq(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
	ck_assert_uint_eq(fill(target, mem, 3 * SIZE), 2 * N);
	ck_assert_uint_eq(known(table, mem, SIZE), N);
	ck_assert_uint_eq(known(table, foreign, SIZE), 0);
	ck_assert_uint_eq(known(table, foreign + SIZE, SIZE), N);
	/* once it is free, it can be */
	close(fd);
	ck_assert_uint_eq(fill(target, mem, 3 * SIZE), 3 * N);
	ck_assert_uint_eq(known(table, foreign, SIZE), N);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

/* Truncating a file is told by no event; a look finds out. */
START_TEST(look_takes_away)
{
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	const struct mirror_table *table = table_of(target);
	int fd = (int)syscall(SYS_memfd_create, "file", 0U);
	char *mem;

	ck_assert_int_eq(ftruncate(fd, SIZE), 0);
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(mem, MAP_FAILED);
	memset(mem, 1, SIZE);
	if (fill(target, mem, SIZE) != N) {
		fputs("# skip: this kernel lets nobody watch a file's mapping\n", stdout);
	} else {
		ck_assert_uint_eq(known(table, mem, SIZE), N);
		ck_assert_int_eq(ftruncate(fd, 4 * PAGE), 0);
		ck_assert_uint_eq(fill(target, mem, SIZE), 4);
		ck_assert_uint_eq(known(table, mem, SIZE), 4);
	}
	close(fd);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

/* ---- another process's ---- */

/* A target: says where its memory is, then does what it is told. */
enum { DO_FORK = 1, DO_UNMAP, DO_END, DO_EXEC };

static void target_main(struct peer *me)
{
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	char *mem = map_pages(SIZE);
	char *shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char fds[2][12];
	uint64_t what;

	memset(shared, 1, SIZE);
	peer_tell(me, (uintptr_t)mem);
	peer_tell(me, (uintptr_t)shared);
	while ((what = peer_hear(me)) != DO_END) {
		pid_t pid = -1;

		if (what == DO_FORK)
			pid = fork();
		else if (what == DO_UNMAP)
			unmap(mem, PAGE);
		else if (what == DO_EXEC) {
			snprintf(fds[0], sizeof(fds[0]), "%d", me->from);
			dup2(me->from, 0);
			execlp("cat", "cat", NULL);
		}
		if (!pid)
			_exit(0);
		if (pid > 0)
			waitpid(pid, NULL, 0);
		peer_tell(me, what);
	}
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

static struct mirror_target *attach_peer(struct mirror_ctx *ctx, const struct peer *peer)
{
	struct mirror_target *target;

	ok(mirror_target_attach(&target, ctx, peer->pidfd, -1, NULL));
	return target;
}

static void tell(struct peer *peer, uint64_t what)
{
	peer_tell(peer, what);
	ck_assert_uint_eq(peer_hear(peer), what);
}

START_TEST(two_consumers_one_table)
{
	struct mirror_ctx *a = open_ctx(), *b = open_ctx();
	const struct mirror_table *ta, *tb;
	struct mirror_target *x, *y;
	struct peer peer;
	char *mem;

	peer_start(&peer, target_main);
	mem = (char *)(uintptr_t)peer_hear(&peer);
	peer_hear(&peer);
	x = attach_peer(a, &peer);
	y = attach_peer(b, &peer);
	ta = table_of(x);
	tb = table_of(y);
	ck_assert_ptr_ne(ta, tb);
	ck_assert_uint_eq(fill(x, mem, SIZE), N);
	ck_assert_uint_eq(known(ta, mem, SIZE), N);
	ck_assert_uint_eq(known(tb, mem, SIZE), N);
	tell(&peer, DO_UNMAP);
	settle(b);
	ck_assert_uint_eq(walk(ta, mem), 0);
	ck_assert_uint_eq(walk(tb, mem), 0);
	/* the first goes, the table stays */
	mirror_target_unref(x);
	mirror_ctx_unref(a);
	ck_assert_uint_eq(known(tb, mem, SIZE), N - 1);
	ck_assert_ptr_eq(table_of(y), tb);
	peer_tell(&peer, DO_END);
	peer_end(&peer);
	mirror_target_unref(y);
	mirror_ctx_unref(b);
}
END_TEST

START_TEST(fork_takes_write)
{
	struct mirror_ctx *ctx = open_ctx();
	const struct mirror_table *table;
	struct mirror_target *target;
	struct peer peer;
	char *mem, *shared;

	peer_start(&peer, target_main);
	mem = (char *)(uintptr_t)peer_hear(&peer);
	shared = (char *)(uintptr_t)peer_hear(&peer);
	target = attach_peer(ctx, &peer);
	table = table_of(target);
	if (!(mirror_target_get_features(target) & MIRROR_FEAT_EVENT(MIRROR_EVENT_FORK))) {
		fputs("# skip: this daemon is not told of forks\n", stdout);
		peer_tell(&peer, DO_END);
		peer_end(&peer);
		return;
	}
	ck_assert_uint_eq(fill(target, mem, SIZE), N);
	ck_assert_uint_eq(fill(target, shared, SIZE), N);
	ck_assert_uint_eq(walk(table, mem) & WRITE, WRITE);
	ck_assert_uint_eq(walk(table, shared) & (WRITE | MIRROR_PTE_SHARED | MIRROR_PTE_FILE),
			  WRITE | MIRROR_PTE_SHARED | MIRROR_PTE_FILE);
	tell(&peer, DO_FORK);
	settle(ctx);
	ck_assert_uint_eq(known(table, mem, SIZE), N);
	for (unsigned int i = 0; i < N; i++) {
		ck_assert_uint_eq(walk(table, mem + i * PAGE) & WRITE, 0);
		ck_assert_uint_eq(walk(table, shared + i * PAGE) & WRITE, WRITE);
	}
	peer_tell(&peer, DO_END);
	peer_end(&peer);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

static void gone(uint64_t how)
{
	struct mirror_ctx *ctx = open_ctx();
	const struct mirror_table *table, *again = NULL;
	time_t end = time(NULL) + PATIENCE_S;
	struct mirror_target *target;
	struct peer peer;
	char *mem;

	peer_start(&peer, target_main);
	mem = (char *)(uintptr_t)peer_hear(&peer);
	peer_hear(&peer);
	target = attach_peer(ctx, &peer);
	table = table_of(target);
	ck_assert_uint_eq(fill(target, mem, SIZE), N);
	peer_tell(&peer, how);
	if (how == DO_END)
		peer_end(&peer);
	while (__atomic_load_n(&table->state, __ATOMIC_ACQUIRE) == MIRROR_TABLE_LIVE)
		ck_assert(time(NULL) <= end);
	ck_assert_uint_eq(known(table, mem, SIZE), 0);
	fails(mirror_target_get_table(target, &again), ESRCH);
	fails(mirror_target_fill(target, (uintptr_t)mem, (uintptr_t)mem + SIZE, NULL), ESRCH);
	ck_assert_ptr_null(again);
	if (how == DO_EXEC)
		peer_end(&peer);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

START_TEST(exit_moves_the_table)
{
	gone(DO_END);
}
END_TEST

START_TEST(exec_moves_the_table)
{
	gone(DO_EXEC);
}
END_TEST

/* ---- notifiers that keep their range filled ---- */

START_TEST(kept_filled)
{
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops), .flags = MIRROR_NOTIFIER_FILL, .invalidate = log_event,
	};
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	char *mem = map_pages(SIZE);
	uint64_t a = (uintptr_t)mem, v;
	time_t end = time(NULL) + PATIENCE_S;
	const struct mirror_table *table;
	struct mirror_notifier *n;

	ok(mirror_notifier_insert(&n, target, a, a + SIZE, &ops, &seen));
	table = table_of(target);
	ck_assert(comes(table, mem, SIZE, N));
	for (unsigned int i = 0; i < 20; i++) {
		ck_assert_int_eq(madvise(mem, 4 * PAGE, MADV_DONTNEED), 0);
		settle(ctx);
		ck_assert_uint_le(known(table, mem, SIZE), N);
		ck_assert(comes(table, mem, SIZE, N - 4));
		memset(mem, 1, 4 * PAGE);
		ok(begin(n, mem, SIZE, &v));
		ck_assert_uint_eq(fill(target, mem, SIZE), N);
		ck_assert_uint_eq(known(table, mem, SIZE), N);
		ck_assert_int_eq(retry(n, mem, SIZE, v), 0);	/* a look changes no version */
	}
	/* that they are back it sees only if it looks after that: some time it does */
	do {
		ck_assert_int_eq(madvise(mem, 4 * PAGE, MADV_DONTNEED), 0);
		memset(mem, 1, 4 * PAGE);
		for (unsigned int i = 0; i < 1000 && known(table, mem, SIZE) != N; i++)
			settle(ctx);
		ck_assert(time(NULL) <= end);
	} while (known(table, mem, SIZE) != N);
	mirror_notifier_remove(n);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

/* The children of who is followed, too. */
START_TEST(kept_filled_in_a_child)
{
	struct mirror_notifier_ops ops = {
		.sz = sizeof(ops), .invalidate = log_event,
		.flags = MIRROR_NOTIFIER_FILL | MIRROR_NOTIFIER_FOLLOW_FORK,
	};
	struct mirror_target_info info = { .size = sizeof(info) };
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	time_t end = time(NULL) + PATIENCE_S;
	char *mem = map_pages(SIZE);
	struct mirror_notifier *n;
	int status;
	pid_t pid;

	if (!(mirror_target_get_features(target) & MIRROR_FEAT_EVENT(MIRROR_EVENT_FORK))) {
		fputs("# skip: this daemon is not told of forks\n", stdout);
		return;
	}
	ok(mirror_notifier_insert(&n, target, (uintptr_t)mem, (uintptr_t)mem + SIZE, &ops, &seen));
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0)
		for (;;)
			pause();
	do {
		ck_assert(time(NULL) <= end);
		ok(mirror_query_target(ctx, mirror_target_get_id(target) + 1, 0, &info));
	} while (info.table_bytes < 4 * PAGE);
	ck_assert_int_eq(info.pid, pid);
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	mirror_notifier_remove(n);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(wrong_calls)
{
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	const struct mirror_table *table = NULL, *other = NULL;
	int status = -1;
	pid_t pid;

	fails(mirror_target_fill(target, 0, 0, NULL), EINVAL);
	fails(mirror_target_fill(target, PAGE, 0, NULL), EINVAL);
	fails(mirror_target_fill(target, 1, PAGE, NULL), EINVAL);
	fails(mirror_target_fill(target, 0, 1ULL << 60, NULL), EINVAL);
	table = table_of(target);
	pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		_exit(mirror_target_get_table(target, &other) == -ECHILD && !other &&
		      mirror_target_fill(target, 0, PAGE, NULL) == -ECHILD &&
		      !mirror_target_unref(target) ? 0 : 1);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert_uint_eq(table->state, MIRROR_TABLE_LIVE);
	daemon_kill(SIGKILL);
	fails(mirror_target_fill(target, 0, PAGE, NULL), EPIPE);
	fails(mirror_target_get_table(target, &other), EPIPE);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(consumers)
{
	struct mirror_consumer_info info = { .size = sizeof(info) };
	struct mirror_ctx *a = open_ctx(), *b = open_ctx();
	struct mirror_target *x = attach_self(a, 0), *y = attach_self(b, 0);
	uint32_t id = mirror_target_get_id(x);
	char *mem = map_pages(SIZE);
	struct mirror_notifier *n[3];

	fails(mirror_query_consumer(a, id, 0, &info), ESRCH);
	n[0] = watch(x, mem, SIZE, &seen);
	n[1] = watch(y, mem, SIZE, &seen);
	n[2] = watch(y, mem, PAGE, &seen);
	unmap(mem, PAGE);
	settle(a);
	ok(mirror_query_consumer(a, id, 0, &info));
	ck_assert_int_eq(info.pid, getpid());
	ck_assert_uint_eq(info.uid, getuid());
	ck_assert_uint_eq(info.notifiers, 1);
	ck_assert_uint_eq(info.published, 1);
	ck_assert_uint_eq(info.lost, 0);
	ck_assert_uint_eq(info.device_bytes, 0);
	ck_assert(info.comm[0] && !info.comm[15]);
	ok(mirror_query_consumer(a, id, 1, &info));
	ck_assert_uint_eq(info.notifiers, 2);
	ck_assert_uint_eq(info.published, 2);
	ck_assert_uint_eq(info.index, 1);
	fails(mirror_query_consumer(a, id, 2, &info), ESRCH);
	fails(mirror_query_consumer(a, id + 1, 0, &info), ESRCH);
	for (unsigned int i = 0; i < ARRAY_LENGTH(n); i++)
		mirror_notifier_remove(n[i]);
	mirror_target_unref(x);
	mirror_target_unref(y);
	mirror_ctx_unref(a);
	mirror_ctx_unref(b);
}
END_TEST

static void fill_suite(Suite *suite)
{
	TCase *tc = harness_case(suite, "table");

	tcase_add_test(tc, fill_and_walk);
	tcase_add_test(tc, changes);
	tcase_add_test(tc, moves);
	tcase_add_test(tc, keeps_old_range);
	tcase_add_test(tc, refused_stays_empty);
	tcase_add_test(tc, look_takes_away);
	tcase_add_test(tc, two_consumers_one_table);
	tcase_add_test(tc, fork_takes_write);
	tcase_add_test(tc, exit_moves_the_table);
	tcase_add_test(tc, exec_moves_the_table);
	tcase_add_test(tc, kept_filled);
	tcase_add_test(tc, kept_filled_in_a_child);
	tcase_add_test(tc, wrong_calls);
	tcase_add_test(tc, consumers);
}

int main(void)
{
	return harness_main("table", fill_suite);
}
