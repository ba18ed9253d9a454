"""What a run writes down: metrics.jsonl step by step, training_results.json at its end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.files import PARTIAL_SUFFIX, write_text
from regatta.models.spec import ModelSpec, count_flops, count_parameters
from regatta.records.metrics_stream import append_metrics, read_metrics, rewind_metrics
from regatta.records.run_folder import RunFolder
from regatta.training.distributed import Ranks
from regatta.training.recipe import Rates
from regatta.training.state import HEAD_LOSSES, SCORE_KEYS, TrainerState
from regatta.training.step import StepOutcome, StepParts


@dataclass(frozen=True)
class MetricsLog:
    """metrics.jsonl, and whoever looks on; used on rank 0 alone."""

    path: Path
    observe: Callable[[dict[str, Any]], None]

    def append(self, record: dict[str, Any]) -> None:
        append_metrics(self.path, record)
        self.observe(record)

    def rewind(self, *, step: int, epoch: int) -> None:
        """Drop records of work that a checkpoint of this step and epoch does not hold."""
        rewind_metrics(self.path, after_step=step)
        # A validation whose checkpoint was never written has the step of the one before it.
        records = read_metrics(self.path)
        kept = [r for r in records if r["split"] != "validation" or r["epoch"] <= epoch]
        if len(kept) < len(records):
            write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))


def clear_partials(folder: RunFolder) -> None:
    """Remove the records that an attempt was killed in the middle of writing."""
    records = (folder.training_results, folder.metrics, folder.progress_text)
    for written in (*records, folder.model / "*"):
        for leftover in written.parent.glob(f".{written.name}.*{PARTIAL_SUFFIX}"):
            leftover.unlink()


def progress_text(history: Sequence[Mapping[str, Any]], epochs: int) -> str:
    """One line per epoch for people: PROGRESS.txt."""
    return "".join(_progress_line(record, epochs) + "\n" for record in history)


def _progress_line(record: Mapping[str, Any], epochs: int) -> str:
    trained = record["train_loss"]
    parts = [f"epoch {record['epoch']:>3} of {epochs}"]
    parts += [] if trained is None else [f"training loss {trained:.4f}"]
    parts += [f"validation loss {record['val_loss']:.4f}", f"accuracy {record['val_acc']:.1%}"]
    parts += [f"rmse {record['val_rmse']:.3f}"] if "val_rmse" in record else []
    return "  ".join([*parts, f"{record['epoch_times']:.0f} s"])


def devices_of_run(train: TrainSection, ranks: Ranks) -> int:
    """How many devices the run kept busy: one per process, or all GPUs that one process drives."""
    return torch.cuda.device_count() if train.parallel == "dp" else ranks.world


def head_columns(
    parts: StepParts, outcome: StepOutcome, state: TrainerState, *, resting: bool
) -> dict[str, Any]:
    """Columns of a training record that only a loss of two parts or several heads have.

    Losses are means over the samples of the epoch so far, so the last record of an epoch has them
    of all of it. Rates and norms are those of the step; 0 and None where experts do not learn.
    """
    if parts.system is None:
        return state.head_losses()
    groups, rates = parts.optimizer.param_groups, {}
    for column, number in parts.system.rate_groups.items():
        rests = resting and column == "experts_lr"
        rates[column] = 0.0 if number is None or rests else groups[number]["lr"]
    norms: dict[str, float | None] = {}
    for column, norm in (outcome.component_norms or {}).items():
        rests = resting and column == "grad_norm_experts"
        norms[column] = None if rests or not math.isfinite(norm) else norm
    return {**dict.fromkeys(HEAD_LOSSES), **state.head_losses(), **rates, **norms}


def results_record(
    *,
    state: TrainerState,
    train: TrainSection,
    spec: ModelSpec,
    parts: StepParts,
    rates: Rates,
    trained: nn.Module,
    whole: nn.Module,
    seed: int,
) -> dict[str, Any]:
    """The content of training_results.json.

    Args:
        trained: the part of `whole` that the optimizer works on, or all of it.
    """
    best = state.best or {}
    precision = parts.preparation.precision.name
    return {
        "history": state.history_columns(),
        "best_epoch": best.get("epoch", 0),
        "best_val_accuracy": best.get("val_acc"),
        "best_val_acc": best.get("val_acc"),
        "best_val_loss": best.get("val_loss"),
        "best_weights_sha256": best.get("sha256"),
        "selected_by": train.select_by,
        "best_score": best.get(SCORE_KEYS[train.select_by]),
        "temperature": best.get("temperature"),
        # Of the best epoch: name of each head but the first -> loss, accuracy.
        **({"heads": best["heads"]} if "heads" in best else {}),
        **({"best_val_mse": best["val_mse"]} if "val_mse" in best else {}),
        # Judging fills it in.
        "test_acc": None,
        "stopped_early": state.stopped_early,
        "steps": state.step,
        "samples_seen": state.samples_seen,
        "skipped_steps": len(state.skipped),
        "skipped": state.skipped,
        "scaler_backoffs": state.scaler_backoffs,
        "train_seconds": state.train_seconds,
        "energy_joules": state.energy_joules,
        "energy_source": state.energy_source,
        "peak_memory_gib": state.peak_memory_gib,
        "parameters": count_parameters(whole),
        "trained_parameters": count_parameters(trained, trainable_only=True),
        "flops_per_clip": count_flops(whole, spec),
        "effective_batch": rates.effective_batch,
        "base_lr": rates.base_lr,
        "seed": seed,
        "config": {
            **train.model_dump(mode="json"),
            "accum": train.accumulate,
            "amp": precision != "fp32",
            "mode": train.parallel,
            "world": parts.ranks.world,
        },
        "model": spec.config,
        "device": str(parts.preparation.device),
        "precision": precision,
        "world": parts.ranks.world,
        "devices": devices_of_run(train, parts.ranks),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
