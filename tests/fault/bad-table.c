/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Mirror tables and clients without manners
 *
 * Whoever gets a table can read it and nothing else; what he asks for is bounded, by
 * request and by user; and what he writes where he may write changes no table.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <mirror/table.h>
#include <mirror/uapi/ring.h>
#include "raw.h"

#define SOME		0x10000000UL
#define USER_MAX	(1UL << 47)
#define OTHER		65534
#define AREA		(64UL << 20)
#define FEW_NODES	"40"

static struct daemon d;
static int sock;
static uint32_t target;

static int get_table(uint32_t id, int *ret_fd)
{
	struct mirror_table_get get = { .size = sizeof(get), .target = id };
	struct reply reply;
	int r;

	r = raw_call(sock, MIRROR_OP_TABLE, &get, sizeof(get), NULL, 0, &reply);
	if (r == 0 && reply.n_fds != 1)
		return -EPROTO;
	if (r == 0)
		*ret_fd = reply.fds[0];
	return r;
}

static const struct mirror_table *map_table(int fd)
{
	struct stat st;
	void *p;

	if (fstat(fd, &st) < 0)
		bail("fstat");
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (p == MAP_FAILED)
		bail("the table cannot be mapped: %s", strerror(errno));
	return p;
}

/* One request. */
static int fill_once(uint64_t start, uint64_t end, struct mirror_fill *ret_fill)
{
	*ret_fill = (struct mirror_fill) {
		.size = sizeof(*ret_fill), .target = target, .start = start, .end = end,
	};
	return raw_call(sock, MIRROR_OP_FILL, ret_fill, sizeof(*ret_fill), NULL, 0, NULL);
}

/* Slices up to the end; how many pages, or -errno. */
static long fill(uint64_t start, uint64_t end, long *ret_slices)
{
	struct mirror_fill f;
	long pages = 0, slices = 0, tries = 0;
	int r;

	while (start < end && slices < 1000000) {
		r = fill_once(start, end, &f);
		if (r == -EAGAIN && ++tries < 20000) {
			nap_ms(1);
			continue;
		}
		if (r < 0)
			return r;
		if (f.next <= start || f.next > end)
			return -EPROTO;
		start = f.next;
		pages += (long)f.pages;
		slices++;
	}
	if (ret_slices)
		*ret_slices = slices;
	return start < end ? -E2BIG : pages;
}

static uint64_t walk(const struct mirror_table *table, const char *p)
{
	unsigned int shift;

	return mirror_table_walk(table, (uintptr_t)p, &shift);
}

/* ---- requests ---- */

static void requests(void)
{
	static const struct {
		uint64_t start, end;
		const char *name;
	} bad[] = {
		{ SOME, SOME, "empty" },
		{ 0, 0, "zero" },
		{ SOME + PAGE, SOME, "backwards" },
		{ SOME + 1, SOME + PAGE, "start not aligned" },
		{ SOME, SOME + PAGE + 8, "end not aligned" },
		{ SOME, UINT64_MAX & ~(PAGE - 1), "beyond user space" },
		{ UINT64_MAX & ~(PAGE - 1), PAGE, "wraps" },
	};
	struct mirror_table_get get = { .size = sizeof(get), .target = target };
	struct mirror_consumer_info info = { .size = sizeof(info), .target = target };
	struct mirror_fill f;
	int other, fd = -1, mine = sock;

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		same(fill_once(bad[i].start, bad[i].end, &f), -EINVAL, "FILL: %s", bad[i].name);
	get.numa_node = 1025;
	same(raw_call(sock, MIRROR_OP_TABLE, &get, sizeof(get), NULL, 0, NULL), -EINVAL,
	     "TABLE: a node that cannot be");
	get.numa_node = 1024;
	same(raw_call(sock, MIRROR_OP_TABLE, &get, sizeof(get), NULL, 0, NULL), 0,
	     "TABLE: a node that there is not is no error");
	same(get_table(target + 1, &fd), -ESRCH, "TABLE: no such target");
	same(get_table(0, &fd), -ESRCH, "TABLE: target 0");
	same(get_table(UINT32_MAX, &fd), -ESRCH, "TABLE: the last target");
	/* who may see it, but is not attached */
	other = raw_connect(d.socket);
	sock = other;
	same(get_table(target, &fd), -ESRCH, "TABLE: not attached");
	same(fill_once(SOME, SOME + PAGE, &f), -ESRCH, "FILL: not attached");
	same(raw_call(sock, MIRROR_OP_CONSUMER_INFO, &info, sizeof(info), NULL, 0, NULL), -ESRCH,
	     "CONSUMER_INFO: nobody watches");
	sock = mine;
	close(other);
	info.index = UINT32_MAX;
	same(raw_call(sock, MIRROR_OP_CONSUMER_INFO, &info, sizeof(info), NULL, 0, NULL), -ESRCH,
	     "CONSUMER_INFO: the last index");
}

static int as_other(uint32_t id)
{
	struct mirror_table_get get = { .size = sizeof(get), .target = id };
	struct mirror_consumer_info info = { .size = sizeof(info), .target = id };
	int s;

	if (setgroups(0, NULL) < 0 || setgid(OTHER) < 0 || setuid(OTHER) < 0)
		return 1;
	if (raw_try_connect(d.socket, &s) < 0)
		return 2;
	if (raw_call(s, MIRROR_OP_TABLE, &get, sizeof(get), NULL, 0, NULL) != -ESRCH)
		return 3;
	return raw_call(s, MIRROR_OP_CONSUMER_INFO, &info, sizeof(info), NULL, 0, NULL) != -ESRCH;
}

static void strangers(void)
{
	pid_t pid;

	if (getuid()) {
		skip("only root can become another user", "another user's table");
		return;
	}
	pid = child_fork();
	if (!pid)
		_exit(as_other(target));
	same(child_wait(pid, 20000), 0, "another user gets no table, and sees no consumer");
}

static void everything(void)
{
	long slices = 0, pages;

	pages = fill(0, USER_MAX, &slices);
	note("%ld pages in %ld slices", pages, slices);
	ok(pages > 10, "a fill of everything");
	ok(slices > 0 && slices < 1000, "in not too many slices");
	ok(fill(0, 1UL << 56, NULL) > 10, "even of what no table covers");
	same(fill(1UL << 55, 1UL << 56, NULL), 0, "and there is nothing");
}

/* ---- the memory ---- */

static uint64_t sum(const struct mirror_table *table)
{
	const uint64_t *words = (const uint64_t *)(const void *)table;
	uint64_t n = (table->nodes_off + 64 * 4096) / 8, s = 0;

	for (uint64_t i = 0; i < n; i++)
		s = s * 31 + words[i];
	return s;
}

static void fails(long r, const char *what)
{
	ok(r < 0, "%s is refused (%s)", what, r < 0 ? strerror(errno) : "no");
}

static void reopened(int fd, size_t size)
{
	char path[64];
	void *p;
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDWR | O_CLOEXEC);
	if (again < 0) {
		ok(true, "opening it anew is refused");
		return;
	}
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
	ok(p == MAP_FAILED, "opened anew it cannot be mapped for writing");
	p = mmap(NULL, size, PROT_READ, MAP_SHARED, again, 0);
	fails(mprotect(p, PAGE, PROT_READ | PROT_WRITE), "nor made writable: mprotect");
	fails(pwrite(again, "x", 1, 64), "opened anew: write");
	fails(ftruncate(again, 0), "opened anew: ftruncate");
	fails(fallocate(again, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096),
	      "opened anew: a hole");
	munmap(p, size);
	close(again);
	same(open(path, O_RDWR | O_TRUNC | O_CLOEXEC) < 0 ? 0 : 1, 0, "opening it with O_TRUNC");
}

static void sealed(void)
{
	char *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const struct mirror_table *table;
	int fd = -1, mem, pair[2];
	uint64_t before;
	struct stat st;
	size_t size;
	void *map;

	memset(p, 1, 4 * PAGE);
	if (get_table(target, &fd) < 0 || fstat(fd, &st) < 0)
		bail("no table");
	size = (size_t)st.st_size;
	table = map_table(fd);
	same(fill((uintptr_t)p, (uintptr_t)p + 4 * PAGE, NULL), 4, "four pages");
	before = sum(table);

	ok(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED,
	   "a writable mapping is refused");
	fails(mprotect((void *)(uintptr_t)table, PAGE, PROT_READ | PROT_WRITE), "mprotect");
	fails(madvise((void *)(uintptr_t)table, 8 * PAGE, MADV_REMOVE), "MADV_REMOVE");
	fails(ftruncate(fd, 0), "making it smaller");
	fails(ftruncate(fd, (off_t)size + 4096), "making it larger");
	fails(pwrite(fd, "xxxxxxxx", 8, 8), "write");
	fails(fallocate(fd, 0, (off_t)size, 4096), "fallocate behind its end");
	fails(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 65536), "a hole");
	fails(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 65536), "zeros");
	fails(fcntl(fd, F_ADD_SEALS, 0x0008), "another seal");
	mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	fails(pwrite(mem, "xxxxxxxx", 8, (off_t)(uintptr_t)table), "a debugger's write");
	close(mem);
	if (pipe(pair) == 0 && write(pair[1], "xxxxxxxx", 8) == 8) {
		loff_t off = 0;

		fails(splice(pair[0], NULL, fd, &off, 8, 0), "splice");
	}
	close(pair[0]);
	close(pair[1]);
	reopened(fd, size);
	/* a private copy may be written: it is a copy */
	map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	ok(map != MAP_FAILED, "a private mapping");
	memset(map, 0xff, PAGE);
	same((long long)(sum(table) - before), 0, "none of it changed the table");
	same(table->magic, MIRROR_TABLE_MAGIC, "its head");
	ok(walk(table, p) & MIRROR_PTE_PRESENT, "it is there");
	munmap(p, PAGE);
	same(fill((uintptr_t)p, (uintptr_t)p + 4 * PAGE, NULL), 3, "and goes on");
	same((long long)walk(table, p), 0, "with its work");
	munmap(map, PAGE);
	munmap((void *)(uintptr_t)table, size);
	munmap(p + PAGE, 3 * PAGE);
	close(fd);
}

/* ---- the consumer's own memory ---- */

static atomic_bool stop;

static void *scribble(void *data)
{
	uint64_t *words = data, x = 88172645463325252ULL;

	while (!atomic_load(&stop)) {
		for (unsigned int i = 0; i < sizeof(struct mirror_ring_cons) / 8; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			__atomic_store_n(&words[i], x, __ATOMIC_RELAXED);
		}
	}
	return NULL;
}

/* Pages of which the table says something else than the kernel: 0. */
static unsigned int differences(const struct mirror_table *table, const char *p, unsigned int n)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	unsigned int wrong = 0;
	uint64_t word;

	for (unsigned int i = 0; i < n; i++) {
		off_t at = (off_t)(((uintptr_t)p / PAGE + i) * 8);

		if (pread(fd, &word, 8, at) != 8)
			bail("pagemap");
		wrong += !!(walk(table, p + i * PAGE) & MIRROR_PTE_PRESENT) != word >> 63;
	}
	close(fd);
	return wrong;
}

static void scribbled(void)
{
	char *p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct mirror_consumer_info info = { .size = sizeof(info), .target = target };
	const struct mirror_table *table;
	struct mirror_ring_cons *cons;
	unsigned int wrong = 0, bad = 0;
	pthread_t thread;
	struct reply ring;
	uint64_t claimed;
	int fd = -1;

	if (raw_channel(sock, 16, &ring) < 0 || get_table(target, &fd) < 0)
		bail("no ring, or no table");
	table = map_table(fd);
	cons = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fds[1], 0);
	if (cons == MAP_FAILED ||
	    raw_insert(sock, target, (uintptr_t)p, (uintptr_t)p + 64 * PAGE, NULL) < 0)
		bail("no notifier");
	claimed = 1ULL << 60;
	__atomic_store_n(&cons->device_bytes, claimed, __ATOMIC_RELAXED);
	same(raw_call(sock, MIRROR_OP_CONSUMER_INFO, &info, sizeof(info), NULL, 0, NULL), 0,
	     "what it says of its device");
	same((long long)info.device_bytes, (long long)claimed, "is repeated");
	same((long long)info.notifiers, 1, "its notifiers are counted");
	if (pthread_create(&thread, NULL, scribble, cons))
		bail("thread");
	for (unsigned long turn = 0; turn < (test_size(500, 4000, 20000)); turn++) {
		unsigned int at = (unsigned int)rnd(60), n = 1 + (unsigned int)rnd(4);

		if (turn % 3 == 0)
			madvise(p + at * PAGE, n * PAGE, MADV_DONTNEED);
		else if (turn % 3 == 1)
			mmap(p + at * PAGE, n * PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		p[rnd(64) * PAGE] = 1;
		bad += fill((uintptr_t)p, (uintptr_t)p + 64 * PAGE, NULL) < 0;
		wrong += differences(table, p, 64);
		if (turn % 64 == 0)
			bad += raw_call(sock, MIRROR_OP_CONSUMER_INFO, &info, sizeof(info), NULL, 0,
					NULL) < 0;
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	same(wrong, 0, "random bytes in the consumer's memory: the table is what the kernel says");
	same(bad, 0, "and all requests are served");
	same(table->state, MIRROR_TABLE_LIVE, "the table is kept");
	munmap(cons, PAGE);
	munmap(p, 64 * PAGE);
	reply_close(&ring);
	close(fd);
}

/* ---- limits ---- */

static unsigned int n_known(const struct mirror_table *table, const char *p, bool every)
{
	unsigned int n = 0;

	for (size_t i = 0; i < AREA; i += PAGE) {
		uint64_t entry = walk(table, p + i);

		/* only every other one is there */
		if (!every && i / PAGE % 2 && entry)
			return UINT32_MAX;
		n += !!entry;
	}
	return n;
}

/* Another user's target, with a table of its own. */
static int fill_as_other(void)
{
	char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int id;

	if (setgroups(0, NULL) < 0 || setgid(OTHER) < 0 || setuid(OTHER) < 0)
		return 1;
	*p = 1;
	if (raw_try_connect(d.socket, &sock) < 0)
		return 2;
	id = raw_attach_self(sock, NULL);
	if (id <= 0)
		return 3;
	target = (uint32_t)id;
	return fill((uintptr_t)p, (uintptr_t)p + PAGE, NULL) == 1 ? 0 : 4;
}

static int second_target(void)
{
	struct mirror_table_get get = { .size = sizeof(get) };
	int s, id;

	if (raw_try_connect(d.socket, &s) < 0)
		return 1;
	id = raw_attach_self(s, NULL);
	if (id <= 0)
		return 2;
	get.target = (uint32_t)id;
	return raw_call(s, MIRROR_OP_TABLE, &get, sizeof(get), NULL, 0, NULL) == -EDQUOT ? 0 : 3;
}

static void limits(void)
{
	char *p = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct mirror_target_info info = { .size = sizeof(info), .target = target };
	const struct mirror_table *table;
	uint64_t a = (uintptr_t)p;
	unsigned int known, again;
	int fd = -1;
	pid_t pid;

	madvise(p, AREA, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < AREA; i += 2 * PAGE)
		p[i] = 1;
	if (get_table(target, &fd) < 0)
		bail("no table");
	table = map_table(fd);
	same(fill(a, a + AREA, NULL), -EDQUOT, "more nodes than " FEW_NODES);
	known = n_known(table, p, false);
	note("%u pages known, %llu nodes in use", known, (unsigned long long)table->live);
	ok(known > 1000 && known < AREA / PAGE / 2, "what there was room for is known");
	ok(table->live <= strtoul(FEW_NODES, NULL, 10), "the limit holds");
	same(fill(a + AREA - 2 * PAGE, a + AREA, NULL), -EDQUOT, "it is full still");
	same(raw_call(sock, MIRROR_OP_TARGET_INFO, &info, sizeof(info), NULL, 0, NULL), 0, "asked");
	ok(info.table_bytes > 40 * 4096 / 2 && info.table_bytes < 64 * 4096, "its memory is told");

	pid = child_fork();
	if (!pid)
		_exit(second_target());
	same(child_wait(pid, 20000), 0, "one table too many");
	if (getuid()) {
		skip("only root can become another user", "another user's limits");
	} else {
		pid = child_fork();
		if (!pid)
			_exit(fill_as_other());
		same(child_wait(pid, 20000), 0, "another user has limits of his own");
	}
	check_service(&d, "a full table", 0);

	munmap(p, AREA / 2);
	again = n_known(table, p, false);
	ok(again < known, "what goes, goes");
	ok(fill(a + AREA / 2, a + AREA / 2 + (16UL << 20), NULL) > 0, "there is room again");
	munmap(p + AREA / 2, AREA / 2);
	same(fill(a, a + AREA, NULL), 0, "nothing is left");
	same(n_known(table, p, true), 0, "in the table either");
	close(fd);
}

static void begin_with(const char *const *args)
{
	int r;

	daemon_start(&d, args);
	sock = raw_connect(d.socket);
	r = raw_attach_self(sock, NULL);
	if (r <= 0)
		bail("cannot attach: %s", strerror(-r));
	target = (uint32_t)r;
}

static void end(void)
{
	struct mirror_detach detach = { .size = sizeof(detach), .target = target };

	same(raw_call(sock, MIRROR_OP_DETACH, &detach, sizeof(detach), NULL, 0, NULL), 0, "detach");
	close(sock);
	same(daemon_stop(&d), 0, "the daemon ends well");
}

int main(int argc, char **argv)
{
	static const char *const few[] = {
		"--max-tables", "1", "--max-table-nodes", FEW_NODES, NULL,
	};

	test_begin(argc, argv, 120, 200);
	daemon_init(&d);
	begin_with(NULL);
	requests();
	strangers();
	everything();
	sealed();
	scribbled();
	end();
	begin_with(few);
	limits();
	end();
	return test_end();
}
