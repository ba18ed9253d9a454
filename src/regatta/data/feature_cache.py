"""Features of a frozen encoder, computed once per window and channel for all runs of a study.

<root>/<key>/                what it depends on decides the key: windows, drawing, encoder, format
  channel-3.safetensors      features of one channel, float32 [N, ...], in the order of the windows
  .channel-3.lock            locked (flock) by the process that encodes that channel

Processes that need the same features share the work channel by channel: whoever finds a channel
neither there nor being made makes it. A file appears whole or not at all, and a lock dies with its
process, so a killed encoder leaves nothing behind that another could trip over.

Shapes: B windows of a batch, N windows, C channels, L samples, P encoded channels.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from regatta.core.errors import NonFiniteError
from regatta.core.files import PARTIAL_SUFFIX, atomic_path, disk_error, make_folders
from regatta.core.json_text import parse_json

logger = logging.getLogger(__name__)

ENCODE_BATCH = 64
"""Windows that are encoded together."""
WAIT_SECONDS = 0.2
"""Between two looks at channels that other processes are encoding."""
FORMAT = 1

Encode = Callable[[torch.Tensor, int], torch.Tensor]
"""(signals [B, C, L] on the device, channel) -> features [B, ...]."""


@dataclass(frozen=True)
class FeaturePart:
    """Windows that are encoded together: a split, or one augmented view of it.

    signals: float32 [N, C, L]. depends_on: JSON of all that decides the features beside the
    channel.
    """

    signals: torch.Tensor
    sample_ids: list[str]
    depends_on: dict[str, Any]

    @property
    def key(self) -> str:
        text = json.dumps({"format": FORMAT, **self.depends_on}, sort_keys=True)
        return sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class CachedFeatures:
    """features: of each part, float32 [N, P, ...] on the CPU. seconds: what encoding them took,
    whichever process and run did it."""

    features: list[torch.Tensor]
    seconds: float


def tensors_hash(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    found = sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        found.update(f"{name} {values.dtype} {list(values.shape)}\n".encode())
        found.update(_bytes_of(values))
    return found.hexdigest()


def feature_bytes(
    encode: Encode, parts: Sequence[FeaturePart], channels: Sequence[int], *, device: torch.device
) -> int:
    """Bytes that the features of these parts will take, from encoding one window."""
    with torch.inference_mode():
        one = encode(parts[0].signals[:1].to(device), channels[0])
    return 4 * one.numel() * len(channels) * sum(len(part.signals) for part in parts)


def cached_features(
    root: Path,
    parts: Sequence[FeaturePart],
    *,
    channels: Sequence[int],
    encode: Encode,
    device: torch.device,
    report: Callable[[dict[str, Any]], None],
    stop_asked: Callable[[], bool],
) -> CachedFeatures | None:
    """The features of each part; what is not on disk is encoded first.

    Args:
        encode: in evaluation mode; called without gradients.
        report: called with keys of a status about every batch.
        stop_asked: polled between batches; channels that are done are kept.

    Returns:
        None when a stop was asked for before all was there.

    Raises:
        NonFiniteError: a feature is NaN or infinite; names the windows.
        DiskError: the folder cannot be written or the disk is full.
    """
    work = _Encoding(root, parts, tuple(channels), encode, device, report, stop_asked)
    pending = [(part, channel) for part in parts for channel in channels]
    while pending:
        before = len(pending)
        pending = [job for job in pending if not work.settle(*job)]
        if stop_asked():
            return None
        if len(pending) == before:
            work.tell()
            time.sleep(WAIT_SECONDS)
    features = [
        torch.stack([work.found[part.key, channel].features for channel in channels], dim=1)
        for part in parts
    ]
    return CachedFeatures(features, sum(file.seconds for file in work.found.values()))


@dataclass(frozen=True)
class _File:
    """One channel. features: float32 [N, ...]."""

    features: torch.Tensor
    seconds: float


@dataclass
class _Encoding:
    """One process at work on what it needs."""

    root: Path
    parts: Sequence[FeaturePart]
    channels: tuple[int, ...]
    encode: Encode
    device: torch.device
    report: Callable[[dict[str, Any]], None]
    stop_asked: Callable[[], bool]
    found: dict[tuple[str, int], _File] = field(default_factory=dict)
    encoded: int = 0
    """Windows that this process encoded, once per channel; `seconds` is the time that took."""
    seconds: float = 0.0
    there: int = 0
    """Windows, once per channel, whose features are on disk."""

    def settle(self, part: FeaturePart, channel: int) -> bool:
        """Read a channel, or encode it unless another process does; False = not there yet."""
        path = self.root / part.key / f"channel-{channel}.safetensors"
        if self.stop_asked():
            return False
        if not self._take(path, part, channel):
            return True
        with _lock(path.with_name(f".channel-{channel}.lock")) as is_mine:
            if not is_mine:
                return False
            # Again: it may have been written since.
            fault = self._take(path, part, channel)
            if not fault:
                return True
            if path.is_file():
                logger.warning("%s is made anew: %s", path, fault)
            _sweep(path)
            file = self._encode(part, channel)
            if file is None:
                return False
            _write(path, file, part, channel)
            self.found[part.key, channel] = file
            return True

    def tell(self) -> None:
        total = len(self.channels) * sum(len(part.signals) for part in self.parts)
        speed = self.encoded / self.seconds if self.encoded else None
        self.report(
            {
                "phase": "encode",
                "step": self.there // len(self.channels),
                "total_steps": total // len(self.channels),
                "samples_per_second": speed and speed / len(self.channels),
                "seconds_left": speed and (total - self.there) / speed,
            }
        )

    def _take(self, path: Path, part: FeaturePart, channel: int) -> str:
        """Keep the features of a file that is whole and the right one; else say what is wrong."""
        if not path.is_file():
            return "it is not there"
        file = _read(path, part, channel)
        if isinstance(file, str):
            return file
        self.found[part.key, channel] = file
        self.there += len(file.features)
        return ""

    def _encode(self, part: FeaturePart, channel: int) -> _File | None:
        """One channel, or None when a stop was asked for."""
        blocks, before = [], self.seconds
        for block in part.signals.split(ENCODE_BATCH):
            if self.stop_asked():
                return None
            began = time.monotonic()
            with torch.inference_mode():
                blocks.append(self.encode(block.to(self.device), channel).float().cpu())
            self.seconds += time.monotonic() - began
            self.encoded += len(block)
            self.there += len(block)
            self.tell()
        features = torch.cat(blocks)
        _refuse_nonfinite(features, part, channel)
        return _File(features.contiguous(), self.seconds - before)


def _refuse_nonfinite(features: torch.Tensor, part: FeaturePart, channel: int) -> None:
    bad = torch.nonzero(~torch.isfinite(features).flatten(1).all(dim=1)).flatten().tolist()
    if bad:
        names = ", ".join(part.sample_ids[row] for row in bad[:4])
        raise NonFiniteError(
            f"the encoder gives NaN or infinity for {len(bad)} windows, channel {channel}: {names}",
            hint="use train.precision: fp32, or look at those windows",
        )


def _write(path: Path, file: _File, part: FeaturePart, channel: int) -> None:
    facts = {
        "key": part.key,
        "channel": channel,
        "sha256": sha256(_bytes_of(file.features)).hexdigest(),
        "seconds": file.seconds,
        "depends_on": part.depends_on,
    }
    with atomic_path(path) as temporary:
        save_file({"features": file.features}, temporary, metadata={"regatta": json.dumps(facts)})


def _read(path: Path, part: FeaturePart, channel: int) -> _File | str:
    """A file that is whole and the right one, or what is wrong with it."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = parse_json(file.metadata()["regatta"])
            features, seconds = file.get_tensor("features"), float(facts["seconds"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        return f"it cannot be read: {error}"
    if (facts.get("key"), facts.get("channel")) != (part.key, channel):
        return "it holds other features"
    if len(features) != len(part.signals):
        return f"it holds {len(features)} windows, not {len(part.signals)}"
    if facts.get("sha256") != sha256(_bytes_of(features)).hexdigest():
        return "its content is damaged"
    return _File(features, seconds)


def _bytes_of(tensor: torch.Tensor) -> Any:
    """Its bytes as a buffer, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _sweep(path: Path) -> None:
    """Remove a file that cannot be used, and what killed writers left of it."""
    for leftover in path.parent.glob(f".{path.name}.*{PARTIAL_SUFFIX}"):
        leftover.unlink(missing_ok=True)
    path.unlink(missing_ok=True)


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Whether this process alone has the lock for the length of the block."""
    try:
        make_folders(path.parent)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        is_mine = False
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_mine = True
        yield is_mine
    finally:
        os.close(descriptor)
