"""Checkpoints that hold an encoder alone, or with a head for other classes.

A model of signals takes only the part behind `ENCODER` from such files; all else of it is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from regatta.core.errors import WeightsError

ENCODER = "encoder."
"""The encoder is the module's attribute of this name."""
OWN_KEYS = "encoder.blocks."
"""Only files that Regatta wrote have keys that start so."""
NORMALISATION = ("encoder.pixel_mean", "encoder.pixel_sd")


@dataclass(frozen=True)
class EncoderFiles:
    """How the keys of published encoders become ours.

    Args:
        name: of the encoder; a folder of ours made with another one is refused, because shapes
            do not betray the number of heads.
        names: (part of a published key, part of ours behind `encoder.`), replaced in this order.
        prefix_in_file: what stands before every key of the encoder in files that also hold a head.
        unused: prefixes of published keys that a features' encoder has no use for.
    """

    name: str
    names: tuple[tuple[str, str], ...] = ()
    prefix_in_file: str = ""
    unused: tuple[str, ...] = ()


def is_own(state: dict[str, torch.Tensor]) -> bool:
    """Whether the keys of a file are those of our modules."""
    return any(key.startswith(OWN_KEYS) for key in state)


def check_own(config: dict[str, Any], files: EncoderFiles, folder: Path) -> None:
    """WeightsError when a folder of ours was made with another encoder."""
    options = (config.get("regatta") or {}).get("options") or {}
    found = options.get("encoder")
    if found is not None and found != files.name:
        raise WeightsError(
            f"the checkpoint holds encoder {found}, the entry asks for {files.name}",
            where=folder / "config.json",
            hint=f"set options.encoder: {found}, or give another checkpoint",
        )


def read_published(
    state: dict[str, torch.Tensor], files: EncoderFiles, folder: Path
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """(tensors by our keys, keys of the file that are not used)."""
    renamed: dict[str, torch.Tensor] = {}
    unused = []
    for key, tensor in state.items():
        name = key.removeprefix(files.prefix_in_file)
        if files.unused and name.startswith(files.unused):
            unused.append(key)
            continue
        for published, ours in files.names:
            name = name.replace(published, ours)
        if ENCODER + name in renamed:
            raise WeightsError(f"two tensors of the file stand for {ENCODER}{name}", where=folder)
        renamed[ENCODER + name] = tensor
    return renamed, tuple(sorted(unused))


def normalisation_note(
    state: dict[str, torch.Tensor],
    target: dict[str, torch.Tensor],
    found: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> str:
    """Put the mean and sd that a published encoder was trained with into `state`; what was done."""
    values = [target[key] for key in NORMALISATION]
    if found is not None:
        values = [torch.tensor(numbers) for numbers in found]
    state.update(zip(NORMALISATION, values, strict=True))
    mean, sd = (", ".join(f"{number:.4g}" for number in value.tolist()) for value in values)
    origin = "its processor file" if found else "the encoder's default, as it has no processor file"
    return f"pixels normalised with mean {mean} and sd {sd} ({origin})"
