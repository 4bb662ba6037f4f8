/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A change has an end.  REMOVE (madvise DONTNEED and its like) is told BEFORE
 * the pages go.  A translation made between the telling and the going is of a
 * page that is dropped a moment later, and nothing would ever say so.
 *
 * What is modelled
 *   Two target threads call madvise on page 0, on page 1 (its own stripe), or
 *   on both in ONE call: one event for each VMA, each raised when the zap of
 *   the one before is done.  A thread raises mmap_changing, queues the event,
 *   sleeps until it has been read, lowers mmap_changing, zaps the page, and in
 *   the end returns to user mode.  A thread that the daemon has interrupted
 *   stops there, on its way to user mode, until it is let go.
 *   The daemon interrupts the acting thread (PTRACE_SEIZE, PTRACE_INTERRUPT)
 *   before it reads the event; seq odd, read, `started` of the stripe, seq
 *   even, record.  When the thread has stopped, all it began is finished: the
 *   daemon counts `ended` for each event of that thread and lets it go.
 *   The consumer looks up page 0 as in gate.pml, and reading the page table
 *   makes a page where there is none.
 *
 * What is left out
 *   Store buffers (gate.pml has them), the ring, the daemon's death, how the
 *   daemon finds the acting thread, other proofs of the end (a kernel probe).
 *
 * Assertions
 *   REMOVE   a lookup begun after the zap, in any thread, does not use the
 *            page that was dropped: so no translation that stays valid is ever
 *            of a page that the pending zap then drops.
 *   No invalid end state: no target thread is left blocked or stopped.
 *
 * Mutants, each of which must fail
 *   ENDED_AT_READ      establish before END: `ended` is counted once the event
 *                      was read
 *   END_WHEN_UNCHANGED mmap_changing falling is taken for the end
 *   ANY_STOP_ENDS_ALL  at the stop of one thread `ended` catches up with
 *                      `started`, though another thread has not zapped yet
 *   SEQ_AFTER_READ     seq is made odd after the event was read
 *   WAIT_IN_LINE       the daemon waits for the stop before it looks at the
 *                      next event: a call with two events never stops (hang)
 *   NOT_LET_GO         a stopped thread is not let go (hang)
 */
#ifndef CALLS
#define CALLS 3			/* of both target threads together */
#endif

byte seq;
byte started[2], ended[2];

byte pt[2];			/* page table: 0 or the number of a page */
byte fresh;			/* last page number given out */
byte calls;			/* calls begun */
byte changing;			/* the kernel's mmap_changing */
chan events = [2] of { byte, byte };	/* thread, page */
bool woken[2];
bool interrupted[2];		/* PTRACE_INTERRUPT is pending */
bool stopped[2];

byte effect;			/* highest page 0 that was dropped */

bool REMOVE = true;

proctype target(byte me)
{
	byte p;
	bool more;

	do
	:: atomic {
			calls < CALLS -> calls++;
			if
			:: p = 0
			:: p = 1
			:: p = 0; more = true
			fi
		}
again:
		changing++;
		events!me,p;
		d_step { woken[me] -> woken[me] = false }
		changing--;
		atomic {		/* the zap */
			if
			:: p == 0 && pt[0] > effect -> effect = pt[0]
			:: else
			fi;
			pt[p] = 0;
			if
			:: more -> more = false; p = 1; goto again
			:: else
			fi
		}
		if			/* back to user mode */
		:: interrupted[me] ->
			d_step { interrupted[me] = false; stopped[me] = true }
			!stopped[me]
		:: else
		fi;
		p = 0
	:: calls == CALLS -> break
	od
}

#define STOPPED(t) \
	stopped[t] -> \
		ended[0] = ended[0] + begun[2 * t]; \
		ended[1] = ended[1] + begun[2 * t + 1]; \
		begun[2 * t] = 0; begun[2 * t + 1] = 0; \
		stopped[t] = false

active proctype daemon()
{
	byte t, p;
	byte begun[4];		/* not ended yet: thread * 2 + page */

end:
	do
	:: nempty(events) ->
		events?<t,p>;
		interrupted[t] = true;
#ifndef MUTANT_SEQ_AFTER_READ
		seq++;
#endif
		d_step { events?t,p; woken[t] = true }
#ifdef MUTANT_SEQ_AFTER_READ
		seq++;
#endif
		started[p]++;
		seq++;
#ifdef MUTANT_ENDED_AT_READ
		ended[p]++;
#else
		begun[2 * t + p]++;
#endif
#ifdef MUTANT_WAIT_IN_LINE
		atomic { STOPPED(t) };
#endif
		atomic { t = 0; p = 0 }
#if defined(MUTANT_END_WHEN_UNCHANGED)
	:: atomic { changing == 0 && ended[0] + ended[1] < started[0] + started[1] ->
			ended[0] = started[0]; ended[1] = started[1]
		}
	:: atomic { stopped[0] -> stopped[0] = false }
	:: atomic { stopped[1] -> stopped[1] = false }
#elif defined(MUTANT_ANY_STOP_ENDS_ALL)
	:: atomic { stopped[0] || stopped[1] ->
			ended[0] = started[0]; ended[1] = started[1];
			stopped[0] = false; stopped[1] = false
		}
#elif defined(MUTANT_NOT_LET_GO)
	:: atomic { stopped[0] && begun[0] + begun[1] > 0 ->
			ended[0] = ended[0] + begun[0];
			ended[1] = ended[1] + begun[1];
			begun[0] = 0; begun[1] = 0
		}
	:: atomic { STOPPED(1) }
#else
	:: atomic { STOPPED(0) }
	:: atomic { STOPPED(1) }
#endif
	od
}

active proctype consumer()
{
	byte id, v;		/* the translation kept, its version */
	byte limit;		/* pages up to this one are old for this lookup */

	do
	:: true ->
		limit = effect;
		if
		:: id == 0 -> goto slow
		:: else
		fi;
validate:
		if
		:: seq % 2 == 1 -> goto slow
		:: else
		fi;
		if
		:: started[0] != v -> goto slow
		:: else
		fi;
		goto use;
slow:
		(seq % 2 == 0);
quiet:
		v = started[0];
		if
		:: v != ended[0] ->
			(started[0] == ended[0]);
			goto quiet
		:: else
		fi;
		atomic {
			if
			:: pt[0] == 0 -> fresh++; pt[0] = fresh
			:: else
			fi;
			id = pt[0];
			goto validate
		}
use:
		atomic {
			REMOVE = (id > limit);
			assert(REMOVE)
		}
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
