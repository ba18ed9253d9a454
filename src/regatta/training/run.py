"""One run in training: its state, and the moves that the loop makes with it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.errors import DataError, StopRequested
from regatta.core.files import plain, read_json, write_json, write_text
from regatta.core.seeds import derive_seed
from regatta.core.signals import StopFlag
from regatta.models.contracts import HasPositions
from regatta.models.parameters import set_training_mode
from regatta.models.spec import ModelSpec
from regatta.models.weights import save_model
from regatta.records.predictions import file_hash
from regatta.records.run_folder import RunFolder
from regatta.training import checkpoint, guards, sharded
from regatta.training.batches import Batch, BatchSource, open_batches
from regatta.training.components import rest_experts
from regatta.training.distributed import copy_first_buffers
from regatta.training.ema import WeightAverage
from regatta.training.energy import EnergyMeter, whole_energy
from regatta.training.optimizers import (
    moments_of,
    optimizer_record,
    restore_optimizer,
    set_learning_rates,
)
from regatta.training.progress import Progress
from regatta.training.rank_watch import RankWatch
from regatta.training.recipe import Rates
from regatta.training.records import (
    MetricsLog,
    clear_partials,
    head_columns,
    progress_text,
    results_record,
)
from regatta.training.state import TrainerState
from regatta.training.step import StepOutcome, StepParts, take_step
from regatta.training.temperature import fit_temperature
from regatta.training.validation import ValidationScore, names_of_heads, validate

logger = logging.getLogger(__name__)


@dataclass
class TrainingRun:
    """A run between its first weights and its results; `state`, weights, optimizer change."""

    module: nn.Module
    """The plain module that is trained and validated, so no key carries a wrapper's prefix."""
    whole: nn.Module
    """The model that is saved and counted; `module` or what `module` is a part of."""
    frozen: bool
    """All of `module` but its head stays as it is."""
    spec: ModelSpec
    train: TrainSection
    rates: Rates
    train_loader: BatchSource
    validation: BatchSource
    folder: RunFolder
    log: MetricsLog
    seed: int
    classes: list[str]
    stop: StopFlag
    parts: StepParts
    average: WeightAverage | None
    """Is validated, kept and judged in the place of the weights."""
    watch: RankWatch
    progress: Progress
    meter: EnergyMeter
    state: TrainerState = field(default_factory=TrainerState)
    _mark: float = field(default_factory=time.monotonic)

    def load_or_begin(self) -> None:
        """Continue from the newest whole checkpoint, or prove that there is room for a first one.

        Raises:
            DiskError, RecordError: see checkpoint.py.
            DataError: there is nothing to train on.
        """
        if self.train.epochs and not len(self.train_loader):
            raise DataError(
                "the training split has no sample", hint="check data.split and data.root"
            )
        ranks = self.parts.ranks
        slot = ranks.on_first(self._open_checkpoints)
        if slot is not None:
            saved = checkpoint.read_slot(slot)
            sharded.load_weights(self.module, saved.weights)
            tensors = sharded.cut_optimizer_state(self.module, saved.optimizer)
            if self.average is not None:
                self.average.take_from(tensors)
            scalars = saved.record["optimizer"]
            restore_optimizer(self.parts.optimizer, self.module, tensors=tensors, scalars=scalars)
            self.parts.scaler.load_state_dict(saved.record["scaler"])
            self.state = TrainerState(**saved.record["progress"])
            logger.info("continuing after step %d from %s", self.state.step, slot.name)
            guards.warn_of_other_threads(saved.record["threads"], self.parts.preparation.device)
        elif ranks.is_first:
            print(self.rates.describe(self.train), file=sys.stderr, flush=True)
        ranks.on_first(lambda: self.log.rewind(step=self.state.step, epoch=self.state.epoch))

    def is_finished(self) -> bool:
        return self.state.epoch >= self.train.epochs or self.state.stopped_early

    def train_epoch(self) -> None:
        """Take the optimizer steps that the current epoch still lacks.

        Raises:
            StopRequested: after a checkpoint.
            NonFiniteError: by policy; no checkpoint is written.
        """
        state, total = self.state, len(self.train_loader)
        if state.position >= total:
            return
        set_training_mode(self.module, self.spec, frozen=self.frozen)
        if self._resting():
            rest_experts(self.module)
        self._tell("train")
        self._tick()
        self.watch.begin("training")
        source = open_batches(self.train_loader, state.epoch, start=state.position)
        with source as batches, self._named_out_of_memory():
            while state.position < total:
                outcome = self._take_step(batches)
                self.watch.step_done()
                every = self.train.checkpoint_every_steps
                if outcome.stop_asked or (every and state.step % every == 0):
                    self.save()
                    self.watch.go_on("training")
                if outcome.stop_asked:
                    raise self._stopped()

    def validate_epoch(self) -> None:
        """Score the weights, close the epoch, keep the best weights, and judge patience.

        Raises:
            StopRequested: after a checkpoint of the epoch's last step; validation is then repeated.
        """
        ranks, state, train = self.parts.ranks, self.state, self.train
        self.watch.begin("validation")
        copy_first_buffers(self.module, ranks)
        with self._judged_weights(), self._named_out_of_memory():
            score = validate(
                self.module,
                self.validation,
                num_classes=len(self.classes),
                preparation=self.parts.preparation,
                ranks=ranks,
                keep_going=self._keep_validating,
                head_names=names_of_heads(self.whole),
                places=self.module if isinstance(self.module, HasPositions) else None,
            )
            if score is not None:
                self._close_epoch(score)
        if score is None:
            self.save()
            raise self._stopped()
        patience = train.early_stopping_patience
        state.stopped_early = ranks.on_first(
            lambda: patience is not None and state.epochs_without_gain() >= patience
        )

    def save(self) -> None:
        """Write a checkpoint on rank 0; every rank waits for it and shares its error."""
        self.watch.begin("a save")
        self._tick()
        self._count_energy()
        device = self.parts.preparation.device
        self.state.peak_memory_gib = max(self.state.peak_memory_gib, guards.peak_memory_gib(device))
        weights = checkpoint.plain_weights(self.module)
        tensors, scalars = optimizer_record(self.parts.optimizer, self.module)
        if self.average is not None:
            tensors |= self.average.tensors()
        tensors = sharded.whole_tensors(tensors)
        self.parts.ranks.on_first(lambda: self._write_slot(weights, tensors, scalars))

    def leave_if_asked(self) -> None:
        """Raise StopRequested when any rank was asked to stop and the run is not done anyway."""
        if not self.is_finished() and self.parts.ranks.any(self.stop.requested):
            raise self._stopped()

    def finish(self) -> dict[str, Any]:
        """Write `model/` from the best weights, then training_results.json; return its content."""
        return self.parts.ranks.on_first(self._write_results)

    def _open_checkpoints(self) -> Path | None:
        """Clear what a killed attempt left, and choose the checkpoint to continue from."""
        root = self.folder.checkpoints
        clear_partials(self.folder)
        slot = checkpoint.pick_slot(root, identity=self._identity, settings=self._settings)
        if slot is not None:
            # The attempt before may have died between writing it and keeping it.
            self._keep_if_due(slot, read_json(slot / "state.json")["progress"])
        moments = moments_of(self.train.optimizer) + (self.average is not None)
        every = self.train.keep_every_epochs
        kept = self.train.epochs // every if every else 0
        checkpoint.ensure_free_space(root, self.module, moments_each=moments, kept_slots=kept)
        return slot

    def _take_step(self, batches: Iterator[Batch]) -> StepOutcome:
        """One optimizer step with all that is counted, logged and reported about it."""
        state, train = self.state, self.train
        micro_batches = min(train.accumulate, len(self.train_loader) - state.position)
        kept = guards.keep_buffers(self.module) if train.nonfinite == "skip" else {}
        self._set_learning_rate()
        outcome = take_step(
            self.parts,
            batches,
            micro_batches=micro_batches,
            stop_asked=lambda: self.stop.requested,
            seed=derive_seed(self.seed, "step", state.step, self.parts.ranks.rank),
            resting=self._resting(),
        )
        state.step += 1
        state.position += micro_batches
        state.samples_seen += outcome.samples
        if outcome.verdict == "nonfinite":
            self._skip_or_end(outcome, kept)
        else:
            state.scaler_backoffs += outcome.verdict == "scaler_backoff"
            state.count_samples(
                loss_sum=outcome.loss_sum,
                weight=outcome.weight,
                correct=outcome.correct,
                count=outcome.samples,
                part_sums=outcome.part_sums,
            )
        if outcome.verdict == "applied" and self.average is not None:
            self.average.update(state.step - 1)
        self._log_step(outcome, seconds=self._tick())
        return outcome

    def _set_learning_rate(self) -> None:
        step, parts = self.state.step, self.parts
        factors = [self.rates.factor(step, of_experts=own) for own in parts.group_is_experts]
        set_learning_rates(parts.optimizer, parts.base_rates, factors=factors)
        self.state.lr = self.rates.base_lr * self.rates.factor(step)

    def _resting(self) -> Sequence[nn.Parameter]:
        """Experts that do not learn yet."""
        system, epochs = self.parts.system, self.train.freeze_experts_epochs
        return () if system is None or self.state.epoch >= epochs else system.experts

    def _skip_or_end(self, outcome: StepOutcome, kept: dict[str, torch.Tensor]) -> None:
        """Leave the step out where the policy allows one more, else end the run."""
        guards.skip_or_end(
            outcome,
            self.state,
            self.train,
            ranks=self.parts.ranks,
            module=self.module,
            folder=self.folder.path,
        )
        guards.put_buffers_back(self.module, kept)

    def _log_step(self, outcome: StepOutcome, *, seconds: float) -> None:
        state = self.state
        self.progress.count_step(samples=outcome.samples, seconds=seconds)
        self._tell("train")
        if state.step % self.train.log_every_steps and state.position < len(self.train_loader):
            return
        finite = outcome.verdict != "nonfinite"
        self._append_metrics(
            split="train",
            epoch=state.epoch + 1,
            loss=outcome.loss if finite else None,
            accuracy=outcome.accuracy if finite else None,
            samples_per_second=outcome.samples / seconds,
            seconds=seconds,
            **head_columns(self.parts, outcome, state, resting=bool(self._resting())),
        )

    def _close_epoch(self, score: ValidationScore) -> None:
        """Record the epoch, and keep the weights that stand in the module if they are the best."""
        seconds = self._tick()
        self.progress.validated(seconds)
        state, ranks, by = self.state, self.parts.ranks, self.train.select_by
        record = state.close_epoch(
            val_loss=score.loss,
            val_acc=score.accuracy,
            val_balanced_accuracy=score.balanced_accuracy,
            val_macro_f1=score.macro_f1,
            **{f"val_{name}": value for name, value in score.of_positions.items()},
        )
        if ranks.is_first:
            logger.info("epoch %d of %d: %s", state.epoch, self.train.epochs, record)
            text = progress_text(state.history, self.train.epochs)
            write_text(self.folder.progress_text, text)
        heads = {"heads": score.heads} if score.heads else {}
        if state.is_better(record, by=by):
            # Of a model that is cut over the ranks only all of them together have the weights.
            weights = checkpoint.plain_weights(self.module)
            shares = ranks.gather((score.logits_NK, score.labels_N))
            written = ranks.on_first(lambda: self._write_best(weights, shares))
            state.best = {**record, **heads, **written}
        state.count_gain(record, by=by, least_points=self.train.early_stopping_min_delta)
        self._append_metrics(
            split="validation",
            epoch=state.epoch,
            loss=score.loss,
            accuracy=score.accuracy,
            balanced_accuracy=score.balanced_accuracy,
            macro_f1=score.macro_f1,
            **score.of_positions,
            samples_per_second=score.samples / seconds,
            seconds=seconds,
            **heads,
        )

    def _append_metrics(self, **values: Any) -> None:
        if self.parts.ranks.is_first:
            memory = guards.peak_memory_gib(self.parts.preparation.device) * 2**30 / 1e9
            state = self.state
            self.log.append({"step": state.step, "lr": state.lr, **values, "memory_gb": memory})

    def _judged_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.in_place()

    def _keep_validating(self) -> bool:
        self._tell("validate")
        self.watch.step_done()
        self.meter.poll()
        return not self.parts.ranks.any(self.stop.requested)

    def _write_best(
        self, weights: dict[str, torch.Tensor], shares: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> dict[str, Any]:
        """Save the weights; fit the temperature to the scores that all ranks got with them."""
        logits_NK, labels_N = (np.concatenate(parts) for parts in zip(*shares, strict=True))
        written = checkpoint.write_best(self.folder.checkpoints, weights, epoch=self.state.epoch)
        return {**written, "temperature": fit_temperature(logits_NK, labels_N)}

    def _write_slot(
        self,
        weights: dict[str, torch.Tensor],
        tensors: dict[str, torch.Tensor],
        scalars: dict[str, Any],
    ) -> None:
        record = {
            "identity": self._identity,
            "settings": self._settings,
            "threads": torch.get_num_threads(),
            "progress": self.state.as_json(),
            "scaler": self.parts.scaler.state_dict(),
            "optimizer": scalars,
        }
        content = checkpoint.SavedRun(weights, tensors, record)
        slot = checkpoint.write_slot(self.folder.checkpoints, content)
        self._keep_if_due(slot, record["progress"])

    def _keep_if_due(self, slot: Path, progress: dict[str, Any]) -> None:
        """Keep a slot for good where the recipe wants that of its epoch."""
        every, epoch = self.train.keep_every_epochs, progress["epoch"]
        if every and progress["position"] == 0 and epoch and epoch % every == 0:
            checkpoint.keep_slot(slot, f"epoch_{epoch:02d}")

    def _write_results(self) -> dict[str, Any]:
        best = self.state.best
        if best is not None:
            # A model that is cut over the ranks stays so: `whole` is then a copy of its own.
            target = self.whole if sharded.is_sharded(self.module) else self.module
            target.load_state_dict(checkpoint.read_best(self.folder.checkpoints, best))
        facts = {"seed": self.seed, "best_epoch": best["epoch"] if best else 0}
        save_model(self.folder.model, self.whole, self.spec, self.classes, facts)
        results = plain(
            results_record(
                state=self.state,
                train=self.train,
                spec=self.spec,
                parts=self.parts,
                rates=self.rates,
                trained=self.module,
                whole=self.whole,
                seed=self.seed,
            )
        )
        results["model_sha256"] = file_hash(self.folder.model / "model.safetensors")
        write_json(self.folder.training_results, results)
        return results

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must share with this run: other values change what comes out."""
        return {
            "content_hash": self.folder.info()["content_hash"],
            "classes": list(self.classes),
            "seed": self.seed,
            "processes": self.parts.ranks.world,
            "micro_batches_per_epoch": len(self.train_loader),
            "precision": self.parts.preparation.precision.name,
        }

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """What the hash among the identity was made of, as far as it can be told."""
        recipe = self.train.model_dump(mode="json")
        model = {("model" if k == "name" else k): v for k, v in self.spec.config.items()}
        return plain({**model, **{f"train.{key}": value for key, value in recipe.items()}})

    def _stopped(self) -> StopRequested:
        return guards.stopped_error(self.stop, step=self.state.step, path=self.folder.path)

    def _tell(self, phase: str) -> None:
        best = self.state.best
        self.progress.tell(
            phase,
            step=self.state.step,
            epoch=min(self.state.epoch + 1, self.train.epochs),
            metric=best["val_acc"] if best else None,
        )

    def _tick(self) -> float:
        """Count the seconds since the last call as time of this run, and return them."""
        now = time.monotonic()
        seconds, self._mark = now - self._mark, now
        self.state.count_time(seconds)
        self.meter.poll()
        return seconds

    def _count_energy(self) -> None:
        shares = self.parts.ranks.gather(self.meter.take())
        self.state.count_energy(whole_energy(shares), self.meter.source)

    def _named_out_of_memory(self) -> AbstractContextManager[None]:
        return guards.named_out_of_memory(
            batch_size=self.train.batch_size,
            accumulate=self.train.accumulate,
            of=self.spec.input_words,
            device=self.parts.preparation.device,
        )
