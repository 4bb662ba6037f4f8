/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * libfabric's own registration cache, with its own userfaultfd monitor
 *
 *	reader=N	bind the monitor's thread to the N-th processor
 *
 * Through the public API: registering memory fills the cache and subscribes it with
 * the monitor, closing the registration leaves it cached.  What the monitor was told
 * of shows when the same range is registered again: only what it dropped from the
 * cache reaches the device, see stub-verbs.c.
 */

#include <rdma/fabric.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_errno.h>
#include <unistd.h>
#include "stub-verbs.h"
#include "watch.h"

#define ACCESS (FI_SEND | FI_RECV)

static struct fid_fabric *fabric;
static struct fid_domain *domain;
static uint64_t n_armed;
static void *other;	/* always cached */

static void must_fi(long r, const char *what)
{
	if (r < 0)
		fail("%s: %s", what, fi_strerror((int)-r));
}

/* Registers and closes at once: true if it was not in the cache. */
static bool use(void *start, size_t bytes)
{
	uint64_t before = stub_registered();
	struct fid_mr *mr;

	must_fi(fi_mr_reg(domain, start, bytes, ACCESS, 0, 0, 0, &mr, NULL), "fi_mr_reg");
	must_fi(fi_close(&mr->fid), "fi_close");
	return stub_registered() != before;
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

static void fabric_start(char **argv)
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
	pin(cpu_at((int)option_number(argv, "reader", -1)));
	must_fi(fi_domain(fabric, info, &domain, NULL), "fi_domain");
	has_monitor();
	other = map_pages(PAGE);
	touch(other, PAGE);
	use(other, PAGE);
	if (use(other, PAGE))
		skip("libfabric does not cache registrations");
}

static void fabric_watch(void *start, size_t bytes)
{
	(void)start;
	(void)bytes;
}

static void fabric_arm(void *start, size_t bytes)
{
	n_armed++;
	if (!use(start, bytes))
		fail("a registration stayed in the cache, but its memory was changed");
}

/*
 * The monitor lets the acting thread go under the lock that every look-up takes: when
 * ours returns, it is done with all that happened before.
 */
static uint64_t fabric_heard(void)
{
	if (use(other, PAGE))
		fail("a registration of untouched memory was dropped");
	return n_armed;
}

static void fabric_do(void)
{
}

static void fabric_stop(uint64_t n_changes)
{
	/* what is cached besides is the page that never changes */
	if (stub_registered() != n_changes + 1)
		fail("%llu changes, but %llu registrations", (unsigned long long)n_changes,
		     (unsigned long long)stub_registered());
	printf(" registered=%llu deregistered=%llu version=%u",
	       (unsigned long long)stub_registered(), (unsigned long long)stub_deregistered(),
	       FI_MAJOR(fi_version()) * 1000 + FI_MINOR(fi_version()));
}

const struct watch watch_fabric = {
	.name = "fabric",
	.start = fabric_start,
	.watch = fabric_watch,
	.arm = fabric_arm,
	.arm_again = true,
	.heard = fabric_heard,
	.begin = fabric_do,
	.end = fabric_do,
	.stop = fabric_stop,
};
