"""The part of the images that an entry trains on, and its answers over all classes again."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from regatta.config.schema import EntrySection
from regatta.core.errors import ConfigError, DataError
from regatta.data.image_store import ImageStore
from regatta.data.manifest import Manifest
from regatta.models.spec import ModelSpec

OUTSIDE = -1e4
"""Score of a class that a model does not know: it is never chosen, and its probability is 0."""


def check_image_size(spec: ModelSpec, images: ImageStore, *, where: object) -> None:
    """ConfigError when the model takes images of another size than the data has."""
    found = tuple(images.images.shape[2:])
    if found != (spec.image_size, spec.image_size):
        raise ConfigError(
            f"{spec.name} takes images of {spec.image_size} x {spec.image_size} pixels, the data "
            f"has {found[1]} x {found[0]}",
            where=where,
            hint=f"set options.image_size: {found[0]} for the model, or "
            f"data.options.image_size: {spec.image_size} for a folder of images",
        )


def check_part(images: ImageStore, entry: EntrySection) -> None:
    """ConfigError when the entry trains on a part that the data has not."""
    if entry.part is not None and entry.part not in images.parts:
        raise ConfigError(
            f"there is no part '{entry.part}' of the training images",
            where=f"entries.{entry.name}.part",
            hint=f"known: {', '.join(images.parts) or 'none, without a partition section'}",
        )


def manifest_of_part(manifest: Manifest, images: ImageStore, entry: EntrySection) -> Manifest:
    """The manifest as this entry sees it: its training part, and the classes that stand in it.

    Of a class-split part validation holds those classes alone, and labels count among them.

    Raises:
        ConfigError: there is no such part.
        DataError: a training image of the part stands in validation or test.
    """
    if entry.part is None:
        return manifest
    check_part(images, entry)
    inside = {images.ids[row] for row in images.part(entry.part).tolist()}
    kept = [
        sample
        for sample in manifest.samples
        if sample.split != "train" or sample.sample_id in inside
    ]
    _refuse_seen(manifest, inside, entry)
    return _with_classes(replace(manifest, samples=kept), entry)


def _refuse_seen(manifest: Manifest, inside: set[str], entry: EntrySection) -> None:
    seen = [s.sample_id for s in manifest.samples if s.split != "train" and s.sample_id in inside]
    if seen:
        raise DataError(
            f"{len(seen)} images of part '{entry.part}' are judged or selected on: "
            f"{', '.join(seen[:4])}",
            where=f"entries.{entry.name}.part",
            hint="make the partition's index files again",
        )


def _with_classes(manifest: Manifest, entry: EntrySection) -> Manifest:
    """Without the classes that an expert's part has no image of."""
    trained = {sample.label_name for sample in manifest.split("train")}
    classes = [name for name in manifest.classes if name in trained]
    if len(classes) == len(manifest.classes) or entry.role != "expert":
        return manifest
    label = {name: number for number, name in enumerate(classes)}
    samples = [
        replace(sample, label=label[sample.label_name])
        for sample in manifest.samples
        if sample.label_name in label
    ]
    return replace(manifest, samples=samples, classes=classes)


class AnswersAll(nn.Module):
    """A model of some classes that answers over all: [B, n] -> [B, K]."""

    def __init__(self, module: nn.Module, classes: list[str], all_classes: list[str]) -> None:
        super().__init__()
        self.module = module
        self.places_n: torch.Tensor
        self.register_buffer("places_n", torch.tensor([all_classes.index(c) for c in classes]))
        self._count = len(all_classes)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        scores_Bn = self.module(images_BCHW).float()
        scores_BK = scores_Bn.new_full((len(scores_Bn), self._count), OUTSIDE)
        return scores_BK.index_copy(1, self.places_n, scores_Bn)
