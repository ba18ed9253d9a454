"""How fast things move: the temporal spectrum of a class's pictures, in real Hz.

A clip is brought to 32 x 32 grey pixels and each pixel's brightness over time goes through Welch's
method (Welch 1967); the mean over pixels is the clip's spectrum. What stands still adds nothing,
since the mean is taken out, and white camera noise, which is the same at every frequency, is taken
out too. Something that repeats r times a second has its peak at r Hz, and a sampler must run at
twice the frequency below which nearly all power lies.

Beside it stands the spectrum of the frame-difference energy, the mean squared change from one frame
to the next: it tells how often the amount of motion rises and falls, twice per swing of a pendulum,
and is flat for anything that turns evenly.

Shapes: N frames, P = 32 x 32 pixels, F frequencies.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from regatta.core.errors import DecodeError
from regatta.core.seeds import stream
from regatta.data.decode import content_hash_of
from regatta.data.manifest import Sample
from regatta.data.video_stream import decode_stream, open_video

SIDE = 32
MAX_FRAMES = 512
"""Frames read of a clip; a longer one is described by its start."""
MIN_FRAMES = 8
SEGMENT_FRAMES = 64
"""Length of Welch's segments: 0.4 Hz apart at 25 frames per second."""
STEP_HZ = 0.25
"""Spacing of the common frequencies of a class."""
BAND_SHARE = 0.95
FLOOR_QUANTILE = 0.1


@dataclass(frozen=True)
class Spectrum:
    """Power over frequency, the sum of the power being 1 (all 0 where nothing changes).

    frequencies_hz, power: float64 [F], the first above 0 Hz.
    """

    frequencies_hz: np.ndarray
    power: np.ndarray

    @property
    def dominant_hz(self) -> float | None:
        """Where most power is; None where nothing changes."""
        return float(self.frequencies_hz[self.power.argmax()]) if self.power.any() else None

    @property
    def band_hz(self) -> float | None:
        """The frequency below which 95 % of the power lies."""
        if not self.power.any():
            return None
        place = int(np.searchsorted(np.cumsum(self.power), BAND_SHARE - 1e-12))
        return float(self.frequencies_hz[min(place, len(self.power) - 1)])


def class_spectra(
    samples: Sequence[Sample],
    *,
    per_class: int,
    seed: int,
    poll: Callable[[], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Spectra per class from a seeded choice of `per_class` samples each.

    Args:
        poll: called before each file; may raise to leave.
    Returns:
        class name -> JSON facts: samples, fps (mean), dominant_hz, f95_hz, frequencies_hz, power,
        energy_dominant_hz and energy_f95_hz. The frequencies are None and the lists empty for a
        class whose clips have fewer than 8 frames or no motion.
    Raises:
        DecodeError: a file is gone, changed or damaged.
    """
    by_class: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.sample_id):
        by_class.setdefault(sample.label_name, []).append(sample)
    found = {}
    for name, mine in sorted(by_class.items()):
        order = stream(seed, "motion", name).permutation(len(mine))[:per_class]
        chosen = [mine[place] for place in sorted(order)]
        clips = []
        for sample in chosen:
            if poll is not None:
                poll()
            clips.append(clip_spectra(read_grey(sample), sample.fps))
        found[name] = _class_facts(chosen, [pair for pair in clips if pair is not None])
    return found


def read_grey(sample: Sample) -> np.ndarray:
    """The first frames of a sample, at most 512, as float32 [N, 32, 32] grey levels 0 to 255.

    Raises:
        DecodeError: the file is gone, was changed since the scan, or ends too early.
    """
    if content_hash_of(sample.path) != sample.content_hash:
        raise DecodeError(
            "the file changed since the data folder was scanned",
            where=sample.path,
            hint="put the old file back, or start a new study on the new data",
        )
    first, stop = sample.start_frame, sample.start_frame + min(sample.frames, MAX_FRAMES)
    reformatter, images = VideoReformatter(), []
    with open_video(Path(sample.path)) as video:
        for item in decode_stream(video):
            if item.ordinal < first:
                continue
            small = reformatter.reformat(
                item.frame,
                width=SIDE,
                height=SIDE,
                format="gray",
                interpolation=Interpolation.AREA,
                threads=1,
            )
            images.append(small.to_ndarray())
            if item.ordinal + 1 == stop:
                return np.stack(images).astype(np.float32)
    raise DecodeError(f"the file ends before frame {stop - 1}", where=sample.path)


def clip_spectra(images_NHW: np.ndarray, fps: float) -> tuple[Spectrum, Spectrum] | None:
    """Spectrum of the pixels and of the frame-difference energy; None below 8 frames."""
    if len(images_NHW) < MIN_FRAMES:
        return None
    pixels_NP = images_NHW.reshape(len(images_NHW), -1).astype(np.float64)
    energy_N = np.square(np.diff(pixels_NP, axis=0)).mean(axis=1)
    return _spectrum(pixels_NP, fps), _spectrum(energy_N[:, None], fps)


def _spectrum(series_NP: np.ndarray, fps: float) -> Spectrum:
    # scipy.signal takes a third of a second to load, and most tasks never come here.
    from scipy.signal import welch

    length = min(len(series_NP), SEGMENT_FRAMES)
    with warnings.catch_warnings(action="error"):
        frequencies, power = welch(series_NP, fs=fps, nperseg=length, detrend="constant", axis=0)
    # Without the ends: the mean is taken out at 0 Hz, and the last bin of an even length counts
    # one half of a pair.
    frequencies, mean = frequencies[1:-1], power.mean(axis=1)[1:-1]
    # The floor is a low quantile, not the least: taking the mean out also lowers the first bins.
    mean = np.maximum(0.0, mean - np.quantile(mean, FLOOR_QUANTILE))
    total = mean.sum()
    if total <= 1e-12 * max(1.0, float(np.square(series_NP).mean())):
        return Spectrum(frequencies, np.zeros_like(mean))
    return Spectrum(frequencies, mean / total)


def mean_spectrum(spectra: Sequence[Spectrum]) -> Spectrum:
    """The mean of normalised spectra on common frequencies 0.25 Hz apart."""
    moving = [spectrum for spectrum in spectra if spectrum.power.any()]
    if not moving:
        return Spectrum(np.empty(0), np.empty(0))
    top = max(float(spectrum.frequencies_hz[-1]) for spectrum in moving)
    common = np.arange(1, int(np.ceil(top / STEP_HZ)) + 1) * STEP_HZ
    total = np.zeros_like(common)
    for spectrum in moving:
        # A clip says nothing about frequencies above half its frame rate: no power there.
        power = np.interp(common, spectrum.frequencies_hz, spectrum.power, left=0.0, right=0.0)
        total += power / power.sum() if power.any() else 0.0
    return Spectrum(common, total / total.sum() if total.any() else total)


def _class_facts(
    chosen: Sequence[Sample], clips: Sequence[tuple[Spectrum, Spectrum]]
) -> dict[str, Any]:
    pixels = mean_spectrum([pair[0] for pair in clips])
    energy = mean_spectrum([pair[1] for pair in clips])
    return {
        "samples": len(clips),
        "fps": float(np.mean([sample.fps for sample in chosen])),
        "dominant_hz": pixels.dominant_hz,
        "f95_hz": pixels.band_hz,
        "energy_dominant_hz": energy.dominant_hz,
        "energy_f95_hz": energy.band_hz,
        "frequencies_hz": pixels.frequencies_hz.tolist(),
        "power": pixels.power.tolist(),
    }
