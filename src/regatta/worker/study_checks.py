"""What would end a study late, found early: before the scan, and before the first training."""

from __future__ import annotations

from regatta.config.load import entry_train
from regatta.config.picture_recipe import has_encoder
from regatta.config.schema import Study
from regatta.core.errors import ConfigError, DataError
from regatta.core.files import read_json
from regatta.data.image_augment import build_image_augment
from regatta.data.image_store import ImageStore
from regatta.data.manifest import Manifest
from regatta.data.scene_store import SceneStore
from regatta.evaluation.scene_protocols import resolve_scene_protocol
from regatta.models.hub import HUB_ID, checkpoint_folder
from regatta.models.spec import check_default_checkpoint, make_spec, starts_at_random
from regatta.records.run_folder import StudyFolder
from regatta.training.recipe import check_recipe
from regatta.worker.image_parts import check_image_size, check_part
from regatta.worker.train_scenes import check_scene_shape, scene_augment


def check_entries(study: Study, *, window: tuple[int, int] | None = None) -> dict[str, int]:
    """Entry -> frames of its clips; every option and checkpoint name is checked on the way.

    A hub id is not asked for here: that may take a network, and its run says so.

    Args:
        window: (channels, samples) of the data, once it is known.
    Raises:
        ConfigError: a wrong option, no published checkpoint for this size, or settings of the
            recipe that cannot go together.
        WeightsError: a checkpoint that is neither a folder nor a hub id.
    """
    frames = {}
    for entry in study.trained_entries:
        where = f"entries.{entry.name}"
        spec = make_spec(entry.model, entry.size, entry.options, window=window, where=where)
        if starts_at_random(spec, entry.checkpoint):
            pass
        elif entry.checkpoint == "default":
            check_default_checkpoint(spec, where=where)
        elif not HUB_ID.fullmatch(entry.checkpoint):
            checkpoint_folder(entry.checkpoint)
        train = entry_train(study, entry)
        on_features = train.freeze_encoder and train.feature_cache and has_encoder(entry)
        check_recipe(train, spec, on_features=on_features)
        frames[entry.name] = spec.frames
    return frames


def check_image_entries(study: Study, images: ImageStore, manifest: Manifest) -> None:
    """ConfigError when an entry takes images of another size or a part that is not there, changes
    them in unknown ways, or experts of a class-split partition count other classes."""
    for entry in study.trained_entries:
        where = f"entries.{entry.name}"
        spec = make_spec(entry.model, entry.size, entry.options, where=where)
        check_image_size(spec, images, where=where)
        check_part(images, entry)
        train = entry_train(study, entry)
        if train.augment != "none":
            build_image_augment(train.augment_options)
    classes = study.fusion.classes if study.fusion else None
    if study.partition and study.partition.kind == "noniid" and classes != len(manifest.classes):
        raise ConfigError(
            f"the data have {len(manifest.classes)} classes, fusion.classes says {classes}",
            where="fusion.classes",
            hint=f"set fusion.classes: {len(manifest.classes)}",
        )


def scene_views(study: Study) -> tuple[int, ...]:
    """Cameras that any entry looks through, ascending."""
    specs = [make_spec(e.model, e.size, e.options) for e in study.trained_entries]
    return tuple(sorted({view for spec in specs for view in spec.views}))


def check_scene_settings(study: Study) -> None:
    """ConfigError, before any picture is made, for a recipe that scenes cannot obey."""
    for entry in study.trained_entries:
        train = entry_train(study, entry)
        scene_augment(train)
        if train.fresh_samples and not study.data.options.get("stream"):
            raise ConfigError(
                "new scenes can only be drawn from a seed, but these come from files",
                where="train.fresh_samples",
                hint="set data.options.stream: true, or leave fresh_samples out",
            )
    resolve_scene_protocol(study.protocol)


def check_scene_entries(study: Study, store: SceneStore) -> None:
    """ConfigError when an entry takes scenes of another shape or from cameras that are not there;
    DataError when it is to learn places that the data does not know."""
    for entry in study.trained_entries:
        where = f"entries.{entry.name}"
        spec = make_spec(entry.model, entry.size, entry.options, where=where)
        check_scene_shape(spec, store, where=where)
        for name in spec.config["options"].get("targets", []):
            store.targets(store.rows([])[:0], name)


def check_begun_runs(folder: StudyFolder, manifest: Manifest) -> None:
    """DataError when runs of this study began on other data: one table cannot hold both.

    So it is when files were changed, or when `data.short: drop` meets an entry with longer clips.
    """
    found = manifest.hash()
    records = {spec.run_id: run.inputs for spec, run in folder.runs() if run.inputs.is_file()}
    stale = [name for name, path in records.items() if read_json(path)["manifest_hash"] != found]
    if stale:
        raise DataError(
            f"{len(stale)} run(s) of this study began on other data: {', '.join(stale)}",
            where=folder.path,
            hint="bring the old data back, give the study another name, or train them anew: "
            + " ".join(f"--restart {name}" for name in stale),
        )


def check_splits(study: Study, manifest: Manifest) -> None:
    """DataError when a split that the study needs is empty, or a class is left without training."""
    if not manifest.folds:
        _check_one_split(study, manifest, "")
    for fold in range(manifest.folds):
        _check_one_split(study, manifest.of_fold(fold), f" of fold {fold}")


def _check_one_split(study: Study, manifest: Manifest, place: str) -> None:
    trained = {sample.label_name for sample in manifest.split("train")}
    untrained = sorted(set(manifest.classes) - trained)
    if untrained:
        raise DataError(
            f"{len(untrained)} class(es) have no training sample left{place}: "
            f"{', '.join(untrained[:10])}",
            where="data.short" if study.data.short == "drop" else None,
            hint="add training samples of these classes, or set data.short: pad",
        )
    for split in dict.fromkeys(("validation", study.protocol.split)):
        if not manifest.split(split):
            raise DataError(
                f"the {split} split{place} has no sample",
                where=study.data.root,
                hint="give the data set a test split, or judge with protocol.split: validation"
                if split == "test"
                else "add samples to it, or set data.short: pad",
            )
