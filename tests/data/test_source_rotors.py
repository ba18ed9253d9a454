"""The rotors hold a known answer: the files show the planned phases, the ceiling is exact."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.core.errors import ConfigError, DataError
from regatta.core.registry import ORACLES, SOURCES
from regatta.core.seeds import stream
from regatta.data.manifest import Sample, SampleRow
from regatta.data.sources._generated import PEAK
from regatta.data.sources.rotors import (
    RotorSettings,
    ideal_accuracy,
    indistinguishable_pairs,
    plan_rotor,
    read_rotors,
    render_rotor,
    rotors_ceiling,
)

SMALL: dict[str, Any] = {"train_clips": 8, "validation_clips": 4, "test_clips": 4, "frames": 24}


def generate(root: Path, **options: Any) -> list[SampleRow]:
    return read_rotors(root, split=1, seed=7, **{**SMALL, **options})


def ceiling(frames: Sequence[int], **options: Any) -> float:
    return ideal_accuracy(RotorSettings(**options), plain(frames))


def plain(frames: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Pictures of one source frame each."""
    return tuple((frame,) for frame in sorted(set(frames)))


def hashes(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in files}


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def blob_middle(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre of the light above half of the peak, in pixels (x, y) per frame."""
    light = np.clip(images.mean(axis=3) / 255 - PEAK / 2, 0, None)
    grid, total = np.arange(images.shape[1]), light.sum(axis=(1, 2))
    return (light.sum(axis=1) @ grid) / total, (light.sum(axis=2) @ grid) / total


def angle_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(np.angle(np.exp(1j * (one - other))))


def simulated_accuracy(
    settings: RotorSettings, frames: Sequence[int], trials: int
) -> tuple[float, float]:
    """Mean and standard error of an ideal reader that tries every class on every drawn clip.

    A class fits when all frames imply one start phase and the prior allows it; the reader guesses
    evenly among the classes that fit. Nothing here knows of arcs or common divisors.
    """
    rng = stream(0, "simulation")
    turns = np.array([float(t) for t in settings.turns_per_frame])
    times = np.array(frames)
    if settings.kind == "wheel":
        starts = rng.choice(settings.start_places, size=trials) / settings.spokes
    else:
        starts = rng.uniform(-1, 1, trials) * settings.phase_jitter_radians / (2 * math.pi)
    truth = rng.integers(len(turns), size=trials)
    seen = starts[:, None] + turns[truth][:, None] * times
    implied = seen[:, None, :] - turns[None, :, None] * times
    agree = circular(implied - implied[..., :1]).max(axis=2) < 1e-9
    allowed = circular(implied[..., 0]) <= settings.phase_jitter_radians / (2 * math.pi) + 1e-9
    fitting = (agree & allowed).sum(axis=1)
    right = 1 / fitting
    return float(right.mean()), float(right.std() / math.sqrt(trials))


def circular(turns: np.ndarray) -> np.ndarray:
    """Distance from the nearest whole turn."""
    return np.abs(turns - np.rint(turns))


@pytest.mark.parametrize(
    ("stride", "expected"), [(1, 1.0), (2, 1.0), (4, 0.5), (8, 0.25), (16, 0.25)]
)
def test_even_sampling_has_the_wagon_wheel_ceiling(stride, expected):
    """Rates 4, 8 and 12 Hz apart: nothing meets at 16 Hz, pairs at 8 Hz, all at 4 and 2 Hz."""
    assert ceiling(range(0, 64, stride)) == expected
    assert ceiling(range(0, 64, stride), phase_jitter_radians=math.pi) == expected


def test_one_first_frame_is_chance():
    assert ceiling([0]) == 0.25
    assert ceiling([0, 0, 0]) == 0.25


def test_a_later_single_frame_betrays_the_class_when_the_start_is_known():
    """At frame 2 the classes stand a quarter of a turn apart; the start spans 0.6 rad only."""
    assert ceiling([2]) == 1.0
    assert ceiling([2], phase_jitter_radians=math.pi) == 0.25


def test_partly_overlapping_start_phases_count_by_their_overlap():
    """Rates +-1 Hz at frame 1: arcs of 1/8 turn, 1/16 apart, cover 3/16: 1.5 of 2 classes."""
    frames = [1]
    assert ceiling(frames, rates_hz=[-1, 1], phase_jitter_radians=math.pi / 8) == 0.75
    assert ceiling(frames, rates_hz=[-1, 1], phase_jitter_radians=math.pi / 16) == 1.0
    assert ceiling(frames, rates_hz=[-1, 1], phase_jitter_radians=0) == 1.0
    assert ceiling([0, 32], rates_hz=[-1, 1], phase_jitter_radians=0) == 0.5


def test_uneven_frames_resolve_what_even_ones_alias():
    assert ceiling([0, 8, 16, 24]) == 0.25
    assert ceiling([0, 8, 17, 24]) == 1.0


CASES: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({}, (0, 4, 8)),
    ({"phase_jitter_radians": 1.0}, (2,)),
    ({"phase_jitter_radians": 1.5}, (2, 6, 10, 14)),
    ({"phase_jitter_radians": 2.5}, (4, 12, 20)),
    ({"phase_jitter_radians": math.pi}, (5, 13)),
    ({"rates_hz": [-1, 1], "phase_jitter_radians": math.pi / 8}, (1,)),
    ({"rates_hz": [0.5, 1, 2.5, 7, -3], "phase_jitter_radians": 0.8}, (3,)),
    ({"rates_hz": [0.5, 1, 2.5, 7, -3], "phase_jitter_radians": 0.8}, (3, 35)),
    ({"kind": "wheel", "phase_jitter_radians": 1.3}, (3,)),
    ({"kind": "wheel", "phase_jitter_radians": 2.0}, (2, 10)),
    ({"kind": "wheel", "spokes": 7, "steps": [0, 1, 3], "phase_jitter_radians": 1.8}, (2, 9)),
]


@pytest.mark.parametrize(("options", "frames"), CASES)
def test_formula_agrees_with_a_simulated_ideal_reader(options, frames):
    settings = RotorSettings(**options)
    mean, standard_error = simulated_accuracy(settings, frames, trials=20_000)
    assert abs(ideal_accuracy(settings, plain(frames)) - mean) <= 4 * standard_error + 1e-12


def segments(stride: int, frames: int = 64) -> tuple[tuple[int, ...], ...]:
    """The clip cut into pieces of `stride` frames, each shown as its mean."""
    return tuple(tuple(range(s, s + stride)) for s in range(0, frames - stride + 1, stride))


@pytest.mark.parametrize(
    ("stride", "point", "box"),
    [(1, 1.0, 1.0), (2, 1.0, 1.0), (4, 0.5, 1.0), (8, 0.25, 1.0), (16, 0.25, 0.25)],
)
def test_averaging_tells_apart_what_aliases_until_every_class_draws_the_whole_circle(
    stride, point, box
):
    """At 8 and 4 Hz the arcs differ in length and side; over 16 frames, 1/2 s, every class passes
    through the same 16 places, and nothing is left of its rate or sense."""
    settings = RotorSettings()
    assert ideal_accuracy(settings, plain(range(0, 64, stride))) == point
    assert ideal_accuracy(settings, segments(stride)) == box


def test_rates_that_alias_and_blur_alike_are_not_recovered_by_averaging():
    """+4 and -4 Hz seen at 8 Hz: the arc of one is the other's, up to an unknown start."""
    settings = RotorSettings(rates_hz=[-4, 4], phase_jitter_radians=math.pi)
    assert ideal_accuracy(settings, plain(range(0, 64, 4))) == 0.5
    assert ideal_accuracy(settings, segments(4)) == 0.5
    assert ideal_accuracy(settings, segments(2)) == 1.0


BLENDS: list[tuple[dict[str, Any], tuple[tuple[int, ...], ...]]] = [
    ({}, segments(4)),
    ({}, segments(8)),
    ({"phase_jitter_radians": 1.2}, segments(16)),
    ({"phase_jitter_radians": math.pi}, segments(8)),
    ({"rates_hz": [-4, 4], "phase_jitter_radians": 2.0}, segments(4)),
    ({"rates_hz": [-4, 4, 8], "phase_jitter_radians": 1.0}, ((0, 1, 2, 3), (8,))),
    ({"rates_hz": [-8, 8, 4], "phase_jitter_radians": 2.5}, ((0, 2), (4, 6))),
    ({"kind": "wheel", "phase_jitter_radians": 1.3}, segments(4)),
    ({"kind": "wheel", "spokes": 8, "steps": [0, 1, 2, 4]}, ((0, 1), (4, 5))),
]


@pytest.mark.parametrize(("options", "pictures"), BLENDS)
def test_formula_of_averaged_frames_agrees_with_counting_every_start(options, pictures):
    """Every start on a fine ring, every class: pictures that are equal sets of places cannot be
    told apart, and the best guess among their makers is right that often."""
    settings = RotorSettings(**options)
    ring = 1024 if settings.kind == "circle" else settings.spokes
    reach = settings.phase_jitter_radians / (2 * math.pi) * ring
    starts = [p for p in range(-ring // 2, ring // 2) if -reach - 1e-9 <= p < reach - 1e-9]
    if settings.kind == "wheel":
        starts = list(settings.start_places)
    makers: Counter[tuple[Any, ...]] = Counter()
    for name, turns in zip(settings.class_names, settings.turns_per_frame, strict=True):
        for start in starts:
            look = tuple(
                tuple(sorted((start + turns * n * ring) % ring for n in blend))
                for blend in pictures
            )
            makers[name, look] += 1
    best: dict[Any, int] = {}
    for (_, look), count in makers.items():
        best[look] = max(best.get(look, 0), count)
    counted = sum(best.values()) / (len(starts) * len(settings.class_names))
    assert ideal_accuracy(settings, pictures) == pytest.approx(
        counted, abs=4 / len(starts) + 1e-12 if settings.kind == "circle" else 1e-12
    )


frame_sets = st.sets(st.integers(0, 63), min_size=1, max_size=12)
jitters = st.one_of(st.just(0.0), st.floats(0.01, math.pi), st.just(math.pi))


@given(frame_sets, frame_sets, jitters, st.sampled_from(["circle", "wheel"]))
def test_more_frames_never_lower_the_ceiling(some, others, jitter, kind):
    few = ceiling(list(some), phase_jitter_radians=jitter, kind=kind)
    many = ceiling(list(some | others), phase_jitter_radians=jitter, kind=kind)
    assert 0.25 - 1e-12 <= few <= many + 1e-12
    assert many <= 1 + 1e-12


@given(st.integers(2, 24), st.sets(st.integers(0, 23), min_size=2, max_size=6), st.integers(1, 24))
def test_wheel_seen_every_s_frames_is_k_s_mod_m(spokes, places, stride):
    steps = sorted({place % spokes for place in places})
    if len(steps) < 2:
        return
    settings = RotorSettings(kind="wheel", spokes=spokes, steps=steps)
    looks = Counter(step * stride % spokes for step in steps)
    assert ideal_accuracy(settings, plain((0, stride, 2 * stride))) == pytest.approx(
        len(looks) / len(steps)
    )
    alike = sum(count * (count - 1) // 2 for count in looks.values())
    assert len(indistinguishable_pairs(settings, settings.fps / stride)) == alike


def test_indistinguishable_pairs_by_hand():
    settings = RotorSettings()
    assert indistinguishable_pairs(settings, 16) == []
    assert indistinguishable_pairs(settings, 8) == [("cw-6hz", "ccw-2hz"), ("cw-2hz", "ccw-6hz")]
    assert len(indistinguishable_pairs(settings, 4)) == 6
    assert indistinguishable_pairs(settings, 12) == [("cw-6hz", "ccw-6hz")]


def rotor_sample(label_name: str) -> Sample:
    return Sample(
        sample_id="test/a.mp4",
        path="/a.mp4",
        label=0,
        label_name=label_name,
        group="a",
        split="test",
        start_frame=0,
        frames=64,
        fps=32.0,
        width=32,
        height=32,
        duration_seconds=2.0,
        content_hash="",
    )


def test_oracle_takes_study_options_and_any_order_of_frames():
    sample = rotor_sample("cw-6hz")
    options = {"rates_hz": [-6, -2, 2, 6], "train_clips": 40, "generator_seed": 3}
    assert rotors_ceiling(sample, [(8,), (0,), (4,), (4,)], **options) == 0.5
    assert ORACLES.get("rotors") is rotors_ceiling
    assert SOURCES.get("rotors") is read_rotors


def test_oracle_refuses_a_sample_of_other_data():
    with pytest.raises(DataError, match="'running' is no rotor class"):
        rotors_ceiling(rotor_sample("running"), [(0,), (1,)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"codec": "xvid"},
        {"phase_jitter_radians": math.pi, "noise": 0.1},
        {"kind": "wheel", "size_px": 48},
    ],
)
def test_decoded_blob_stands_at_the_planned_phase(tmp_path, options):
    rows = generate(tmp_path, **options)
    settings = RotorSettings(**{**SMALL, **options}, generator_seed=7)
    for row in rows[:8]:
        images = decode(row.path)
        number = int(row.path.stem[-5:])
        drawn = render_rotor(settings, row.split, number)
        assert images.shape == drawn.shape == (24, settings.size_px, settings.size_px, 3)
        assert np.abs(images.astype(int) - drawn).mean() < 6
        clip = plan_rotor(settings, row.split, number)
        x, y = blob_middle(images)
        measured = np.arctan2(clip.centre_y_px - y, x - clip.centre_x_px)
        assert angle_between(measured, clip.phases(24)).max() < 0.2
        away = np.hypot(x - clip.centre_x_px, y - clip.centre_y_px)
        assert np.abs(away - clip.radius_px).max() < 0.1 * clip.radius_px


def test_names_tell_the_turn_on_the_screen(tmp_path):
    """From 3 o'clock a counter-clockwise blob first goes up, that is to smaller rows."""
    for row in generate(tmp_path, phase_jitter_radians=0.0)[:4]:
        _, y = blob_middle(decode(row.path))
        up = y[1] < y[0]
        assert up == row.label_name.startswith("ccw")
        assert (float(row.extra["rate_hz"]) > 0) == up


def test_pictures_can_be_classified_from_their_pixels_alone(tmp_path):
    """A reader that knows neither centre nor phase: the mean turn about the mean position."""
    right = 0
    rows = generate(tmp_path, frames=64)
    for row in rows:
        x, y = blob_middle(decode(row.path))
        angle = np.unwrap(np.arctan2(y.mean() - y, x - x.mean()))
        rate = (angle[-1] - angle[0]) / (2 * math.pi) * 32 / 63
        right += abs(rate - float(row.extra["rate_hz"])) < 1
    assert right == len(rows)


def test_encoding_leaves_no_trail_that_betrays_the_direction(tmp_path):
    """One frame is worth chance: what the codec adds must not depend on where the blob was."""
    settings = RotorSettings(**SMALL, generator_seed=7)
    for codec in ("h264", "xvid"):
        trails = []
        for row in generate(tmp_path / codec, codec=codec)[:8]:
            number = int(row.path.stem[-5:])
            added = (
                decode(row.path).mean(axis=3) - render_rotor(settings, row.split, number)[..., 0]
            )
            before, after = (neighbour_light(settings, row, shift) for shift in (-1, 1))
            weight = before[1:-1] - after[1:-1]
            trails.append(float((added[1:-1] * weight).sum() / (weight**2).sum()))
        # In grey levels of 255; the noise in the pictures has 13.
        assert abs(np.mean(trails)) < 0.5


def neighbour_light(settings: RotorSettings, row: SampleRow, shift: int) -> np.ndarray:
    """The noiseless light, 0 to 1, where the blob was (shift -1) or will be (1) in each frame."""
    clip = plan_rotor(settings, row.split, int(row.path.stem[-5:]))
    phases = np.roll(clip.phases(settings.frames), -shift)
    grid, sigma = np.arange(settings.size_px), 0.055 * settings.size_px
    x = clip.centre_x_px + clip.radius_px * np.cos(phases)
    y = clip.centre_y_px - clip.radius_px * np.sin(phases)
    across = np.exp(-0.5 * ((grid - x[:, None]) / sigma) ** 2)
    down = np.exp(-0.5 * ((grid - y[:, None]) / sigma) ** 2)
    return down[:, :, None] * across[:, None, :]


def test_rows_name_balanced_splits_with_a_group_per_clip(tmp_path):
    rows = generate(tmp_path)
    assert Counter(row.split for row in rows) == {"train": 8, "validation": 4, "test": 4}
    labels = Counter((row.split, row.label_name) for row in rows)
    assert {count for (split, _), count in labels.items() if split == "train"} == {2}
    assert len(labels) == 12
    assert len({row.group for row in rows}) == len({row.path for row in rows}) == 16
    assert rows[0].path == tmp_path / "train" / "cw-6hz" / "rotor-00000.mp4"
    assert all(row.path.is_file() for row in rows)


def test_start_phases_keep_their_jitter():
    settings = RotorSettings(phase_jitter_radians=0.3)
    phases = [plan_rotor(settings, "train", n).start_phase_radians for n in range(300)]
    assert max(np.abs(phases)) <= 0.3
    assert max(phases) > 0.28
    assert min(phases) < -0.28
    wheel = RotorSettings(kind="wheel", phase_jitter_radians=0.8)
    places = {
        round(plan_rotor(wheel, "train", n).start_phase_radians / (2 * math.pi) * 16) % 16
        for n in range(300)
    }
    assert places == {0, 1, 2, 14, 15}


def test_a_clip_depends_on_seed_split_and_number_only(tmp_path):
    alone = render_rotor(RotorSettings(generator_seed=7, train_clips=4), "train", 3)
    among = render_rotor(RotorSettings(generator_seed=7, train_clips=900), "train", 3)
    assert np.array_equal(alone, among)
    clips = [(7, "train", 3), (8, "train", 3), (7, "test", 3), (7, "train", 7)]
    settings = [(RotorSettings(generator_seed=seed), split, n) for seed, split, n in clips]
    assert len({plan_rotor(*clip).start_phase_radians for clip in settings}) == 4
    assert len({render_rotor(*clip).tobytes() for clip in settings}) == 4


def test_second_call_changes_nothing_and_seed_decides_the_bytes(tmp_path):
    rows = generate(tmp_path / "a")
    first = hashes(tmp_path / "a")
    times = {row.path: row.path.stat().st_mtime_ns for row in rows}
    assert generate(tmp_path / "a") == rows
    assert {row.path: row.path.stat().st_mtime_ns for row in rows} == times
    generate(tmp_path / "b", generator_seed=7)
    assert hashes(tmp_path / "b") == first
    generate(tmp_path / "c", generator_seed=8)
    assert hashes(tmp_path / "c") != first


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from regatta.data.sources import rotors

draw = rotors.render_rotor

def draw_until_killed(settings, split, number):
    if (split, number) == ("validation", 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(settings, split, number)

rotors.render_rotor = draw_until_killed
rotors.read_rotors(Path(sys.argv[1]), split=1, seed=7,
                   train_clips=8, validation_clips=4, test_clips=4, frames=64)
"""


def test_killed_generation_continues_to_the_same_bytes(tmp_path):
    generate(tmp_path / "whole", frames=64)
    # Fresh memory full of rubbish: an encoder that reads it would give itself away.
    killed = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "cut")],
        check=False,
        env={**os.environ, "MALLOC_PERTURB_": "85"},
    )
    assert killed.returncode == -signal.SIGKILL
    assert 2 <= len(list((tmp_path / "cut").rglob("rotor-*.mp4"))) < 16
    rows = generate(tmp_path / "cut", frames=64)
    assert all(row.path.is_file() for row in rows)
    finished = {k: v for k, v in hashes(tmp_path / "cut").items() if not k.endswith(".partial")}
    assert finished == hashes(tmp_path / "whole")


def test_other_settings_in_the_same_root_are_refused(tmp_path):
    generate(tmp_path)
    before = hashes(tmp_path)
    with pytest.raises(DataError, match=r"noise is 0\.05, not 0\.1") as caught:
        generate(tmp_path, noise=0.1)
    assert "another folder" in str(caught.value.hint)
    assert hashes(tmp_path) == before


def test_a_folder_of_someone_else_is_never_written_to(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(DataError, match="did not make"):
        generate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_there_is_one_split(tmp_path):
    with pytest.raises(ConfigError, match="one split"):
        read_rotors(tmp_path, split=2, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates_hz": [2]}, "two or more classes"),
        ({"rates_hz": [2, 2.0]}, "different names"),
        ({"rates_hz": [2, 2.0000001]}, "different names"),
        ({"rates_hz": [-16, 16]}, "same pictures"),
        ({"rates_hz": [2, math.nan]}, "rates_hz"),
        ({"kind": "wheel", "steps": [1, 17]}, "same pictures"),
        ({"kind": "square"}, "kind"),
        ({"size_px": 33}, "size_px"),
        ({"phase_jitter_radians": 4.0}, "phase_jitter"),
        ({"noise": -0.1}, "noise"),
        ({"train_clips": 3}, "train_clips"),
        ({"frames": 1}, "frames"),
        ({"codec": "av1"}, "codec"),
    ],
)
def test_impossible_rotors_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RotorSettings(**options)


def test_a_split_may_do_without_validation_clips(tmp_path):
    rows = generate(tmp_path, validation_clips=0)
    assert {row.split for row in rows} == {"train", "test"}
