"""Pictures that stay on the device and are augmented there, beside a DataLoader.

    .venv/bin/python benchmarks/resident_images.py [--data cifar10-images.zip] [--images 10000]

Both sides give batches of 128 shuffled 32 x 32 pictures, each shifted by up to 4 pixels, mirrored
half of the time and normalised. The naive side is the usual one: a Dataset that changes one picture
per call, a DataLoader that collates, with 0 and 2 worker processes. Ours keeps the uint8 pictures
where the model is and changes 256 at a time. With --data the pictures are those of a zip of class
folders, else random ones.

First both sides must turn every picture of an epoch into the same values, given the same draws.
Then the loaders alone are timed in turn, then a whole epoch of training of a small network with
each. Ratios are printed; on a GPU the same script times the GPU.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from regatta.data.image_augment import ImageAugment, shift_and_mirror
from regatta.data.transforms import normalise
from regatta.data.window_loader import WindowLoader

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
BATCH, PAD, CLASSES = 128, 4, 10


def main() -> None:
    options = _parser().parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = read_zip(options.data, options.images) if options.data else random_images(options)
    labels = torch.arange(len(images)) % CLASSES
    print(f"{len(images)} pictures of {tuple(images.shape[1:])}, batch {BATCH}, {device}")
    check_equal(images)
    loaders: dict[str, Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]] = {
        "resident": lambda: resident_batches(images, labels, device),
        "DataLoader, 0 workers": lambda: naive_batches(images, labels, device, workers=0),
        "DataLoader, 2 workers": lambda: naive_batches(images, labels, device, workers=2),
    }
    compare("loading", loaders, lambda batches: drain(batches, device), options.repeats)
    network = small_network().to(device)
    compare("training", loaders, lambda batches: train(network, batches, device), options.repeats)


def read_zip(path: Path, count: int) -> torch.Tensor:
    """The first `count` training pictures of a zip of class folders, uint8 [N, 3, 32, 32]."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if "/train/" in n and not n.endswith("/"))
        chosen = names[:: max(1, len(names) // count)][:count]
        pictures = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in chosen]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def random_images(options: argparse.Namespace) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (options.images, 3, 32, 32), dtype=np.uint8))


def change_one(image_CHW: torch.Tensor, top: int, left: int, mirror: bool) -> torch.Tensor:
    """One picture shifted, mirrored and normalised, as a Dataset does it."""
    bordered = nn.functional.pad(image_CHW, (PAD, PAD, PAD, PAD))
    cut = bordered[:, top : top + 32, left : left + 32]
    picture = (cut.flip(-1) if mirror else cut).float().div(255)
    return (picture - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class Pictures(Dataset):
    """Pictures that are changed one by one when they are asked for."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        top, left = torch.randint(2 * PAD + 1, (2,)).tolist()
        mirror = bool(torch.rand(()) < 0.5)
        return change_one(self._images[row], top, left, mirror), int(self._labels[row])


def naive_batches(
    images: torch.Tensor, labels: torch.Tensor, device: torch.device, *, workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    loader = DataLoader(
        Pictures(images, labels),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    for pictures, classes in loader:
        yield pictures.to(device, non_blocking=True), classes.to(device, non_blocking=True)


def resident_batches(
    images: torch.Tensor, labels: torch.Tensor, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    names = [str(row) for row in range(len(images))]
    loader = WindowLoader(
        images,
        labels.tolist(),
        names,
        batch_size=BATCH,
        seed=0,
        device=device,
        augment=ImageAugment(PAD),
    )
    for batch in loader.batches(0):
        yield normalise(batch.inputs, MEAN, STD), batch.labels


def check_equal(images: torch.Tensor) -> None:
    """Stop unless both sides make the same of every picture, given the same draws."""
    rng = np.random.default_rng(1)
    top, left = torch.from_numpy(rng.integers(0, 2 * PAD + 1, (2, len(images))))
    mirror = torch.from_numpy(rng.random(len(images)) < 0.5)
    ours = normalise(shift_and_mirror(images, top, left, mirror, pad=PAD), MEAN, STD)
    draws = zip(images, top.tolist(), left.tolist(), mirror.tolist(), strict=True)
    theirs = torch.stack([change_one(*draw) for draw in draws])
    gap = float((ours - theirs).abs().max())
    if gap > 1e-5:
        raise SystemExit(f"the sides differ by {gap}")
    print(f"  equal: all {len(images)} pictures within {gap:.1e}")


def small_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 64, CLASSES),
    )


def drain(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], device: torch.device) -> None:
    total = torch.zeros((), device=device)
    for pictures, _ in batches:
        total += pictures[0, 0, 0, 0]
    total.item()


def train(
    network: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    device: torch.device,
) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    total = torch.zeros((), device=device)
    for pictures, classes in batches:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(pictures), classes)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    total.item()


def compare(
    title: str,
    loaders: dict[str, Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]],
    use: Callable[[Iterable[tuple[torch.Tensor, torch.Tensor]]], None],
    repeats: int,
) -> None:
    """Time an epoch of each loader in turn and print seconds and ratios."""
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(repeats + 1):
        for name, batches in loaders.items():
            started = time.perf_counter()
            use(batches())
            seconds[name].append(time.perf_counter() - started)
    base = seconds["resident"][1:]
    for name, values in seconds.items():
        # The first turn warms caches and allocators of all sides.
        values = values[1:]
        print(f"  {title}, {name:<22} {statistics.median(values):7.3f} s per epoch", end="")
        if name != "resident":
            ratios = [slow / fast for slow, fast in zip(values, base, strict=True)]
            print(
                f"   {statistics.median(ratios):5.1f} x ({min(ratios):.1f}-{max(ratios):.1f})",
                end="",
            )
        print()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="zip of <any>/train/<class>/<picture>")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    return parser


if __name__ == "__main__":
    main()
