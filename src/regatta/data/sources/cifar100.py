"""CIFAR-100: 32 x 32 colour images in 100 classes or 20 coarse ones, in the binary release.

Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from regatta.core.registry import SOURCES
from regatta.data.image_listing import ImageListing, without_excluded
from regatta.data.sources import only_split_one
from regatta.data.sources._cifar_files import Layout, find_base, read_names, read_parts

LAYOUT = Layout(
    source="cifar100",
    folder="cifar-100-binary",
    python_folder="cifar-100-python",
    python_file="meta",
    files=(("train.bin", "train"), ("test.bin", "test")),
    label_bytes=2,
    official=(50_000, 10_000),
)
CLASSES = {"fine": 100, "coarse": 20}
REFERENCE = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
"""Mean and sd per channel that published recipes use."""


@SOURCES.register("cifar100", kind="image")
def cifar100(
    root: Path,
    *,
    split: int = 1,
    seed: int = 0,  # noqa: ARG001
    labels: Literal["fine", "coarse"] = "fine",
    normalisation: Literal["reference", "data"] = "reference",
    exclude_ids: str | None = None,
) -> ImageListing:
    """CIFAR-100 binary release: train.bin and test.bin, fine (100) or coarse (20) labels.

    Reads below root or root/cifar-100-binary; names from `fine_label_names.txt` or
    `coarse_label_names.txt`, without it class-00, class-01 ...

    Args:
        normalisation: reference = the published mean and sd; data = of the training images.
        exclude_ids: text file with ids of test images that are left out, one a line.
    Raises:
        DataError: a file is missing or cut, or a label is outside the list.
    """
    only_split_one(split, "cifar100")
    base = find_base(root, LAYOUT)
    names = read_names(base / f"{labels}_label_names.txt")
    names = names or [f"class-{number:02d}" for number in range(CLASSES[labels])]
    label_byte = 0 if labels == "coarse" else 1
    images, rows, notes = read_parts(base, LAYOUT, label_byte=label_byte, names=names)
    reference = REFERENCE if normalisation == "reference" else None
    listing = ImageListing(images, rows, names, notes=notes, normalisation=reference)
    return without_excluded(listing, exclude_ids)
