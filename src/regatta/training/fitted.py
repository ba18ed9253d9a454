"""Entries that are solved for, not trained by steps: the same files as a trained run.

Shapes: N samples, F features, K classes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.errors import DataError, NonFiniteError, RunError, StopRequested
from regatta.core.files import plain, read_json, write_json
from regatta.core.signals import StopFlag
from regatta.metrics.classification import (
    balanced_accuracy,
    macro_f1,
    negative_log_likelihood,
    predict_classes,
)
from regatta.models.contracts import FitsDirectly
from regatta.models.spec import ModelSpec, count_flops, count_parameters
from regatta.models.weights import save_model
from regatta.records.predictions import file_hash
from regatta.records.run_folder import RunFolder
from regatta.training.distributed import ONE_PROCESS, Ranks
from regatta.training.energy import EnergyMeter, open_meter
from regatta.training.guards import peak_memory_gib
from regatta.training.progress import beating
from regatta.training.records import MetricsLog
from regatta.training.state import SCORE_KEYS, TrainerState
from regatta.training.temperature import fit_temperature

BLOCK = 1024
"""Samples whose features are computed together."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class FitSamples:
    """What a fit sees of one split. inputs: [N, ...] as the model's forward takes them."""

    inputs: torch.Tensor
    labels: Sequence[int]
    sample_ids: list[str]


@dataclass
class Fit:
    """A run between its first setting and its results; everything happens on the CPU."""

    module: FitsDirectly
    spec: ModelSpec
    train: TrainSection
    folder: RunFolder
    seed: int
    classes: list[str]
    stop: StopFlag
    report: Callable[[dict[str, Any]], None]
    observe: Callable[[dict[str, Any]], None]
    world: int
    tried: list[dict[str, Any]] = field(default_factory=list)
    state: TrainerState = field(default_factory=lambda: TrainerState(energy_joules=0.0))
    meter: EnergyMeter = field(default_factory=lambda: open_meter(CPU))

    def run(self, training: FitSamples, validation: FitSamples) -> dict[str, Any]:
        """Try every setting, keep the best on validation, write the run's files."""
        began = time.monotonic()
        self.meter.take()
        log = MetricsLog(self.folder.metrics, self.observe)
        # Of an attempt that was killed before its results were whole.
        self.folder.metrics.unlink(missing_ok=True)
        self._check_classes(training)
        tables = [self._features(samples) for samples in (training, validation)]
        best = self._choose(*tables)
        self.state.count_time(time.monotonic() - began)
        self.state.count_energy(self.meter.take(), self.meter.source)
        record = self._close(best, tables[0])
        log.append(
            {
                "step": record["step"],
                "lr": 0.0,
                "split": "validation",
                "epoch": record["epoch"],
                "loss": record["val_loss"],
                "accuracy": record["val_acc"],
                "balanced_accuracy": record["val_balanced_accuracy"],
                "macro_f1": record["val_macro_f1"],
                "samples_per_second": len(training.labels) / max(self.state.train_seconds, 1e-9),
                "seconds": self.state.train_seconds,
                "memory_gb": peak_memory_gib(CPU) * 2**30 / 1e9,
            }
        )
        return self._write(best)

    def _check_classes(self, training: FitSamples) -> None:
        absent = sorted(set(range(len(self.classes))) - set(training.labels))
        if absent:
            names = ", ".join(self.classes[label] for label in absent)
            raise DataError(
                f"no training sample of {names}: {self.spec.name} needs some of each class",
                hint="raise train.label_fraction, or look at the splits in data.json",
            )

    def _features(self, samples: FitSamples) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [N, F] and labels [N].

        Raises:
            NonFiniteError: names the samples.
        """
        blocks = []
        for start in range(0, len(samples.labels), BLOCK):
            self._leave_if_asked()
            blocks.append(self.module.describe(samples.inputs[start : start + BLOCK]))
        if not blocks:
            raise DataError("the validation split has no sample", hint="look at data.json")
        features = torch.cat(blocks)
        bad = torch.nonzero(~torch.isfinite(features).all(dim=1)).flatten().tolist()
        if bad:
            names = ", ".join(samples.sample_ids[row] for row in bad[:4])
            raise NonFiniteError(
                f"features of {len(bad)} samples are not finite: {names}",
                hint="look at those samples; data.damaged: drop leaves windows with NaN out",
            )
        return features, torch.as_tensor(samples.labels, dtype=torch.int64)

    def _choose(
        self,
        training: tuple[torch.Tensor, torch.Tensor],
        validation: tuple[torch.Tensor, torch.Tensor],
    ) -> dict[str, Any]:
        """The best of all settings: its module, scores, setting and facts.

        A higher validation score wins; if equal, a lower loss; then the earlier setting.
        """
        settings, key = self.module.candidates(), SCORE_KEYS[self.train.select_by]
        best: dict[str, Any] = {}
        for number, setting in enumerate(settings):
            self._leave_if_asked()
            say = partial(
                self.report, {"phase": "train", "step": number, "total_steps": len(settings)}
            )
            say()
            with beating(say):
                facts = self.module.fit(
                    *training,
                    setting=setting,
                    balanced=self.train.class_weights == "balanced",
                    seed=self.seed,
                )
            scores, logits_NK = self._score(validation)
            self.tried.append({**setting, **scores, **facts})
            if not best or (scores[key], -scores["val_loss"]) > (
                best["scores"][key],
                -best["scores"]["val_loss"],
            ):
                best = {
                    "module": copy.deepcopy(self.module),
                    "setting": setting,
                    "facts": facts,
                    "scores": scores,
                    "temperature": fit_temperature(logits_NK, validation[1].numpy()),
                }
        return best

    def _score(
        self, samples: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[dict[str, float], np.ndarray]:
        """Columns of the history, and the scores [N, K].

        Raises:
            DataError: scores are NaN or infinite.
        """
        features, labels = samples[0], samples[1].numpy()
        logits_NK = torch.cat([self.module.decide(block) for block in features.split(BLOCK)])
        scores, count = logits_NK.double().numpy(), len(self.classes)
        predictions = predict_classes(scores)
        return {
            "val_loss": negative_log_likelihood(scores, labels),
            "val_acc": float((predictions == labels).mean()),
            "val_balanced_accuracy": balanced_accuracy(predictions, labels, num_classes=count),
            "val_macro_f1": macro_f1(predictions, labels, num_classes=count),
        }, scores

    def _close(
        self, best: dict[str, Any], training: tuple[torch.Tensor, torch.Tensor]
    ) -> dict[str, Any]:
        """The one row of the history."""
        self.module = best["module"]
        scores, _ = self._score(training)
        count, state = len(training[1]), self.state
        state.step, state.samples_seen = 1, count
        state.count_samples(
            loss_sum=scores["val_loss"] * count,
            weight=count,
            correct=scores["val_acc"] * count,
            count=count,
        )
        return state.close_epoch(**best["scores"])

    def _write(self, best: dict[str, Any]) -> dict[str, Any]:
        module = best["module"]
        facts = {"seed": self.seed, "best_epoch": 1}
        save_model(self.folder.model, module, self.spec, self.classes, facts)
        results = plain(self._results(best, module))
        results["model_sha256"] = results["best_weights_sha256"]
        write_json(self.folder.training_results, results)
        return results

    def _results(self, best: dict[str, Any], module: nn.Module) -> dict[str, Any]:
        """As `records.results_record`, with what was chosen under `fitted`."""
        state, scores = self.state, best["scores"]
        return {
            "history": state.history_columns(),
            "best_epoch": 1,
            "best_val_accuracy": scores["val_acc"],
            "best_val_acc": scores["val_acc"],
            "best_val_loss": scores["val_loss"],
            "best_weights_sha256": file_hash(self.folder.model / "model.safetensors"),
            "selected_by": self.train.select_by,
            "best_score": scores[SCORE_KEYS[self.train.select_by]],
            "temperature": best["temperature"],
            # Judging fills it in.
            "test_acc": None,
            "fitted": {"setting": best["setting"], **best["facts"], "tried": self.tried},
            "trials": len(self.tried),
            "stopped_early": False,
            "steps": state.step,
            "samples_seen": state.samples_seen,
            "skipped_steps": 0,
            "skipped": [],
            "scaler_backoffs": 0,
            "train_seconds": state.train_seconds,
            "energy_joules": state.energy_joules,
            "energy_source": state.energy_source,
            "peak_memory_gib": peak_memory_gib(CPU),
            "parameters": count_parameters(module),
            "trained_parameters": count_parameters(module),
            "flops_per_clip": count_flops(module, self.spec),
            "effective_batch": state.samples_seen,
            "base_lr": None,
            "seed": self.seed,
            "config": {
                **self.train.model_dump(mode="json"),
                "accum": 1,
                "amp": False,
                "mode": self.train.parallel,
                "world": self.world,
            },
            "model": self.spec.config,
            "device": "cpu",
            "precision": "fp64",
            "world": self.world,
            "devices": self.world,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def _leave_if_asked(self) -> None:
        self.meter.poll()
        if self.stop.requested:
            error = StopRequested(
                f"stopped by {self.stop.signal_name} before the fit was done",
                where=self.folder.path,
                hint="run the same command again: the fit begins anew",
            )
            error.exit_code = self.stop.exit_code
            raise error


def fit_run(
    *,
    module: nn.Module,
    spec: ModelSpec,
    train: TrainSection,
    training: FitSamples,
    validation: FitSamples,
    folder: RunFolder,
    seed: int,
    classes: list[str],
    stop: StopFlag,
    report: Callable[[dict[str, Any]], None],
    ranks: Ranks = ONE_PROCESS,
    observe: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Fit one run; a fitted run is read back. The model is fitted on the training split alone.

    Of the recipe, `select_by` and `class_weights` count; the rest is about steps. Rank 0 does the
    work, on the CPU and in float64; other ranks wait.

    Args:
        module: obeys `models.contracts.FitsDirectly`; the best fit is in `folder.model`.
        report: called on rank 0 with the keys of a status, before each setting.
        observe: called on rank 0 with the record that goes to metrics.jsonl.

    Returns:
        The content of training_results.json, which is written last: the keys of a trained run, and
        `fitted`: the setting that was chosen and all that were tried.

    Raises:
        StopRequested: nothing is kept of a fit that was not done.
        NonFiniteError: features that are NaN or infinite; names the samples.
        DataError: a class has no training sample, or the validation split is empty.
    """
    if not isinstance(module, FitsDirectly):
        raise RunError(f"{type(module).__name__} cannot be fitted directly")
    if folder.is_trained():
        return read_json(folder.training_results)
    fit = Fit(
        module=module.cpu(),
        spec=spec,
        train=train,
        folder=folder,
        seed=seed,
        classes=classes,
        stop=stop,
        report=report,
        observe=observe or _say_nothing,
        world=ranks.world,
    )
    with torch.no_grad():
        return ranks.on_first(lambda: fit.run(training, validation))


def _say_nothing(record: dict[str, Any]) -> None:
    """Nobody looks on."""
