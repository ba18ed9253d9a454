"""Drawn signals against a distance written out in numpy, against PIL, and against laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from regatta.models.sensor import drawing
from regatta.models.sensor.drawing import Drawing, draw_heatmaps, draw_lines

UNIT = (torch.zeros(1), torch.ones(1))


def walks(count: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed)).cumsum(1)


def spanned(curves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return curves.amin(dim=1), curves.amax(dim=1)


def points_by_definition(curve: np.ndarray, side: int) -> np.ndarray:
    """x = m + i (W - 2m) / (L - 1), y = m + (hi - v)(H - 2m) / (hi - lo), in float64."""
    margin, last = 0.05 * side, len(curve) - 1
    low, high = curve.min(), curve.max()
    x = margin + np.arange(last + 1) * (side - 2 * margin) / last
    return np.stack([x, margin + (high - curve) * (side - 2 * margin) / (high - low)], axis=1)


def grey_by_definition(points: np.ndarray, side: int) -> np.ndarray:
    """Every pixel centre against every segment: 255 * clip(distance - 0.5, 0, 1)."""
    u, v = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    centre = np.stack([u, v], axis=-1)[:, :, None]
    start, along = points[:-1], np.diff(points, axis=0)
    foot = np.clip(((centre - start) * along).sum(-1) / (along**2).sum(-1), 0, 1)[..., None]
    gap = np.linalg.norm(centre - start - foot * along, axis=-1).min(axis=-1)
    return np.round(255 * np.clip(gap - 0.5, 0, 1))


@pytest.mark.parametrize(("side", "length"), [(224, 128), (32, 128), (48, 30), (32, 2), (40, 300)])
def test_a_pixel_is_as_dark_as_its_distance_to_the_curve_says(side: int, length: int) -> None:
    curves = walks(1, length)
    drawn = draw_lines(curves, *spanned(curves), side=side).numpy()
    assert drawn.dtype == np.uint8
    for picture, curve in zip(drawn, curves.double().numpy(), strict=True):
        expected = grey_by_definition(points_by_definition(curve, side), side)
        # One level: float32 against float64 at the edge of rounding.
        assert np.abs(picture - expected).max() <= 1


def test_it_looks_like_the_line_that_pil_draws_in_high_resolution() -> None:
    side, fine = 64, 16
    curve = walks(1, 40, seed=3)
    points = points_by_definition(curve[0].double().numpy(), side) * fine
    canvas = Image.new("L", (side * fine, side * fine), 255)
    pen = ImageDraw.Draw(canvas)
    pen.line([tuple(point) for point in points], fill=0, width=2 * fine)
    for x, y in points:  # round joints: PIL leaves notches between segments
        pen.ellipse((x - fine, y - fine, x + fine, y + fine), fill=0)
    expected = np.asarray(canvas.resize((side, side), Image.Resampling.BOX)).astype(float)
    drawn = draw_lines(curve, *spanned(curve), side=side)[0].numpy().astype(float)
    assert expected.min() == 0
    gaps = np.abs(drawn - expected)
    # PIL gives the covered share of a pixel, a ramp by distance rounds corners off.
    assert gaps.mean() < 3
    assert np.percentile(gaps, 99) < 40


def test_a_level_line_is_two_pixels_and_ends_round_by_hand() -> None:
    # Side 40: margin 2, y = 20 between rows 19 and 20, x from 2 to 38.
    picture = draw_lines(torch.full((1, 5), 0.5), *UNIT, side=40)[0]
    assert picture[:, 20].tolist() == [255] * 19 + [0, 0] + [255] * 19
    # Pixel (19, 1) has its centre (0.5, 0.5) off the end: 255 (sqrt(0.5) - 0.5) = 52.8.
    assert picture[19, :4].tolist() == [255, 53, 0, 0]
    assert torch.equal(picture, picture.flip(0))
    assert torch.equal(picture, picture.flip(1))


def test_the_highest_value_is_at_the_top_and_time_runs_to_the_right() -> None:
    # From (2, 38) to (38, 2): the rising diagonal.
    picture = draw_lines(torch.tensor([[0.0, 1.0]]), *UNIT, side=40)[0]
    assert picture[2, 37] == picture[37, 2] == 0
    assert picture[2, 2] == picture[37, 37] == 255


@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=20),
    st.integers(-1000, 1000),
    st.sampled_from([0.25, 1.0, 8.0]),
)
def test_window_scale_does_not_see_offset_and_gain(values: list[int], shift: int, gain: float):
    drawn = Drawing(1, side=32, kind="line", scale="window")
    signal = torch.tensor(values, dtype=torch.float32)[None, None]
    assert torch.equal(drawn(signal, (0,)), drawn(gain * signal + shift, (0,)))


def test_a_window_that_never_changes_is_a_line_in_the_middle_of_window_scale() -> None:
    drawn = Drawing(1, side=40, kind="line", scale="window")
    middle = draw_lines(torch.full((1, 6), 0.5), *UNIT, side=40)
    for value in (-3.0, 0.0, 9.81):
        assert torch.equal(drawn(torch.full((1, 1, 6), value), (0,))[0], middle)


def test_physical_scale_sees_gravity_and_clips_what_leaves_its_range() -> None:
    drawn = Drawing(2, side=40, kind="line", scale="physical")
    training = torch.zeros(1001, 2, 1)
    training[:, 0, 0] = torch.arange(1001.0)
    training[:, 1, 0] = 7.0
    drawn.fit(training)
    # The 0.1 and 99.9 percentiles of 0..1000 are 1 and 999; a channel without range has low = high.
    assert torch.allclose(drawn.low_C, torch.tensor([1.0, 7.0]))
    assert torch.allclose(drawn.high_C, torch.tensor([999.0, 7.0]))
    wave = torch.tensor([[[300.0, 500.0, 400.0], [1.0, 2.0, 3.0]]])
    assert not torch.equal(drawn(wave, (0, 1))[0, 0], drawn(wave + 200, (0, 1))[0, 0])
    assert torch.equal(drawn(wave, (0, 1))[0, 1], drawn(wave + 200, (0, 1))[0, 1])
    far = torch.tensor([[[-9e9, 9e9, 1000.0]]])
    edge = torch.tensor([[[1.0, 999.0, 999.0]]])
    assert torch.equal(drawn(far, (0,)), drawn(edge, (0,)))


def test_the_range_is_numpys_percentiles() -> None:
    training = walks(6, 500).reshape(2, 3, 500)
    drawn = Drawing(3, side=32, kind="line", scale="physical")
    drawn.fit(training)
    expected = np.percentile(training.double().numpy(), [0.1, 99.9], axis=(0, 2))
    assert np.allclose(drawn.low_C, expected[0], rtol=1e-6)
    assert np.allclose(drawn.high_C, expected[1], rtol=1e-6)


def test_signs_turn_the_picture_over_and_reversed_time_mirrors_it() -> None:
    curves = walks(2, 60)
    low, high = spanned(curves)
    picture = draw_lines(curves, low, high, side=48).int()
    over = draw_lines(-curves, -high, -low, side=48).int()
    back = draw_lines(curves.flip(1), low, high, side=48).int()
    assert (over.flip(1) - picture).abs().max() <= 1
    assert (back.flip(2) - picture).abs().max() <= 1


def test_a_heatmap_shows_values_as_grey_columns() -> None:
    values = torch.tensor([[0.0, 0.2, 0.6, 0.8]])
    wide = draw_heatmaps(values, *UNIT, side=8)[0]
    assert wide[0].tolist() == [0, 0, 51, 51, 153, 153, 204, 204]
    assert torch.equal(wide, wide[:1].expand(8, 8))
    # Three columns for four values: (0 + 0.2 / 3) / (4 / 3) and so on.
    means = [0.05, (0.2 * 2 / 3 + 0.6 * 2 / 3) * 0.75, (0.6 / 3 + 0.8) * 0.75]
    assert draw_heatmaps(values, *UNIT, side=3)[0, 0].tolist() == [
        round(255 * mean) for mean in means
    ]


def test_a_heatmap_smaller_than_the_window_keeps_its_mean() -> None:
    curves = torch.rand(3, 128, generator=torch.Generator().manual_seed(1))
    low, high = torch.zeros(3), torch.ones(3)
    small = draw_heatmaps(curves, low, high, side=32)[:, 0].double()
    expected = 255 * curves.double().reshape(3, 32, 4).mean(dim=2)
    assert (small - expected).abs().max() <= 0.501


@pytest.mark.parametrize("kind", ["line", "heatmap"])
@pytest.mark.parametrize("scale", ["physical", "window"])
def test_a_picture_depends_on_nothing_beside_its_own_curve(
    monkeypatch: pytest.MonkeyPatch, kind, scale
) -> None:
    drawn = Drawing(3, side=32, kind=kind, scale=scale)
    signals = walks(12, 50).reshape(4, 3, 50)
    drawn.fit(signals)
    together = drawn(signals, (0, 1, 2))
    assert together.shape == (4, 3, 32, 32)
    assert together.dtype == torch.uint8
    monkeypatch.setattr(drawing, "CPU_PIXELS_AT_ONCE", 2 * 32 * 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(drawn(signals, (0, 1, 2)), together)
    for channel in range(3):
        alone = drawn(signals[2:3, channel : channel + 1], (channel,))
        assert torch.equal(alone[0, 0], together[2, channel])
