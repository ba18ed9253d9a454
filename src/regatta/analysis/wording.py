"""Numbers as sentences: verdicts and the methods paragraph, as plain text that pages escape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regatta.analysis.bootstrap import Interval
from regatta.analysis.paired import Pair


def points(value: float, *, sign: bool = False) -> str:
    """Percentage points with one decimal; two where one would hide that the value is not 0."""
    digits = 2 if 0 < abs(value) < 0.05 else 1
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("-0.0", "0.0") if float(text) == 0 else text


def span(interval: Interval) -> str:
    """`[1.2, 5.0]` of an interval in points, or why there is none."""
    if interval.low is None or interval.high is None:
        return f"(no interval: {interval.note})"
    return f"[{points(interval.low)}, {points(interval.high)}]"


def count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {plural(word)}"


def plural(word: str) -> str:
    return f"{word}es" if word.endswith("s") else f"{word}s"


def design(groups: int, seeds: Sequence[int], *, group_word: str = "group") -> str:
    """`paired over 412 groups, 3 seeds`; with one seed, what that leaves open."""
    different = sorted(set(seeds))
    if len(different) > 1:
        words = " and ".join(map(str, seeds)) + " seeds"
    else:
        words = count(different[0], "seed")
    uncovered = "; training noise is not covered" if min(seeds) == 1 else ""
    return f"paired over {count(groups, group_word)}, {words}{uncovered}"


def pair_sentence(
    pair: Pair,
    *,
    groups: int,
    seeds: Sequence[int],
    margin_points: float,
    group_word: str = "group",
) -> str:
    """What the data say of two entries, the better one first."""
    better, worse, interval = pair.first, pair.second, pair.difference.scaled(100)
    if (interval.estimate or 0) < 0:
        better, worse, interval = worse, better, interval.scaled(-1)
    size = points(interval.estimate or 0.0)
    basis = design(groups, seeds, group_word=group_word)
    if pair.verdict in ("ahead", "behind"):
        inside = f", which is inside the margin of {margin_points:g}" if pair.equivalent else ""
        return f"{better} is ahead of {worse} by {size} points {span(interval)}{inside}, {basis}"
    if pair.verdict == "identical":
        return f"{better} and {worse} are right on exactly the same samples, {basis}"
    difference = f"difference {size} points {span(interval)}"
    if pair.verdict == "equivalent":
        return (
            f"{better} and {worse} are equivalent within {count_points(margin_points)}: "
            f"{difference}, {basis}"
        )
    if pair.verdict == "few-seeds":
        return (
            f"not enough seeds to tell {better} from {worse}: {better} leads on these seeds, but "
            f"they differ too much among themselves; {difference}, {basis}"
        )
    return f"the data cannot tell {better} from {worse}: {difference}, {basis}"


def count_points(value: float) -> str:
    return f"{value:g} point{'' if value == 1 else 's'}"


def single_sentence(
    entry: str,
    accuracy: Interval,
    *,
    samples: int,
    groups: int,
    seeds: int,
    group_word: str = "group",
) -> str:
    """The verdict of a study with one judged entry."""
    percent = accuracy.scaled(100)
    noise = "; training noise is not covered" if seeds == 1 else ""
    return (
        f"{entry} is right on {points(percent.estimate or 0.0)} % {span(percent)} of "
        f"{count(samples, 'sample')} in {count(groups, group_word)}, "
        f"{count(seeds, 'seed')}{noise}; "
        "no other entry is judged, so nothing is compared"
    )


CORRECTIONS = {
    "holm": "Holm's (1979) method",
    "bonferroni": "the Bonferroni method",
    "bh": "the procedure of Benjamini and Hochberg (1995), which bounds the expected share of "
    "false claims among all claims (the false discovery rate), not the chance of any false claim",
    "tukey": "Tukey's (1953) method at each condition (studentized range of the clustered standard "
    "errors, each pair's own: Games and Howell 1976); all other families by Holm's (1979) method",
}


COMPANIONS = (
    " Exact McNemar tests (1947) and Cochran's Q (1950) accompany the headline; they do not take "
    "groups into account."
)


def methods_paragraph(
    provenance: dict[str, Any], *, headline: str, conditions: int, protocol: str, contrasts: str
) -> str:
    """A paragraph that a paper can take, with citations.

    Args:
        protocol: how clips were planned, in sentences. contrasts: how conditions were set against
            each other; empty where they were not.
    """
    p = provenance
    level = f"{100 * p['confidence']:g} %"
    seeds = p["seeds_per_entry"]
    several = max(seeds.values()) > 1
    word = p.get("group_word", "group")
    by_class = word == "class"
    resampled = (
        f"{'whole classes' if by_class else 'source groups'} were resampled with replacement "
        "(G - 1 of G; Rao and Wu 1988), the same draws for every model and condition, so that "
        f"differences are paired by {'class' if by_class else 'sample'}"
    )
    outer = (
        "; training seeds were resampled as an outer level (the permutation test holds them fixed)"
        if several
        else ""
    )
    noise = (
        ""
        if min(seeds.values()) > 1
        else (" Models with a single training seed carry no estimate of training noise.")
    )
    correction = CORRECTIONS.get(p["correction"])
    family = f"corrected by {correction}" if correction else "not corrected"
    decided = (
        ", taken at 1 - alpha over the number of pairs because seeds vary,"
        if several and len(seeds) > 2 and p["correction"] in ("holm", "bonferroni")
        else ""
    )
    return (
        f"All {count(len(seeds), 'model')} were judged on the same {count(p['n'], 'sample')} from "
        f"{count(p['groups'], word)} in {count(conditions, 'condition')}. {protocol} The "
        f"headline is condition {headline}. {level} intervals come from a clustered bootstrap "
        f"(Efron and Tibshirani 1993) with {p['replicates']:,} replicates: {resampled}{outer}. "
        "Percentiles were widened to Student's t (Hesterberg 2015); shares with fewer than 20 "
        "effective errors or hits have exact binomial intervals at their effective sample size "
        "(Korn and Graubard 1998). Differences were tested by flipping the sign of "
        f"whole {plural(word)} "
        f"({p['permutation']}), and p-values over all pairs of models were {family}. A model is "
        "called ahead when the corrected p-value is below "
        f"{1 - p['confidence']:.2g} and the interval of the difference{decided} excludes 0, and "
        "equivalent "
        f"when two one-sided tests (Schuirmann 1987) place it within "
        f"{count_points(p['margin_points'])}."
        f"{'' if by_class else COMPANIONS}"
        f"{f' {contrasts}' if contrasts else ''}{noise}"
    )
