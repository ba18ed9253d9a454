"""Weights that other programs wrote with `torch.save`, turned into the safetensors that we read.

Such a file is a pickle, which can run code when it is opened. torch's reader with `weights_only`
takes tensors and plain containers alone; it works here in a process of its own with little memory
and time.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors

from regatta.core.confined import confine_this_process, tell_results
from regatta.core.errors import WeightsError
from regatta.core.files import ensure_writable, write_bytes
from regatta.models.hub import INDEX_FILE, SINGLE_FILE

NESTS = ("state_dict", "model_state", "model_state_dict", "model", "module")
"""Keys under which published files keep the weights beside an epoch number or an optimizer."""
SPARE_BYTES = 2 * 2**30
"""Of memory, beside three times the size of the files: read, copied, written."""
CPU_SECONDS = 600
MOST_TENSORS = 100_000


@dataclass(frozen=True)
class ImportedWeights:
    """What was written. left_out: keys of the files that hold no tensor, or stand beside the
    weights."""

    path: str
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    left_out: tuple[str, ...]
    config: bool
    """Whether a config.json lay beside the first file and was copied."""


def import_weights(files: Sequence[Path], folder: Path) -> ImportedWeights:
    """Write `folder`/model.safetensors from one or several files of one model.

    Keys and numbers stay as they are; tensors that share memory are written apart. A config.json
    beside the first file is copied.

    Raises:
        WeightsError: a file is missing or damaged, holds no tensors or other things than tensors
            and plain values, a key stands in two files, or the folder holds weights already.
        DiskError: the folder cannot be written.
    """
    _refuse_taken(folder)
    state: dict[str, torch.Tensor] = {}
    left_out: list[str] = []
    for path in files:
        found, others = _tensors_of(path)
        twice = sorted(set(found) & set(state))
        if twice:
            raise WeightsError(f"the key '{twice[0]:.200}' stands in two files", where=path)
        state |= found
        left_out += others
    if len(state) > MOST_TENSORS:
        raise WeightsError(f"{len(state)} tensors are more than any model has", where=files[0])
    content = _as_safetensors(state, files[0])
    ensure_writable(folder)
    config = files[0].parent / "config.json"
    if config.is_file():
        write_bytes(folder / config.name, config.read_bytes())
    write_bytes(folder / SINGLE_FILE, content)
    return ImportedWeights(
        str(folder / SINGLE_FILE),
        len(state),
        sum(tensor.numel() for tensor in state.values()),
        tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})),
        tuple(left_out),
        config.is_file(),
    )


def _refuse_taken(folder: Path) -> None:
    taken = [name for name in (SINGLE_FILE, INDEX_FILE) if (folder / name).exists()]
    if taken:
        raise WeightsError(
            f"the folder holds {taken[0]} already",
            where=folder,
            hint="choose another folder with --to, or remove that file",
        )


def _tensors_of(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The file's tensors by their keys, and what else stands in it."""
    content = _read(path)
    outer: list[str] = []
    for name in NESTS:
        inner = content.get(name) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping) and any(map(torch.is_tensor, inner.values())):
            outer = [str(key) for key in content if key != name]
            content = inner
            break
    if not isinstance(content, Mapping):
        raise WeightsError(f"the file holds a {type(content).__name__}, no weights", where=path)
    tensors = {str(key): value for key, value in content.items() if torch.is_tensor(value)}
    if not tensors:
        keys = ", ".join(str(key)[:40] for key in list(content)[:8])
        raise WeightsError(f"the file holds no tensors by name; its keys: {keys}", where=path)
    return tensors, outer + [str(key) for key in content if str(key) not in tensors]


def _read(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError("there is no such file", where=path)
    try:
        # Of training scripts' settings, which many published files carry: attributes, no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            "the file holds Python objects, which can run code when they are opened; only tensors "
            f"are read ({_first_line(error)})",
            where=path,
            hint="where the file was made, save the state_dict of the model alone",
        ) from error
    except MemoryError as error:
        raise WeightsError("the file promises more tensors than it holds", where=path) from error
    except Exception as error:
        reason = _first_line(error) or type(error).__name__
        raise WeightsError(
            f"this is not a whole file of torch.save: {reason}", where=path
        ) from error


def _as_safetensors(state: dict[str, torch.Tensor], where: Path) -> bytes:
    try:
        apart = {
            name: tensor.detach().to_dense().contiguous().clone() for name, tensor in state.items()
        }
        return to_safetensors(apart, metadata={"format": "pt"})
    except (RuntimeError, MemoryError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"the tensors cannot be written: {_first_line(error)}", where=where
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:160]


def main(arguments: Sequence[str]) -> int:
    """`python -m regatta.models.import_weights FOLDER FILE...`: a line of JSON that says what was
    written."""
    folder, *files = map(Path, arguments)
    torch.set_num_threads(1)
    size = sum(path.stat().st_size for path in files if path.is_file())
    confine_this_process(memory_bytes=3 * size + SPARE_BYTES, cpu_seconds=CPU_SECONDS)
    return tell_results([partial(import_weights, files, folder)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
