"""Train one run on scenes: the class of a motion and the place where it leads.

Shapes: N scenes, P targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from regatta.config.expand import RunSpec
from regatta.config.schema import TrainSection
from regatta.core.errors import ConfigError
from regatta.core.files import write_json
from regatta.core.signals import StopFlag
from regatta.data.scene_loader import SceneAugment, SceneLoader, build_scene_augment, scene_targets
from regatta.data.scene_store import SceneStore
from regatta.models.contracts import HasPositions
from regatta.models.spec import ModelSpec, resolve_model
from regatta.models.weights import load_checkpoint
from regatta.records.run_folder import RunFolder
from regatta.training.distributed import Ranks
from regatta.training.loop import train_run
from regatta.worker.labels import training_counts
from regatta.worker.run_data import RunData


def train_on_scenes(
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
        ConfigError: the entry takes scenes of another shape, or says no places.
        DataError: a target is not known of this data.
    """
    assert data.scenes is not None
    store, manifest, train = data.scenes, data.manifest, run_spec.train
    module, spec = _first_model(run_spec, run, data, ranks)
    assert isinstance(module, HasPositions)
    names = module.position_names
    module.fit_targets(scene_targets(store, manifest.split("train"), names))

    def loader(split: str, **options: Any) -> SceneLoader:
        return SceneLoader(
            store,
            manifest.split(split),
            views=spec.views,
            targets=names,
            batch_size=train.batch_size,
            seed=run_spec.seed,
            rank=ranks.rank,
            world=ranks.world,
            threads=train.loader_threads,
            **options,
        )

    return train_run(
        module=module,
        spec=spec,
        train=train,
        train_loader=loader("train", augment=scene_augment(train), fresh=train.fresh_samples),
        validation=loader("validation"),
        folder=run,
        device=ranks.device,
        seed=run_spec.seed,
        classes=manifest.classes,
        stop=stop,
        report=report,
        ranks=ranks,
        observe=observe,
        class_counts=training_counts(manifest),
    )


def scene_augment(train: TrainSection) -> SceneAugment | None:
    """The changes of light of a recipe; ConfigError for options that scenes do not have."""
    return build_scene_augment(train.augment_options) if train.augment != "none" else None


def _first_model(
    run_spec: RunSpec, run: RunFolder, data: RunData, ranks: Ranks
) -> tuple[nn.Module, ModelSpec]:
    entry, classes = run_spec.entry, data.manifest.classes
    assert data.scenes is not None
    spec = resolve_model(entry, len(classes), seed=run_spec.seed)
    check_scene_shape(spec, data.scenes, where=f"entries.{entry.name}")
    module = spec.build(len(classes))
    keys = load_checkpoint(module, spec, entry.checkpoint, classes=classes)
    if ranks.is_first:
        print(f"{run_spec.label}: {keys}", flush=True)
        write_json(run.weights, keys.to_dict())
    return module, spec


def check_scene_shape(spec: ModelSpec, store: SceneStore, *, where: object) -> None:
    """ConfigError when a model takes other frames, pictures or cameras than the data has."""
    settings = store.settings
    if spec.kind != "scene":
        raise ConfigError(
            f"{spec.name} takes no scenes of several cameras",
            where=where,
            hint="use the model trajectory; its extractors: regatta ls extractors",
        )
    for name, wanted, found in (
        ("frames", spec.frames, settings.frames),
        ("image_size", spec.image_size, settings.size),
    ):
        if wanted != found:
            raise ConfigError(
                f"{spec.name} takes {name} {wanted}, the data has {found}",
                where=f"{where}.options.{name}",
                hint=f"set it to {found}",
            )
    missing = [view for view in spec.views if view >= settings.cameras]
    if missing:
        raise ConfigError(
            f"{spec.name} looks through camera {missing[0]}, the data has cameras 0 to "
            f"{settings.cameras - 1}",
            where=f"{where}.options.views",
            hint="name fewer views, or make the data with more cameras",
        )
