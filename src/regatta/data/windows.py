"""Windows of signals: what a source of signals gives, and the file that holds them for all runs.

Shapes: N windows, C channels, L samples of a window, F hand-made features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from regatta.core.errors import RecordError
from regatta.core.files import atomic_path
from regatta.data.manifest import Dropped, Sample, SplitName

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class WindowRow:
    """What a source says about one window; row i belongs to `WindowListing.signals[i]`."""

    sample_id: str
    """Unique, and the same on every machine."""
    label_name: str
    path: Path
    """File that the window comes from."""
    recording: str
    """Windows of one recording follow one another in time, and may overlap."""
    start: int
    """First sample of the window in its recording."""
    subject: str = ""
    """Empty = unknown; either all windows of a source have one or none has."""
    split: SplitName = ""
    """Empty = the source does not say."""


@dataclass(frozen=True)
class WindowListing:
    """What a source of signals read.

    signals: float32 [N, C, L] in physical units; NaN and infinity are left for the scan to refuse.
    classes: names in the order of their labels. triples: channels x, y, z of one sensor, which turn
    together. features: float32 [N, F], hand-made, where the files hold some.
    """

    signals: np.ndarray
    rows: list[WindowRow]
    channels: tuple[str, ...]
    rate_hz: float
    classes: list[str]
    triples: tuple[Triple, ...] = ()
    features: np.ndarray | None = None
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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

    @classmethod
    def load(cls, path: Path) -> WindowStore:
        """Read what `save` wrote; RecordError when it is missing or damaged."""
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads(file.metadata()["regatta"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(
                facts["ids"],
                tensors["signals"],
                tuple(facts["channels"]),
                facts["rate_hz"],
                tuple((x, y, z) for x, y, z in facts["triples"]),
                tensors.get("features"),
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"the windows cannot be read: {error}",
                where=path,
                hint="delete it and manifest.parquet, then run the study again",
            ) from error
