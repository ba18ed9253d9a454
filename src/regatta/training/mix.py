"""Mixup and cutmix: training samples that are made of two, with both labels.

Shapes: B samples; pictures and clips [B, ..., H, W], signals [B, C, L], features [B, P, d].
Every random number comes from the seed of the optimizer step, so a resume draws them again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from regatta.core.seeds import stream


@dataclass(frozen=True)
class MixedLabels:
    """Two labels per sample: the first weighs `share`, the second 1 - `share`."""

    first_B: torch.Tensor
    second_B: torch.Tensor
    share: float


@dataclass(frozen=True)
class Mixing:
    """Which of the two are on; with both, each optimizer step does one, at even chance.

    step_share: chance that a step mixes at all.
    """

    mixup_alpha: float
    cutmix_alpha: float
    step_share: float = 1.0

    def begin_step(self, seed: int) -> StepMixer | None:
        """What mixes the step of this seed; None = its samples stay as they are."""
        rng = stream(seed, "mix")
        # Where every step mixes nothing is drawn for it, so that older runs repeat to the bit.
        if self.step_share < 1 and rng.random() >= self.step_share:
            return None
        cuts = self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or rng.random() < 0.5)
        return StepMixer(rng, cuts=cuts, alpha=self.cutmix_alpha if cuts else self.mixup_alpha)


@dataclass
class StepMixer:
    """Mixes the micro-batches of one optimizer step; each draws its own share and pairs."""

    rng: np.random.Generator
    cuts: bool
    alpha: float
    drawn: list[float] = field(default_factory=list)
    """Shares of the first label so far."""

    def mix(self, inputs: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, MixedLabels]:
        """Each sample joined with another of its batch; `inputs` is left as it is."""
        share = float(self.rng.beta(self.alpha, self.alpha))
        partners_B = torch.from_numpy(self.rng.permutation(len(inputs))).to(inputs.device)
        if self.cuts:
            mixed, share = _cut(inputs, inputs[partners_B], share, self.rng)
        else:
            mixed = torch.lerp(inputs, inputs[partners_B], 1.0 - share)
        self.drawn.append(share)
        return mixed, MixedLabels(labels_B, labels_B[partners_B], share)


def _cut(
    inputs: torch.Tensor, others: torch.Tensor, share: float, rng: np.random.Generator
) -> tuple[torch.Tensor, float]:
    """`inputs` with a part of `others`, and the share that truly stayed.

    The part is a box of pictures, the same in all frames of a clip (Yun et al. 2019, CutMix,
    section 3.1: sides sqrt(1 - share) of the picture's, centre anywhere, cut off at the border),
    or a span of time of signals, whose length is the share itself.
    """
    axes = 2 if inputs.dim() > 3 else 1
    ratio = (1.0 - share) ** (1.0 / axes)
    spans = [_draw_span(length, ratio, rng) for length in inputs.shape[-axes:]]
    mixed = inputs.clone()
    place = (..., *spans)
    mixed[place] = others[place]
    sizes = [span.stop - span.start for span in spans]
    return mixed, 1.0 - math.prod(sizes) / math.prod(inputs.shape[-axes:])


def _draw_span(length: int, ratio: float, rng: np.random.Generator) -> slice:
    cut, centre = int(length * ratio), int(rng.integers(length))
    return slice(max(0, centre - cut // 2), min(length, centre - cut // 2 + cut))
