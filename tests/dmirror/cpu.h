/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/* For env.c only. */

#include "env.h"

/* @begin runs in the target if that is another process. */
struct cpu *cpu_new(bool remote, void (*begin)(void));
int cpu_pidfd(const struct cpu *cpu);
pid_t cpu_pid(const struct env *e);
