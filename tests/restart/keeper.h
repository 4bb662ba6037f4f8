/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma once

/*
 * Keeper: as much of a service manager as mirrord sees of one
 *
 * It listens for mirrord, starts it, keeps the descriptors that mirrord asks it to keep,
 * and starts it again when it dies.  It does as systemd does: sockets come first and what
 * is stored after them, the newest first; a descriptor of a file that is stored already is
 * dropped, whatever its name; one that polls POLLHUP or POLLERR is dropped, unless it came
 * with FDPOLL=0; all that a mirrord sent before it died is taken before the next is started.
 *
 * It is told what to do by lines, and answers each by one, "ok ..." or "error ...":
 *
 *	kill N		send a signal; what dies of it is started again
 *	restart		SIGTERM, and wait until the next one is ready
 *	stop		SIGTERM, wait for the end, and drop the store
 *	start		after stop
 *	hold		from now on what dies is not started again before ...
 *	go		... this
 *	wait		until mirrord is ready, or dead and held
 *	drop [NAME]	drop all of the store, or what has this name
 *	lose N		the N-th FDSTORE message from now on is lost
 *	slow MS		take no messages for a while
 *	poke NAME OFFSET VALUE
 *			write 32 bits into a file of the store
 *	fill NAME	write noise all over its first MiB
 *	report		struct keeper_report as numbers, in its order
 *	names		what is in the store
 */

#include <stdbool.h>
#include <stdint.h>

struct keeper_options {
	const char *daemon;		/* program */
	const char *const *args;	/* its arguments, or NULL */
	const char *socket;		/* it is to be reached there */
	const char *notify;		/* the keeper is to be told there */
	unsigned int store_max;		/* descriptors; 0: nothing is kept */
	unsigned int watchdog_ms;	/* 0: none */
};

struct keeper_report {
	long pid;		/* 0: none runs */
	long starts;
	long ready;		/* is it? */
	long stored;		/* descriptors in the store */
	long status;		/* wait status of the one before */
	long late;		/* those that did not end by SIGTERM */
	long pings;		/* WATCHDOG=1 of this one */
	long dropped;		/* by POLLHUP or POLLERR, ever */
	long twice;		/* stored again, ever */
	long refused;		/* more than store_max, ever */
	long away_us;		/* between the last death and the next one's READY=1 */
	long away_max_us;
};

#define KEEPER_REPORT_N (sizeof(struct keeper_report) / sizeof(long))

/*
 * Starts mirrord and takes commands from @in until that ends; then everything ends.
 * The exit status of a program that does nothing else.
 */
int keeper_run(const struct keeper_options *options, int in, int out);
