"""Ensembles of entries, computed from the stored scores of the headline.

The logits of the members are averaged, seed by seed for the seeds that all members have, and the
highest mean wins. Members whose logits spread further weigh more in that; the average of their
probabilities stands beside it. An ensemble is set against every member on the same samples: the
best member is known from these very samples, so the comparison with it favours the member.

Shapes: S seeds, E members, N samples, K classes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from regatta.analysis.agreement import (
    NO_SHARED_SEED,
    interval_values,
    oracles,
    resample,
    right_answers,
    share_interval,
    shared_runs,
)
from regatta.analysis.bootstrap import Bootstrap, Interval, tally_by_group
from regatta.analysis.contrast_words import listed
from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.analysis.paired import (
    Pair,
    adjust,
    decide,
    family_correction,
    inside,
    sign_flip_test,
)
from regatta.analysis.tables import csv_text
from regatta.analysis.wording import pair_sentence
from regatta.metrics.classification import softmax

PAIRS_AMONG = 6
"""Pairs are formed among this many entries, the first of the study: 15 pairs."""

SCALES_APART = 2.0
"""From this ratio of logit spreads on, a note says that one member outweighs another."""

KINDS = ("accuracy", "probability_accuracy")


def ensemble_section(
    judged: JudgedStudy, bootstrap: Bootstrap, headline: int, agreement: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Section `ensemble` of comparison.json: all entries together, then pairs of them.

    Args:
        agreement: that section, whose oracles stand beside the ensembles. Where it is None (a
            single entry, or counts per class alone) there are no ensembles either.
    """
    if agreement is None:
        return None
    settings = judged.study.compare
    ensembles = [_answer(judged, names, headline) for names in member_sets(judged.entries)]
    scales = {name: logit_spread(judged.runs_of(name)) for name in judged.entries}
    compared = _compared(judged, [each for each in ensembles if each.seeds])
    return {
        "condition": judged.conditions[headline].id,
        "n": bootstrap.samples,
        "groups": bootstrap.groups,
        "replicates": len(bootstrap.replicates),
        "confidence": bootstrap.confidence,
        "method": "mean of the members' logits, seed by seed; clustered bootstrap of groups",
        "permutation": compared.method,
        "correction": family_correction(settings.correction),
        "family_size": compared.tests,
        "margin_points": settings.equivalence_margin_points,
        "logit_spread": scales,
        "ensembles": [
            {
                **(
                    _row(judged, bootstrap.groups, each, compared) if each.seeds else _without(each)
                ),
                "oracle": oracles(agreement)[each.members],
            }
            for each in ensembles
        ],
        "notes": _notes(judged.entries, scales),
    }


def ensemble_files(section: dict[str, Any] | None) -> dict[str, str]:
    """File name -> text: one row per ensemble and member."""
    if section is None:
        return {}
    header = ["members", "seeds", *(f"{kind}{end}" for kind in (*KINDS, "oracle") for end in ENDS)]
    header += ["member", "member_accuracy", "is_best_member"]
    header += [f"difference_points{end}" for end in ENDS]
    header += ["p_value", "p_adjusted", "verdict", "reason"]
    return {"ensemble.csv": csv_text(header, _file_rows(section))}


ENDS = ("", "_low", "_high")


def _file_rows(section: dict[str, Any]) -> Iterator[list[Any]]:
    for each in section["ensembles"]:
        start = [each["members"], each["seeds"]]
        for kind in (*KINDS, "oracle"):
            start += interval_values(each[kind])
        for row in each["against"]:
            yield [
                *start,
                *(row[key] for key in ("second", "member_accuracy", "is_best_member")),
                *interval_values(row["difference_points"]),
                *(row[key] for key in ("p_value", "p_adjusted", "verdict")),
                "",
            ]
        if not each["against"]:
            yield [*start, *[None] * 9, each["reason"]]


def member_sets(entries: Sequence[str]) -> list[tuple[str, ...]]:
    """All entries, then the pairs among the first PAIRS_AMONG of them."""
    pairs = combinations(entries[:PAIRS_AMONG], 2)
    return list(dict.fromkeys([tuple(entries), *pairs]))


def mean_logits(scores: Sequence[np.ndarray]) -> np.ndarray:
    """The class [N] with the highest mean of logits [N, K] over members."""
    return _highest_sum(each.astype(np.float64) for each in scores)


def mean_probabilities(scores: Sequence[np.ndarray]) -> np.ndarray:
    """The class [N] with the highest mean of probabilities, from logits [N, K]."""
    return _highest_sum(softmax(each) for each in scores)


def _highest_sum(scores: Iterable[np.ndarray]) -> np.ndarray:
    """Argmax over classes [N] of a running sum: one member's scores are in memory at a time."""
    return functools.reduce(np.add, scores).argmax(axis=1)


def logit_spread(runs: Sequence[JudgedRun]) -> float:
    """Standard deviation of a sample's logits over classes, mean over samples and runs."""
    return float(np.mean([run.headline_scores.astype(np.float64).std(axis=1) for run in runs]))


@dataclass(frozen=True)
class Ensemble:
    """What an ensemble and its members get right; empty `seeds` where no seed is shared."""

    members: tuple[str, ...]
    seeds: list[int]
    by_logits: np.ndarray
    """bool [S, N], as is the next."""
    by_probabilities: np.ndarray
    of_members: np.ndarray
    """bool [E, S, N]."""

    @property
    def gains(self) -> np.ndarray:
        """[E, S, N]: 1 where the ensemble alone is right, -1 where the member alone is."""
        return self.by_logits.astype(np.int8) - self.of_members.astype(np.int8)

    @property
    def label(self) -> str:
        shown = len(self.members) <= 3
        names = listed(self.members) if shown else f"all {len(self.members)} entries"
        return f"the ensemble of {names}"


def _answer(judged: JudgedStudy, names: tuple[str, ...], headline: int) -> Ensemble:
    shared = shared_runs(judged, names)
    shape = (len(shared), len(judged.labels))
    by_logits, by_probabilities = np.empty((2, *shape), dtype=bool)
    of_members = np.empty((len(names), *shape), dtype=bool)
    for place, runs in enumerate(shared.values()):
        scores = [run.headline_scores for run in runs]
        of_members[:, place] = right_answers(runs, headline)
        by_logits[place] = mean_logits(scores) == judged.labels
        by_probabilities[place] = mean_probabilities(scores) == judged.labels
    return Ensemble(names, list(shared), by_logits, by_probabilities, of_members)


@dataclass(frozen=True)
class Compared:
    """One resampling and one family of tests for all ensembles; what is where, by members."""

    shares: Mapping[tuple[str, ...], list[Interval]]
    """Intervals of KINDS."""
    pairs: Mapping[tuple[str, ...], list[Pair]]
    """The ensemble against each member, in the order of `members`."""
    method: str
    tests: int


def _compared(judged: JudgedStudy, ensembles: Sequence[Ensemble]) -> Compared:
    if not ensembles:
        return Compared({}, {}, "no ensembles", 0)
    values: list[np.ndarray] = []
    for each in ensembles:
        # Whole numbers from 0 are what is resampled: a gain of -1, 0, 1 goes in as 0, 1, 2.
        values += [each.by_logits, each.by_probabilities, *(each.gains + 1)]
    resampled = resample(judged, values)
    raw, adjusted, method = _tested(judged, ensembles)
    shares, pairs, place, test = {}, {}, 0, 0
    for each in ensembles:
        shares[each.members] = [share_interval(resampled, place + k) for k in range(len(KINDS))]
        place += len(KINDS)
        pairs[each.members] = []
        for m in range(len(each.members)):
            p = (raw[test], adjusted[test])
            pairs[each.members].append(_against(judged, resampled, each, m, place, p, method))
            place, test = place + 1, test + 1
    return Compared(shares, pairs, method, test)


def _tested(judged: JudgedStudy, ensembles: Sequence[Ensemble]) -> tuple[list[Any], list[Any], str]:
    """p-values and corrected ones of all ensembles against all their members, one family."""
    settings = judged.study.compare
    codes = np.unique(judged.groups, return_inverse=True)[1]
    gains = np.concatenate([each.gains.sum(axis=1, dtype=np.int64) for each in ensembles])
    sums_GM = tally_by_group(gains[None], codes)[0][0]
    if len(sums_GM) < 2:
        none: list[Any] = [None] * len(gains)
        return none, none, "not available: a single group"
    test = sign_flip_test(sums_GM, replicates=settings.replicates, seed=settings.seed)
    raw = test.p_value.tolist()
    return raw, adjust(raw, settings.correction), test.method


def _against(
    judged: JudgedStudy,
    resampled: Bootstrap,
    each: Ensemble,
    member: int,
    place: int,
    p_values: tuple[float | None, float | None],
    method: str,
) -> Pair:
    """The ensemble minus one member; `place` is where their difference was resampled."""
    alpha = 1 - resampled.confidence

    def difference(accuracy: np.ndarray) -> np.ndarray:
        return accuracy[..., place, 0] - 1

    wide, narrow, held = (
        source.interval(difference, entries=[place], collapse="difference", confidence=level)
        for source, level in (
            (resampled, resampled.confidence),
            (resampled, 1 - 2 * alpha),
            (resampled.with_seeds_fixed(), resampled.confidence),
        )
    )
    equivalent = inside(narrow, judged.study.compare.equivalence_margin_points / 100)
    same = not each.gains[member].any()
    verdict = decide(wide, p_values[1], alpha, equivalent, same, seeds_fixed=held)
    return Pair(
        each.label,
        each.members[member],
        difference=wide,
        tost=narrow,
        p_value=p_values[0],
        p_adjusted=p_values[1],
        method=method,
        same_predictions=same,
        verdict=verdict,
        equivalent=equivalent,
    )


def _row(judged: JudgedStudy, groups: int, each: Ensemble, compared: Compared) -> dict[str, Any]:
    shares = dict(zip(KINDS, compared.shares[each.members], strict=True))
    accuracy = each.of_members.mean(axis=(1, 2))
    best = int(accuracy.argmax())
    against = []
    for place, pair in enumerate(compared.pairs[each.members]):
        text = pair_sentence(
            pair,
            groups=groups,
            seeds=[len(each.seeds)],
            margin_points=judged.study.compare.equivalence_margin_points,
        )
        against.append(
            {
                **pair.as_dict(),
                "member_accuracy": float(accuracy[place]),
                "is_best_member": place == best,
                "sentence": text,
            }
        )
    by_seed = zip(each.seeds, each.by_logits.mean(axis=1), strict=True)
    return {
        "members": list(each.members),
        "seeds": each.seeds,
        **{kind: interval.as_dict() for kind, interval in shares.items()},
        "accuracy_by_seed": {seed: float(share) for seed, share in by_seed},
        "best_member": each.members[best],
        "against": against,
        "reason": "",
        "sentence": f"{against[best]['sentence']}; {each.members[best]} is the best member by "
        "these very samples, which favours it",
    }


def _without(each: Ensemble) -> dict[str, Any]:
    return {
        "members": list(each.members),
        "seeds": [],
        **dict.fromkeys(KINDS),
        "accuracy_by_seed": {},
        "best_member": None,
        "against": [],
        "reason": NO_SHARED_SEED,
        "sentence": f"{each.label} cannot be formed: {NO_SHARED_SEED}",
    }


def _notes(entries: Sequence[str], spreads: Mapping[str, float]) -> list[str]:
    notes = []
    if len(entries) > PAIRS_AMONG:
        notes.append(
            f"pairs are formed among the first {PAIRS_AMONG} of {len(entries)} entries of the study"
        )
    low, high = min(entries, key=lambda n: spreads[n]), max(entries, key=lambda n: spreads[n])
    if spreads[low] <= 0 < spreads[high]:
        notes.append(f"the scores of {low} are the same for every class and add nothing")
    elif spreads[high] > SCALES_APART * spreads[low]:
        notes.append(
            f"the logits of {high} spread {spreads[high] / spreads[low]:.1f} times as far as those "
            f"of {low} and weigh more in an average of logits; look at the average of "
            "probabilities too"
        )
    return notes
