"""The tables of a fusion study below results/: names and columns are fixed.

Shapes: C conditions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from regatta.analysis.bootstrap import exact_share
from regatta.analysis.diversity import COUNTS, MEASURES
from regatta.analysis.fusion_cost import COST_COLUMNS
from regatta.analysis.fusion_judged import Answer, Team, answer, scores_of
from regatta.analysis.fusion_logs import written_at
from regatta.analysis.fusion_matrix import MATRIX_COLUMNS
from regatta.analysis.fusion_ood import NOT_MEASURED, NUMBERS, OOD_COLUMNS
from regatta.analysis.fusion_systems import FUSED, WORDS, Fused, family_name
from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.analysis.tables import csv_text
from regatta.config.schema import EntrySection
from regatta.records.conditions import Condition

EVALUATION_COLUMNS = (
    "timestamp",
    "model_type",
    "fusion_type",
    "alpha",
    "expert_id",
    "architecture",
    "test_type",
    "test_param",
    "corruption_type",
    "severity",
    "accuracy",
    "loss",
    "correct",
    "total",
    "low",
    "high",
    "seed",
    "run",
)
DIVERSITY_COLUMNS = (
    "members",
    "kind",
    *COUNTS,
    *MEASURES,
    "oracle",
    "ambiguity",
    "cka",
    "architecture",
    "fusion_type",
    "alpha",
    "seed",
    "run",
)


def matrix_csv(rows: Sequence[dict[str, Any]]) -> str:
    """`matrix.csv`: accuracies are fractions, gains are points."""
    return csv_text(MATRIX_COLUMNS, map(_matrix_row, rows))


def _matrix_row(row: dict[str, Any]) -> list[Any]:
    accuracy = row["accuracy"]
    cells = {**row, "accuracy": accuracy["estimate"], **{k: accuracy[k] for k in ("low", "high")}}
    for name in ("gain_over_average", "gain_over_equal_cost"):
        gain = row[name]
        cells[name] = row[f"{name}_reason"] if gain is None else gain["estimate"]
    return [cells[name] for name in MATRIX_COLUMNS]


def cost_csv(rows: Sequence[dict[str, Any]]) -> str:
    """`cost.csv`: an empty field was not measured."""
    return csv_text(COST_COLUMNS, ([row[name] for name in COST_COLUMNS] for row in rows))


def ood_csv(rows: Sequence[dict[str, Any]]) -> str:
    """`ood.csv`: "not measured" stands where a number would."""
    shown = [
        [NOT_MEASURED if n in NUMBERS and row[n] is None else row[n] for n in OOD_COLUMNS]
        for row in rows
    ]
    return csv_text(OOD_COLUMNS, shown)


def diversity_rows(judged: JudgedStudy, fusions: Sequence[Fused]) -> list[dict[str, Any]]:
    """Experts as they were, once per set of them and seed, then co-trained, per fusion and seed."""
    rows, done = [], set()
    for fused in fusions:
        for seed, team in fused.teams.items():
            if (key := (tuple(fused.entry.needs), seed)) not in done:
                done.add(key)
                rows += _diversity(fused.row, "none", None, seed, None, team)
        runs = {run.seed: run.run_id for run in judged.runs_of(fused.entry.name)}
        for seed, team in fused.cotrained.items():
            place = (fused.row, fused.fusion_type, fused.alpha, seed, runs[seed])
            rows += _diversity(*place, team)
    return rows


def _diversity(
    row: str, fusion_type: str, alpha: float | None, seed: int, run: str | None, team: Team
) -> list[dict[str, Any]]:
    place = {"architecture": row, "fusion_type": fusion_type, "alpha": alpha, "seed": seed}
    # Features are not recorded, so their similarity is not measured.
    return [{**found, "cka": None, **place, "run": run} for found in team.diversity]


def diversity_csv(rows: Sequence[dict[str, Any]]) -> str:
    """`diversity.csv`: an empty field is not defined, or in the column cka not measured."""
    return csv_text(DIVERSITY_COLUMNS, ([row[n] for n in DIVERSITY_COLUMNS] for row in rows))


def evaluation_csv(judged: JudgedStudy, fusions: Sequence[Fused], headline: int) -> str:
    """`evaluation.csv`: a row per run, head or average, and condition.

    `low` and `high` are exact binomial bounds for this one seed; what holds over seeds and groups
    is in matrix.csv and comparison.json.
    """
    return csv_text(
        EVALUATION_COLUMNS,
        ([row.get(n) for n in EVALUATION_COLUMNS] for row in _evaluated(judged, fusions, headline)),
    )


def _evaluated(
    judged: JudgedStudy, fusions: Sequence[Fused], headline: int
) -> Iterator[dict[str, Any]]:
    by_entry = {fused.entry.name: fused for fused in fusions}
    entries = {entry.name: entry for entry in judged.study.entries}
    known = {
        (name, seed): one
        for fused in fusions
        for seed, team in fused.teams.items()
        for name, one in zip(team.names, team.each, strict=True)
    }
    for run in judged.runs:
        place = _place(judged, run, entries[run.entry], by_entry.get(run.entry))
        own = known.get((run.entry, run.seed)) or _answer_of(judged, run, headline)
        yield from _cells(judged, own, place)
        fused = by_entry.get(run.entry)
        if fused is not None and run.seed in fused.cotrained:
            yield from _team_cells(judged, fused.cotrained[run.seed], "cotrained", place)
    done = set()
    for fused in fusions:
        for seed, team in fused.teams.items():
            if (key := (tuple(fused.entry.needs), seed)) in done:
                continue
            done.add(key)
            place = {"architecture": fused.row, "fusion_type": "none", "seed": seed}
            yield from _team_cells(judged, team, "original", place)


def _answer_of(judged: JudgedStudy, run: JudgedRun, headline: int) -> Answer:
    scores = scores_of(judged, run)
    return answer([each.astype(float) for each in scores], judged.labels, headline)


def _place(
    judged: JudgedStudy, run: JudgedRun, entry: EntrySection, fused: Fused | None
) -> dict[str, Any]:
    common = {
        "timestamp": written_at(judged, run),
        "seed": run.seed,
        "run": run.run_id,
    }
    if fused is not None:
        return {
            **common,
            "model_type": FUSED,
            "fusion_type": fused.fusion_type,
            "alpha": fused.alpha,
            "expert_id": "global",
            "architecture": fused.row,
        }
    number = (entry.part or "").rpartition("-")[2] if entry.role == "expert" else None
    return {
        **common,
        "model_type": "expert" if entry.role == "expert" else entry.name,
        "fusion_type": "none",
        "expert_id": number,
        "architecture": family_name(entry.model),
    }


def _team_cells(
    judged: JudgedStudy, team: Team, prefix: str, place: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Averages and oracle of a set of experts; co-trained ones are listed one by one too, the
    others have runs of their own."""
    if prefix == "cotrained":
        for k, one in enumerate(team.each):
            head = {**place, "model_type": "cotrained-expert", "expert_id": k}
            yield from _cells(judged, one, head)
    together = {f"{prefix}-{kind}": found for kind, found in team.averages.items()}
    for name, found in {**together, f"{prefix}-oracle": team.oracle}.items():
        if found is not None and name in WORDS:
            yield from _cells(judged, found, {**place, "model_type": name, "expert_id": "all"})


def _cells(judged: JudgedStudy, found: Answer, place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    total = len(judged.labels)
    for c, condition in enumerate(judged.conditions):
        right = int(found.right_C[c])
        low, high = exact_share(right / total, total, confidence=judged.study.compare.confidence)
        loss = float(found.nll_C[c])
        yield {
            **place,
            **condition_columns(condition),
            "accuracy": right / total,
            "loss": loss if loss == loss else None,
            "correct": right,
            "total": total,
            "low": low,
            "high": high,
        }


def condition_columns(condition: Condition) -> dict[str, Any]:
    """A condition as test_type, test_param, corruption_type and severity."""
    name, level = condition.axes.get("corruption"), condition.axes.get("level")
    if name is None or name == "clean":
        is_clean = name == "clean" or not condition.axes
        return {"test_type": "clean" if is_clean else condition.id}
    if name == "noise":
        return {"test_type": "noise", "test_param": level}
    return {"test_type": "corruption", "corruption_type": name, "severity": level}
