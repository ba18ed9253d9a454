"""A small R3D in training, alone or on two ranks; each rank writes what it saw.

torchrun --nproc_per_node=2 -m tests.training.batch_norm_ranks FOLDER
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from regatta.config.schema import EntrySection
from regatta.core.errors import StopRequested
from regatta.core.seeds import stream
from regatta.models.spec import ModelSpec, resolve_model
from regatta.training.distributed import ONE_PROCESS, Ranks, process_group
from regatta.training.loop import train_run
from tests.training.tiny_training import CLASSES, TinyClips, tiny_run

Watch = Callable[[int, int], None]
CLIPS = 17
"""In global batches of 8 the last one has a single clip: rank 1 gets none."""


def small_spec(model: str = "r3d18", **options: Any) -> ModelSpec:
    """A tiny network on clips of 2 frames of 32 px."""
    options = {"frames": 2, "image_size": 32, "dropout": 0.0, **options}
    entry = EntrySection(name=model, model=model, size="tiny", checkpoint="none", options=options)
    return resolve_model(entry, len(CLASSES), seed=3)


def colour_clips(count: int, *, seed: int = 0, frames: int = 2, **options: Any) -> TinyClips:
    """Noise in which the colour of a clip's class is brighter."""
    rng = stream(seed, "colours")
    labels = torch.arange(count) % len(CLASSES)
    videos = 100 + 40 * torch.from_numpy(rng.standard_normal((count, frames, 3, 32, 32)))
    for row, label in enumerate(labels.tolist()):
        videos[row, :, label] += 40
    return TinyClips(videos.clamp(0, 255).to(torch.uint8), labels, **options)


def norm_run(
    path: Path,
    *,
    model: str = "r3d18",
    ranks: Ranks = ONE_PROCESS,
    watch: Watch | None = None,
    **recipe: Any,
) -> dict[str, Any]:
    """Arguments of `train_run`: 17 clips in global micro-batches of 8, each rank a share."""
    spec = small_spec(model, **recipe.pop("options", {}))
    batch_size = 8 // ranks.world
    share = {"rank": ranks.rank, "world": ranks.world, "frames": spec.frames}
    recipe = {"epochs": 2, "batch_size": batch_size, "lr": 1e-3, **recipe}
    return {
        **tiny_run(path, **recipe),
        "spec": spec,
        "module": spec.build(len(CLASSES)),
        "train_loader": colour_clips(CLIPS, batch_size=batch_size, before_batch=watch, **share),
        "validation": colour_clips(7, seed=1, batch_size=2, **share),
        "ranks": ranks,
    }


def stopped_run(path: Path, place: tuple[int, int], **options: Any) -> dict[str, Any]:
    """A run that is asked to stop at (epoch, position)."""

    def ask(epoch: int, position: int) -> None:
        if (epoch, position) == place:
            run["stop"].request("SIGTERM")

    run = norm_run(path, watch=ask, **options)
    return run


def main(root: Path) -> None:
    torch.set_num_threads(1)
    with process_group("ddp", torch.device("cpu"), timeout_seconds=60) as ranks:
        still = norm_run(root / "still", ranks=ranks, epochs=1, lr=1e-30, weight_decay=0.0)
        train_run(**still)
        buffers = {name: b.clone() for name, b in still["module"].named_buffers()}
        save_file(buffers, root / f"rank-{ranks.rank}.safetensors")
        train_run(**norm_run(root / "whole", ranks=ranks))
        try:
            train_run(**stopped_run(root / "cut", (0, 1), ranks=ranks))
        except StopRequested:
            train_run(**norm_run(root / "cut", ranks=ranks))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    # As the worker does: threads of gloo that outlive the group can abort the interpreter's end.
    sys.stdout.flush()
    os._exit(0)
