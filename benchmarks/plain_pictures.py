"""Pictures for the benchmarks of expert fusion: made, read one by one, and changed with Pillow.

`Pictures` is the usual Dataset: every picture that is asked for becomes a Pillow image, is shifted,
mirrored and changed by a policy, then scaled, normalised and erased as an array. The policies and
their ranges are those of `regatta.data.image_policies`, whose sources hold for them too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.utils.data import Dataset

SIDE, CLASSES, LEVELS = 32, 10, 30
CIFAR_FILES = [f"data_batch_{number}.bin" for number in range(1, 6)]
ENHANCE = {
    "brightness": ImageEnhance.Brightness,
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}
OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    *ENHANCE,
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)


def write_cifar(root: Path, *, train: int, test: int) -> Path:
    """Generated pictures in the layout of CIFAR-10's binary release; returns `root`.

    A class is a colour and a direction of waves under noise: learnt in a few epochs, never wholly.
    """
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, part in zip(CIFAR_FILES, np.array_split(np.arange(train), 5), strict=True):
        _records(rng, len(part)).tofile(root / name)
    _records(rng, test).tofile(root / "test_batch.bin")
    return root


def _records(rng: np.random.Generator, count: int) -> np.ndarray:
    labels = rng.permutation(count) % CLASSES
    angle = np.pi * labels / CLASSES + rng.normal(0, 0.1, count)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    along = np.cos(angle)[:, None, None] * rows + np.sin(angle)[:, None, None] * columns
    waves = 40 * np.sin(along * 0.6 + rng.uniform(0, 6, count)[:, None, None])
    tint = 25 * np.cos(labels[:, None] + np.arange(3) * 2)
    pictures = 128 + waves[:, None] + tint[:, :, None, None]
    pictures = pictures + rng.normal(0, 40, (count, 3, SIDE, SIDE))
    pixels = pictures.clip(0, 255).astype(np.uint8).reshape(count, -1)
    return np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)


@dataclass(frozen=True)
class Stock:
    """What all jobs of a benchmark read: uint8 [N, H, W, 3], labels, named rows, colours."""

    images: np.ndarray
    labels: np.ndarray
    rows: dict[str, np.ndarray]
    mean: np.ndarray
    std: np.ndarray

    def save(self, path: Path) -> None:
        named: dict[str, Any] = {f"rows.{name}": rows for name, rows in self.rows.items()}
        fixed = {"images": self.images, "labels": self.labels, "mean": self.mean, "std": self.std}
        np.savez(path, **fixed, **named)

    @classmethod
    def load(cls, path: Path) -> Stock:
        with np.load(path, allow_pickle=False) as file:
            rows = {
                name.removeprefix("rows."): file[name] for name in file if name.startswith("rows.")
            }
            return cls(file["images"], file["labels"], rows, file["mean"], file["std"])


class Pictures(Dataset):
    """Some pictures of a stock, each changed when it is asked for.

    Args:
        change: options as in `train.augment_options`; None = pictures stay as they are.
    """

    def __init__(self, stock: Stock, part: str, change: dict[str, Any] | None) -> None:
        self._stock, self._rows, self._change = stock, stock.rows[part], change
        self._scale = (255 * stock.std).astype(np.float32)
        self._shift = (stock.mean / stock.std).astype(np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        row = self._rows[place]
        picture = Image.fromarray(self._stock.images[row])
        # torch seeds itself in every loader process and epoch, numpy does not.
        rng = np.random.default_rng(int(torch.randint(2**31, (1,)))) if self._change else None
        if rng is not None and self._change is not None:
            picture = change_picture(picture, self._change, rng)
        values = np.asarray(picture, dtype=np.float32) / self._scale - self._shift
        tensor = torch.from_numpy(values).permute(2, 0, 1).contiguous()
        if rng is not None and self._change is not None:
            erase(tensor, self._change.get("erasing", 0.0), rng)
        return tensor, int(self._stock.labels[row])


def change_picture(
    picture: Image.Image, change: dict[str, Any], rng: np.random.Generator
) -> Image.Image:
    """Shift in a border, mirror, and the policy."""
    pad = change.get("pad", 4)
    mode: Any = "reflect" if change.get("border") == "reflect" else "constant"
    bordered = np.pad(np.asarray(picture), ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    top, left = rng.integers(0, 2 * pad + 1, 2)
    picture = Image.fromarray(bordered[top : top + SIDE, left : left + SIDE])
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    policy = change.get("policy", "none")
    if policy == "jitter":
        return jitter(picture, change.get("jitter", (0.2, 0.2, 0.2, 0.1)), rng)
    if policy == "randaugment":
        for _ in range(change.get("operations", 2)):
            picture = operate(picture, _draw(rng), change.get("magnitude", 9) / LEVELS, False, rng)
    elif policy == "trivial":
        level = rng.integers(LEVELS + 1) / LEVELS
        picture = operate(picture, _draw(rng), level, True, rng)
    return picture


def _draw(rng: np.random.Generator) -> str:
    return OPERATIONS[rng.integers(len(OPERATIONS))]


def jitter(picture: Image.Image, reach: Any, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, colour and hue in a drawn order."""
    for number in rng.permutation(4):
        amount = rng.uniform(-reach[number], reach[number])
        if number == 3:
            turned = np.array(picture.convert("HSV"))
            turned[..., 0] += np.uint8(int(255 * amount) % 256)
            picture = Image.fromarray(turned, mode="HSV").convert("RGB")
        else:
            enhance = ENHANCE[("brightness", "contrast", "color")[number]]
            picture = enhance(picture).enhance(1 + amount)
    return picture


def operate(
    picture: Image.Image, name: str, level: float, wide: bool, rng: np.random.Generator
) -> Image.Image:
    """One operation at `level` 0..1 of RandAugment's ranges, or of TrivialAugment's wide ones."""
    sign = 1 if rng.random() < 0.5 else -1
    if name in ENHANCE:
        return ENHANCE[name](picture).enhance(1 + sign * level * (0.99 if wide else 0.9))
    shear = sign * level * (0.99 if wide else 0.3)
    shift = sign * int(level * (32 if wide else SIDE * 150 / 331))
    moves: dict[str, Callable[[], Image.Image]] = {
        "identity": lambda: picture,
        "shear_x": lambda: _affine(picture, (1, shear, 0, 0, 1, 0)),
        "shear_y": lambda: _affine(picture, (1, 0, 0, shear, 1, 0)),
        "translate_x": lambda: _affine(picture, (1, 0, -shift, 0, 1, 0)),
        "translate_y": lambda: _affine(picture, (1, 0, 0, 0, 1, -shift)),
        "rotate": lambda: picture.rotate(sign * level * (135 if wide else 30)),
        "posterize": lambda: ImageOps.posterize(picture, 8 - round(level * (6 if wide else 4))),
        "solarize": lambda: ImageOps.solarize(picture, round(255 * (1 - level))),
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
    }
    return moves[name]()


def _affine(picture: Image.Image, numbers: tuple[float, ...]) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, numbers)


def erase(tensor_CHW: torch.Tensor, share: float, rng: np.random.Generator) -> None:
    """Zero a rectangle in place, in that share of the pictures."""
    if rng.random() >= share:
        return
    for _ in range(10):
        area = rng.uniform(0.02, 0.33) * SIDE * SIDE
        ratio = np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
        height, width = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < height < SIDE and 0 < width < SIDE:
            top, left = rng.integers(SIDE - height + 1), rng.integers(SIDE - width + 1)
            tensor_CHW[:, top : top + height, left : left + width] = 0
            return
