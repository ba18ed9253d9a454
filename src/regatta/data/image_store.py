"""The file that holds the images of a study, for all its runs.

Shapes: N images, H rows, W columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from regatta.config.partition import PartitionSection
from regatta.config.schema import DataSection
from regatta.core.errors import RecordError
from regatta.core.files import atomic_path
from regatta.core.json_text import parse_json
from regatta.core.registry import unknown_name
from regatta.data.image_scan import scan_images
from regatta.data.manifest import Manifest, Sample

_PART = "part."


@dataclass(frozen=True)
class ImageStore:
    """The images of a study, in the order of `ids`, which is that of its manifest.

    images: uint8 [N, 3, H, W]; mean, std: per channel, 0..1, of the training images or of a
    published recipe; parts: name -> rows int64 of the training images that an entry may ask for.
    """

    ids: list[str]
    images: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    parts: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def image(self) -> tuple[int, int, int]:
        """(3, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def select(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Images of these samples, uint8 [n, 3, H, W]."""
        return self.images[self.rows(samples)]

    def rows(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Their rows, int64 [n]."""
        rows = [self._row_of[sample.sample_id] for sample in samples]
        return torch.tensor(rows, dtype=torch.int64)

    def part(self, name: str) -> torch.Tensor:
        """Rows of a part of the training images, int64 [n], ascending.

        Raises:
            UnknownNameError: there is no such part.
        """
        if name not in self.parts:
            raise unknown_name("part of the training images", name, self.parts, "part")
        return self.parts[name]

    def save(self, path: Path) -> None:
        """Write one safetensors file atomically."""
        tensors = {"images": self.images.contiguous()}
        tensors |= {_PART + name: rows.contiguous() for name, rows in self.parts.items()}
        facts = {"ids": self.ids, "mean": self.mean, "std": self.std, "parts": list(self.parts)}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"regatta": json.dumps(facts)})

    def check(self) -> None:
        """ValueError where the parts of the store contradict each other."""
        images = self.images
        if len(self.ids) != len(images) or len(set(self.ids)) < len(self.ids):
            raise ValueError(f"{len(self.ids)} ids for {len(images)} images, or one twice")
        shares = [*self.mean, *self.std]
        if len(self.mean) != 3 or len(self.std) != 3 or not all(0 <= s <= 1 for s in shares):
            raise ValueError(f"mean {self.mean} and deviation {self.std} are not of 3 colours")
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"they are {images.dtype} {list(images.shape)}")
        for name, rows in self.parts.items():
            if rows.dtype != torch.int64 or rows.ndim != 1:
                raise ValueError(f"part {name} is {rows.dtype} {list(rows.shape)}")
            if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(images):
                raise ValueError(f"part {name} has rows outside 0..{len(images) - 1}")

    @classmethod
    def load(cls, path: Path) -> ImageStore:
        """Read what `save` wrote; RecordError when it is missing or damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                facts = parse_json(file.metadata()["regatta"])
                store = cls(
                    facts["ids"],
                    file.get_tensor("images"),
                    tuple(facts["mean"]),
                    tuple(facts["std"]),
                    {name: file.get_tensor(_PART + name) for name in facts["parts"]},
                )
            store.check()
            return store
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"the images cannot be read: {error}",
                where=path,
                hint="delete it and manifest.parquet, then run the study again",
            ) from error


def build_images(
    data: DataSection, partition: PartitionSection | None = None
) -> tuple[Manifest, ImageStore]:
    """The manifest of a source of images, and its images; raises as `scan_images`."""
    scanned = scan_images(data, partition)
    mean, std = scanned.statistics
    return scanned.manifest, ImageStore(
        [sample.sample_id for sample in scanned.manifest.samples],
        torch.from_numpy(scanned.images),
        mean,
        std,
        {name: torch.from_numpy(rows) for name, rows in scanned.parts.items()},
    )
