"""Everything that must stand beside a fused system, as right answers by seed at the headline.

A system is named by what it is made of, so that four fusions of the same experts share one average
of them. Values are whole numbers per sample whose mean over `divisor` is an accuracy.

Shapes: S seeds, N samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from regatta.analysis.agreement import resample
from regatta.analysis.bootstrap import Interval
from regatta.analysis.fusion_judged import (
    AVERAGES,
    Answer,
    Team,
    cotrained_team,
    fusion_entries,
    is_class_split,
    original_team,
    validation_accuracy,
)
from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.config.fusion_recipes import family_of
from regatta.config.schema import EntrySection
from regatta.core.errors import UnknownNameError

FUSED = "fused"
WORDS = {
    "best-expert": "best single expert",
    "mean-expert": "mean of single experts",
    "original-logits": "average of the experts' logits",
    "original-probabilities": "average of the experts' probabilities",
    "original-weighted": "average weighted by validation accuracy",
    "original-oracle": "any expert right",
    "cotrained-logits": "average of the co-trained experts' logits",
    "cotrained-probabilities": "average of the co-trained experts' probabilities",
    "cotrained-oracle": "any co-trained expert right",
    FUSED: "fused",
    "stacking": "stacking on joined features",
    "full": "one network, equal epochs",
    "full-equal-cost": "one network, equal training cost",
    "wide": "one network, equal inference cost",
}
"""Systems in report order."""
SHARED = tuple(key for key in WORDS if key.startswith(("best", "mean", "original")))
"""Systems of the experts as they were: the same for all fusions of them."""
BASELINES = ("stacking", "full", "full-equal-cost", "wide")
NOT_TRAINED, NOT_JUDGED = "not trained", "not judged"
NO_EXPERTS = "its experts are not judged for the same seed"
NO_HEADS = "the experts' own heads were not judged"
NO_VALIDATION = "validation accuracy is not recorded for every expert"
CLASS_SPLIT = "experts of a class-split partition share no class that could be weighed"


@dataclass(frozen=True)
class Values:
    """One system: whole numbers [S, N] of its seeds, or why there are none."""

    seeds: list[int] = field(default_factory=list)
    values_SN: np.ndarray | None = None
    divisor: int = 1
    reason: str = ""
    of: str = ""
    """The entry or expert behind it, where it is one; differs by seed for the best expert."""

    def of_seeds(self, seeds: Sequence[int]) -> np.ndarray:
        assert self.values_SN is not None
        return self.values_SN[[self.seeds.index(seed) for seed in seeds]]


@dataclass(frozen=True)
class Fused:
    """One fusion entry with all that is set against it."""

    entry: EntrySection
    row: str
    """Its row of the matrix: a family, or `mixed`."""
    fusion_type: str
    alpha: float | None
    systems: dict[str, Values]
    """By the keys of WORDS."""
    names: dict[str, str]
    """System -> what it is called among all fusions; equal names are one and the same system."""
    teams: dict[int, Team]
    """The experts as they were, by seed."""
    cotrained: dict[int, Team]


def read_fused(judged: JudgedStudy, headline: int) -> list[Fused]:
    """Every judged fusion of a study, in its order."""
    runs = {(run.entry, run.seed): run for run in judged.runs}
    teams: dict[tuple[tuple[str, ...], int], Team] = {}
    found = []
    for entry in fusion_entries(judged):
        mine: dict[int, Team] = {}
        for run in judged.runs_of(entry.name):
            key = (tuple(entry.needs), run.seed)
            experts = [runs.get((name, run.seed)) for name in entry.needs]
            if key not in teams and None not in experts:
                known = [expert for expert in experts if expert is not None]
                teams[key] = original_team(judged, known, headline)
            if key in teams:
                mine[run.seed] = teams[key]
        found.append(_fused(judged, runs, entry, mine, headline))
    return found


def _fused(
    judged: JudgedStudy,
    runs: Mapping[tuple[str, int], JudgedRun],
    entry: EntrySection,
    teams: dict[int, Team],
    headline: int,
) -> Fused:
    mine = judged.runs_of(entry.name)
    heads = {run.seed: cotrained_team(judged, run, len(entry.needs), headline) for run in mine}
    cotrained = {seed: found for seed, found in heads.items() if found is not None}
    own = Values([r.seed for r in mine], np.stack([r.correct[headline] for r in mine]))
    systems = {
        **_of_originals(judged, runs, entry, teams),
        **_of_team(cotrained, "cotrained", AVERAGES[:2], NO_HEADS),
        FUSED: own,
    }
    # Fusions of the same experts share one average of them, for the seeds that both have.
    names = {
        key: f"{key} {' '.join([*entry.needs, *map(str, system.seeds)])}"
        for key, system in systems.items()
        if key in SHARED
    }
    row = row_of(entry)
    for baseline in BASELINES:
        name = _baseline_entry(judged, entry, row, baseline)
        systems[baseline] = _of_entry(judged, name, headline)
        names[baseline] = name
    names = {key: names.get(key, f"{key} {entry.name}") for key in systems}
    kind = str(entry.options.get("type", ""))
    return Fused(entry, row, kind, _alpha(mine), systems, names, teams, cotrained)


def _of_originals(
    judged: JudgedStudy,
    runs: Mapping[tuple[str, int], JudgedRun],
    entry: EntrySection,
    teams: dict[int, Team],
) -> dict[str, Values]:
    found = _of_team(teams, "original", AVERAGES, NO_EXPERTS)
    if teams and found["original-weighted"].reason:
        reason = CLASS_SPLIT if is_class_split(judged) else NO_VALIDATION
        found["original-weighted"] = Values(reason=reason)
    if not teams:
        return {"best-expert": Values(reason=NO_EXPERTS), "mean-expert": found["original-oracle"],
                **found}  # fmt: skip
    seeds = list(teams)
    total = [np.sum([one.correct_N for one in teams[s].each], axis=0) for s in seeds]
    mean = Values(seeds, np.stack(total), divisor=len(entry.needs))
    chosen = {seed: _best(runs, entry.needs, seed) for seed in seeds}
    if None in chosen.values():
        return {"best-expert": Values(reason=NO_VALIDATION), "mean-expert": mean, **found}
    places = {seed: k for seed, k in chosen.items() if k is not None}
    best = np.stack([teams[seed].each[k].correct_N for seed, k in places.items()])
    of = ", ".join(dict.fromkeys(entry.needs[k] for k in places.values()))
    return {"best-expert": Values(seeds, best, of=of), "mean-expert": mean, **found}


def _best(runs: Mapping[tuple[str, int], JudgedRun], names: Sequence[str], seed: int) -> int | None:
    """The expert with the highest validation accuracy, the first of equals; never chosen by what is
    judged here."""
    accuracy = [validation_accuracy(runs[(name, seed)]) for name in names]
    known = [value for value in accuracy if value is not None]
    return None if len(known) < len(names) else int(np.argmax(known))


def _of_team(
    teams: Mapping[int, Team], prefix: str, kinds: Sequence[str], reason: str
) -> dict[str, Values]:
    seeds = list(teams)
    answers: dict[str, list[Answer | None]] = {
        **{kind: [teams[seed].averages[kind] for seed in seeds] for kind in kinds},
        "oracle": [teams[seed].oracle for seed in seeds],
    }
    found = {}
    for kind, each in answers.items():
        known = [one.correct_N for one in each if one is not None]
        whole = bool(seeds) and len(known) == len(seeds)
        found[f"{prefix}-{kind}"] = (
            Values(seeds, np.stack(known)) if whole else Values(reason=reason)
        )
    return found


def _of_entry(judged: JudgedStudy, name: str, headline: int) -> Values:
    runs = judged.runs_of(name)
    if runs:
        return Values(
            [run.seed for run in runs], np.stack([run.correct[headline] for run in runs]), of=name
        )
    is_planned = any(entry.name == name for entry in judged.study.entries)
    return Values(reason=NOT_JUDGED if is_planned else NOT_TRAINED)


def _baseline_entry(judged: JudgedStudy, entry: EntrySection, row: str, baseline: str) -> str:
    """The entry that is this baseline of a row. A row of mixed experts has one of each family: that
    with the highest validation accuracy stands for them."""
    if baseline == "stacking" or "families" not in entry.options:
        return f"{row}-{baseline}"
    names = [f"{family_name(model)}-{baseline}" for model in entry.options["families"]]
    present = [name for name in names if judged.runs_of(name)]

    def reached(name: str) -> float:
        return float(np.mean([validation_accuracy(r) or 0.0 for r in judged.runs_of(name)]))

    return max(present, key=reached) if present else names[0]


def row_of(entry: EntrySection) -> str:
    """The row of the matrix that a fusion stands in."""
    return "mixed" if "families" in entry.options else family_name(str(entry.options.get("family")))


def family_name(model: str) -> str:
    """The family of a registered backbone; a backbone of no known family is its own."""
    try:
        return family_of(model).name
    except UnknownNameError:
        return model


def _alpha(runs: Sequence[JudgedRun]) -> float | None:
    loss = (runs[0].info.get("train") or {}).get("loss")
    return loss.get("alpha") if isinstance(loss, dict) else None


@dataclass
class Resampled:
    """The study's own draws over many values at once; each is registered, then all are drawn."""

    judged: JudgedStudy
    names: dict[str, int] = field(default_factory=dict)
    values: list[np.ndarray] = field(default_factory=list)
    _drawn: Any = None

    def add(self, name: str, values_SN: np.ndarray) -> None:
        if name not in self.names:
            self.names[name] = len(self.values)
            self.values.append(values_SN)

    def draw(self) -> Any:
        if self._drawn is None:
            self._drawn = resample(self.judged, self.values)
        return self._drawn

    def share(self, name: str, divisor: int = 1) -> Interval:
        """Interval of the mean over `divisor`, a share from 0 to 1."""
        place = self.names[name]
        return self.draw().interval(
            lambda a: a[..., place, 0] / divisor, entries=[place], collapse="share"
        )
