"""How often 95 % intervals hold the truth in simulated clustered studies.

    .venv/bin/python benchmarks/interval_coverage.py [--studies 2000] [--replicates 2000]

Beta-binomial groups of unequal size (see clustered_answers.py): accuracy 50, 80, 95 %, correlation
inside groups 0, 0.1, 0.3, and 30, 100, 400 groups of 9 samples on average. One seed without and
three seeds with training noise, whose standard deviation is 0.06 p (1 - p): 1.5, 1.0, 0.3 points.
Per design the share of studies whose interval holds the truth, for the accuracy of an entry and for
the paired difference of two entries that are 0.15 p (1 - p) apart, with the standard error of the
share (it is near 0.5 points at 2,000 studies). Each study is resampled by itself; studies of one
batch share group sizes and draws.

At the end three designs in which no cover is promised: one seed against the truth over all seeds.
About 3 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from clustered_answers import Design, draw_answers, draw_groups

from regatta.analysis.bootstrap import Interval, bootstrap_accuracy
from regatta.core.seeds import stream

ACCURACIES, CORRELATIONS, GROUPS = (0.5, 0.8, 0.95), (0.0, 0.1, 0.3), (30, 100, 400)
DIFFERENCE, SEED_NOISE, SEEDS = 0.15, 0.06, 3
LOW, HIGH = 0.93, 0.97
BATCH = 25
"""Studies resampled in one call."""
PROCESSES = 2


class Cover(NamedTuple):
    """Share of intervals that hold the truth, its standard error, and how many were given."""

    share: float
    error: float
    count: int

    @property
    def mark(self) -> str:
        """How the share stands to 93-97 %; outside by less than two errors may be chance."""
        if LOW <= self.share <= HIGH:
            return ""
        beyond = max(LOW - self.share, self.share - HIGH)
        return "outside" if beyond > 2 * self.error else "edge"

    def __str__(self) -> str:
        return f"{100 * self.share:5.1f} ± {100 * self.error:.1f} {self.mark:<8}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--replicates", type=int, default=2000)
    options = parser.parse_args()
    started = time.perf_counter()
    designs = [
        Design(p, r, g, (0.0, DIFFERENCE), seeds, SEED_NOISE if seeds > 1 else 0.0)
        for seeds, p, r, g in product((1, SEEDS), ACCURACIES, CORRELATIONS, GROUPS)
    ]
    print(f"{options.studies} studies per design, {options.replicates} replicates; percent covered")
    covers = table(designs, options.studies, options.replicates)
    print_summary(covers)
    print("\nnot promised: the interval of one seed against the truth over all seeds")
    table(
        [Design(0.8, 0.1, g, (0.0, DIFFERENCE), 1, SEED_NOISE) for g in GROUPS],
        options.studies,
        options.replicates,
    )
    print(f"{time.perf_counter() - started:.0f} s")


def table(designs: list[Design], studies: int, replicates: int) -> list[Cover]:
    """Print a row per design; the covers of all."""
    print("seeds  accuracy  correlation  groups   accuracy            difference")
    found = []
    measure = partial(cover, studies=studies, replicates=replicates)
    with ProcessPoolExecutor(PROCESSES) as pool:
        for design, (accuracy, difference) in zip(designs, pool.map(measure, designs), strict=True):
            print(
                f"{design.seeds:5d}  {design.accuracy:8.2f}  {design.correlation:11.1f}  "
                f"{design.groups:6d}   {accuracy}  {difference}",
                flush=True,
            )
            found += [accuracy, difference]
    return found


def print_summary(covers: list[Cover]) -> None:
    inside = sum(cover.mark == "" for cover in covers)
    edge = sum(cover.mark == "edge" for cover in covers)
    shares = [100 * cover.share for cover in covers]
    verdict = "met" if inside + edge == len(covers) else "MISSED"
    print(
        f"target 93-97 %: {inside} of {len(covers)} inside, {edge} beyond it by less than two "
        f"standard errors, {len(covers) - inside - edge} outside: {verdict}; "
        f"all {min(shares):.1f} to {max(shares):.1f}, mean {np.mean(shares):.2f}"
    )


def cover(design: Design, studies: int, replicates: int) -> tuple[Cover, Cover]:
    """Cover of the first entry's accuracy, and of the second's lead over it."""
    rng = stream(0, "coverage", repr(design))
    accuracies: list[Interval] = []
    differences: list[Interval] = []
    for batch in range(-(-studies // BATCH)):
        groups = draw_groups(rng, design)
        answers = draw_answers(rng, design, groups, studies=BATCH)
        # Every entry of every study is an entry of one call: each keeps seeds of its own.
        found = bootstrap_accuracy(
            answers.reshape(-1, 1, len(groups)),
            groups,
            entry_of_run=np.repeat(np.arange(2 * BATCH), design.seeds).tolist(),
            replicates=replicates,
            confidence=0.95,
            seed=batch,
        )
        accuracies += found.intervals(lambda a: a[..., ::2, 0], entries=[0], collapse="share")
        differences += found.intervals(
            lambda a: a[..., 1::2, 0] - a[..., ::2, 0], entries=[0, 1], collapse="difference"
        )
    lead = design.truth(1) - design.truth(0)
    return held(accuracies, design.truth(0)), held(differences, lead)


def held(intervals: list[Interval], truth: float) -> Cover:
    """An interval that is not given counts as one that misses."""
    hits = [
        i.low is not None and i.high is not None and i.low <= truth <= i.high for i in intervals
    ]
    share = float(np.mean(hits))
    return Cover(share, float(np.sqrt(share * (1 - share) / len(hits))), len(hits))


if __name__ == "__main__":
    main()
