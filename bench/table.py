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


def show_ratio(ratio):
    return "-" if ratio is None else f"{ratio['median']:.2f}"


def head(machine):
    print(f"{machine['processor']}, {len(machine['cpus_allowed'])} of {machine['cpus']} CPUs, "
          f"Linux {machine['kernel']}, load {machine['load']:.2f}"
          f"{', quick' if machine['quick'] else ''}")
    print("Medians, with the 10th and 90th percentile; x: ratio of medians in the same round.\n"
          "Only one contestant runs at a time: a load well above 1 is other programs', and then\n"
          "whatever crosses processors is not to be trusted.")


class Result:
    """What the contestants of one group measured."""

    def __init__(self, group, contestants, skipped, load):
        self.group = group
        self.load = load
        self.skipped = skipped
        self.contestants = {c.row["key"]: c for c in contestants}

    def scale(self, figure):
        unit = self.group.get("units", {}).get(figure, self.group.get("unit", "ns"))
        return 0.001 if unit == "ps" and figure != "daemon-cpu" else 1

    def figure(self, key, figure):
        """In ns; None if it was not measured."""
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
        for row in self.group["rows"]:
            names += [n for n in row.get("refs", {}) if n not in names]
        return names

    def show_figure(self, figure, names):
        rows = [(key, self.figure(key, figure)) for key in self.contestants]
        rows = [(key, s) for key, s in rows if s]
        if not rows:
            return
        print(f"\n  {figure:<50}{'median':>10}{'p10':>10}{'p90':>10}" +
              "".join(f"{'x ' + name:>12}" for name in names))
        for key, s in rows:
            ratios = self.ratios(key, figure)
            print(f"  {self.contestants[key].row['label']:<50}" +
                  "".join(f"{show_ns(s[q]):>10}" for q in ("median", "p10", "p90")) +
                  "".join(f"{show_ratio(ratios.get(name)):>12}" for name in names))

    def show(self):
        print(f"\n{self.group['name']}: {self.group['title']} (load {self.load:.2f})")
        for figure in self.group["figures"]:
            self.show_figure(figure, self.ratio_names(figure))
        for key in list(self.contestants)[:1]:
            empty = self.figure(key, "empty")
            if empty:
                print(f"\n  measuring nothing takes {show_ns(empty['median'])}")
        for key, reason in self.skipped.items():
            print(f"  skipped: {key}: {reason}")

    def as_json(self):
        rows = {}
        for key, c in self.contestants.items():
            rows[key] = {
                "label": c.row["label"], "args": c.row["args"], "daemon": c.row.get("daemon"),
                "checked": c.done, "unit": "ns",
                "figures": {f: self.figure(key, f) for f in c.samples},
                "ratios": {f: self.ratios(key, f) for f in c.samples},
            }
        return {"title": self.group["title"], "program": self.group["program"], "rows": rows,
                "load": self.load, "skipped": self.skipped}
