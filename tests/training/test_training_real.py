"""The trainer with real video files, the real loader and real models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from regatta.config.schema import DataSection, EntrySection
from regatta.core.errors import StopRequested
from regatta.core.seeds import stream
from regatta.core.signals import StopFlag
from regatta.data.clip_recipe import ClipRecipe
from regatta.data.loader import Batch, ClipLoader
from regatta.data.manifest import Manifest
from regatta.data.scan import build_manifest
from regatta.data.transforms import normalise
from regatta.data.video_files import write_video
from regatta.models.spec import resolve_model
from regatta.models.weights import load_model
from regatta.training.loop import train_run
from tests.training.tiny_training import outcome, tiny_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Videos that grow brighter or darker: 6 + 6 to train on, 2 + 2 to validate, 1 + 1 to judge."""
    root = tmp_path_factory.mktemp("videos")
    rng = stream(0, "videos")
    ramp = np.linspace(40, 210, 10)
    for split, count in (("train", 6), ("validation", 2), ("test", 1)):
        for name, course in (("brighter", ramp), ("darker", ramp[::-1])):
            for number in range(count):
                noise = rng.normal(0, 8, (10, 40, 48, 3))
                images = (course[:, None, None, None] + noise).clip(0, 255).astype(np.uint8)
                write_video(root / split / name / f"{split}-{number}.mp4", images, fps=10)
    data = DataSection.model_validate({"source": "folder", "root": str(root)})
    return build_manifest(data, cache_folder=tmp_path_factory.mktemp("cache"))


def real_run(
    path: Path, manifest: Manifest, model: str, *, options: dict[str, Any], **recipe: Any
) -> dict[str, Any]:
    """Arguments of `train_run` as the worker would give them."""
    entry = {"name": "e", "model": model, "size": "tiny", "checkpoint": "none", "options": options}
    spec = resolve_model(EntrySection.model_validate(entry), len(manifest.classes), seed=3)
    fixed = ClipRecipe(spec.frames, spec.image_size, spec.resize, augment="none")
    moving = replace(fixed, augment="standard")
    shape: dict[str, Any] = {"batch_size": 4, "seed": 3, "threads": 1}
    run = tiny_run(path, classes=manifest.classes, seed=3, **{"epochs": 2, "lr": 1e-3, **recipe})
    return {
        **run,
        "module": spec.build(len(manifest.classes)),
        "spec": spec,
        "train_loader": ClipLoader(manifest.split("train"), recipe=moving, **shape),
        "validation": ClipLoader(manifest.split("validation"), recipe=fixed, **shape),
    }


@dataclass(frozen=True)
class StoppedLoader:
    """The real loader; a stop is requested once so many of its batches were handed out."""

    loader: ClipLoader
    stop: StopFlag
    after: int

    def __len__(self) -> int:
        return len(self.loader)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        for number, batch in enumerate(self.loader.batches(epoch, start=start), 1):
            if number == self.after:
                self.stop.request()
            yield batch


@pytest.mark.parametrize("model", ["cnn3d", "videomae"])
def test_a_real_run_resumes_to_the_same_bits(tmp_path: Path, manifest: Manifest, model: str):
    options = {"frames": 4, "image_size": 32, "dropout": 0.1}
    train_run(**real_run(tmp_path / "whole", manifest, model, options=options))
    for after in (2, 1, 2):
        run = real_run(tmp_path / "cut", manifest, model, options=options)
        run["train_loader"] = StoppedLoader(run["train_loader"], run["stop"], after)
        with pytest.raises(StopRequested):
            train_run(**run)
    train_run(**real_run(tmp_path / "cut", manifest, model, options=options))
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_the_saved_model_scores_what_the_results_say(tmp_path: Path, manifest: Manifest):
    options = {"frames": 4, "image_size": 32}
    run = real_run(tmp_path, manifest, "cnn3d", options=options, epochs=4)
    results = train_run(**run)
    module, spec, classes = load_model(tmp_path / "model")
    assert classes == ["brighter", "darker"]
    correct = 0
    for batch in run["validation"].batches(0):
        with torch.inference_mode():
            logits = module(normalise(batch.inputs, spec.mean, spec.std))
        correct += int((logits.argmax(1) == batch.labels).sum())
    assert correct / 4 == results["best_val_accuracy"]


def test_gradient_checkpointing_gives_the_same_training(tmp_path: Path, manifest: Manifest):
    losses = []
    for switch in (False, True):
        run = real_run(
            tmp_path / str(switch),
            manifest,
            "videomae",
            options={"frames": 4, "image_size": 32, "dropout": 0.1},
            epochs=1,
            gradient_checkpointing=switch,
        )
        losses.append(train_run(**run)["history"]["train_loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
