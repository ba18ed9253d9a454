"""Ten thousand clustered replicates of 75 accuracies with their intervals, beside resampling loops.

    .venv/bin/python benchmarks/bootstrap.py [--repeats 3] [--loop-replicates 10000]

12,227 simulated samples in 707 groups of unequal size, 3 entries x 25 conditions. The loops are the
ways one would write by hand; for each replicate they draw groups and gather the samples of those:

    per cell   then take the mean of every entry and condition in turn;
    at once    then take all 75 means in one call.

First both loops must give our replicates and our interval ends within 1e-12 from the same seed,
which holds because both sides ask the generator for the same numbers. Then all sides are timed in
turn, observed accuracies and intervals included. Fewer loop replicates than ours are scaled up, and
the output says so. Besides, without a loop: every sample its own group, and three seeds per entry.
About 3 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from regatta.analysis.bootstrap import Interval, bootstrap_accuracy, widened_tail
from regatta.core.seeds import stream

SAMPLES, GROUPS, ENTRIES, CONDITIONS, REPLICATES = 12_227, 707, 3, 25, 10_000
CONFIDENCE, SEED, CHECKED = 0.95, 0, 400
TARGET_RATIO, TARGET_SECONDS, TOLERANCE = 50.0, 1.0, 1e-12

Means = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(right answers [E, C, N], picked samples) -> accuracies [E, C]."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loop-replicates", type=int, default=REPLICATES)
    options = parser.parse_args()
    correct, groups = simulated_answers(seeds=1)
    print(
        f"{SAMPLES} samples, {len(np.unique(groups))} groups of {np.bincount(groups).min()} to "
        f"{np.bincount(groups).max()}, {ENTRIES} x {CONDITIONS} cells, {REPLICATES} replicates, "
        f"{os.cpu_count()} cores"
    )
    first = seconds_of(lambda: ours(correct, groups))
    loops = {"per cell": mean_per_cell, "at once": means_at_once}
    for name, means in loops.items():
        check_equal(correct, groups, name, means)
    sides: dict[str, Callable[[], object]] = {"ours": lambda: ours(correct, groups)}
    for name, means in loops.items():
        sides[name] = lambda means=means: loop(correct, groups, means, options.loop_replicates)
    seconds = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, run in sides.items():
            seconds[name].append(seconds_of(run))
    report(seconds, first=first, scale=REPLICATES / options.loop_replicates)
    report_others(correct, options.repeats)


def simulated_answers(*, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Right answers bool [E * seeds, C, N], and groups [N] of unequal size in no order."""
    rng = stream(SEED, "benchmark")
    weights = rng.gamma(6.0, size=GROUPS)
    sizes = 1 + rng.multinomial(SAMPLES - GROUPS, weights / weights.sum())
    groups = rng.permutation(np.repeat(np.arange(GROUPS), sizes))
    rate = rng.beta(8, 2, size=(ENTRIES * seeds, CONDITIONS, GROUPS))
    return rng.random((ENTRIES * seeds, CONDITIONS, SAMPLES)) < rate[:, :, groups], groups


def ours(
    correct: np.ndarray, groups: np.ndarray, replicates: int = REPLICATES
) -> tuple[np.ndarray, list[list[Interval]]]:
    """Replicates [R, E, C] and the interval of every cell."""
    seeds = len(correct) // ENTRIES
    found = bootstrap_accuracy(
        correct,
        groups,
        entry_of_run=np.repeat(np.arange(ENTRIES), seeds).tolist(),
        replicates=replicates,
        confidence=CONFIDENCE,
        seed=SEED,
    )
    intervals = [
        found.intervals(lambda a, e=e: a[..., e, :], entries=[e], collapse="share")
        for e in range(ENTRIES)
    ]
    return found.replicates, intervals


def loop(
    correct: np.ndarray, groups: np.ndarray, means: Means, replicates: int
) -> tuple[np.ndarray, np.ndarray]:
    """Replicates [R, E, C] and interval ends [2, E, C], one replicate after the other."""
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    rng = stream(SEED, "bootstrap", "groups")
    found = np.empty((replicates, *correct.shape[:2]))
    for replicate in range(replicates):
        drawn = rng.integers(0, len(members), size=len(members) - 1)
        picked = np.concatenate([members[group] for group in drawn])
        found[replicate] = means(correct, picked)
    tail = widened_tail(len(members) - 1, CONFIDENCE)
    return found, np.quantile(found, [tail, 1 - tail], axis=0)


def mean_per_cell(correct: np.ndarray, picked: np.ndarray) -> np.ndarray:
    found = np.empty(correct.shape[:2])
    for entry in range(correct.shape[0]):
        for condition in range(correct.shape[1]):
            found[entry, condition] = correct[entry, condition, picked].mean()
    return found


def means_at_once(correct: np.ndarray, picked: np.ndarray) -> np.ndarray:
    return correct[:, :, picked].mean(axis=2)


def check_equal(correct: np.ndarray, groups: np.ndarray, name: str, means: Means) -> None:
    """Stop unless replicates and interval ends agree with the loop's."""
    replicates, intervals = ours(correct, groups, CHECKED)
    looped, ends = loop(correct, groups, means, CHECKED)
    gap = float(np.abs(replicates - looped).max())
    cells = [(e, c) for e in range(ENTRIES) for c in range(CONDITIONS)]
    kept = [(e, c, intervals[e][c]) for e, c in cells if intervals[e][c].method == "percentile"]
    gaps = [
        abs(float(found or 0.0) - ends[side, e, c])
        for e, c, interval in kept
        for side, found in enumerate((interval.low, interval.high))
    ]
    if gap > TOLERANCE or len(kept) < len(cells) or max(gaps) > TOLERANCE:
        raise SystemExit(f"the loop {name} gives other numbers: replicates differ by {gap:.1e}")
    print(
        f"equal: {CHECKED} replicates of {len(cells)} cells and their {len(gaps)} interval ends "
        f"agree with the loop {name} within {max(gap, *gaps):.1e}"
    )


def seconds_of(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def report(seconds: dict[str, list[float]], *, first: float, scale: float) -> None:
    """Medians, ratios turn by turn and targets."""
    fast = statistics.median(seconds["ours"])
    met = "met" if fast <= TARGET_SECONDS else "MISSED"
    print(f"ours      {fast:8.3f} s   target {TARGET_SECONDS:g} s: {met}")
    print(f"          {first:8.3f} s   the first call of the process, imports of scipy included")
    for name in ("per cell", "at once"):
        slow = [scale * value for value in seconds[name]]
        ratios = [s / f for s, f in zip(slow, seconds["ours"], strict=True)]
        ratio = statistics.median(ratios)
        print(
            f"{name:<9} {statistics.median(slow):8.1f} s   {ratio:.0f} x "
            f"({min(ratios):.0f}-{max(ratios):.0f})",
            end="",
        )
        if name == "per cell":
            print(
                f"   target {TARGET_RATIO:g} x: {'met' if ratio >= TARGET_RATIO else 'MISSED'}",
                end="",
            )
        print(f"   scaled up {scale:g} times" if scale != 1 else "")


def report_others(correct: np.ndarray, repeats: int) -> None:
    """Seconds where no loop is run beside: no groups, several seeds."""
    alone = np.arange(SAMPLES)
    seeded, groups = simulated_answers(seeds=3)
    for name, run in {
        "every sample its own group": lambda: ours(correct, alone),
        "three seeds per entry": lambda: ours(seeded, groups),
    }.items():
        print(f"{name}: {statistics.median(seconds_of(run) for _ in range(repeats)):.2f} s")


if __name__ == "__main__":
    main()
