/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * An RDMA device that does nothing
 *
 * libfabric caches registrations, and so runs its userfaultfd monitor, only for RDMA
 * hardware.  These functions stand in for those of libibverbs and librdmacm in this
 * one program, and pretend one device: enough for libfabric's verbs provider to open
 * a domain and to register memory.  Everything that is measured, the cache and its
 * monitor, is libfabric's own.  Registering costs nothing here; hardware and its
 * driver would add to that, and to no other figure.
 */

#include <errno.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdlib.h>
#include <string.h>
#include "stub-verbs.h"

#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

static struct ibv_device device = {
	.node_type = IBV_NODE_CA,
	.transport_type = IBV_TRANSPORT_IB,
	.name = "stub0",
};
static struct ibv_context context = { .device = &device, .cmd_fd = -1, .async_fd = -1 };
static uint64_t n_registered, n_deregistered;

uint64_t stub_registered(void)
{
	return __atomic_load_n(&n_registered, __ATOMIC_RELAXED);
}

uint64_t stub_deregistered(void)
{
	return __atomic_load_n(&n_deregistered, __ATOMIC_RELAXED);
}

int ibv_fork_init(void)
{
	return 0;
}

struct ibv_device **ibv_get_device_list(int *ret_n)
{
	struct ibv_device **list = calloc(2, sizeof(struct ibv_device *));

	if (list)
		list[0] = &device;
	if (ret_n)
		*ret_n = list ? 1 : 0;
	return list;
}

void ibv_free_device_list(struct ibv_device **list)
{
	free(list);
}

const char *ibv_get_device_name(struct ibv_device *d)
{
	return d->name;
}

struct ibv_context *ibv_open_device(struct ibv_device *d)
{
	(void)d;
	return &context;
}

int ibv_close_device(struct ibv_context *c)
{
	(void)c;
	return 0;
}

struct ibv_context **rdma_get_devices(int *ret_n)
{
	struct ibv_context **list = calloc(2, sizeof(struct ibv_context *));

	if (list)
		list[0] = &context;
	if (ret_n)
		*ret_n = list ? 1 : 0;
	return list;
}

void rdma_free_devices(struct ibv_context **list)
{
	free(list);
}

int ibv_query_device(struct ibv_context *c, struct ibv_device_attr *ret_attr)
{
	(void)c;
	*ret_attr = (struct ibv_device_attr) {
		.max_mr_size = UINT64_MAX, .max_qp = 64, .max_qp_wr = 256, .max_sge = 8,
		.max_cq = 64, .max_cqe = 1024, .max_mr = 1 << 24, .max_pd = 16,
		.max_srq = 16, .max_srq_wr = 256, .max_srq_sge = 8, .phys_port_cnt = 1,
	};
	return 0;
}

int ibv_query_port(struct ibv_context *c, uint8_t port, struct _compat_ibv_port_attr *ret_attr)
{
	struct ibv_port_attr *attr = (struct ibv_port_attr *)ret_attr;

	(void)c;
	(void)port;
	attr->state = IBV_PORT_ACTIVE;
	attr->max_mtu = attr->active_mtu = IBV_MTU_4096;
	attr->gid_tbl_len = 1;
	attr->pkey_tbl_len = 1;
	attr->max_msg_sz = 1U << 30;
	attr->active_width = 2;
	attr->active_speed = 4;
	return 0;
}

int ibv_query_gid(struct ibv_context *c, uint8_t port, int index, union ibv_gid *ret_gid)
{
	(void)c;
	(void)port;
	(void)index;
	memset(ret_gid, 1, sizeof(*ret_gid));
	return 0;
}

int ibv_query_pkey(struct ibv_context *c, uint8_t port, int index, __be16 *ret_pkey)
{
	(void)c;
	(void)port;
	(void)index;
	*ret_pkey = 0;	/* none: datagrams are all we offer */
	return 0;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *c)
{
	struct ibv_pd *pd = calloc(1, sizeof(*pd));

	if (pd)
		pd->context = c;
	return pd;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	free(pd);
	return 0;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *c, int cqe, void *cq_context,
			     struct ibv_comp_channel *channel, int vector)
{
	struct ibv_cq *cq = calloc(1, sizeof(*cq));

	(void)cq_context;
	(void)channel;
	(void)vector;
	if (cq) {
		cq->context = c;
		cq->cqe = cqe;
	}
	return cq;
}

int ibv_destroy_cq(struct ibv_cq *cq)
{
	free(cq);
	return 0;
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	struct ibv_qp *qp;

	if (attr->qp_type != IBV_QPT_UD || attr->cap.max_inline_data > 64) {
		errno = EINVAL;
		return NULL;
	}
	qp = calloc(1, sizeof(*qp));
	if (qp)
		qp->pd = pd;
	return qp;
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
	free(qp);
	return 0;
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *start, size_t bytes, int access)
{
	struct ibv_mr *mr = calloc(1, sizeof(*mr));

	(void)access;
	if (!mr)
		return NULL;
	mr->pd = pd;
	mr->context = pd->context;
	mr->addr = start;
	mr->length = bytes;
	mr->lkey = mr->rkey = (uint32_t)__atomic_add_fetch(&n_registered, 1, __ATOMIC_RELAXED);
	return mr;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *start, size_t bytes, uint64_t iova,
				unsigned int access)
{
	(void)iova;
	return ibv_reg_mr(pd, start, bytes, (int)access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	__atomic_fetch_add(&n_deregistered, 1, __ATOMIC_RELAXED);
	free(mr);
	return 0;
}

/* libfabric's provider for other hardware asks whether our device is one of that. */
int efadv_query_device(struct ibv_context *c, void *ret_attr, uint32_t bytes);

int efadv_query_device(struct ibv_context *c, void *ret_attr, uint32_t bytes)
{
	(void)c;
	(void)ret_attr;
	(void)bytes;
	return EOPNOTSUPP;
}

/* No connections: with these, libfabric would ask the network for addresses. */
int rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **ret_id,
		   void *id_context, enum rdma_port_space ps)
{
	(void)channel;
	(void)ret_id;
	(void)id_context;
	(void)ps;
	errno = ENODEV;
	return -1;
}
