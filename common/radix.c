/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Nodes of the radix: taken, linked, moved, freed, while others read
 *
 * Model
 *   The tree is what uapi/table.h says.  One thread writes; readers, in this process
 *   and in others, go down from the root by mirror_table_walk() and hold nothing.
 *   So nothing ever waits for a reader: a node is freed and used again under its
 *   feet, and the reader finds out.  A walk gives what an entry said at some moment
 *   of the walk, of the address that was asked for.  It never gives an entry of
 *   another address, and never half of one; whether that moment is recent enough is
 *   the gate's business, not ours.
 *
 * A node is
 *   untouched	never used: gen 0, zeros, no memory.  Nobody was ever given its
 *		number.
 *   open	linked, gen even; where tells which place of the tree it holds.  Its
 *		entries change one by one, each by a release store; gen does not
 *		move, as an entry is good by itself.
 *   closed	gen odd: free, or being prepared.  Of a free one, where is the next
 *		of the free list, and counts[] says what its memory holds: anything,
 *		zeros, or zeros and it was handed back (gone).
 *
 * Order, of the writer
 *   take	close it (one from the free list is closed), where, entries, open it,
 *		and only then the link to it.  A split thus builds all 512 leaves
 *		before the one leaf is replaced, and no reader finds a hole.
 *   free	take the link away, or put the leaf there that replaces it, then close.
 *		The other way round would be as right, but readers would meet the
 *		closed node and turn back to it until the link has gone.
 *   move	take the link away; of the node and of each below it: close, where, open;
 *		link it at the new place.  Entries stay.
 *
 * Why a reader is never wrong
 *   It loads gen, then an entry; if that is a link it goes on without a look at
 *   the tag.  If not, gen must be even, where as it should be, and gen, once more,
 *   the same.
 *
 *	writer				reader of address A
 *					load link to node 7
 *	link to 7 = 0			gen = 4		(acquire)
 *	gen = 5		(release)
 *	---- release fence ----
 *	where = next free
 *	...taken, for address B:
 *	where = B, entries of B		entry = one of B's
 *	gen = 6		(release)	where: A's or B's
 *	link to 7 in B's parent		---- acquire fence ----
 *					gen: 5 or 6, not 4: again from the root
 *
 *   The reader loaded an entry that was stored behind the release fence; its
 *   acquire fence pairs with that one, so it sees gen = 5 or what came later.  Had
 *   its first load been 6, then that acquire, which pairs with the release of
 *   gen = 6, shows it where = B or something later, and where tells, or gen does
 *   again.  5 is odd.  And had the entry been A's still, all may be the same, and it
 *   is right: it was there when the entry was loaded.
 *
 *   Zeros that come from discard() and not from a store: the memory is taken away
 *   after gen became odd, by a system call that has made every CPU forget its
 *   mapping when it returns, so that who reads such a zero reads an odd gen then.
 *
 *   Links need no check, as all that counts is where the walk ends.  A link that is
 *   out of date leads into some other place of the tree, or into a free node, at
 *   whatever level; there it ends, after at most `levels` steps, at an entry whose
 *   node is where it should be, or not.  When it is, the entry is the right one, no
 *   matter how the reader came there.  This is also why a subtree can be moved node
 *   by node: while some below say the new place and some the old one, each walk is
 *   right by the node in which it ends, and one for the new place begins to find it
 *   when the link is there.
 *
 * Memory
 *   Only what was touched costs.  counts[] is the same: there for all nodes, not
 *   written before they are taken.
 *   Free nodes are used again last in, first out; the list begins with those that
 *   are resident.  When an operation leaves more than RESIDENT_MAX of them, all but
 *   RESIDENT_KEPT are handed back, sorted, so that one call takes a run of them.
 */
#include "radix-private.h"

/* counts[] of a free node: what its memory holds */
#define FREE_GONE	0xfffd	/* zeros, and takes no memory */
#define FREE_ZEROS	0xfffe
#define FREE_DIRTY	0xffff

/* More resident free nodes than the first are handed back, down to the second. */
#define RESIDENT_MAX	64
#define RESIDENT_KEPT	32

static uint64_t nodes_offset(uint32_t n_nodes)
{
	uint64_t end = sizeof(struct mirror_table) +
		       (uint64_t)n_nodes * sizeof(struct mirror_table_tag);

	return (end + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

uint32_t radix_nodes_for(uint64_t bytes)
{
	uint64_t pages = bytes / PAGE_BYTES + !!(bytes % PAGE_BYTES), n = 1;

	/* At worst each page has a path of its own, below what the levels share. */
	for (unsigned int level = 0; level < 4; level++)
		n += MIN(pages, 1ULL << MIRROR_TABLE_NODE_SHIFT * (4 - level));
	return (uint32_t)MIN(n, UINT32_MAX);
}

size_t radix_bytes(uint32_t n_nodes)
{
	return nodes_offset(n_nodes) + (uint64_t)n_nodes * PAGE_BYTES;
}

static struct mirror_table_tag *tag_of(const struct radix *radix, uint32_t node)
{
	return &radix->tags[node];
}

static uint64_t tag_where(const struct radix *radix, uint32_t node)
{
	return __atomic_load_n(&tag_of(radix, node)->where, __ATOMIC_RELAXED);
}

static void set_where(struct radix *radix, uint32_t node, uint64_t where)
{
	__atomic_store_n(&tag_of(radix, node)->where, where, __ATOMIC_RELAXED);
}

static bool is_odd(const struct radix *radix, uint32_t node)
{
	return __atomic_load_n(&tag_of(radix, node)->gen, __ATOMIC_RELAXED) & 1;
}

static void step_gen(struct radix *radix, uint32_t node)
{
	uint64_t gen = __atomic_load_n(&tag_of(radix, node)->gen, __ATOMIC_RELAXED);

	/* Behind what was written before: pairs with the acquire of gen in
	 * mirror_table_walk(), which finds an even gen and a node that is ready. */
	__atomic_store_n(&tag_of(radix, node)->gen, gen + 1, __ATOMIC_RELEASE);
}

/* gen becomes odd; who reads what is stored from here on also reads that gen. */
static void close_node(struct radix *radix, uint32_t node)
{
	step_gen(radix, node);
	/* Pairs with the acquire fence in mirror_table_walk(). */
	__atomic_thread_fence(__ATOMIC_RELEASE);
}

static void count_live(struct radix *radix, int64_t by)
{
	__atomic_store_n(&radix->head->live, radix->head->live + (uint64_t)by, __ATOMIC_RELAXED);
}

/* The node has an odd gen.  *ret_zeros: its memory is known to hold zeros. */
static int take_node(struct radix *radix, uint32_t *ret_node, bool *ret_zeros)
{
	uint32_t node = radix->free_list;

	if (node) {
		*ret_zeros = radix->counts[node] != FREE_DIRTY;
		if (radix->counts[node] != FREE_GONE)
			radix->n_resident_free--;
		radix->free_list = (uint32_t)tag_where(radix, node);
	} else {
		if (radix->n_touched >= radix->n_nodes)
			return -ENOSPC;
		node = radix->n_touched++;
		*ret_zeros = true;
		close_node(radix, node);
	}
	radix->counts[node] = 0;
	count_live(radix, 1);
	*ret_node = node;
	return 0;
}

/* Nothing links @node any more. */
static void free_node(struct radix *radix, uint32_t node)
{
	close_node(radix, node);
	set_where(radix, node, radix->free_list);
	radix->counts[node] = radix->counts[node] ? FREE_DIRTY : FREE_ZEROS;
	radix->free_list = node;
	radix->n_resident_free++;
	count_live(radix, -1);
}

static void free_subtree(struct radix *radix, uint32_t node, unsigned int level)
{
	unsigned int left = level ? radix->counts[node] : 0;

	for (unsigned int i = 0; left; i++) {
		uint64_t entry = radix_load(radix, node, i);

		left -= !!entry;
		if (entry & MIRROR_ENTRY_LINK)
			free_subtree(radix, radix_child(entry), level - 1);
	}
	free_node(radix, node);
}

int radix_init(struct radix *radix, void *memory, uint32_t n_nodes, unsigned int levels,
	       uint32_t target, bool linear)
{
	struct mirror_table *head = memory;
	uint16_t *counts;

	if (!n_nodes || (levels != 4 && levels != 5))
		return -EINVAL;
	/* Not zeroed: each is set when its node is taken, so that only those cost. */
	counts = malloc((size_t)n_nodes * sizeof(*counts));
	if (!counts)
		return -ENOMEM;

	*head = (struct mirror_table) {
		.magic = MIRROR_TABLE_MAGIC,
		.version = MIRROR_TABLE_VERSION,
		.state = MIRROR_TABLE_LIVE,
		.levels = levels,
		.target = target,
		.n_nodes = n_nodes,
		.tags_off = sizeof(*head),
		.nodes_off = nodes_offset(n_nodes),
		.size = radix_bytes(n_nodes),
		.live = 1,
	};
	radix->head = head;
	radix->tags = (struct mirror_table_tag *)(head + 1);
	radix->nodes = (uint64_t *)(void *)((char *)memory + head->nodes_off);
	radix->counts = counts;
	radix->counts[0] = 0;
	radix->n_nodes = n_nodes;
	radix->levels = levels;
	radix->n_touched = 1;
	radix->free_list = 0;
	radix->n_resident_free = 0;
	radix->linear = linear;
	radix->tags[0] = (struct mirror_table_tag) { .gen = 2, .where = levels - 1 };
	return 0;
}

void radix_deinit(struct radix *radix)
{
	free(radix->counts);
	*radix = (struct radix)RADIX_NULL;
}

uint64_t radix_limit(const struct radix *radix)
{
	return radix_span(radix->levels);
}

int radix_grow(struct radix *radix, uint32_t node, unsigned int i, unsigned int level,
	       uint64_t base)
{
	uint32_t child;
	bool zeros;
	int r;

	r = take_node(radix, &child, &zeros);
	if (r < 0)
		return r;
	set_where(radix, child, base | (level - 1));
	for (unsigned int j = 0; !zeros && j < MIRROR_TABLE_ENTRIES; j++)
		__atomic_store_n(radix_slot(radix, child, j), 0, __ATOMIC_RELAXED);
	step_gen(radix, child);
	radix_store(radix, node, i, radix_link(child));
	return 0;
}

int radix_split(struct radix *radix, uint32_t node, unsigned int i, unsigned int level,
		uint64_t base)
{
	uint64_t leaf = radix_load(radix, node, i);
	uint32_t child;
	bool zeros;
	int r;

	r = take_node(radix, &child, &zeros);
	if (r < 0)
		return r;
	set_where(radix, child, base | (level - 1));
	for (unsigned int j = 0; j < MIRROR_TABLE_ENTRIES; j++)
		__atomic_store_n(radix_slot(radix, child, j),
				 radix_ahead(radix, leaf, j * radix_span(level - 1)),
				 __ATOMIC_RELAXED);
	radix->counts[child] = MIRROR_TABLE_ENTRIES;
	step_gen(radix, child);
	radix_store(radix, node, i, radix_link(child));
	return 0;
}

bool radix_merge(struct radix *radix, uint32_t node, unsigned int i, unsigned int level)
{
	uint32_t child = radix_child(radix_load(radix, node, i));
	uint64_t step = radix->linear ? radix_span(level - 1) : 0, leaf;

	if (level > RADIX_LEAF_MAX || radix->counts[child] != MIRROR_TABLE_ENTRIES)
		return false;
	leaf = radix_load(radix, child, 0);
	if (leaf & MIRROR_ENTRY_LINK)
		return false;
	for (unsigned int j = 1; j < MIRROR_TABLE_ENTRIES; j++)
		if (radix_load(radix, child, j) != leaf + j * step)
			return false;
	radix_store(radix, node, i, leaf);
	free_node(radix, child);
	return true;
}

void radix_replace(struct radix *radix, uint32_t node, unsigned int i, unsigned int level,
		   uint64_t entry)
{
	uint64_t old = radix_load(radix, node, i);

	if (old == entry)
		return;
	radix_store(radix, node, i, entry);
	if (old & MIRROR_ENTRY_LINK)
		free_subtree(radix, radix_child(old), level - 1);
}

void radix_rebase(struct radix *radix, uint32_t node, unsigned int level, uint64_t by)
{
	unsigned int left = level ? radix->counts[node] : 0;

	close_node(radix, node);
	set_where(radix, node, tag_where(radix, node) + by);
	step_gen(radix, node);
	for (unsigned int i = 0; left; i++) {
		uint64_t entry = radix_load(radix, node, i);

		left -= !!entry;
		if (entry & MIRROR_ENTRY_LINK)
			radix_rebase(radix, radix_child(entry), level - 1, by);
	}
}

/* Sorts the first @n of the free list by number, *@list being the first; returns the last. */
static uint32_t sort_free(struct radix *radix, uint32_t *list, uint32_t n)
{
	uint32_t a = *list, b, rest, last = 0, n_a = n / 2, n_b = n - n / 2, next;

	if (n == 1)
		return a;
	b = (uint32_t)tag_where(radix, sort_free(radix, &a, n_a));
	rest = (uint32_t)tag_where(radix, sort_free(radix, &b, n_b));
	while (n_a || n_b) {
		if (!n_b || (n_a && a < b)) {
			next = a;
			a = (uint32_t)tag_where(radix, a);
			n_a--;
		} else {
			next = b;
			b = (uint32_t)tag_where(radix, b);
			n_b--;
		}
		if (last)
			set_where(radix, last, next);
		else
			*list = next;
		last = next;
	}
	set_where(radix, last, rest);
	return last;
}

/*
 * The free list begins with those that are resident.  They are sorted, so that runs
 * can be handed back in one call.
 */
void radix_settle(struct radix *radix)
{
	uint32_t node, first, last, n;

	if (!radix->discard || radix->n_resident_free <= RESIDENT_MAX)
		return;
	n = radix->n_resident_free - RESIDENT_KEPT;
	sort_free(radix, &radix->free_list, radix->n_resident_free);
	node = radix->free_list;
	for (uint32_t i = 0; i < RESIDENT_KEPT; i++)
		node = (uint32_t)tag_where(radix, node);
	while (n) {
		first = node;
		do {
			last = node;
			radix->counts[last] = FREE_GONE;
			node = (uint32_t)tag_where(radix, last);
			n--;
		} while (n && node == last + 1);
		radix->discard(radix, radix_slot(radix, first, 0),
			       (size_t)(last - first + 1) * PAGE_BYTES);
	}
	radix->n_resident_free = RESIDENT_KEPT;
}

uint64_t radix_get(const struct radix *radix, uint64_t address)
{
	unsigned int level = radix->levels - 1;
	uint32_t node = 0;
	uint64_t entry;

	if (address >= radix_limit(radix))
		return 0;
	while ((entry = radix_load(radix, node, radix_index(address, level))) & MIRROR_ENTRY_LINK) {
		node = radix_child(entry);
		level--;
	}
	if (!entry)
		return 0;
	return radix_ahead(radix, entry, address & (radix_span(level) - 1) & ~(PAGE_BYTES - 1));
}

uint64_t radix_memory(const struct radix *radix)
{
	return nodes_offset(radix->n_touched) +
	       (radix->head->live + radix->n_resident_free) * PAGE_BYTES;
}

/* The rules, by number.  A `seen` of a node is 1 once a link to it was found. */
enum {
	RULE_HEAD = 1, RULE_LINK, RULE_LINKED_TWICE, RULE_TAG, RULE_ENTRY, RULE_HEIGHT, RULE_COUNT,
	RULE_LIVE, RULE_FREE, RULE_FREE_GEN, RULE_FREE_STATE, RULE_FREE_ORDER, RULE_LOST,
	RULE_ZEROS, RULE_UNTOUCHED,
};

static int check_node(const struct radix *radix, uint8_t *seen, uint32_t node, unsigned int level,
		      uint64_t base)
{
	unsigned int used = 0;
	uint32_t child;
	int r;

	if (seen[node]++)
		return RULE_LINKED_TWICE;
	if (is_odd(radix, node) || tag_where(radix, node) != (base | level))
		return RULE_TAG;
	for (unsigned int i = 0; i < MIRROR_TABLE_ENTRIES; i++) {
		uint64_t entry = radix_load(radix, node, i);

		used += !!entry;
		if (entry & MIRROR_ENTRY_LINK) {
			child = radix_child(entry);
			if (!level || entry != radix_link(child) || !child ||
			    child >= radix->n_touched)
				return RULE_LINK;
			r = check_node(radix, seen, child, level - 1,
				       base + i * radix_span(level));
			if (r)
				return r;
		} else if (entry && !(entry & MIRROR_ENTRY_VALID)) {
			return RULE_ENTRY;
		} else if (entry && level > RADIX_LEAF_MAX) {
			return RULE_HEIGHT;
		}
	}
	return used == radix->counts[node] ? 0 : RULE_COUNT;
}

static int check_free(const struct radix *radix, uint8_t *seen)
{
	uint32_t resident = 0;
	bool gone = false;

	for (uint32_t node = radix->free_list; node; node = (uint32_t)tag_where(radix, node)) {
		if (node >= radix->n_touched || seen[node]++)
			return RULE_FREE;
		if (!is_odd(radix, node))
			return RULE_FREE_GEN;
		if (radix->counts[node] < FREE_GONE)
			return RULE_FREE_STATE;
		gone |= radix->counts[node] == FREE_GONE;
		resident += !gone;
		if (gone && radix->counts[node] != FREE_GONE)
			return RULE_FREE_ORDER;
		for (unsigned int i = 0; radix->counts[node] == FREE_ZEROS &&
					 i < MIRROR_TABLE_ENTRIES; i++)
			if (radix_load(radix, node, i))
				return RULE_ZEROS;
	}
	return resident == radix->n_resident_free ? 0 : RULE_FREE_ORDER;
}

int radix_check(const struct radix *radix)
{
	const struct mirror_table *head = radix->head;
	_cleanup_(freep) uint8_t *seen = NULL;
	uint64_t live = 0;
	int r;

	if (head->magic != MIRROR_TABLE_MAGIC || head->levels != radix->levels ||
	    head->n_nodes != radix->n_nodes || head->size != radix_bytes(radix->n_nodes) ||
	    radix->n_touched > radix->n_nodes)
		return RULE_HEAD;
	seen = calloc(radix->n_touched, 1);
	if (!seen)
		return -ENOMEM;
	r = check_node(radix, seen, 0, radix->levels - 1, 0);
	if (r)
		return r;
	for (uint32_t node = 0; node < radix->n_touched; node++)
		live += seen[node];
	if (live != head->live)
		return RULE_LIVE;
	r = check_free(radix, seen);
	if (r)
		return r;
	for (uint32_t node = 0; node < radix->n_touched; node++)
		if (!seen[node])
			return RULE_LOST;
	if (radix->n_touched < radix->n_nodes && tag_of(radix, radix->n_touched)->gen)
		return RULE_UNTOUCHED;
	return 0;
}
