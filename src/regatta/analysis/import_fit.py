"""Whether foreign predictions fit a study: its conditions, classes, samples, labels and groups.

Shapes: C conditions, N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regatta.analysis.same_samples import check_same_samples
from regatta.core.errors import DataError
from regatta.records.conditions import Condition
from regatta.records.fingerprint import UNKNOWN
from regatta.records.imports import Foreign, ForeignCounts, ForeignScores, shown
from regatta.records.predictions import RunPredictions

OTHER_STUDY = "samples of another data set are compared apart: regatta compare --name OTHER ..."


@dataclass(frozen=True)
class Frame:
    """What every entry of a study must share.

    label: whose it is, for messages. is_own: judged here, so that its groups and its order of
    classes are right.
    """

    label: str
    conditions: list[Condition]
    classes: list[str]
    has_names: bool
    is_own: bool
    sample_ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    """None where each sample is a group of its own."""
    counts: np.ndarray | None = None
    """Samples per class, int [K], where single samples are not known."""


def frame_of(label: str, found: RunPredictions, *, is_own: bool) -> Frame:
    """The frame that predictions on disk set."""
    return Frame(
        label,
        found.conditions,
        found.classes,
        bool(found.origin.get("class_names", True)),
        is_own,
        found.sample_ids,
        found.labels,
        None if found.origin.get("groups") == "none" else found.groups,
    )


def frame_of_files(files: Sequence[tuple[str, Foreign]]) -> Frame:
    """The frame that files set among themselves: the first one's, with class names and groups of
    the first that has them."""
    label, first = files[0]
    none = np.empty(0, dtype=str)
    if isinstance(first, ForeignCounts):
        return Frame(
            label, first.conditions, first.classes, True, False, none, none, None, first.counts
        )
    scored = [(name, each) for name, each in files if isinstance(each, ForeignScores)]
    label, named = next((pair for pair in scored if pair[1].has_names), (label, first))
    grouped = next((each for _, each in scored if each.groups is not None), None)
    groups = None
    if grouped is not None and np.array_equal(grouped.sample_ids, named.sample_ids):
        groups = grouped.groups
    return Frame(
        label,
        first.conditions,
        named.classes,
        named.has_names,
        False,
        named.sample_ids,
        named.labels,
        groups,
    )


def fit_counts(label: str, found: ForeignCounts, frame: Frame) -> ForeignCounts:
    """`found` with the conditions and classes of the frame.

    Raises:
        DataError: a class, a count or a condition differs; each is named.
    """
    assert frame.counts is not None
    place_C, left_out = _places(label, found.conditions, frame, found)
    place_K = _class_places(label, found.classes, frame, found)
    counts = found.counts[place_K]
    differs = counts != frame.counts
    if differs.any():
        rows = [
            f"{frame.classes[k]}: {frame.counts[k]} and {counts[k]}"
            for k in np.flatnonzero(differs)
        ]
        raise DataError(
            f"{frame.label} and {label} were judged on different numbers of samples in "
            f"{len(rows)} classes: {shown(rows)}",
            where=found.path,
            hint=OTHER_STUDY,
        )
    return replace(
        found,
        conditions=frame.conditions,
        classes=frame.classes,
        counts=counts,
        right=found.right[place_C][:, place_K],
        notes=[*found.notes, *left_out],
    )


def fit_scores(
    label: str, found: ForeignScores, frame: Frame, *, seed: int
) -> tuple[RunPredictions, list[str]]:
    """`found` as predictions of the study, joined on the sample id, and notes on the joining.

    Raises:
        DataError: a class or a condition is missing or strange; each is named.
        RecordError: samples or labels differ from those of the frame; they are listed.
    """
    place_C, notes = _places(label, found.conditions, frame, found)
    place_K = _class_places(label, found.classes, frame, found)
    if frame.has_names and not found.has_names:
        notes.append(
            f"its classes have numbers only: score_0 was taken for {frame.classes[0]!r}, and so on "
            f"in the order of {frame.label}"
        )
    new_label_K = np.argsort(place_K)
    fitted = _predictions(label, seed, found, frame, place_C, place_K, new_label_K)
    check_same_samples(
        _shell(frame), replace(fitted, groups=_shell(frame).groups), hint=_hint(frame)
    )
    groups, said = _groups(label, found, frame)
    return replace(fitted, groups=groups), [*found.notes, *notes, *said]


def _predictions(
    label: str,
    seed: int,
    found: ForeignScores,
    frame: Frame,
    place_C: np.ndarray,
    place_K: np.ndarray,
    new_label_K: np.ndarray,
) -> RunPredictions:
    known = found.predictions
    empty: dict[str, Any] = {"truth": {}, "clip_keys": np.empty(0)}
    if known is not None:
        truth = {name: values[place_C] for name, values in known.truth.items()}
        empty = {"truth": truth, "clip_keys": known.clip_keys[place_C]}
    return RunPredictions(
        run_id=label,
        entry=label,
        seed=seed,
        conditions=frame.conditions,
        classes=frame.classes,
        sample_ids=found.sample_ids,
        groups=found.sample_ids,
        labels=new_label_K[found.labels],
        scores=found.scores[place_C][:, :, place_K],
        fingerprint=UNKNOWN if known is None else known.fingerprint,
        cost={} if known is None else known.cost,
        ceiling={} if known is None else known.ceiling,
        **empty,
    )


def _shell(frame: Frame) -> RunPredictions:
    """The frame as predictions without scores, to check others against."""
    return RunPredictions(
        run_id=frame.label,
        entry=frame.label,
        seed=0,
        conditions=frame.conditions,
        classes=frame.classes,
        sample_ids=frame.sample_ids,
        groups=frame.sample_ids,
        labels=frame.labels,
        scores=np.empty(0),
        truth={},
        clip_keys=np.empty(0),
        fingerprint={},
        cost={},
        ceiling={},
    )


def _hint(frame: Frame) -> str:
    if frame.is_own:
        return "write the file for exactly the samples, ids and labels that the study judges"
    return f"give files of exactly the same samples, ids and labels; {OTHER_STUDY}"


def _groups(label: str, found: ForeignScores, frame: Frame) -> tuple[np.ndarray, list[str]]:
    """Groups of the samples: the frame's; a note where that says less than it seems.

    Raises:
        DataError: two files know different groups.
    """
    if frame.groups is None:
        if found.groups is not None:
            raise DataError(
                f"{label} has groups, but {frame.label} was imported without them",
                where=found.path,
                hint=f"import {frame.label} again together with {label}",
            )
        return found.sample_ids, [
            "has no groups, so every sample counts as a group of its own: clustering is not "
            "covered, and intervals may be too narrow"
        ]
    if found.groups is None or _same_partition(frame.groups, found.groups):
        return frame.groups, []
    if frame.is_own:
        return frame.groups, [f"its groups differ from those of {frame.label}, which are used"]
    raise DataError(
        f"{frame.label} and {label} have different groups",
        where=found.path,
        hint="leave the groups out of one of the files, or correct them",
    )


def _same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether both put the same samples together, whatever they call the groups."""
    pairs = len(set(zip(first.tolist(), second.tolist(), strict=True)))
    return pairs == len(set(first.tolist())) == len(set(second.tolist()))


def _places(
    label: str, conditions: list[Condition], frame: Frame, found: Foreign
) -> tuple[np.ndarray, list[str]]:
    """For each condition of the frame its place in the file, and a note on those left out.

    Raises:
        DataError: conditions that the file lacks, by name.
    """
    only = len(conditions) == len(frame.conditions) == 1 and not conditions[0].axes
    places = [
        0 if only else next((i for i, c in enumerate(conditions) if _is_same(c, wanted)), None)
        for wanted in frame.conditions
    ]
    missing = [c.id for c, place in zip(frame.conditions, places, strict=True) if place is None]
    if missing:
        raise DataError(
            f"{label} lacks {len(missing)} of the {len(frame.conditions)} conditions of "
            f"{frame.label}: {shown(missing, most=30)}",
            where=found.path,
            hint=f"it has: {shown([c.id for c in conditions])}; a column condition holds these "
            "names, or columns such as coverage and stride say what varies",
        )
    strange = [c.id for i, c in enumerate(conditions) if i not in places]
    note = f"conditions that {frame.label} does not have were left out: {shown(strange)}"
    return np.array(places, dtype=np.int64), [note] if strange else []


def _is_same(found: Condition, wanted: Condition) -> bool:
    """The same axes; or the same name, where one of the two has no axes."""
    if found.axes and wanted.axes:
        return found.axes == wanted.axes
    return found.id == wanted.id


def _class_places(label: str, classes: list[str], frame: Frame, found: Foreign) -> np.ndarray:
    """For each class of the frame its place in the file, int [K]."""
    has_names = isinstance(found, ForeignCounts) or found.has_names
    if has_names and frame.has_names:
        lacking = [name for name in frame.classes if name not in classes]
        strange = [name for name in classes if name not in frame.classes]
        if lacking or strange:
            raise DataError(
                f"{frame.label} and {label} have different classes: only in {frame.label}: "
                f"{shown(lacking) or 'none'}; only in {label}: {shown(strange) or 'none'}",
                where=found.path,
                hint=f"use the same names; {OTHER_STUDY}",
            )
        number = {name: place for place, name in enumerate(classes)}
        return np.array([number[name] for name in frame.classes])
    if len(classes) != len(frame.classes):
        raise DataError(
            f"{frame.label} has {len(frame.classes)} classes, {label} has {len(classes)}",
            where=found.path,
            hint=OTHER_STUDY,
        )
    if has_names:
        raise DataError(
            f"{label} names its classes, but {frame.label} was imported with numbers",
            where=found.path,
            hint=f"import {frame.label} again together with {label}",
        )
    return np.arange(len(classes))
