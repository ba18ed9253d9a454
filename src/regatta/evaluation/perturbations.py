"""What can go wrong with a recorded window, as pure functions of the window and its own draws.

Every function takes a signal float32 [C, L] and returns what a model is shown with a mask of the
values that were measured. Shapes: C channels, L samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.ndimage import convolve1d
from scipy.signal import firwin
from scipy.spatial.transform import Rotation

from regatta.data.windows import Triple
from regatta.evaluation.window_protocols import ShownWindow, as_recorded

TAPS_PER_FACTOR = 20
CUTOFF_SHARE = 0.835
"""Of the new Nyquist rate. A Hamming window's transition is 3.3 / taps wide (in samples^-1), half
of it on either side of the cutoff; so everything from the new Nyquist rate on is stopped, by more
than 50 dB."""


def add_noise(signal_CL: np.ndarray, sd_C: np.ndarray, rng: np.random.Generator) -> ShownWindow:
    """White Gaussian noise of sd `sd_C` on each channel."""
    noise = rng.standard_normal(signal_CL.shape) * sd_C[:, None]
    return as_recorded((signal_CL + noise).astype(np.float32))


def turn_device(
    signal_CL: np.ndarray, triples: Sequence[Triple], degrees: float, rng: np.random.Generator
) -> ShownWindow:
    """Every sensor turned alike by `degrees` about one axis, drawn evenly over all directions."""
    axis = rng.standard_normal(3)
    turning = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.deg2rad(degrees)).as_matrix()
    turned = signal_CL.copy()
    for triple in triples:
        turned[list(triple)] = turning @ signal_CL[list(triple)]
    return as_recorded(turned)


def scale(signal_CL: np.ndarray, factor: float) -> ShownWindow:
    """All channels times `factor`."""
    return as_recorded((signal_CL * np.float32(factor)).astype(np.float32))


def lose_channels(signal_CL: np.ndarray, channels: Sequence[int]) -> ShownWindow:
    """These channels are zero throughout."""
    measured = np.ones(signal_CL.shape, dtype=bool)
    measured[list(channels)] = False
    return _zeroed(signal_CL, measured)


def lose_block(signal_CL: np.ndarray, share: float, rng: np.random.Generator) -> ShownWindow:
    """A run of `share` of the samples, at least one, is zero on all channels; its place is even
    over all that fit."""
    length = signal_CL.shape[1]
    lost = max(1, round(share * length))
    start = int(rng.random() * (length - lost + 1))
    measured = np.ones(signal_CL.shape, dtype=bool)
    measured[:, start : start + lost] = False
    return _zeroed(signal_CL, measured)


def _zeroed(signal_CL: np.ndarray, measured_CL: np.ndarray) -> ShownWindow:
    return ShownWindow(np.where(measured_CL, signal_CL, np.float32(0)), measured_CL)


def lower_rate(signal_CL: np.ndarray, factor: int, *, low_pass: bool) -> ShownWindow:
    """Every `factor`-th sample, and straight lines between them, so that the shape stays.

    Without the low-pass, whatever lies above the new Nyquist rate folds to a lower frequency; with
    it, it is gone first. The values behind the last kept sample hold it.
    """
    length = signal_CL.shape[1]
    measured = np.zeros(signal_CL.shape, dtype=bool)
    measured[:, ::factor] = True
    shown = signal_CL @ _thinning(length, factor, low_pass).T
    return ShownWindow(shown.astype(np.float32), measured)


@lru_cache(maxsize=64)
def _thinning(length: int, factor: int, low_pass: bool) -> np.ndarray:
    """The linear map of `lower_rate`, [L, L]: filter, keep, interpolate."""
    kept = np.arange(0, length, factor)
    filtered = np.eye(length)
    if low_pass:
        taps = firwin(TAPS_PER_FACTOR * factor + 1, CUTOFF_SHARE / factor)
        # Symmetric taps, so nothing moves in time; beyond its ends the window is mirrored.
        filtered = convolve1d(filtered, taps, axis=0, mode="mirror")
    places = np.arange(length)
    return np.stack([np.interp(places, kept, column) for column in filtered[kept].T], axis=1)


def start_later(signal_CL: np.ndarray, following_CF: np.ndarray, samples: int) -> ShownWindow:
    """The window that begins `samples` later, read on into what follows it.

    What is not known there holds the last known value, and counts as not measured.
    """
    length = signal_CL.shape[1]
    known = np.concatenate([signal_CL, following_CF], axis=1)[:, samples : samples + length]
    missing = length - known.shape[1]
    measured = np.ones(signal_CL.shape, dtype=bool)
    measured[:, length - missing :] = False
    return ShownWindow(np.pad(known, ((0, 0), (0, missing)), mode="edge"), measured)
