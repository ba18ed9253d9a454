"""Generated source `rotors`: one bright blob circling at a class-specific signed rate.

The answer is known. A blob at r Hz, seen s times per second, moves like one at r - k s Hz for any
whole k (the wagon-wheel effect), so classes a and b look alike exactly when (r_a - r_b) / s is
whole. For the default rates -6, -2, 2, 6 Hz at 32 frames per second: all four apart at 16 Hz
(stride 2), the pairs (-6, 2) and (-2, 6) alike at 8 Hz (stride 4), all alike at 4 Hz and below
(stride 8, 16). Kind `wheel` steps k of M places per frame instead: seen every s frames, class k
moves k s mod M places.

Signs: positive is counter-clockwise on the screen (`ccw-2hz`), negative clockwise (`cw-6hz`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property, lru_cache, partial
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from regatta.core.errors import ConfigError, DataError
from regatta.core.registry import ORACLES, SOURCES
from regatta.core.seeds import stream
from regatta.data.manifest import Sample, SampleRow, SplitName
from regatta.data.sources import only_split_one
from regatta.data.sources._generated import (
    ENCODERS,
    Codec,
    draw_blob,
    generate_clips,
    numbered_clips,
)

Kind = Literal["circle", "wheel"]

RADIUS, CENTRE_JITTER = (0.25, 0.32), 0.06
"""Shares of the frame's side: range of radii, largest shift of the centre."""


@dataclass(frozen=True)
class RotorSettings:
    """Everything the pictures and their ceiling follow from.

    kind: `circle` turns at `rates_hz`; `wheel` steps `steps` of `spokes` places per frame.
    phase_jitter_radians: the start phase is uniform within this of 3 o'clock; pi = hard variant.
    noise: standard deviation per pixel and frame, as a share of full white.
    Raises ConfigError for values out of range and for classes that are the same in every frame.
    """

    kind: Kind = "circle"
    rates_hz: Sequence[float] = (-6.0, -2.0, 2.0, 6.0)
    spokes: int = 16
    steps: Sequence[int] = (-3, -1, 1, 3)
    frames: int = 64
    fps: int = 32
    size_px: int = 32
    train_clips: int = 600
    validation_clips: int = 100
    test_clips: int = 100
    noise: float = 0.05
    phase_jitter_radians: float = 0.3
    codec: Codec = "h264"
    generator_seed: int | None = None

    def __post_init__(self) -> None:
        # Study files hold lists; only tuples can be hashed for the cache of ceilings.
        object.__setattr__(self, "rates_hz", tuple(float(rate) for rate in self.rates_hz))
        object.__setattr__(self, "steps", tuple(self.steps))
        least = len(self.class_names)
        checks = {
            "kind": self.kind in ("circle", "wheel"),
            "codec": self.codec in ENCODERS,
            "rates_hz": all(math.isfinite(rate) for rate in self.rates_hz),
            "spokes": self.spokes >= 2,
            "frames": self.frames >= 2,
            "fps": self.fps >= 1,
            "size_px": self.size_px >= 16 and self.size_px % 2 == 0,
            "noise": 0 <= self.noise <= 1,
            "phase_jitter_radians": 0 <= self.phase_jitter_radians <= math.pi + 1e-6,
            "train_clips": self.train_clips >= least,
            "validation_clips": self.validation_clips == 0 or self.validation_clips >= least,
            "test_clips": self.test_clips >= least,
        }
        wrong = [f"{name} = {getattr(self, name)}" for name, holds in checks.items() if not holds]
        if wrong:
            raise ConfigError(
                f"rotors cannot be made with {', '.join(wrong)}",
                where="data.options",
                hint="size_px: even, from 16; frames: from 2; jitter: to pi; clips: one per class",
            )
        self._check_classes()

    def _check_classes(self) -> None:
        where = "data.options.rates_hz" if self.kind == "circle" else "data.options.steps"
        if len(set(self.class_names)) < max(2, len(self.class_names)):
            raise ConfigError("rotors need two or more classes with different names", where=where)
        alike = indistinguishable_pairs(self, self.fps)
        if alike:
            raise ConfigError(
                f"{alike[0][0]} and {alike[0][1]} are the same pictures at every frame of the file",
                where=where,
                hint="rates that differ by fps, or steps by spokes, are one class",
            )

    @cached_property
    def turns_per_frame(self) -> tuple[Fraction, ...]:
        """Signed turns from one frame to the next, one per class; exact, because aliasing is."""
        if self.kind == "wheel":
            return tuple(Fraction(step, self.spokes) for step in self.steps)
        return tuple(Fraction(str(rate)) / self.fps for rate in self.rates_hz)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        if self.kind == "wheel":
            return tuple(_signed_name(step, f"of{self.spokes}") for step in self.steps)
        return tuple(_signed_name(rate, "hz") for rate in self.rates_hz)

    @cached_property
    def start_places(self) -> tuple[int, ...]:
        """Places of a wheel that the start phase may take: those within the jitter of place 0."""
        reach = self.phase_jitter_radians / (2 * math.pi) * self.spokes + 1e-9
        return tuple(p for p in range(self.spokes) if min(p, self.spokes - p) <= reach)


def _signed_name(amount: float, unit: str) -> str:
    if amount == 0:
        return "still"
    return f"{'ccw' if amount > 0 else 'cw'}-{abs(amount):g}{unit}"


def indistinguishable_pairs(settings: RotorSettings, sampling_hz: float) -> list[tuple[str, str]]:
    """Classes that move alike when seen at an even rate from a common start, as pairs of names."""
    # 32 / (32 / 3) need not be 3 in binary.
    stride = Fraction(settings.fps / sampling_hz).limit_denominator(10_000)
    classes = zip(settings.class_names, settings.turns_per_frame, strict=True)
    return [
        (one, other)
        for (one, turns), (other, other_turns) in combinations(classes, 2)
        if ((turns - other_turns) * stride).denominator == 1
    ]


@ORACLES.register("rotors")
def rotors_ceiling(sample: Sample, shown: Sequence[Sequence[int]], **options: Any) -> float:
    """Probability that the ideal reader of exactly these pictures names the class.

    Args:
        sample: a rotor; only its class is read, to refuse options of another data set.
        shown: per picture the decode ordinals whose mean it is, one for a plain frame; in any
            order, repeats add nothing.
        options: `data.options` of the study.
    """
    settings = RotorSettings(**options)
    if sample.label_name not in settings.class_names:
        raise DataError(f"'{sample.label_name}' is no rotor class", where=sample.sample_id)
    pictures = {tuple(sorted(int(index) for index in blend)) for blend in shown}
    return ideal_accuracy(settings, tuple(sorted(pictures)))


@lru_cache(maxsize=4096)
def ideal_accuracy(settings: RotorSettings, pictures: tuple[tuple[int, ...], ...]) -> float:
    """Bayes-optimal accuracy from noiseless pictures, each the mean of known frames; closed form.

    The prior is equal over K classes and uniform over the start phase. Class c moves t_c turns per
    frame, so a picture of frames n shows the places p + t_c n of a blob that started at p, as many
    as there are frames; a mean of blobs betrays these places and nothing of their order. Classes a
    and b can be mistaken iff one turn d brings every picture of a upon that of b. If such turns
    exist they are d + i L, i = 0, 1, ..., with L = 1/q for pictures of q-fold symmetry (L = 1 for
    plain frames). Of such a group the reader knows the start modulo L: class c spreads it over an
    arc as wide as the start jitter, w turns, around its own d_c. With m = floor(w / L) the arcs
    cover the circle of length L m times and once more an arc of width v = w - m L, so the best
    answer is right with probability

        1/K  sum over groups of (m L + |union of the arcs of width v|) / w,

    where arcs whose centres lie g_1, g_2, ... apart around the circle cover sum min(g_i, v). For
    w = 0, and for the places of a wheel, lengths become counts.
    """
    parts = [turns.denominator for turns in settings.turns_per_frame]
    whole = math.lcm(settings.spokes if settings.kind == "wheel" else 1, *parts)
    steps = [int(turns * whole) for turns in settings.turns_per_frame]
    seen = [[[step * n % whole for n in blend] for blend in pictures] for step in steps]
    groups: list[tuple[int, list[int]]] = []
    for mine in seen:
        for first, offsets in groups:
            found = _turns_between(seen[first], mine, whole)
            if found:
                offsets.append(found[0])
                break
        else:
            groups.append((seen.index(mine), [0]))
    told_apart = 0.0
    for first, offsets in groups:
        symmetry = len(_turns_between(seen[first], seen[first], whole))
        told_apart += _told_apart(settings, offsets, whole, symmetry)
    return told_apart / len(steps)


def _turns_between(one: list[list[int]], other: list[list[int]], whole: int) -> list[int]:
    """Every turn, in 1/whole of a circle, that brings each picture of `one` upon that of `other`.

    A picture is the list of its places; both lists of pictures show the same frames.
    """
    pictures = [(a, sorted(b)) for a, b in zip(one, other, strict=True)]
    places, target = min(pictures, key=lambda pair: len(pair[0]))
    candidates = sorted({(target[0] - place) % whole for place in places})
    return [
        turn
        for turn in candidates
        if all(sorted((p + turn) % whole for p in a) == b for a, b in pictures)
    ]


def _told_apart(settings: RotorSettings, offsets: list[int], whole: int, symmetry: int) -> float:
    """Classes that the ideal reader gets right among those that only their start tells apart.

    Args:
        offsets: where each class's starts are centred, in 1/whole of a circle.
        symmetry: q, the turns by which the pictures look the same.
    """
    if settings.kind == "wheel":
        return _told_apart_on_wheel(settings, offsets, whole, symmetry)
    length = Fraction(1, symmetry)
    centres = sorted({Fraction(offset, whole) % length for offset in offsets})
    width = min(1.0, settings.phase_jitter_radians / math.pi)
    if width == 0:
        return float(len(centres))
    folds = math.floor(width / length + 1e-9)
    rest = max(0.0, width - folds * float(length))
    gaps = [after - before for before, after in pairwise([*centres, centres[0] + length])]
    return (folds * float(length) + sum(min(float(gap), rest) for gap in gaps)) / width


def _told_apart_on_wheel(
    settings: RotorSettings, offsets: list[int], whole: int, symmetry: int
) -> float:
    """The same by counting: every start is one of the wheel's places."""
    circle = whole // symmetry
    starts = [place * whole // settings.spokes for place in settings.start_places]
    counts = [Counter((start + offset) % circle for start in starts) for offset in offsets]
    best = {place: max(count[place] for count in counts) for count in counts for place in count}
    return sum(best.values()) / len(starts)


@dataclass(frozen=True)
class RotorClip:
    """The known answer of one clip. Pixel 0 is the middle of the upper left one."""

    label_name: str
    turns_per_frame: float
    start_phase_radians: float
    centre_x_px: float
    centre_y_px: float
    radius_px: float

    def phases(self, frames: int) -> np.ndarray:
        """Angle of the blob per frame, float64 [N] radians, from 3 o'clock counter-clockwise."""
        return self.start_phase_radians + 2 * np.pi * self.turns_per_frame * np.arange(frames)


def plan_rotor(settings: RotorSettings, split: str, number: int) -> RotorClip:
    """Clip `number` of a split; depends on settings, split and number only, never on other clips.

    Classes alternate, so that every split is balanced to within one clip.
    """
    rng = stream(settings.generator_seed or 0, "rotors", split, number)
    kind = number % len(settings.class_names)
    if settings.kind == "wheel":
        phase = 2 * math.pi * int(rng.choice(settings.start_places)) / settings.spokes
    else:
        phase = settings.phase_jitter_radians * rng.uniform(-1, 1)
    middle = (settings.size_px - 1) / 2
    shift_x, shift_y = settings.size_px * CENTRE_JITTER * rng.uniform(-1, 1, size=2)
    return RotorClip(
        label_name=settings.class_names[kind],
        turns_per_frame=float(settings.turns_per_frame[kind]),
        start_phase_radians=float(phase),
        centre_x_px=float(middle + shift_x),
        centre_y_px=float(middle + shift_y),
        radius_px=float(settings.size_px * rng.uniform(*RADIUS)),
    )


def render_rotor(settings: RotorSettings, split: str, number: int) -> np.ndarray:
    """Pictures of one clip, uint8 [N, S, S, 3], grey."""
    clip = plan_rotor(settings, split, number)
    phases = clip.phases(settings.frames)
    # Rows count downwards on the screen, angles upwards.
    x = clip.centre_x_px + clip.radius_px * np.cos(phases)
    y = clip.centre_y_px - clip.radius_px * np.sin(phases)
    rng = stream(settings.generator_seed or 0, "rotors", split, number, "noise")
    return draw_blob(x, y, settings.size_px, noise=settings.noise, rng=rng)


_DEFAULT = RotorSettings()


@SOURCES.register("rotors", generates=True)
def read_rotors(
    root: Path,
    *,
    split: int,
    seed: int,
    kind: Kind = _DEFAULT.kind,
    rates_hz: Sequence[float] = _DEFAULT.rates_hz,
    spokes: int = _DEFAULT.spokes,
    steps: Sequence[int] = _DEFAULT.steps,
    frames: int = _DEFAULT.frames,
    fps: int = _DEFAULT.fps,
    size_px: int = _DEFAULT.size_px,
    train_clips: int = _DEFAULT.train_clips,
    validation_clips: int = _DEFAULT.validation_clips,
    test_clips: int = _DEFAULT.test_clips,
    noise: float = _DEFAULT.noise,
    phase_jitter_radians: float = _DEFAULT.phase_jitter_radians,
    codec: Codec = _DEFAULT.codec,
    generator_seed: int | None = None,
) -> list[SampleRow]:
    """Write the clips that `root` lacks, then list all: `<root>/<split>/<class>/rotor-00012.mp4`.

    Args:
        split: always 1, there is one. seed: draws the clips unless `generator_seed` is given.
    Every clip is a group of its own: two clips share no draw, so nothing could leak between splits.
    Raises ConfigError, DataError (root holds something else), DiskError.
    """
    only_split_one(split, "rotors")
    settings = RotorSettings(
        kind=kind,
        rates_hz=rates_hz,
        spokes=spokes,
        steps=steps,
        frames=frames,
        fps=fps,
        size_px=size_px,
        train_clips=train_clips,
        validation_clips=validation_clips,
        test_clips=test_clips,
        noise=noise,
        phase_jitter_radians=phase_jitter_radians,
        codec=codec,
        generator_seed=seed if generator_seed is None else generator_seed,
    )
    clips = numbered_clips(train=train_clips, validation=validation_clips, test=test_clips)
    rows = [_row(root, settings, name, number) for name, number in clips]
    pictures = {
        row.path: partial(render_rotor, settings, name, number)
        for row, (name, number) in zip(rows, clips, strict=True)
    }
    generate_clips(root, "rotors", asdict(settings), pictures, fps=fps, codec=codec)
    return rows


def _row(root: Path, settings: RotorSettings, split: SplitName, number: int) -> SampleRow:
    clip = plan_rotor(settings, split, number)
    suffix, _ = ENCODERS[settings.codec]
    return SampleRow(
        path=root / split / clip.label_name / f"rotor-{number:05d}{suffix}",
        label_name=clip.label_name,
        group=f"{split}-{number:05d}",
        split=split,
        extra={
            "rate_hz": clip.turns_per_frame * settings.fps,
            "start_phase_radians": clip.start_phase_radians,
            "centre_x_px": clip.centre_x_px,
            "centre_y_px": clip.centre_y_px,
            "radius_px": clip.radius_px,
        },
    )
