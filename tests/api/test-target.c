/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Attaching: to oneself, to others, twice, early. */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include "harness.h"

#define SIZE (16 * PAGE)

static struct log seen;

START_TEST(self)
{
	struct mirror_target_info info = { .size = sizeof(info) };
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);

	ck_assert_int_eq(mirror_target_get_pid(target), getpid());
	ck_assert_uint_gt(mirror_target_get_id(target), 0);
	ck_assert(mirror_target_get_features(target) & MIRROR_FEAT_EVENT(MIRROR_EVENT_UNMAP));
	ck_assert_int_eq(mirror_target_get_guarantee(target, MIRROR_EVENT_UNMAP),
			 MIRROR_GUARANTEE_ORDERED);
	fails(mirror_target_get_guarantee(target, MIRROR_EVENT_TYPES), EINVAL);
	ok(mirror_query_target(ctx, mirror_target_get_id(target), 0, &info));
	ck_assert_int_eq(info.pid, getpid());
	ck_assert_uint_eq(info.state, MIRROR_TARGET_ARMED);
	ok(mirror_query_target(ctx, 0, 1, &info));
	ck_assert_uint_eq(info.target, mirror_target_get_id(target));
	fails(mirror_query_target(ctx, info.target + 1, 1, &info), ESRCH);
	ck_assert_ptr_eq(mirror_target_ref(target), target);
	ck_assert_ptr_null(mirror_target_unref(target));
	ck_assert_ptr_null(mirror_target_unref(target));
	fails(mirror_query_target(ctx, 0, 1, &info), ESRCH);
	ck_assert_ptr_null(mirror_target_unref(NULL));
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(self_options)
{
	struct {
		struct mirror_attach_opts opts;
		uint64_t more;
	} longer = { .opts = MIRROR_ATTACH_OPTS_INIT };
	struct mirror_attach_opts *opts = &longer.opts;
	struct mirror_target *target = NULL;
	struct mirror_ctx *ctx = open_ctx();

	opts->flags = MIRROR_ATTACH_PENDING;
	fails(mirror_target_attach_self(&target, ctx, opts), EINVAL);
	opts->flags = 0x80;
	fails(mirror_target_attach_self(&target, ctx, opts), E2BIG);
	opts->flags = 0;
	opts->sz = sizeof(longer);
	longer.more = 1;
	fails(mirror_target_attach_self(&target, ctx, opts), E2BIG);
	opts->sz = 1;
	fails(mirror_target_attach_self(&target, ctx, opts), EINVAL);
	opts->sz = sizeof(*opts);
	opts->want = 1ULL << 63;
	fails(mirror_target_attach_self(&target, ctx, opts), EOPNOTSUPP);
	opts->sz = offsetof(struct mirror_attach_opts, want);
	ok(mirror_target_attach_self(&target, ctx, opts));
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(self_demands)
{
	struct mirror_attach_opts opts = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_target_info info = { .size = sizeof(info) };
	struct mirror_target *target = NULL;
	struct mirror_ctx *ctx = open_ctx();

	opts.demand[MIRROR_EVENT_PROTECTION_VMA] = MIRROR_GUARANTEE_POINT;
	fails(mirror_target_attach_self(&target, ctx, &opts), EOPNOTSUPP);
	opts.demand[MIRROR_EVENT_PROTECTION_VMA] = 0;
	opts.demand[MIRROR_EVENT_UNMAP] = MIRROR_GUARANTEE_STRICT;
	fails(mirror_target_attach_self(&target, ctx, &opts), EOPNOTSUPP);
	/* a refusal leaves nothing behind */
	fails(mirror_query_target(ctx, 0, 1, &info), ESRCH);
	opts.flags = MIRROR_ATTACH_STRICT;
	ok(mirror_target_attach_self(&target, ctx, &opts));
	ck_assert_int_eq(mirror_target_get_guarantee(target, MIRROR_EVENT_UNMAP),
			 MIRROR_GUARANTEE_STRICT);
	ck_assert_int_eq(mirror_target_get_guarantee(target, MIRROR_EVENT_RELEASE),
			 MIRROR_GUARANTEE_POINT);
	opts.demand[MIRROR_EVENT_UNMAP] = MIRROR_GUARANTEE_HOLD;
	fails(mirror_target_attach_self(&target, ctx, &opts), EOPNOTSUPP);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

/* Two libraries in one process, each with a context: one target. */
START_TEST(shared_target)
{
	struct mirror_ctx *a = open_ctx(), *b = open_ctx();
	struct mirror_target *ta = attach_self(a, 0), *tb = attach_self(b, 0);
	struct log seen_b = { .n = 0 };
	struct mirror_notifier *na, *nb;
	char *mem = map_pages(SIZE);
	uint64_t va, vb;

	ck_assert_uint_eq(mirror_target_get_id(ta), mirror_target_get_id(tb));
	na = watch(ta, mem, SIZE, &seen);
	nb = watch(tb, mem, SIZE, &seen_b);
	ok(begin(na, mem, SIZE, &va));
	ok(begin(nb, mem, SIZE, &vb));
	unmap(mem, PAGE);
	ck_assert_int_eq(retry(na, mem, SIZE, va), 1);
	ck_assert_int_eq(retry(nb, mem, SIZE, vb), 1);
	settle(a);
	ck_assert_int_eq(mirror_dispatch(a), 1);
	ck_assert_int_eq(mirror_dispatch(b), 1);
	ck_assert_uint_eq(seen.n + seen_b.n, 2);

	/* the one that made the userfaultfd goes, the other goes on */
	mirror_notifier_remove(na);
	mirror_target_unref(ta);
	mirror_ctx_unref(a);
	ok(begin(nb, mem + PAGE, PAGE, &vb));
	unmap(mem + PAGE, PAGE);
	ck_assert_int_eq(retry(nb, mem + PAGE, PAGE, vb), 1);
	fails(begin(nb, mem + PAGE, PAGE, &vb), EFAULT);
	ck_assert_uint_eq(seen_b.n, 2);
	mirror_notifier_remove(nb);
	mirror_target_unref(tb);
	mirror_ctx_unref(b);
}
END_TEST

START_TEST(same_target_twice)
{
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *a = attach_self(ctx, 0), *b = attach_self(ctx, 0);
	struct mirror_notifier *n;
	char *mem = map_pages(SIZE);
	uint64_t v;

	n = watch(b, mem, SIZE, &seen);
	mirror_target_unref(a);	/* must not take b's notifier along */
	ok(begin(n, mem, SIZE, &v));
	unmap(mem, PAGE);
	ck_assert_int_eq(retry(n, mem, SIZE, v), 1);
	settle(ctx);
	ck_assert_int_eq(mirror_dispatch(ctx), 1);
	mirror_notifier_remove(n);
	mirror_target_unref(b);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(again_and_again)
{
	struct mirror_stats stats = { .size = sizeof(stats) };
	struct mirror_ctx *ctx = open_ctx();
	char *mem = map_pages(SIZE);
	struct mirror_target *target;
	struct mirror_notifier *n;
	uint64_t v;

	for (unsigned int i = 0; i < 100; i++) {
		target = attach_self(ctx, 0);
		n = watch(target, mem, SIZE, &seen);
		ok(begin(n, mem, SIZE, &v));
		mirror_notifier_remove(n);
		mirror_target_unref(target);
	}
	ok(mirror_daemon_get_stats(ctx, &stats));
	ck_assert_uint_eq(stats.targets, 0);
	ck_assert_uint_eq(stats.notifiers, 0);
	mirror_ctx_unref(ctx);
}
END_TEST

static int new_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	ck_assert_int_ge(fd, 0);
	return fd;
}

START_TEST(arm)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = attach_self(ctx, 0);
	char *mem = map_pages(SIZE), *foreign = map_pages(SIZE);
	uint64_t a = (uintptr_t)mem;
	int fd = new_uffd();

	ok(mirror_target_arm(target, a, a + SIZE));
	fails(mirror_target_arm(target, a, a), EINVAL);
	fails(mirror_target_arm(target, a + 1, a + PAGE), EINVAL);
	unmap(mem + PAGE, PAGE);
	ok(mirror_target_arm(target, a, a + PAGE));
	fails(mirror_target_arm(target, a, a + SIZE), EFAULT);
	ck_assert_int_eq(ioctl(fd, UFFDIO_API, &api), 0);
	reg.range.start = (uintptr_t)foreign;
	reg.range.len = SIZE;
	ck_assert_int_eq(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
	fails(mirror_target_arm(target, reg.range.start, reg.range.start + SIZE), EBUSY);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

/* ---- another process ---- */

/* Lends its userfaultfd, then unmaps a page each time it is told to. */
static void plain_target(struct peer *me)
{
	char *mem = map_pages(SIZE);
	int fd = new_uffd();

	peer_tell(me, (uintptr_t)mem);
	peer_tell(me, (uint64_t)fd);
	peer_hear(me);
	close(fd);	/* the other side has it */
	for (uint64_t i = 0; peer_hear(me); i++) {
		munmap(mem + i * PAGE, PAGE);
		peer_tell(me, 0);
	}
}

static int take_fd(const struct peer *peer, int fd)
{
	int taken = (int)syscall(SYS_pidfd_getfd, peer->pidfd, fd, 0);

	ck_assert_int_ge(taken, 0);
	return taken;
}

START_TEST(other)
{
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = NULL, *second = NULL;
	struct mirror_notifier *n;
	struct peer peer;
	uint64_t v;
	char *mem;
	int fd;

	peer_start(&peer, plain_target);
	mem = (char *)(uintptr_t)peer_hear(&peer);
	fd = take_fd(&peer, (int)peer_hear(&peer));
	fails(mirror_target_attach(&target, ctx, peer.pidfd, -1, NULL), ENODATA);
	fails(mirror_target_attach(&target, ctx, -1, fd, NULL), EINVAL);
	ok(mirror_target_attach(&target, ctx, peer.pidfd, fd, NULL));
	close(fd);
	peer_tell(&peer, 1);
	ck_assert_int_eq(mirror_target_get_pid(target), peer.pid);

	n = watch(target, mem, SIZE, &seen);
	for (unsigned int i = 0; i < 8; i++) {
		ok(begin(n, mem + i * PAGE, PAGE, &v));
		ck_assert_int_eq(retry(n, mem + i * PAGE, PAGE, v), 0);
		peer_tell(&peer, 1);
		peer_hear(&peer);
		ck_assert_int_eq(retry(n, mem + i * PAGE, PAGE, v), 1);
		fails(begin(n, mem + i * PAGE, PAGE, &v), EFAULT);
		ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], i + 1);
	}
	ok(mirror_target_arm(target, (uintptr_t)mem + 8 * PAGE, (uintptr_t)mem + 9 * PAGE));
	/* known by now, so it need not be handed over again */
	ok(mirror_target_attach(&second, ctx, peer.pidfd, -1, NULL));
	ck_assert_uint_eq(mirror_target_get_id(second), mirror_target_get_id(target));
	mirror_target_unref(second);
	ok(begin(n, mem + 8 * PAGE, PAGE, &v));

	peer_tell(&peer, 0);
	peer_end(&peer);
	while (!seen.n_type[MIRROR_EVENT_RELEASE])
		ok(mirror_wait(ctx, -1));
	ck_assert(seen.last.flags & MIRROR_EVENT_F_LAST);
	ck_assert_int_eq(retry(n, mem + 8 * PAGE, PAGE, v), 1);
	fails(begin(n, mem + 8 * PAGE, PAGE, &v), ESRCH);
	fails(mirror_target_arm(target, (uintptr_t)mem, (uintptr_t)mem + PAGE), ESRCH);
	mirror_notifier_remove(n);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(other_refused)
{
	struct mirror_attach_opts opts = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target = NULL, *second = NULL;
	struct peer peer;
	int fd;

	peer_start(&peer, plain_target);
	peer_hear(&peer);
	fd = take_fd(&peer, (int)peer_hear(&peer));
	opts.flags = MIRROR_ATTACH_STRICT;
	fails(mirror_target_attach(&target, ctx, peer.pidfd, fd, &opts), EOPNOTSUPP);
	opts.flags = MIRROR_ATTACH_PENDING;
	fails(mirror_target_attach(&target, ctx, peer.pidfd, fd, &opts), EINVAL);
	ok(mirror_target_attach(&target, ctx, peer.pidfd, fd, NULL));
	fails(mirror_target_attach(&second, ctx, peer.pidfd, fd, NULL), EEXIST);
	opts.flags = 0;
	opts.demand[MIRROR_EVENT_UNMAP] = MIRROR_GUARANTEE_STRICT;
	fails(mirror_target_attach(&second, ctx, peer.pidfd, -1, &opts), EOPNOTSUPP);
	close(fd);
	mirror_target_unref(target);
	peer_tell(&peer, 1);
	peer_tell(&peer, 0);
	ck_assert_int_eq(waitpid(peer.pid, NULL, 0), peer.pid);
	fails(mirror_target_attach(&target, ctx, peer.pidfd, -1, NULL), ESRCH);
	mirror_ctx_unref(ctx);
}
END_TEST

/* Root's process is not for everybody. */
static void stranger(struct peer *me)
{
	struct mirror_target *target = NULL;
	struct mirror_ctx *ctx;
	int pidfd;

	if (setgid(65534) < 0 || setuid(65534) < 0)
		_exit(1);
	ctx = open_ctx();
	pidfd = (int)syscall(SYS_pidfd_open, me->pid, 0);
	if (mirror_target_attach(&target, ctx, pidfd, -1, NULL) != -EPERM)
		_exit(2);
	peer_tell(me, 1);
}

START_TEST(other_forbidden)
{
	struct mirror_ctx *ctx;
	struct mirror_target *target;
	struct peer peer;

	if (geteuid())
		return;		/* nobody is a stranger to us */
	ctx = open_ctx();
	target = attach_self(ctx, 0);
	peer_start(&peer, stranger);
	ck_assert_uint_eq(peer_hear(&peer), 1);
	peer_end(&peer);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

/* Attaches itself when told, with the library; then unmaps. */
static void late_target(struct peer *me)
{
	struct mirror_target *target;
	char *mem = map_pages(SIZE);
	struct mirror_ctx *ctx;

	peer_tell(me, (uintptr_t)mem);
	peer_hear(me);
	ctx = open_ctx_with(MIRROR_OPEN_NO_RING, 0);
	target = attach_self(ctx, 0);
	peer_tell(me, mirror_target_get_id(target));
	peer_hear(me);
	munmap(mem, PAGE);
	peer_tell(me, 0);
	peer_hear(me);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

START_TEST(pending)
{
	struct mirror_attach_opts opts = MIRROR_ATTACH_OPTS_INIT;
	struct mirror_ctx *ctx = open_ctx();
	struct mirror_target *target;
	struct mirror_notifier *n;
	struct peer peer;
	uint64_t v = 0;
	char *mem;

	peer_start(&peer, late_target);
	mem = (char *)(uintptr_t)peer_hear(&peer);
	opts.flags = MIRROR_ATTACH_PENDING;
	ok(mirror_target_attach(&target, ctx, peer.pidfd, -1, &opts));
	n = watch(target, mem, SIZE, &seen);
	fails(begin(n, mem, PAGE, &v), ESRCH);
	ck_assert_int_eq(retry(n, mem, PAGE, v), 1);
	peer_tell(&peer, 0);
	ck_assert_uint_eq(peer_hear(&peer), mirror_target_get_id(target));
	ok(begin(n, mem, PAGE, &v));
	ck_assert_int_eq(retry(n, mem, PAGE, v), 0);
	peer_tell(&peer, 0);
	peer_hear(&peer);
	ck_assert_int_eq(retry(n, mem, PAGE, v), 1);
	fails(begin(n, mem, PAGE, &v), EFAULT);
	ck_assert_uint_eq(seen.n_type[MIRROR_EVENT_UNMAP], 1);
	peer_tell(&peer, 0);
	peer_end(&peer);
	mirror_notifier_remove(n);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "self");

	tcase_add_test(tcase, self);
	tcase_add_test(tcase, self_options);
	tcase_add_test(tcase, self_demands);
	tcase_add_test(tcase, shared_target);
	tcase_add_test(tcase, same_target_twice);
	tcase_add_test(tcase, again_and_again);
	tcase_add_test(tcase, arm);
	tcase = harness_case(suite, "other");
	tcase_add_test(tcase, other);
	tcase_add_test(tcase, other_refused);
	tcase_add_test(tcase, other_forbidden);
	tcase_add_test(tcase, pending);
}

int main(void)
{
	return harness_main("target", fill);
}
