"""Small recordings, small models of signals and the naive loop that the tests of windows share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from regatta.config.schema import ProtocolSection
from regatta.data.manifest import Manifest, Sample
from regatta.data.windows import WindowStore
from regatta.evaluation.judge_windows import judge_windows
from regatta.evaluation.judged_parts import JudgeCost
from regatta.evaluation.predict import JudgedEntry
from regatta.evaluation.window_protocols import (
    Window,
    WindowProtocol,
    as_recorded,
    resolve_window_protocol,
    signal_facts,
)
from regatta.models.spec import signal_spec
from tests.evaluation.tiny_judging import CLASSES, CPU, TEMPLATE

CHANNELS, LENGTH, HOP, RATE_HZ = 6, 32, 16, 50.0
TRIPLES = ((0, 1, 2), (3, 4, 5))


def protocol(name: str = "plain", **options: Any) -> WindowProtocol:
    section = ProtocolSection.model_validate({"name": name, "options": options})
    return resolve_window_protocol(section)


class TinySignals(nn.Module):
    """A convolution over time, a mean and a linear head."""

    def __init__(self, classes: int = 3, channels: int = CHANNELS) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, 5, 3, padding=1)
        self.head = nn.Linear(5, classes)
        self.batches: list[int] = []

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(signals))
        return self.head(self.conv(signals).relu().mean(2))


def recordings(count: int = 4, windows: int = 5) -> tuple[Manifest, WindowStore]:
    """`count` recordings of `windows` half overlapping windows each; the last two are the test
    split. Their classes and subjects go round."""
    samples, signals = [], []
    for number in range(count):
        rng = np.random.default_rng(number)
        whole = rng.standard_normal((CHANNELS, HOP * (windows + 1))).astype(np.float32)
        whole *= np.arange(1, CHANNELS + 1, dtype=np.float32)[:, None]
        for place in range(windows):
            signals.append(whole[:, place * HOP : place * HOP + LENGTH])
            samples.append(_sample(number, place, test=number >= count - 2))
    order = sorted(range(len(samples)), key=lambda i: samples[i].sample_id)
    store = WindowStore(
        [samples[i].sample_id for i in order],
        torch.from_numpy(np.stack([signals[i] for i in order])),
        tuple(f"c{n}" for n in range(CHANNELS)),
        RATE_HZ,
        TRIPLES,
        torch.from_numpy(np.stack([signals[i].mean(1) for i in order])),
    )
    return Manifest([samples[i] for i in order], CLASSES, []), store


def _sample(recording: int, place: int, *, test: bool) -> Sample:
    return replace(
        TEMPLATE,
        sample_id=f"r{recording}-w{place}",
        label=(recording + place) % 3,
        group=f"s{recording}",
        split="test" if test else "train",
        start_frame=place * HOP,
        frames=LENGTH,
        fps=RATE_HZ,
        extra={"recording": f"r{recording}"},
    )


def entry(root: Path, run_id: str, module: nn.Module | None = None) -> JudgedEntry:
    torch.manual_seed(len(run_id))
    spec = signal_spec("tiny", TinySignals, channels=CHANNELS, length=LENGTH, config={})
    return JudgedEntry(run_id, (module or TinySignals()).eval(), spec, root / run_id)


def features_entry(root: Path, run_id: str) -> JudgedEntry:
    torch.manual_seed(1)
    spec = signal_spec("tiny", TinySignals, channels=CHANNELS, length=LENGTH, config={})
    spec = replace(spec, reads="features", shape=(CHANNELS,))
    return JudgedEntry(run_id, nn.Linear(CHANNELS, 3).eval(), spec, root / run_id)


def judge(
    entries: list[JudgedEntry],
    data: tuple[Manifest, WindowStore],
    design: WindowProtocol,
    **changes: Any,
) -> JudgeCost:
    manifest, store = data
    settings: dict[str, Any] = {"batch_size": 4, "part_samples": 3, "device": CPU}
    settings["samples"] = manifest.split("test")
    settings |= changes
    return judge_windows(entries, facts=signal_facts(manifest, store), protocol=design, **settings)


def naive_scores(
    judged: JudgedEntry, data: tuple[Manifest, WindowStore], design: WindowProtocol
) -> dict[tuple[str, str], np.ndarray]:
    """Every window of every condition alone, repeated to a full batch of 4."""
    manifest, store = data
    facts, scores = signal_facts(manifest, store), {}
    for sample in manifest.split("test"):
        window = Window(sample, store.select([sample])[0].numpy(), facts)
        for condition in design.conditions:
            shown = design.show(window, condition) if design.show else as_recorded(window.signal_CL)
            batch = torch.from_numpy(shown.signal_CL).expand(4, -1, -1)
            with torch.inference_mode():
                scores[sample.sample_id, condition.id] = judged.module(batch)[0].numpy()
    return scores
