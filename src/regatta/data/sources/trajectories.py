"""Generated source `trajectories`: an object on one of four kinds of track, seen by a ring of
cameras, with the exact track and where the object goes next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from regatta.core.registry import SOURCES
from regatta.data.scenes.files import SceneFolder
from regatta.data.scenes.listing import FEWEST_PER_CLASS, SceneListing, streamed
from regatta.data.scenes.settings import (
    MOST_CAMERAS,
    MOST_DISTRACTORS,
    Axis,
    Colour,
    DiscSize,
    Ground,
    SceneSettings,
)
from regatta.data.scenes.stored_names import Codec, Layout, Storage
from regatta.data.sources import only_split_one


@SOURCES.register("trajectories", kind="scene", generates=True)
def trajectories(
    root: Path,
    *,
    split: int = 1,
    seed: int = 0,
    per_class: Annotated[int, Field(ge=FEWEST_PER_CLASS, le=100_000)] = 2500,
    cameras: Annotated[int, Field(le=MOST_CAMERAS)] = 4,
    frames: Annotated[int, Field(le=512)] = 32,
    size: Annotated[int, Field(ge=16, le=512)] = 64,
    axis: Axis = "any",
    disc: DiscSize = "depth",
    trail: Annotated[int, Field(ge=0)] = 0,
    ground: Ground = "white",
    colour: Colour = "red",
    distractors: Annotated[int, Field(ge=0, le=MOST_DISTRACTORS)] = 0,
    occluder: bool = False,
    position_noise: Annotated[float, Field(ge=0, le=1)] = 0.0,
    codec: Codec = "ffv1",
    crf: Annotated[int, Field(ge=0, le=51)] = 18,
    layout: Layout = "views",
    stream: bool = False,
    generator_seed: Annotated[int | None, Field(ge=0)] = None,
) -> SceneListing | SceneFolder:
    """Generated scenes: linear, circular, helical and parabolic motion from several cameras.

    Its folder holds `videos`, `labels`, `manifest.parquet`, `splits.csv` and `dataset.json`, made
    once; with `stream` there are no files, and the same pictures are made when they are asked for.
    Scene i follows from the seed and i, whatever else is made.

    Args:
        seed: draws the splits, and the scenes unless `generator_seed` is given.
        crf: quality of h264, 0 best; ffv1 loses nothing.
    Raises:
        ConfigError: values that no scene can have.
    """
    only_split_one(split, "trajectories")
    settings = SceneSettings(
        per_class=per_class,
        cameras=cameras,
        frames=frames,
        size=size,
        seed=seed if generator_seed is None else generator_seed,
        axis=axis,
        disc=disc,
        trail=trail,
        ground=ground,
        colour=colour,
        distractors=distractors,
        occluder=occluder,
        position_noise=position_noise,
    )
    if stream:
        return streamed(root, settings, seed)
    return SceneFolder(root, settings, Storage(codec, crf, layout), seed)
