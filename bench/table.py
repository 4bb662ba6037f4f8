# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of bench/run, and how they are shown."""


def quantile(values, q):
    """Of sorted values."""
    return values[min(len(values) - 1, int(q * len(values)))]


def summary(values):
    values = sorted(values)
    return {"n": len(values), "min": values[0], "p10": quantile(values, 0.1),
            "median": quantile(values, 0.5), "p90": quantile(values, 0.9),
            "p99": quantile(values, 0.99), "max": values[-1]}


def show_ns(ns):
    if ns < 100:
        return f"{ns:.1f} ns"
    if ns < 1000:
        return f"{ns:.0f} ns"
    if ns < 1000000:
        return f"{ns / 1000:.2f} us"
    return f"{ns / 1000000:.2f} ms"


def show_bytes(value):
    return f"{value:.3f} B" if value < 10 else f"{value:.1f} B"


def show_rate(per_second):
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if per_second >= size:
            return f"{per_second / size:.1f} {unit}"
    return f"{per_second:.1f}"


# What a program tells: by how much it is multiplied, how the product is shown.
UNITS = {
    "ns": (1, show_ns),
    "ps": (0.001, show_ns),
    "millibytes": (0.001, show_bytes),
    "count": (1, "{:.0f}".format),
}
UNIT_NAMES = {"ns": "ns", "ps": "ns", "millibytes": "bytes", "count": "count"}


def show_ratio(ratio):
    return "-" if ratio is None else f"{ratio['median']:.2f}"


def head(machine):
    print(f"{machine['processor']}, {len(machine['cpus_allowed'])} of {machine['cpus']} CPUs, "
          f"Linux {machine['kernel']}, load {machine['load']:.2f}"
          f"{', quick' if machine['quick'] else ''}")
    print("Medians, with the 10th and 90th percentile; x: ratio of medians in the same round.\n"
          "Only one contestant runs at a time: a load well above 1 is other programs', and then\n"
          "whatever crosses processors is not to be trusted.")


class Part:
    """Some figures of a contestant that measures several things in one turn, as one row."""

    def __init__(self, contestant, part):
        self.row = {**contestant.row, **part}
        self.done = contestant.done
        prefix = part["prefix"]
        self.samples = {f[len(prefix):]: rounds for f, rounds in contestant.samples.items()
                        if f.startswith(prefix)}
        self.missing = {f[len(prefix):]: why for f, why in contestant.missing.items()
                        if f.startswith(prefix)}


def rows_of(contestants):
    for contestant in contestants:
        parts = contestant.row.get("parts")
        if parts:
            yield from (Part(contestant, part) for part in parts)
        else:
            yield contestant


class Result:
    """What the contestants of one group measured."""

    def __init__(self, group, contestants, skipped, load, rounds, seconds):
        self.group = group
        self.load = load
        self.rounds = rounds
        self.seconds = seconds
        self.skipped = skipped
        self.contestants = {c.row["key"]: c for c in rows_of(contestants)}

    def unit(self, figure):
        if figure == "daemon-cpu":
            return "ns"
        return self.group.get("units", {}).get(figure, self.group.get("unit", "ns"))

    def scale(self, figure):
        return UNITS[self.unit(figure)][0]

    def figure(self, key, figure):
        """In ns, or what its unit is; None if it was not measured."""
        rounds = self.contestants[key].samples.get(figure)
        if not rounds:
            return None
        scale = self.scale(figure)
        s = summary([v * scale for values in rounds for v in values])
        s["round_medians"] = [self.median(values) * scale for values in rounds]
        return s

    @staticmethod
    def median(values):
        return quantile(sorted(values), 0.5)

    def ratio(self, key, figure, reference):
        """Of the two medians of each round."""
        mine = self.contestants[key].samples.get(figure, [])
        theirs = self.contestants[reference].samples.get(figure, [])
        ratios = [self.median(a) / self.median(b) for a, b in zip(mine, theirs)
                  if self.median(b)]
        return summary(ratios) if ratios else None

    def ratios(self, key, figure):
        found = {}
        for name, references in self.contestants[key].row.get("refs", {}).items():
            for reference in references:
                if reference in self.contestants and reference != key:
                    found[name] = self.ratio(key, figure, reference)
                    break
        return found

    def ratio_names(self, figure):
        names = []
        if figure in self.group.get("no_ratios", ()):
            return names
        for contestant in self.contestants.values():
            names += [n for n in contestant.row.get("refs", {}) if n not in names]
        return names

    def rate(self, key, figure, s):
        """How many pages a second, of a figure that is of that many."""
        row = self.contestants[key].row
        pages = row.get("pages", self.group.get("pages", {})).get(figure)
        return pages / s["median"] * 1e9 if pages and s["median"] else None

    def show_figure(self, figure, names):
        rows = [(key, self.figure(key, figure)) for key in self.contestants]
        rows = [(key, s) for key, s in rows if s]
        if not rows:
            return
        show = UNITS[self.unit(figure)][1]
        rates = {key: self.rate(key, figure, s) for key, s in rows}
        has_rates = any(rates.values())
        names = [n for n in names if any(self.ratios(key, figure).get(n) for key, _ in rows)]
        print(f"\n  {figure:<50}{'median':>10}{'p10':>10}{'p90':>10}" +
              (f"{'pages/s':>12}" if has_rates else "") +
              "".join(f"{'x ' + name:>12}" for name in names))
        for key, s in rows:
            ratios = self.ratios(key, figure)
            print(f"  {self.contestants[key].row['label']:<50}" +
                  "".join(f"{show(s[q]):>10}" for q in ("median", "p10", "p90")) +
                  (f"{show_rate(rates[key]) if rates[key] else '-':>12}" if has_rates else "") +
                  "".join(f"{show_ratio(ratios.get(name)):>12}" for name in names))

    def show_missing(self):
        for key, reason in self.skipped.items():
            print(f"  not measured: {key}: {reason}")
        for key, contestant in self.contestants.items():
            for figure, reason in contestant.missing.items():
                print(f"  not measured: {key}, {figure}: {reason}")

    def show(self):
        done, planned, seconds = self.rounds
        print(f"\n{self.group['name']}: {self.group['title']}\n"
              f"  {done} of {planned} rounds in {seconds:.1f} s, {self.seconds:.1f} s with getting "
              f"ready; load {self.load:.2f}")
        for figure in self.group["figures"]:
            self.show_figure(figure, self.ratio_names(figure))
        for key in list(self.contestants)[:1]:
            empty = self.figure(key, "empty")
            if empty:
                print(f"\n  measuring nothing takes {show_ns(empty['median'])}")
        for note in self.group.get("notes", []):
            print("\n  " + note.replace("\n", "\n  "))
        self.show_missing()

    def as_json(self):
        rows = {}
        for key, c in self.contestants.items():
            rows[key] = {
                "label": c.row["label"], "args": c.row["args"], "daemon": c.row.get("daemon"),
                "checked": c.done, "unit": "ns", "missing": c.missing,
                "units": {f: UNIT_NAMES[self.unit(f)] for f in c.samples},
                "figures": {f: self.figure(key, f) for f in c.samples},
                "ratios": {f: self.ratios(key, f) for f in c.samples},
            }
        return {"title": self.group["title"], "program": self.group["program"], "rows": rows,
                "load": self.load, "skipped": self.skipped, "notes": self.group.get("notes", []),
                "rounds": self.rounds[0], "rounds_planned": self.rounds[1],
                "seconds": round(self.seconds, 1)}
