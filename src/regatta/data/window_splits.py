"""Who trains, who selects, who judges among windows of signals.

A design gives every window a split, or one per fold. What must not be parted is the subject; where
the source knows no subjects, it is a block of neighbouring windows, with a gap between splits.
Everything here is pure, and depends on the windows and the seed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from regatta.config.expand import DEFAULT_FOLDS, FOLDED
from regatta.config.schema import DataSection
from regatta.core.errors import DataError
from regatta.core.seeds import derive_seed, stream
from regatta.data.manifest import Dropped, Sample, SplitName, with_folds
from regatta.data.scan_notes import listed
from regatta.data.splits import (
    DEFAULT_TEST_FRACTION,
    assign_group_split,
    carve_validation,
    check_no_leak,
)
from regatta.data.window_listing import WindowRow

BLOCK_WINDOWS = 20
"""Most windows of a block, where there are no subjects."""
MAX_DRAWS = 1000
"""Draws of validation groups before a class counts as impossible to place."""
GAP = "left out as a gap: its neighbour in time stands in another split"
NO_SUBJECTS = (
    "subjects are not known: groups are blocks of neighbouring windows, and transfer to unseen "
    "subjects is not measured"
)
LEAKY = (
    "leaky: windows are split at random, so that neighbours of one recording, which overlap, stand "
    "on both sides; scores are too high and say nothing of unseen subjects"
)

Splits = list[SplitName]
"""One split per window, in the order of the windows."""


@dataclass(frozen=True)
class _Windows:
    """The windows to part. neighbours: pairs of places that follow one another in a session."""

    samples: list[Sample]
    neighbours: list[tuple[int, int]]
    has_subjects: bool
    data: DataSection

    @property
    def word(self) -> str:
        return "subject" if self.has_subjects else "block"

    def groups(self, splits: Sequence[SplitName] | None = None) -> list[str]:
        """Groups in natural order; of the training windows alone when `splits` are given."""
        names = {
            sample.group
            for number, sample in enumerate(self.samples)
            if splits is None or splits[number] == "train"
        }
        return sorted(names, key=_natural)


def split_windows(
    samples: list[Sample], rows: Sequence[WindowRow], data: DataSection
) -> tuple[list[Sample], list[Dropped], list[str]]:
    """Samples with their splits, windows left out as a gap between splits, and notes.

    Args:
        samples: one per row, in the order of the listing, with the source's split and the subject
            (or anything, where there are none) as group.
    Raises:
        DataError: subjects of some windows are missing, the design asks for more groups than there
            are, or a class is absent from train or validation.
        SplitLeakError: a subject stands in two splits of the source.
    """
    known = [bool(row.subject) for row in rows]
    if any(known) and not all(known):
        raise DataError(f"{known.count(False)} of {len(rows)} windows have no subject")
    neighbours = _neighbours(rows)
    if not all(known):
        blocks = _blocks(rows)
        samples = [replace(s, group=b) for s, b in zip(samples, blocks, strict=True)]
    windows = _Windows(samples, neighbours, all(known), data)
    folds, notes = _DESIGNS[data.design](windows)
    if not windows.has_subjects:
        notes = [NO_SUBJECTS, *notes]
        if data.design != "window-random":
            folds = [_with_gap(splits, neighbours) for splits in folds]
    many = data.design in FOLDED
    for number, splits in enumerate(folds):
        _check_classes(windows, splits, f" of fold {number}" if many else "")
    if many:
        by_sample = zip(samples, zip(*folds, strict=True), strict=True)
        return [with_folds(sample, own) for sample, own in by_sample], [], notes
    (splits,) = folds
    placed = [replace(s, split=own) for s, own in zip(samples, splits, strict=True)]
    gaps = [Dropped(sample.sample_id, GAP) for sample in placed if not sample.split]
    return [sample for sample in placed if sample.split], gaps, notes


def _official(windows: _Windows) -> tuple[list[Splits], list[str]]:
    """The source's own test; validation drawn from training where the source gives none."""
    samples, notes = windows.samples, []
    if any(not sample.split for sample in samples):
        samples = assign_group_split(samples, windows.data.split_seed)
        notes.append(
            f"the files name no test split: about {DEFAULT_TEST_FRACTION:.0%} of the windows are "
            f"held out by {windows.word}"
        )
    if windows.has_subjects:
        check_no_leak(samples, where="data.design: official")
    splits: Splits = [sample.split for sample in samples]
    if "validation" not in splits:
        splits = _select(windows, splits, windows.data.split_seed)
    return [splits], notes


def _loso(windows: _Windows) -> tuple[list[Splits], list[str]]:
    """One fold per subject in natural order; validation = the next ones in a seeded order."""
    data, groups = windows.data, windows.groups()
    if not windows.has_subjects:
        raise DataError(
            "design loso leaves one subject out, but the subjects of these windows are not known",
            where="data.design",
            hint="use subject-kfold, which then takes blocks of neighbouring windows, or add the "
            "subjects to the files",
        )
    if data.folds != len(groups):
        raise DataError(
            f"design loso has one fold per subject: there are {len(groups)} subjects, but "
            f"data.folds is {data.folds}",
            where="data.folds",
            hint=f"set data.folds: {len(groups)}",
        )
    count = data.validation_groups or min(3, max(1, (len(groups) - 1) // 3))
    _check_enough(windows, groups, count + 2)
    order = [groups[i] for i in stream(data.split_seed, "loso").permutation(len(groups))]
    folds = []
    for tested in groups:
        splits: Splits = ["test" if s.group == tested else "train" for s in windows.samples]
        after = order.index(tested) + 1
        others = [*order[after:], *order[: after - 1]]
        turns = [[*others[k:], *others[:k]][:count] for k in range(len(others))]
        folds.append(_first_complete(windows, splits, turns, f" of the fold of {tested}"))
    return folds, []


def _kfold(windows: _Windows) -> tuple[list[Splits], list[str]]:
    """Groups dealt out in a seeded order; blocks class by class, so that the folds are alike."""
    data, groups = windows.data, windows.groups()
    count = data.folds or DEFAULT_FOLDS
    _check_enough(windows, groups, count)
    label_of = {sample.group: sample.label_name for sample in windows.samples}
    dealt = [groups[i] for i in stream(data.split_seed, "folds").permutation(len(groups))]
    if not windows.has_subjects:
        dealt.sort(key=lambda group: label_of[group])
    fold_of = {group: number % count for number, group in enumerate(dealt)}
    folds = []
    for fold in range(count):
        splits: Splits = ["test" if fold_of[s.group] == fold else "train" for s in windows.samples]
        folds.append(_select(windows, splits, derive_seed(data.split_seed, "fold", fold)))
    return folds, []


def _window_random(windows: _Windows) -> tuple[list[Splits], list[str]]:
    """Class by class at random, with the source's own share of test windows."""
    data = windows.data
    judged = sum(sample.split == "test" for sample in windows.samples)
    share = judged / len(windows.samples) or DEFAULT_TEST_FRACTION
    splits: Splits = ["train"] * len(windows.samples)
    members: dict[str, list[int]] = defaultdict(list)
    for number, sample in enumerate(windows.samples):
        members[sample.label_name].append(number)
    for label, numbers in sorted(members.items()):
        by_id = sorted(numbers, key=lambda number: windows.samples[number].sample_id)
        order = [
            by_id[i] for i in stream(data.split_seed, "windows", label).permutation(len(by_id))
        ]
        tested = round(share * len(order))
        selected = max(1, round(data.validation_fraction * (len(order) - tested)))
        for number in order[:tested]:
            splits[number] = "test"
        for number in order[tested : tested + selected]:
            splits[number] = "validation"
    return [splits], [LEAKY]


_DESIGNS: dict[str, Callable[[_Windows], tuple[list[Splits], list[str]]]] = {
    "official": _official,
    "loso": _loso,
    "subject-kfold": _kfold,
    "window-random": _window_random,
}


def _select(windows: _Windows, splits: Splits, seed: int) -> Splits:
    """Hold some training groups out for selection: `validation_groups` of them, drawn until every
    class is on both sides; blocks without that key by `validation_fraction` of every class."""
    count = windows.data.validation_groups
    groups = windows.groups(splits)
    if count is None and not windows.has_subjects:
        placed = [replace(s, split=own) for s, own in zip(windows.samples, splits, strict=True)]
        carved = carve_validation(placed, windows.data.validation_fraction, seed)
        return [sample.split for sample in carved]
    count = count or min(4, max(1, len(groups) // 5))
    _check_enough(windows, groups, count + 1)
    rng = stream(seed, "validation")
    draws = ([groups[i] for i in rng.permutation(len(groups))[:count]] for _ in range(MAX_DRAWS))
    return _first_complete(windows, splits, draws, "")


def _first_complete(
    windows: _Windows, splits: Splits, draws: Iterable[list[str]], place: str
) -> Splits:
    """`splits` with the first draw of validation groups that leaves every class on both sides.

    Raises:
        DataError: no draw does; it names the classes that cannot be placed.
    """
    labels_of: dict[str, set[str]] = defaultdict(set)
    for sample, split in zip(windows.samples, splits, strict=True):
        if split == "train":
            labels_of[sample.group].add(sample.label_name)
    wanted = {sample.label_name for sample in windows.samples}
    tried = 0
    for chosen in draws:
        tried += 1
        inside = set().union(*(labels_of[group] for group in chosen))
        outside = set().union(*(labels_of[group] for group in labels_of if group not in chosen))
        if wanted <= inside and wanted <= outside:
            return [
                "validation" if split == "train" and sample.group in chosen else split
                for sample, split in zip(windows.samples, splits, strict=True)
            ]
    raise _cannot_place(windows, labels_of, tried, place)


def _cannot_place(
    windows: _Windows, labels_of: dict[str, set[str]], tried: int, place: str
) -> DataError:
    holders = Counter(label for labels in labels_of.values() for label in labels)
    wanted = sorted({sample.label_name for sample in windows.samples})
    rare = [f"{label!r} ({holders[label]})" for label in wanted if holders[label] < 2]
    if rare:
        return DataError(
            f"classes with fewer than two {windows.word}s to train on{place} cannot stand in both "
            f"train and validation: {listed(rare)}",
            where=f"data.design: {windows.data.design}",
            hint="add windows of these classes, or leave the classes out",
        )
    return DataError(
        f"none of {tried} draws of validation {windows.word}s has every class in both train and "
        f"validation{place}",
        where="data.validation_groups",
        hint="raise data.validation_groups",
    )


def _check_enough(windows: _Windows, groups: Sequence[str], needed: int) -> None:
    if len(groups) < needed:
        raise DataError(
            f"there are {len(groups)} {windows.word}s, but this needs {needed}: one to train on "
            "beside those that are held out",
            where=f"data.design: {windows.data.design}",
            hint="lower data.validation_groups or data.folds",
        )


def _check_classes(windows: _Windows, splits: Splits, place: str) -> None:
    """DataError with the class and the split, when it is absent from train or validation."""
    counts = Counter((s.label_name, own) for s, own in zip(windows.samples, splits, strict=True))
    for split in ("train", "validation"):
        absent = sorted({s.label_name for s in windows.samples if not counts[s.label_name, split]})
        if absent:
            totals = Counter(sample.label_name for sample in windows.samples)
            named = [f"{label!r} (of {totals[label]} windows)" for label in absent]
            raise DataError(
                f"no window in the {split} split{place} of {len(absent)} class(es): "
                f"{listed(named)}",
                where=f"data.design: {windows.data.design}",
                hint="add windows of these classes, leave the classes out, or vary data.split_seed",
            )


def _with_gap(splits: Splits, neighbours: Sequence[tuple[int, int]]) -> Splits:
    """`splits` without one window beside every border: of training where it can be, else of
    validation. What is judged stays whole."""
    kept = list(splits)
    for pair in neighbours:
        here = {kept[number] for number in pair} - {""}
        if len(here) > 1:
            yields = "train" if "train" in here else "validation"
            number = next(number for number in pair if kept[number] == yields)
            kept[number] = ""
    return kept


def _neighbours(rows: Sequence[WindowRow]) -> list[tuple[int, int]]:
    places: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        places[row.session or row.recording].append(number)
    return [pair for numbers in places.values() for pair in pairwise(numbers)]


def _blocks(rows: Sequence[WindowRow]) -> list[str]:
    """Name of each window's block: a run of one label in a session, cut where it is long.

    A class gets about eight blocks or more, if it has sixteen windows.
    """
    totals = Counter(row.label_name for row in rows)
    limits = {label: max(2, min(BLOCK_WINDOWS, count // 8)) for label, count in totals.items()}
    numbers: Counter[str] = Counter()
    last: dict[str, tuple[str, SplitName, int]] = {}
    names = []
    for row in rows:
        session = row.session or row.recording
        label, split, length = last.get(session, ("", "", 0))
        if (label, split) == (row.label_name, row.split) and length < limits[label]:
            length += 1
        else:
            numbers[session] += 1
            length = 1
        last[session] = (row.label_name, row.split, length)
        names.append(f"{session}-block-{numbers[session] - 1:04d}")
    return names


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts "subject-2" before "subject-10"."""
    parts = re.split(r"(\d{1,18})", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
