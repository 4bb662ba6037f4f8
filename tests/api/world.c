/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/file.h>
#include "world.h"

const char world_byte[W_PAGES] = {
	[W_ANON] = 'a', [W_FORKED] = 'b', [W_SHM] = 'c', [W_FILE] = 'd', [W_FILE_ABSENT] = 'e',
	[W_COPIED] = 'f', [W_RDONLY] = 'g', [W_NONE] = 'h', [W_LAST] = 'i',
};

static void map_at(char *p, int flags, int fd, int page)
{
	void *q = mmap(p, PAGE, PROT_READ | PROT_WRITE, MAP_FIXED | flags, fd, page * (off_t)PAGE);

	ck_assert_ptr_eq(q, p);
}

static void hold(void)
{
	pid_t parent = getpid(), pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (getppid() == parent)
		pause();
	_exit(0);
}

/*
 * The kernel takes the highest gap there is, so with much room above nobody's mapping
 * gets into a hole of ours.
 */
static char *find_room(size_t size)
{
	size_t above = 1UL << 30;
	char *p = mmap(NULL, size + above, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	ck_assert_ptr_ne(p, MAP_FAILED);
	unmap(p + size, above);
	return p;
}

char *world_make(void)
{
	int fd = memfd_create("world", MFD_CLOEXEC);
	char *p = find_room(W_PAGES * PAGE);

	ck_assert_int_eq(ftruncate(fd, W_PAGES * PAGE), 0);
	for (int i = W_FILE; i <= W_COPIED; i++)
		ck_assert_int_eq(pwrite(fd, &world_byte[i], 1, i * (off_t)PAGE), 1);
	for (int i = W_SHM; i <= W_COPIED; i++)
		map_at(p + i * PAGE, i < W_FILE ? MAP_SHARED : MAP_PRIVATE, fd, i);
	close(fd);
	p[W_FORKED * PAGE] = world_byte[W_FORKED];
	hold();
	for (int i = 0; i < W_PAGES; i++) {
		if (i == W_FORKED || i == W_ABSENT || i == W_SHM_ABSENT || i == W_FILE_ABSENT)
			continue;
		if (i == W_ZERO || i == W_FILE)
			(void)*(volatile char *)(p + i * PAGE);
		else
			p[i * PAGE] = world_byte[i];
	}
	mprotect(p + W_RDONLY * PAGE, PAGE, PROT_READ);
	mprotect(p + W_NONE * PAGE, PAGE, PROT_NONE);
	unmap(p + W_HOLE * PAGE, PAGE);
	return p;
}

/* The rights of the mapping at @at as a part of an entry; 0: none. */
static uint64_t rights_at(pid_t pid, uintptr_t at)
{
	unsigned long start, end;
	uint64_t rights = 0;
	char path[64], line[512], r[5];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "r");
	ck_assert_ptr_nonnull(f);
	while (!rights && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx %4s", &start, &end, r) != 3 || at < start || at >= end)
			continue;
		rights = MIRROR_ENTRY_VALID | (r[0] == 'r' ? MIRROR_PTE_READ : 0) |
			 (r[1] == 'w' ? MIRROR_PTE_WRITE : 0) |
			 (r[2] == 'x' ? MIRROR_PTE_EXEC : 0) |
			 (r[3] == 's' ? MIRROR_PTE_SHARED : 0);
	}
	fclose(f);
	return rights;
}

uint64_t proc_entry(pid_t pid, const void *p)
{
	uint64_t word = 0, entry = rights_at(pid, (uintptr_t)p);
	bool present, file, only;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(pread(fd, &word, 8, (off_t)((uintptr_t)p / PAGE * 8)), 8);
	close(fd);
	present = word >> 63;
	file = word >> 61 & 1;
	only = word >> 56 & 1;
	if (!entry || !(present || word >> 62 & 1))
		return 0;
	entry |= (present ? MIRROR_PTE_PRESENT : MIRROR_PTE_SWAPPED) | (file ? MIRROR_PTE_FILE : 0);
	if (!(entry & MIRROR_PTE_SHARED) && !(present && only && !file))
		entry &= ~MIRROR_PTE_WRITE;
	return entry;
}

void check_entries(pid_t pid, const char *p, const uint64_t *entries, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t want = proc_entry(pid, p + i * PAGE);

		ck_assert_msg((entries[i] & PROC_MASK) == want, "page %zu: 0x%llx, not 0x%llx", i,
			      (unsigned long long)entries[i], (unsigned long long)want);
	}
}

bool is_good(struct mirror_notifier *notifier, const struct mirror_fault *fault)
{
	return mirror_read_retry(notifier, fault->start, fault->done, fault->version) == 0;
}

struct mirror_fault fault_of(const void *p, size_t size, uint32_t flags, uint64_t *entries)
{
	struct mirror_fault fault = MIRROR_FAULT_INIT;

	fault.flags = flags;
	fault.start = (uintptr_t)p;
	fault.end = fault.start + size;
	fault.entries = entries;
	fault.done = fault.version = ~0ULL;
	for (size_t i = 0; entries && i < size / PAGE; i++)
		entries[i] = ~0ULL;
	return fault;
}

void not_tested(const char *what, const char *why)
{
	printf("# SKIP %s: %s\n", what, why);
	fflush(stdout);
}

/* By how many the pool grew.  Others do the same: each takes back what it added. */
static long pool_add(long by)
{
	char text[32] = "";
	long before = 0, after = 0;
	int fd = open("/proc/sys/vm/nr_hugepages", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return 0;
	flock(fd, LOCK_EX);	/* until it is closed */
	if (pread(fd, text, sizeof(text) - 1, 0) > 0) {
		before = after = strtol(text, NULL, 10);
		snprintf(text, sizeof(text), "%ld\n", before + by);
		if (pwrite(fd, text, strlen(text), 0) > 0 &&
		    pread(fd, text, sizeof(text) - 1, 0) > 0)
			after = strtol(text, NULL, 10);
	}
	close(fd);
	return after - before;
}

char *hugetlb_page(void)
{
	long added = pool_add(1);
	char *p;

	p = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << 26 /* MAP_HUGE_SHIFT */, -1, 0);
	pool_add(-added);	/* the page goes when the mapping does */
	return p == MAP_FAILED ? NULL : p;
}
