"""Augmentation of raw signals on the device, before they are drawn or standardised.

Shapes: B windows, C channels, L samples. All channels of a window change alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from regatta.config.options import typed_options
from regatta.core.errors import ConfigError
from regatta.data.window_listing import Triple


@dataclass(frozen=True)
class SignalAugment:
    """Noise and gain, and if asked for a shift in time, a rotation of the sensors and the loss of
    channels.

    noise: range of the noise's sd as a share of each channel's sd. gain: range of the factor.
    rotation_degrees: largest angle of a rotation about a random axis, shared by all `triples`.
    channel_dropout: chance that one channel, drawn at random, is zero.
    shift_samples: largest shift in time; the inputs then have so many samples more on either side,
    NaN where the recording does not go on.
    scale_C: sd of each channel over the training windows.
    """

    noise: tuple[float, float]
    gain: tuple[float, float]
    rotation_degrees: float
    channel_dropout: float
    scale_C: torch.Tensor
    triples: tuple[Triple, ...]
    shift_samples: int = 0

    def __call__(self, inputs: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        """float32 [B, C, L] (L + 2 shift_samples with a shift) -> [B, C, L]; draws are made in a
        fixed order."""
        if self.shift_samples:
            inputs = self._shifted(inputs, generator)

        def uniform(low: float, high: float) -> torch.Tensor:
            draw = torch.rand((len(inputs), 1, 1), generator=generator, device=inputs.device)
            return low + (high - low) * draw

        signals = inputs * uniform(*self.gain)
        if self.rotation_degrees:
            signals = turn(signals, self.triples, self._rotations(len(inputs), generator))
        level = uniform(*self.noise) * self.scale_C.to(inputs.device)[None, :, None]
        noise = torch.randn(inputs.shape, generator=generator, device=inputs.device)
        signals = signals + noise * level
        if self.channel_dropout:
            signals = signals * self._kept(inputs, generator)
        return signals

    def _shifted(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Each window moved by a whole number of samples, uniform as far as its recording goes."""
        margin, count = self.shift_samples, len(inputs)
        length = inputs.shape[2] - 2 * margin
        there = ~torch.isnan(inputs[:, 0])
        before, after = there[:, :margin].sum(1), there[:, margin + length :].sum(1)
        draw = torch.rand(count, generator=generator, device=inputs.device)
        # float32 may round the product up to the number of places itself.
        shift = torch.minimum((draw * (before + after + 1)).long(), before + after) - before
        places = torch.arange(length, device=inputs.device) + margin + shift[:, None]
        return inputs.gather(2, places[:, None].expand(-1, inputs.shape[1], -1))

    def _rotations(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Rotation matrices [count, 3, 3]: a uniform axis, an angle uniform up to the limit."""
        device = generator.device
        axis = torch.randn((count, 3), generator=generator, device=device)
        axis = axis / axis.norm(dim=1, keepdim=True).clamp_min(1e-9)
        angle = torch.rand((count, 1), generator=generator, device=device)
        return rotation_matrices(axis * angle * self.rotation_degrees * torch.pi / 180)

    def _kept(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        count, channels, _ = inputs.shape
        lost = torch.rand((count, 1), generator=generator, device=inputs.device)
        which = torch.randint(channels, (count, 1), generator=generator, device=inputs.device)
        numbers = torch.arange(channels, device=inputs.device)[None]
        return (~((lost < self.channel_dropout) & (numbers == which)))[:, :, None].to(inputs.dtype)


def rotation_matrices(vectors_N3: torch.Tensor) -> torch.Tensor:
    """Rotations [N, 3, 3] about each vector by its length in radians (Rodrigues' formula)."""
    zero = torch.zeros_like(vectors_N3[:, 0])
    x, y, z = vectors_N3.unbind(1)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    return torch.linalg.matrix_exp(cross)


def turn(
    signals_BCL: torch.Tensor, triples: tuple[Triple, ...], rotations_B33: torch.Tensor
) -> torch.Tensor:
    """The signals with the x, y, z of every sensor turned by each window's rotation."""
    turned = signals_BCL.clone()
    for triple in triples:
        rows = list(triple)
        turned[:, rows] = torch.einsum("bij,bjl->bil", rotations_B33, signals_BCL[:, rows])
    return turned


def signal_augment(
    *,
    noise: tuple[float, float] = (0.01, 0.05),
    gain: tuple[float, float] = (0.9, 1.1),
    rotation_degrees: float = 0.0,
    channel_dropout: float = 0.0,
    shift_samples: int = 0,
) -> dict[str, Any]:
    """The settings of `train.augment_options` for signals, with their defaults, checked.

    Raises:
        ConfigError: a range that runs backwards or lies out of bounds.
    """
    for name, (low, high) in {"noise": noise, "gain": gain}.items():
        if not 0 <= low <= high:
            raise ConfigError(
                f"{name} is a range from low to high, not negative; got [{low}, {high}]",
                where=f"train.augment_options.{name}",
            )
    if not 0 <= rotation_degrees <= 180 or not 0 <= channel_dropout <= 1 or shift_samples < 0:
        raise ConfigError(
            "rotation_degrees is 0 to 180, channel_dropout 0 to 1, shift_samples 0 or more",
            where="train.augment_options",
        )
    return {
        "noise": noise,
        "gain": gain,
        "rotation_degrees": rotation_degrees,
        "channel_dropout": channel_dropout,
        "shift_samples": shift_samples,
    }


def build_augment(
    options: dict[str, Any],
    signals_NCL: torch.Tensor,
    triples: tuple[Triple, ...],
    *,
    can_shift: bool = False,
) -> SignalAugment:
    """The augmentation for these training windows; ConfigError as `signal_augment`.

    Args:
        can_shift: whether the inputs will bring the margins of `data.window_margins`.
    """
    checked = typed_options(
        signal_augment, options, where="train.augment_options", owner="signals", strict=False
    )
    settings = signal_augment(**checked)
    if settings["rotation_degrees"] and not triples:
        raise ConfigError(
            "the channels form no x, y, z triples, so nothing can be turned",
            where="train.augment_options.rotation_degrees",
            hint="set it to 0, or name data.options.triples",
        )
    window = signals_NCL.shape[2]
    if settings["shift_samples"] and (not can_shift or settings["shift_samples"] >= window):
        reason = (
            f"a shift must be shorter than the window of {window} samples"
            if can_shift
            else "cached variants of single windows cannot be shifted in time"
        )
        raise ConfigError(
            reason, where="train.augment_options.shift_samples", hint="set it to 0 or lower"
        )
    return SignalAugment(
        **settings, scale_C=signals_NCL.std(dim=(0, 2), correction=0), triples=triples
    )
