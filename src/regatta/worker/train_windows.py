"""Train one run on windows of signals: fitted, on frozen features, or step by step on the signals.

Shapes: N samples, C channels, L samples of a window, V views, P encoded channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regatta.config.expand import RunSpec
from regatta.core.signals import StopFlag
from regatta.data.manifest import Sample
from regatta.data.window_loader import Augment, WindowLoader
from regatta.data.window_margins import augmented_inputs
from regatta.data.windows import WindowStore
from regatta.models.contracts import EncodesOnce, FitsDirectly, FitsStatistics
from regatta.models.spec import ModelSpec
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.training.distributed import Ranks
from regatta.training.fitted import FitSamples, fit_run
from regatta.training.loop import train_run
from regatta.worker.frozen_features import FrozenEncoder, augmented_views
from regatta.worker.labels import training_counts
from regatta.worker.run_data import RunData
from regatta.worker.window_inputs import read_inputs

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class WindowRun:
    """One run on windows, and this process's part in it."""

    folder: StudyFolder
    run_spec: RunSpec
    run: RunFolder
    data: RunData
    store: WindowStore
    module: nn.Module
    spec: ModelSpec
    ranks: Ranks
    stop: StopFlag
    report: Callable[[dict[str, Any]], None]
    observe: Callable[[dict[str, Any]], None]

    def samples(self, split: str) -> list[Sample]:
        return self.data.manifest.split(split)

    def inputs(self, split: str) -> torch.Tensor:
        """What the model reads of a split: float32 [N, C, L], or hand-made features [N, F]."""
        where = f"entries.{self.run_spec.entry.name}"
        return read_inputs(self.store, self.spec, self.samples(split), where=where)

    @property
    def common(self) -> dict[str, Any]:
        """What fitting and training by steps take alike."""
        return {
            "spec": self.spec,
            "train": self.run_spec.train,
            "folder": self.run,
            "seed": self.run_spec.seed,
            "classes": self.data.manifest.classes,
            "stop": self.stop,
            "report": self.report,
            "ranks": self.ranks,
            "observe": self.observe,
        }


def train_on_windows(run: WindowRun) -> dict[str, Any]:
    """Train the run to its end and return the content of training_results.json.

    Statistics of the windows are measured on those that the run trains on.
    """
    module, train = run.module, run.run_spec.train
    if isinstance(module, FitsDirectly):
        fit = {split: _fit_samples(run, split) for split in SPLITS}
        return fit_run(
            module=module, training=fit["train"], validation=fit["validation"], **run.common
        )
    signals = {split: run.inputs(split) for split in SPLITS}
    if isinstance(module, FitsStatistics):
        module.fit_statistics(signals["train"])
    if train.augment == "reference":
        # config.picture_recipe refused it for entries that draw no pictures.
        setattr(module, "picture_augment", True)  # noqa: B010 - nn.Module has no such field
    if train.freeze_encoder and train.feature_cache and isinstance(module, EncodesOnce):
        return _train_on_features(run, module, signals)
    augment = None
    if train.augment == "standard" and run.spec.reads == "signals":
        options, samples = train.augment_options, run.samples("train")
        signals["train"], augment = augmented_inputs(options, run.store, samples)
    return _train(run, module, signals, augment=augment)


def _train_on_features(
    run: WindowRun, module: EncodesOnce, signals: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Encode each window once and train the head alone; re-encode where the features are too many.

    Augmentation is none, or `augment_views` fixed variants; the same either way.
    """
    views = augmented_views(run.run_spec, run.store, run.samples("train"))
    encoder = FrozenEncoder(module, run.run_spec, run.ranks.device, run.report, run.stop)
    splits = {"train": views, "validation": [signals["validation"]]}
    parts = [
        encoder.part(view, run.samples(split), number if split == "train" else 0)
        for split, shown in splits.items()
        for number, view in enumerate(shown)
    ]
    need = encoder.bytes_of(parts)
    if need is not None:
        if run.ranks.is_first:
            print(f"frozen features are not kept, every epoch encodes anew: {need}", flush=True)
        inputs = {"train": _stack(views), "validation": signals["validation"]}
        assert isinstance(module, nn.Module)
        return _train(run, module, inputs, views=len(views))
    cached = encoder.features(run.folder.features, parts, run.ranks)
    if run.ranks.is_first:
        print(encoder.summary(views=len(views)), flush=True)
    inputs = {"train": _stack(cached.features[:-1]), "validation": cached.features[-1]}
    return _train(
        run,
        module.head,
        inputs,
        views=len(views),
        whole=run.module,
        seconds_before=cached.seconds,
    )


def _train(
    run: WindowRun,
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    *,
    augment: Augment | None = None,
    views: int = 1,
    whole: nn.Module | None = None,
    seconds_before: float = 0.0,
) -> dict[str, Any]:
    """Train `module` by steps on resident inputs: [N, ...], or [V, N, ...] to train on V views."""

    def loader(split: str, **options: Any) -> WindowLoader:
        samples = run.samples(split)
        return WindowLoader(
            inputs[split],
            [sample.label for sample in samples],
            [sample.sample_id for sample in samples],
            batch_size=run.run_spec.train.batch_size,
            seed=run.run_spec.seed,
            device=run.ranks.device,
            rank=run.ranks.rank,
            world=run.ranks.world,
            **options,
        )

    return train_run(
        module=module,
        whole=whole,
        seconds_before=seconds_before,
        train_loader=loader("train", augment=augment, views=views),
        validation=loader("validation"),
        device=run.ranks.device,
        class_counts=training_counts(run.data.manifest),
        **run.common,
    )


def _fit_samples(run: WindowRun, split: str) -> FitSamples:
    samples = run.samples(split)
    return FitSamples(
        run.inputs(split),
        [sample.label for sample in samples],
        [sample.sample_id for sample in samples],
    )


def _stack(views: list[torch.Tensor]) -> torch.Tensor:
    """[N, ...] of one view, [V, N, ...] of several."""
    return views[0] if len(views) == 1 else torch.stack(views)
