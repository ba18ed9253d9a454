"""One run in training: its state, and the moves that the loop makes with it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.errors import DataError, StopRequested
from regatta.core.files import PARTIAL_SUFFIX, plain, write_json, write_text
from regatta.core.seeds import derive_seed
from regatta.core.signals import StopFlag
from regatta.models.spec import ModelSpec, count_flops, count_parameters
from regatta.models.weights import save_model
from regatta.records.metrics_stream import append_metrics, read_metrics, rewind_metrics
from regatta.records.run_folder import RunFolder
from regatta.training import checkpoint, guards
from regatta.training.batches import Batch, BatchSource, open_batches
from regatta.training.distributed import copy_first_buffers
from regatta.training.optimizers import optimizer_record, restore_optimizer, set_learning_rates
from regatta.training.progress import Progress
from regatta.training.schedule import count_warmup_steps, lr_factor
from regatta.training.state import TrainerState
from regatta.training.step import StepOutcome, StepParts, take_step
from regatta.training.validation import validate

logger = logging.getLogger(__name__)


@dataclass
class TrainingRun:
    """A run between its first weights and its results; `state`, weights, optimizer change."""

    module: nn.Module
    """The plain module: what is validated and saved, so no key carries a wrapper's prefix."""
    spec: ModelSpec
    train: TrainSection
    train_loader: BatchSource
    validation: BatchSource
    folder: RunFolder
    seed: int
    classes: list[str]
    stop: StopFlag
    parts: StepParts
    progress: Progress
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
            self.module.load_state_dict(saved.weights)
            restore_optimizer(
                self.parts.optimizer,
                self.module,
                tensors=saved.optimizer,
                scalars=saved.record["optimizer"],
            )
            self.parts.scaler.load_state_dict(saved.record["scaler"])
            self.state = TrainerState(**saved.record["progress"])
            logger.info("continuing after step %d from %s", self.state.step, slot.name)
            self._warn_of_other_threads(saved.record["threads"])
        ranks.on_first(self._rewind_metrics)

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
        self.module.train()
        self._tell("train")
        self._tick()
        source = open_batches(self.train_loader, state.epoch, start=state.position)
        with source as batches, self._named_out_of_memory():
            while state.position < total:
                outcome = self._take_step(batches)
                every = self.train.checkpoint_every_steps
                if outcome.stop_asked or (every and state.step % every == 0):
                    self.save()
                if outcome.stop_asked:
                    raise self._stopped()

    def validate_epoch(self) -> None:
        """Score the weights, close the epoch, keep the best weights, and judge patience.

        Raises:
            StopRequested: after a checkpoint of the epoch's last step; validation is then repeated.
        """
        ranks, state = self.parts.ranks, self.state
        copy_first_buffers(self.module, ranks)
        with self._named_out_of_memory():
            score = validate(
                self.module,
                self.validation,
                preparation=self.parts.preparation,
                ranks=ranks,
                keep_going=self._keep_validating,
            )
        if score is None:
            self.save()
            raise self._stopped()
        self.progress.validated(self._tick())
        record = state.close_epoch(val_loss=score.loss, val_accuracy=score.accuracy)
        if ranks.is_first:
            logger.info("epoch %d of %d: %s", state.epoch, self.train.epochs, record)
        if state.is_better(record):
            state.best = {**record, **ranks.on_first(self._write_best)}
        patience = self.train.early_stopping_patience
        state.stopped_early = ranks.on_first(
            lambda: patience is not None and state.epochs_without_gain() >= patience
        )
        self._append_metrics(
            split="validation", epoch=state.epoch, loss=score.loss, accuracy=score.accuracy
        )

    def save(self) -> None:
        """Write a checkpoint on rank 0; every rank waits for it and shares its error."""
        self._tick()
        device = self.parts.preparation.device
        self.state.peak_memory_gib = max(self.state.peak_memory_gib, guards.peak_memory_gib(device))
        self.parts.ranks.on_first(self._write_slot)

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
        for written in (self.folder.training_results, self.folder.metrics, self.folder.model / "*"):
            for leftover in written.parent.glob(f".{written.name}.*{PARTIAL_SUFFIX}"):
                leftover.unlink()
        slot = checkpoint.pick_slot(root, identity=self._identity)
        checkpoint.ensure_free_space(root, self.module)
        return slot

    def _warn_of_other_threads(self, before: int) -> None:
        if self.parts.preparation.device.type == "cpu" and before != torch.get_num_threads():
            logger.warning(
                "this run began with %d threads and goes on with %d: sums are rounded differently, "
                "so the last bits of the weights are not those of an uninterrupted run",
                before,
                torch.get_num_threads(),
            )

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
        )
        state.step += 1
        state.position += micro_batches
        state.samples_seen += outcome.samples
        if outcome.verdict == "nonfinite":
            self._skip_or_end(outcome, kept)
        else:
            state.scaler_backoffs += outcome.verdict == "scaler_backoff"
            state.loss_sum += outcome.loss_sum
            state.loss_samples += outcome.samples
        self._log_step(outcome, seconds=self._tick())
        return outcome

    def _set_learning_rate(self) -> None:
        total = self.progress.total_steps
        factor = lr_factor(
            self.state.step,
            total_steps=total,
            warmup_steps=count_warmup_steps(total, fraction=self.train.warmup_fraction),
            min_fraction=self.train.min_lr_fraction,
        )
        set_learning_rates(self.parts.optimizer, self.parts.base_rates, factor=factor)
        self.state.lr = self.train.lr * factor

    def _skip_or_end(self, outcome: StepOutcome, kept: dict[str, torch.Tensor]) -> None:
        """Leave the step out where the policy allows one more, else end the run."""
        state = self.state
        shares = self.parts.ranks.gather(outcome.sample_ids)
        event = {
            "step": state.step,
            "epoch": state.epoch + 1,
            "loss": guards.number_as_text(outcome.loss),
            "gradient_norm": guards.number_as_text(outcome.gradient_norm),
            "sample_ids": [name for share in shares for name in share],
        }
        if self.train.nonfinite == "stop" or len(state.skipped) >= self.train.nonfinite_limit:
            path = self.folder.path / "nonfinite.json"
            self.parts.ranks.on_first(lambda: write_json(path, {**event, "skipped": state.skipped}))
            raise guards.nonfinite_error(event, skipped=len(state.skipped), path=path)
        logger.warning("step %d is left out, it is not finite: %s", state.step, event)
        state.skipped.append(event)
        guards.put_buffers_back(self.module, kept)

    def _log_step(self, outcome: StepOutcome, *, seconds: float) -> None:
        state = self.state
        self.progress.count_step(samples=outcome.samples, seconds=seconds)
        self._tell("train")
        if state.step % self.train.log_every_steps and state.position < len(self.train_loader):
            return
        self._append_metrics(
            split="train",
            epoch=state.epoch + 1,
            loss=None if outcome.verdict == "nonfinite" else outcome.loss,
            samples_per_second=outcome.samples / seconds,
            seconds=seconds,
        )

    def _append_metrics(self, **values: Any) -> None:
        if self.parts.ranks.is_first:
            record = {"step": self.state.step, "lr": self.state.lr, **values}
            append_metrics(self.folder.metrics, record)

    def _rewind_metrics(self) -> None:
        """Drop records of work that the checkpoint does not hold."""
        path = self.folder.metrics
        rewind_metrics(path, after_step=self.state.step)
        # A validation whose checkpoint was never written has the step of the one before it.
        records = read_metrics(path)
        done = self.state.epoch
        kept = [r for r in records if r["split"] != "validation" or r["epoch"] <= done]
        if len(kept) < len(records):
            write_text(path, "".join(json.dumps(record) + "\n" for record in kept))

    def _keep_validating(self) -> bool:
        self._tell("validate")
        return not self.parts.ranks.any(self.stop.requested)

    def _write_best(self) -> dict[str, str]:
        return checkpoint.write_best(
            self.folder.checkpoints,
            checkpoint.plain_weights(self.module),
            epoch=self.state.epoch,
        )

    def _write_slot(self) -> None:
        tensors, scalars = optimizer_record(self.parts.optimizer, self.module)
        record = {
            "identity": self._identity,
            "threads": torch.get_num_threads(),
            "progress": self.state.as_json(),
            "scaler": self.parts.scaler.state_dict(),
            "optimizer": scalars,
        }
        content = checkpoint.SavedRun(checkpoint.plain_weights(self.module), tensors, record)
        checkpoint.write_slot(self.folder.checkpoints, content)

    def _write_results(self) -> dict[str, Any]:
        best = self.state.best
        if best is not None:
            self.module.load_state_dict(checkpoint.read_best(self.folder.checkpoints, best))
        facts = {"seed": self.seed, "best_epoch": best["epoch"] if best else 0}
        save_model(self.folder.model, self.module, self.spec, self.classes, facts)
        results = plain(self._results())
        write_json(self.folder.training_results, results)
        return results

    def _results(self) -> dict[str, Any]:
        state, best = self.state, self.state.best or {}
        preparation = self.parts.preparation
        return {
            "history": state.history,
            "best_epoch": best.get("epoch", 0),
            "best_val_accuracy": best.get("val_accuracy"),
            "best_val_loss": best.get("val_loss"),
            "best_weights_sha256": best.get("sha256"),
            "stopped_early": state.stopped_early,
            "steps": state.step,
            "samples_seen": state.samples_seen,
            "skipped_steps": len(state.skipped),
            "skipped": state.skipped,
            "scaler_backoffs": state.scaler_backoffs,
            "train_seconds": state.train_seconds,
            "peak_memory_gib": state.peak_memory_gib,
            "parameters": count_parameters(self.module),
            "trained_parameters": count_parameters(self.module, trainable_only=True),
            "flops_per_clip": count_flops(self.module, self.spec),
            "seed": self.seed,
            "config": self.train.model_dump(mode="json"),
            "model": self.spec.config,
            "device": str(preparation.device),
            "precision": preparation.precision.name,
            "world": self.parts.ranks.world,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

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

    def _stopped(self) -> StopRequested:
        if not self.stop.requested:
            # Another rank was asked; this one leaves in the same way.
            self.stop.request("SIGTERM")
        error = StopRequested(
            f"stopped by {self.stop.signal_name}; the state of step {self.state.step} is saved",
            where=self.folder.path,
            hint="run the same command again: it continues from there",
        )
        error.exit_code = self.stop.exit_code
        return error

    def _tell(self, phase: str) -> None:
        best = self.state.best
        self.progress.tell(
            phase,
            step=self.state.step,
            epoch=min(self.state.epoch + 1, self.train.epochs),
            metric=best["val_accuracy"] if best else None,
        )

    def _tick(self) -> float:
        """Count the seconds since the last call as time of this run, and return them."""
        now = time.monotonic()
        seconds, self._mark = now - self._mark, now
        self.state.count_time(seconds)
        return seconds

    def _named_out_of_memory(self) -> AbstractContextManager[None]:
        return guards.named_out_of_memory(
            batch_size=self.train.batch_size,
            accumulate=self.train.accumulate,
            of=self.spec.input_words,
            device=self.parts.preparation.device,
        )
