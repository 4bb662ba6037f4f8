/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gate: how a consumer knows, without being told, that a translation it
 * holds is no longer the CPU's.
 *
 * What is modelled
 *   Two target threads unmap, map and map over (MAP_FIXED) two pages that lie
 *   in two stripes.  An unmapping thread raises mmap_changing, takes the page
 *   out of the page table, queues its event, sleeps until the event has been
 *   READ, lowers mmap_changing and returns.  The other thread runs meanwhile:
 *   it can map the same address again before the event was read.
 *   The daemon sees that the userfaultfd is readable, makes the target's seq
 *   odd, fences, reads one event or two at once, counts `started` of each
 *   stripe, makes seq even, and for each event publishes the record and then
 *   counts `ended`.  Its stores go through a FIFO store buffer.
 *   The consumer looks up page 0 again and again.  It keeps one translation
 *   with the `started` of its stripe.  A translation that fails validation is
 *   either read anew from the page table, or kept with a new version if no
 *   record that was drained names it (restamping, which is what makes the
 *   order of records and `ended` matter).
 *
 * What is left out
 *   The daemon's death (death.pml), changes announced before they happen
 *   (remove.pml), a full ring (ring.pml), sleeping (wake.pml), wrapping
 *   counters, threads killed while they wait, loads that overtake each other
 *   in general (one case is a mutant: STRIPE_BEFORE_GATE).
 *
 * Assertions
 *   ORDERED  a lookup begun after the system call returned does not use the
 *            old translation.
 *   STRICT   (with -DSTRICT: the probe is used) a lookup begun after the
 *            change took effect, in any thread, does not use it.
 *   DRAINED  when the ring was drained for version v, every change that v
 *            counts has been received.
 *   No invalid end state: no target thread is left blocked and no consumer
 *   waits for ever.
 *
 * Mutants, each of which must fail
 *   SEQ_AFTER_READ       seq is made odd after the event was read
 *   NO_FENCE             no fence between seq and the read
 *   EVEN_BEFORE_STARTED  seq is made even before the stripe is counted
 *   EVEN_AFTER_FIRST     two events in one read; seq even after the first
 *   ENDED_BEFORE_RECORD  `ended` is counted before the record is published
 *   STRIPE_BEFORE_GATE   the consumer loads the stripe before the gate word
 *   VERSION_AFTER_READ   the version is taken after the page table was read
 *   VERSION_RELOADED     the version is not the `started` that was compared
 *   NO_PROBE             (STRICT) the consumer does not probe
 *   PROBE_AFTER_GATE     (STRICT) it probes after it has loaded the gate
 */
#ifndef CALLS
#define CALLS 2			/* of both target threads together */
#endif

#define SEQ 0			/* the words, all written by the daemon */
#define STARTED 1		/* two stripes */
#define ENDED 3
#define TAIL 5
byte mem[6];
byte slot[CALLS];		/* the ring is never full here */
chan sb = [8] of { byte, byte };
#define STORE(where, what) sb!where,what
#define FENCE empty(sb)

byte pt[2];			/* page table: 0 or the number of a page */
byte calls;			/* calls begun */
byte fresh;			/* last page number given out */
byte changing;			/* the kernel's mmap_changing */
chan events = [2] of { byte, byte };	/* thread, page */
bool woken[2];

byte effect;			/* highest page 0 that was unmapped */
byte returned;			/* the same, and the call has returned */

bool ORDERED = true;
bool STRICT_ = true;
bool DRAINED = true;

active proctype store_buffer()
{
	byte l, v;
end:
	do
	:: d_step { sb?l,v -> mem[l] = v; l = 0; v = 0 }
	od
}

proctype target(byte me)
{
	byte p, old;

	do
	:: atomic {
			calls < CALLS -> calls++;
			if
			:: p = 0
			:: me == 0 -> p = 1
			fi
		}
		if
		:: d_step { pt[p] == 0 -> fresh++; pt[p] = fresh; p = 0 }
		:: atomic { pt[p] != 0 -> changing++ }
			atomic {
				old = pt[p];
				if
				:: pt[p] = 0
				:: fresh++; pt[p] = fresh
				fi;
				if
				:: p == 0 && old > effect -> effect = old
				:: else
				fi
			}
			events!me,p;
			d_step { woken[me] -> woken[me] = false }
			changing--;
			d_step {
				if
				:: p == 0 && old > returned -> returned = old
				:: else
				fi;
				old = 0; p = 0
			}
		fi
	:: calls == CALLS -> break
	od
}

/*
 * A store only enters the buffer, which nobody sees: any number of them in a
 * row is one step.  When they come out is the buffer's choice.
 */
active proctype daemon()
{
	byte t, seq, tail, n, i;
	byte ev[2], started[2], ended[2];

end:
	do
	:: nempty(events) ->
#ifndef MUTANT_SEQ_AFTER_READ
		atomic { seq++; STORE(SEQ, seq) }
#ifndef MUTANT_NO_FENCE
		FENCE;
#endif
#endif
		atomic {
			events?t,ev[0]; woken[t] = true; n = 1;
			if
			:: nempty(events) ->
				events?t,ev[1]; woken[t] = true; n = 2
			:: true
			fi;
			t = 0
		}
		atomic {
#ifdef MUTANT_SEQ_AFTER_READ
			seq++; STORE(SEQ, seq);
#endif
#ifdef MUTANT_EVEN_BEFORE_STARTED
			seq++; STORE(SEQ, seq);
#endif
			i = 0;
			do
			:: i < n ->
				started[ev[i]]++;
				STORE(STARTED + ev[i], started[ev[i]]);
#ifdef MUTANT_EVEN_AFTER_FIRST
				if
				:: i == 0 -> seq++; STORE(SEQ, seq)
				:: else
				fi;
#endif
				i++
			:: else -> break
			od;
#if !defined(MUTANT_EVEN_BEFORE_STARTED) && !defined(MUTANT_EVEN_AFTER_FIRST)
			seq++; STORE(SEQ, seq);
#endif
			i = 0;
			do
			:: i < n ->
#ifdef MUTANT_ENDED_BEFORE_RECORD
				ended[ev[i]]++;
				STORE(ENDED + ev[i], ended[ev[i]]);
#endif
				slot[tail] = ev[i];
				tail++; STORE(TAIL, tail);
#ifndef MUTANT_ENDED_BEFORE_RECORD
				ended[ev[i]]++;
				STORE(ENDED + ev[i], ended[ev[i]]);
#endif
				i++
			:: else -> break
			od;
			ev[0] = 0; ev[1] = 0; n = 0; i = 0
		}
	od
}

/* One load each, with the comparison that follows it. */
#define LOAD_GATE if :: mem[SEQ] % 2 == 1 -> goto slow :: else fi
#define LOAD_STRIPE if :: mem[STARTED] != v -> goto slow :: else fi

active proctype consumer()
{
	byte id, v;		/* the translation kept, its version */
	byte limit;		/* pages up to this one are old for this lookup */
	byte head, received;
	byte w;

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
#if defined(STRICT) && !defined(MUTANT_NO_PROBE) && !defined(MUTANT_PROBE_AFTER_GATE)
		if
		:: changing > 0 -> goto slow
		:: else
		fi;
#endif
#ifdef MUTANT_STRIPE_BEFORE_GATE
		LOAD_STRIPE;
		LOAD_GATE;
#else
		LOAD_GATE;
		LOAD_STRIPE;
#endif
#ifdef MUTANT_PROBE_AFTER_GATE
		if
		:: changing > 0 -> goto slow
		:: else
		fi;
#endif
		goto use;
slow:
		w = mem[SEQ];		/* even, or a later change than at first */
		atomic { (mem[SEQ] % 2 == 0 || mem[SEQ] != w) -> w = 0 }
#ifdef STRICT
		(changing == 0);
#endif
quiet:
		v = mem[STARTED];
		if
		:: v != mem[ENDED] ->
			(mem[STARTED] == mem[ENDED]);
#ifndef MUTANT_VERSION_RELOADED
			goto quiet
#endif
		:: else
		fi;
#ifdef MUTANT_VERSION_RELOADED
		v = mem[STARTED];
#endif
		d_step {
			do
			:: head < mem[TAIL] ->
				if
				:: slot[head] == 0 ->
					id = 0; received++
				:: else
				fi;
				head++
			:: else -> break
			od;
			DRAINED = (received >= v);
			assert(DRAINED)
		}
		if
		:: id != 0		/* no record names it: restamp */
		:: id = pt[0]
		fi;
#ifdef MUTANT_VERSION_AFTER_READ
		d_step { mem[STARTED] == mem[ENDED] -> v = mem[STARTED] }
#endif
		if
		:: id == 0 -> goto next	/* nothing is mapped there */
		:: else -> goto validate
		fi;
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
		fresh = 2; pt[0] = 1; pt[1] = 2;
		run target(0); run target(1)
	}
}
