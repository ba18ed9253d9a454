"""The file that holds the windows of signals of a study, for all its runs.

Shapes: N windows, C channels, L samples of a window, F hand-made features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from regatta.config.schema import DataSection
from regatta.core.errors import RecordError
from regatta.core.files import atomic_path
from regatta.core.json_text import parse_json
from regatta.data.manifest import Manifest, Sample
from regatta.data.window_listing import Triple
from regatta.data.window_scan import scan_windows


@dataclass(frozen=True)
class WindowStore:
    """The windows of a study, in the order of `ids`.

    signals: float32 [N, C, L]; features: float32 [N, F] or None.
    """

    ids: list[str]
    signals: torch.Tensor
    channels: tuple[str, ...]
    rate_hz: float
    triples: tuple[Triple, ...] = ()
    features: torch.Tensor | None = None

    @property
    def window(self) -> tuple[int, int]:
        """(C, L)."""
        return self.signals.shape[1], self.signals.shape[2]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def select(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Signals of these samples, float32 [n, C, L]."""
        return self.signals[self.rows(samples)]

    def rows(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Their rows, int64 [n]."""
        return torch.tensor([self._row_of[sample.sample_id] for sample in samples])

    def save(self, path: Path) -> None:
        """Write one safetensors file atomically."""
        tensors = {"signals": self.signals.contiguous()}
        if self.features is not None:
            tensors["features"] = self.features.contiguous()
        facts = {
            "ids": self.ids,
            "channels": self.channels,
            "rate_hz": self.rate_hz,
            "triples": self.triples,
        }
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"regatta": json.dumps(facts)})

    def check(self) -> None:
        """ValueError where the parts of the store contradict each other."""
        signals, features = self.signals, self.features
        if signals.ndim != 3 or signals.dtype != torch.float32:
            raise ValueError(f"signals are {signals.dtype} {list(signals.shape)}")
        if len(self.ids) != len(signals) or len(set(self.ids)) < len(self.ids):
            raise ValueError(f"{len(self.ids)} ids for {len(signals)} windows, or one twice")
        if len(self.channels) != signals.shape[1]:
            raise ValueError(f"{len(self.channels)} names for {signals.shape[1]} channels")
        if not 0 < self.rate_hz < math.inf:
            raise ValueError(f"the rate is {self.rate_hz}")
        places = {place for triple in self.triples for place in triple}
        if not places <= set(range(len(self.channels))):
            raise ValueError(f"sensors of channels {sorted(places)}")
        if features is not None and (features.ndim != 2 or len(features) != len(signals)):
            raise ValueError(f"features are {list(features.shape)} for {len(signals)} windows")

    @classmethod
    def load(cls, path: Path) -> WindowStore:
        """Read what `save` wrote; RecordError when it is missing or damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                facts = parse_json(file.metadata()["regatta"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            store = cls(
                facts["ids"],
                tensors["signals"],
                tuple(facts["channels"]),
                facts["rate_hz"],
                tuple((x, y, z) for x, y, z in facts["triples"]),
                tensors.get("features"),
            )
            store.check()
            return store
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"the windows cannot be read: {error}",
                where=path,
                hint="delete it and manifest.parquet, then run the study again",
            ) from error


def build_windows(data: DataSection) -> tuple[Manifest, WindowStore]:
    """The manifest of a source of signals, and its windows; raises as `scan_windows`."""
    scanned = scan_windows(data)
    features = scanned.features
    return scanned.manifest, WindowStore(
        [sample.sample_id for sample in scanned.manifest.samples],
        torch.from_numpy(scanned.signals),
        scanned.channels,
        scanned.rate_hz,
        scanned.triples,
        None if features is None else torch.from_numpy(features),
    )
