"""A running mean of the trained weights, which is validated, kept and judged in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

KEY = "average"
"""Name of the mean beside a parameter's optimizer state in a checkpoint."""


class WeightAverage:
    """mean <- d mean + (1 - d) weight after each step, from the first weights on.

    d = min(decay, (1 + n) / (10 + n)) in update n = 0, 1 ...: a fixed decay near 1 would hold on to
    the random first weights for thousands of steps. Weights that are not trained do not change, and
    buffers (batch-norm statistics) are the live ones, which are running means themselves.

    Sources: Polyak and Juditsky 1992, Acceleration of stochastic approximation by averaging; the
    warm-up is that of TensorFlow's ExponentialMovingAverage with num_updates.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.decay, self._names = decay, list(live)
        self._live = [parameter.detach() for parameter in live.values()]
        self._means = [tensor.clone() for tensor in self._live]

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Take the weights after step `number` (from 0) in."""
        decay = min(self.decay, (1 + number) / (10 + number))
        share = 1.0 - decay
        torch._foreach_lerp_(self._means, self._live, share)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The means stand in the module's parameters for the time of the block.

        Contents are exchanged, not tensors: compiled and sharded modules know theirs by address.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The means as `<parameter name>/average`."""
        return {f"{name}/{KEY}": mean for name, mean in zip(self._names, self._means, strict=True)}

    @torch.no_grad()
    def take_from(self, tensors: dict[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave, and take it out of `tensors`."""
        for name, mean in zip(self._names, self._means, strict=True):
            mean.copy_(tensors.pop(f"{name}/{KEY}"))

    @torch.no_grad()
    def _exchange(self) -> None:
        for live, mean in zip(self._live, self._means, strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)
