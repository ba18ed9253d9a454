"""What co-training gives, what fusing adds to it, and what one network of equal cost would have
given: three differences per fusion, one family of tests.

Shapes: S seeds, N samples, P parts of all fusions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regatta.analysis.bootstrap import Interval, tally_by_group
from regatta.analysis.fusion_systems import BASELINES, FUSED, WORDS, Fused, Resampled
from regatta.analysis.judged import JudgedStudy
from regatta.analysis.paired import Pair, adjust, decide, family_correction, inside, sign_flip_test
from regatta.analysis.wording import count, pair_sentence, points

PARTS = {
    "co-training gain": ("cotrained-logits", "original-logits"),
    "fusion gain": (FUSED, "cotrained-logits"),
    "against equal cost": (FUSED, "full-equal-cost"),
}
"""Part -> the system and what is taken from it. The first two add up to what the fused system gains
over the average of its experts as they were."""
OVER_AVERAGE = ("gain over average", (FUSED, "original-logits"))
"""Their sum, shown in the matrix; no test of its own."""


@dataclass(frozen=True)
class Part:
    """One difference of one fusion; `gain_SN` is 1 where the first system alone is right, -1 where
    the second alone is; None where one of them is missing."""

    fused: Fused
    name: str
    seeds: list[int]
    gain_SN: np.ndarray | None
    reason: str

    @property
    def key(self) -> str:
        return f"{self.name} {self.fused.entry.name}"


def decision_parts(fusions: Sequence[Fused]) -> list[Part]:
    named = [*PARTS.items(), OVER_AVERAGE]
    return [_part(fused, name, pair) for fused in fusions for name, pair in named]


def _part(fused: Fused, name: str, pair: tuple[str, str]) -> Part:
    first, second = (fused.systems[key] for key in pair)
    for key, system in zip(pair, (first, second), strict=True):
        if system.values_SN is None:
            return Part(fused, name, [], None, f"{WORDS[key]}: {system.reason}")
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    if not seeds:
        return Part(fused, name, [], None, "no seed is judged for both")
    gain = first.of_seeds(seeds).astype(np.int8) - second.of_seeds(seeds).astype(np.int8)
    return Part(fused, name, seeds, gain, "")


def decide_parts(
    judged: JudgedStudy, parts: Sequence[Part], resampled: Resampled
) -> dict[str, dict[str, Any]]:
    """Part.key -> its row: difference, interval, p-value, verdict and sentence.

    All tested parts are one family. With several seeds the deciding interval is corrected too, as
    for pairs of entries: only it knows of training noise.
    """
    known = [part for part in parts if part.gain_SN is not None]
    tested = [part for part in known if part.name in PARTS]
    raw, adjusted, method = _tested(judged, tested)
    p_values = {part.key: p for part, *p in zip(tested, raw, adjusted, strict=True)}
    tests = len(tested)
    found = {part.key: _without(part) for part in parts}
    for part in known:
        p = p_values.get(part.key, [None, None])
        found[part.key] = _row(judged, part, resampled, p, method, tests)
    return found


def _tested(judged: JudgedStudy, parts: Sequence[Part]) -> tuple[list[Any], list[Any], str]:
    """p-values, corrected ones, and how they were found."""
    settings = judged.study.compare
    none: list[Any] = [None] * len(parts)
    if not parts:
        return none, none, "no tests"
    codes = np.unique(judged.groups, return_inverse=True)[1]
    gains = np.stack([_gain(part).sum(axis=0, dtype=np.int64) for part in parts])
    sums_GP = tally_by_group(gains[None], codes)[0][0]
    if len(sums_GP) < 2:
        return none, none, "not available: a single group"
    test = sign_flip_test(sums_GP, replicates=settings.replicates, seed=settings.seed)
    raw = test.p_value.tolist()
    return raw, adjust(raw, family_correction(settings.correction)), test.method


def _gain(part: Part) -> np.ndarray:
    assert part.gain_SN is not None
    return part.gain_SN


def _row(
    judged: JudgedStudy,
    part: Part,
    resampled: Resampled,
    p_values: Sequence[Any],
    method: str,
    tests: int,
) -> dict[str, Any]:
    settings, drawn = judged.study.compare, resampled.draw()
    place, alpha = resampled.names[part.key], 1 - settings.confidence
    several = len(part.seeds) > 1 and family_correction(settings.correction) in (
        "holm",
        "bonferroni",
    )
    deciding_level = 1 - alpha / max(tests, 1) if several else settings.confidence

    def at(level: float, source: Any = drawn) -> Interval:
        return source.interval(
            # Whole numbers from 0 are what is resampled: gains of -1, 0, 1 went in as 0, 1, 2.
            lambda a: a[..., place, 0] - 1,
            entries=[place],
            collapse="difference",
            confidence=level,
        )

    wide, narrow = at(settings.confidence), at(1 - 2 * alpha)
    held = at(settings.confidence, drawn.with_seeds_fixed())
    equivalent = inside(narrow, settings.equivalence_margin_points / 100)
    same = not _gain(part).any()
    verdict = decide(at(deciding_level), p_values[1], alpha, equivalent, same, seeds_fixed=held)
    first, second = (_called(part, key) for key in _pair_of(part))
    pair = Pair(
        first,
        second,
        difference=wide,
        tost=narrow,
        p_value=p_values[0],
        p_adjusted=p_values[1],
        method=method,
        same_predictions=same,
        verdict=verdict,
        equivalent=equivalent,
    )
    return {
        **pair.as_dict(),
        "part": part.name,
        "seeds": part.seeds,
        "by_seed": {
            seed: 100 * float(gain.mean())
            for seed, gain in zip(part.seeds, _gain(part), strict=True)
        },
        "reason": "",
        "sentence": pair_sentence(
            pair,
            groups=drawn.groups,
            seeds=[len(part.seeds)],
            margin_points=settings.equivalence_margin_points,
        ),
    }


def _pair_of(part: Part) -> tuple[str, str]:
    return OVER_AVERAGE[1] if part.name == OVER_AVERAGE[0] else PARTS[part.name]


def _called(part: Part, key: str) -> str:
    """A system of this fusion in a sentence."""
    fused = part.fused
    if key == FUSED:
        return fused.entry.name
    if key in BASELINES:
        return fused.names[key]
    who = "co-trained " if key.startswith("cotrained") else ""
    return f"the average of the {who}experts of {fused.entry.name}"


def _without(part: Part) -> dict[str, Any]:
    first, second = _pair_of(part)
    return {
        "part": part.name,
        "first": _called(part, first),
        "second": _called(part, second),
        "difference_points": None,
        "p_value": None,
        "p_adjusted": None,
        "verdict": None,
        "equivalent": False,
        "seeds": [],
        "by_seed": {},
        "reason": part.reason,
        "sentence": f"{part.name} of {part.fused.entry.name} is not known: {part.reason}",
    }


SAID = {
    "co-training gain": ("co-training makes the average of the experts better", "worse"),
    "fusion gain": ("fusing beats the average of the co-trained experts", "falls behind it"),
    "against equal cost": ("the fused system beats one network of equal training cost", "loses"),
}


def summary_sentences(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence per part over all fusions: how often it helps, harms, or cannot be told."""
    return [_summary(name, [row for row in rows if row["part"] == name]) for name in PARTS]


def _summary(name: str, rows: list[dict[str, Any]]) -> str:
    better, worse = SAID[name]
    known = [row for row in rows if row["verdict"] is not None]
    if not known:
        reasons = "; ".join(dict.fromkeys(row["reason"] for row in rows))
        return f"{name}: not known ({reasons})"
    if len(known) == 1:
        return f"{name}: {known[0]['sentence']}"
    ahead, behind = (sum(r["verdict"] == v for r in known) for v in ("ahead", "behind"))
    alike = sum(r["verdict"] in ("equivalent", "identical") for r in known)
    values = [row["difference_points"]["estimate"] for row in known]
    open_ = len(known) - ahead - behind - alike
    text = (
        f"{better} in {ahead} of {count(len(known), 'system')}, {worse} in {behind}; "
        f"it makes no difference within the margin in {alike}, and the data cannot tell in {open_} "
        f"(differences from {points(min(values), sign=True)} to "
        f"{points(max(values), sign=True)} points)"
    )
    missing = len(rows) - len(known)
    return f"{text}; not known in {missing}" if missing else text
