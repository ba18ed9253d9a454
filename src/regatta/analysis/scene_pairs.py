"""Differences of squared errors between entries: interval, sign flips, correction, verdict, words.

Ahead means a smaller error. A verdict needs the corrected test and an interval, with the seeds in
it, that leaves out 0, as for accuracies; there is no margin of equivalence for errors.

Shapes: S seeds, N samples, G groups, M pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Interval, tally_by_group
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.paired import adjust, decide, family_correction, sign_flip_test
from regatta.analysis.positions import NO_ERROR
from regatta.analysis.scene_errors import STEPS, Errors
from regatta.analysis.wording import design

UNIT = "u²"


def error_pairs(
    judged: JudgedStudy, errors: Errors, squared: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """All pairs of entries, each with its difference of mean squared errors.

    Args:
        squared: entry -> squared errors [S, N], 0 where not known.
    """
    names = list(squared)
    return compare_errors(judged, errors, squared, list(combinations(names, 2)))


def compare_errors(
    judged: JudgedStudy,
    errors: Errors,
    squared: dict[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
) -> list[dict[str, Any]]:
    """The named pairs; their p-values are one family."""
    if not pairs:
        return []
    raw, adjusted, method = _tested(judged, [(squared[a], squared[b]) for a, b in pairs])
    rows = []
    for (first, second), p_value, p_adjusted in zip(pairs, raw, adjusted, strict=True):
        verdict, interval = _decided(judged, errors, (first, second), p_adjusted, len(pairs))
        seeds = [len(squared[name]) for name in (first, second)]
        rows.append(
            {
                "first": first,
                "second": second,
                "difference": interval.as_dict(),
                "p_value": p_value,
                "p_adjusted": p_adjusted,
                "method": method,
                "verdict": verdict,
                "sentence": error_sentence(
                    (first, second), interval, verdict, groups=errors.bootstrap.groups, seeds=seeds
                ),
            }
        )
    return rows


def _decided(
    judged: JudgedStudy,
    errors: Errors,
    pair: tuple[str, str],
    p_adjusted: float | None,
    tests: int,
) -> tuple[str, Interval]:
    bootstrap = errors.bootstrap
    places = [errors.names.index(name) for name in pair]
    statistic = errors.statistic_of_difference(*pair)
    alpha = 1 - bootstrap.confidence
    # Only the interval knows of training noise: with several seeds it must hold for the family too.
    corrects = family_correction(judged.study.compare.correction) in ("holm", "bonferroni")
    several = corrects and max(bootstrap.seeds[place] for place in places) > 1
    level = 1 - alpha / tests if several else bootstrap.confidence
    wide, held = errors.difference(*pair), errors.difference(*pair, of=bootstrap.with_seeds_fixed())
    deciding = bootstrap.interval(statistic, entries=places, collapse="point", confidence=level)
    same = wide.estimate == 0 and wide.low == 0 and wide.high == 0
    verdict = decide(
        # `decide` calls the larger value ahead; of errors the smaller one is.
        deciding.scaled(-1),
        p_adjusted,
        alpha,
        False,
        same,
        seeds_fixed=held.scaled(-1),
    )
    return verdict, wide


def _tested(
    judged: JudgedStudy, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[list[Any], list[Any], str]:
    """p-values of sign flips of whole groups, corrected ones, and how they were found."""
    settings = judged.study.compare
    codes = np.unique(judged.groups, return_inverse=True)[1]
    largest = max(float(np.abs(each).max(initial=0.0)) for pair in pairs for each in pair)
    step = max(largest, NO_ERROR) / STEPS
    differences = np.stack([(a.mean(axis=0) - b.mean(axis=0)) / step for a, b in pairs])
    sums_GM = tally_by_group(np.rint(differences)[None], codes)[0][0]
    none: list[Any] = [None] * len(pairs)
    if len(sums_GM) < 2:
        return none, none, "not available: a single group"
    test = sign_flip_test(sums_GM, replicates=settings.replicates, seed=settings.seed)
    raw = test.p_value.tolist()
    return raw, adjust(raw, family_correction(settings.correction)), test.method


def error_text(value: float) -> str:
    """A squared error with three digits, as 0.0120 or 1.20e-05."""
    return "0" if value == 0 else f"{value:#.3g}".removesuffix(".")


def signed_error_text(value: float) -> str:
    """A difference of squared errors with its sign and three digits."""
    return "0" if value == 0 else f"{value:+#.3g}".removesuffix(".")


def error_span(interval: Interval) -> str:
    """`[0.010, 0.014]`, or why there is none."""
    if interval.low is None or interval.high is None:
        return f"(no interval: {interval.note})"
    return f"[{error_text(interval.low)}, {error_text(interval.high)}]"


def error_sentence(
    pair: tuple[str, str],
    difference: Interval,
    verdict: str,
    *,
    groups: int,
    seeds: Sequence[int],
) -> str:
    """What the data say of the errors of two entries, the better one first."""
    (better, worse), interval = pair, difference.scaled(-1)
    if (difference.estimate or 0) > 0:
        better, worse, interval = worse, better, difference
    basis = design(groups, seeds)
    size = f"{error_text(interval.estimate or 0.0)} {error_span(interval)} {UNIT}"
    if verdict in ("ahead", "behind"):
        return f"{better} is closer than {worse}: MSE lower by {size}, {basis}"
    if verdict == "identical":
        return f"{better} and {worse} say exactly the same places, {basis}"
    if verdict == "few-seeds":
        return (
            f"not enough seeds to tell the places of {better} from those of {worse}: {better} "
            f"leads on these seeds, but they differ too much among themselves; MSE lower by {size},"
            f" {basis}"
        )
    return (
        f"the data cannot tell the places of {better} from those of {worse}: MSE differs by {size},"
        f" {basis}"
    )
