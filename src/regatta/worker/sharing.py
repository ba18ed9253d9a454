"""A run's way into the group of those that train beside it on the same samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from regatta.config.expand import RunSpec
from regatta.config.schema import Study
from regatta.data.clip_recipe import ClipRecipe
from regatta.data.manifest import Manifest
from regatta.data.shared_clips import Sharing, Stage, member_facts
from regatta.data.temporal_augment import TemporalAugment
from regatta.models.spec import ModelSpec
from regatta.records.clip_pool import Key, choose_root, join_pool
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.training.distributed import Ranks


def clip_recipes(run_spec: RunSpec, model_spec: ModelSpec) -> dict[Stage, ClipRecipe]:
    """Clips by stage: augmented ones for training, the fixed ones that validation scores."""
    recipe = run_spec.train
    temporal = TemporalAugment(
        recipe.temporal_probability,
        tuple(recipe.temporal_coverage),
        tuple(recipe.temporal_stride),
        recipe.temporal_box_probability,
    )
    frames, size, resize = model_spec.frames, model_spec.image_size, model_spec.resize
    return {
        "train": ClipRecipe(
            frames,
            size,
            resize,
            "none" if recipe.augment == "none" else "standard",
            recipe.flip,
            recipe.crop_scale_min,
            temporal if recipe.temporal_probability else None,
        ),
        "validation": ClipRecipe(frames, size, resize, augment="none"),
    }


@contextmanager
def open_sharing(
    folder: StudyFolder,
    study: Study,
    run_spec: RunSpec,
    run: RunFolder,
    recipes: dict[Stage, ClipRecipe],
    manifest: Manifest,
    ranks: Ranks,
) -> Iterator[Sharing | None]:
    """Share clips with the runs of this seed for the length of the block; None = work alone."""
    if not study.launch.share or len(study.trained_entries) < 2:
        yield None
        return
    limit_bytes = int(study.launch.share_gib * 2**30)
    root = choose_root(folder.path, limit_bytes=limit_bytes)
    # Runs with other data, another order or another decoder meet other clips.
    group = f"s{run_spec.seed}-{manifest.hash()[:16]}-{study.data.decoder}"
    with join_pool(
        root,
        group,
        run.run_id,
        member_facts(recipes, epochs=run_spec.train.epochs),
        rank=ranks.rank,
        world=ranks.world,
        limit_bytes=limit_bytes,
        processes=len(study.trained_entries) * max(ranks.world, round(study.launch.devices)),
    ) as membership:
        if membership is None:
            print(f"clips are not shared: {root} cannot be used", flush=True)
            yield None
            return
        if not run.checkpoints.is_dir():
            # It begins at the beginning: what is made while the model loads is made for it too.
            membership.tell(Key(0, 0, 0))
        sharing = Sharing(membership)
        yield sharing
        made, received = sharing.counts["made"], sharing.counts["received"]
        print(f"clips: {made} made here, {received} received through {root}", flush=True)
