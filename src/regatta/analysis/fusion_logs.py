"""Training logs of a fusion study as CSV, one file per run, from its records.

Names of files and first columns are those that the reference study wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from regatta.analysis.fusion_systems import Fused, family_name
from regatta.analysis.judged import JudgedRun, JudgedStudy
from regatta.analysis.tables import csv_text
from regatta.config.fusion_recipes import family_of
from regatta.config.schema import EntrySection
from regatta.core.errors import UnknownNameError
from regatta.core.files import slug
from regatta.records.metrics_stream import read_metrics
from regatta.records.status import read_status

FOLDER = "csv_logs"
RATES = ("experts_lr", "fusion_lr", "global_head_lr")
LOSSES = ("loss_global", "loss_individual")
NORMS = ("grad_norm_experts", "grad_norm_fusion")
EXPERT_COLUMNS = (
    "epoch",
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "lr",
    "best_val_acc_so_far",
    "seconds",
    "run",
)


def log_files(judged: JudgedStudy, fusions: Sequence[Fused]) -> dict[str, str]:
    """File name below results/ -> text: a log per run of a fusion or an expert."""
    alphas = {fused.alpha for fused in fusions}
    seeds = set(judged.study.seeds)
    found: dict[str, str] = {}
    for fused in fusions:
        model = tree_name(fused.row)
        for run in judged.runs_of(fused.entry.name):
            marks = _marks(fused.alpha if len(alphas) > 1 else None, run.seed, seeds)
            name = f"{FOLDER}/{model}_fusions/{model}_{slug(fused.fusion_type)}{marks}"
            found[_free(name, fused.entry.name, found)] = fusion_log(judged, fused, run)
    for entry in judged.study.entries:
        if entry.role != "expert":
            continue
        model = tree_name(family_name(entry.model))
        for run in judged.runs_of(entry.name):
            name = f"{FOLDER}/{model}_experts/{model}_expert_{_number(entry)}"
            name += _marks(None, run.seed, seeds)
            found[_free(name, entry.name, found)] = expert_log(judged, run)
    return found


def tree_name(row: str) -> str:
    """A row of the matrix as it stands in file names."""
    try:
        return family_of(row).tree_name
    except UnknownNameError:
        return slug(row)


def _marks(alpha: float | None, seed: int, seeds: set[int]) -> str:
    return ("" if alpha is None else f"_alpha{alpha:g}") + (
        f"_seed{seed}" if len(seeds) > 1 else ""
    )


def _free(name: str, entry: str, taken: dict[str, str]) -> str:
    """Two entries of one family and type differ in other settings: their names tell them apart."""
    end = "_training_log.csv"
    return f"{name}{end}" if f"{name}{end}" not in taken else f"{name}_{slug(entry)}{end}"


def _number(entry: EntrySection) -> str:
    return slug((entry.part or entry.name).rpartition("-")[2])


def fusion_log(judged: JudgedStudy, fused: Fused, run: JudgedRun) -> str:
    """A row per epoch of a fusion's training; a value that was not recorded is empty."""
    count = len(fused.entry.needs)
    experts = [f"expert-{k}" for k in range(count)]
    header = ["epoch", "train_loss", "val_loss", "val_accuracy", *RATES, *LOSSES, "loss_total"]
    header += [f"expert_{k}_{what}" for what in ("accuracy", "loss") for k in range(count)]
    header += ["alpha", "fusion_type", "model_architecture", "timestamp", "seed"]
    header += ["train_accuracy", "seconds", *NORMS, "run"]
    rows, written = [], written_at(judged, run)
    for epoch in epochs_of(judged, run):
        heads = epoch["heads"]
        own = [
            (heads.get(name) or {}).get(what) for what in ("accuracy", "loss") for name in experts
        ]
        rows.append(
            [
                *(epoch[key] for key in ("epoch", "train_loss", "val_loss", "val_acc")),
                *(epoch["train"].get(key) for key in (*RATES, *LOSSES)),
                epoch["train_loss"],
                *own,
                *(fused.alpha, fused.fusion_type, tree_name(fused.row), written, run.seed),
                *(epoch["train_acc"], epoch["epoch_times"]),
                *(epoch["train"].get(key) for key in NORMS),
                run.run_id,
            ]
        )
    return csv_text(header, rows)


def written_at(judged: JudgedStudy, run: JudgedRun) -> str | None:
    """When a run last wrote its status, in UTC; None where it has none. Times of files are not
    used: a copy changes them."""
    seconds = read_status(judged.folder.run(run.run_id).status).heartbeat
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds else None


def expert_log(judged: JudgedStudy, run: JudgedRun) -> str:
    """A row per epoch of an expert's training; only validation, never the judged images."""
    rows, best = [], None
    for epoch in epochs_of(judged, run):
        reached = epoch["val_acc"]
        best = max(x for x in (best, reached) if x is not None) if reached is not None else best
        keys = ("epoch", "train_loss", "train_acc", "val_loss", "val_acc", "learning_rates")
        rows.append([*(epoch[key] for key in keys), best, epoch["epoch_times"], run.run_id])
    return csv_text(EXPERT_COLUMNS, rows)


HISTORY = (
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "learning_rates",
    "epoch_times",
)


def epochs_of(judged: JudgedStudy, run: JudgedRun) -> list[dict[str, Any]]:
    """The columns of HISTORY by epoch, with `train`, the last training record of that epoch, and
    `heads`, what each expert's own head reached on validation."""
    history = run.training.get("history") or {}
    records = read_metrics(judged.folder.run(run.run_id).metrics)
    train: dict[Any, dict[str, Any]] = {}
    heads: dict[Any, dict[str, Any]] = {}
    for record in records:
        if record.get("split") == "validation":
            heads[record.get("epoch")] = record.get("heads") or {}
        else:
            train[record.get("epoch")] = record
    rows = []
    for place, epoch in enumerate(history.get("epoch") or []):
        columns = {key: _at(history.get(key), place) for key in HISTORY}
        row = {"epoch": epoch, "train": train.get(epoch, {}), "heads": heads.get(epoch, {})}
        rows.append({**row, **columns})
    return rows


def _at(values: Sequence[Any] | None, place: int) -> Any:
    return values[place] if values and place < len(values) else None
