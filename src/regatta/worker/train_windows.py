"""Train one run on windows of signals: statistics, label fraction, frozen features, loaders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from regatta.config.expand import RunSpec
from regatta.data.manifest import Sample
from regatta.data.window_augment import build_augment
from regatta.data.window_loader import WindowLoader
from regatta.data.windows import WindowStore
from regatta.models.contracts import FitsStatistics
from regatta.models.spec import ModelSpec
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.training.distributed import Ranks
from regatta.worker.run_data import RunData


def train_on_windows(
    folder: StudyFolder,  # noqa: ARG001
    run_spec: RunSpec,
    run: RunFolder,  # noqa: ARG001
    data: RunData,
    store: WindowStore,
    module: nn.Module,
    spec: ModelSpec,  # noqa: ARG001
    training: Callable[..., dict[str, Any]],
    ranks: Ranks,
) -> dict[str, Any]:
    """Train `module` and return the content of training_results.json.

    Args:
        training: `training.loop.train_run` with everything but module and loaders.
    """
    train = run_spec.train
    samples = {split: data.manifest.split(split) for split in ("train", "validation")}
    signals = {split: store.select(chosen) for split, chosen in samples.items()}
    if isinstance(module, FitsStatistics):
        module.fit_statistics(signals["train"])
    augment = None
    if train.augment == "standard":
        augment = build_augment(train.augment_options, signals["train"], store.triples)

    def loader(split: str, **options: Any) -> WindowLoader:
        chosen: list[Sample] = samples[split]
        return WindowLoader(
            signals[split],
            [sample.label for sample in chosen],
            [sample.sample_id for sample in chosen],
            batch_size=train.batch_size,
            seed=run_spec.seed,
            device=ranks.device,
            rank=ranks.rank,
            world=ranks.world,
            **options,
        )

    return training(
        module=module,
        train_loader=loader("train", augment=augment),
        validation=loader("validation"),
    )
