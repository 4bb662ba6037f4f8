/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory that has another owner
 *
 * Only one userfaultfd can have a mapping.  A program may have one of its own, for
 * paging or snapshots; whoever wants to watch such memory is told so, and all other
 * memory is watched as usual.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <mirror/mirror.h>

#define PAGE	4096UL
#define PAGES	16

static int n_tests, n_failed;

static void same(long got, long wanted, const char *what)
{
	n_failed += got != wanted;
	printf("%s %d - %s\n", got == wanted ? "ok" : "not ok", ++n_tests, what);
	if (got != wanted)
		printf("# wanted %ld, got %ld\n", wanted, got);
}

static void die(const char *what, int error)
{
	printf("Bail out! %s: %s\n", what, strerror(error));
	exit(2);
}

static char *map(void)
{
	char *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);

	if (p == MAP_FAILED)
		die("mmap", errno);
	memset(p, 1, PAGES * PAGE);
	/* a mapping of its own: none of the neighbours has these rights */
	if (mprotect(p, PAGE, PROT_NONE) < 0 ||
	    mprotect(p + (PAGES - 1) * PAGE, PAGE, PROT_NONE) < 0)
		die("mprotect", errno);
	return p + PAGE;
}

static int own(char *p, size_t size, uint64_t mode)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = mode };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd < 0) {
		printf("1..0 # SKIP userfaultfd is forbidden here: %s\n", strerror(errno));
		exit(0);
	}
	reg.range.start = (uintptr_t)p;
	reg.range.len = size;
	if (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
		die("a userfaultfd of our own", errno);
	return fd;
}

struct seen {
	int n;
	struct mirror_event last;
};

static void on_event(struct mirror_notifier *notifier, const struct mirror_event *event,
		     void *data)
{
	struct seen *seen = data;

	(void)notifier;
	seen->n++;
	seen->last = *event;
}

int main(void)
{
	size_t size = (PAGES - 2) * PAGE;
	char *a = map(), *b = map();
	uint64_t a0 = (uintptr_t)a, b0 = (uintptr_t)b, version;
	struct mirror_notifier_ops ops = { .sz = sizeof(ops), .invalidate = on_event };
	struct seen seen_a = { 0 }, seen_b = { 0 };
	struct mirror_notifier *na, *nb;
	struct mirror_target *target;
	struct mirror_ctx *ctx;
	int fd, r;

	alarm(60);
	fd = own(a, size, UFFDIO_REGISTER_MODE_MISSING);
	r = mirror_open(&ctx, NULL);
	if (r < 0)
		die("mirror_open", -r);
	same(mirror_target_attach_self(&target, ctx, NULL), 0, "attaching with another owner");
	same(mirror_notifier_insert(&na, target, a0, a0 + size, &ops, &seen_a), 0,
	     "a notifier may cover memory of another owner");
	same(mirror_notifier_insert(&nb, target, b0, b0 + size, &ops, &seen_b), 0,
	     "and one for our own");

	same(mirror_target_arm(target, a0, a0 + size), -EBUSY, "arming says EBUSY");
	same(mirror_target_arm(target, a0 + PAGE, a0 + 2 * PAGE), -EBUSY, "so does a part");
	same(mirror_read_begin(na, a0, a0 + size, &version), -EBUSY, "so does a lookup");

	same(mirror_target_arm(target, b0, b0 + size), 0, "other memory is armed");
	same(mirror_read_begin(nb, b0, b0 + size, &version), 0, "and looked up");
	same(mirror_read_retry(nb, b0, b0 + size, version), 0, "and good");
	munmap(b + PAGE, PAGE);
	same(mirror_read_retry(nb, b0, b0 + size, version), 1, "and not good when it changed");
	/* that it changed is known at once; its record may be a moment behind */
	same(mirror_wait(ctx, 30000), 1, "one record");
	same(seen_b.n, 1, "one callback");
	same((long)(seen_b.last.start - b0), PAGE, "of the page that went");
	same(seen_a.n, 0, "none for the other one's");

	/* Its owner gives it up: then it can be watched. */
	close(fd);
	same(mirror_read_begin(na, a0, a0 + size, &version), 0, "given up, it is looked up");
	munmap(a, PAGE);
	same(mirror_read_retry(na, a0, a0 + size, version), 1, "and watched");

	mirror_notifier_remove(na);
	mirror_notifier_remove(nb);
	mirror_target_unref(target);
	mirror_ctx_unref(ctx);
	printf("1..%d\n", n_tests);
	return n_failed ? 1 : 0;
}
