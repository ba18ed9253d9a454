"""Train one run on images: an expert on its part, a fusion on its experts, or a single network.

Shapes: N samples, B of a batch, K classes, E experts, V views. Images stay on the device as uint8
[N, 3, H, W] and are changed there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from regatta.config.expand import RunSpec
from regatta.config.fusion_recipes import lr_adaptation
from regatta.config.schema import TrainSection
from regatta.core.errors import ConfigError
from regatta.core.files import write_json
from regatta.core.seeds import derive_seed
from regatta.core.signals import StopFlag
from regatta.data.image_augment import build_image_augment
from regatta.data.image_store import ImageStore
from regatta.data.manifest import Manifest, Sample
from regatta.data.transforms import normalise
from regatta.data.window_loader import WindowLoader
from regatta.models.contracts import EncodesOnce, FitsDirectly, TakesExperts
from regatta.models.image.fusion import FusionModel
from regatta.models.spec import ModelSpec, resolve_model
from regatta.models.weights import load_checkpoint, read_state
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.training.distributed import Ranks
from regatta.training.fitted import FitSamples, fit_run
from regatta.training.loop import train_run
from regatta.worker.frozen_features import FrozenEncoder
from regatta.worker.image_parts import check_image_size, manifest_of_part
from regatta.worker.labels import training_counts
from regatta.worker.run_data import RunData
from regatta.worker.trained_model import check_model

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class ImageRun:
    """One run on images, and this process's part in it."""

    folder: StudyFolder
    run_spec: RunSpec
    run: RunFolder
    images: ImageStore
    manifest: Manifest
    """Its training part and its classes alone."""
    ranks: Ranks
    stop: StopFlag
    report: Callable[[dict[str, Any]], None]
    observe: Callable[[dict[str, Any]], None]

    def samples(self, split: str) -> list[Sample]:
        return self.manifest.split(split)

    def inputs(self, split: str) -> torch.Tensor:
        """uint8 [N, 3, H, W]."""
        return self.images.select(self.samples(split))

    @property
    def seed(self) -> int:
        """Experts of one study seed begin with different weights: else their data alone would
        make them differ."""
        entry, seed = self.run_spec.entry, self.run_spec.seed
        return derive_seed(seed, entry.part or "") if entry.role == "expert" else seed


def train_on_images(
    folder: StudyFolder,
    run_spec: RunSpec,
    run: RunFolder,
    data: RunData,
    *,
    ranks: Ranks,
    stop: StopFlag,
    report: Callable[[dict[str, Any]], None],
    observe: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Train the run to its end and return the content of training_results.json.

    Raises:
        ConfigError: the entry takes images of another size, or is no fusion but needs experts.
        WeightsError: an expert does not fit the fusion.
        RecordError: an expert's weights are missing.
    """
    assert data.images is not None
    manifest = manifest_of_part(data.manifest, data.images, run_spec.entry)
    own = ImageRun(folder, run_spec, run, data.images, manifest, ranks, stop, report, observe)
    module, spec = _first_model(own)
    if isinstance(module, FitsDirectly):
        return _fit(own, module, spec)
    train = run_spec.train
    if isinstance(module, FusionModel):
        train = _adapted(train, module, run_spec)
    if train.freeze_encoder and train.feature_cache and isinstance(module, EncodesOnce):
        return _train_on_features(own, module, spec, train)
    inputs = {split: own.inputs(split) for split in SPLITS}
    return _train(own, module, spec, train, inputs, augmented=train.augment != "none")


def _first_model(run: ImageRun) -> tuple[nn.Module, ModelSpec]:
    """The model with its first weights; of a fusion the experts' own, which were trained before."""
    entry, classes = run.run_spec.entry, run.manifest.classes
    spec = resolve_model(entry, len(classes), seed=run.seed)
    check_image_size(spec, run.images, where=f"entries.{entry.name}")
    spec = replace(spec, mean=run.images.mean, std=run.images.std)
    module = spec.build(len(classes))
    keys = load_checkpoint(module, spec, entry.checkpoint, classes=classes)
    if isinstance(module, TakesExperts):
        _take_experts(run, module)
    if run.ranks.is_first:
        print(f"{run.run_spec.label}: {keys}", flush=True)
        write_json(run.run.weights, keys.to_dict() | {"experts": list(run.run_spec.needs)})
    return module, spec


def _take_experts(run: ImageRun, module: TakesExperts) -> None:
    needs, experts = run.run_spec.needs, module.feature_channels
    if needs and len(needs) != len(experts):
        raise ConfigError(
            f"this entry joins {len(experts)} experts, but needs {len(needs)} entries",
            where=f"entries.{run.run_spec.entry.name}.needs",
            hint="name one trained entry per expert, in their order",
        )
    for k, needed in enumerate(needs):
        expert = run.folder.run(needed)
        check_model(expert)
        module.load_expert(k, read_state(expert.model), source=expert.model)


def _adapted(train: TrainSection, module: FusionModel, run_spec: RunSpec) -> TrainSection:
    """The recipe with the rates that suit the experts' feature dimension."""
    if not train.adapt_lr:
        return train
    fusion_type = str(run_spec.entry.options.get("type", ""))
    experts, fusion = lr_adaptation(fusion_type, module.head.dim)
    factors = dict(train.lr_factors)
    factors["experts."] = factors.get("experts.", 1.0) * experts / fusion
    print(
        f"feature dimension {module.head.dim}: rates of experts x {experts:g}, of fusion and "
        f"head x {fusion:g}",
        flush=True,
    )
    return train.model_copy(update={"lr": train.lr * fusion, "lr_factors": factors})


def _fit(run: ImageRun, module: FitsDirectly, spec: ModelSpec) -> dict[str, Any]:
    assert isinstance(module, nn.Module)

    def samples(split: str) -> FitSamples:
        found = run.samples(split)
        shown = normalise(run.images.select(found), spec.mean, spec.std)
        return FitSamples(shown, [s.label for s in found], [s.sample_id for s in found])

    return fit_run(
        module=module,
        spec=spec,
        train=run.run_spec.train,
        folder=run.run,
        seed=run.seed,
        classes=run.manifest.classes,
        stop=run.stop,
        report=run.report,
        ranks=run.ranks,
        observe=run.observe,
        training=samples("train"),
        validation=samples("validation"),
    )


def _train_on_features(
    run: ImageRun, module: EncodesOnce, spec: ModelSpec, train: TrainSection
) -> dict[str, Any]:
    """Encode each image once per expert and train the fusion alone on the vectors."""
    encoder = FrozenEncoder(module, run.run_spec, run.ranks.device, run.report, run.stop)
    shown = {split: normalise(run.inputs(split), spec.mean, spec.std) for split in SPLITS}
    parts = [encoder.part(shown[split], run.samples(split), 0) for split in SPLITS]
    cached = encoder.features(run.folder.features, parts, run.ranks)
    if run.ranks.is_first:
        print(encoder.summary(views=1), flush=True)
    assert isinstance(module, nn.Module)
    return _train(
        run,
        module.head,
        spec,
        train,
        dict(zip(SPLITS, cached.features, strict=True)),
        augmented=False,
        whole=module,
        seconds_before=cached.seconds,
    )


def _train(
    run: ImageRun,
    module: nn.Module,
    spec: ModelSpec,
    train: TrainSection,
    inputs: dict[str, torch.Tensor],
    *,
    augmented: bool,
    whole: nn.Module | None = None,
    seconds_before: float = 0.0,
) -> dict[str, Any]:
    def loader(split: str, **options: Any) -> WindowLoader:
        samples = run.samples(split)
        return WindowLoader(
            inputs[split],
            [sample.label for sample in samples],
            [sample.sample_id for sample in samples],
            batch_size=train.batch_size,
            seed=run.seed,
            device=run.ranks.device,
            rank=run.ranks.rank,
            world=run.ranks.world,
            **options,
        )

    augment = build_image_augment(train.augment_options, mean=spec.mean) if augmented else None
    return train_run(
        module=module,
        whole=whole,
        spec=spec,
        train=train,
        train_loader=loader("train", augment=augment),
        validation=loader("validation"),
        folder=run.run,
        device=run.ranks.device,
        seed=run.seed,
        classes=run.manifest.classes,
        stop=run.stop,
        report=run.report,
        ranks=run.ranks,
        observe=run.observe,
        class_counts=training_counts(run.manifest),
        seconds_before=seconds_before,
    )
