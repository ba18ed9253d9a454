"""Two conditions of one entry against each other, paired on the same samples.

Shapes: S seeds of an entry, C conditions, N samples, G groups, M contrasts. The bootstrap is the
one that serves the comparison of entries, so both conditions of a contrast stand on the same drawn
groups and seeds. All contrasts of a study are one family for the correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Bootstrap, Interval, tally_by_group
from regatta.analysis.paired import (
    PairedData,
    PairSettings,
    Verdict,
    adjust,
    decide,
    inside,
    sign_flip_test,
)


@dataclass(frozen=True)
class Contrast:
    """Accuracy at condition `first` minus accuracy at condition `second`, of one entry.

    same_clips: every sample gave the identical clip in both, so the difference is 0 by design and
    is no test of the family.
    """

    entry: int
    first: int
    second: int
    words: str
    same_clips: bool = False


@dataclass(frozen=True)
class Answered:
    """A contrast with its answer, in fractions, not points; `verdict` is about `first`."""

    contrast: Contrast
    difference: Interval
    tost: Interval
    """Interval at confidence 1 - 2 alpha, for two one-sided tests against the margin."""
    p_value: float | None
    p_adjusted: float | None
    verdict: Verdict
    equivalent: bool
    method: str

    @property
    def is_above(self) -> bool:
        """The corrected test and the interval both say that `first` is more accurate."""
        return self.verdict == "ahead"

    @property
    def is_below(self) -> bool:
        return self.verdict == "behind"

    def less_than(self, margin: float) -> bool:
        """Whether the difference is shown to be below `margin` (one-sided test at alpha)."""
        return self.tost.high is not None and self.tost.high < margin

    def as_dict(self) -> dict[str, Any]:
        return {
            "difference_points": self.difference.scaled(100).as_dict(),
            "equivalence_interval_points": self.tost.scaled(100).as_dict(),
            "p_value": self.p_value,
            "p_adjusted": self.p_adjusted,
            "verdict": self.verdict,
            "equivalent": self.equivalent,
            "method": self.method,
        }


def compare_conditions(
    data: PairedData, bootstrap: Bootstrap, contrasts: Sequence[Contrast], settings: PairSettings
) -> list[Answered]:
    """Every contrast with interval, sign-flip permutation by group and corrected p-value.

    Returns:
        In the order of `contrasts`; those with identical clips have difference 0 and no p-value.
    """
    asked = [contrast for contrast in contrasts if not contrast.same_clips]
    raw: list[Any] = [None] * len(asked)
    adjusted, method = raw, "not available: a single group"
    if asked and bootstrap.groups > 1:
        sums = _group_differences(data, asked)
        test = sign_flip_test(sums, replicates=settings.replicates, seed=settings.seed)
        raw, method = test.p_value.tolist(), test.method
        adjusted = adjust(raw, settings.correction)
    answers = iter(zip(raw, adjusted, strict=True))
    return [
        _same_clips(contrast)
        if contrast.same_clips
        else _tested(data, bootstrap, contrast, *next(answers), method, settings.margin)
        for contrast in contrasts
    ]


def _same_clips(contrast: Contrast) -> Answered:
    zero = Interval(0.0, 0.0, 0.0, "by design", "identical clips")
    return Answered(contrast, zero, zero, None, None, "identical", True, "identical clips")


def _tested(
    data: PairedData,
    bootstrap: Bootstrap,
    contrast: Contrast,
    p_value: float | None,
    p_adjusted: float | None,
    method: str,
    margin: float,
) -> Answered:
    difference, tost = difference_intervals(
        bootstrap, contrast.entry, contrast.first, contrast.second
    )
    correct = data.correct[contrast.entry]
    same = bool((correct[:, contrast.first] == correct[:, contrast.second]).all())
    equivalent = inside(tost, margin)
    verdict = decide(difference, p_adjusted, 1 - bootstrap.confidence, equivalent, same)
    return Answered(contrast, difference, tost, p_value, p_adjusted, verdict, equivalent, method)


def difference_intervals(
    bootstrap: Bootstrap, entry: int, first: int, second: int
) -> tuple[Interval, Interval]:
    """(at the study's confidence, at 1 - 2 alpha) of accuracy `first` minus accuracy `second`."""

    def difference(accuracy: np.ndarray) -> np.ndarray:
        return accuracy[..., entry, first] - accuracy[..., entry, second]

    alpha = 1 - bootstrap.confidence
    wide, narrow = (
        bootstrap.interval(difference, entries=[entry], collapse="difference", confidence=level)
        for level in (bootstrap.confidence, 1 - 2 * alpha)
    )
    return wide, narrow


def _group_differences(data: PairedData, contrasts: Sequence[Contrast]) -> np.ndarray:
    """Right answers at `first` minus at `second`, summed over seeds and each group, int [G, M]."""
    rows = []
    for contrast in contrasts:
        right = data.correct[contrast.entry].sum(axis=0)
        rows.append(right[contrast.first] - right[contrast.second])
    codes = np.unique(data.groups, return_inverse=True)[1]
    return tally_by_group(np.stack(rows)[None], codes)[0][0]
