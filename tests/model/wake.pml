/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sleeping and waking: the consumer says that it sleeps by making wait_gen
 * odd, the daemon writes the eventfd only for a consumer that said so, and
 * only once for each generation.
 *
 * What is modelled
 *   The daemon publishes RECORDS records: release store of tail, full fence,
 *   load of wait_gen; if it is odd and not the generation signalled last, it
 *   writes the eventfd.  The consumer takes what there is; if there is nothing
 *   it makes wait_gen odd, fences, loads tail again, and sleeps on the eventfd
 *   if there still is nothing.  Awake, it empties the eventfd and makes
 *   wait_gen even: each sleep is a generation of its own.
 *   The stores of both go through FIFO store buffers, which is what the two
 *   fences are for: without one, a side's load overtakes its store.  Writing
 *   an eventfd takes a lock in the kernel, so what was stored before it is
 *   seen by whoever it wakes.
 *
 * What is left out
 *   The slots and the head (ring.pml), batches, wrapping of the generation,
 *   and the hang-up that wakes a sleeper whose daemon died.
 *
 * Assertions
 *   No invalid end state: a consumer never sleeps while a record waits.
 *   ONCE     the eventfd is written at most once for each generation.
 *
 * Mutants, each of which must fail
 *   NO_CONSUMER_FENCE  no fence between wait_gen and the load of tail
 *   NO_PRODUCER_FENCE  no fence between tail and the load of wait_gen
 *   NO_RECHECK         the consumer does not load tail again
 *   SAME_GEN           every sleep has the same generation
 *   FLAG               a flag instead of a generation: the daemon writes when
 *                      it has not yet signalled since it last saw the flag down
 *   LATE_CLEAR         the eventfd is emptied after wait_gen was made odd
 *   EVERY_TIME         the daemon forgets that it has signalled a generation
 */
#ifndef RECORDS
#define RECORDS 4
#endif

byte tail;			/* written by the daemon */
byte wait_gen;			/* written by the consumer */
chan producer_sb = [2] of { byte };
chan consumer_sb = [2] of { byte };
byte eventfd;
byte written;			/* the generation it was written for last */

bool ONCE = true;

active proctype producer_buffer()
{
end:
	do
	:: atomic { nempty(producer_sb) -> producer_sb?tail }
	od
}

active proctype consumer_buffer()
{
end:
	do
	:: atomic { nempty(consumer_sb) -> consumer_sb?wait_gen }
	od
}

active proctype producer()
{
	byte n, gen, signalled;

	do
	:: n < RECORDS ->
		n++;
		producer_sb!n;
#ifndef MUTANT_NO_PRODUCER_FENCE
		empty(producer_sb);
#endif
		gen = wait_gen;
		if
		:: gen % 2 == 1 && gen != signalled ->
#ifndef MUTANT_EVERY_TIME
			signalled = gen;
#endif
			empty(producer_sb);
			eventfd++;
#if !defined(MUTANT_FLAG) && !defined(MUTANT_SAME_GEN)
			atomic {
				ONCE = (gen != written);
				written = gen;
				assert(ONCE)
			}
#endif
#ifdef MUTANT_FLAG
		:: gen % 2 == 0 -> signalled = 0
#endif
		:: else
		fi;
		gen = 0
	:: n == RECORDS -> break
	od
}

active proctype consumer()
{
	byte head, gen;

	do
	:: head < tail -> head++
	:: head == RECORDS -> break
	:: head == tail && head < RECORDS ->
		atomic { gen++; consumer_sb!gen };
#ifndef MUTANT_NO_CONSUMER_FENCE
		empty(consumer_sb);
#endif
#ifdef MUTANT_LATE_CLEAR
		eventfd = 0;
#endif
#ifndef MUTANT_NO_RECHECK
		if
		:: head == tail ->
#endif
			d_step { eventfd > 0 -> eventfd = 0 }
#ifndef MUTANT_NO_RECHECK
		:: else
		fi;
#endif
#ifdef MUTANT_SAME_GEN
		gen = 0;
#elif defined(MUTANT_FLAG)
		atomic { gen = 0; consumer_sb!gen };
#else
		atomic { gen++; consumer_sb!gen }
#endif
	od
}
