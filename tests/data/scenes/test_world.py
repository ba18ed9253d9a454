"""Promises of the tracks: formulas, cube, and that scene i follows from the seed and i."""

from __future__ import annotations

import math

import numpy as np
import pytest

from regatta.core.errors import ConfigError
from regatta.data.scenes.settings import CLASSES, SceneSettings, settings_from
from regatta.data.scenes.world import Tracks, draw_scenes

SETTINGS = SceneSettings(per_class=2000, seed=11)


@pytest.fixture(scope="module")
def tracks() -> Tracks:
    return draw_scenes(SETTINGS, range(SETTINGS.count))


def of_class(tracks: Tracks, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Positions [n, 37, 3] and parameters of the scenes of one class."""
    rows = np.flatnonzero(tracks.labels == CLASSES.index(name))
    chosen = [tracks.parameters[row] for row in rows]
    return tracks.positions[rows], {key: np.array([p[key] for p in chosen]) for key in chosen[0]}


def test_a_track_shows_32_positions_and_five_more_inside_the_cube(tracks: Tracks) -> None:
    assert tracks.positions.shape == (8000, 37, 3)
    assert np.abs(tracks.positions).max() <= 1.2
    assert [int((tracks.labels == label).sum()) for label in range(4)] == [2000] * 4


def test_a_line_has_no_second_difference(tracks: Tracks) -> None:
    places, drawn = of_class(tracks, "linear")
    assert np.abs(np.diff(places, 2, axis=1)).max() < 1e-12
    speeds = np.linalg.norm(drawn["velocity"], axis=1)
    assert 0.8 <= speeds.min() <= speeds.max() <= 2.0
    np.testing.assert_allclose(places[:, 31] - places[:, 0], drawn["velocity"], atol=1e-12)
    assert np.abs(drawn["start"]).max() <= 1


def test_a_circle_keeps_its_distance_and_its_plane(tracks: Tracks) -> None:
    places, drawn = of_class(tracks, "circular")
    arms = places - drawn["centre"][:, None]
    distances = np.linalg.norm(arms, axis=2)
    np.testing.assert_allclose(distances, np.repeat(drawn["radius"][:, None], 37, 1), atol=1e-12)
    smallest = np.linalg.svd(places - places.mean(axis=1, keepdims=True), compute_uv=False)[:, 2]
    assert smallest.max() < 1e-12
    assert drawn["radius"].min() >= 0.3
    assert drawn["radius"].max() <= 0.8
    # The angle between neighbours is that of `turns` in 31 steps.
    cosine = (arms[:, 1:] * arms[:, :-1]).sum(axis=2) / drawn["radius"][:, None] ** 2
    expected = np.cos(2 * np.pi * drawn["turns"] / 31)
    np.testing.assert_allclose(cosine, np.repeat(expected[:, None], 36, 1), atol=1e-9)
    assert drawn["turns"].min() >= 0.8
    assert drawn["turns"].max() <= 1.6


def test_a_helix_rises_evenly_along_its_axis(tracks: Tracks) -> None:
    places, drawn = of_class(tracks, "helical")
    height = np.einsum("nti,ni->nt", places - drawn["centre"][:, None], drawn["axis"])
    expected = drawn["rise"][:, None] * (np.arange(37) / 31 - 0.5)
    np.testing.assert_allclose(height, expected, atol=1e-12)
    assert drawn["rise"].min() >= 0.6
    assert drawn["rise"].max() <= 1.4
    level = places - drawn["centre"][:, None] - height[..., None] * drawn["axis"][:, None]
    np.testing.assert_allclose(
        np.linalg.norm(level, axis=2), np.repeat(drawn["radius"][:, None], 37, 1), atol=1e-12
    )


def test_a_thrown_object_falls_with_constant_acceleration(tracks: Tracks) -> None:
    places, drawn = of_class(tracks, "parabolic")
    acceleration = np.diff(places, 2, axis=1) * 31**2
    expected = np.stack([0 * drawn["gravity"], 0 * drawn["gravity"], -drawn["gravity"]], axis=1)
    np.testing.assert_allclose(acceleration, np.repeat(expected[:, None], 35, 1), atol=1e-9)
    level = np.linalg.norm(places[:, 31, :2] - places[:, 0, :2], axis=1)
    np.testing.assert_allclose(level, drawn["speed"], atol=1e-12)
    # At the apex the upward speed, gravity x (apex - s), is zero.
    rise = (places[:, 31, 2] - places[:, 0, 2]) / drawn["gravity"] + 0.5
    np.testing.assert_allclose(rise, drawn["apex"], atol=1e-12)


def test_directions_are_uniform_on_the_sphere(tracks: Tracks) -> None:
    _, drawn = of_class(tracks, "circular")
    axis = drawn["axis"]
    # Each coordinate of a uniform direction is uniform in -1..1: mean 0, variance 1/3.
    assert np.abs(axis.mean(axis=0)).max() < 0.05
    np.testing.assert_allclose(axis.var(axis=0), 1 / 3, atol=0.02)


def test_a_vertical_axis_tilts_by_ten_degrees_at_most() -> None:
    drawn = draw_scenes(SceneSettings(axis="vertical"), range(400))
    axis = np.array([p["axis"] for p in drawn.parameters if "axis" in p])
    tilt = np.degrees(np.arccos(axis[:, 2]))
    assert 8 < tilt.max() <= 10


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant velocity", (0, 0.091, 0.091, 0.0009)),
        ("constant acceleration", (0, 0.039, 0.039, 0)),
        ("last position", (0.014, 0.143, 0.151, 0.047)),
    ],
)
def test_forecast_errors_are_those_of_the_published_table(
    tracks: Tracks, name: str, expected: tuple[float, ...]
) -> None:
    """Within 5 %, and half a unit of the last digit that the table gives."""
    places = tracks.positions
    last, velocity = places[:, 31], places[:, 31] - places[:, 30]
    change = velocity - (places[:, 30] - places[:, 29])
    forecast = {
        "last position": last,
        "constant velocity": last + 5 * velocity,
        # Acceleration over five frames, from differences behind: 5 v + 15 a.
        "constant acceleration": last + 5 * velocity + 15 * change,
    }[name]
    errors = ((forecast - places[:, 36]) ** 2).mean(axis=1)
    for label, published in enumerate(expected):
        rounding = 5e-5 if published < 0.001 else 5e-4
        found = errors[tracks.labels == label].mean()
        assert abs(found - published) <= 0.05 * published + rounding, CLASSES[label]


def test_a_scene_is_the_same_in_any_order_group_or_subset(tracks: Tracks) -> None:
    order = np.random.default_rng(0).permutation(300)
    shuffled = draw_scenes(SETTINGS, order)
    np.testing.assert_array_equal(shuffled.positions, tracks.positions[order])
    assert shuffled.parameters == [tracks.parameters[row] for row in order]
    alone = [draw_scenes(SETTINGS, [index]) for index in range(40)]
    np.testing.assert_array_equal(
        np.concatenate([one.positions for one in alone]), tracks.positions[:40]
    )
    assert [int(one.rejected[0]) for one in alone] == tracks.rejected[:40].tolist()


def test_another_seed_gives_other_tracks(tracks: Tracks) -> None:
    other = draw_scenes(SceneSettings(seed=12), range(40))
    assert not np.isclose(other.positions[:, 0], tracks.positions[:40, 0]).all(axis=1).any()


def test_redraws_are_counted(tracks: Tracks) -> None:
    """A line of speed 0.8 to 2 from anywhere in the cube often leaves it; a circle never does."""
    by_class = [tracks.rejected[tracks.labels == label] for label in range(4)]
    assert by_class[CLASSES.index("circular")].max() == 0
    # A circle of .8 around a centre at .3 reaches 1.1.
    assert by_class[CLASSES.index("linear")].mean() > 1


def test_noise_shakes_a_track_but_keeps_it_in_the_cube() -> None:
    calm, shaken = (
        draw_scenes(SceneSettings(position_noise=sd, seed=3), range(400)) for sd in (0.0, 0.02)
    )
    same = np.flatnonzero(calm.rejected == shaken.rejected)
    gap = (shaken.positions - calm.positions)[same]
    assert gap.std() == pytest.approx(0.02, rel=0.05)
    assert np.abs(shaken.positions).max() <= 1.2


def test_a_figure_of_eight_crosses_its_centre_in_a_plane() -> None:
    settings = SceneSettings(classes=("figure-eight",), per_class=50)
    tracks = draw_scenes(settings, range(50))
    places = tracks.positions
    smallest = np.linalg.svd(places - places.mean(axis=1, keepdims=True), compute_uv=False)[:, 2]
    assert smallest.max() < 1e-12
    nearest = np.linalg.norm(
        places - np.array([p["centre"] for p in tracks.parameters])[:, None], axis=2
    ).min(axis=1)
    radius = np.array([p["radius"] for p in tracks.parameters])
    # Half a step of 1/31 clip before or after the crossing, at most 1.6 turns per clip.
    assert (nearest <= radius * math.sqrt(2) * math.pi * 1.6 / 31).all()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"radius": (0.3, 1.3)}, "radius"),
        ({"radius": (0.8, 0.3)}, "radius"),
        ({"start": (-2.0, 2.0)}, "start"),
        ({"cameras": 0}, "cameras = 0"),
        ({"cameras": 17}, "cameras = 17"),
        ({"frames": 4}, "frames = 4"),
        ({"size": 33}, "size = 33"),
        ({"distractors": 7}, "distractors = 7"),
        ({"classes": ("linear", "spiral")}, "classes"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(wrong: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SceneSettings(**wrong)


def test_ranges_that_never_stay_in_view_end_with_an_error() -> None:
    settings = SceneSettings(speed=(3.0, 4.0), classes=("linear",))
    with pytest.raises(ConfigError, match=r"linear.*1000 draws.*speed 3 to 4"):
        draw_scenes(settings, [0])


def test_settings_come_back_from_plain_json_types() -> None:
    settings = SceneSettings(radius=(0.7, 1.0), classes=("circular", "helical"), ground="noise")
    assert settings_from(settings.facts()) == settings
    with pytest.raises(ConfigError, match="tilt"):
        settings_from({"tilt": 3})
