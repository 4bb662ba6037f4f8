/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon dies.  What it left behind tells the truth all the same, and no
 * target thread hangs.
 *
 * What is modelled
 *   Two target threads unmap, map and map over one page, as in gate.pml.  The
 *   daemon can be killed between any two of its steps.  The kernel then first
 *   sets FUTEX_OWNER_DIED in the life word and later closes the daemon's
 *   files: its reference to the userfaultfd, and its channel (hang-up).  The
 *   userfaultfd goes with its last reference; then waiting threads are let go
 *   and no more events are raised.
 *   The target holds a copy of the userfaultfd (the consumer in it probes
 *   with it), and a child that it forked holds another, as fork gives it.  So
 *   the userfaultfd outlives the daemon, and a lifeline thread in the target
 *   reads its events for ever, from the hang-up on.
 *   With -DNO_COPY nobody but the daemon has the userfaultfd and there is no
 *   lifeline.
 *   The consumer is as in gate.pml, without the ring.  Whoever waits for seq
 *   or for a stripe waits for the death as well.  A consumer that has seen the
 *   death drops its translation and keeps none from then on.
 *
 * What is left out
 *   Store buffers (a store that left no trace is one that was not made), the
 *   ring, a new daemon that takes over, a daemon that is stopped (the target
 *   waits, as told).  A sleeping consumer must wait for the hang-up too.  The
 *   lifeline thread must not change the address space itself.
 *
 * Assertions
 *   ORDERED and STRICT as in gate.pml (STRICT needs the copy to probe with).
 *   No invalid end state: no target thread hangs, and no consumer.
 *
 * Mutants, each of which must fail
 *   NO_LIFE_CHECK       validation does not look at the life word
 *   LIFE_AFTER_FILES    the life word is set after the files were closed
 *   NO_LIFELINE         the target holds a copy and nobody reads it (hang)
 *   LIFELINE_ONCE       the lifeline reads what there is and leaves (hang)
 *   LIFELINE_DROPS      the lifeline closes its copy instead of reading; the
 *                       forked child still has one (hang)
 *   LIFELINE_EARLY      the lifeline reads while the daemon is only slow
 *   WAIT_IGNORES_DEATH  a waiting consumer does not watch the life word (hang)
 */
#ifndef CALLS
#define CALLS 2			/* of both target threads together */
#endif

byte seq, started, ended;
bool killed;
bool dead;			/* FUTEX_OWNER_DIED in the life word */
bool hangup;			/* the daemon's files are closed */

#ifdef NO_COPY
byte refs = 1;			/* references to the userfaultfd */
#else
byte refs = 3;			/* daemon, target, the target's child */
#endif

byte pt;			/* page table: 0 or the number of the page */
byte fresh;			/* last page number given out */
byte calls;			/* calls begun */
byte changing;			/* the kernel's mmap_changing */
chan events = [2] of { byte };	/* thread */
bool woken[2];

byte effect;			/* highest page that was unmapped */
byte returned;			/* the same, and the call has returned */

bool ORDERED = true;
bool STRICT_ = true;

proctype target(byte me)
{
	byte old;

	do
	:: atomic { calls < CALLS -> calls++ }
		if
		:: d_step { pt == 0 -> fresh++; pt = fresh }
		:: atomic { pt != 0 -> changing++ }
			atomic {
				old = pt;
				if
				:: pt = 0
				:: fresh++; pt = fresh
				fi;
				if
				:: old > effect -> effect = old
				:: else
				fi
			}
			atomic {
				if
				:: refs > 0 -> events!me
				:: else -> woken[me] = true
				fi
			}
			atomic { woken[me] || refs == 0 -> woken[me] = false }
			changing--;
			atomic {
				if
				:: old > returned -> returned = old
				:: else
				fi;
				old = 0
			}
		fi
	:: calls == CALLS -> break
	od
}

/* SIGKILL at any moment, or never. */
active proctype killer()
{
	if
	:: killed = true
	:: true
	fi
}

active proctype daemon()
{
	byte t;

	{
end:
		do
		:: nempty(events) ->
			seq++;
			d_step {
				if
				:: events?t -> woken[t] = true; t = 0
				:: empty(events)
				fi
			}
			started++;
			seq++;
			ended++
		od
	} unless {
		killed -> skip
	}
#ifdef MUTANT_LIFE_AFTER_FILES
	atomic { refs--; hangup = true }
	dead = true
#else
	dead = true;
	atomic { refs--; hangup = true }
#endif
}

#if !defined(NO_COPY) && !defined(MUTANT_NO_LIFELINE)
active proctype lifeline()
{
	byte t;

end:
#ifndef MUTANT_LIFELINE_EARLY
	(hangup);
#endif
#ifdef MUTANT_LIFELINE_DROPS
	refs--
#else
end_reading:
	do
	:: d_step { nempty(events) -> events?t; woken[t] = true; t = 0 }
#ifdef MUTANT_LIFELINE_ONCE
	:: empty(events) -> break
#endif
	od
#endif
}
#endif

#ifdef MUTANT_NO_LIFE_CHECK
#define LIFE_SAYS_DEAD false
#else
#define LIFE_SAYS_DEAD dead
#endif
#ifdef MUTANT_WAIT_IGNORES_DEATH
#define WAIT(condition) (condition)
#else
#define WAIT(condition) (dead || (condition))
#endif

active proctype consumer()
{
	byte id, v;		/* the translation kept, its version */
	byte limit;		/* pages up to this one are old for this lookup */

	do
	:: true ->
		atomic {
#ifdef STRICT
			limit = effect
#else
			limit = returned
#endif
		}
		if
		:: id == 0 -> goto slow
		:: else
		fi;
validate:
#ifdef STRICT
		if
		:: changing > 0 -> goto slow
		:: else
		fi;
#endif
		if			/* one load: life and seq */
		:: LIFE_SAYS_DEAD || seq % 2 == 1 -> goto slow
		:: else
		fi;
		if
		:: started != v -> goto slow
		:: else
		fi;
		goto use;
slow:
		WAIT(seq % 2 == 0);
#ifdef STRICT
		WAIT(changing == 0);
#endif
quiet:
		v = started;
		if
		:: v != ended ->
			WAIT(started == ended);
			if
			:: dead
			:: else -> goto quiet
			fi
		:: else
		fi;
		if
		:: dead -> break
		:: else
		fi;
		atomic {
			id = pt;
			if
			:: id == 0 -> goto next
			:: else -> goto validate
			fi
		}
use:
		atomic {
#ifdef STRICT
			STRICT_ = (id > limit);
			assert(STRICT_)
#else
			ORDERED = (id > limit);
			assert(ORDERED)
#endif
		}
next:
		limit = 0
	:: break
	od
}

init {
	atomic {
		fresh = 1; pt = 1;
		run target(0); run target(1)
	}
}
