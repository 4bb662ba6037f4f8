/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "compare.h"

static const struct {
	const char *key;
	const char *text;
} wrong[_COMPARE_N] = {
	[COMPARE_SAME] = { "same", "is so" },
	[COMPARE_NOTHING] = { "nothing", "nothing is known, and nothing is there" },
	[COMPARE_UNKNOWN] = { "unknown", "nothing is known, and a page is there" },
	[COMPARE_UNMAPPED] = { "unmapped", "nothing is mapped there" },
	[COMPARE_SHARED] = { "shared", "shared and private differ" },
	[COMPARE_GONE] = { "gone", "no page is there" },
	[COMPARE_KIND] = { "kind", "file and anonymous differ" },
	[COMPARE_RIGHTS] = { "rights", "the mapping has other rights" },
	[COMPARE_WRITTEN] = { "written", "the page was not written" },
};

static const struct {
	const char *key;
	const char *text;
} silent[_UNTOLD_N] = {
	[UNTOLD_NOT] = { "no", "" },
	[UNTOLD_MPROTECT] = { "mprotect", "mprotect is not told" },
	[UNTOLD_COPY] = { "copy", "copy-on-write of file pages is not told" },
	[UNTOLD_FILE] = { "file", "truncate, punch hole and reclaim of file pages are not told" },
	[UNTOLD_SWAP] = { "swap", "reclaim is not told" },
	[UNTOLD_GUARD] = { "guard", "MADV_GUARD_INSTALL is not told" },
	[UNTOLD_SHM] = { "shm", "shmdt and SHM_REMAP are not told" },
};

const char *compare_to_string(enum compare what)
{
	return wrong[what].text;
}

const char *compare_to_key(enum compare what)
{
	return wrong[what].key;
}

const char *untold_to_string(enum untold why)
{
	return silent[why].text;
}

const char *untold_to_key(enum untold why)
{
	return silent[why].key;
}

void compare_rules_of(struct compare_rules *ret_rules, struct mirror_target *target)
{
	*ret_rules = (struct compare_rules) {
		.rights = mirror_target_get_guarantee(target, MIRROR_EVENT_PROTECTION_VMA) >
			  MIRROR_GUARANTEE_NONE,
		/* a source that hears of migration hears all that the kernel tells of pages */
		.pages = mirror_target_get_guarantee(target, MIRROR_EVENT_MIGRATE) >
			 MIRROR_GUARANTEE_NONE,
	};
}

static enum untold unless(bool told, enum untold why)
{
	return told ? UNTOLD_NOT : why;
}

/* Something else is mapped there, or nothing: only shmdt() and shmat() do that silently. */
static enum untold why_other_map(const struct compare_rules *rules, uint64_t entry,
				 const struct truth_map *map)
{
	if (entry & MIRROR_PTE_SHARED || (map && map->sysv))
		return unless(rules->pages, UNTOLD_SHM);

	return UNTOLD_NOT;
}

static enum untold why_gone(const struct compare_rules *rules, uint64_t entry, uint64_t word,
			    const struct truth_map *map)
{
	if (word & TRUTH_GUARD)
		return unless(rules->pages, UNTOLD_GUARD);

	/* truncate takes the copies of a private mapping along */
	if (entry & MIRROR_PTE_FILE || map->file)
		return unless(rules->pages, UNTOLD_FILE);

	/* MADV_DONTNEED and MADV_FREE leave nothing behind, reclaim does */
	if (word & TRUTH_SWAP)
		return unless(rules->pages, UNTOLD_SWAP);

	return UNTOLD_NOT;
}

static enum untold why_other_kind(const struct compare_rules *rules, uint64_t entry,
				  const struct truth_map *map)
{
	if (map->shared || !map->file)
		return UNTOLD_NOT;

	/* back from a copy to the file: it was truncated, and extended again */
	return unless(rules->pages, entry & MIRROR_PTE_FILE ? UNTOLD_COPY : UNTOLD_FILE);
}

static bool same_rights(uint64_t entry, const struct truth_map *map)
{
	/* a page can be read-only in a writable mapping: zero pages, copies to come */
	return !!(entry & MIRROR_PTE_READ) == map->read &&
	       !!(entry & MIRROR_PTE_EXEC) == map->exec &&
	       (!(entry & MIRROR_PTE_WRITE) || map->write);
}

/* A difference counts more than what was not told. */
static void note(struct compare_result *result, enum compare what, enum untold why)
{
	if (result->what == COMPARE_SAME || (result->why != UNTOLD_NOT && why == UNTOLD_NOT))
		*result = (struct compare_result) { what, why };
}

struct compare_result compare_page(const struct compare_rules *rules, uint64_t entry,
				   uint64_t word, const struct truth_map *map)
{
	struct compare_result result = { COMPARE_SAME, UNTOLD_NOT };

	if (!(entry & MIRROR_ENTRY_VALID) || !(entry & (MIRROR_PTE_PRESENT | MIRROR_PTE_SWAPPED))) {
		result.what = word & TRUTH_PRESENT ? COMPARE_UNKNOWN : COMPARE_NOTHING;
		return result;
	}

	if (!map) {
		note(&result, COMPARE_UNMAPPED, why_other_map(rules, entry, map));
		return result;
	}

	/* that there was no page is good to know, and no promise */
	if (!(entry & MIRROR_PTE_PRESENT))
		return result;

	if (!!(entry & MIRROR_PTE_SHARED) != map->shared) {
		note(&result, COMPARE_SHARED, why_other_map(rules, entry, map));
		return result;
	}

	if (!same_rights(entry, map))
		note(&result, COMPARE_RIGHTS, unless(rules->rights, UNTOLD_MPROTECT));

	if (!(word & TRUTH_PRESENT)) {
		note(&result, COMPARE_GONE, why_gone(rules, entry, word, map));
		return result;
	}

	if (!!(entry & MIRROR_PTE_FILE) != !!(word & TRUTH_FILE))
		note(&result, COMPARE_KIND, why_other_kind(rules, entry, map));
	if (entry & MIRROR_PTE_WRITTEN && word & TRUTH_UFFD_WP)
		note(&result, COMPARE_WRITTEN, UNTOLD_NOT);

	return result;
}
