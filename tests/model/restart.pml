/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon dies and another one goes on, with the same userfaultfd, gate and
 * ring.  No lookup is good that should not be, whenever it died, in the middle
 * of going on too.
 *
 * What is modelled
 *   A target thread, with -DTWO two of them, unmaps, maps and maps over one page,
 *   as in death.pml; with -DREMOVE it discards it instead (MADV_DONTNEED): there
 *   the page goes after the event was read and not before.
 *   The daemon can be killed between any two of its steps, KILLS times.  Then
 *   the kernel writes DIED to the life word, if that was the daemon's, and
 *   nothing else happens: the userfaultfd is kept, threads go on waiting, no
 *   socket hangs up.  What a daemon has read and not told is lost with it.
 *   The next one looks whether the gate was quiet: seq even and the stripe
 *   ended.  If not, it publishes OVERFLOW.  Then it counts a change of the
 *   stripe, makes seq even, writes its own live, and then life.  With REMOVE the
 *   stripe ends when no thread that was let go is in its call any more.
 *   The consumer keeps one translation, with a version, and a copy of live that
 *   another thread of its takes anew at any time.  A translation that fails
 *   validation is read anew from the page table, or, if it was good once and no
 *   record names it, kept with a new version.  A record and OVERFLOW are the same
 *   to it: both name it.
 *   With -DSAME_LIVE every daemon has the same live.
 *
 * What is left out
 *   Store buffers: what a daemon stored, it stored in this order (gate.pml has
 *   them).  Several stripes, a full ring, sleeping, the end of it all
 *   (death.pml).
 *
 * Assertions
 *   ORDERED and STRICT as in gate.pml.
 *   No invalid end state: no target thread hangs, and no consumer.
 *
 * Mutants, each of which must fail
 *   LIFE_FIRST       life is good, and seq even, before the stripe is counted
 *   NO_COUNT         the stripe is not counted; live is taken anew all the same
 *   NO_OVERFLOW      seq was odd, and OVERFLOW is not published
 *   ONLY_SEQ         seq was even but the stripe had not ended, likewise
 *   OVERFLOW_LATE    OVERFLOW is published after life is good
 *   EVEN_FIRST       seq is made even before OVERFLOW: the next one to be killed
 *                    leaves no trace of what the first one lost
 *   ENDED_FIRST      the stripe is ended before OVERFLOW, likewise
 *   STAYS_ODD        seq is not made even (hang)
 *   NOT_READ         the next daemon waits for new events only (hang)
 *   END_UNPROVEN     (REMOVE) the next daemon ends the stripe at once
 */
#ifndef CALLS
#define CALLS 2			/* of all target threads together */
#endif
#ifndef KILLS
#define KILLS 1
#endif

#define DIED 99			/* no live is that */

byte life = 1, live = 1;
byte seq, started, ended;
bool told;			/* there are records in the ring */
bool killed;
byte kills;
byte mine = 1;			/* the live of the daemon that runs */

byte pt;			/* page table: 0 or the number of the page */
byte fresh;			/* last page number given out */
byte calls;			/* calls begun */
byte changing;			/* the kernel's mmap_changing */
byte let_go;			/* threads whose event was read, still in their call */
chan events = [2] of { byte };	/* thread */
bool woken[2];

byte effect;			/* highest page that went */
byte returned;			/* the same, and the call has returned */

byte copy = 1;			/* of live, the consumer's */

bool ORDERED = true;
bool STRICT_ = true;

inline page_goes()
{
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

proctype target(byte me)
{
	byte old;

	do
	:: atomic { calls < CALLS -> calls++ }
		if
		:: d_step { pt == 0 -> fresh++; pt = fresh }
		:: atomic { pt != 0 -> changing++ }
#ifndef REMOVE
			atomic { page_goes() }
#endif
			events!me;
			atomic { woken[me] -> woken[me] = false }
			changing--;
#ifdef REMOVE
			atomic { page_goes() }
#endif
			atomic {
				let_go--;
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

active proctype killer()
{
	do
	:: d_step { kills < KILLS && !killed ->
			kills++;
			killed = true;
			if
			:: life == mine -> life = DIED
			:: else
			fi
		}
	:: break
	od
}

#ifdef REMOVE
#define IS_PROVEN (let_go == 0)
#else
#define IS_PROVEN true
#endif

#ifdef MUTANT_NO_OVERFLOW
#define WAS_QUIET (started == ended)
#elif defined(MUTANT_ONLY_SEQ)
#define WAS_QUIET (seq % 2 == 0)
#else
#define WAS_QUIET (seq % 2 == 0 && started == ended)
#endif

inline overflow()
{
	if
	:: quiet
	:: else -> told = true
	fi
}

inline make_even()
{
	if
	:: seq % 2 == 1 -> seq++
	:: else
	fi
}

inline end_stripe()
{
#ifdef MUTANT_END_UNPROVEN
	ended = started
#else
	if
	:: IS_PROVEN -> ended = started
	:: else			/* the main loop will */
	fi
#endif
}

/* What the one before it left.  No step is taken twice that must not be. */
inline go_on()
{
	quiet = WAS_QUIET;
#ifdef MUTANT_EVEN_FIRST
	make_even();
#endif
#ifdef MUTANT_ENDED_FIRST
	end_stripe();
#endif
#ifdef MUTANT_LIFE_FIRST
	make_even();
	live = mine;
	life = mine;
#endif
#ifndef MUTANT_OVERFLOW_LATE
	overflow();
#endif
#ifndef MUTANT_NO_COUNT
	started++;
#endif
	end_stripe();
#ifndef MUTANT_STAYS_ODD
	make_even();
#endif
	live = mine;
	life = mine;
#ifdef MUTANT_OVERFLOW_LATE
	overflow();
#endif
	quiet = false
}

active proctype daemon()
{
	byte t;
	bool quiet, first = true;

begin:
	{
		if
		:: first
		:: !first -> go_on()
		fi;
#ifdef MUTANT_NOT_READ
		(first || empty(events));
#endif
end:
		do
		:: nempty(events) ->
			seq++;
			d_step {
				if
				:: events?t -> woken[t] = true; let_go++; t = 0
				:: empty(events)
				fi
			}
			started++;
			seq++;
			told = true;
			if
			:: d_step { IS_PROVEN -> ended = started }
			:: !IS_PROVEN
			fi
		:: d_step { ended != started && IS_PROVEN -> ended = started }
		od
	} unless {
		d_step { killed ->
			killed = false;
#ifndef SAME_LIVE
			mine++;
#endif
			first = false; quiet = false; t = 0
		}
	}
	goto begin
}

/* Another thread of the consumer's. */
active proctype refresher()
{
end:
	do
	:: d_step { copy != live && life == live -> copy = live }
	od
}

active proctype consumer()
{
	byte id, v;		/* the translation, its version */
	bool kept;		/* it was good once */
	byte limit;		/* pages up to this one are old for this lookup */
	byte h;

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
		atomic {		/* one load: life and seq */
			h = life;
			if
			:: seq % 2 == 1 -> h = 0; goto slow
			:: else
			fi
		}
		atomic {
			if
			:: h == copy -> h = 0
			:: else -> h = 0; goto slow
			fi
		}
		if
		:: started != v -> goto slow
		:: else
		fi;
		goto use;
slow:
		atomic { life == live -> copy = live }
		(seq % 2 == 0);
#ifdef STRICT
		(changing == 0);
#endif
quiet:
		v = started;
		if
		:: v != ended ->
			(started == ended);
			goto quiet
		:: else
		fi;
		d_step {
			if
			:: told -> kept = false; told = false
			:: else
			fi
		}
		if
		:: kept			/* no record names it */
		:: d_step { id = pt; kept = false }
		fi;
		if
		:: id == 0 -> goto next	/* nothing is mapped there */
		:: else -> goto validate
		fi;
use:
		atomic {
			kept = true;
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
		run target(0)
#ifdef TWO
		; run target(1)
#endif
	}
}
