"""Where two entries change places along an axis of the protocol, and whether they do at all.

Shapes: E entries, C conditions, V values of an axis, R replicates.

A curve is the difference first - second at the values of one axis, joined by straight lines (on the
axis scale: doublings of a stride or of a number of frames are equal steps). Its crossing is the
place at which the entry that leads at the low end has had its share: the length of axis over which
it is ahead. Where the sign changes once that is the zero of the curve. The length is defined in
every replicate: one that does not cross counts as crossing at the end of the axis. So the interval
of the crossing stays inside the axis exactly where both ends are decided, and is never made narrow
by leaving out the replicates without a crossing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from regatta.analysis.bootstrap import Bootstrap, Interval
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.tables import csv_text
from regatta.records.conditions import Condition

LOG2_AXES = ("stride", "frames")
PERCENT_AXES = ("coverage", "span", "position")
At = Literal["average", "headline", "only"]
Verdict = Literal["crossover", "not unique", "none shown"]


@dataclass(frozen=True)
class AxisLine:
    """Which conditions make one point each along an axis."""

    axis: str
    values: np.ndarray
    """[V], ascending."""
    places: np.ndarray
    """[V], the values on the axis scale."""
    weights_CV: np.ndarray
    """Columns sum to 1: the mean over the conditions of each value."""
    at: At
    """The mean over all settings of the other axes, those of the headline, or no other axis."""
    other: dict[str, Any]
    """Axis -> its one value ("headline") or the list of those averaged over ("average")."""

    @property
    def is_log2(self) -> bool:
        return self.axis in LOG2_AXES

    def value_at(self, place: float) -> float:
        return float(2**place) if self.is_log2 else place


def crossover_section(
    judged: JudgedStudy, bootstrap: Bootstrap, headline: int
) -> dict[str, Any] | None:
    """Section `crossover` of comparison.json; None with one entry or without a numeric axis."""
    lines, gaps = axis_lines(judged.conditions, headline)
    if len(judged.entries) < 2 or not (lines or gaps):
        return None
    curves = [
        {
            "first": judged.entries[i],
            "second": judged.entries[j],
            **crossover(bootstrap, i, j, line, names=(judged.entries[i], judged.entries[j])),
        }
        for i, j in combinations(range(len(judged.entries)), 2)
        for line in lines
    ]
    return {
        "curves": curves,
        "gaps": gaps,
        "sentences": crossover_sentences(curves, lines),
        "n": bootstrap.samples,
        "groups": bootstrap.groups,
        "seeds": list(bootstrap.seeds),
        "replicates": len(bootstrap.replicates),
        "confidence": bootstrap.confidence,
        "method": "differences joined by straight lines along the axis (log2 of "
        + " and ".join(LOG2_AXES)
        + "); the crossing in every replicate of the clustered bootstrap, percentile interval",
        "correction": "none over pairs and axes: each crossover needs two decided ends",
    }


def axis_lines(
    conditions: Sequence[Condition], headline: int
) -> tuple[list[AxisLine], list[dict[str, str]]]:
    """All lines along numeric axes, and a reason for each axis that has none."""
    lines: list[AxisLine] = []
    gaps: list[dict[str, str]] = []
    for axis in _numeric_axes(conditions):
        by_value: dict[float, dict[tuple[Any, ...], int]] = {}
        for c, condition in enumerate(conditions):
            others = tuple(item for item in condition.axes.items() if item[0] != axis)
            by_value.setdefault(float(condition.axes[axis]), {})[others] = c
        found = _lines_along(axis, by_value, conditions[headline].axes)
        lines += found
        if not found:
            reason = (
                f"the headline's other settings are judged at one value of {axis} only, and no "
                "other settings at all of its values"
            )
            gaps.append({"axis": axis, "reason": reason})
    return lines, gaps


def _numeric_axes(conditions: Sequence[Condition]) -> list[str]:
    """Axes that every condition has as a number, with two values or more."""
    names = dict.fromkeys(name for condition in conditions for name in condition.axes)
    found = []
    for name in names:
        values = [condition.axes.get(name) for condition in conditions]
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) < len(values) or len(set(numbers)) < 2:
            continue
        if name not in LOG2_AXES or min(numbers) > 0:
            found.append(name)
    return found


def _lines_along(
    axis: str, by_value: dict[float, dict[tuple[Any, ...], int]], headline: dict[str, Any]
) -> list[AxisLine]:
    """The line averaged over settings that all values have, and the one at the headline."""
    values = sorted(by_value)
    count = 1 + max(c for cells in by_value.values() for c in cells.values())
    mine = tuple(item for item in headline.items() if item[0] != axis)
    everywhere = [key for key in by_value[values[0]] if all(key in by_value[v] for v in values)]
    lines = []
    if len(everywhere) > 1:
        names = dict.fromkeys(name for key in everywhere for name, _ in key)
        other = {n: list(dict.fromkeys(dict(key).get(n) for key in everywhere)) for n in names}
        lines.append(_line(axis, values, by_value, everywhere, count, "average", other))
    held = [value for value in values if mine in by_value[value]]
    if len(held) > 1:
        at: At = "headline" if mine else "only"
        lines.append(_line(axis, held, by_value, [mine], count, at, dict(mine)))
    return lines


def _line(
    axis: str,
    values: list[float],
    by_value: dict[float, dict[tuple[Any, ...], int]],
    settings: list[tuple[Any, ...]],
    count: int,
    at: At,
    other: dict[str, Any],
) -> AxisLine:
    weights = np.zeros((count, len(values)))
    for v, value in enumerate(values):
        for key in settings:
            weights[by_value[value][key], v] = 1 / len(settings)
    numbers = np.array(values)
    places = np.log2(numbers) if axis in LOG2_AXES else numbers
    return AxisLine(axis, numbers, places, weights, at, other)


def sign_changes(differences: np.ndarray) -> np.ndarray:
    """How often the sign changes along the last axis; a 0 has no sign and touching is no change."""
    signs = np.sign(differences)
    last = np.maximum.accumulate(np.where(signs != 0, np.arange(signs.shape[-1]), 0), axis=-1)
    held = np.take_along_axis(signs, last, axis=-1)
    return (held[..., 1:] * held[..., :-1] < 0).sum(axis=-1)


def length_ahead(differences: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Length of axis over which the broken line is above 0; where it lies on 0, half of it.

    Args:
        differences: [..., V]. places: [V], ascending.
    """
    above = np.maximum(differences, 0)
    height = np.abs(differences)
    over = above[..., 1:] + above[..., :-1]
    whole = height[..., 1:] + height[..., :-1]
    share = np.divide(over, whole, out=np.full_like(whole, 0.5), where=whole > 0)
    return share @ np.diff(places)


def crossover(
    bootstrap: Bootstrap, i: int, j: int, line: AxisLine, *, names: tuple[str, str]
) -> dict[str, Any]:
    """What the data say of entries i and j along one line: differences, ends, crossing, verdict."""

    def difference(accuracy: np.ndarray) -> np.ndarray:
        found = (accuracy[..., i, :] - accuracy[..., j, :]) @ line.weights_CV
        # Sums of equal fractions may differ in the last bit; equal accuracies must tie.
        return np.where(np.abs(found) < 1e-12, 0.0, found)

    along = bootstrap.intervals(difference, entries=(i, j), collapse="difference")
    observed = difference(bootstrap.observed)
    changes = int(sign_changes(observed))
    decided = [int(np.sign(x.estimate or 0)) if x.excludes_zero else 0 for x in along]
    verdict, bracket = find_bracket(observed, decided)
    crossing = None
    if bracket is not None:
        crossing = _crossing(bootstrap, i, j, line, difference, observed, bracket)
    found: dict[str, Any] = {
        "axis": line.axis,
        "scale": "log2" if line.is_log2 else "linear",
        "at": line.at,
        "other": line.other,
        "other_words": setting_words(line.at, line.other),
        "values": line.values.tolist(),
        "difference_points": [x.scaled(100).as_dict() for x in along],
        "decided": decided,
        "sign_changes": changes,
        "verdict": verdict,
        "crossing": None if crossing is None else crossing.as_dict(),
        **_replicate_shares(difference(bootstrap.replicates)),
    }
    return found | {"sentence": crossover_sentence(found, names)}


def find_bracket(
    observed: np.ndarray, decided: Sequence[int]
) -> tuple[Verdict, tuple[int, int] | None]:
    """The verdict, and between which two values the crossing lies; None where no single one does.

    A crossover needs both ends decided in opposite directions. Of several changes of sign, the one
    between the last value decided like the low end and the first decided like the high end counts,
    if it is the only one there.

    Args:
        observed: [V]. decided: sign of each value's difference where its interval leaves out 0.
    """
    whole = (0, len(observed) - 1)
    is_single = int(sign_changes(observed)) == 1
    if decided[0] * decided[-1] >= 0:
        return "none shown", whole if is_single else None
    if is_single:
        return "crossover", whole
    if int(sign_changes(np.array(decided))) == 1:
        start = max(k for k, sign in enumerate(decided) if sign == decided[0])
        stop = min(k for k, sign in enumerate(decided) if sign == decided[-1])
        if int(sign_changes(observed[start : stop + 1])) == 1:
            return "crossover", (start, stop)
    return "not unique", None


def _crossing(
    bootstrap: Bootstrap,
    i: int,
    j: int,
    line: AxisLine,
    difference: Any,
    observed: np.ndarray,
    bracket: tuple[int, int],
) -> Interval:
    """Where the leader of the low end falls behind, as a value of the axis."""
    inside = slice(bracket[0], bracket[1] + 1)
    places = line.places[inside]
    signed = observed[inside]
    leads = float(np.sign(signed[signed != 0][0]))

    def place(accuracy: np.ndarray) -> np.ndarray:
        return places[0] + length_ahead(leads * difference(accuracy)[..., inside], places)

    found = bootstrap.interval(place, entries=(i, j))
    ends = (found.estimate, found.low, found.high)
    at = [None if x is None else line.value_at(x) for x in ends]
    return Interval(at[0], at[1], at[2], found.method, found.note)


def _replicate_shares(replicates: np.ndarray) -> dict[str, float | None]:
    """Share of replicates [R, V] that cross, and in which the first entry leads at either end."""
    names = ("crossing_share", "first_leads_low", "first_leads_high")
    if len(replicates) == 0:
        return dict.fromkeys(names)
    low, high = (float((0.5 + 0.5 * np.sign(replicates[:, end])).mean()) for end in (0, -1))
    return dict(zip(names, (float((sign_changes(replicates) > 0).mean()), low, high), strict=True))


def place_words(axis: str, value: float, *, rounded: bool = False) -> str:
    """`37 % coverage` or `stride 4`; a place between judged values has two digits."""
    text = two_digits(value) if rounded else f"{value:g}"
    return f"{text} % {axis}" if axis in PERCENT_AXES else f"{axis} {text}"


def two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


def setting_words(at: At, other: dict[str, Any]) -> str:
    """What was done about the other axes: averaged over, or held where the headline is."""
    if at == "only":
        return ""
    if at == "average":
        return f"averaged over {' and '.join(other)}"
    held = (
        f"at {place_words(name, value)}"
        if isinstance(value, (int, float))
        else f"with {name} {value}"
        for name, value in other.items()
    )
    return " and ".join(held)


def crossover_sentence(found: dict[str, Any], names: tuple[str, str]) -> str:
    """One curve in plain words, the entry that is ahead at the low end first."""
    axis, decided = found["axis"], found["decided"]
    how = f" ({found['other_words']})" if found["other_words"] else ""
    low, high = (place_words(axis, found["values"][end]) for end in (0, -1))
    first, second = names if decided[0] >= 0 else names[::-1]
    if found["verdict"] == "crossover":
        place = found["crossing"]
        text = place_words(axis, place["estimate"], rounded=True)
        return f"{first} is ahead of {second} below {text} {_span(place)}, behind above{how}"
    if found["verdict"] == "not unique":
        return (
            f"{first} is ahead of {second} at {low} and behind at {high}, but the order changes "
            f"{found['sign_changes']} times between{how}: the crossing is not unique"
        )
    return (
        f"no crossover of {names[0]} and {names[1]} is shown along {axis}{how}: "
        f"{_why_none(found, names, low, high)}"
    )


def _span(place: dict[str, Any]) -> str:
    if place["low"] is None:
        return f"(no interval: {place['note']})"
    return f"[{two_digits(place['low'])}, {two_digits(place['high'])}]"


def _why_none(found: dict[str, Any], names: tuple[str, str], low: str, high: str) -> str:
    decided = found["decided"]
    if found["difference_points"][0]["low"] is None:
        return found["difference_points"][0]["note"]
    leader = {1: names[0], -1: names[1]}
    if decided[0] and decided[0] == decided[-1]:
        between = [k for k, sign in enumerate(decided) if sign == -decided[0]]
        if between:
            places = " and ".join(place_words(found["axis"], found["values"][k]) for k in between)
            return (
                f"{leader[decided[0]]} is ahead at both ends, {leader[-decided[0]]} at {places}, "
                "so the order changes more than once"
            )
        return f"{leader[decided[0]]} is ahead at both ends"
    if decided[0] or decided[-1]:
        sure, open_end = (low, high) if decided[0] else (high, low)
        return (
            f"{leader[decided[0] or decided[-1]]} is ahead at {sure}, the data cannot tell them "
            f"apart at {open_end}"
        )
    return "the data cannot tell them apart at either end"


def crossover_sentences(curves: list[dict[str, Any]], lines: list[AxisLine]) -> list[str]:
    """What is claimed, or that nothing is."""
    found = [curve["sentence"] for curve in curves if curve["verdict"] != "none shown"]
    if found or not lines:
        return found
    axes = " or ".join(dict.fromkeys(line.axis for line in lines))
    many = "the two entries" if len({(c["first"], c["second"]) for c in curves}) == 1 else None
    return [f"no crossover of {many or 'any two entries'} is shown along {axes}"]


CSV_COLUMNS = ("first", "second", "axis", "scale", "at", "other", "verdict", "sign_changes")
SHARES = ("crossing_share", "first_leads_low", "first_leads_high")
ENDS = ("estimate", "low", "high")


def crossover_files(section: dict[str, Any] | None) -> dict[str, str]:
    """File name -> text: a row per pair and line, crossing in units of the axis, ends in points."""
    if section is None:
        return {}
    header = [*CSV_COLUMNS, "crossing", "crossing_low", "crossing_high", *SHARES]
    for end in ("low_end", "high_end"):
        header += [end, *(f"{end}_difference_points{suffix}" for suffix in ("", "_low", "_high"))]
    return {"crossover.csv": csv_text([*header, "sentence"], map(_row, section["curves"]))}


def _row(curve: dict[str, Any]) -> list[Any]:
    other = "; ".join(f"{name} {_listed(value)}" for name, value in curve["other"].items())
    fixed = {**curve, "other": other}
    row = [fixed[name] for name in CSV_COLUMNS]
    row += [(curve["crossing"] or {}).get(end) for end in ENDS]
    row += [curve[name] for name in SHARES]
    for end in (0, -1):
        row += [curve["values"][end], *(curve["difference_points"][end][key] for key in ENDS)]
    return [*row, curve["sentence"]]


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
