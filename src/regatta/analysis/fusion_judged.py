"""What the experts of a fusion answer, one by one and averaged, before and after co-training.

Experts are judged runs of their own; what they answer after they were trained along with a fusion
lies below its predictions, a folder per head. Averages are formed seed by seed from stored scores.

Shapes: C conditions, M experts, N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from regatta.analysis.classification import CALIBRATION
from regatta.analysis.diversity import diversity_rows, nll_per_sample
from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.config.partition import class_blocks
from regatta.config.schema import EntrySection
from regatta.core.errors import RecordError
from regatta.metrics.classification import Floats, softmax
from regatta.records.predictions import HEADS_FOLDER, read_run_predictions

AVERAGES = ("logits", "probabilities", "weighted")


@dataclass(frozen=True)
class Answer:
    """What one network, or an average of several, gets right.

    correct_N: bool, at the headline. right_C: right answers in every condition; nll_C in nats,
    NaN where a log-likelihood has no meaning.
    """

    correct_N: np.ndarray
    right_C: np.ndarray
    nll_C: np.ndarray
    calibration: dict[str, float] | None = None
    """nll, brier and ece of an average at the headline."""


@dataclass(frozen=True)
class Team:
    """The experts of one set and one seed."""

    names: list[str]
    each: list[Answer]
    averages: dict[str, Answer | None]
    """By AVERAGES; None where it is not defined."""
    oracle: Answer
    diversity: list[dict[str, Any]]
    own_accuracy: list[float] | None = None
    """Of experts of a class-split partition: accuracy on the images of their own classes, with only
    these classes to choose from."""


@dataclass(frozen=True)
class Blocks:
    """Which classes each expert of a class-split partition knows, and its temperature."""

    classes: list[range]
    temperatures: list[float]


def without_experts(judged: JudgedStudy) -> JudgedStudy:
    """The study without its experts, which are parts of others and race with nobody.

    As it is where nothing else is judged, or where there are none.
    """
    experts = {entry.name for entry in judged.study.entries if entry.role == "expert"}
    kept = [run for run in judged.runs if run.entry not in experts]
    return replace(judged, runs=kept) if kept and len(kept) < len(judged.runs) else judged


def fusion_entries(judged: JudgedStudy) -> list[EntrySection]:
    """Entries with a judged run that fuse others."""
    present = {run.entry for run in judged.runs}
    return [
        entry
        for entry in judged.study.entries
        if entry.model == "fusion" and entry.needs and entry.name in present
    ]


def is_class_split(judged: JudgedStudy) -> bool:
    partition = judged.study.partition
    return partition is not None and partition.kind == "noniid"


def scores_of(judged: JudgedStudy, run: JudgedRun) -> np.ndarray:
    """All scores of a run, float32 [C, N, K]."""
    if len(judged.conditions) == 1:
        return run.headline_scores[None]
    return _read(judged, run, judged.folder.run(run.run_id).predictions(judged.protocol))


def head_scores(judged: JudgedStudy, run: JudgedRun, count: int) -> list[np.ndarray] | None:
    """Scores of the `count` experts inside a fusion, float32 [C, N, K] each; None where they were
    not judged."""
    folder = judged.folder.run(run.run_id).predictions(judged.protocol) / HEADS_FOLDER
    places = [folder / f"expert-{k}" for k in range(count)]
    if not all((place / "complete.json").is_file() for place in places):
        return None
    return [_read(judged, run, place) for place in places]


def _read(judged: JudgedStudy, run: JudgedRun, folder: Path) -> np.ndarray:
    found = read_run_predictions(folder, run_id=run.run_id, entry=run.entry, seed=run.seed)
    ids = [condition.id for condition in judged.conditions]
    same = np.array_equal(found.sample_ids, judged.sample_ids)
    if not same or found.classes != judged.classes or [c.id for c in found.conditions] != ids:
        raise RecordError(
            "an expert's head was judged on other samples, classes or conditions than its run",
            where=folder,
            hint="delete this run's predictions and run the study again: only they are redone",
        )
    return found.scores


def original_team(judged: JudgedStudy, runs: Sequence[JudgedRun], headline: int) -> Team:
    """Experts as they were trained by themselves."""
    scores = [scores_of(judged, run) for run in runs]
    names = [run.entry for run in runs]
    accuracy = [validation_accuracy(run) for run in runs]
    blocks = None
    if is_class_split(judged):
        temperatures = [run.training.get("temperature") or 1.0 for run in runs]
        blocks = Blocks(class_blocks(len(judged.classes), len(runs)), temperatures)
    return team(names, scores, judged.labels, headline, validation=accuracy, blocks=blocks)


def cotrained_team(judged: JudgedStudy, run: JudgedRun, count: int, headline: int) -> Team | None:
    """Experts as the fusion's training left them; None where their heads were not judged."""
    scores = head_scores(judged, run, count)
    if scores is None:
        return None
    names = [f"expert-{k}" for k in range(count)]
    return team(names, scores, judged.labels, headline, validation=[None] * count)


def validation_accuracy(run: JudgedRun) -> float | None:
    """Of the weights that were kept; None when it is not recorded."""
    return run.training.get("best_val_accuracy")


def team(
    names: list[str],
    scores_MCNK: Sequence[np.ndarray],
    labels_N: np.ndarray,
    headline: int,
    *,
    validation: Sequence[float | None],
    blocks: Blocks | None = None,
) -> Team:
    """Answers of experts, of their averages and of their oracle.

    Args:
        validation: accuracy of each, the weights of the weighted average of logits.
        blocks: given where every expert knows some classes only. Then an average is all experts'
            own classes side by side: their logits over their temperatures, or the probabilities
            that they give among their own.
    """
    cells = range(len(scores_MCNK[0]))
    each = [
        answer([_of(scores, c) for c in cells], labels_N, headline, knows_all=blocks is None)
        for scores in scores_MCNK
    ]
    weights = None if blocks or None in validation else np.array(validation, dtype=float)
    kinds: dict[str, list[Floats]] = {"logits": [], "probabilities": [], "weighted": []}
    for c in cells:
        at = [_of(scores, c) for scores in scores_MCNK]
        for kind, found in _averages(at, weights, blocks).items():
            kinds[kind].append(found)
    averages: dict[str, Answer | None] = {
        kind: answer(found, labels_N, headline, calibrated=True) if found else None
        for kind, found in kinds.items()
    }
    at_headline = None if blocks else [_of(scores, headline) for scores in scores_MCNK]
    correct = np.stack([one.correct_N for one in each])
    return Team(
        names,
        each,
        averages,
        _oracle(scores_MCNK, labels_N, headline),
        diversity_rows(names, correct, at_headline, labels_N),
        None if blocks is None else _own_accuracy(scores_MCNK, labels_N, headline, blocks),
    )


def _of(scores_CNK: np.ndarray, condition: int) -> Floats:
    return scores_CNK[condition].astype(np.float64)


def answer(
    logits_CNK: Sequence[Floats],
    labels_N: np.ndarray,
    headline: int,
    *,
    knows_all: bool = True,
    calibrated: bool = False,
) -> Answer:
    """What logits, one [N, K] per condition, get right."""
    right = [logits.argmax(axis=1) == labels_N for logits in logits_CNK]
    nll = [
        nll_per_sample(logits, labels_N).mean() if knows_all else np.nan for logits in logits_CNK
    ]
    scores = None
    if calibrated:
        scores = {name: f(logits_CNK[headline], labels_N) for name, f in CALIBRATION.items()}
    counts = np.array([found.sum() for found in right])
    return Answer(right[headline], counts, np.array(nll), scores)


def _averages(
    logits_MNK: list[Floats], weights: np.ndarray | None, blocks: Blocks | None
) -> dict[str, Floats]:
    """Logits [N, K] of each average that is defined."""
    if blocks is not None:
        return _joined(logits_MNK, blocks)
    found = {
        "logits": np.mean(logits_MNK, axis=0),
        # The logarithm keeps the order and gives logits whose softmax is the average.
        "probabilities": np.log(np.mean([softmax(x) for x in logits_MNK], axis=0) + TINY),
    }
    if weights is not None and weights.sum() > 0:
        found["weighted"] = np.average(logits_MNK, axis=0, weights=weights)
    return found


TINY = 1e-300
"""Keeps the logarithm of a probability that is 0 in double precision finite."""


def _joined(logits_MNK: list[Floats], blocks: Blocks) -> dict[str, Floats]:
    """Every expert's own classes side by side, so that no class is silently zero."""
    logits, probabilities = (np.full(logits_MNK[0].shape, -np.inf) for _ in range(2))
    for own, temperature, scores in zip(
        blocks.classes, blocks.temperatures, logits_MNK, strict=True
    ):
        block = scores[:, own.start : own.stop] / temperature
        logits[:, own.start : own.stop] = block
        share = np.log(softmax(block) / len(logits_MNK) + TINY)
        probabilities[:, own.start : own.stop] = share
    return {"logits": logits, "probabilities": probabilities}


def _oracle(scores_MCNK: Sequence[np.ndarray], labels_N: np.ndarray, headline: int) -> Answer:
    """Right where any expert is: an upper limit, not a rule that anyone could follow."""
    right = np.any([scores.argmax(axis=2) == labels_N for scores in scores_MCNK], axis=0)
    return Answer(right[headline], right.sum(axis=1), np.full(len(right), np.nan))


def _own_accuracy(
    scores_MCNK: Sequence[np.ndarray], labels_N: np.ndarray, headline: int, blocks: Blocks
) -> list[float]:
    found = []
    for own, scores in zip(blocks.classes, scores_MCNK, strict=True):
        mine = (labels_N >= own.start) & (labels_N < own.stop)
        among = scores[headline][mine, own.start : own.stop].argmax(axis=1) + own.start
        found.append(float((among == labels_N[mine]).mean()) if mine.any() else float("nan"))
    return found
