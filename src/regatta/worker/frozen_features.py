"""What a frozen encoder makes of a run's windows: on disk once, for all runs that need the same.

Shapes: N windows, C channels, L samples, V views, P encoded channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regatta.config.expand import RunSpec
from regatta.core.errors import StopRequested
from regatta.core.seeds import derive_seed
from regatta.core.signals import StopFlag
from regatta.data.feature_cache import (
    CachedFeatures,
    FeaturePart,
    cached_features,
    feature_bytes,
    tensors_hash,
)
from regatta.data.manifest import Sample
from regatta.data.window_margins import augmented_inputs
from regatta.data.windows import WindowStore
from regatta.models.contracts import EncodesOnce
from regatta.training.distributed import Ranks
from regatta.training.precision import choose_precision, reproducible_math

FEATURE_LIMIT_GIB = 4.0
"""Features of one run that would take more, on disk and in memory, are not kept: tokens of all
patches, mostly."""
VIEW_BLOCK = 1024
"""Windows that are augmented together; part of what a view's random numbers are."""


def augmented_views(
    run_spec: RunSpec, store: WindowStore, samples: Sequence[Sample]
) -> list[torch.Tensor]:
    """The training windows [N, C, L] as they are, and `train.augment_views` - 1 variants.

    Variant v is drawn from the stream (seed, "view", v).
    """
    train, views = run_spec.train, [store.select(samples)]
    for number in range(1, train.augment_views):
        inputs, augment = augmented_inputs(train.augment_options, store, samples)
        generator = torch.Generator().manual_seed(derive_seed(run_spec.seed, "view", number))
        blocks = inputs.split(VIEW_BLOCK)
        views.append(torch.cat([augment(block, generator=generator) for block in blocks]))
    return views


@dataclass
class FrozenEncoder:
    """The encoder of one run's module, in evaluation mode, and what its features depend on."""

    module: EncodesOnce
    run_spec: RunSpec
    device: torch.device
    report: Callable[[dict[str, Any]], None]
    stop: StopFlag

    def __post_init__(self) -> None:
        assert isinstance(self.module, nn.Module)
        self.module.to(self.device).eval()
        self._precision = choose_precision(self.run_spec.train.precision, self.device)
        # Not the head's: it learns, and its pool, mode and layers work on the features.
        state = self.module.state_dict()
        self._weights = tensors_hash(
            {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
        )

    def part(self, signals_NCL: torch.Tensor, samples: Sequence[Sample], view: int) -> FeaturePart:
        """These windows with all that their features depend on."""
        content = "\n".join(sample.content_hash for sample in samples)
        depends_on: dict[str, Any] = {
            "windows": sha256(content.encode()).hexdigest(),
            "encoding": self.module.encoding_identity(),
            "weights": self._weights,
            "precision": self._precision.name,
            "torch": str(torch.__version__),
        }
        if view:
            depends_on["view"] = tensors_hash({"signals": signals_NCL})
        return FeaturePart(signals_NCL, [sample.sample_id for sample in samples], depends_on)

    def bytes_of(self, parts: Sequence[FeaturePart]) -> str | None:
        """In words, that the features would be too large to keep; None when they may be kept."""
        channels = self.module.feature_channels
        gib = feature_bytes(self.encode, parts, channels, device=self.device) / 2**30
        if gib <= FEATURE_LIMIT_GIB:
            return None
        return f"they would take {gib:.1f} GiB, over the limit of {FEATURE_LIMIT_GIB:g} GiB"

    def features(self, root: Path, parts: Sequence[FeaturePart], ranks: Ranks) -> CachedFeatures:
        """Features float32 [N, P, ...] of each part, from disk or encoded now.

        Raises:
            StopRequested: on every rank, when one was asked; channels that are done are kept.
            NonFiniteError, DiskError: see `data.feature_cache`.
        """
        with reproducible_math(self.device, deterministic=self.run_spec.train.deterministic):
            found = cached_features(
                root,
                parts,
                channels=self.module.feature_channels,
                encode=self.encode,
                device=self.device,
                report=self.report,
                stop_asked=lambda: self.stop.requested,
            )
        if ranks.any(found is None):
            if not self.stop.requested:
                # Another rank was asked; this one leaves in the same way.
                self.stop.request("SIGTERM")
            error = StopRequested(
                f"stopped by {self.stop.signal_name} while encoding; channels that are done are "
                "kept",
                where=root,
                hint="run the same command again: it continues with the next channel",
            )
            error.exit_code = self.stop.exit_code
            raise error
        assert found is not None
        return found

    def encode(self, signals_BCL: torch.Tensor, channel: int) -> torch.Tensor:
        """Features [B, ...] of one channel in the run's precision."""
        with self._precision.autocast():
            return self.module.encode_channel(signals_BCL, channel)

    def summary(self, *, views: int) -> str:
        """One line for the log: what the head is trained on."""
        shown = (
            "every window as it is, no augmentation"
            if views == 1
            else f"{views} views of every window, epoch e shows view e mod {views}; "
            "view 0 is not augmented"
        )
        return f"trained on frozen features: {shown}"
