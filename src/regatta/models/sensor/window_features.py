"""Hand-made features of windows, computed inside the model: saved models need nothing else.

Shapes: B windows, C channels, L samples, P spectral bins without the constant one, F features.
All is float64: autocast leaves it alone, and a channel that never changes has exactly no variance.
"""

from __future__ import annotations

import math

import torch

PEAKS = 3
"""Spectral bins of most power whose power and frequency are features."""
LOW_BINS = 32
"""Spectral bins from the lowest whose log power is a feature each."""
POWER_FLOOR = 1e-3
"""Added before the logarithm, in squared units of the signal. On UCI-HAR, cross-validation by
recording moves by less than half a point of accuracy from 1e-6 to 1e-2."""


def window_features(signals_BCL: torch.Tensor) -> torch.Tensor:
    """Features [B, F] of raw windows; finite for finite signals, also for constant channels.

    Per channel: mean, sd, minimum, maximum, median (the lower of two in the middle), mean absolute
    difference, energy (mean square), power and frequency of the 3 strongest spectral bins, spectral
    entropy in [0, 1], and ln(power + 0.001) of bins 1 to 32; then Pearson's correlation of every
    pair of channels (0 where one of them is constant). Power is |rfft(x - mean)|^2; a frequency is
    in cycles per sample: the rate in Hz would be a common factor that standardising takes out.
    """
    signals = signals_BCL.double()
    centred = signals - signals.mean(dim=2, keepdim=True)
    power = torch.fft.rfft(centred, dim=2).abs().square()[..., 1:]
    columns = [
        *_moments(signals, centred),
        *_spectrum(power, length=signals.shape[2]),
        _correlations(centred),
    ]
    return torch.cat([column.flatten(1) for column in columns], dim=1)


def count_features(channels: int, length: int) -> int:
    """F for windows [C, L]."""
    bins = length // 2
    per_channel = 7 + 2 * min(PEAKS, bins) + 1 + min(LOW_BINS, bins)
    return channels * per_channel + channels * (channels - 1) // 2


def _moments(signals_BCL: torch.Tensor, centred_BCL: torch.Tensor) -> list[torch.Tensor]:
    return [
        signals_BCL.mean(dim=2),
        centred_BCL.square().mean(dim=2).sqrt(),
        signals_BCL.amin(dim=2),
        signals_BCL.amax(dim=2),
        signals_BCL.median(dim=2).values,
        signals_BCL.diff(dim=2).abs().mean(dim=2),
        signals_BCL.square().mean(dim=2),
    ]


def _spectrum(power_BCP: torch.Tensor, *, length: int) -> list[torch.Tensor]:
    bins = power_BCP.shape[2]
    strongest, places = power_BCP.topk(min(PEAKS, bins), dim=2)
    # Bins of no power have no order: which of them topk names differs between devices.
    frequencies = torch.where(strongest > 0, (places.double() + 1) / length, 0.0)
    share = power_BCP / power_BCP.sum(dim=2, keepdim=True).clamp_min(torch.finfo(torch.double).tiny)
    entropy = torch.special.entr(share).sum(dim=2) / math.log(max(2, bins))
    return [strongest, frequencies, entropy, (power_BCP[..., :LOW_BINS] + POWER_FLOOR).log()]


def _correlations(centred_BCL: torch.Tensor) -> torch.Tensor:
    """Pearson's r of each pair of channels, [B, C (C - 1) / 2]."""
    norms = centred_BCL.norm(dim=2, keepdim=True)
    units = centred_BCL / torch.where(norms > 0, norms, 1.0)
    channels = centred_BCL.shape[1]
    first, second = torch.triu_indices(channels, channels, offset=1, device=centred_BCL.device)
    return (units[:, first] * units[:, second]).sum(dim=2)
