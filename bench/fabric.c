/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <rdma/fabric.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_errno.h>
#include <unistd.h>
#include "fabric.h"

#define ACCESS (FI_SEND | FI_RECV)

static struct fid_fabric *fabric;
static struct fid_domain *domain;

static void must_fi(long r, const char *what)
{
	if (r < 0)
		fail("%s: %s", what, fi_strerror((int)-r));
}

void fabric_use(void *start, size_t bytes)
{
	struct fid_mr *mr;

	must_fi(fi_mr_reg(domain, start, bytes, ACCESS, 0, 0, 0, &mr, NULL), "fi_mr_reg");
	must_fi(fi_close(&mr->fid), "fi_close");
}

static void has_monitor(void)
{
	char path[64], name[64];

	for (int fd = 0; fd < 256; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, name, sizeof(name) - 1);
		if (n > 0 && (name[n] = 0, strstr(name, "userfaultfd")))
			return;
	}
	skip("libfabric did not open a userfaultfd");
}

void fabric_open(int cpu)
{
	struct fi_info *hints = fi_allocinfo(), *info;
	int r;

	setenv("FI_PROVIDER", "verbs", 1);
	setenv("FI_MR_CACHE_MONITOR", "userfaultfd", 1);
	setenv("FI_VERBS_DGRAM_USE_NAME_SERVER", "0", 1);
	setenv("FI_FORK_UNSAFE", "1", 1);	/* this program does not fork */
	if (!hints)
		fail("out of memory");
	hints->fabric_attr->prov_name = strdup("verbs");
	hints->ep_attr->type = FI_EP_DGRAM;
	hints->caps = FI_MSG;
	hints->mode = ~0ULL;
	hints->domain_attr->mr_mode = FI_MR_LOCAL | FI_MR_ALLOCATED | FI_MR_PROV_KEY |
				      FI_MR_VIRT_ADDR;
	r = fi_getinfo(FI_VERSION(1, 17), NULL, NULL, 0, hints, &info);
	if (r == -FI_ENODATA)
		skip("libfabric has no verbs provider, or does not like our device");
	must_fi(r, "fi_getinfo");
	must_fi(fi_fabric(info->fabric_attr, &fabric, NULL), "fi_fabric");
	/* The monitor's thread starts here, where we are. */
	pin(cpu);
	must_fi(fi_domain(fabric, info, &domain, NULL), "fi_domain");
	has_monitor();
}

unsigned int fabric_version(void)
{
	return FI_MAJOR(fi_version()) * 1000 + FI_MINOR(fi_version());
}
