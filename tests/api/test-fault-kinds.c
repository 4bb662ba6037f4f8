/* SPDX-License-Identifier: GPL-2.0-or-later */
/* mirror_fault() on memory that is not like other memory. */
#include <fcntl.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include "world.h"

#define READ MIRROR_FAULT_READ
#define WRITE MIRROR_FAULT_WRITE
#define WRITABLE (MIRROR_ENTRY_VALID | MIRROR_PTE_PRESENT | MIRROR_PTE_READ | MIRROR_PTE_WRITE)

#ifndef MADV_GUARD_INSTALL	/* 6.13 */
#define MADV_GUARD_INSTALL 102
#endif

static struct mirror_ctx *ctx;
static struct mirror_target *target;
static struct mirror_notifier *notifier;
static struct log seen;

static void begin_with(uint32_t flags)
{
	ctx = open_ctx();
	target = attach_self(ctx, flags);
}

static void finish(void)
{
	mirror_notifier_remove(notifier);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
}

/* What nobody can watch, or fault. */
START_TEST(no_memory)
{
	char *vdso = (char *)getauxval(AT_SYSINFO_EHDR), *p;
	int fd = memfd_create("short", MFD_CLOEXEC);
	struct mirror_fault fault;
	uint64_t entry[3];

	begin_with(0);
	ck_assert_ptr_nonnull(vdso);
	notifier = watch(target, (void *)PAGE, 1UL << 47, &seen);
	fault = fault_of(vdso, PAGE, READ, entry);
	fails(mirror_fault(notifier, &fault), EOPNOTSUPP);
	ck_assert_uint_eq(fault.done, fault.start);
	fault = fault_of(vdso, PAGE, 0, entry);
	ok(mirror_fault(notifier, &fault));
	ck_assert_uint_eq(entry[0], 0);

	ck_assert_int_eq(ftruncate(fd, PAGE), 0);
	p = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (uint32_t flags = READ; flags <= WRITE; flags++) {
		fault = fault_of(p, 3 * PAGE, flags, entry);
		fails(mirror_fault(notifier, &fault), EFAULT);
		ck_assert_uint_eq(fault.done, fault.start + PAGE);
		ck_assert(entry[0] & MIRROR_PTE_PRESENT);
		ck_assert(is_good(notifier, &fault));
	}
	p = map_pages(BLOCK);
	if (madvise(p + PAGE, PAGE, MADV_GUARD_INSTALL) == 0) {
		fault = fault_of(p, 3 * PAGE, READ, entry);
		fails(mirror_fault(notifier, &fault), EFAULT);
		ck_assert_uint_eq(fault.done, fault.start + PAGE);
	} else {
		not_tested("guard pages", strerror(errno));
	}
	close(fd);
	finish();
}
END_TEST

/* A page that is no memory's: since 6.14 that of a performance counter. */
static void *map_device(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = PERF_COUNT_SW_DUMMY,
		.exclude_kernel = 1,
	};
	int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	void *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	char line[256], start[32];
	bool here = false, device = false;
	FILE *f = fopen("/proc/self/smaps", "r");

	snprintf(start, sizeof(start), "%lx-", (unsigned long)(uintptr_t)p);
	while (fgets(line, sizeof(line), f)) {
		here = here || !strncmp(line, start, strlen(start));
		if (here && !strncmp(line, "VmFlags:", 8)) {
			device = strstr(line, " pf");
			break;
		}
	}
	fclose(f);
	return device ? p : NULL;
}

START_TEST(device_memory)
{
	void *p = map_device();
	struct mirror_fault fault;
	uint64_t entry;

	if (!p) {
		not_tested("a device's memory", "there is none to map");
		return;
	}
	begin_with(0);
	notifier = watch(target, p, PAGE, &seen);
	fault = fault_of(p, PAGE, READ, NULL);
	fails(mirror_fault(notifier, &fault), EOPNOTSUPP);
	fault = fault_of(p, PAGE, 0, &entry);
	ok(mirror_fault(notifier, &fault));
	ck_assert_uint_eq(entry, 0);
	finish();
}
END_TEST

START_TEST(foreign_userfaultfd)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	char *mem = map_pages(BLOCK);
	uint64_t entry[BLOCK / PAGE];
	struct mirror_fault fault;
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);

	ck_assert_int_eq(ioctl(fd, UFFDIO_API, &api), 0);
	reg.range.start = (uintptr_t)mem;
	reg.range.len = PAGE;
	ck_assert_int_eq(ioctl(fd, UFFDIO_REGISTER, &reg), 0);
	begin_with(0);
	notifier = watch(target, mem, BLOCK, &seen);
	fault = fault_of(mem, BLOCK, READ, entry);
	fails(mirror_fault(notifier, &fault), EBUSY);
	ck_assert_uint_eq(fault.done, fault.start);
	fault = fault_of(mem, BLOCK, 0, entry);
	ok(mirror_fault(notifier, &fault));
	ck_assert_uint_eq(entry[0], 0);		/* nobody would tell us of its end */
	ck_assert(entry[1] & MIRROR_PTE_PRESENT);
	finish();
}
END_TEST

START_TEST(huge_pages)
{
	char *mem = mmap(NULL, 3 * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);
	uint64_t entry[BLOCK / PAGE];
	struct mirror_fault fault;

	begin_with(0);
	mem += (BLOCK - (uintptr_t)mem % BLOCK) % BLOCK;
	madvise(mem, BLOCK, MADV_HUGEPAGE);
	notifier = watch(target, mem, BLOCK, &seen);
	fault = fault_of(mem, BLOCK, WRITE, entry);
	ok(mirror_fault(notifier, &fault));
	check_entries(getpid(), mem, entry, BLOCK / PAGE);
	if (!(entry[0] & MIRROR_PTE_HUGE))
		not_tested("huge pages", "the kernel has given none");
	for (size_t i = 1; i < BLOCK / PAGE; i++)
		ck_assert_uint_eq(entry[i], entry[0]);
	finish();
}
END_TEST

START_TEST(hugetlb)
{
	uint64_t entry[BLOCK / PAGE];
	struct mirror_fault fault;
	char *mem = hugetlb_page();

	if (!mem) {
		not_tested("hugetlb", "no page in the pool");
		return;
	}
	begin_with(0);
	notifier = watch(target, mem, BLOCK, &seen);
	fault = fault_of(mem, BLOCK, 0, entry);
	ok(mirror_fault(notifier, &fault));
	ck_assert_uint_eq(entry[0], 0);
	fault = fault_of(mem, BLOCK, WRITE, entry);
	ok(mirror_fault(notifier, &fault));
	check_entries(getpid(), mem, entry, BLOCK / PAGE);
	ck_assert_uint_eq(entry[5] & WRITABLE, WRITABLE);
	unmap(mem, BLOCK);
	ck_assert(!is_good(notifier, &fault));
	finish();
}
END_TEST

static void fill(Suite *suite)
{
	TCase *tcase = harness_case(suite, "fault-kinds");

	tcase_add_test(tcase, no_memory);
	tcase_add_test(tcase, device_memory);
	tcase_add_test(tcase, foreign_userfaultfd);
	tcase_add_test(tcase, huge_pages);
	tcase_add_test(tcase, hugetlb);
}

int main(void)
{
	return harness_main("fault-kinds", fill);
}
