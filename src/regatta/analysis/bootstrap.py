"""Clustered bootstrap: whole groups are drawn with replacement, for all cells at once.

Shapes: U runs, E entries, C conditions, N samples, G groups, R replicates, M statistics.

The same drawn groups serve every entry and condition, so any difference of two cells is paired by
sample. Accuracy is a ratio estimator: right answers in the drawn groups over samples in them.

Two small-sample corrections keep 95 % intervals at 95 % when groups or seeds are few:
- G - 1 of G groups (and S - 1 of S seeds) are drawn, which makes the bootstrap variance unbiased
  (Rao and Wu 1988, Resampling inference with complex survey data).
- the percentiles are widened from the normal to Student's t with the design's degrees of freedom
  (Hesterberg 2015, What teachers should know about the bootstrap).

Several seeds are an outer level: each entry's seeds are drawn too, independently of other entries.
Where every group agrees the percentiles collapse to a point; `Collapse` says what is given instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from regatta.core.seeds import stream

BLOCK_BYTES = 32 << 20
"""Largest table of group weights, as 8-byte numbers, that is held at once; it bounds memory
whatever R and G are."""

COUNTED_AT_ONCE = 1 << 16
"""Drawn group numbers per count: what is counted then stays in the processor's cache."""

FEW_GROUPS = 10
FEW_FREEDOM = 4
"""Below these an interval is marked as rough."""

FEW_EVENTS = 20
"""Below this effective number of errors (or of hits) percentiles of a share are too narrow."""

EXACT_FLOAT32 = 1 << 24
"""Whole numbers below this are exact in float32, so the product does not depend on thread count."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Accuracies [..., E, C] -> values [...] or [..., M]."""

Collapse = Literal["share", "difference", "point", "none"]
"""What to give when all replicates are equal, as if each group were one observation:
share = exact binomial (Clopper and Pearson) with n = G; difference = the value plus or minus the
largest rate of disagreement that G agreeing groups leave possible; point = the value itself, for
statistics on a lattice; none = no interval."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval; `low` and `high` are None where the data give none."""

    estimate: float | None
    low: float | None = None
    high: float | None = None
    method: str = "none"
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def scaled(self, factor: float) -> Interval:
        """The same in another unit: 100 for points, -1 for the other direction."""
        low, high = (self.low, self.high) if factor >= 0 else (self.high, self.low)
        ends = [None if x is None else x * factor for x in (self.estimate, low, high)]
        return Interval(ends[0], ends[1], ends[2], self.method, self.note)

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Spread:
    """What an interval's width comes from; variances and degrees of freedom, each [M]."""

    groups: np.ndarray
    """Variance of the replicates with the seeds held."""
    seeds: np.ndarray
    """What drawing the seeds adds; 0 where every entry has one seed."""
    freedom: np.ndarray

    @property
    def standard_error(self) -> np.ndarray:
        return np.sqrt(self.groups + self.seeds)


@dataclass(frozen=True)
class Bootstrap:
    """Observed accuracies and their replicates.

    observed [E, C]; replicates [R, E, C] with groups and seeds drawn; fixed_seeds [R, E, C] with
    groups drawn only, None when no entry has two seeds. R is 0 when there is a single group.
    """

    observed: np.ndarray
    replicates: np.ndarray
    fixed_seeds: np.ndarray | None
    samples: int
    groups: int
    seeds: tuple[int, ...]
    """Number of seeds per entry."""
    confidence: float

    def with_seeds_fixed(self) -> Bootstrap:
        """The same as if the training seeds were all there are: only groups vary."""
        if self.fixed_seeds is None:
            return self
        return replace(self, replicates=self.fixed_seeds, fixed_seeds=None)

    def interval(
        self,
        statistic: Statistic,
        *,
        entries: Sequence[int],
        collapse: Collapse = "none",
        confidence: float | None = None,
    ) -> Interval:
        """Interval of one statistic; see `intervals`."""
        found = self.intervals(statistic, entries=entries, collapse=collapse, confidence=confidence)
        return found[0]

    def intervals(
        self,
        statistic: Statistic,
        *,
        entries: Sequence[int],
        collapse: Collapse = "none",
        confidence: float | None = None,
    ) -> list[Interval]:
        """Intervals of a statistic of the accuracies, one per value it returns.

        Args:
            statistic: works on any leading axes.
            entries: positions of the entries it looks at; their seeds give the degrees of freedom.
            confidence: other than the study's, for example for two one-sided tests.
        """
        level = confidence or self.confidence
        estimates = np.atleast_1d(statistic(self.observed))
        if len(self.replicates) == 0:
            note = "all samples belong to one group, so there is nothing to resample"
            return [Interval(_finite(x), note=note) for x in estimates]
        values, fixed = self._values(statistic, entries)
        freedom = self._degrees_of_freedom(values, fixed, entries)
        return [
            self._interval(float(estimates[m]), values[:, m], float(freedom[m]), level, collapse)
            for m in range(values.shape[1])
        ]

    def spread(self, statistic: Statistic, *, entries: Sequence[int]) -> Spread | None:
        """Group and seed variance of each value of a statistic; None with a single group."""
        if len(self.replicates) == 0:
            return None
        values, fixed = self._values(statistic, entries)
        freedom = self._degrees_of_freedom(values, fixed, entries)
        if fixed is None:
            return Spread(values.var(axis=0), np.zeros(values.shape[1]), freedom)
        groups = fixed.var(axis=0)
        return Spread(groups, np.maximum(values.var(axis=0) - groups, 0), freedom)

    def _values(
        self, statistic: Statistic, entries: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The statistic in every replicate [R, M], and with the seeds held, where they vary."""
        count = len(self.replicates)
        values = statistic(self.replicates).reshape(count, -1)
        if self.fixed_seeds is None or all(self.seeds[e] == 1 for e in entries):
            return values, None
        return values, statistic(self.fixed_seeds).reshape(count, -1)

    def _interval(
        self,
        estimate: float,
        values: np.ndarray,
        freedom: float,
        confidence: float,
        collapse: Collapse,
    ) -> Interval:
        if not np.isfinite(estimate):
            return Interval(None, note="the value is not defined here")
        undefined = int((~np.isfinite(values)).sum())
        if undefined:
            return Interval(
                estimate, note=f"not defined in {undefined} of {len(values)} replicates"
            )
        if np.ptp(values) <= 1e-12:
            return _collapsed(estimate, self.groups, confidence, collapse)
        note = self._roughness(freedom)
        if collapse == "share" and 0 < estimate < 1:
            count = estimate * (1 - estimate) / values.var()
            if min(estimate, 1 - estimate) * count < FEW_EVENTS:
                count = min(count * widening(freedom, confidence) ** -2, float(self.samples))
                low, high = exact_share(estimate, count, confidence=confidence)
                return Interval(estimate, low, high, "exact, effective n", note)
        tail = widened_tail(freedom, confidence)
        low, high = np.quantile(values, [tail, 1 - tail])
        return Interval(estimate, float(low), float(high), "percentile", note)

    def _roughness(self, freedom: float) -> str:
        if self.groups < FEW_GROUPS:
            return f"only {self.groups} groups: the interval is rough"
        return "" if freedom >= FEW_FREEDOM else "few seeds that differ much: the interval is rough"

    def _degrees_of_freedom(
        self, values: np.ndarray, fixed: np.ndarray | None, entries: Sequence[int]
    ) -> np.ndarray:
        """Welch-Satterthwaite over the group part and the seed part of the variance, [M]."""
        between_groups = float(self.groups - 1)
        if fixed is None:
            return np.full(values.shape[1], between_groups)
        between_seeds = sum(self.seeds[e] - 1 for e in entries)
        group_part = fixed.var(axis=0)
        seed_part = np.maximum(values.var(axis=0) - group_part, 0)
        spread = group_part**2 / between_groups + seed_part**2 / between_seeds
        whole = (group_part + seed_part) ** 2
        return np.divide(whole, spread, out=np.full_like(whole, between_groups), where=spread > 0)


def bootstrap_accuracy(
    correct: np.ndarray,
    groups: np.ndarray,
    *,
    entry_of_run: Sequence[int],
    replicates: int,
    confidence: float,
    seed: int,
) -> Bootstrap:
    """Resample groups (and seeds) of all runs at once.

    Args:
        correct: bool [U, C, N], the same samples in the same order for all runs; or whole numbers
            from 0, whose mean over samples then takes the place of the accuracy.
        groups: [N], what a sample must never be separated from.
        entry_of_run: [U], position of each run's entry; entries are 0..E-1, each with a run.
        seed: of the named stream, so that the same data give the same interval.
    """
    codes = np.unique(groups, return_inverse=True)[1]
    right, sizes = tally_by_group(correct, codes)
    runs = np.asarray(entry_of_run)
    seeds = tuple(int((runs == e).sum()) for e in range(int(runs.max()) + 1))
    by_run = right.sum(axis=1) / len(codes)
    even = [_even_weights(runs, entry) for entry in range(len(seeds))]
    observed = np.stack([w @ by_run for w in even])
    shape = (0 if len(sizes) < 2 else replicates, *observed.shape)
    drawn = np.empty(shape)
    fixed = np.empty(shape) if max(seeds) > 1 else None
    seed_rng = stream(seed, "bootstrap", "seeds")
    own_spread = [seed_spread(right[runs == e], sizes) for e in range(len(seeds))]
    start = 0
    for accuracy in _replicate_blocks(right, sizes, shape[0], stream(seed, "bootstrap", "groups")):
        stop = start + len(accuracy)
        for entry, weights in enumerate(even):
            members = np.flatnonzero(runs == entry)
            if fixed is not None:
                fixed[start:stop, entry] = np.tensordot(accuracy, weights, axes=(1, 0))
            chosen = _draw_seeds(seed_rng, len(members), len(accuracy), own_spread[entry])
            drawn[start:stop, entry] = np.einsum("ru,ruc->rc", chosen, accuracy[:, members])
        start = stop
    return Bootstrap(observed, drawn, fixed, len(codes), len(sizes), seeds, confidence)


def tally_by_group(values: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of `values` [U, C, N] per group as int64 [U, G, C], and samples per group [G]."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    sums = np.add.reduceat(values[:, :, order].astype(np.int64), starts, axis=2)
    return sums.transpose(0, 2, 1), np.bincount(codes)


def exact_share(share: float, count: float, *, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson interval of `share` seen in `count` independent observations.

    At share 1 the lower end is (alpha / 2) ** (1 / count), the exact form of the rule of three.
    """
    # Not scipy.stats, whose checks of every call take longer than the rest of an interval.
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    hits = share * count
    low = 0.0 if hits <= 0 else float(betaincinv(hits, count - hits + 1, tail))
    high = 1.0 if hits >= count else float(betaincinv(hits + 1, count - hits, 1 - tail))
    return low, high


def widening(freedom: float, confidence: float) -> float:
    """Student's t quantile over the normal one: how much wider few groups make an interval."""
    from scipy.special import ndtri, stdtrit

    tail = (1 - confidence) / 2
    return float(stdtrit(freedom, tail) / ndtri(tail))


def widened_tail(freedom: float, confidence: float) -> float:
    """Share of replicates outside each end: the normal tail at Student's t quantile."""
    from scipy.special import ndtr, stdtrit

    return float(ndtr(stdtrit(freedom, (1 - confidence) / 2)))


def _collapsed(estimate: float, groups: int, confidence: float, collapse: Collapse) -> Interval:
    note = "every group gives the same value"
    if collapse == "share":
        low, high = exact_share(min(max(estimate, 0.0), 1.0), groups, confidence=confidence)
        return Interval(estimate, low, high, "exact by groups", note)
    if collapse == "difference":
        reach = 1 - exact_share(1.0, groups, confidence=confidence)[0]
        low, high = max(-1.0, estimate - reach), min(1.0, estimate + reach)
        return Interval(estimate, low, high, "exact by groups", note)
    if collapse == "point":
        return Interval(estimate, estimate, estimate, "percentile", "all replicates agree")
    return Interval(estimate, note=note)


def _replicate_blocks(
    right: np.ndarray, sizes: np.ndarray, replicates: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Accuracies [r, U, C] of successive blocks of replicates."""
    runs, groups, cells = right.shape
    largest = max(int(sizes.max()), int(right.max(initial=0)))
    dtype = np.float32 if groups * largest < EXACT_FLOAT32 else np.float64
    flat = right.transpose(1, 0, 2).reshape(groups, runs * cells).astype(dtype)
    table = np.concatenate([flat, sizes[:, None].astype(dtype)], axis=1)
    for weights in draw_group_weights(rng, groups, replicates):
        sums = weights.astype(dtype) @ table
        yield (sums[:, :-1].astype(np.float64) / sums[:, -1:]).reshape(-1, runs, cells)


def draw_group_weights(
    rng: np.random.Generator, groups: int, replicates: int
) -> Iterator[np.ndarray]:
    """How often each group was drawn, int [r, G], in blocks; each row sums to G - 1."""
    # Not 4 bytes: seeds are drawn block by block, so another block size is another draw of them.
    rows = max(1, BLOCK_BYTES // (8 * groups))
    few = max(1, COUNTED_AT_ONCE // groups)
    for start in range(0, replicates, rows):
        weights = np.empty((min(rows, replicates - start), groups), dtype=np.int32)
        for first in range(0, len(weights), few):
            part = weights[first : first + few]
            drawn = rng.integers(0, groups, size=(len(part), groups - 1), dtype=np.int32)
            drawn += np.arange(len(part), dtype=np.int32)[:, None] * groups
            part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)
        yield weights


def seed_spread(right: np.ndarray, sizes: np.ndarray) -> float:
    """What group sampling leaves over of the spread between seeds, as a factor on deviations.

    Seeds differ on a finite set of groups even when training noise has no effect on accuracy; that
    part is in the group resampling already and must not be counted twice.

    Args:
        right: [S, G, C] of one entry. sizes: [G].
    """
    seeds, groups, _ = right.shape
    if seeds == 1 or groups == 1:
        return 1.0
    deviation = right - right.mean(axis=0)
    total = deviation.sum(axis=1)
    residual = deviation - (total / sizes.sum())[:, None] * sizes[None, :, None]
    by_chance = groups / (groups - 1) * (residual**2).sum()
    seen = (total**2).sum()
    return float(np.sqrt(max(0.0, 1 - by_chance / seen))) if seen > 0 else 0.0


def _draw_seeds(rng: np.random.Generator, seeds: int, replicates: int, spread: float) -> np.ndarray:
    """Weights of an entry's seeds [r, S], rows summing to 1: S - 1 of S drawn, all of one."""
    if seeds == 1:
        return np.ones((replicates, 1))
    even = 1 / seeds
    drawn = rng.multinomial(seeds - 1, np.full(seeds, even), size=replicates) / (seeds - 1)
    return even + spread * (drawn - even)


def _even_weights(runs: np.ndarray, entry: int) -> np.ndarray:
    mine = runs == entry
    return mine / mine.sum()


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
