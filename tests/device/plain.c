/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A program that knows nothing of mirrord: it changes its memory as it is told to
 *
 * Says where the memory is; "dontneed" and "unmap" are answered by "done".
 */
#define _GNU_SOURCE 1
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define SIZE	(4 * 4096UL)

int main(void)
{
	char line[32], *p;

	p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 1;
	memset(p, 1, SIZE);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("%p %p\n", (void *)p, (void *)(p + SIZE));
	while (fgets(line, sizeof(line), stdin)) {
		if (!strcmp(line, "dontneed\n"))
			madvise(p, SIZE, MADV_DONTNEED);
		else
			munmap(p, SIZE);
		puts("done");
	}
	return 0;
}
