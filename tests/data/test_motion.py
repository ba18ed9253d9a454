"""Spectra of things whose frequency is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from regatta.config.schema import DataSection
from regatta.core.errors import DecodeError, StopRequested
from regatta.data.decode import content_hash_of
from regatta.data.manifest import Sample
from regatta.data.motion import Spectrum, class_spectra, clip_spectra, mean_spectrum, read_grey
from regatta.data.scan import build_manifest
from regatta.data.video_files import write_video

FPS = 32
TIMES = np.arange(128) / FPS


def blinking(rate_hz: float, depth: float = 100.0) -> np.ndarray:
    """A picture whose every pixel swings around grey."""
    grey = 128 + depth * np.sin(2 * np.pi * rate_hz * TIMES)
    return np.broadcast_to(grey[:, None, None], (len(TIMES), 32, 32))


def spectra(images: np.ndarray, fps: float = FPS) -> tuple[Spectrum, Spectrum]:
    found = clip_spectra(images, fps)
    assert found is not None
    return found


@pytest.mark.parametrize("rate_hz", [1.5, 2, 6, 11])
def test_a_sine_has_its_peak_and_all_its_power_at_its_rate(rate_hz):
    pixels, _ = spectra(blinking(rate_hz))
    assert pixels.dominant_hz == pytest.approx(rate_hz, abs=0.25)
    # The window spreads a line over the two neighbouring bins, half a hertz apart.
    assert pixels.band_hz == pytest.approx(rate_hz, abs=1.0)
    assert pixels.power.sum() == pytest.approx(1)


def test_hertz_come_from_the_frame_rate():
    slow, fast = spectra(blinking(4), fps=16)[0], spectra(blinking(4), fps=64)[0]
    assert slow.dominant_hz is not None
    assert fast.dominant_hz is not None
    assert (slow.dominant_hz, fast.dominant_hz) == (2, 8)


def test_two_sines_share_the_power_by_the_squares_of_their_swings():
    pixels, _ = spectra(blinking(2, 80) + blinking(10, 40) - 128)
    near_two = pixels.power[np.abs(pixels.frequencies_hz - 2) < 1.2].sum()
    assert near_two == pytest.approx(80**2 / (80**2 + 40**2), abs=0.01)
    assert pixels.dominant_hz == pytest.approx(2, abs=0.25)
    assert pixels.band_hz == pytest.approx(10, abs=1.0)


def test_white_noise_beside_a_sine_is_taken_out():
    noise = np.random.default_rng(0).normal(0, 30, (len(TIMES), 32, 32))
    pixels, _ = spectra(blinking(3, 40) + noise)
    near_three = pixels.power[np.abs(pixels.frequencies_hz - 3) < 1.2].sum()
    # Signal 40^2 / 2 = 800 against noise 900: without the step half the power would be noise.
    assert near_three > 0.9


def test_a_swinging_bar_changes_twice_per_swing():
    """Speed is largest in the middle, twice a period: the difference energy has twice the rate."""
    images = np.zeros((len(TIMES), 32, 32))
    columns = np.arange(32)
    for image, time in zip(images, TIMES, strict=True):
        place = 16 + 6 * np.sin(2 * np.pi * 2 * time)
        image[:] = 200 * np.exp(-np.square(columns - place) / 18)
    pixels, energy = spectra(images)
    assert energy.dominant_hz == pytest.approx(4, abs=0.25)
    assert pixels.dominant_hz in (2, 4)


def test_a_still_clip_has_no_frequency_and_a_short_one_no_spectrum():
    still, energy = spectra(np.full((64, 32, 32), 90.0))
    assert (still.dominant_hz, still.band_hz, energy.dominant_hz) == (None, None, None)
    assert clip_spectra(np.zeros((7, 32, 32)), FPS) is None
    assert clip_spectra(blinking(4)[:8], FPS) is not None


def test_the_mean_gives_every_moving_clip_the_same_weight():
    loud, soft = spectra(blinking(2, 100))[0], spectra(blinking(8, 10))[0]
    still = spectra(np.zeros((64, 32, 32)))[0]
    both = mean_spectrum([loud, soft, still])
    assert both.power[both.frequencies_hz < 5].sum() == pytest.approx(0.5, abs=0.01)
    assert mean_spectrum([still]).dominant_hz is None


def test_rotors_show_their_turning_rate(tmp_path):
    options = {"train_clips": 4, "validation_clips": 4, "test_clips": 8}
    data = DataSection(source="rotors", root=str(tmp_path / "rotors"), options=options)
    manifest = build_manifest(data, cache_folder=tmp_path, progress=None, stop=None)
    found = class_spectra(manifest.split("test"), per_class=2, seed=0)
    assert {name: facts["dominant_hz"] for name, facts in found.items()} == {
        "ccw-2hz": 2.0,
        "ccw-6hz": 6.0,
        "cw-2hz": 2.0,
        "cw-6hz": 6.0,
    }
    assert all(facts["samples"] == 2 and facts["fps"] == FPS for facts in found.values())
    assert found == class_spectra(manifest.split("test")[::-1], per_class=2, seed=0)


def video_sample(path: Path, *, frames: int, start: int = 0) -> Sample:
    return Sample(
        sample_id=path.name,
        path=str(path),
        label=0,
        label_name="swing",
        group="g",
        split="test",
        start_frame=start,
        frames=frames,
        fps=FPS,
        width=64,
        height=48,
        duration_seconds=frames / FPS,
        content_hash=content_hash_of(path),
    )


def test_a_segment_is_read_from_its_first_frame_to_its_last(tmp_path):
    images = np.empty((40, 48, 64, 3), dtype=np.uint8)
    images[:] = (5 * np.arange(40, dtype=np.uint8))[:, None, None, None]
    path = write_video(tmp_path / "ramp.mp4", images, fps=FPS, codec="libx264")
    grey = read_grey(video_sample(path, start=12, frames=20))
    assert grey.shape == (20, 32, 32)
    assert np.diff(grey.mean(axis=(1, 2))) == pytest.approx(5, abs=2)


def test_what_cannot_be_read_any_more_is_an_error_that_names_the_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", np.zeros((10, 48, 64, 3), np.uint8), fps=FPS)
    with pytest.raises(DecodeError, match="ends before frame 19"):
        read_grey(video_sample(path, frames=20))
    sample = video_sample(path, frames=10)
    write_video(path, np.full((11, 48, 64, 3), 9, np.uint8), fps=FPS)
    with pytest.raises(DecodeError, match="changed since"):
        read_grey(sample)


def test_measuring_stops_when_asked(tmp_path):
    path = write_video(tmp_path / "a.mp4", np.zeros((10, 48, 64, 3), np.uint8), fps=FPS)

    def leave() -> None:
        raise StopRequested("stopped while measuring motion")

    with pytest.raises(StopRequested):
        class_spectra([video_sample(path, frames=10)], per_class=1, seed=0, poll=leave)
