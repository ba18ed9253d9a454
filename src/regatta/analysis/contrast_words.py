"""Contrasts as sentences: what a protocol says about one entry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from regatta.analysis.antialias import HARMED, NOT_RECOVERED, NOTHING, RECOVERED, UNDECIDED
from regatta.analysis.bootstrap import Interval
from regatta.analysis.within import Answered
from regatta.analysis.wording import points, span


def as_interval(record: dict[str, Any]) -> Interval:
    """The interval that `Interval.as_dict` wrote."""
    return Interval(**record)


def sized(interval: Interval) -> str:
    """`+3.1 points [1.2, 5.0]` of an interval in points."""
    return f"{points(interval.estimate or 0.0, sign=True)} points {span(interval)}"


def percent(record: dict[str, Any]) -> str:
    """`84.2 % [81.0, 87.1]` of an interval in fractions."""
    interval = as_interval(record).scaled(100)
    return f"{points(interval.estimate or 0.0)} % {span(interval)}"


def contrast_sentence(entry: str, contrast: str, tested: Answered, reading: str) -> str:
    if tested.contrast.same_clips:
        return f"{entry}, {contrast}: both conditions show identical clips"
    return f"{entry}, {contrast}: {sized(tested.difference.scaled(100))}, {reading}"


def budget_sentence(entry: str, curve: dict[str, Any]) -> str:
    """The critical frame budget and the area under the curve."""
    budget = as_interval(curve["critical_frames"])
    text = f"{entry} reaches 95 % of its best accuracy with {_frames(budget)}"
    if curve["area"] is not None:
        text += f"; its mean accuracy over frame budgets is {percent(curve['area'])}"
    return text


def _frames(budget: Interval) -> str:
    value = budget.estimate
    if value is None:
        return "a number of frames that is not defined"
    plural = "" if value == 1 else "s"
    if budget.low is None or budget.high is None or budget.low == budget.high:
        return f"{value:.3g} distinct frame{plural}"
    return f"{value:.3g} distinct frame{plural} [{budget.low:.3g}, {budget.high:.3g}]"


def span_sentence(entry: str, narrow: Answered) -> str:
    """What the narrowest window costs against the whole clip."""
    width = narrow.contrast.words.partition(" − ")[0]
    size = sized(narrow.difference.scaled(100))
    said = {
        "behind": "reach matters: frames from a narrow window are worth less",
        "ahead": "a narrow window is better than the whole clip",
        "equivalent": "reach does not matter within the margin",
    }.get(narrow.verdict, "the data cannot tell whether reach matters")
    return f"{entry}: {said} ({width} of the clip against all of it: {size})"


def antialias_sentence(row: dict[str, Any]) -> str:
    """One stride: reading, difference, share and theory."""
    stride = row["contrast"].partition(":")[0]
    text = f"{row['entry']}, {stride}: {inline(row['reading'])}"
    if row["same_clips"]:
        return f"{text}; point and box are identical clips"
    text += f"; box − point {sized(as_interval(row['difference_points']))}"
    share = row["recovered_share"]
    if share is not None and share["estimate"] is not None:
        part = as_interval(share).scaled(100)
        text += f", {points(part.estimate or 0.0)} % {span(part)} of the loss"
    if row["ceiling_gain_points"] is not None:
        text += f"; theory allows {points(row['ceiling_gain_points'], sign=True)} points"
    return text


def antialias_summary(entry: str, rows: list[dict[str, Any]]) -> list[str]:
    """At which strides which reading holds, and where theory knows of no loss to recover."""
    strides: dict[str, list[str]] = {}
    for row in rows:
        strides.setdefault(row["reading"], []).append(_stride(row))
    order = [RECOVERED, NOT_RECOVERED, HARMED, NOTHING, UNDECIDED]
    said = [
        f"at stride {listed(strides[reading])} {inline(reading)}"
        for reading in order
        if reading in strides
    ]
    found = [f"{entry}: {'; '.join(said)}"] if said else []
    own = [
        _stride(row)
        for row in rows
        if row["reading"] == RECOVERED and row["ideal_reader_loses_nothing"]
    ]
    if own:
        found.append(
            f"{entry}: at stride {listed(own)} an ideal reader of the point-sampled frames loses "
            "nothing, so what filtering gave back is the model's own loss, not the frames'"
        )
    return found


def _stride(row: dict[str, Any]) -> str:
    return row["contrast"].partition(":")[0].removeprefix("stride ")


def listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def inline(reading: str) -> str:
    """`recovered by filtering (aliasing)`: a reading as part of a longer sentence."""
    what, colon, why = reading.partition(": ")
    return f"{what} ({why})" if colon else what


def time_sentence(entry: str, uses: str, drops: dict[str, Answered]) -> str:
    """`vivit uses time: yes (full beats static by ... and shuffled by ...)`."""
    sizes = [
        f"full − {name} {sized(drops[name].difference.scaled(100))}"
        for name in ("static", "shuffled")
        if name in drops
    ]
    basis = ", ".join(sizes) or "neither static nor shuffled was judged"
    return f"{entry} uses time: {uses} ({basis})"


def position_sentence(entry: str, rows: list[dict[str, Any]]) -> str:
    best = max(rows, key=lambda row: row["accuracy"])
    worst = min(rows, key=lambda row: row["accuracy"])
    return (
        f"{entry} is right on {100 * worst['accuracy']:.1f} % (window at {worst['position']:g} %) "
        f"to {100 * best['accuracy']:.1f} % (window at {best['position']:g} %) of the samples"
    )


def concentration_sentence(entry: str, mean: dict[str, Any]) -> str:
    interval = as_interval(mean)
    if interval.estimate is None:
        return f"{entry}: the concentration of confidence is not defined"
    ends = ""
    if interval.low is not None and interval.high is not None:
        ends = f" [{interval.low:.3f}, {interval.high:.3f}]"
    return (
        f"{entry} has a confidence concentration of {interval.estimate:.3f}{ends} over its windows "
        "(0 = equal everywhere, 1 = one window holds everything)"
    )


ALIASING, LOST_DETAIL, NO_LOSS = "aliasing", "lost detail", "no loss is shown"
RATE_UNDECIDED = "aliasing or lost detail: the data cannot tell"


def rate_reading(loss: Answered, gain: Answered, *, margin: float) -> str:
    """Why a lower rate costs accuracy.

    Args:
        loss: thinned out minus unchanged. gain: with minus without a low-pass before thinning out.
    """
    if not loss.is_below:
        return NO_LOSS
    if gain.is_above:
        return ALIASING
    return LOST_DETAIL if gain.less_than(margin) else RATE_UNDECIDED


def rate_sentence(
    entry: str, rate_hz: float, loss: Answered, gain: Answered, *, reading: str
) -> str:
    return (
        f"{entry} at {rate_hz:g} Hz: {sized(loss.difference.scaled(100))} without a low-pass; one "
        f"changes that by {sized(gain.difference.scaled(100))}: {reading}"
    )


def worst_sentence(entry: str, losses: Iterable[Answered]) -> str:
    """The perturbation that costs most."""
    worst = min(losses, key=lambda each: each.difference.estimate or 0.0)
    name = worst.contrast.words.partition(" − ")[0]
    return f"{entry} loses most under {name}: {sized(worst.difference.scaled(100))}"
