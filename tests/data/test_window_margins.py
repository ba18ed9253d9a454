"""Promises of the shift in time: only what training shows, never further than a recording goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from regatta.core.errors import ConfigError
from regatta.data.manifest import Sample
from regatta.data.window_augment import build_augment
from regatta.data.window_margins import augmented_inputs, with_margins
from regatta.data.windows import WindowStore

LENGTH, STEP = 8, 4
STILL = {"noise": [0, 0], "gain": [1, 1]}


def sample(number: int, recording: str, start: int) -> Sample:
    return Sample(
        f"w/{number}", "w", 0, "walk", "anna", "train", start, LENGTH, 50.0, 0, 0, 0.16,
        str(number), {"recording": recording},
    )  # fmt: skip


def recording() -> tuple[torch.Tensor, list[Sample], WindowStore]:
    """Six windows of one ramp, then one alone; sample t of channel c is t + 1000 c."""
    ramp = torch.stack([torch.arange(28.0), 1000 + torch.arange(28.0)])
    starts = [0, 4, 8, 12, 16, 20]
    signals = torch.stack([ramp[:, s : s + LENGTH] for s in starts] + [-ramp[:, :LENGTH]])
    samples = [sample(n, "a", start) for n, start in enumerate(starts)] + [sample(6, "b", 0)]
    store = WindowStore([s.sample_id for s in samples], signals, ("x", "y"), 50.0)
    return signals, samples, store


def test_margins_hold_what_the_recording_holds_there() -> None:
    signals, samples, _ = recording()
    wide = with_margins(signals, samples, 6)
    assert wide.shape == (7, 2, 20)
    assert wide[2, 0].tolist() == list(range(2, 22))
    assert wide[2, 1].tolist() == [1000 + t for t in range(2, 22)]
    assert torch.isnan(wide[0, :, :6]).all()
    assert wide[0, 0, 6:].tolist() == list(range(14))
    assert torch.isnan(wide[6, 0]).sum() == 12


def test_window_that_does_not_train_leaves_a_hole_that_is_not_crossed() -> None:
    signals, samples, _ = recording()
    kept = [0, 1, 4, 5]
    wide = with_margins(signals[kept], [samples[n] for n in kept], 6)
    # Window 1 covers 4..11; 12..15 is shown by windows 2 and 3 alone.
    assert torch.isnan(wide[1, :, :2]).all()
    assert wide[1, 0, 2:14].tolist() == list(range(12))
    assert torch.isnan(wide[1, 0, 14:]).all()


def test_shifted_windows_are_true_pieces_of_the_recording() -> None:
    signals, samples, store = recording()
    inputs, augment = augmented_inputs({"shift_samples": 3, **STILL}, store, samples)
    seen: dict[int, set[int]] = {n: set() for n in range(7)}
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        shifted = augment(inputs, generator=generator)
        assert shifted.shape == signals.shape
        for number, (window, own) in enumerate(zip(shifted, signals, strict=True)):
            moved = window - window[:, :1]
            assert torch.equal(moved, own - own[:, :1])
            seen[number].add(int((window[0, 0] - own[0, 0]).item()))
    assert seen[0] == {0, 1, 2, 3}
    assert seen[2] == {-3, -2, -1, 0, 1, 2, 3}
    assert seen[5] == {-3, -2, -1, 0}
    assert seen[6] == {0}


def test_single_windows_cannot_be_shifted() -> None:
    signals, samples, _ = recording()
    alone = [sample(n, f"r{n}", 0) for n in range(7)]
    store = WindowStore([s.sample_id for s in alone], signals, ("x", "y"), 50.0)
    with pytest.raises(ConfigError, match="single windows"):
        augmented_inputs({"shift_samples": 3}, store, alone)
    with pytest.raises(ConfigError, match="cached variants"):
        build_augment({"shift_samples": 3}, signals, ())
    with pytest.raises(ConfigError, match="shorter than the window of 8"):
        augmented_inputs({"shift_samples": 8}, store, samples)


def test_real_windows_that_overlap_can_be_shifted(shared_data: Path) -> None:
    from regatta.config.schema import DataSection
    from regatta.data.windows import build_windows

    root = str(shared_data / "UCI HAR Dataset")
    manifest, store = build_windows(DataSection(source="uci-har", root=root))
    samples = manifest.split("train")
    inputs, _ = augmented_inputs({"shift_samples": 8}, store, samples)
    bounded = ~torch.isnan(inputs[:, 0])
    sides = bounded[:, 0] | bounded[:, -1]
    # Of the 716 pairs that overlap by half, those inside training give a side to two windows each.
    assert 0.3 < float(sides.float().mean()) < 0.7
    assert np.isfinite(store.select(samples).numpy()).all()
