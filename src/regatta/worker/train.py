"""Train one run: manifest, loader, model with its weights, and the training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from regatta.config.expand import RunSpec
from regatta.config.schema import Study
from regatta.core.errors import RunError
from regatta.core.files import read_json, write_json
from regatta.core.signals import StopFlag
from regatta.data.clip_recipe import ClipRecipe
from regatta.data.loader import ClipLoader
from regatta.data.manifest import Manifest
from regatta.data.shared_clips import STAGES, Sharing, Stage
from regatta.models.spec import resolve_model
from regatta.models.weights import load_checkpoint
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.training.distributed import Ranks, process_group, tell_nobody
from regatta.training.loop import train_run
from regatta.worker.labels import training_counts, with_label_share
from regatta.worker.pinned_weights import pinned
from regatta.worker.run_data import RunData, find_runs, load_run_data
from regatta.worker.sharing import clip_recipes, open_sharing
from regatta.worker.status_writer import StatusWriter
from regatta.worker.trackers import open_trackers
from regatta.worker.train_images import train_on_images
from regatta.worker.train_scenes import train_on_scenes
from regatta.worker.train_windows import WindowRun, train_on_windows


def train(
    folder: StudyFolder,
    run_id: str,
    *,
    device: torch.device,
    stop: StopFlag,
    status: StatusWriter,
    tell_failure: Callable[[dict[str, Any]], object] = tell_nobody,
) -> None:
    """Train the run to its end, from its last checkpoint where there is one.

    Args:
        tell_failure: takes the keys of a failed status of a rank that hangs.

    Raises:
        RegattaError: by kind; StopRequested after everything was saved.
    """
    ((run_spec, run),) = find_runs(folder, [run_id])
    data = load_run_data(folder, run_spec)
    _check_same_data(run, data.manifest)
    with (
        process_group(run_spec.train.parallel, device, tell_failure=tell_failure) as ranks,
        open_trackers(folder, run_spec, run, speaks=ranks.is_first) as observe,
    ):
        results = _train(folder, run_spec, run, data, ranks, stop, status, observe)
    status.end(
        state="queued",
        phase="judge",
        step=results["steps"],
        total_steps=results["steps"],
        metric=results["best_val_accuracy"],
    )


def _train(
    folder: StudyFolder,
    run_spec: RunSpec,
    run: RunFolder,
    data: RunData,
    ranks: Ranks,
    stop: StopFlag,
    status: StatusWriter,
    observe: Callable[[dict[str, Any]], None],
) -> dict:
    run_spec = replace(run_spec, entry=pinned(folder, run_spec.entry))
    entry, study = run_spec.entry, folder.study()
    seed, writes = study.data.split_seed, ranks.is_first
    data = replace(
        data,
        manifest=with_label_share(data.manifest, run_spec, run, seed=seed, writes=writes),
    )
    common: dict[str, Any] = {
        "ranks": ranks,
        "stop": stop,
        "report": status.update,
        "observe": observe,
    }
    if data.images is not None:
        return train_on_images(folder, run_spec, run, data, **common)
    if data.scenes is not None:
        return train_on_scenes(run_spec, run, data, **common)
    manifest = data.manifest
    model_spec = resolve_model(entry, len(manifest.classes), seed=run_spec.seed, window=data.window)
    module = model_spec.build(len(manifest.classes))
    keys = load_checkpoint(module, model_spec, entry.checkpoint, classes=manifest.classes)
    if ranks.is_first:
        print(f"{run_spec.label}: {keys}", flush=True)
        write_json(run.weights, keys.to_dict())
    if data.store is not None:
        return train_on_windows(
            WindowRun(
                folder=folder,
                run_spec=run_spec,
                run=run,
                data=data,
                store=data.store,
                module=module,
                spec=model_spec,
                **common,
            )
        )
    recipes = clip_recipes(run_spec, model_spec)
    with open_sharing(folder, study, run_spec, run, recipes, manifest, ranks) as sharing:
        loaders = [
            _loader(stage, study, run_spec, recipe, manifest, ranks, sharing)
            for stage, recipe in recipes.items()
        ]
        return train_run(
            module=module,
            spec=model_spec,
            train=run_spec.train,
            train_loader=loaders[0],
            validation=loaders[1],
            folder=run,
            device=ranks.device,
            seed=run_spec.seed,
            classes=manifest.classes,
            class_counts=training_counts(manifest),
            **common,
        )


def _loader(
    stage: Stage,
    study: Study,
    run_spec: RunSpec,
    recipe: ClipRecipe,
    manifest: Manifest,
    ranks: Ranks,
    sharing: Sharing | None,
) -> ClipLoader:
    train, samples = run_spec.train, manifest.split(stage)
    # Both loaders live at once: they share the limit by their number of samples.
    beside = sum(sample.split in STAGES for sample in manifest.samples)
    return ClipLoader(
        samples,
        recipe=recipe,
        batch_size=train.batch_size,
        seed=run_spec.seed,
        rank=ranks.rank,
        world=ranks.world,
        threads=train.loader_threads,
        cache_bytes=int(train.frame_cache_gib * 2**30 * len(samples) / max(1, beside)),
        decoder=study.data.decoder,
        sharing=sharing,
        stage=stage,
    )


def _check_same_data(run: RunFolder, manifest: Manifest) -> None:
    """Refuse to go on with a run on other data than it began with: its result would be neither."""
    record, found = run.inputs, manifest.hash()
    if not record.is_file():
        write_json(record, {"manifest_hash": found})
        return
    if read_json(record)["manifest_hash"] != found:
        raise RunError(
            "the data changed since this run began",
            where=run.path,
            hint=f"bring the old files back, or train anew: regatta run ... --restart {run.run_id}",
        )
