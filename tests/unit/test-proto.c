/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include "memfd.h"
#include "proto.h"
#include "unit.h"

static int pair[2];

static void make_pair(void)
{
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
}

static struct packet info_packet(void)
{
	struct packet p = PACKET_NULL;

	p.u.msg.size = sizeof(p.u.msg) + sizeof(struct mirror_info);
	p.u.msg.op = MIRROR_OP_INFO;
	p.u.msg.serial = 17;
	return p;
}

static unsigned int open_fds(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

START_TEST(there_and_back)
{
	struct packet out = info_packet(), in;
	unsigned int before;

	make_pair();
	before = open_fds();
	out.fds[0] = pair[0];
	out.fds[1] = pair[1];
	out.n_fds = 2;
	ck_assert_int_eq(packet_send(pair[0], &out, 0), 0);
	ck_assert_int_eq(packet_recv(pair[1], &in, MSG_DONTWAIT), 1);
	ck_assert_uint_eq(in.n_fds, 2);
	ck_assert_uint_eq(in.u.msg.serial, 17);
	ck_assert_uint_eq(packet_payload_size(&in), sizeof(struct mirror_info));
	ck_assert_int_eq(fcntl(in.fds[0], F_GETFD), FD_CLOEXEC);
	packet_clear(&in);
	ck_assert_uint_eq(open_fds(), before);
	ck_assert_int_eq(packet_recv(pair[1], &in, MSG_DONTWAIT), -EAGAIN);
	close(pair[0]);
	ck_assert_int_eq(packet_recv(pair[1], &in, MSG_DONTWAIT), 0);
}
END_TEST

START_TEST(wrong_sizes_are_told)
{
	struct packet p = info_packet(), in;
	uint8_t big[MIRROR_MSG_MAX + 100] = { 0 };

	make_pair();
	p.u.msg.size--;		/* says less than it has */
	ck_assert_int_eq(send(pair[0], p.u.raw, p.u.msg.size + 1, 0), (int)p.u.msg.size + 1);
	ck_assert_int_eq(packet_recv(pair[1], &in, MSG_DONTWAIT), -EBADMSG);
	ck_assert_int_eq(send(pair[0], p.u.raw, 3, 0), 3);
	ck_assert_int_eq(packet_recv(pair[1], &in, MSG_DONTWAIT), -EBADMSG);
	ck_assert_int_eq(send(pair[0], big, sizeof(big), 0), (int)sizeof(big));
	ck_assert_int_eq(packet_recv(pair[1], &in, MSG_DONTWAIT), -EBADMSG);
	ck_assert_int_eq(packet_recv(pair[1], &in, MSG_DONTWAIT), -EAGAIN);
}
END_TEST

/* More descriptors than a packet may have: none of them stays open. */
START_TEST(too_many_descriptors_leak_nothing)
{
	union { struct cmsghdr align; uint8_t raw[CMSG_SPACE(20 * sizeof(int))]; } control;
	struct packet p = info_packet(), in;
	struct iovec iov = { .iov_base = p.u.raw, .iov_len = p.u.msg.size };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.raw,
		.msg_controllen = sizeof(control.raw),
	};
	struct cmsghdr *c;
	unsigned int before;
	int fds[20];

	make_pair();
	before = open_fds();
	memset(&control, 0, sizeof(control));
	for (int i = 0; i < 20; i++)
		fds[i] = pair[0];
	c = CMSG_FIRSTHDR(&msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(c), fds, sizeof(fds));
	ck_assert_int_gt(sendmsg(pair[0], &msg, 0), 0);
	ck_assert_int_eq(packet_recv(pair[1], &in, MSG_DONTWAIT), -EBADMSG);
	ck_assert_uint_eq(open_fds(), before);
}
END_TEST

START_TEST(every_operation_fits)
{
	for (uint32_t op = 0; op <= MIRROR_OP_CONNECT; op++) {
		ck_assert_uint_gt(op_payload_size(op), 0);
		ck_assert_uint_le(op_payload_size(op) + sizeof(struct mirror_msg),
				  MIRROR_MSG_MAX);
	}
	ck_assert_uint_eq(op_payload_size(MIRROR_OP_CONNECT + 1), 0);
}
END_TEST

START_TEST(memfds_are_checked)
{
	int fd;

	ck_assert_int_eq(memfd_new("test", 8192, &fd), 0);
	ck_assert_int_eq(memfd_check(fd, 8192, false), 0);
	ck_assert_int_eq(memfd_check(fd, 8193, false), -EPROTO);
	ck_assert_int_eq(memfd_check(fd, 8192, true), -EPROTO);
	ck_assert_int_eq(memfd_seal_writes(fd), 0);
	ck_assert_int_eq(memfd_check(fd, 8192, true), 0);
	ck_assert_int_eq(memfd_check(STDIN_FILENO, 0, false), -EPROTO);
	close(fd);
}
END_TEST

UNIT_MAIN("proto", there_and_back, wrong_sizes_are_told, too_many_descriptors_leak_nothing,
	  every_operation_fits, memfds_are_checked)
