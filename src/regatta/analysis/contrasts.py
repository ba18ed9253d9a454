"""What a protocol was made to tell: its own contrasts between conditions, within each entry.

One section for `comparison.json`. `tests` is the family of paired differences (points); each row
has a `reading`, the answer in a few words. `entries` holds what is no difference: curves, budgets,
concentration. Protocols without contrasts (plain, the grids) have no section.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from regatta.analysis import contrast_words as words
from regatta.analysis.antialias import Ceilings, stride_record
from regatta.analysis.bootstrap import Bootstrap
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.paired import PairedData, PairSettings, family_correction
from regatta.analysis.robustness import frame_curve
from regatta.analysis.sliding import concentration_by_entry
from regatta.analysis.within import Answered, Contrast, compare_conditions

READINGS = {
    "ahead": "more accurate",
    "behind": "less accurate",
    "equivalent": "equivalent within the margin",
    "identical": "the same answers",
    "undecided": "the data cannot tell",
}


@dataclass(frozen=True)
class Case:
    """The material of a section."""

    judged: JudgedStudy
    bootstrap: Bootstrap
    rows: list[dict[str, Any]]
    """The table of cells."""

    @property
    def margin(self) -> float:
        return self.judged.study.compare.equivalence_margin_points / 100

    @property
    def reference(self) -> int:
        """Position of the protocol's own reference, whatever the headline of the study is."""
        return next((i for i, c in enumerate(self.judged.conditions) if c.is_reference), 0)

    @cached_property
    def concentration(self) -> dict[str, dict[str, Any]]:
        """Per entry, from one set of replicates for all entries."""
        return concentration_by_entry(self.judged)

    def rows_of(self, entry: int) -> list[dict[str, Any]]:
        name = self.judged.entries[entry]
        return [row for row in self.rows if row["model"] == name]

    def values(self, axis: str) -> list[Any]:
        return [condition.axes[axis] for condition in self.judged.conditions]


@dataclass(frozen=True)
class Part:
    """One entry's share: its contrasts, and their rows in the table of tests."""

    case: Case
    entry: int
    tested: list[Answered]
    rows: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return self.case.judged.entries[self.entry]

    def points(self, *columns: str) -> list[dict[str, Any]]:
        """Accuracy with interval and ceiling per condition, with `columns` of the table before."""
        keys = ("condition", *columns, "accuracy", "accuracy_low", "accuracy_high", "ceiling")
        return [{key: row[key] for key in keys} for row in self.case.rows_of(self.entry)]


@dataclass(frozen=True)
class Kind:
    """One protocol's contrasts: which pairs of conditions, and what to make of the answers.

    pairs: (first, second, words) by position. read: what is no difference, with `sentences`; it
    may add keys to the rows of the tests.
    """

    axes: frozenset[str]
    pairs: Callable[[Case], list[tuple[int, int, str]]]
    read: Callable[[Part], dict[str, Any]]
    rule: str


def contrast_section(
    judged: JudgedStudy, bootstrap: Bootstrap, rows: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """The section of the study's protocol; None where the protocol has no contrasts.

    Args:
        rows: the table of cells of all entries.
    """
    kind = KINDS.get(judged.study.protocol.name)
    if kind is None or any(set(c.axes) != kind.axes for c in judged.conditions):
        return None
    case = Case(judged, bootstrap, rows)
    contrasts = _contrasts(case, kind)
    tested = compare_conditions(_paired(judged), bootstrap, contrasts, _settings(judged))
    table = [_test_row(case, each) for each in tested]
    entries = {}
    for position, name in enumerate(judged.entries):
        places = [i for i, each in enumerate(tested) if each.contrast.entry == position]
        mine = [tested[i] for i in places]
        entries[name] = kind.read(Part(case, position, mine, [table[i] for i in places]))
    asked = [each for each in tested if not each.contrast.same_clips]
    return {
        "protocol": judged.study.protocol.name,
        "reference": judged.conditions[case.reference].id,
        "tests": table,
        "entries": entries,
        "rule": kind.rule,
        "correction": family_correction(judged.study.compare.correction),
        "margin_points": judged.study.compare.equivalence_margin_points,
        "family_size": len(asked),
        "method": asked[0].method if asked else "no contrasts",
    }


def _contrasts(case: Case, kind: Kind) -> list[Contrast]:
    judged, pairs = case.judged, kind.pairs(case)
    found = []
    for entry, name in enumerate(judged.entries):
        same = [run.identical for run in judged.runs_of(name)]
        for first, second, text in pairs:
            identical = all(second in clips[first] for clips in same)
            found.append(Contrast(entry, first, second, text, identical))
    return found


def _paired(judged: JudgedStudy) -> PairedData:
    correct = [np.stack([run.correct for run in judged.runs_of(e)]) for e in judged.entries]
    return PairedData(judged.entries, correct, judged.groups)


def _settings(judged: JudgedStudy) -> PairSettings:
    s = judged.study.compare
    return PairSettings(s.correction, s.equivalence_margin_points / 100, s.replicates, s.seed)


def _test_row(case: Case, tested: Answered) -> dict[str, Any]:
    contrast, conditions = tested.contrast, case.judged.conditions
    rows = case.rows_of(contrast.entry)
    reading = "identical clips" if contrast.same_clips else READINGS[tested.verdict]
    entry = case.judged.entries[contrast.entry]
    return {
        "entry": entry,
        "contrast": contrast.words,
        "first": conditions[contrast.first].id,
        "second": conditions[contrast.second].id,
        **tested.as_dict(),
        "same_clips": contrast.same_clips,
        "reading": reading,
        "ceiling_first": rows[contrast.first]["ceiling"],
        "ceiling_second": rows[contrast.second]["ceiling"],
        "sentence": words.contrast_sentence(entry, contrast.words, tested, reading),
    }


def _against_reference(case: Case, name: Callable[[int], str]) -> list[tuple[int, int, str]]:
    """Every other condition minus the reference."""
    ref, count = case.reference, len(case.judged.conditions)
    return [(c, ref, f"{name(c)} − {name(ref)}") for c in range(count) if c != ref]


def _matched_pairs(case: Case) -> list[tuple[int, int, str]]:
    frames = case.values("frames")
    return _against_reference(case, lambda c: f"{frames[c]} frame{'' if frames[c] == 1 else 's'}")


def _read_matched(part: Part) -> dict[str, Any]:
    distinct = part.case.judged.runs_of(part.name)[0].truth["distinct_frames"]
    curve = frame_curve(part.case.bootstrap, distinct, part.entry)
    return {
        "points": part.points("frames", "distinct_frames"),
        "area": curve["area"],
        "critical_frames": curve["critical_frames"],
        "note": curve["note"],
        "sentences": [words.budget_sentence(part.name, curve)],
    }


def _span_pairs(case: Case) -> list[tuple[int, int, str]]:
    widths = case.values("span")
    return _against_reference(case, lambda c: f"{widths[c]} %")


def _read_span(part: Part) -> dict[str, Any]:
    points = part.points("span", "span_seconds", "rate_hz", "distinct_frames")
    narrow = min(
        part.tested, key=lambda each: part.case.values("span")[each.contrast.first], default=None
    )
    found = [] if narrow is None else [words.span_sentence(part.name, narrow)]
    return {"points": points, "sentences": found}


def _antialias_pairs(case: Case) -> list[tuple[int, int, str]]:
    """Box minus point at every stride that has both."""
    place = {(c.axes["stride"], c.axes["filter"]): i for i, c in enumerate(case.judged.conditions)}
    strides = sorted({stride for stride, _ in place})
    return [
        (place[stride, "box"], place[stride, "point"], f"stride {stride}: box − point")
        for stride in strides
        if (stride, "box") in place and (stride, "point") in place
    ]


def _read_antialias(part: Part) -> dict[str, Any]:
    cells = part.case.rows_of(part.entry)
    for each, row in zip(part.tested, part.rows, strict=True):
        contrast = each.contrast
        ceilings = Ceilings(
            *(cells[i]["ceiling"] for i in (part.case.reference, contrast.second, contrast.first))
        )
        row |= stride_record(
            part.case.bootstrap, each, part.case.reference, ceilings, margin=part.case.margin
        )
        row["sentence"] = words.antialias_sentence(row)
    return {
        "points": part.points("stride", "filter", "rate_hz", "span_seconds"),
        "sentences": words.antialias_summary(part.name, part.rows),
    }


def _controls_pairs(case: Case) -> list[tuple[int, int, str]]:
    """Full minus every control: a drop is positive."""
    names, ref = case.values("control"), case.reference
    return [(ref, c, f"{names[ref]} − {name}") for c, name in enumerate(names) if c != ref]


def _read_controls(part: Part) -> dict[str, Any]:
    names = part.case.values("control")
    drops = {names[each.contrast.second]: each for each in part.tested}
    uses = uses_time(drops, margin=part.case.margin)
    return {
        "points": part.points("control"),
        "uses_time": uses,
        "sentences": [words.time_sentence(part.name, uses, drops)],
    }


def uses_time(drops: dict[str, Answered], *, margin: float) -> str:
    """Whether a model uses motion or order: yes | no | cannot tell.

    Yes: the full clip beats both the static one (the mean frame, so no motion) and the shuffled one
    (the same frames without their order), each by the corrected test and an interval above 0. No:
    one of the two drops is shown to be less than the margin. `drops` maps controls to full minus
    control.
    """
    decisive = [drops[name] for name in ("static", "shuffled") if name in drops]
    if len(decisive) == 2 and all(each.is_above for each in decisive):
        return "yes"
    if any(each.less_than(margin) for each in decisive):
        return "no"
    return "cannot tell"


def _multi_view_pairs(case: Case) -> list[tuple[int, int, str]]:
    clips, crops = case.values("clips"), case.values("crops")
    return _against_reference(case, lambda c: f"{clips[c]}x{crops[c]}")


def _read_multi_view(part: Part) -> dict[str, Any]:
    return {
        "points": part.points("clips", "crops"),
        "sentences": [row["sentence"] for row in part.rows],
    }


def _sliding_pairs(case: Case) -> list[tuple[int, int, str]]:
    places = case.values("position")
    return _against_reference(case, lambda c: f"at {places[c]:g} %")


def _read_sliding(part: Part) -> dict[str, Any]:
    points = part.points("position", "span_seconds")
    found = part.case.concentration.get(part.name)
    sentences = [words.position_sentence(part.name, points)]
    if found is not None:
        sentences.append(words.concentration_sentence(part.name, found["mean"]))
    return {"points": points, "concentration": found, "sentences": sentences}


def _sensor_pairs(case: Case) -> list[tuple[int, int, str]]:
    """Every perturbation minus the unchanged windows, and what a low-pass changes at each rate."""
    cells = list(zip(case.values("perturbation"), case.values("level"), strict=True))
    ids = [condition.id for condition in case.judged.conditions]
    pairs = _against_reference(case, lambda c: ids[c])
    place = {cell: number for number, cell in enumerate(cells)}
    for name, rate in cells:
        if name == "rate" and ("rate-lowpass", rate) in place:
            words_ = f"{rate:g} Hz: with − without low-pass"
            pairs.append((place["rate-lowpass", rate], place["rate", rate], words_))
    return pairs


def _read_sensor(part: Part) -> dict[str, Any]:
    names, rates = part.case.values("perturbation"), part.case.values("level")
    ref = part.case.reference
    losses = {each.contrast.first: each for each in part.tested if each.contrast.second == ref}
    gains = {
        rates[each.contrast.second]: (losses[each.contrast.second], each)
        for each in part.tested
        if each.contrast.second != ref and names[each.contrast.second] == "rate"
    }
    margin = part.case.margin
    found = {rate: words.rate_reading(*each, margin=margin) for rate, each in gains.items()}
    sentences = [words.worst_sentence(part.name, losses.values())] if losses else []
    sentences += [
        words.rate_sentence(part.name, rate, *gains[rate], reading=reading)
        for rate, reading in found.items()
    ]
    return {
        "points": part.points("perturbation", "level"),
        "rates": [{"rate_hz": rate, "reading": reading} for rate, reading in found.items()],
        "sentences": sentences,
    }


KINDS = {
    "matched": Kind(
        frozenset({"frames"}),
        _matched_pairs,
        _read_matched,
        "difference of each number of frames to the largest; the critical budget is the smallest "
        "number of distinct frames that reaches 95 % of the best accuracy; the area is the mean "
        "accuracy over budgets, by trapezoids",
    ),
    "span": Kind(
        frozenset({"span"}),
        _span_pairs,
        _read_span,
        "difference of each width to the full width, at the same number of frames",
    ),
    "antialias": Kind(
        frozenset({"stride", "filter"}),
        _antialias_pairs,
        _read_antialias,
        "recovered = box above point; not recovered = point clearly below the reference and box "
        "not better by the margin, or equal ceilings below the reference's; nothing to recover = "
        "loss of point less than the margin; harmed = box below point",
    ),
    "controls": Kind(
        frozenset({"control"}),
        _controls_pairs,
        _read_controls,
        "uses time: yes when the full clip beats static and shuffled; no when one of these two "
        "drops is less than the margin",
    ),
    "multi-view": Kind(
        frozenset({"clips", "crops"}),
        _multi_view_pairs,
        _read_multi_view,
        "gain of each set of views over a single one",
    ),
    "sliding": Kind(
        frozenset({"position"}),
        _sliding_pairs,
        _read_sliding,
        "difference of each position to the middle one; concentration = 1 − H(q) / log W, with q "
        "the true class's probability in each of W windows, scaled to sum 1: 0 = equal everywhere, "
        "1 = one window holds everything",
    ),
    "sensor-robustness": Kind(
        frozenset({"perturbation", "level"}),
        _sensor_pairs,
        _read_sensor,
        "difference of every changed signal to the unchanged one; at a lower rate: aliasing = "
        "worse than unchanged, and a low-pass before gains; lost detail = worse than unchanged, "
        "and a low-pass is shown to gain less than the margin",
    ),
}
