"""How models of signals are judged: a list of conditions, and what each does to a recorded window.

A protocol of windows is one function registered with `@PROTOCOLS.register("name", kind="signal")`
that returns a `WindowProtocol`; its keyword arguments are the options of a study file.
The raw signal is changed before any model sees it; each then draws or standardises it as it always
does, so every entry meets the same disturbance.

Shapes: N windows, C channels, L samples of a window, F samples recorded right after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Protocol as Shape

import numpy as np

from regatta.config.schema import ProtocolSection
from regatta.data.manifest import Manifest, Sample
from regatta.data.windows import WindowStore
from regatta.evaluation.judged_parts import Truth
from regatta.evaluation.protocols import Protocol, check_conditions, resolve_protocol
from regatta.records.conditions import Condition

Grid = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Recordings:
    """Which windows follow one another, to read on behind the end of one.

    A later window of the same recording counts only when the part that both cover is the same in
    both: starts alone may be made up where a source does not know them.
    """

    samples: Sequence[Sample]
    store: WindowStore

    @cached_property
    def _places(self) -> Grid:
        """Recording -> (start, row of the store), ascending."""
        found: Grid = defaultdict(list)
        for sample, row in zip(self.samples, self.store.rows(self.samples).tolist(), strict=True):
            found[str(sample.extra.get("recording", ""))].append((sample.start_frame, row))
        return {name: sorted(places) for name, places in found.items()}

    def following(self, sample: Sample, signal_CL: np.ndarray) -> np.ndarray:
        """What was recorded right behind the window, [C, F]; F is 0 where that is not known."""
        channels, length = signal_CL.shape
        for start, row in reversed(self._places[str(sample.extra.get("recording", ""))]):
            shared = sample.start_frame + length - start
            if not 0 <= shared < length:
                continue
            later = self.store.signals[row].numpy()
            if np.array_equal(signal_CL[:, length - shared :], later[:, :shared]):
                return later[:, shared:]
        return np.empty((channels, 0), dtype=signal_CL.dtype)


@dataclass(frozen=True)
class SignalFacts:
    """What the conditions of a protocol may need to know of the data.

    channel_sd_C: over the windows of the training split.
    """

    recordings: Recordings
    channel_sd_C: np.ndarray

    @property
    def store(self) -> WindowStore:
        return self.recordings.store


@dataclass(frozen=True)
class Window:
    """One window as it was recorded, float32 [C, L]."""

    sample: Sample
    signal_CL: np.ndarray
    facts: SignalFacts

    @cached_property
    def following_CF(self) -> np.ndarray:
        """What was recorded right behind it, as far as that is known."""
        return self.facts.recordings.following(self.sample, self.signal_CL)


@dataclass(frozen=True)
class ShownWindow:
    """What a model is given. signal_CL float32; measured_CL: False where a value is filled in, be
    it by zero, by holding another or by interpolation."""

    signal_CL: np.ndarray
    measured_CL: np.ndarray

    def truth(self, rate_hz: float) -> Truth:
        """The columns of its prediction; `rate_hz` is that of the recording.

        distinct_frames counts samples of which a channel is measured, span and rate are theirs, and
        pad_share is the share of all values that are filled in. Equal keys mean equal bits.
        """
        places = np.flatnonzero(self.measured_CL.any(axis=0))
        span = (places[-1] - places[0]) / rate_hz if len(places) else 0.0
        return Truth(
            len(places),
            float(span),
            float((len(places) - 1) / span) if span else None,
            float(1 - self.measured_CL.mean()),
            signal_key(self.signal_CL),
        )


def as_recorded(signal_CL: np.ndarray) -> ShownWindow:
    """The window unchanged: every value is measured."""
    return ShownWindow(signal_CL, np.ones(signal_CL.shape, dtype=bool))


class ShowWindow(Shape):
    """What a model sees of a window under a condition; pure, and equal in any company."""

    def __call__(self, window: Window, condition: Condition) -> ShownWindow: ...


class CheckStore(Shape):
    """Raises ConfigError when the data cannot be judged under the protocol."""

    def __call__(self, store: WindowStore) -> None: ...


@dataclass(frozen=True)
class WindowProtocol:
    """Conditions in report order, and what each shows of a window.

    show: None = every window as it was recorded.
    """

    name: str
    conditions: list[Condition]
    show: ShowWindow | None = None
    axes: tuple[str, ...] = ()
    check: CheckStore | None = None

    def __post_init__(self) -> None:
        check_conditions(self.name, self.conditions)


AS_RECORDED = WindowProtocol("as-recorded", [Condition("as-recorded", is_reference=True)])
"""How samples of unknown classes are judged, whatever the study's protocol."""


def resolve_window_protocol(section: ProtocolSection) -> WindowProtocol:
    """The protocol that a study of signals names; one for any data shows windows as recorded.

    Raises:
        UnknownNameError, ConfigError: as `resolve_protocol`.
    """
    protocol: Protocol | WindowProtocol = resolve_protocol(section)
    if isinstance(protocol, WindowProtocol):
        return protocol
    return WindowProtocol(protocol.name, protocol.conditions, axes=protocol.axes)


def check_window_protocol(section: ProtocolSection, store: WindowStore) -> None:
    """ConfigError when these windows cannot be judged under the protocol that a study names."""
    protocol = resolve_window_protocol(section)
    if protocol.check is not None:
        protocol.check(store)


def signal_facts(manifest: Manifest, store: WindowStore) -> SignalFacts:
    """What protocols need to know of a data set, with the channels' sd over its training split."""
    signals = store.select(manifest.split("train")).double()
    sd_C = signals.std(dim=(0, 2), correction=0).numpy()
    return SignalFacts(Recordings(manifest.samples, store), sd_C)


def signal_key(values: np.ndarray) -> str:
    """Equal for equal bits only."""
    return sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:32]
