/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The CPU: what happens in the target
 *
 * A target that is another process is a fork of this one, so a function has the same
 * address in both.  It waits on a pipe, runs what it is told, and answers.  The child
 * that a target forks does the same by pipes of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cpu.h"

#define PATIENCE_MS	20000

struct call {
	cpu_fn fn;
	uint64_t args[CPU_ARGS];
	long result;
};

struct line {
	int to[2], from[2];
	struct call *call;	/* shared memory */
};

struct cpu {
	pid_t pid;		/* 0: this process */
	int pidfd;
	struct line line;
	struct line child_line;
};

static void line_open(struct line *line, struct call *call)
{
	check_ok(pipe2(line->to, O_CLOEXEC));
	check_ok(pipe2(line->from, O_CLOEXEC));
	line->call = call;
}

static void line_serve(const struct line *line)
{
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(line->to[1]);
	close(line->from[0]);
	while (read(line->to[0], &byte, 1) == 1) {
		line->call->result = line->call->fn(line->call->args);
		if (write(line->from[1], &byte, 1) != 1)
			break;
	}
	_exit(0);
}

static long line_call(const struct line *line, const struct call *call)
{
	char byte = 0;

	*line->call = *call;
	check_is(write(line->to[1], &byte, 1), 1, "telling the target");
	check_is(read(line->from[0], &byte, 1), 1, "hearing from the target");
	return line->call->result;
}

/* Of the one target that a process has. */
static struct line *forked_line;

/* ---- targets ---- */

struct cpu *cpu_new(bool remote, void (*begin)(void))
{
	struct call *calls = mmap(NULL, 2 * sizeof(*calls), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct cpu *cpu = calloc(1, sizeof(*cpu));
	char byte = 0;

	check(cpu && calls != MAP_FAILED, "out of memory");
	line_open(&cpu->line, &calls[0]);
	line_open(&cpu->child_line, &calls[1]);
	forked_line = &cpu->child_line;
	if (!remote)
		return cpu;
	cpu->pid = fork();
	check_ok(cpu->pid);
	if (cpu->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		begin();
		if (write(cpu->line.from[1], &byte, 1) == 1)
			line_serve(&cpu->line);
		_exit(0);
	}
	close(cpu->line.from[1]);
	cpu->pidfd = (int)syscall(SYS_pidfd_open, cpu->pid, 0);
	check_ok(cpu->pidfd);
	check_is(read(cpu->line.from[0], &byte, 1), 1, "the target begins");
	return cpu;
}

int cpu_pidfd(const struct cpu *cpu)
{
	return cpu->pidfd;
}

pid_t cpu_pid(const struct env *e)
{
	return e->cpu->pid ? e->cpu->pid : getpid();
}

long cpu_run(struct env *e, cpu_fn fn, const uint64_t *args)
{
	struct call call = { .fn = fn };

	memcpy(call.args, args, sizeof(call.args));
	return e->cpu->pid ? line_call(&e->cpu->line, &call) : fn(call.args);
}

long cpu_syscall(const uint64_t *args)
{
	long r = syscall((long)args[0], args[1], args[2], args[3], args[4], args[5], args[6]);

	return r == -1 ? -errno : r;
}

static long do_fill(const uint64_t *args)
{
	pattern_fill((void *)(uintptr_t)args[0], args[1], (unsigned int)args[2], args[3]);
	return 0;
}

void cpu_fill(struct env *e, uint64_t at, uint64_t size, unsigned int generation, uint64_t from)
{
	cpu_run(e, do_fill, cpu_args(at, size, generation, from));
}

static long do_has(const uint64_t *args)
{
	return pattern_is((void *)(uintptr_t)args[0], args[1], (unsigned int)args[2], args[3]);
}

bool cpu_has(struct env *e, uint64_t at, uint64_t size, unsigned int generation, uint64_t from)
{
	return cpu_run(e, do_has, cpu_args(at, size, generation, from));
}

/* A pipe that has a page has a reference to it. */
static long do_hold(const uint64_t *args)
{
	struct iovec iov = { .iov_len = PAGE };
	int fds[2];

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	for (uint64_t at = args[0]; at < args[1]; at += args[2]) {
		iov.iov_base = (void *)(uintptr_t)at;
		if (vmsplice(fds[1], &iov, 1, 0) < 0)
			return -errno;
	}
	return 0;
}

void cpu_hold(struct env *e, uint64_t at, uint64_t size)
{
	check_ok(cpu_run(e, do_hold, cpu_args(at, at + size, e->unit)));
}

static void wait_gone(const struct cpu *cpu)
{
	struct pollfd pollfd = { .fd = cpu->pidfd, .events = POLLIN };

	check_is(poll(&pollfd, 1, PATIENCE_MS), 1, "the target's end");
}

void cpu_exit(struct env *e)
{
	struct call call = { .fn = cpu_syscall, .args = { SYS_exit_group } };
	char byte = 0;

	*e->cpu->line.call = call;
	check_is(write(e->cpu->line.to[1], &byte, 1), 1, "telling the target");
	wait_gone(e->cpu);
	check_is(waitpid(e->cpu->pid, NULL, 0), e->cpu->pid, "the target's status");
}

static long do_exec(const uint64_t *args)
{
	(void)args;
	execl("/bin/sleep", "sleep", "60", NULL);
	_exit(127);
}

void cpu_exec(struct env *e)
{
	struct call call = { .fn = do_exec };
	char byte = 0;

	*e->cpu->line.call = call;
	check_is(write(e->cpu->line.to[1], &byte, 1), 1, "telling the target");
	/* the pipe's end is closed by exec */
	check_is(read(e->cpu->line.from[0], &byte, 1), 0, "the target's exec");
}

/* ---- children of the target ---- */

static long do_fork(const uint64_t *args)
{
	pid_t pid = fork();

	(void)args;
	if (pid == 0)
		line_serve(forked_line);
	return pid < 0 ? -errno : pid;
}

void cpu_fork(struct env *e)
{
	check_ok(cpu_run(e, do_fork, cpu_args(0)));
}

void cpu_child_fill(struct env *e, uint64_t at, uint64_t size, unsigned int generation)
{
	struct call call = { .fn = do_fill, .args = { at, size, generation } };

	line_call(&e->cpu->child_line, &call);
}

bool cpu_child_has(struct env *e, uint64_t at, uint64_t size, unsigned int generation,
		   uint64_t from)
{
	struct call call = { .fn = do_has, .args = { at, size, generation, from } };

	return line_call(&e->cpu->child_line, &call);
}

static long do_wait(const uint64_t *args)
{
	(void)args;
	return wait(NULL) < 0 ? -errno : 0;
}

void cpu_child_exit(struct env *e)
{
	char byte = 0;

	e->cpu->child_line.call->fn = cpu_syscall;
	e->cpu->child_line.call->args[0] = SYS_exit_group;
	check_is(write(e->cpu->child_line.to[1], &byte, 1), 1, "telling the child");
	check_ok(cpu_run(e, do_wait, cpu_args(0)));
}

/* ---- patterns ---- */

static uint64_t pattern(unsigned int generation, uint64_t from)
{
	uint64_t x = (from / 8 + 1) * 0x9e3779b97f4a7c15ULL + generation;

	return generation ? (x ^ x >> 29) * 0xbf58476d1ce4e5b9ULL : 0;
}

void pattern_fill(void *p, uint64_t size, unsigned int generation, uint64_t from)
{
	uint64_t *words = p;

	for (uint64_t i = 0; i < size / 8; i++)
		words[i] = pattern(generation, from + i * 8);
}

bool pattern_is(const void *p, uint64_t size, unsigned int generation, uint64_t from)
{
	const uint64_t *words = p;

	for (uint64_t i = 0; i < size / 8; i++)
		if (words[i] != pattern(generation, from + i * 8))
			return false;
	return true;
}
