"""CIFAR-10: 32 x 32 colour images in 10 classes, in the binary release.

Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
"""

from __future__ import annotations

from pathlib import Path

from regatta.core.registry import SOURCES
from regatta.data.image_listing import ImageListing, without_excluded
from regatta.data.sources import only_split_one
from regatta.data.sources._cifar_files import Layout, find_base, read_names, read_parts

LAYOUT = Layout(
    source="cifar10",
    folder="cifar-10-batches-bin",
    python_folder="cifar-10-batches-py",
    python_file="batches.meta",
    files=(
        ("data_batch_1.bin", "train"),
        ("data_batch_2.bin", "train"),
        ("data_batch_3.bin", "train"),
        ("data_batch_4.bin", "train"),
        ("data_batch_5.bin", "train"),
        ("test_batch.bin", "test"),
    ),
    label_bytes=1,
    official=(50_000, 10_000),
)
CLASSES = 10


@SOURCES.register("cifar10", kind="image")
def cifar10(
    root: Path,
    *,
    split: int = 1,
    seed: int = 0,  # noqa: ARG001
    exclude_ids: str | None = None,
) -> ImageListing:
    """CIFAR-10 binary release: data_batch_1.bin to data_batch_5.bin and test_batch.bin.

    Reads below root or root/cifar-10-batches-bin; names from `batches.meta.txt`, without it
    class-0, class-1 ...

    Args:
        exclude_ids: text file with ids of test images that are left out, one a line.
    Raises:
        DataError: a file is missing or cut, or a label is outside the list.
    """
    only_split_one(split, "cifar10")
    base = find_base(root, LAYOUT)
    names = read_names(base / "batches.meta.txt")
    names = names or [f"class-{number}" for number in range(CLASSES)]
    images, rows, notes = read_parts(base, LAYOUT, label_byte=0, names=names)
    return without_excluded(ImageListing(images, rows, names, notes=notes), exclude_ids)
