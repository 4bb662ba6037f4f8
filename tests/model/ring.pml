/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A ring that is too small: records are dropped, and nothing is lost silently.
 *
 * What is modelled
 *   The daemon tells CHANGES changes through a ring of SLOTS slots.  If there
 *   is no room it owes an OVERFLOW record: it sets the flag, and counts
 *   `ended` like for any other change.  While it owes one it publishes that
 *   one first, at the next change or when the consumer kicks it: slot, tail,
 *   then the flag is cleared.  After each of these, records and flag alike,
 *   it fences, loads wait_gen, and wakes a consumer that sleeps.
 *   The consumer loads the flag, THEN drains; if the flag was set it kicks the
 *   daemon.  Before it sleeps it makes wait_gen odd, fences, and loads tail
 *   AND flag again.  Now and then it begins a read: it waits until the stripe
 *   is quiet, and goes on when it has drained after a flag that was clear.
 *   The stores of both go through FIFO store buffers, as deep as needed.
 *   Writing an eventfd takes a lock in the kernel, so what was stored before
 *   it is seen by whoever it wakes.
 *
 * What is left out
 *   The gate (gate.pml), a consumer that lies (its head is bounded by the
 *   daemon), merging of records, wrapping counters.
 *
 * Assertions
 *   NO_GAP   record numbers are received without a gap, and each slot is
 *            whole when it is read.
 *   NO_LOSS  between two records received no change is missing, except those
 *            that an OVERFLOW record covers, which comes after them.
 *   DRAINED  a read that began at version v has received, or an OVERFLOW
 *            record covers, every change that v counts.
 *   No invalid end state: no OVERFLOW stays owed while the consumer sleeps.
 *
 * Mutants, each of which must fail
 *   DROP_SILENTLY       a record that has no room is dropped, nothing is owed
 *   CLEAR_FIRST         the flag is cleared before the OVERFLOW is published
 *   FLAG_AFTER_ENDED    the flag is set after `ended` was counted
 *   DRAIN_THEN_FLAG     the consumer drains, then loads the flag
 *   TAIL_BEFORE_SLOT    tail is stored before the slot
 *   HEAD_BEFORE_SLOT    head is stored before the slot was read
 *   JUMP_QUEUE          a later record is published while OVERFLOW is owed
 *   SLEEP_IGNORES_FLAG  before it sleeps the consumer loads only tail (hang)
 *   NO_OVERFLOW_WAKE    an overflow does not wake the consumer (hang)
 *   WAKE_BEFORE_CLEAR   the wake comes before the flag is cleared (hang)
 *   NO_KICK             the consumer does not kick (hang)
 *   NO_CONSUMER_FENCE   no fence after wait_gen (hang)
 *   NO_PRODUCER_FENCE   no fence before wait_gen is loaded (hang)
 */
#ifndef CHANGES
#define CHANGES 4
#endif
#define SLOTS 2

#define TAIL 0			/* the daemon's words */
#define FLAG 1
#define ENDED 2
#define SLOT 3			/* two of: number * 16 + change * 2 + overflow */
#define HEAD 5			/* the consumer's */
#define GEN 6
byte mem[7];
chan producer_sb = [8] of { byte, byte };
chan consumer_sb = [4] of { byte, byte };

byte eventfd;
bool kick;

bool NO_GAP = true;
bool NO_LOSS = true;
bool DRAINED = true;

active proctype producer_buffer()
{
	byte l, v;
end:
	do
	:: d_step { producer_sb?l,v -> mem[l] = v; l = 0; v = 0 }
	od
}

active proctype consumer_buffer()
{
	byte l, v;
end:
	do
	:: d_step { consumer_sb?l,v -> mem[l] = v; l = 0; v = 0 }
	od
}

inline publish(overflow)
{
#ifdef MUTANT_TAIL_BEFORE_SLOT
	producer_sb!TAIL,tail + 1;
	producer_sb!SLOT + tail % SLOTS,(tail + 1) * 16 + n * 2 + overflow;
#else
	producer_sb!SLOT + tail % SLOTS,(tail + 1) * 16 + n * 2 + overflow;
	producer_sb!TAIL,tail + 1;
#endif
	tail++
}

inline pay()			/* with room for one record */
{
#ifdef MUTANT_CLEAR_FIRST
	producer_sb!FLAG,0;
	publish(1);
#else
	publish(1);
#ifndef MUTANT_WAKE_BEFORE_CLEAR
	producer_sb!FLAG,0;
#endif
#endif
	owed = false
}

/* A store only enters the buffer: any number of them in a row is one step. */
active proctype producer()
{
	byte tail, n;		/* n: changes so far */
	byte gen, signalled;
	bool owed, quiet;

end:
	do
	:: atomic { n < CHANGES || kick ->
			quiet = false;
			if
			:: kick -> kick = false;
				if
				:: owed && tail - mem[HEAD] < SLOTS -> pay()
				:: else -> quiet = true
				fi
			:: n < CHANGES ->
				if
#ifndef MUTANT_JUMP_QUEUE
				:: owed && tail - mem[HEAD] < SLOTS -> pay()
#endif
				:: else
				fi;
				n++;
				if
#ifdef MUTANT_JUMP_QUEUE
				:: tail - mem[HEAD] < SLOTS -> publish(0)
#else
				:: !owed && tail - mem[HEAD] < SLOTS -> publish(0)
#endif
				:: else ->
#ifdef MUTANT_FLAG_AFTER_ENDED
					producer_sb!ENDED,n;
#endif
#ifndef MUTANT_DROP_SILENTLY
					if
					:: !owed -> owed = true; producer_sb!FLAG,1
					:: else
					fi;
#endif
#ifdef MUTANT_NO_OVERFLOW_WAKE
					quiet = true
#endif
				fi;
#ifndef MUTANT_FLAG_AFTER_ENDED
				producer_sb!ENDED,n
#else
				if
				:: !owed -> producer_sb!ENDED,n
				:: else
				fi
#endif
			fi
		}
#ifndef MUTANT_NO_PRODUCER_FENCE
		empty(producer_sb);
#endif
		if
		:: quiet -> gen = 0
		:: else -> gen = mem[GEN]
		fi;
		if
		:: gen % 2 == 1 && gen != signalled ->
			signalled = gen;
			atomic { empty(producer_sb) -> eventfd = 1 }
		:: else
		fi;
#ifdef MUTANT_WAKE_BEFORE_CLEAR
		if
		:: !owed -> producer_sb!FLAG,0
		:: else
		fi;
#endif
		gen = 0; quiet = false
	od
}

active proctype consumer()
{
	byte head, upto;	/* changes up to this one are known */
	byte gen, v, t, rec;
	bool flag, reading;

	do
	:: upto == CHANGES && !reading -> break
	:: else ->
		if		/* read_begin */
		:: !reading && mem[ENDED] > v ->
			reading = true; v = mem[ENDED]
		:: true
		fi;
#ifndef MUTANT_DRAIN_THEN_FLAG
		flag = mem[FLAG];
#endif
		t = mem[TAIL];
		do
		:: head < t ->
#ifdef MUTANT_HEAD_BEFORE_SLOT
			consumer_sb!HEAD,head + 1;
#endif
			atomic {
				rec = mem[SLOT + head % SLOTS];
				head++;
				NO_GAP = (rec / 16 == head);
				assert(NO_GAP);
				NO_LOSS = (rec % 2 == 1 || rec % 16 / 2 == upto + 1);
				assert(NO_LOSS);
				upto = rec % 16 / 2;
				rec = 0
			}
#ifndef MUTANT_HEAD_BEFORE_SLOT
			consumer_sb!HEAD,head
#endif
		:: else -> t = 0; break
		od;
#ifdef MUTANT_DRAIN_THEN_FLAG
		flag = mem[FLAG];
#endif
		if
		:: flag ->
#ifndef MUTANT_NO_KICK
			atomic { empty(consumer_sb) -> kick = true }
#else
			skip
#endif
		:: !flag && reading ->
			atomic {
				DRAINED = (upto >= v);
				assert(DRAINED);
				reading = false
			}
		:: else
		fi;
		if
		:: upto == CHANGES && !reading -> break
		:: else
		fi;
		atomic { gen++; consumer_sb!GEN,gen }
#ifndef MUTANT_NO_CONSUMER_FENCE
		empty(consumer_sb);
#endif
		if
		:: mem[TAIL] != head
		:: mem[TAIL] == head ->
			if
#ifndef MUTANT_SLEEP_IGNORES_FLAG
			:: mem[FLAG] != flag
			:: mem[FLAG] == flag ->
#else
			:: true ->
#endif
				d_step { eventfd == 1 -> eventfd = 0 }
			fi
		fi;
		atomic { gen++; consumer_sb!GEN,gen; flag = 0 }
	od
}
