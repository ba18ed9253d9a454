"""Errors of places with intervals, entries and baselines in one resampling.

Squared errors go through the study's own bootstrap as whole numbers of a small step, so that the
same draws of groups and seeds serve accuracies and errors, and every difference is paired.

Shapes: U runs, E entries and baselines, C columns, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from regatta.analysis.bootstrap import Bootstrap, Interval, bootstrap_accuracy
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.positions import (
    NO_ERROR,
    absolute_error,
    split_by_camera,
    split_by_motion,
    squared_error,
)

STEPS = 1 << 31
"""The largest value of a table is this many steps: sums of millions of them stay exact in double
precision, and a step is far below what single-precision places resolve."""
PARTS = ("along", "across", "depth", "plane")


@dataclass(frozen=True)
class Placing:
    """Who says places: one entry with all its seeds, or a baseline with one.

    positions_SN3 in u; NaN where nothing is said, in all seeds.
    """

    name: str
    positions_SN3: np.ndarray


@dataclass(frozen=True)
class Frame:
    """What errors are split by; None where it is not known."""

    labels_N: np.ndarray
    classes: int
    targets_N3: np.ndarray
    velocity_N3: np.ndarray | None = None
    rotation_33: np.ndarray | None = None


@dataclass(frozen=True)
class Errors:
    """Resampled errors of all placings; statistics come as intervals."""

    names: list[str]
    bootstrap: Bootstrap
    columns: list[str]
    step: float
    counts: np.ndarray
    """Samples with a known error [E, C], by columns that are counts; 0 elsewhere."""

    def mean(self, name: str, column: str, *, of: str = "n") -> Interval:
        """Mean of a column over the samples that `of` counts."""
        return self._interval(self._ratio(name, column, of), [name])

    def root(self, name: str, column: str, *, of: str = "n") -> Interval:
        """Square root of the mean of a column of squares."""
        ratio = self._ratio(name, column, of)
        return self._interval(lambda a: np.sqrt(ratio(a)), [name])

    def skill(self, name: str, reference: str, column: str = "squared", of: str = "n") -> Interval:
        """1 - error / error of `reference`; None where the reference makes none."""
        own, other = self._ratio(name, column, of), self._ratio(reference, column, of)
        if not float(other(self.bootstrap.observed)) > NO_ERROR:
            return Interval(None, note="the reference makes no error here")
        return self._interval(lambda a: 1 - own(a) / other(a), [name, reference])

    def count(self, name: str, of: str = "n") -> int:
        """Samples behind a mean."""
        return int(self.counts[self.names.index(name), self.columns.index(of)])

    def difference(self, first: str, second: str, *, of: Bootstrap | None = None) -> Interval:
        """Mean squared error of `first` minus that of `second`, paired by sample."""
        statistic = self.statistic_of_difference(first, second)
        source = of or self.bootstrap
        places = [self.names.index(name) for name in (first, second)]
        return source.interval(statistic, entries=places, collapse="point")

    def statistic_of_difference(
        self, first: str, second: str
    ) -> Callable[[np.ndarray], np.ndarray]:
        own, other = self._ratio(first, "squared", "n"), self._ratio(second, "squared", "n")
        return lambda a: own(a) - other(a)

    def _ratio(self, name: str, column: str, of: str) -> Callable[[np.ndarray], np.ndarray]:
        e, c, n = self.names.index(name), self.columns.index(column), self.columns.index(of)
        step = self.step

        def ratio(a: np.ndarray) -> np.ndarray:
            known = a[..., e, n]
            out = np.full(known.shape, np.nan)
            return np.divide(step * a[..., e, c], known, out=out, where=known > 0)

        return ratio

    def _interval(
        self, statistic: Callable[[np.ndarray], np.ndarray], names: Sequence[str]
    ) -> Interval:
        places = [self.names.index(name) for name in names]
        return self.bootstrap.interval(statistic, entries=places, collapse="point")


def class_column(k: int) -> str:
    return f"squared of class {k}"


def class_count(k: int) -> str:
    return f"n of class {k}"


def resample_errors(judged: JudgedStudy, placings: Sequence[Placing], frame: Frame) -> Errors:
    """Errors of all placings over the study's own draws."""
    columns, tables, counted = [], [], []
    for placing in placings:
        found = _columns(placing.positions_SN3, frame)
        columns = list(found)
        stacked = np.stack(list(found.values()), axis=1)
        tables.append(stacked)
        counted.append([stacked[0, c].sum() if _is_count(n) else 0 for c, n in enumerate(columns)])
    counts = [c for c, name in enumerate(columns) if _is_count(name)]
    values_UCN = np.concatenate(tables)
    errors = np.delete(values_UCN, counts, axis=1)
    step = max(float(errors.max(initial=0.0)), NO_ERROR) / STEPS
    whole = np.rint(values_UCN / step)
    whole[:, counts] = values_UCN[:, counts]
    owners = [e for e, placing in enumerate(placings) for _ in placing.positions_SN3]
    bootstrap = resample_values(judged, whole, owners)
    names = [placing.name for placing in placings]
    return Errors(names, bootstrap, columns, step, np.array(counted))


def resample_values(
    judged: JudgedStudy,
    values_UCN: np.ndarray,
    entry_of_run: Sequence[int],
    *,
    groups: np.ndarray | None = None,
) -> Bootstrap:
    """The study's own draws of groups and seeds over whole numbers; `groups` [N] where they belong
    to other samples than those of the study."""
    settings = judged.study.compare
    return bootstrap_accuracy(
        values_UCN.astype(np.int64),
        judged.groups if groups is None else groups,
        entry_of_run=entry_of_run,
        replicates=settings.replicates,
        confidence=settings.confidence,
        seed=settings.seed,
    )


def condition_errors(
    judged: JudgedStudy, positions: Sequence[np.ndarray], targets_N3: np.ndarray
) -> list[list[Interval]]:
    """Mean squared error per entry and condition.

    Args:
        positions: per entry [S, C, N, 3]. Samples without a known target are left out.
    """
    known = np.asarray(np.isfinite(targets_N3).all(axis=1))
    squared = [np.where(known, squared_error(each, targets_N3), 0.0) for each in positions]
    largest = max(float(each.max(initial=0.0)) for each in squared)
    step = max(largest, NO_ERROR) / STEPS
    count = np.broadcast_to(known, (sum(map(len, squared)), 1, len(known)))
    whole = np.concatenate([np.rint(np.concatenate(squared) / step), count], axis=1)
    owners = [e for e, each in enumerate(squared) for _ in each]
    bootstrap = resample_values(judged, whole, owners)

    def means(e: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda a: step * a[..., e, :-1] / a[..., e, -1:]

    return [
        bootstrap.intervals(means(e), entries=[e], collapse="point") for e in range(len(positions))
    ]


def _is_count(column: str) -> bool:
    return column.startswith("n")


def _columns(positions_SN3: np.ndarray, frame: Frame) -> dict[str, np.ndarray]:
    """Column -> [S, N], 0 where the error is not known; columns that start with n count."""
    error = positions_SN3 - frame.targets_N3
    is_known = np.isfinite(error).all(axis=-1)
    found = {
        "n": is_known.astype(float),
        "squared": squared_error(positions_SN3, frame.targets_N3),
        "absolute": absolute_error(positions_SN3, frame.targets_N3),
    }
    nothing = np.full(is_known.shape, np.nan)
    along, across, depth, plane = nothing, nothing, nothing, nothing
    if frame.velocity_N3 is not None:
        along, across = split_by_motion(error, frame.velocity_N3)
    if frame.rotation_33 is not None:
        depth, plane = split_by_camera(error, frame.rotation_33)
    found |= dict(zip(PARTS, (along, across, depth, plane), strict=True))
    found |= {
        "n moving": np.isfinite(along).astype(float),
        "n seen": np.isfinite(depth).astype(float),
    }
    for k in range(frame.classes):
        mine = is_known & (frame.labels_N == k)
        found[class_count(k)] = mine.astype(float)
        found[class_column(k)] = np.where(mine, found["squared"], 0.0)
    return {name: np.where(np.isfinite(values), values, 0.0) for name, values in found.items()}
