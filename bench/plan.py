# SPDX-License-Identifier: GPL-2.0-or-later
"""What bench/run compares with what.

A group: name, title, program (bench-PROGRAM), rounds, counts and seconds (after which no new
round is begun) as (normal, quick), turns, rows, figures to show in order, the references that
ratios are of, units of figures, pages: {figure: how many it is of}, notes.
A row: key, label, args, daemon (a key of DAEMONS), refs: {name of the ratio: [key, ...]}, of
which the first that is there counts, instead_of: key of a row, which this one is only for if
that cannot run, program and turns if they are not the group's, needs: the package that it is
built with, slow: not with --quick, ready_s: how long it may take to get ready, and parts: rows
that are made of one contestant, each of the figures that begin with its prefix.
Processors are by index: 0 is the first that we may use.
"""

DAEMONS = {
    "follow": {"args": []},
    "stay": {"args": ["--no-follow-cpu"]},
    "on-0": {"args": ["--no-follow-cpu"], "cpu": 0},
    "on-1": {"args": ["--no-follow-cpu"], "cpu": 1},
}

PLACES = {      # where the reader is, the acting thread being on processor 0
    "same": ("same CPU", ["cpu=0", "reader=0"]),
    "other": ("other CPU", ["cpu=0", "reader=1"]),
    "free": ("not bound", []),
    "spin": ("same CPU, a thread computes", ["cpu=0", "reader=0", "spin=1"]),
}


def peers():
    """Native, bare readers and registration caches, in each placement."""
    yield {"key": "native", "label": "nobody listens", "args": ["how=none", "cpu=0"]}
    yield {"key": "native-free", "label": "nobody listens, not bound", "args": ["how=none"]}
    yield {"key": "native-spin", "label": "nobody listens, a thread computes",
           "args": ["how=none", "cpu=0", "spin=1"]}
    for place, (label, args) in PLACES.items():
        yield {"key": f"reader-{place}", "label": f"bare reader: thread, {label}",
               "args": ["how=reader"] + args}
    for place, (label, args) in list(PLACES.items())[:3]:
        yield {"key": f"reader-process-{place}", "label": f"bare reader: process, {label}",
               "args": ["how=reader", "in=process"] + args}
    for place, (label, args) in list(PLACES.items())[:3]:
        yield {"key": f"reader-poll-{place}", "label": f"bare reader: poll+read, {label}",
               "args": ["how=reader", "read=poll"] + args}
    for place, (label, args) in PLACES.items():
        yield {"key": f"libfabric-{place}", "label": f"libfabric's own monitor, {label}",
               "args": ["how=fabric"] + args, "program": "fabric"}
    for place, (label, args) in PLACES.items():
        yield {"key": f"cache-{place}", "label": f"stand-in for libfabric, {label}",
               "args": ["how=cache"] + args, "instead_of": f"libfabric-{place}"}


def mirror(key, label, daemon, args, place):
    return {"key": key, "label": label, "args": args, "daemon": daemon, "place": place}


def mirrors():
    """mirrord: each consumer, each daemon, acting thread bound or not."""
    consumers = [("none", "nobody dispatches", []), ("busy", "busy consumer", ["reader=1"]),
                 ("sleep", "sleeping consumer", [])]
    for kind, label, more in consumers:
        args = ["how=mirror", f"consumer={kind}"]
        yield mirror(f"mirrord-{kind}", f"mirrord: {label}, follows", "follow",
                     args + ["cpu=0"] + more, "same")
        yield mirror(f"mirrord-{kind}-free", f"mirrord: {label}, follows, not bound", "follow",
                     args, "free")
        yield mirror(f"mirrord-{kind}-stay", f"mirrord: {label}, --no-follow-cpu", "stay",
                     args, "free")
        yield mirror(f"mirrord-{kind}-same", f"mirrord: {label}, on the same CPU", "on-0",
                     args + ["cpu=0"] + more, "same")
        yield mirror(f"mirrord-{kind}-other", f"mirrord: {label}, on the other CPU", "on-1",
                     args + ["cpu=0"] + more, "other")


def unwatched():
    yield mirror("target-unarmed", "a target, memory not registered", "follow",
                 ["how=mirror-unarmed", "cpu=0"], "same")
    yield mirror("target-apart", "registered, watched elsewhere only", "follow",
                 ["how=mirror-apart", "cpu=0"], "same")
    yield mirror("target-nobody", "registered, nothing watched at all", "follow",
                 ["how=mirror-apart", "elsewhere=0", "cpu=0"], "same")
    yield mirror("mirrord-threads", "mirrord: 16 idle threads more, follows", "follow",
                 ["how=mirror", "idle=16", "cpu=0"], "same")
    yield mirror("mirrord-spin", "mirrord: a thread computes, follows", "follow",
                 ["how=mirror", "spin=1", "cpu=0"], "same")


def change_rows():
    rows = list(peers()) + list(mirrors()) + list(unwatched())
    for row in rows:
        # A thread that is busy on another processor makes every change interrupt that one;
        # this is no cost of mirrord's, so who has a busy consumer is compared with the same.
        spins = "consumer=busy" in row["args"] or "spin=1" in row["args"]
        place = row.get("place")
        row["refs"] = {"native": ["native-spin" if spins else
                                  "native" if "cpu=0" in row["args"] else "native-free"]}
        if place:
            if spins and place != "other":
                place = "spin"
            row["refs"]["reader"] = [f"reader-{place}"]
            row["refs"]["libfabric"] = [f"libfabric-{place}", f"cache-{place}"]
    return rows


def latency_rows():
    rows = [{"key": f"reader-{place}", "label": f"bare reader: thread, {label}",
             "args": ["how=reader"] + args}
            for place, (label, args) in list(PLACES.items())[:3]]
    # wait, label, more arguments, the reader that has as many processors to cross
    waits = [("busy", "busy on the other CPU", ["reader=1"], "same"),
             ("sleep", "in mirror_wait(), same CPU", ["reader=0"], "same"),
             ("sleep", "in mirror_wait(), other CPU", ["reader=1"], "other"),
             ("sleep", "in mirror_wait(), not bound", [], "free"),
             ("poll", "in poll(), not bound", [], "free")]
    for where in ("thread", "process"):
        for number, (kind, label, more, place) in enumerate(waits):
            rows.append({"key": f"{where}-{kind}-{number}", "label": f"{where} {label}",
                         "args": [f"in={where}", f"wait={kind}", "cpu=0"] + more,
                         "daemon": "follow", "refs": {"reader": [f"reader-{place}"]}})
    return rows


def lookup_rows():
    rows = []
    for strict in (0, 1):
        for threads in (1, 2):
            label = f"{threads} thread{'s' * (threads > 1)}{', strict' * strict}"
            rows.append({"key": f"lookup-{threads}-{'strict' if strict else 'plain'}",
                         "label": label, "args": [f"threads={threads}", f"strict={strict}"],
                         "daemon": "follow", "refs": {"plain": [f"lookup-{threads}-plain"]}})
    return rows


def crowd_rows(hit, asleep):
    rows = []
    for consumers in (1, 8, 64):
        for notifiers in (1,) if asleep else (1, 100, 1000):
            plural = f"{consumers} consumer{'s' * (consumers > 1)}"
            rows.append({"key": f"{consumers}x{notifiers}",
                         "label": f"{plural} x {notifiers} notifier{'s' * (notifiers > 1)}",
                         "args": [f"consumers={consumers}", f"notifiers={notifiers}",
                                  f"hit={hit}", f"asleep={asleep}", "cpu=0"],
                         "daemon": "follow", "refs": {"1x1": ["1x1"]}})
    return rows


def target_rows():
    return [{"key": f"targets-{n}", "label": f"{n} target{'s' * (n > 1)}",
             "args": [f"targets={n}"], "daemon": "follow",
             "refs": {"one": ["targets-1"]}} for n in (1, 50, 200)]


FINDERS = [     # key, label, program, package that it needs, daemon, what it is compared with
    ("tlb", "mirror_tlb_translate()", "find", None, "follow", ["pgtable", "ucx", "libfabric"]),
    ("device", "mirror_device_translate()", "find", None, "follow",
     ["pgtable", "ucx", "libfabric"]),
    ("regcache", "mirror_regcache_get()+put()", "find", None, "follow", ["ucx", "libfabric"]),
    ("ucx-rcache", "UCX: ucs_rcache_get()+put()", "find-ucx", "libucx-dev", None, []),
    ("ucx-pgtable", "UCX: ucs_pgtable_lookup() alone", "find-ucx", "libucx-dev", None, []),
    ("fabric", "libfabric: fi_mr_reg()+fi_close()", "find-fabric", "libfabric-dev", None, []),
]
FOUND_BY = {"pgtable": "ucx-pgtable", "ucx": "ucx-rcache", "libfabric": "fabric"}


def find_rows():
    for regions in (1, 1000, 1000000):
        plural = f"{regions:,} region{'s' * (regions > 1)}"
        for key, label, program, needs, daemon, refs in FINDERS:
            row = {"key": f"{key}-{regions}", "label": f"{label}, {plural}", "program": program,
                   "args": [f"how={key}", f"regions={regions}"], "daemon": daemon,
                   "refs": {ref: [f"{FOUND_BY[ref]}-{regions}"] for ref in refs},
                   "slow": regions > 1000, "ready_s": 20}
            if needs:
                row["needs"] = needs
            yield row
            if key in ("device", "regcache") and regions == 1000:
                yield {**row, "key": f"{key}-strict", "label": f"{label}, {plural}, strict",
                       "args": row["args"] + ["strict=1"]}


FIND_NOTES = [
    "near: among 32 neighbours at most; far: all over; miss: a cache registers it, with\n"
    "callbacks that do nothing, a table says no; drop: munmap() of what was missed, for each\n"
    "region, until it is deregistered; -1, -2: threads at the same time.",
    "stale: of 100 regions whose memory was unmapped and mapped anew by plain system calls,\n"
    "how many were found as if nothing had happened.  libmirror validates each hit.\n"
    "libfabric's monitor holds munmap() until its cache is told.  UCX does not validate: a hit\n"
    "is what is in its tree, and what takes it out of there are hooks in functions of the C\n"
    "library (off here: we tell it), which see no plain system call and no other process.  So\n"
    "its numbers are those of a cache that can find memory that is gone, and a device that is\n"
    "given it writes over somebody else's data.",
]

SNAPSHOT_KINDS = ["4k", "thp", "half", "sparse"]
SNAPSHOT_PAGES = {"4k": 262144, "thp": 262144, "half": 131072, "sparse": 1000}


def snapshot_rows():
    ways = [("raw", "PAGEMAP_SCAN alone"), ("fault", "mirror_fault(), snapshot"),
            ("fill", "mirror_target_fill()"), ("walk", "mirror_table_walk() of all that is there")]
    yield {"key": "snapshot", "args": ["mib=1024"], "daemon": "follow", "ready_s": 30,
           "parts": [{"key": key, "label": label, "prefix": key + ".",
                      "refs": {"raw": ["raw"]} if key != "raw" else {}}
                     for key, label in ways]}


def table_rows():
    shapes = [("1g", "device: 1 GiB as one translation"), ("2m", "device: 512 of 2 MiB"),
              ("4k", "device: 262,144 of 4 KiB"),
              ("each", "device: 262,144 of 4 KiB, dropped one by one"),
              ("sparse", "device: 10,000 of 4 KiB, strewn over 1 TiB")]
    pages = {"1g": 262144, "2m": 262144, "4k": 262144, "each": 262144, "sparse": 10000}
    yield {"key": "device", "args": [], "daemon": "follow",
           "parts": [{"key": key, "label": label, "prefix": key + ".",
                      "pages": {"map": pages[key], "unmap": pages[key]},
                      "refs": {"at once": ["4k"]} if key == "each" else {}}
                     for key, label in shapes]}
    kinds = [("4k", "mirror table: 262,144 pages, side by side"),
             ("thp", "mirror table: 512 huge pages, side by side"),
             ("half", "mirror table: every second page of 1 GiB"),
             ("sparse", "mirror table: 1,000 pages, strewn over 1 TiB")]
    yield {"key": "target", "args": ["mib=1024"], "daemon": "follow", "program": "snapshot",
           "turns": [("memory", (1, 1))], "ready_s": 30,
           "parts": [{"key": "target-" + key, "label": label, "prefix": f"{key}."}
                     for key, label in kinds]}


def drop_rows():
    yield {"key": "native", "label": "nobody listens", "args": ["cpu=0"]}
    for key, label, unit in (("1g", "a device with 1 translation", 1 << 30),
                             ("2m", "a device with 512 translations", 2 << 20),
                             ("4k", "a device with 262,144 translations", 4096)):
        yield {"key": key, "label": label, "args": [f"unit={unit}", "cpu=0"], "daemon": "follow",
               "refs": {"native": ["native"], "1g": ["1g"]}}


def crowd(name, title, hit, asleep):
    return {"name": name, "title": title, "program": "crowd", "rounds": (15, 3), "seconds": (8, 3),
            "turns": [("munmap", (12, 4))], "warm_up": [("munmap", 8)],
            "rows": crowd_rows(hit, asleep), "figures": ["munmap", "delivered", "daemon-cpu"]}


GROUPS = [
    {"name": "change", "title": "What a change costs who makes it", "program": "change",
     "rounds": (40, 4), "seconds": (45, 10), "warm_up": [("munmap", 100)],
     "turns": [("empty", (50, 20)), ("munmap", (200, 80)), ("dontneed", (200, 80)),
               ("dontneed-2m", (12, 4))],
     "rows": change_rows(), "no_ratios": ["arm", "daemon-cpu"],
     "figures": ["munmap", "mmap+munmap", "dontneed", "dontneed-2m", "arm", "daemon-cpu"]},
    {"name": "latency", "title": "From just before munmap() until a consumer knows",
     "program": "latency", "rounds": (20, 3), "seconds": (12, 4), "warm_up": [("munmap", 70)],
     "turns": [("munmap", (100, 40))], "rows": latency_rows(),
     "figures": ["latency", "munmap", "daemon-cpu"], "no_ratios": ["daemon-cpu"]},
    {"name": "ring", "title": "Records: one munmap() makes 1000 of them; per record",
     "program": "ring", "rounds": (20, 3), "seconds": (8, 3), "unit": "ps",
     "warm_up": [("burst", 5)],
     "turns": [("burst", (20, 8)), ("stream", (3, 1))],
     "rows": [{"key": "ring", "label": "1000 notifiers, one ring", "daemon": "follow",
               "args": ["cpu=0", "reader=1"]}],
     "figures": ["publish", "consume", "stream"]},
    {"name": "lookup", "title": "Is a translation still good?", "program": "lookup",
     "rounds": (20, 3), "seconds": (10, 4), "unit": "ps",
     "turns": [("retry", (100, 30)), ("begin", (10, 4))],
     "rows": lookup_rows(),
     "figures": ["retry-1", "retry-64", "begin-1", "begin-64", "call"]},
    crowd("hit", "One munmap() that everybody watches", 1, 0),
    crowd("miss", "One munmap() that one consumer watches, and many watch other memory", 0, 0),
    crowd("asleep", "One munmap() that everybody watches, in their sleep", 1, 1),
    {"name": "targets", "title": "Many targets at once (change: time of all / changes of all)",
     "program": "targets", "rounds": (8, 2), "seconds": (10, 4),
     "turns": [("munmap", (40, 20))],
     "rows": target_rows(), "figures": ["munmap", "change"], "units": {"change": "ps"}},
    {"name": "find", "title": "One address among many regions", "program": "find",
     "rounds": (10, 2), "seconds": (20, 5), "unit": "ps",
     "turns": [("hit", (100, 30)), ("miss", (10, 5)), ("stale", (100, 100))],
     "rows": list(find_rows()), "units": {"stale": "count"}, "no_ratios": ["stale"],
     "notes": FIND_NOTES,
     "figures": ["near-1", "near-2", "far-1", "far-2", "miss-1", "miss-2", "drop", "stale"]},
    {"name": "snapshot", "title": "What does the page table say?", "program": "snapshot",
     "rounds": (15, 3), "seconds": (8, 3), "turns": [("scan", (1, 1))],
     "rows": list(snapshot_rows()), "figures": SNAPSHOT_KINDS, "pages": SNAPSHOT_PAGES,
     "notes": ["4k: 1 GiB of touched pages of 4 KiB; thp: of huge pages; half: every second page\n"
               "of 1 GiB; sparse: 1,000 pages strewn over 1 TiB.  All look at the same memory, in\n"
               "the same round."]},
    {"name": "table", "title": "Page tables: to fill, to empty, and their memory for each page",
     "program": "table", "rounds": (8, 2), "seconds": (8, 3), "turns": [("drop", (1, 1))],
     "rows": list(table_rows()), "figures": ["map", "unmap", "memory"],
     "units": {"memory": "millibytes"}},
    {"name": "drop", "title": "One munmap() of 1 GiB, all of which a device knows",
     "program": "drop", "rounds": (8, 2), "seconds": (10, 4), "turns": [("munmap", (1, 1))],
     "rows": list(drop_rows()), "figures": ["munmap", "empty", "daemon-cpu"],
     "no_ratios": ["daemon-cpu"],
     "notes": ["empty: from just before munmap() until the device's table is empty too."]},
]
