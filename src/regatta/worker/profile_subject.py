"""What the profiler measures of one entry: its model as a run would begin it, and its loader.

Shapes: N samples, C channels, L samples of a window, P channels that are encoded, d features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from regatta.config.expand import RunSpec
from regatta.config.schema import Study
from regatta.core.errors import RegattaError
from regatta.core.seeds import derive_seed
from regatta.data.image_augment import build_image_augment
from regatta.data.image_store import ImageStore
from regatta.data.loader import ClipLoader
from regatta.data.manifest import Sample
from regatta.data.scene_loader import SceneLoader
from regatta.data.scene_store import SceneStore
from regatta.data.window_loader import WindowLoader
from regatta.data.window_margins import augmented_inputs
from regatta.models.contracts import EncodesOnce, FitsDirectly, FitsStatistics, HasPositions
from regatta.models.parameters import freeze_encoder
from regatta.models.spec import count_flops, count_parameters, resolve_model
from regatta.models.weights import load_checkpoint
from regatta.records.profile_table import ProfileRow
from regatta.records.run_folder import StudyFolder
from regatta.training.batches import BatchSource
from regatta.training.precision import choose_precision
from regatta.training.profile import Pace, Subject, Unit, measure, published_peak, time_loader
from regatta.worker.run_data import RunData, load_run_data
from regatta.worker.sharing import clip_recipes
from regatta.worker.train_scenes import scene_augment
from regatta.worker.window_inputs import read_inputs

FEED_SAMPLES = 256
"""Training samples that batches are filled with, again and again when a batch is larger."""
ENCODED_SAMPLES = 2
"""Samples whose features feed the head: its cost does not depend on their values."""
LOADED_FEATURES = 4096
PRECISIONS = ("fp32", "bf16", "fp16")


class EncodeOnce(nn.Module):
    """The pass that a frozen encoder makes once per sample: signals [B, C, L] -> [B, P, ...]."""

    def __init__(self, whole: EncodesOnce) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, signals_BCL: torch.Tensor) -> torch.Tensor:
        channels = self.whole.feature_channels
        return torch.stack([self.whole.encode_channel(signals_BCL, c) for c in channels], dim=1)


@dataclass
class EntryProfile:
    """One entry on one device; everything heavy is made when it is first asked for."""

    folder: StudyFolder
    study: Study
    run_spec: RunSpec
    device: torch.device

    def facts(self) -> dict[str, Any]:
        """What the plan of the measurements needs, and what the record keeps; JSON."""
        whole = self.whole
        return {
            "model": self.run_spec.entry.model,
            "parameters": count_parameters(whole.module),
            "flops_per_window": whole.flops,
            "input_shape": list(whole.spec.input_shape),
            "batch_size": self.run_spec.train.batch_size,
            "precision": choose_precision(self.run_spec.train.precision, self.device).name,
            "precisions": [name for name in PRECISIONS if self._has(name)],
            "stages": list(self._stages()),
            "has_published_peak": published_peak(self.device) is not None,
        }

    def measure(self, unit: Unit, *, pace: Pace, memory_limit: int | None) -> ProfileRow:
        """One row; RegattaError as in `training.profile.measure`."""
        if unit.stage == "load":
            return time_loader(
                self._loader(),
                entry=self.run_spec.entry.name,
                batch=unit.batch,
                device=self.device,
                pace=pace,
            )
        subject = self.whole
        if self._trains_on_features and unit.stage != "forward":
            subject = self._encoding if unit.stage == "encode" else self._head
        return measure(subject, unit, pace=pace, memory_limit=memory_limit)

    def check_precision(self, name: str) -> None:
        """ConfigError or DeviceError when the device lacks this number format."""
        choose_precision(name, self.device)

    def _has(self, precision: str) -> bool:
        try:
            self.check_precision(precision)
        except RegattaError:
            return False
        return True

    def _stages(self) -> tuple[str, ...]:
        if isinstance(self.whole.module, FitsDirectly):
            return ("forward",)
        trained = ("load", "forward", "backward", "step", "sweep")
        return ("encode", *trained) if self._trains_on_features else trained

    @cached_property
    def _data(self) -> RunData:
        return load_run_data(self.folder, self.run_spec)

    @cached_property
    def _samples(self) -> list[Sample]:
        return self._data.manifest.split("train")

    @cached_property
    def whole(self) -> Subject:
        """The model with its first weights, fed with training windows or noise of clip shape."""
        manifest, entry = self._data.manifest, self.run_spec.entry
        count = len(manifest.classes)
        spec = resolve_model(entry, count, seed=self.run_spec.seed, window=self._data.window)
        module = spec.build(count)
        load_checkpoint(module, spec, entry.checkpoint, classes=manifest.classes)
        is_fitted = isinstance(module, FitsDirectly)
        if self.run_spec.train.freeze_encoder and not is_fitted:
            freeze_encoder(module, spec)
        if self.run_spec.train.augment == "reference" and hasattr(module, "picture_augment"):
            setattr(module, "picture_augment", True)  # noqa: B010 - nn.Module has no such field
        flops = count_flops(module, spec)
        store = self._data.store
        if store is not None and isinstance(module, FitsStatistics):
            module.fit_statistics(store.select(self._samples))
        feed = self._samples[:FEED_SAMPLES]
        if store is None:
            inputs = _noise(spec.input_shape)
        else:
            inputs = read_inputs(store, spec, feed, where=f"entries.{entry.name}")
        feed = feed[: len(inputs)]
        labels = torch.tensor([sample.label for sample in feed], dtype=torch.int64)
        train = self.run_spec.train.model_copy(update={"parallel": "none"})
        return Subject(
            entry.name,
            module,
            spec,
            train,
            self.device,
            inputs[: len(feed)],
            labels,
            flops,
            has_scores=not is_fitted,
            targets=any_targets(module, len(feed)),
        )

    @property
    def _trains_on_features(self) -> bool:
        train = self.run_spec.train
        return (
            train.freeze_encoder
            and train.feature_cache
            and isinstance(self.whole.module, EncodesOnce)
        )

    @cached_property
    def _encoding(self) -> Subject:
        assert isinstance(self.whole.module, EncodesOnce)
        return replace(self.whole, module=EncodeOnce(self.whole.module))

    @cached_property
    def _head(self) -> Subject:
        """The head on cached features: what an epoch trains when the encoder is frozen."""
        module = self.whole.module
        assert isinstance(module, EncodesOnce)
        few = self.whole.inputs[:ENCODED_SAMPLES].to(self.device)
        with torch.no_grad():
            features = self._encoding.module.to(self.device).eval()(few).float().cpu()
        labels = self.whole.labels[: len(features)]
        return replace(
            self.whole,
            module=module.head,
            inputs=features,
            labels=labels,
            flops=None,
            whole=self.whole.module,
        )

    def _loader(self) -> BatchSource:
        data: RunData = self._data
        if data.scenes is not None:
            return self._scene_loader(data.scenes)
        if data.images is not None:
            return self._image_loader(data.images)
        store = data.store
        if store is None:
            return self._clip_loader()
        train, samples = self.run_spec.train, self._samples
        inputs, augment = store.select(samples), None
        if self._trains_on_features:
            samples = samples[:LOADED_FEATURES]
            inputs = self._head.inputs[torch.arange(len(samples)) % len(self._head.inputs)]
        elif train.augment == "standard":
            inputs, augment = augmented_inputs(train.augment_options, store, samples)
        return WindowLoader(
            inputs,
            [sample.label for sample in samples],
            [sample.sample_id for sample in samples],
            batch_size=train.batch_size,
            seed=self.run_spec.seed,
            device=self.device,
            augment=augment,
        )

    def _scene_loader(self, scenes: SceneStore) -> SceneLoader:
        module, train = self.whole.module, self.run_spec.train
        assert isinstance(module, HasPositions)
        return SceneLoader(
            scenes,
            self._samples,
            views=self.whole.spec.views,
            targets=module.position_names,
            batch_size=train.batch_size,
            seed=self.run_spec.seed,
            threads=train.loader_threads,
            augment=scene_augment(train),
        )

    def _image_loader(self, images: ImageStore) -> WindowLoader:
        train, samples = self.run_spec.train, self._samples
        changes = train.augment != "none"
        return WindowLoader(
            images.select(samples),
            [sample.label for sample in samples],
            [sample.sample_id for sample in samples],
            batch_size=train.batch_size,
            seed=self.run_spec.seed,
            device=self.device,
            augment=build_image_augment(train.augment_options, mean=images.mean)
            if changes
            else None,
        )

    def _clip_loader(self) -> ClipLoader:
        train = self.run_spec.train
        return ClipLoader(
            self._samples,
            recipe=clip_recipes(self.run_spec, self.whole.spec)["train"],
            batch_size=train.batch_size,
            seed=self.run_spec.seed,
            threads=train.loader_threads,
            cache_bytes=int(train.frame_cache_gib * 2**30),
            decoder=self.study.data.decoder,
        )


def any_targets(module: nn.Module, count: int) -> torch.Tensor | None:
    """Places [N, P, 3] for a model that says some: which they are changes no cost."""
    if not isinstance(module, HasPositions):
        return None
    return torch.zeros(count, len(module.position_names), 3)


def _noise(shape: tuple[int, ...]) -> torch.Tensor:
    """uint8 clips [2, T, 3, S, S]: what they show changes no cost."""
    generator = torch.Generator().manual_seed(derive_seed(0, "profile"))
    return torch.randint(0, 256, (2, *shape), dtype=torch.uint8, generator=generator)
