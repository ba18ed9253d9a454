"""Who trains, who selects, who judges: seeded splits that never part a group.

Everything here is pure, and depends on the set of rows and the seed, never on their order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from regatta.core.errors import ConfigError, DataError, SplitLeakError
from regatta.core.seeds import stream
from regatta.data.manifest import Sample, SampleRow

Row = TypeVar("Row", SampleRow, Sample)

DEFAULT_TEST_FRACTION = 0.15
"""Share of the samples that is held out for judging when neither the files nor the study say."""


def carve_validation(rows: Sequence[Row], fraction: float, seed: int) -> list[Row]:
    """Move about `fraction` of each class's training samples to `validation`, group by group.

    A class gives at least one group when it can, and always keeps one in training.

    Raises:
        DataError: no group can leave training without emptying a class.
    """
    training = [row for row in rows if row.split == "train"]
    chosen = hold_out_groups(training, fraction, seed, purpose="validation")
    if not chosen:
        raise DataError(
            "no validation set can be held out: each class has one training group",
            where="data.validation_fraction",
            hint="give validation samples of your own, or name finer groups",
        )
    return [
        replace(row, split="validation") if row.split == "train" and row.group in chosen else row
        for row in rows
    ]


def assign_group_split(
    rows: Sequence[Row], seed: int, *, test_fraction: float = DEFAULT_TEST_FRACTION
) -> list[Row]:
    """Give rows without a split to `test` (about `test_fraction` per class) or `train`, by group.

    Rows that have a split keep it. Classes with one group stay in training whole.
    """
    open_rows = [row for row in rows if not row.split]
    chosen = hold_out_groups(open_rows, test_fraction, seed, purpose="test")
    return [
        row if row.split else replace(row, split="test" if row.group in chosen else "train")
        for row in rows
    ]


def hold_out_groups(rows: Sequence[Row], fraction: float, seed: int, *, purpose: str) -> set[str]:
    """Groups that hold about `fraction` of every class; each class keeps samples outside them.

    Class by class (sorted), groups are visited in an order drawn from the stream (seed, purpose,
    class) and taken when that brings the class's held-out share closer to `fraction`; a class that
    got none that way gives its smallest group that may leave.
    """
    sizes: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        sizes[row.group][row.label_name] += 1
    totals = Counter(row.label_name for row in rows)
    members: dict[str, list[str]] = defaultdict(list)
    for group in sorted(sizes):
        for label in sizes[group]:
            members[label].append(group)
    held: Counter[str] = Counter()
    taken: set[str] = set()

    def may_leave(group: str) -> bool:
        return group not in taken and all(
            totals[label] - held[label] > count for label, count in sizes[group].items()
        )

    def take(group: str) -> None:
        taken.add(group)
        held.update(sizes[group])

    for label in sorted(totals):
        target = fraction * totals[label]
        own = members[label]
        order = [own[i] for i in stream(seed, purpose, label).permutation(len(own))]
        for group in order:
            after = held[label] + sizes[group][label]
            if may_leave(group) and abs(after - target) < abs(held[label] - target):
                take(group)
        if not held[label]:
            smallest = min(filter(may_leave, order), key=lambda g: sizes[g].total(), default=None)
            if smallest is not None:
                take(smallest)
    return taken


def torn_groups(rows: Sequence[Row]) -> dict[str, set[str]]:
    """Group -> its splits, for the groups that stand in two or more."""
    seen: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.split:
            seen[row.group].add(row.split)
    return {group: splits for group, splits in sorted(seen.items()) if len(splits) > 1}


def check_no_leak(rows: Sequence[Row], *, where: object = None, hint: str | None = None) -> None:
    """Raise SplitLeakError, naming groups and splits, when a group stands in two or more splits."""
    torn = torn_groups(rows)
    if torn:
        leaks = [f"{group} ({', '.join(sorted(splits))})" for group, splits in torn.items()]
        more = f" and {len(leaks) - 10} more" if len(leaks) > 10 else ""
        raise SplitLeakError(
            f"{len(leaks)} group(s) stand in more than one split: {'; '.join(leaks[:10])}{more}",
            where=where,
            hint=hint
            or "move each group to one split; where samples of one group have nothing to do with "
            "each other, name finer groups",
        )


def stratified_subset(samples: Sequence[Sample], limit: int, seed: int) -> list[Sample]:
    """At most `limit` samples, classes in proportion; each class keeps one if `limit` allows.

    Quotas by largest remainder; ties and members by streams (seed, "subset", ...). Keeps order.
    """
    if limit >= len(samples):
        return list(samples)
    members: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        members[sample.label_name].append(sample.sample_id)
    quotas = _quotas({label: len(ids) for label, ids in members.items()}, limit, seed)
    kept: set[str] = set()
    for label, ids in members.items():
        order = stream(seed, "subset", label).permutation(len(ids))
        ranked = sorted(ids)
        kept.update(ranked[i] for i in order[: quotas[label]])
    return [sample for sample in samples if sample.sample_id in kept]


def limit_training(
    samples: Sequence[Sample], limit: int | None, seed: int
) -> tuple[list[Sample], list[str]]:
    """`data.max_train_samples` of the training samples, and the note that says so."""
    training = [sample for sample in samples if sample.split == "train"]
    if limit is None or limit >= len(training):
        return list(samples), []
    classes = len({sample.label_name for sample in training})
    if limit < classes:
        problem = f"max_train_samples is {limit}, but there are {classes} classes"
        raise ConfigError(
            problem, where="data.max_train_samples", hint="give one per class or more"
        )
    chosen = {s.sample_id for s in stratified_subset(training, limit, seed)}
    kept = [s for s in samples if s.split != "train" or s.sample_id in chosen]
    return kept, [f"training uses {limit} of {len(training)} samples (data.max_train_samples)"]


def label_share(samples: Sequence[Sample], fraction: float, seed: int) -> list[Sample]:
    """About `fraction` of every class, one sample at least. Keeps order.

    Members by stream (seed, "labels", class): a smaller share is a part of a larger one, and
    1 keeps all.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        members[sample.label_name].append(sample.sample_id)
    kept: set[str] = set()
    for label, ids in members.items():
        order = stream(seed, "labels", label).permutation(len(ids))
        ranked = sorted(ids)
        kept.update(ranked[i] for i in order[: max(1, round(fraction * len(ids)))])
    return [sample for sample in samples if sample.sample_id in kept]


def _quotas(sizes: dict[str, int], limit: int, seed: int) -> dict[str, int]:
    """Whole numbers that sum to `limit`, in proportion to `sizes`; no rounding decides."""
    labels = sorted(sizes)
    floor = 1 if limit >= len(labels) else 0
    rest, weights = limit - floor * len(labels), {label: sizes[label] - floor for label in labels}
    total = sum(weights.values())
    shares = {label: divmod(rest * weights[label], total) for label in labels}
    quotas = {label: floor + shares[label][0] for label in labels}
    tie = dict(zip(labels, stream(seed, "subset").permutation(np.arange(len(labels))), strict=True))
    by_remainder = sorted(labels, key=lambda label: (-shares[label][1], tie[label]))
    for label in by_remainder[: limit - sum(quotas.values())]:
        quotas[label] += 1
    return quotas
