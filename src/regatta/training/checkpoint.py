"""Resume points on disk: two slots, whole or absent, safetensors and JSON only.

checkpoints/
  slot-000007/  weights.safetensors  optimizer.safetensors  state.json  manifest.json
  slot-000008/  ...
  best/         epoch-0003-1f0c22ab.safetensors      weights that a slot names as the best so far

A slot is written under a partial name, synced, given its hash manifest as its last file, synced
again and renamed. Only then does the oldest slot go. So a folder that bears a slot's name is
whole, and one that was damaged later is told by its manifest.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from regatta.core.errors import DiskError, RecordError
from regatta.core.files import (
    PARTIAL_SUFFIX,
    disk_error,
    make_folders,
    plain,
    read_json,
    sync_folder,
)
from regatta.training.sharded import whole_tensors

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
SLOTS_KEPT = 2
SLOT_FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
"""What a whole slot holds beside its manifest."""
RECORDS_BYTES = 2**20
"""Room for the JSON beside the tensors: state, metrics, log."""
NAMED_SETTINGS = 4
"""Most settings that the refusal of another run's slot names."""
_SLOT_NAME = re.compile(r"slot-(\d{6,})")
_RESTART = "start this run anew with: regatta run <study file> --restart"


@dataclass(frozen=True)
class SavedRun:
    """The content of one slot."""

    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    record: dict[str, Any]
    """JSON part: identity, progress, scaler, optimizer scalars."""


def write_slot(root: Path, content: SavedRun) -> Path:
    """Write the next slot under `root`, drop all but the newest two, and return its folder.

    Raises:
        DiskError: no room or no permission; the slots written before are untouched.
    """
    number = max([_slot_number(slot) for slot in list_slots(root)], default=0) + 1
    slot = root / f"slot-{number:06d}"
    partial = root / f".{slot.name}{PARTIAL_SUFFIX}"
    with _named_disk_error(partial, need_bytes=_content_bytes(content)):
        make_folders(root)
        partial.mkdir()
        _write_tensors(partial / "weights.safetensors", content.weights)
        _write_tensors(partial / "optimizer.safetensors", content.optimizer)
        _write_json_synced(partial / "state.json", {"format": FORMAT_VERSION, **content.record})
        _write_json_synced(partial / "manifest.json", _manifest(partial))
        sync_folder(partial)
        os.rename(partial, slot)
        sync_folder(root)
        _drop_old(root)
    return slot


def keep_slot(slot: Path, name: str) -> None:
    """Keep a slot for good beside the resume points, as links to its files where the disk has
    links."""
    kept, partial = slot.parent / name, slot.parent / f".{name}{PARTIAL_SUFFIX}"
    if kept.exists():
        # A killed attempt kept it before its last record: what a resume gives is the same.
        shutil.rmtree(kept)
    with _named_disk_error(partial, need_bytes=0):
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(slot, partial, copy_function=_link_or_copy)
        os.rename(partial, kept)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def pick_slot(
    root: Path, *, identity: dict[str, Any], settings: dict[str, Any] | None = None
) -> Path | None:
    """The newest whole slot, or None when there is none; removes what interrupted writes left.

    A damaged slot is named in the log and the older one is taken.

    Args:
        identity: facts that a slot must share with this run, in JSON types.
        settings: of this run; those that differ are named where a slot is another run's.

    Raises:
        RecordError: every slot is damaged, or the slot is another run's; names the differing field.
    """
    _sweep(root)
    slots = list_slots(root)
    damaged: list[tuple[Path, str]] = []
    for slot in slots:
        fault = _find_fault(root, slot)
        if fault is None:
            _refuse_foreign(slot, identity, settings or {})
            _discard_damaged(damaged, slot)
            return slot
        damaged.append((slot, fault))
    if damaged:
        faults = "; ".join(f"{slot.name}: {fault}" for slot, fault in damaged)
        raise RecordError(f"every checkpoint is damaged: {faults}", where=root, hint=_RESTART)
    return None


def read_slot(slot: Path) -> SavedRun:
    """The content of a slot that `pick_slot` found whole; RecordError where it is none of ours."""
    try:
        return SavedRun(
            load_file(slot / "weights.safetensors"),
            load_file(slot / "optimizer.safetensors"),
            read_json(slot / "state.json"),
        )
    except (SafetensorError, OSError) as error:
        raise RecordError(
            f"the checkpoint cannot be read: {error}", where=slot, hint=_RESTART
        ) from error


def list_slots(root: Path) -> list[Path]:
    """Slot folders, newest first, whole or not."""
    if not root.is_dir():
        return []
    return sorted(
        (path for path in root.iterdir() if _SLOT_NAME.fullmatch(path.name)),
        key=_slot_number,
        reverse=True,
    )


def write_best(root: Path, weights: dict[str, torch.Tensor], *, epoch: int) -> dict[str, str]:
    """Keep weights under `best/` and return the file name and hash that the state must carry.

    The name holds the hash: weights of an attempt that was cut off never replace those that a
    slot means.
    """
    folder = root / "best"
    partial = folder / f".epoch-{epoch:04d}{PARTIAL_SUFFIX}"
    with _named_disk_error(partial, need_bytes=_tensor_bytes(weights)):
        make_folders(folder)
        _write_tensors(partial, weights)
        digest = _sha256(partial)
        name = f"epoch-{epoch:04d}-{digest[:8]}.safetensors"
        os.replace(partial, folder / name)
        sync_folder(folder)
    return {"file": name, "sha256": digest}


def read_best(root: Path, best: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The best weights that a state names; RecordError when they are damaged."""
    fault = _find_best_fault(root, best)
    if fault is not None:
        raise RecordError(fault, where=root, hint=_RESTART)
    return load_file(root / "best" / best["file"])


def ensure_free_space(
    root: Path, module: nn.Module, *, moments_each: int = 2, kept_slots: int = 0
) -> None:
    """Raise DiskError unless everything that training keeps at its fullest moment fits on the disk.

    That is the two slots and the one being written (weights, and `moments_each` numbers beside each
    trained weight: two of AdamW, one of a running mean), the best weights, their successor, and
    the finished model; less what lies there already.

    Args:
        kept_slots: how many slots `keep_slot` will have kept at the end.
    """
    weights = _tensor_bytes(module.state_dict())
    moments = moments_each * sum(p.numel() * 4 for p in module.parameters() if p.requires_grad)
    make_folders(root)
    present = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    tensors = (SLOTS_KEPT + 1 + kept_slots) * (weights + moments) + 3 * weights
    need = tensors + RECORDS_BYTES - present
    free = shutil.disk_usage(root).free
    if free < need:
        raise _disk_full(root, need_bytes=need, free_bytes=free)


def plain_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict on the CPU, contiguous; tensors that share memory are saved as copies.

    Of a module that is cut over the ranks all ranks must ask, and rank 0 alone gets all of it.
    """
    seen: set[int] = set()
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in whole_tensors(module.state_dict()).items():
        tensor = tensor.detach().cpu().contiguous()
        # safetensors refuses tied weights; on a CPU every tensor is also the live parameter itself.
        weights[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return weights


def _find_fault(root: Path, slot: Path) -> str | None:
    """What is wrong with a slot, in words, or None."""
    try:
        manifest = read_json(slot / "manifest.json")
        if unlisted := [name for name in SLOT_FILES if name not in manifest]:
            return f"the manifest lacks {', '.join(unlisted)}"
        for name, entry in manifest.items():
            if not (slot / name).is_file():
                return f"{name} is missing"
            if _sha256(slot / name) != entry["sha256"]:
                return f"{name} does not match its hash"
        best = read_json(slot / "state.json")["progress"]["best"]
    except (RecordError, OSError, AttributeError, KeyError, TypeError) as error:
        return f"manifest or state cannot be read ({error.__class__.__name__})"
    return None if best is None else _find_best_fault(root, best)


def _find_best_fault(root: Path, best: dict[str, Any]) -> str | None:
    named = isinstance(best, dict) and all(isinstance(best.get(k), str) for k in ("file", "sha256"))
    if not named:
        return "its state does not name the best weights"
    path = root / "best" / Path(best["file"]).name
    if not os.path.isfile(path):
        return f"best/{path.name} is missing"
    if _sha256(path) != best["sha256"]:
        return f"best/{path.name} does not match its hash"
    return None


def _refuse_foreign(slot: Path, identity: dict[str, Any], settings: dict[str, Any]) -> None:
    record = read_json(slot / "state.json")
    found = {"format": record.get("format"), **record.get("identity", {})}
    for key, expected in {"format": FORMAT_VERSION, **identity}.items():
        if found.get(key) != expected:
            raise RecordError(
                f"this checkpoint belongs to another run: '{key}' is {found.get(key)!r} there "
                f"and {expected!r} here{_differing(record.get('settings', {}), plain(settings))}",
                where=slot,
                hint=f"restore that setting, or {_RESTART}",
            )


def _differing(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The settings behind two hashes that differ, in words; nothing where they are not known."""
    keys = [key for key in here if key in there and there[key] != here[key]]
    told = [f"{key} {there[key]!r} there, {here[key]!r} here" for key in keys[:NAMED_SETTINGS]]
    more = len(keys) - len(told)
    return (": " if told else "") + "; ".join(told) + (f" and {more} more" if more else "")


def _discard_damaged(damaged: list[tuple[Path, str]], taken: Path) -> None:
    """Remove damaged slots newer than the one taken: left there, they would crowd good ones out."""
    for slot, fault in damaged:
        logger.warning(
            "checkpoint %s is damaged (%s): falling back to the older %s",
            slot.name,
            fault,
            taken.name,
        )
        shutil.rmtree(slot)


def _sweep(root: Path) -> None:
    """Remove what killed writers left: partial slots, and best weights that no slot names."""
    for path in root.glob(f".*{PARTIAL_SUFFIX}"):
        shutil.rmtree(path)
    _drop_unnamed_best(root)


def _drop_old(root: Path) -> None:
    for slot in list_slots(root)[SLOTS_KEPT:]:
        # Renamed first: a kill in the middle of the removal must not leave half a slot that
        # bears a slot's name.
        going = root / f".{slot.name}.old{PARTIAL_SUFFIX}"
        os.rename(slot, going)
        shutil.rmtree(going)
    _drop_unnamed_best(root)


def _drop_unnamed_best(root: Path) -> None:
    """Delete files under `best/` that no slot's state names."""
    named: set[str] = set()
    for slot in list_slots(root):
        try:
            best = read_json(slot / "state.json")["progress"]["best"]
        except (RecordError, KeyError, TypeError):
            return  # A damaged slot may name any of them.
        if best is not None:
            if not isinstance(best, dict) or not isinstance(best.get("file"), str):
                return
            named.add(best["file"])
    folder = root / "best"
    for path in folder.iterdir() if folder.is_dir() else []:
        if path.name not in named:
            path.unlink()


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return file_digest(handle, "sha256").hexdigest()


def _slot_number(slot: Path) -> int:
    return int(slot.name.removeprefix("slot-"))


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """safetensors with its errors turned back into OSError, and synced."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def _write_json_synced(path: Path, content: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as handle:
        json.dump(plain(content), handle, indent=1, allow_nan=False)
        handle.flush()
        os.fsync(handle.fileno())


def _content_bytes(content: SavedRun) -> int:
    return _tensor_bytes(content.weights) + _tensor_bytes(content.optimizer)


def _tensor_bytes(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@contextmanager
def _named_disk_error(partial: Path, *, need_bytes: int) -> Iterator[None]:
    """Turn a failed write into DiskError and give its room back."""
    try:
        yield
    except OSError as error:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        elif partial.is_file():
            partial.unlink()
        raise disk_error(error, partial.parent, need_bytes=need_bytes) from error


def _disk_full(root: Path, *, need_bytes: int, free_bytes: int) -> DiskError:
    return DiskError(
        f"disk full: need {need_bytes / 2**20:.1f} MiB for checkpoints, "
        f"have {free_bytes / 2**20:.1f} MiB",
        where=root,
        hint="free space, or choose another folder with --runs, then run the same command again",
    )
