"""Laws of what can go wrong with a window: norms, spectra, places, and what counts as measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.evaluation.perturbations import (
    add_noise,
    lose_block,
    lose_channels,
    lower_rate,
    scale,
    start_later,
    turn_device,
)

TRIPLES = ((0, 1, 2), (3, 4, 5))
RATE_HZ = 50.0


def signal(channels: int = 7, length: int = 128, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((channels, length)).astype(np.float32)


def tone(hz: float, length: int = 128) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(length) / RATE_HZ + 0.4).astype(np.float32)[None]


def strongest_hz(values: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(values * np.hanning(len(values)), n=4096))
    return float(np.argmax(spectrum) * RATE_HZ / 4096)


def test_noise_has_the_asked_sd_on_every_channel_and_no_mean():
    clean, sd = np.zeros((3, 60_000), dtype=np.float32), np.array([0.1, 1.0, 5.0])
    noisy = add_noise(clean, sd, np.random.default_rng(1)).signal_CL
    assert noisy.dtype == np.float32
    # Sampling error of an sd over 60,000 draws: 0.3 %, of a mean 0.4 % of the sd.
    assert noisy.std(axis=1) == pytest.approx(sd, rel=0.02)
    assert np.abs(noisy.mean(axis=1) / sd).max() < 0.02


@given(degrees=st.floats(0.5, 180), seed=st.integers(0, 2**32 - 1))
def test_a_turned_device_keeps_lengths_and_angles_and_turns_all_sensors_alike(degrees, seed):
    before = signal()
    before[3:6] = before[0:3]
    after = turn_device(before, TRIPLES, degrees, np.random.default_rng(seed)).signal_CL
    assert np.linalg.norm(after[:3], axis=0) == pytest.approx(
        np.linalg.norm(before[:3], axis=0), rel=1e-4, abs=1e-5
    )
    assert np.array_equal(after[:3], after[3:6])
    assert np.array_equal(after[6], before[6])
    turning = np.linalg.lstsq(before[:3].T, after[:3].T, rcond=None)[0].T
    # The trace of a rotation by an angle a is 1 + 2 cos a; a mirror image has determinant -1.
    assert np.trace(turning) == pytest.approx(1 + 2 * np.cos(np.deg2rad(degrees)), abs=1e-3)
    assert np.linalg.det(turning) == pytest.approx(1, abs=1e-3)


def test_gain_scales_every_value():
    assert np.array_equal(scale(signal(), 2.0).signal_CL, 2 * signal())


def test_lost_channels_are_zero_and_not_measured():
    shown = lose_channels(signal(), (3, 4, 5))
    assert not shown.signal_CL[3:6].any()
    assert np.array_equal(
        np.delete(shown.signal_CL, [3, 4, 5], 0), np.delete(signal(), [3, 4, 5], 0)
    )
    truth = shown.truth(RATE_HZ)
    assert (truth.distinct_frames, truth.pad_share) == (128, pytest.approx(3 / 7))


@given(share=st.floats(0.01, 1.0), seed=st.integers(0, 2**32 - 1), length=st.integers(2, 200))
def test_a_lost_block_is_one_run_of_the_asked_length_inside_the_window(share, seed, length):
    shown = lose_block(np.ones((2, length), np.float32), share, np.random.default_rng(seed))
    lost = np.flatnonzero(shown.signal_CL[0] == 0)
    assert len(lost) == max(1, round(share * length))
    assert lost[-1] - lost[0] == len(lost) - 1
    assert np.array_equal(shown.measured_CL, shown.signal_CL != 0)


def test_lost_blocks_reach_both_ends_of_the_window():
    rng = np.random.default_rng(0)
    lost = [lose_block(np.ones((1, 8), np.float32), 0.25, rng).signal_CL[0] == 0 for _ in range(99)]
    assert {int(np.flatnonzero(row)[0]) for row in lost} == set(range(7))


@pytest.mark.parametrize(("hz", "factor"), [(20.0, 2), (16.0, 2), (9.0, 4), (11.0, 4)])
def test_a_tone_above_the_new_nyquist_folds_without_a_low_pass_and_is_gone_with_one(hz, factor):
    kept_hz = RATE_HZ / factor
    folded = abs(hz - kept_hz * round(hz / kept_hz))
    plain = lower_rate(tone(hz), factor, low_pass=False).signal_CL[0]
    filtered = lower_rate(tone(hz), factor, low_pass=True).signal_CL[0]
    assert strongest_hz(plain) == pytest.approx(folded, abs=0.5)
    assert np.abs(plain[20:-20]).max() > 0.7
    # Away from the mirrored ends: 46 dB down, where a Hamming window promises about 53.
    middle = filtered[48:80]
    assert np.abs(middle).max() < 0.005


@pytest.mark.parametrize("low_pass", [False, True])
def test_a_tone_far_below_the_new_nyquist_is_kept(low_pass):
    shown = lower_rate(tone(1.5), 2, low_pass=low_pass).signal_CL[0]
    assert shown[8:-8] == pytest.approx(tone(1.5)[0][8:-8], abs=0.02)


@given(factor=st.integers(2, 8), length=st.integers(16, 130))
def test_kept_samples_are_untouched_and_lines_between_them_are_straight(factor, length):
    before = signal(2, length)
    shown = lower_rate(before, factor, low_pass=False)
    kept = np.arange(0, length, factor)
    assert shown.signal_CL.shape == before.shape
    assert shown.signal_CL[:, kept] == pytest.approx(before[:, kept], abs=1e-6)
    for row, was in zip(shown.signal_CL, before, strict=True):
        assert row == pytest.approx(np.interp(np.arange(length), kept, was[kept]), abs=1e-5)
    truth = shown.truth(RATE_HZ)
    assert truth.distinct_frames == len(kept)
    assert truth.rate_hz == pytest.approx(RATE_HZ / factor)
    assert truth.pad_share == pytest.approx(1 - len(kept) / length)


def test_a_later_start_reads_on_and_then_holds_the_last_known_value():
    whole = signal(2, 40)
    read_on = start_later(whole[:, :32], whole[:, 32:36], 4)
    assert np.array_equal(read_on.signal_CL, whole[:, 4:36])
    assert read_on.measured_CL.all()
    held = start_later(whole[:, :32], whole[:, 32:36], 6)
    assert np.array_equal(held.signal_CL[:, :30], whole[:, 6:36])
    assert np.array_equal(held.signal_CL[:, 30:], np.repeat(whole[:, 35:36], 2, axis=1))
    assert held.truth(RATE_HZ).pad_share == pytest.approx(2 / 32)
    alone = start_later(whole[:, :32], whole[:, :0], 8)
    assert alone.truth(RATE_HZ).distinct_frames == 24
