"""How often the tests cry wolf between equally good entries, and what the verdict says when the
truth is known.

    .venv/bin/python benchmarks/type_one_error.py [--studies 2000] [--replicates 2000]

Null: three equally good entries on beta-binomial groups of unequal size (see clustered_answers.py),
accuracy 80 %, one seed without training noise. Percent of studies in which, at the 5 % level,

    flip      the sign-flip permutation by groups rejects for the first two entries (4-6 wanted);
    verdict   the verdict on the first two alone is "ahead" or "behind": the test and an interval
              without 0;
    Holm      a corrected p-value of the three pairs is below 5 %: the familywise rate;
    any       some pair's verdict after Holm is "ahead" or "behind";
    McNemar   exact McNemar of the first two rejects, which takes samples for independent;
    t         so does the paired t test over samples.

Then training noise (standard deviation 1 point between seeds): with one seed it looks like a
difference between entries; with three the verdict takes it into account. Last the verdict on
planted truths. Everything is the product's own compare_pairs, adjust and decide. About 3 minutes on
2 cores.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from clustered_answers import Design, draw_answers, draw_groups
from scipy.special import bdtr, stdtr

from regatta.analysis.bootstrap import bootstrap_accuracy
from regatta.analysis.paired import (
    Pair,
    PairedData,
    PairSettings,
    adjust,
    compare_pairs,
    decide,
    mcnemar,
)
from regatta.core.seeds import stream

CORRELATIONS = (0.0, 0.1, 0.3)
GROUPS = ((12, 9.0), (30, 9.0), (30, 40.0), (100, 9.0), (400, 9.0))
"""Number of groups and mean size."""
SEEDED_GROUPS = (12, 30, 100, 400)
FEW_DISCORDANT = 100
"""Below so many samples on which two entries differ an exact test has too few values to reach 5 %:
it stays below, as exact McNemar does."""
ENTRIES, ALPHA, MARGIN = ("a", "b", "c"), 0.05, 0.01
LOW, HIGH = 0.04, 0.06
SEED_NOISE, SEEDS = 0.0625, 3
"""One point at an accuracy of 80 %."""
BATCH, SEEDED_SHARE, PROCESSES = 100, 4, 2


class Scene(NamedTuple):
    """A planted truth and the verdict that it asks for."""

    name: str
    design: Design
    wanted: str


def scenes() -> list[Scene]:
    """Differences are those of the second entry's accuracy from the first's, near 80 %."""

    def two(groups: int, points: float) -> Design:
        return Design(0.8, 0.1, groups, (0.0, points / 100 / 0.16))

    return [
        Scene("5 points apart, 100 groups of 9", two(100, 5.0), "ahead"),
        Scene("5 points apart, 400 groups of 9", two(400, 5.0), "ahead"),
        Scene("2 points apart, 400 groups of 9", two(400, 2.0), "ahead"),
        Scene("equal, 5,000 groups of 9", two(5000, 0.0), "equivalent"),
        Scene("apart by the margin, 5,000 groups of 9", two(5000, 1.0), "not equivalent"),
        Scene("2 points apart, 12 groups of 9", two(12, 2.0), "undecided"),
        Scene("equal, 30 groups of 9", two(30, 0.0), "undecided"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--replicates", type=int, default=2000)
    options = parser.parse_args()
    started = time.perf_counter()
    check_shortcuts()
    with ProcessPoolExecutor(PROCESSES) as pool:
        print_null(pool, options.studies, options.replicates)
        print_seeds(pool, options.studies // SEEDED_SHARE, options.replicates)
        print_scenes(pool, max(200, options.studies // 10), options.replicates)
    print(f"{time.perf_counter() - started:.0f} s")


def print_null(pool: ProcessPoolExecutor, studies: int, replicates: int) -> None:
    designs = [
        Design(0.8, r, g, (0.0,) * 3, samples_per_group=n)
        for r, (g, n) in product(CORRELATIONS, GROUPS)
    ]
    error = np.sqrt(ALPHA * (1 - ALPHA) / studies)
    print(
        f"equally good entries: {studies} studies per design; standard error of 5 %: "
        f"{100 * error:.1f} points"
    )
    columns = ("flip", "verdict", "Holm", "any", "McNemar", "t")
    names = "  ".join(f"{name:>7}" for name in columns)
    print(f"correlation  groups  of size  discordant  {names}")
    flips = []
    measure = partial(null_rates, studies=studies, replicates=replicates)
    for design, rates in zip(designs, pool.map(measure, designs), strict=True):
        numbers = "  ".join(f"{100 * rates[name]:7.1f}" for name in columns)
        few = rates["discordant"] < FEW_DISCORDANT
        print(
            f"{design.correlation:11.1f}  {design.groups:6d}  {design.samples_per_group:7.0f}  "
            f"{rates['discordant']:10.0f}  {numbers}{'  few' if few else ''}",
            flush=True,
        )
        if not few:
            flips.append(rates["flip"])
    beyond = [max(LOW - rate, rate - HIGH) for rate in flips]
    inside, outside = sum(b <= 0 for b in beyond), sum(b > 2 * error for b in beyond)
    print(
        f"target 4-6 % for flip where {FEW_DISCORDANT} samples or more are discordant: {inside} of "
        f"{len(flips)} designs inside, {outside} outside by more than two standard errors: "
        f"{'MISSED' if outside else 'met'}; mean {100 * np.mean(flips):.2f}\n"
    )


def print_seeds(pool: ProcessPoolExecutor, studies: int, replicates: int) -> None:
    print(f"equally good entries with training noise of 1 point: {studies} studies per design")
    print("seeds  groups     flip  verdict      any")
    designs = [
        Design(0.8, 0.1, g, (0.0,) * 3, seeds, SEED_NOISE)
        for seeds in (1, SEEDS)
        for g in SEEDED_GROUPS
    ]
    measure = partial(null_rates, studies=studies, replicates=replicates)
    for design, rates in zip(designs, pool.map(measure, designs), strict=True):
        numbers = "  ".join(f"{100 * rates[name]:7.1f}" for name in ("flip", "verdict", "any"))
        print(f"{design.seeds:5d}  {design.groups:6d}  {numbers}", flush=True)
    print()


def print_scenes(pool: ProcessPoolExecutor, studies: int, replicates: int) -> None:
    print(f"planted truths, margin 1 point, one seed: {studies} studies each; percent of verdicts")
    measure = partial(verdict_shares, studies=studies, replicates=replicates)
    for scene, shares in zip(
        scenes(), pool.map(measure, [s.design for s in scenes()]), strict=True
    ):
        wanted = shares[scene.wanted] if scene.wanted in shares else 1 - shares["equivalent"]
        others = ", ".join(f"{name} {100 * share:.1f}" for name, share in shares.items() if share)
        print(f"{scene.name:<42} {scene.wanted} {100 * wanted:5.1f}   ({others})", flush=True)


def null_rates(design: Design, *, studies: int, replicates: int) -> dict[str, float]:
    """Share of studies in which each rule finds a difference that is not there."""
    # statsmodels collects garbage whenever it corrects p-values: let it find little to look at.
    adjust([1.0], "holm")
    gc.freeze()
    found: dict[str, list[float]] = {}
    for answers, pairs in compared(design, studies, replicates):
        p_values = [float(pair.p_value or 0.0) for pair in pairs]
        corrected = adjust(p_values, "holm")
        rejects = {
            "flip": p_values[0] < ALPHA,
            "verdict": pairs[0].verdict in ("ahead", "behind"),
            "Holm": min(corrected) < ALPHA,
            "any": any(
                decided(pair, p) in ("ahead", "behind")
                for pair, p in zip(pairs, corrected, strict=True)
            ),
            "discordant": (answers[0, 0] != answers[1, 0]).sum(),
            "McNemar": mcnemar_p(answers[0, 0], answers[1, 0]) < ALPHA,
            "t": paired_t_p(answers[0, 0], answers[1, 0]) < ALPHA,
        }
        for name, rejected in rejects.items():
            found.setdefault(name, []).append(rejected)
    return {name: float(np.mean(rejected)) for name, rejected in found.items()}


def verdict_shares(design: Design, *, studies: int, replicates: int) -> dict[str, float]:
    """Share of each verdict on the second entry against the first."""
    opposite = {"ahead": "behind", "behind": "ahead"}
    counts = Counter(
        opposite.get(pairs[0].verdict, pairs[0].verdict)
        for _, pairs in compared(design, studies, replicates)
    )
    names = ("ahead", "equivalent", "undecided", *counts)
    return {name: counts[name] / counts.total() for name in dict.fromkeys(names)}


def decided(pair: Pair, p_adjusted: float) -> str:
    """The verdict with another correction of the p-value."""
    return decide(pair.difference, p_adjusted, ALPHA, pair.equivalent, pair.same_predictions)


def compared(
    design: Design, studies: int, replicates: int
) -> Iterator[tuple[np.ndarray, list[Pair]]]:
    """Right answers [E, S, N] and uncorrected pairs of each simulated study.

    With one seed the studies of a batch are the conditions of one call, which judges each alone.
    With several every study is a call of its own: how much seeds vary is taken over conditions.
    """
    rng = stream(0, "type one", repr(design))
    together = min(BATCH, 4_000 // design.groups + 1) if design.seeds == 1 else 1
    for batch in range(-(-studies // together)):
        groups = draw_groups(rng, design)
        answers = draw_answers(rng, design, groups, studies=together)
        yield from zip(answers, pairs_of(answers, groups, replicates, batch), strict=True)


def pairs_of(
    answers: np.ndarray, groups: np.ndarray, replicates: int, seed: int
) -> list[list[Pair]]:
    """Pairs of entries of each study of `answers` [B, E, S, N], p-values not corrected."""
    studies, entries, seeds, samples = answers.shape
    correct = answers.transpose(1, 2, 0, 3)
    found = bootstrap_accuracy(
        correct.reshape(entries * seeds, studies, samples),
        groups,
        entry_of_run=np.repeat(np.arange(entries), seeds).tolist(),
        replicates=replicates,
        confidence=1 - ALPHA,
        seed=seed,
    )
    data = PairedData(list(ENTRIES[:entries]), list(correct), groups)
    columns = list(np.eye(studies))
    return compare_pairs(data, found, columns, PairSettings("none", MARGIN, replicates, seed))


def mcnemar_p(first: np.ndarray, second: np.ndarray) -> float:
    """The two-sided exact test on bool [N]."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    fewer, both = min(only_first, only_second), only_first + only_second
    return min(1.0, 2 * float(bdtr(fewer, both, 0.5))) if both else 1.0


def paired_t_p(first: np.ndarray, second: np.ndarray) -> float:
    """Student's paired t test over samples."""
    difference = first.astype(float) - second
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return 2 * float(stdtr(len(difference) - 1, -abs(difference.mean()) / error)) if error else 1.0


def check_shortcuts() -> None:
    """Stop unless studies judged in one call have the verdicts of each judged alone, and our quick
    tests over samples the p-values of the libraries."""
    from scipy.stats import ttest_rel

    design = Design(0.8, 0.2, 40, (0.0, 0.3, 0.0))
    rng = stream(0, "check")
    groups = draw_groups(rng, design)
    answers = draw_answers(rng, design, groups, studies=20)
    together = pairs_of(answers, groups, 500, 3)
    for study, pairs in zip(answers, together, strict=True):
        (alone,) = pairs_of(study[None], groups, 500, 3)
        if [p.verdict for p in pairs] != [p.verdict for p in alone]:
            raise SystemExit("a study judged beside others has another verdict than alone")
        first, second = study[0, 0], study[1, 0]
        gaps = (
            mcnemar_p(first, second) - mcnemar(first, second)["p_value"],
            paired_t_p(first, second) - float(ttest_rel(first * 1.0, second * 1.0).pvalue),
        )
        if max(map(abs, gaps)) > 1e-9:
            raise SystemExit(f"p-values over samples differ from the libraries' by {gaps}")
    print("equal: 20 studies have the verdicts of each alone, and the libraries' p-values\n")


if __name__ == "__main__":
    main()
