"""What a study of this size could have seen, and what it would take to see the margin.

Planned from the spread of the paired difference alone; the difference that was found plays no part
(Hoenig and Heisey 2001, The abuse of power). With standard error SE and the design's degrees of
freedom, the minimum detectable effect is (t[1 - alpha / 2] + t[0.8]) SE (Bloom 1995, Minimum
detectable effects). Its variance is a part from groups, which falls with their number, and a part
from training seeds, which falls with theirs.

alpha is divided by the number of pairs of entries where the study corrects for them. Bonferroni
asks that of every p-value and Holm of the smallest, so most corrections see a little more than is
said here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf, sqrt
from typing import Any

from regatta.analysis.bootstrap import Bootstrap, Spread
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.paired import NO_SPREAD, difference_of
from regatta.analysis.pairs import only
from regatta.analysis.tables import csv_text
from regatta.analysis.wording import count, count_points, plural, points

POWER = 0.8
MOST_GROUPS = 10_000_000
MOST_SEEDS = 1_000
"""Beyond these a number is no plan any more."""

NOISE = ("dominated_by", "seed_variance_share", "seeds_to_halve", "narrowing_by_seeds")
PLAN = (
    "se_points",
    "degrees_of_freedom",
    "mde_points",
    "power_at_margin",
    "groups_needed",
    *NOISE,
)
COLUMNS = ("first", "second", "groups", "seeds", *PLAN, "reason")

ONE_GROUP = "all samples belong to one group, so there is no spread to plan from"
NO_VARIATION = "every group gives the same difference, so there is no spread to plan from"
ONE_SEED = "training noise cannot be estimated from one seed"


def power_section(
    judged: JudgedStudy, bootstrap: Bootstrap, headline: int
) -> dict[str, Any] | None:
    """Section `power` of comparison.json, at the headline; None with a single entry."""
    names = judged.entries
    if len(names) < 2:
        return None
    settings = judged.study.compare
    margin = settings.equivalence_margin_points
    pairs = list(combinations(range(len(names)), 2))
    tests = 1 if settings.correction == "none" else len(pairs)
    alpha = (1 - bootstrap.confidence) / tests
    column_C1 = only(judged, headline)[:, None]
    found = []
    for i, j in pairs:
        spread = bootstrap.spread(difference_of(i, j, column_C1), entries=(i, j))
        seeds = (bootstrap.seeds[i], bootstrap.seeds[j])
        row = _planned(spread, seeds, bootstrap, alpha, margin)
        row = {"first": names[i], "second": names[j], **row}
        found.append({**row, "sentence": _sentence(row, margin, judged.group_word)})
    return {
        "condition": judged.conditions[headline].id,
        "n": bootstrap.samples,
        "groups": bootstrap.groups,
        "replicates": len(bootstrap.replicates),
        "power": POWER,
        "alpha": round(1 - bootstrap.confidence, 12),
        "alpha_per_test": round(alpha, 12),
        "tests": tests,
        "correction": settings.correction,
        "margin_points": margin,
        "method": "t approximation on the clustered bootstrap's standard error of the paired "
        "difference",
        "pairs": found,
        "sentence": _summary(found),
    }


def power_files(section: dict[str, Any] | None) -> dict[str, str]:
    """File name -> text: one row per pair."""
    if section is None:
        return {}
    rows = ([pair[key] for key in COLUMNS] for pair in section["pairs"])
    return {"power.csv": csv_text(COLUMNS, rows)}


@dataclass(frozen=True)
class Design:
    """Where the variance of a difference comes from, with as many groups and seeds as there are.

    Seeds are those of the two entries; `seed_variance` is taken to be the same training noise in
    both.
    """

    groups: int
    seeds: tuple[int, int]
    group_variance: float
    seed_variance: float

    @property
    def standard_error(self) -> float:
        return sqrt(self.group_variance + self.seed_variance)

    @property
    def freedom(self) -> float:
        """Welch and Satterthwaite over the two parts, as for the intervals."""
        parts = ((self.group_variance, self.groups - 1), (self.seed_variance, sum(self.seeds) - 2))
        spread = sum(variance**2 / freedom for variance, freedom in parts if variance > 0)
        whole = (self.group_variance + self.seed_variance) ** 2
        return whole / spread if spread > 0 else self.groups - 1.0

    def with_groups(self, groups: int) -> Design:
        """Other groups of the same kind and mean size."""
        shrunk = self.group_variance * self.groups / groups
        return replace(self, groups=groups, group_variance=shrunk)

    def with_seeds(self, seeds: float) -> Design:
        """This many seeds for both entries; inf = as if training noise were known."""
        now = 2 / (1 / self.seeds[0] + 1 / self.seeds[1])
        shrunk = self.seed_variance * now / seeds
        count = self.seeds if seeds == inf else (int(seeds), int(seeds))
        return replace(self, seeds=count, seed_variance=shrunk)


def detectable_effect(design: Design, *, alpha: float, power: float = POWER) -> float:
    """The difference that a two-sided t test at `alpha` finds with `power` (Bloom 1995)."""
    from scipy.stats import t

    freedom = design.freedom
    factor = t.ppf(1 - alpha / 2, freedom) + t.ppf(power, freedom)
    return float(factor * design.standard_error)


def power_at(effect: float, design: Design, *, alpha: float) -> float:
    """Chance that a two-sided t test at `alpha` finds a true difference of `effect`.

    The t distribution is shifted by effect / SE, so that power_at(detectable_effect(...)) is the
    power asked for, but for the far tail.
    """
    from scipy.stats import t

    freedom = design.freedom
    critical, shift = t.ppf(1 - alpha / 2, freedom), effect / design.standard_error
    return float(t.sf(critical - shift, freedom) + t.cdf(-critical - shift, freedom))


def groups_for(effect: float, design: Design, *, alpha: float) -> int | None:
    """The fewest groups that find `effect` with POWER; None where no number does."""
    return fewest(
        lambda groups: detectable_effect(design.with_groups(groups), alpha=alpha) <= effect,
        first=2,
        last=MOST_GROUPS,
    )


def seeds_to_halve(design: Design, *, confidence: float) -> int | None:
    """The fewest seeds per entry that halve the interval; None where no number does."""
    wanted = half_width(design, confidence=confidence) / 2
    return fewest(
        lambda seeds: half_width(design.with_seeds(seeds), confidence=confidence) <= wanted,
        first=max(design.seeds) + 1,
        last=MOST_SEEDS,
    )


def half_width(design: Design, *, confidence: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, design.freedom) * design.standard_error)


def fewest(is_enough: Callable[[int], bool], *, first: int, last: int) -> int | None:
    """The first number from `first` on that is enough, by doubling and then halving the gap."""
    low, high = first - 1, first
    while not is_enough(high):
        if high >= last:
            return None
        low, high = high, min(2 * high, last)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _planned(
    spread: Spread | None, seeds: tuple[int, int], bootstrap: Bootstrap, alpha: float, margin: float
) -> dict[str, Any]:
    """The numbers of one pair, in points; None with a reason where there is no spread."""
    row: dict[str, Any] = {"groups": bootstrap.groups, "seeds": list(seeds)}
    if spread is None or spread.standard_error[0] <= NO_SPREAD:
        reason = ONE_GROUP if spread is None else NO_VARIATION
        return {**row, **dict.fromkeys(PLAN), "reason": reason}
    design = Design(bootstrap.groups, seeds, float(spread.groups[0]), float(spread.seeds[0]))
    return {
        **row,
        "se_points": 100 * design.standard_error,
        "degrees_of_freedom": design.freedom,
        "mde_points": 100 * detectable_effect(design, alpha=alpha),
        "power_at_margin": power_at(margin / 100, design, alpha=alpha),
        "groups_needed": groups_for(margin / 100, design, alpha=alpha),
        **_noise_part(design, confidence=bootstrap.confidence),
    }


def _noise_part(design: Design, *, confidence: float) -> dict[str, Any]:
    """What training seeds contribute, and what more of them would do; None with one seed."""
    if min(design.seeds) == 1:
        return {**dict.fromkeys(NOISE), "reason": ONE_SEED}
    now = half_width(design, confidence=confidence)
    known_noise = half_width(design.with_seeds(inf), confidence=confidence)
    share = design.seed_variance / design.standard_error**2
    return {
        "dominated_by": "seeds" if share > 0.5 else "groups",
        "seed_variance_share": share,
        "seeds_to_halve": seeds_to_halve(design, confidence=confidence),
        "narrowing_by_seeds": 1 - known_noise / now,
        "reason": "",
    }


def _sentence(row: dict[str, Any], margin: float, word: str) -> str:
    names = f"{row['first']} and {row['second']}"
    if row["mde_points"] is None:
        return f"nothing can be planned for {names}: {row['reason']}"
    parts = [_reach(row, names, word), _margin(row, margin, word), _noise(row, word)]
    return "; ".join(part for part in parts if part)


def _reach(row: dict[str, Any], names: str, word: str) -> str:
    """What is found with 80 % power."""
    first, second = row["seeds"]
    seeds = count(first, "seed") if first == second else f"{first} and {second} seeds"
    basis = f"with {count(row['groups'], word)} and {seeds}"
    if row["mde_points"] > 100:
        return f"{basis} no difference between {names} can be detected with 80 % power"
    return (
        f"{basis} the study detects a difference of {points(row['mde_points'])} points between "
        f"{names} with 80 % power"
    )


def _margin(row: dict[str, Any], margin: float, word: str) -> str:
    size = f"one as large as the margin, {count_points(margin)}"
    chance = f"{size}, with {percent(row['power_at_margin'])}"
    needed = row["groups_needed"]
    if needed is None:
        return f"{chance}, and more {plural(word)} alone do not bring it to 80 %"
    if needed <= row["groups"]:
        return chance
    return f"{chance}, and with 80 % from {needed:,} {plural(word)} on"


def percent(share: float) -> str:
    """A chance in words; a chance that is never 0 or 1 is never said to be."""
    text = f"{100 * share:.0f} %"
    return {"0 %": "less than 1 %", "100 %": "more than 99 %"}.get(text, text)


def _noise(row: dict[str, Any], word: str) -> str:
    """What training seeds have to do with it."""
    if row["dominated_by"] is None:
        return row["reason"]
    larger, smaller = "seeds", plural(word)
    if row["dominated_by"] == "groups":
        larger, smaller = smaller, larger
    if row["seeds_to_halve"] is not None:
        more = f"{row['seeds_to_halve']} seeds per entry would halve it"
    elif row["narrowing_by_seeds"] < 0.005:
        more = "more seeds do not narrow it"
    else:
        more = f"more seeds narrow it by at most {100 * row['narrowing_by_seeds']:.0f} %"
    return f"{larger}, more than {smaller}, set the width of the interval, and {more}"


def _summary(rows: list[dict[str, Any]]) -> str:
    """What the study could see, over all pairs that have an answer."""
    found = [row["mde_points"] for row in rows if row["mde_points"] is not None]
    if not found:
        return f"no detectable difference can be given: {rows[0]['reason']}"
    if min(found) > 100:
        return "this study detects no difference between entries with 80 % power"
    low = points(min(found))
    high = points(max(found)) if max(found) <= 100 else "more than 100"
    size = f"{low} points" if low == high else f"{low} to {high} points, depending on the pair,"
    return f"this study detects differences between entries of {size} with 80 % power"
