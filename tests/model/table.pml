/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A page table that is read without locks.  Nodes have no owner that a reader could
 * ask: they are freed and used again for other addresses while it stands in them.
 * Their tags tell.
 *
 * What is modelled
 *   A root with an entry for each of two addresses, X and Y, and nodes below it with
 *   one entry each.  The writer enters a value for an address, in a node that it takes
 *   from those that are free; changes the value in place; or takes the node away:
 *
 *	enter	where, entry = 0; gen even; entry = value; link
 *	remove	link = 0; gen odd
 *
 *   The reader walks: link; gen, entry, where, gen again; from the root again if gen
 *   was odd or moved, or where is another's.  Each access is a step of its own.
 *
 * What is left out
 *   More levels: a walk that is led astray by a link ends in a node that is not where
 *   it should be.  Store buffers: the writer's stores are releases or behind a release
 *   fence, the reader's loads acquires or behind an acquire fence.  The gate.
 *
 * Assertions
 *   OWN      what a walk of an address finds was entered for that address
 *   ALIVE    and was not taken away before the walk began
 *
 * Mutants, each of which must fail
 *   NO_WHERE     the reader does not look whose node it is
 *   NO_RECHECK   it does not look at gen again
 *   NO_ODD       it takes a node that is being prepared
 *   EVEN_FIRST   gen is even before where and entry are set
 *   NO_ZERO      a node is used again with what was in it
 *   SAME_GEN     gen goes back to what it was
 */
#ifndef STEPS
#define STEPS 6
#endif

#define NODES 1			/* one is used again soonest */
#define VALUES 8

byte link[2];			/* 0, or 1 + the number of a node */
byte gen[NODES], where[NODES], entry[NODES];
bool owner[VALUES];		/* which address a value was entered for */
bool dead[VALUES];		/* taken away */
byte fresh;			/* values given out: 1 and up */
byte steps;

bool OWN = true, ALIVE = true;

active proctype writer()
{
	byte n, a;

	gen[0] = 1;			/* free */
	do
	:: steps < STEPS ->
		steps++;
		if
		:: a = 0
		:: a = 1
		fi;
		if
		:: !link[a] && gen[0] % 2 == 1 && fresh < VALUES - 1 ->
#ifdef MUTANT_EVEN_FIRST
			gen[0]++;
#endif
			where[0] = a;
#ifndef MUTANT_NO_ZERO
			entry[0] = 0;
#endif
#ifndef MUTANT_EVEN_FIRST
#ifdef MUTANT_SAME_GEN
			gen[0] = 2;
#else
			gen[0]++;
#endif
#endif
#ifdef MUTANT_NO_ZERO
			link[a] = 1;
#endif
			d_step { fresh++; owner[fresh] = a; n = fresh };
			entry[0] = n;
			link[a] = 1
		:: link[a] && fresh < VALUES - 1 ->
			d_step { fresh++; owner[fresh] = a; n = fresh };
			d_step { dead[entry[0]] = true; entry[0] = n }
		:: link[a] ->
			link[a] = 0;
			d_step { dead[entry[0]] = true; gen[0]++ }
		:: else
		fi;
		n = 0; a = 0
	:: else -> break
	od
}

active [2] proctype reader()
{
	byte n, g, e;
	bool old[VALUES];
	bool a = _pid % 2;

	do
	:: d_step {
			old[1] = dead[1]; old[2] = dead[2]; old[3] = dead[3]; old[4] = dead[4];
			old[5] = dead[5]; old[6] = dead[6]; old[7] = dead[7]
		};
again:
		n = link[a];
		if
		:: !n -> goto next
		:: else
		fi;
		g = gen[0];
#ifndef MUTANT_NO_ODD
		if
		:: g % 2 == 1 -> goto again
		:: else
		fi;
#endif
		e = entry[0];
#ifndef MUTANT_NO_WHERE
		if
		:: where[0] != a -> goto again
		:: else
		fi;
#endif
#ifndef MUTANT_NO_RECHECK
		if
		:: gen[0] != g -> goto again
		:: else
		fi;
#endif
		d_step {
			OWN = (!e || owner[e] == a);
			ALIVE = (!e || !old[e]);
			assert(OWN);
			assert(ALIVE)
		};
next:
		atomic { n = 0; g = 0; e = 0 }
	:: steps == STEPS -> break
	od
}
