/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <sched.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>
#include "bench.h"

void samples_add(struct samples *s, uint64_t value)
{
	if (s->n == SAMPLES_MAX)
		fail("too many samples of %s", s->name);
	s->value[s->n++] = value;
}

void samples_say(struct samples *s)
{
	fputs(s->name, stdout);
	for (unsigned int i = 0; i < s->n; i++)
		printf(" %llu", (unsigned long long)s->value[i]);
	putchar('\n');
	s->n = 0;
}

__attribute__((noreturn, format(printf, 2, 0)))
static void say_and_end(const char *word, const char *format, va_list ap, int status)
{
	printf("%s ", word);
	vprintf(format, ap);
	putchar('\n');
	fflush(stdout);
	/* not exit(): threads of ours may be anywhere, and a target needs no farewell */
	_exit(status);
}

void fail(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	say_and_end("fail", format, ap, 1);
}

void skip(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	say_and_end("skip", format, ap, 0);
}

void must(int r, const char *what)
{
	if (r < 0)
		fail("%s: %s", what, strerror(-r));
}

void must_be_there(int r, const char *what)
{
	if (r == -ENOSYS)
		skip("%s: %s", what, strerror(-r));
	must(r, what);
}

void not_measured(const char *figure, int r)
{
	printf("not %s %s\n", figure, strerror(-r));
}

static void take_turn(const struct turn *turns, size_t n_turns, char *line)
{
	unsigned long count;
	char *end, *space = strchr(line, ' ');

	if (!space)
		fail("not a request: %s", line);
	*space = 0;
	count = strtoul(space + 1, &end, 10);
	if (*end != '\n' || count > SAMPLES_MAX)
		fail("not a count: %s", space + 1);
	for (size_t i = 0; i < n_turns; i++) {
		if (strcmp(turns[i].name, line))
			continue;
		turns[i].run((unsigned int)count);
		puts(".");
		fflush(stdout);
		return;
	}
	fail("cannot do %s", line);
}

void take_turns(const struct turn *turns, size_t n_turns)
{
	char line[128];

	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		take_turn(turns, n_turns, line);
}

int cpu_at(int index)
{
	static cpu_set_t allowed;	/* before anybody was bound */

	if (!CPU_COUNT(&allowed) && sched_getaffinity(0, sizeof(allowed), &allowed) < 0)
		fail("sched_getaffinity: %s", strerror(errno));
	if (index < 0)
		return -1;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && index-- == 0)
			return cpu;
	skip("needs more processors than there are");
}

void pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		fail("cannot bind a thread to processor %d: %s", cpu, strerror(errno));
}

const char *option_text(char **argv, const char *key, const char *otherwise)
{
	size_t n = strlen(key);

	for (; *argv; argv++)
		if (!strncmp(*argv, key, n) && (*argv)[n] == '=')
			return *argv + n + 1;
	return otherwise;
}

long option_number(char **argv, const char *key, long otherwise)
{
	const char *text = option_text(argv, key, NULL);

	return text ? strtol(text, NULL, 10) : otherwise;
}

void *map_pages(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		fail("mmap: %s", strerror(errno));
	return p;
}

void touch(void *start, size_t bytes)
{
	for (size_t i = 0; i < bytes; i += PAGE)
		((volatile char *)start)[i] = 1;
}
