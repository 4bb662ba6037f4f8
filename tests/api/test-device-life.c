/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Device page tables: the end of the daemon, of the target, and children of fork(). */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <mirror/device.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include "harness.h"

#define SIZE (16 * PAGE)
#define DEVICE 0x40000000UL
#define RW (MIRROR_DEVICE_READ | MIRROR_DEVICE_WRITE)

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_device *device;
static struct mirror_tlb tlb;
static char *mem;
static uint64_t version;
static unsigned int n_event[MIRROR_EVENT_TYPES], n_unmap;
static void (*in_unmap)(void);

static void on_unmap(struct mirror_device *d, const struct mirror_device_range *range,
		     void *userdata)
{
	(void)d;
	(void)range;
	(void)userdata;
	n_unmap++;
	if (in_unmap)
		in_unmap();
}

static void on_event(struct mirror_device *d, const struct mirror_event *event, void *userdata)
{
	(void)d;
	(void)userdata;
	n_event[event->type]++;
}

static const struct mirror_device_ops ops = {
	.sz = sizeof(ops), .unmap = on_unmap, .event = on_event,
};

static uint64_t at(size_t offset)
{
	return (uintptr_t)mem + offset;
}

static void map_all(void)
{
	ok(mirror_read_begin(mirror_device_get_notifier(device), at(0), at(SIZE), &version));
	ok(mirror_device_map(device, at(0), at(SIZE), DEVICE, RW, version));
}

static void check_from(size_t offset)
{
	uint64_t a;

	for (size_t i = offset; i < SIZE; i += PAGE) {
		ok(mirror_tlb_translate(&tlb, at(i), RW, &a));
		ck_assert_uint_eq(a, DEVICE + i);
	}
}

static void check_all(void)
{
	check_from(0);
}

static void setup_with(uint32_t flags)
{
	ctx = open_ctx();
	target = attach_self(ctx, flags);
	mem = map_pages(SIZE);
	ok(mirror_device_new(&device, target, at(0), at(SIZE), &ops, NULL, NULL));
	mirror_tlb_init(&tlb, device);
	map_all();
	check_all();
}

static void finish(void)
{
	device = mirror_device_free(device);
	target = mirror_target_unref(target);
	ctx = mirror_ctx_unref(ctx);
}

static bool find_table(uint64_t *ret_start, uint64_t *ret_end)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[400];
	bool found = false;

	while (!found && fgets(line, sizeof(line), maps))
		found = strstr(line, "device (deleted)") &&
			sscanf(line, "%lx-%lx", ret_start, ret_end) == 2;
	fclose(maps);
	return found;
}

/* ---- the daemon ---- */

static void die(uint32_t flags)
{
	struct mirror_device_range range;
	struct mirror_device *d;
	uint64_t a;

	setup_with(flags);
	daemon_kill(SIGKILL);
	for (size_t i = 0; i < SIZE; i += PAGE)
		fails(mirror_tlb_translate(&tlb, at(i), RW, &a), EPIPE);
	fails(mirror_device_translate(device, at(0), 0, &range), EPIPE);
	fails(mirror_device_map(device, at(0), at(SIZE), DEVICE, RW, version), EPIPE);
	fails(mirror_device_new(&d, target, at(0), at(SIZE), &ops, NULL, NULL), EPIPE);
	ck_assert_uint_eq(n_event[MIRROR_EVENT_OVERFLOW], 1);
	ck_assert_uint_eq(n_unmap, 1);
	ok(mirror_device_unmap(device, at(0), at(SIZE)));
	ck_assert_uint_eq(n_unmap, 1);
	finish();
}

START_TEST(daemon_killed)
{
	die(0);
}
END_TEST

START_TEST(daemon_killed_strict)
{
	die(MIRROR_ATTACH_STRICT);
}
END_TEST

static pid_t unmapper_tid;

static void *blocked_unmap_thread(void *data)
{
	(void)data;
	__atomic_store_n(&unmapper_tid, gettid(), __ATOMIC_SEQ_CST);
	unmap(mem, PAGE);
	return NULL;
}

/* The daemon stands still: the change has happened and nobody was told. */
static void stopped(uint32_t flags)
{
	struct mirror_device_range range;
	pthread_t thread;
	uint64_t a;

	setup_with(flags);
	daemon_kill(SIGSTOP);
	pthread_create(&thread, NULL, blocked_unmap_thread, NULL);
	while (!__atomic_load_n(&unmapper_tid, __ATOMIC_SEQ_CST))
		sched_yield();
	ck_assert(wait_blocked(unmapper_tid));
	if (flags & MIRROR_ATTACH_STRICT) {	/* each after a second */
		fails(mirror_tlb_translate(&tlb, at(0), 0, &a), EAGAIN);
		fails(mirror_device_translate(device, at(0), 0, &range), EAGAIN);
	} else {	/* ORDERED promises nothing yet */
		ok(mirror_tlb_translate(&tlb, at(0), 0, &a));
		ok(mirror_device_translate(device, at(0), 0, &range));
	}
	daemon_kill(SIGCONT);
	pthread_join(thread, NULL);
	fails(mirror_tlb_translate(&tlb, at(0), 0, &a), ENOENT);
	fails(mirror_device_translate(device, at(0), 0, &range), ENOENT);
	ok(mirror_tlb_translate(&tlb, at(PAGE), 0, &a));
	finish();
}

START_TEST(daemon_stopped)
{
	stopped(0);
}
END_TEST

START_TEST(daemon_stopped_strict)
{
	stopped(MIRROR_ATTACH_STRICT);
}
END_TEST

static uint64_t lookups_begun(void)
{
	struct mirror_ctx_stats stats = { .sz = sizeof(stats) };

	ok(mirror_ctx_get_stats(ctx, &stats));
	return stats.lookups_begun;
}

/* One lookup after a change finds out, for all of its block; the others ask nobody. */
START_TEST(one_asks_for_all)
{
	struct mirror_device_range range;
	uint64_t before;

	setup_with(0);
	unmap(mem, PAGE);
	ok(mirror_device_translate(device, at(PAGE), 0, &range));
	before = lookups_begun();
	for (size_t i = PAGE; i < SIZE; i += PAGE)
		ok(mirror_device_translate(device, at(i), 0, &range));
	check_from(PAGE);
	ck_assert_uint_eq(lookups_begun(), before);
	finish();
}
END_TEST

/* ---- the target ---- */

static int new_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	ck_assert_int_ge(fd, 0);
	return fd;
}

static void other_process(struct peer *me)
{
	char *p = map_pages(2 * SIZE);
	uint64_t what;
	int fd = new_uffd();

	munmap(p + SIZE, SIZE);
	peer_tell(me, (uintptr_t)p);
	peer_tell(me, (uint64_t)fd);
	peer_hear(me);
	close(fd);	/* the other side has it */
	while ((what = peer_hear(me)) != 0) {
		if (what == 1)
			munmap(p, PAGE);
		if (what == 2 && mremap(p + PAGE, SIZE / 2, SIZE / 2,
					MREMAP_MAYMOVE | MREMAP_FIXED, p + SIZE) != p + SIZE)
			_exit(3);
		peer_tell(me, 0);
	}
}

static void watch_other(struct peer *peer, const struct mirror_device_opts *opts)
{
	int uffd;

	ctx = open_ctx();
	peer_start(peer, other_process);
	mem = (char *)(uintptr_t)peer_hear(peer);
	uffd = (int)syscall(SYS_pidfd_getfd, peer->pidfd, (int)peer_hear(peer), 0);
	ck_assert_int_ge(uffd, 0);
	ok(mirror_target_attach(&target, ctx, peer->pidfd, uffd, NULL));
	close(uffd);
	peer_tell(peer, 0);
	ok(mirror_device_new(&device, target, at(0), at(2 * SIZE), &ops, opts, NULL));
	mirror_tlb_init(&tlb, device);
	map_all();
	check_all();
}

static void order(struct peer *peer, uint64_t what)
{
	peer_tell(peer, what);
	peer_hear(peer);
}

START_TEST(other_process_ends)
{
	struct mirror_device_stats stats = { .sz = sizeof(stats) };
	struct mirror_device_range range;
	struct peer peer;
	uint64_t a;

	watch_other(&peer, NULL);
	order(&peer, 1);
	fails(mirror_tlb_translate(&tlb, at(0), 0, &a), ENOENT);
	ok(mirror_tlb_translate(&tlb, at(PAGE), 0, &a));
	ck_assert_uint_eq(a, DEVICE + PAGE);
	peer_tell(&peer, 0);
	peer_end(&peer);
	while (!n_event[MIRROR_EVENT_RELEASE])
		ok(mirror_wait(ctx, -1));
	fails(mirror_tlb_translate(&tlb, at(PAGE), 0, &a), ESRCH);
	fails(mirror_device_translate(device, at(PAGE), 0, &range), ESRCH);
	fails(mirror_device_map(device, at(0), at(SIZE), DEVICE, RW, version), ESRCH);
	ok(mirror_device_get_stats(device, &stats));
	ck_assert_uint_eq(stats.mapped, 0);
	ck_assert_uint_eq(stats.nodes, 1);
	ck_assert_uint_eq(stats.reactions[MIRROR_REACTION_FREEZE], 1);
	ck_assert_uint_eq(n_unmap, 2);
	finish();
}
END_TEST

/* It has one thread, so the order of its changes is known. */
START_TEST(other_process_moves)
{
	struct mirror_device_opts opts = MIRROR_DEVICE_OPTS_INIT;
	struct peer peer;
	uint64_t a;

	for (int vouched = 0; vouched < 2; vouched++) {
		opts.reaction[MIRROR_EVENT_REMAP] = vouched ? MIRROR_REACTION_MOVE : 0;
		watch_other(&peer, &opts);
		order(&peer, 2);
		fails(mirror_tlb_translate(&tlb, at(PAGE), 0, &a), ENOENT);
		ok(mirror_tlb_translate(&tlb, at(0), 0, &a));
		ok(mirror_tlb_translate(&tlb, at(SIZE / 2 + PAGE), 0, &a));
		ok(mirror_tlb_translate(&tlb, at(SIZE), 0, &a));
		ck_assert_uint_eq(a, DEVICE + PAGE);
		peer_tell(&peer, 0);
		peer_end(&peer);
		finish();
	}
}
END_TEST

static void *wait_thread(void *lock)
{
	pthread_mutex_lock(lock);
	pthread_mutex_unlock(lock);
	return NULL;
}

/* Another thread could have changed either range meanwhile: nothing is taken along. */
START_TEST(mremap_with_threads_drops)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_t thread;
	uint64_t a;

	setup_with(0);
	map_all();
	pthread_mutex_lock(&lock);
	ck_assert_int_eq(pthread_create(&thread, NULL, wait_thread, &lock), 0);
	unmap(mem + SIZE / 2, PAGE);
	ck_assert_ptr_eq(mremap(mem, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, mem + SIZE / 2),
			 mem + SIZE / 2);
	fails(mirror_tlb_translate(&tlb, at(0), 0, &a), ENOENT);
	fails(mirror_tlb_translate(&tlb, at(SIZE / 2), 0, &a), ENOENT);
	ok(mirror_tlb_translate(&tlb, at(PAGE), 0, &a));
	pthread_mutex_unlock(&lock);
	pthread_join(thread, NULL);
	finish();
}
END_TEST

/* The table's own memory is not the program's: that it goes is no event. */
START_TEST(table_makes_no_events)
{
	struct mirror_notifier_ops log_ops = {
		.sz = sizeof(log_ops), .invalidate = log_event,
	};
	struct log seen = { .n = 0 };
	struct mirror_notifier *n;
	uint64_t start, end;

	setup_with(MIRROR_ATTACH_ARM_ALL);
	ck_assert(find_table(&start, &end));
	ok(mirror_notifier_insert(&n, target, start, end, &log_ops, &seen));
	/* everything is looked at and armed anew, and the table is not */
	fails(mirror_target_arm(target, start, end), EOPNOTSUPP);
	for (size_t i = 0; i < SIZE; i += 2 * PAGE)
		ok(mirror_device_unmap(device, at(i), at(i + PAGE)));
	ok(mirror_device_unmap(device, at(0), at(SIZE)));
	device = mirror_device_free(device);
	ck_assert(!find_table(&start, &end));
	settle(ctx);
	ok(mirror_dispatch(ctx));
	ck_assert_uint_eq(seen.n, 0);
	mirror_notifier_remove(n);
	finish();
}
END_TEST

/* ---- fork ---- */

static int no_callback(const struct mirror_device_range *range, void *userdata)
{
	(void)range;
	(void)userdata;
	return 0;
}

static bool table_is_mapped(void)
{
	uint64_t start, end;

	return find_table(&start, &end);
}

static void everything_fails_in_child(void)
{
	struct mirror_device_stats stats = { .sz = sizeof(stats) };
	struct mirror_device_range range;
	struct mirror_device *d;
	struct mirror_tlb other;
	uint64_t a;

	ck_assert(!table_is_mapped());
	for (size_t i = 0; i < SIZE; i += PAGE)
		fails(mirror_tlb_translate(&tlb, at(i), RW, &a), ECHILD);
	fails(mirror_tlb_miss(&tlb, at(0), RW, &a), ECHILD);
	mirror_tlb_init(&other, device);
	fails(mirror_tlb_translate(&other, at(0), RW, &a), ECHILD);
	fails(mirror_device_translate(device, at(0), 0, &range), ECHILD);
	fails(mirror_device_map(device, at(0), at(SIZE), DEVICE, RW, version), ECHILD);
	fails(mirror_device_unmap(device, at(0), at(SIZE)), ECHILD);
	fails(mirror_device_downgrade(device, at(0), at(SIZE), 0), ECHILD);
	fails(mirror_device_move(device, at(0), at(PAGE), PAGE), ECHILD);
	fails(mirror_device_for_each(device, at(0), at(SIZE), no_callback, NULL), ECHILD);
	fails(mirror_device_mark(device, at(0), at(SIZE), MIRROR_DEVICE_DIRTY), ECHILD);
	fails(mirror_device_test_young(device, at(0), at(SIZE)), ECHILD);
	fails(mirror_device_clear_young(device, at(0), at(SIZE)), ECHILD);
	fails(mirror_device_test_dirty(device, at(0), at(SIZE)), ECHILD);
	fails(mirror_device_clear_dirty(device, at(0), at(SIZE)), ECHILD);
	fails(mirror_device_get_stats(device, &stats), ECHILD);
	fails(mirror_device_new(&d, target, at(0), at(SIZE), NULL, NULL, NULL), ECHILD);
}

static void in_child(struct peer *me)
{
	everything_fails_in_child();
	ck_assert_uint_eq(n_unmap, 0);
	finish();
	ck_assert_uint_eq(n_unmap, 0);
	/* it may start anew, of its own */
	setup_with(0);
	finish();
	peer_tell(me, 1);
}

static void fork_with(uint32_t flags)
{
	struct peer peer;

	setup_with(flags);
	ck_assert(table_is_mapped());
	peer_start(&peer, in_child);
	ck_assert_uint_eq(peer_hear(&peer), 1);
	peer_end(&peer);
	check_all();	/* the parent has lost nothing */
	ck_assert_uint_eq(n_unmap, 0);
	finish();
}

START_TEST(fork_child)
{
	fork_with(0);
}
END_TEST

START_TEST(fork_child_strict)
{
	fork_with(MIRROR_ATTACH_STRICT);
}
END_TEST

START_TEST(bare_clone_child)
{
	uint64_t a;
	int status;
	pid_t child;

	setup_with(0);
	child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
	if (child == 0)
		_exit(mirror_tlb_translate(&tlb, at(0), RW, &a) == -ECHILD &&
		      mirror_device_unmap(device, at(0), at(PAGE)) == -ECHILD &&
		      !mirror_device_free(device) ? 0 : 1);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	check_all();
	finish();
}
END_TEST

static pid_t forked = -1;

static void fork_inside(void)
{
	if (forked < 0)
		forked = fork();
}

/* An operation forks, by a reaction or by a call: the child comes out of it. */
static void fork_in_operation(bool by_event)
{
	struct mirror_device_range range;
	int r, status;
	uint64_t a;

	setup_with(0);
	in_unmap = fork_inside;
	if (by_event) {
		unmap(mem, PAGE);
		r = mirror_device_translate(device, at(0), 0, &range);
	} else {
		r = mirror_device_unmap(device, at(0), at(PAGE));
	}
	if (forked == 0) {
		mirror_device_free(device);
		_exit(r == -ECHILD ? 0 : 1);
	}
	ck_assert_int_eq(r, by_event ? -ENOENT : 0);
	ck_assert_int_eq(waitpid(forked, &status, 0), forked);
	ck_assert_int_eq(status, 0);
	fails(mirror_tlb_translate(&tlb, at(0), 0, &a), ENOENT);
	ok(mirror_tlb_translate(&tlb, at(PAGE), 0, &a));
	finish();
}

START_TEST(fork_in_call)
{
	fork_in_operation(false);
}
END_TEST

START_TEST(fork_in_reaction)
{
	fork_in_operation(true);
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "device-life");

	tcase_add_test(tcase, daemon_killed);
	tcase_add_test(tcase, daemon_killed_strict);
	tcase_add_test(tcase, daemon_stopped);
	tcase_add_test(tcase, daemon_stopped_strict);
	tcase_add_test(tcase, one_asks_for_all);
	tcase_add_test(tcase, other_process_ends);
	tcase_add_test(tcase, other_process_moves);
	tcase_add_test(tcase, mremap_with_threads_drops);
	tcase_add_test(tcase, table_makes_no_events);
	tcase_add_test(tcase, fork_child);
	tcase_add_test(tcase, fork_child_strict);
	tcase_add_test(tcase, bare_clone_child);
	tcase_add_test(tcase, fork_in_call);
	tcase_add_test(tcase, fork_in_reaction);
}

int main(void)
{
	return harness_main("device-life", fill);
}
