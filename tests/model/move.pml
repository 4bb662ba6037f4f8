/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A translation that moves.  mremap tells that range A went to C, and a consumer
 * would like to take its translations along instead of asking for them again.
 * But an event is queued after the kernel has dropped its lock, so threads that
 * change memory side by side need not be told in the order in which they did it:
 * the REMAP of what is in A now may come before the UNMAP of what was in A before,
 * and after the UNMAP of what has come to C by now.  Of two invalidations the order
 * does not matter; of a move it does.
 *
 * What is modelled
 *   A target thread that is always there, and one that comes and goes.  Each: munmap
 *   a place, map a new page there, move A to C, with or without MREMAP_DONTUNMAP.
 *   The change and the raising of mmap_changing are one step; then the event is
 *   queued, and the thread waits until it has been read.
 *   The consumer (and the daemon, in one) handles events in order.  It takes the
 *   translations along if there was one thread at this read and at the one before;
 *   else it drops them.
 *
 * What is left out
 *   The gate and the ring (gate.pml, ring.pml): a lookup here is one step, which
 *   finds by the probe that no change is in flight.  How threads are counted.
 *
 * Assertion
 *   MOVED    a lookup that finds no change in flight uses the page that is there
 *
 * Mutants, each of which must fail
 *   ALWAYS    they are taken along however many threads there are
 *   NOW_ONLY  ... if there is one at the time of this read
 *   THEN_ONLY ... if there was one at the time of the read before
 */
#ifndef CALLS
#define CALLS 5			/* of both target threads together */
#endif

#define A 0
#define C 1

mtype = { UNMAP, REMAP };

byte map[2];			/* 0, or the page that is there */
byte fresh;
byte calls;
byte changing;			/* the kernel's mmap_changing */
chan events = [3] of { mtype, byte, byte };	/* what, place, thread */
bool woken[2];
bool two;			/* the second thread is there */

byte entry[2];			/* the consumer's translations */

bool MOVED = true;

#define TELL(what, place) \
	events!what,place,me; \
	d_step { woken[me] -> woken[me] = false; changing-- }

inline call()
{
	if
	:: atomic { map[A] -> map[A] = 0; changing++ };
		TELL(UNMAP, A)
	:: atomic { map[C] -> map[C] = 0; changing++ };
		TELL(UNMAP, C)
	:: atomic { !map[A] -> fresh++; map[A] = fresh }
	:: atomic { !map[C] -> fresh++; map[C] = fresh }
	:: atomic { map[A] && !map[C] ->
			map[C] = map[A]; map[A] = 0; changing = changing + 2
		};
		TELL(REMAP, A);
		TELL(UNMAP, A)
	:: atomic { map[A] && !map[C] ->
			map[C] = map[A]; map[A] = 0; changing++
		};
		TELL(REMAP, A)
	:: else
	fi
}

proctype first(byte me)
{
	do
	:: atomic { calls < CALLS -> calls++ };
		call()
	:: atomic { !two && calls < CALLS -> two = true }	/* pthread_create() */
	:: calls == CALLS -> break
	od
}

proctype second(byte me)
{
end:
	do
	:: atomic { two && calls < CALLS -> calls++ };
		call()
	:: atomic { two -> two = false }
	od
}

active proctype consumer()
{
	byte place, t;
	mtype what;
	bool before, alone;	/* one thread at the read before, and at this one */

end:
	do
	:: d_step { events?what,place,t ->
			woken[t] = true;
			alone = !two;
			if
			:: what == UNMAP -> entry[place] = 0
#if defined(MUTANT_ALWAYS)
			:: what == REMAP ->
#elif defined(MUTANT_NOW_ONLY)
			:: what == REMAP && alone ->
#elif defined(MUTANT_THEN_ONLY)
			:: what == REMAP && before ->
#else
			:: what == REMAP && alone && before ->
#endif
				entry[C] = entry[A];
				entry[A] = 0
			:: else ->
				entry[A] = 0;
				entry[C] = 0
			fi;
			before = alone;
			what = 0; place = 0; t = 0; alone = false
		}
	:: d_step { changing == 0 ->		/* a lookup, by the probe */
			MOVED = ((!entry[A] || entry[A] == map[A]) &&
				 (!entry[C] || entry[C] == map[C]));
			assert(MOVED);
			entry[A] = map[A];
			entry[C] = map[C]
		}
	od
}

init {
	atomic {
		fresh = 1; map[A] = 1; entry[A] = 1;
		run first(0); run second(1)
	}
}
