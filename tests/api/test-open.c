/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Opening and asking; names. */
#include <fcntl.h>
#include <mirror/uapi/ring.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "harness.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static int try_open(const char *path, uint32_t flags)
{
	struct mirror_open_opts opts = MIRROR_OPEN_OPTS_INIT;
	struct mirror_ctx *ctx = NULL;
	int r;

	opts.path = path;
	opts.flags = flags;
	r = mirror_open(&ctx, &opts);
	if (r == 0)
		mirror_ctx_unref(ctx);
	else
		ck_assert_ptr_null(ctx);
	return r;
}

START_TEST(open_nobody_there)
{
	fails(try_open(scratch_path("nothing"), MIRROR_OPEN_NO_EMBEDDED), ENOENT);
	daemon_start();
	daemon_kill(SIGKILL);	/* its socket stays behind, and a mount too */
	/* a node goes when the kernel has closed the last of what the daemon had */
	while (daemon_is_node() && access(daemon_path(), F_OK) == 0)
		sched_yield();
	fails(try_open(daemon_path(), MIRROR_OPEN_NO_EMBEDDED),
	      daemon_is_node() ? ENOENT : ECONNREFUSED);
}
END_TEST

START_TEST(open_bad_path)
{
	char path[300];

	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = 0;
	fails(try_open(path, MIRROR_OPEN_NO_EMBEDDED), ENAMETOOLONG);
	fails(try_open("/dev/null/x", MIRROR_OPEN_NO_EMBEDDED), ENOTDIR);
}
END_TEST

START_TEST(open_environment)
{
	struct mirror_ctx *ctx;

	setenv("MIRROR_SOCKET", socket_path(), 1);
	ok(try_open(NULL, MIRROR_OPEN_NO_EMBEDDED));
	ok(mirror_open(&ctx, NULL));
	ck_assert_int_eq(mirror_ctx_is_embedded(ctx), 0);
	mirror_ctx_unref(ctx);
}
END_TEST

struct longer {
	struct mirror_open_opts opts;
	uint64_t more;
};

START_TEST(open_versions)
{
	struct longer longer = { .opts = MIRROR_OPEN_OPTS_INIT };
	struct mirror_ctx *ctx;

	longer.opts.path = daemon_path();
	longer.opts.flags = MIRROR_OPEN_NO_EMBEDDED;
	longer.opts.sz = offsetof(struct mirror_open_opts, ring_entries);
	longer.opts.ring_entries = UINT32_MAX;	/* not looked at */
	ok(mirror_open(&ctx, &longer.opts));
	mirror_ctx_unref(ctx);
	longer.opts.ring_entries = 0;
	longer.opts.sz = sizeof(longer);
	ok(mirror_open(&ctx, &longer.opts));
	mirror_ctx_unref(ctx);
	longer.more = 1;
	fails(mirror_open(&ctx, &longer.opts), E2BIG);
	longer.opts.sz = 0;
	fails(mirror_open(&ctx, &longer.opts), EINVAL);
	longer.opts.sz = sizeof(longer.opts);
	longer.opts.__reserved = 1;
	fails(mirror_open(&ctx, &longer.opts), E2BIG);
	fails(try_open(NULL, 0x80), E2BIG);
	fails(try_open(NULL, MIRROR_OPEN_EMBEDDED | MIRROR_OPEN_NO_EMBEDDED), EINVAL);
}
END_TEST

/* ---- a server that is none, or a bad one ---- */

enum fault {
	NO_PACKET,
	FOREIGN_VERSION,
	FEW_DESCRIPTORS,
	WRITABLE,		/* the ring is not sealed */
	SHRINKABLE,
	SHORT,
	FOREIGN_MAGIC,
	FUTURE_LAYOUT,
	ODD_ENTRIES,
	NO_ENTRIES,
	SMALL_SLOTS,
	SLOTS_OUTSIDE,
	SIZE_OUTSIDE,
	NO_FAULT,
};

static const char *fake_path;
static enum fault fault;

static int make_ring(void)
{
	struct mirror_ring_hdr hdr = {
		.magic = fault == FOREIGN_MAGIC ? 1 : MIRROR_RING_MAGIC,
		.version = MIRROR_RING_VERSION + (fault == FUTURE_LAYOUT),
		.compat_version = MIRROR_RING_COMPAT + (fault == FUTURE_LAYOUT),
		.hdr_size = sizeof(hdr),
		.entry_size = fault == SMALL_SLOTS ? 32 : 64,
		.entries = fault == ODD_ENTRIES ? 3 : fault == NO_ENTRIES ? 0 : 4,
		.slots_off = fault == SLOTS_OUTSIDE ? PAGE - 64 : 128,
		.size = fault == SIZE_OUTSIDE ? 2 * PAGE : PAGE,
	};
	int fd = memfd_create("ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int seals = F_SEAL_GROW;

	if (ftruncate(fd, fault == SHORT ? 64 : (off_t)PAGE) < 0 ||
	    pwrite(fd, &hdr, fault == SHORT ? 64 : sizeof(hdr), 0) < 0)
		_exit(3);
	seals |= fault == WRITABLE ? 0 : F_SEAL_FUTURE_WRITE;
	seals |= fault == SHRINKABLE ? 0 : F_SEAL_SHRINK;
	if (fcntl(fd, F_ADD_SEALS, seals) < 0)
		_exit(4);
	return fd;
}

static int make_consumer(void)
{
	int fd = memfd_create("cons", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (ftruncate(fd, PAGE) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) < 0)
		_exit(5);
	return fd;
}

static void send_with(int sock, void *data, size_t size, const int *fds, unsigned int n_fds)
{
	union {
		struct cmsghdr align;
		char raw[CMSG_SPACE(4 * sizeof(int))];
	} control = { .raw = { 0 } };
	struct iovec iov = { .iov_base = data, .iov_len = size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n_fds) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
		CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
		CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, n_fds * sizeof(int));
	}
	if (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0)
		_exit(6);
}

static void serve_ring(int client)
{
	struct {
		struct mirror_msg msg;
		struct mirror_channel channel;
	} packet;
	int bells[2], fds[4];

	if (recv(client, &packet, sizeof(packet), 0) != sizeof(packet) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, bells) < 0)
		_exit(7);
	fds[0] = make_ring();
	fds[1] = make_consumer();
	fds[2] = bells[0];
	fds[3] = bells[1];
	send_with(client, &packet, sizeof(packet), fds, fault == FEW_DESCRIPTORS ? 3 : 4);
}

static void fake_server(struct peer *me)
{
	struct {
		struct mirror_msg msg;
		struct mirror_info info;
	} packet;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0), client;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", fake_path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 1) < 0)
		_exit(1);
	peer_tell(me, 0);
	client = accept(fd, NULL, NULL);
	if (recv(client, &packet, sizeof(packet), 0) != sizeof(packet))
		_exit(2);
	packet.info.uapi_version = MIRROR_UAPI_VERSION + (fault == FOREIGN_VERSION);
	send_with(client, &packet, fault == NO_PACKET ? 5 : sizeof(packet), NULL, 0);
	if (fault > FOREIGN_VERSION)
		serve_ring(client);
	peer_hear(me);
}

START_TEST(open_foreign_server)
{
	struct peer peer;

	fault = (enum fault)_i;
	fake_path = scratch_path("fake");
	unlink(fake_path);
	peer_start(&peer, fake_server);
	peer_hear(&peer);
	if (fault == NO_FAULT)	/* the others fail for their fault and nothing else */
		ok(try_open(fake_path, MIRROR_OPEN_NO_EMBEDDED));
	else
		fails(try_open(fake_path, MIRROR_OPEN_NO_EMBEDDED), EPROTO);
	peer_tell(&peer, 0);
	peer_end(&peer);
}
END_TEST

START_TEST(ctx_questions)
{
	struct mirror_info info = { .size = sizeof(info) };
	struct mirror_stats stats = { .size = sizeof(stats) };
	struct mirror_ctx_stats mine = { .sz = sizeof(mine) };
	struct mirror_target_info target = { .size = sizeof(target) };
	struct mirror_ctx *ctx = open_ctx();

	ck_assert_ptr_eq(mirror_ctx_ref(ctx), ctx);
	ck_assert_ptr_null(mirror_ctx_unref(ctx));
	ok(mirror_ctx_get_info(ctx, &info));
	ck_assert_uint_eq(info.uapi_version, MIRROR_UAPI_VERSION);
	ck_assert_uint_eq(info.features, mirror_ctx_get_features(ctx));
	ck_assert(info.features & MIRROR_FEAT_EVENT(MIRROR_EVENT_UNMAP));
	ok(mirror_daemon_get_stats(ctx, &stats));
	ck_assert_uint_eq(stats.clients, 1);
	ok(mirror_ctx_get_stats(ctx, &mine));
	ck_assert_uint_eq(mine.records, 0);
	fails(mirror_query_target(ctx, 0, 1, &target), ESRCH);
	ck_assert_int_ge(mirror_ctx_get_fd(ctx), 0);
	ck_assert_int_eq(mirror_dispatch(ctx), 0);
	ck_assert_int_eq(mirror_wait(ctx, 0), 0);
	ck_assert_int_eq(mirror_wait(ctx, 1), 0);
	ck_assert_ptr_null(mirror_ctx_unref(ctx));
	ck_assert_ptr_null(mirror_ctx_unref(NULL));
}
END_TEST

START_TEST(ctx_answers_have_versions)
{
	struct {
		struct mirror_info info;
		uint64_t more;
	} big = { .info.size = sizeof(big) };
	struct mirror_ctx_stats stats;
	struct mirror_info small;
	struct mirror_ctx *ctx = open_ctx();

	ok(mirror_ctx_get_info(ctx, &big.info));
	ck_assert_uint_eq(big.info.size, sizeof(big));
	big.more = 1;
	fails(mirror_ctx_get_info(ctx, &big.info), E2BIG);
	memset(&small, 0xee, sizeof(small));
	small.size = offsetof(struct mirror_info, features);
	ok(mirror_ctx_get_info(ctx, &small));
	ck_assert_uint_eq(small.uapi_version, MIRROR_UAPI_VERSION);
	ck_assert_uint_eq(small.features, 0xeeeeeeeeeeeeeeee);
	memset(&stats, 0xee, sizeof(stats));
	stats.sz = offsetof(struct mirror_ctx_stats, lost);
	ok(mirror_ctx_get_stats(ctx, &stats));
	ck_assert_uint_eq(stats.records, 0);
	ck_assert_uint_eq(stats.lost, 0xeeeeeeeeeeeeeeee);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(ctx_without_ring)
{
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = log_event };
	struct mirror_ctx *ctx = open_ctx_with(MIRROR_OPEN_NO_RING, 0);
	struct mirror_target *target = attach_self(ctx, 0);
	struct mirror_notifier *n;

	fails(mirror_ctx_get_fd(ctx), ENOTCONN);
	fails(mirror_prepare_wait(ctx), ENOTCONN);
	fails(mirror_wait(ctx, -1), ENOTCONN);
	fails(mirror_notifier_insert(&n, target, PAGE, 2 * PAGE, &ops, NULL), ENOTCONN);
	ck_assert_int_eq(mirror_dispatch(ctx), 0);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}
END_TEST

START_TEST(names)
{
	const char *name;
	unsigned int i;

	for (i = 0; i < MIRROR_EVENT_TYPES; i++) {
		name = mirror_event_type_to_string(i);
		ck_assert_ptr_nonnull(name);
		ck_assert_int_eq(mirror_event_type_from_string(name), (int)i);
	}
	ck_assert_ptr_null(mirror_event_type_to_string(i));
	fails(mirror_event_type_from_string("UNMAP"), EINVAL);
	for (i = 0; i < MIRROR_CAUSES; i++)
		ck_assert_ptr_nonnull(mirror_cause_to_string(i));
	ck_assert_ptr_null(mirror_cause_to_string(i));
	for (i = 0; i <= MIRROR_SOURCE_EXIT; i++)
		ck_assert_ptr_nonnull(mirror_source_to_string(i));
	ck_assert_ptr_null(mirror_source_to_string(i));
	for (i = 0; i <= MIRROR_GUARANTEE_HOLD; i++)
		ck_assert_ptr_nonnull(mirror_guarantee_to_string(i));
	ck_assert_ptr_null(mirror_guarantee_to_string(i));
	ck_assert_str_eq(mirror_event_phase_to_string(MIRROR_EVENT_F_START), "start");
	ck_assert_str_eq(mirror_event_phase_to_string(MIRROR_EVENT_F_END), "end");
	ck_assert_str_eq(mirror_event_phase_to_string(MIRROR_EVENT_F_POINT), "point");
	ck_assert_ptr_null(mirror_event_phase_to_string(MIRROR_EVENT_F_LAST));
}
END_TEST

START_TEST(format)
{
	struct mirror_event event = {
		.type = MIRROR_EVENT_REMAP, .cause = MIRROR_CAUSE_MREMAP, .target = 7,
		.flags = MIRROR_EVENT_F_START | MIRROR_EVENT_F_MERGED |
			 MIRROR_SOURCE_UFFD << MIRROR_EVENT_SOURCE_SHIFT |
			 MIRROR_GUARANTEE_ORDERED << MIRROR_EVENT_GUARANTEE_SHIFT,
		.start = 0x1000, .end = 0x3000, .arg.remap.to = 0x8000,
	};
	const char *line = "target 7 remap start 0x1000-0x3000 cause mremap source uffd/ordered "
			   "to 0x8000 merged";
	char buf[200], small[11];

	ck_assert_int_eq(mirror_event_format(&event, buf, sizeof(buf)), (int)strlen(line));
	ck_assert_str_eq(buf, line);
	ck_assert_int_eq(mirror_event_format(&event, small, sizeof(small)), (int)strlen(line));
	ck_assert_str_eq(small, "target 7 r");
	ck_assert_int_eq(mirror_event_format(&event, NULL, 0), (int)strlen(line));
	event.type = event.cause = 200;
	event.flags = 0;
	mirror_event_format(&event, buf, sizeof(buf));
	ck_assert_str_eq(buf, "target 7 200 - 0x1000-0x3000 cause 200 source none/none");
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case_without_daemon(suite, "alone");

	tcase_add_test(tcase, open_nobody_there);
	tcase_add_test(tcase, open_bad_path);
	tcase_add_loop_test(tcase, open_foreign_server, 0, NO_FAULT + 1);
	tcase_add_test(tcase, names);
	tcase_add_test(tcase, format);
	tcase = harness_case(suite, "open");
	tcase_add_test(tcase, open_environment);
	tcase_add_test(tcase, open_versions);
	tcase_add_test(tcase, ctx_questions);
	tcase_add_test(tcase, ctx_answers_have_versions);
	tcase_add_test(tcase, ctx_without_ring);
}

int main(void)
{
	return harness_main("open", fill);
}
