"""A process that encodes features into a cache and waits in the middle for a word of the test.

python -m tests.data.slow_encoder ROOT BATCHES
Prints the channel of every batch that it encodes, and "done" at its end. After BATCHES batches it
reads a line before it goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from regatta.data.feature_cache import ENCODE_BATCH, CachedFeatures, FeaturePart, cached_features

CHANNELS = (0, 1, 2)
COUNT = 2 * ENCODE_BATCH + 5


def part(**depends_on: object) -> FeaturePart:
    signals = torch.arange(COUNT * 3 * 4, dtype=torch.float32).reshape(COUNT, 3, 4)
    return FeaturePart(signals, [f"w{n}" for n in range(COUNT)], {"windows": "all", **depends_on})


def encode(signals_BCL: torch.Tensor, channel: int) -> torch.Tensor:
    """[B, 2]: sum and largest value of the channel."""
    chosen = signals_BCL[:, channel]
    return torch.stack([chosen.sum(dim=1), chosen.amax(dim=1)], dim=1)


def expected() -> torch.Tensor:
    signals = part().signals
    return torch.stack([signals.sum(dim=2), signals.amax(dim=2)], dim=2)


def run(
    root: Path, *, after_batch: Callable[[int], None] = lambda _: None, **changes: Any
) -> CachedFeatures:
    """Features of `part()`, or of `parts`; after_batch is told the channel of each batch."""

    def noted(signals_BCL: torch.Tensor, channel: int) -> torch.Tensor:
        features = encode(signals_BCL, channel)
        after_batch(channel)
        return features

    arguments: dict[str, Any] = {
        "channels": CHANNELS,
        "encode": noted,
        "device": torch.device("cpu"),
        "report": lambda _: None,
        "stop_asked": lambda: False,
    }
    found = cached_features(root, changes.pop("parts", [part()]), **{**arguments, **changes})
    assert found is not None
    return found


def main(root: Path, hold_after: int) -> None:
    seen: list[int] = []

    def speak(channel: int) -> None:
        seen.append(channel)
        print(channel, flush=True)
        if len(seen) == hold_after:
            sys.stdin.readline()

    assert torch.equal(run(root, after_batch=speak).features[0], expected())
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
