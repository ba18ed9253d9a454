"""A real study on generated signals, small enough to be killed over and over: real supervisor,
workers, models and tables; and what must be equal however often it was interrupted."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from regatta.config.expand import protocol_id
from regatta.records.metrics_stream import read_metrics
from regatta.records.predictions import read_run_predictions
from regatta.records.run_folder import RunFolder, StudyFolder
from regatta.records.status import process_start

MARK = "REGATTA_RACE_MARK"
ROLES = ("supervisor", "prepare", "train", "judge", "compare", "report")
_CLOCK = ("time", "second", "_ms", "memory", "rate_", "_rate", "energy")
"""In names of what a clock or the machine measured: differs between equal studies."""


@dataclass
class Race:
    """One study in a folder of its own, and its processes."""

    home: Path
    entries: tuple[str, ...] = ("cnn1d",)
    seeds: int = 1
    epochs: int = 1
    windows_per_class: int = 2
    train: dict[str, Any] = field(default_factory=dict)
    launch: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.mapping))

    @property
    def mapping(self) -> dict[str, Any]:
        return {
            "name": "race",
            "data": {
                "source": "har-synthetic",
                # Relative, as ids of runs know the root: they are equal in any home.
                "root": "har",
                "options": {"subjects": 5, "windows_per_class": self.windows_per_class},
            },
            "entries": [_entry(model) for model in self.entries],
            "seeds": list(range(self.seeds)),
            "train": {
                "epochs": self.epochs,
                "batch_size": 8,
                "lr": 1e-3,
                "checkpoint_every_steps": 1,
                "log_every_steps": 1,
                **self.train,
            },
            "protocol": {"name": "plain", "part_samples": 4},
            "launch": {"device": "cpu", "threads_per_run": 1, "max_parallel": 2, **self.launch},
        }

    @property
    def file(self) -> Path:
        return self.home / "race.yaml"

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.home / "runs" / "race")

    def runs(self) -> list[RunFolder]:
        return [run for _, run in self.folder.runs()]

    @property
    def mark(self) -> str:
        return f"{MARK}={self.home}"

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, MARK: str(self.home), **more}

    def start(self, verb: str = "run", *more: str, **options: Any) -> subprocess.Popen[str]:
        """Start a verb in a session of its own; its output goes to `output.txt`."""
        env = self.environment(**options.pop("env", {}))
        with open(self.home / "output.txt", "a", encoding="utf-8") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "regatta", verb, *(more or (str(self.file),))],
                cwd=self.home,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=options.pop("stdout", output),
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                **options,
            )

    def call(self, verb: str = "run", *more: str, seconds: float = 300, **options: Any) -> Ended:
        """Run a verb to its end; what it printed is returned, not kept."""
        child = self.start(verb, *more, stdout=subprocess.PIPE, **options)
        try:
            output, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.end_all()
            output, _ = child.communicate()
            raise AssertionError(f"{verb} did not end within {seconds} s:\n{output}") from None
        return Ended(child.returncode, output)

    def processes(self) -> Iterator[tuple[int, str]]:
        """Every living process of the study, whoever its parent is, with its role."""
        marker = self.mark.encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with suppress(OSError):
                if marker not in (entry / "environ").read_bytes().split(b"\0"):
                    continue
                if process_start(int(entry.name)):
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    yield int(entry.name), _role(words)

    def end_all(self) -> None:
        for pid, _ in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def facts(self) -> dict[str, str]:
        """Hashes of all that a study found out: weights, predictions, records and tables."""
        protocol = protocol_id(self.folder.study().protocol)
        found: dict[str, str] = {}
        for spec, run in self.folder.runs():
            weights = (run.model / "model.safetensors").read_bytes()
            found[f"{spec.run_id}/weights"] = sha256(weights).hexdigest()
            if run.is_judged(protocol):
                found[f"{spec.run_id}/predictions"] = _predictions(spec, run, protocol)
            found[f"{spec.run_id}/metrics"] = _hash(_timeless(read_metrics(run.metrics)))
            results = json.loads(run.training_results.read_text())
            found[f"{spec.run_id}/results"] = _hash(_timeless(results))
        for table in sorted(self.folder.results.glob("*.csv")):
            with open(table, newline="", encoding="utf-8") as handle:
                found[table.name] = _hash(_timeless(list(csv.DictReader(handle))))
        return found


@dataclass(frozen=True)
class Ended:
    code: int
    output: str


def _entry(model: str) -> dict[str, Any]:
    entry = {"name": model, "model": model, "checkpoint": "none"}
    if model == "har-vit":
        return {**entry, "options": {"encoder": "vit-micro"}}
    return {**entry, "size": "tiny"}


def _role(words: list[str]) -> str:
    for role in ROLES[1:]:
        if role in words:
            return role
    return "supervisor" if "regatta" in words and "run" in words else "other"


def _predictions(spec: Any, run: RunFolder, protocol: str) -> str:
    judged = read_run_predictions(
        run.predictions(protocol), run_id=spec.run_id, entry=spec.entry.name, seed=spec.seed
    )
    digest = sha256(judged.scores.tobytes() + judged.labels.tobytes())
    for words in (judged.sample_ids, judged.groups, judged.clip_keys.reshape(-1)):
        digest.update("\n".join(map(str, words)).encode())
    for name in sorted(judged.truth):
        digest.update(judged.truth[name].tobytes())
    return digest.hexdigest()


def _timeless(content: Any) -> Any:
    """Without what a clock has measured."""
    if isinstance(content, list):
        kept = [row for row in content if not (isinstance(row, dict) and _is_measured_cost(row))]
        return [_timeless(item) for item in kept]
    if isinstance(content, dict):
        return {
            key: _timeless(value)
            for key, value in content.items()
            if not any(word in key for word in _CLOCK) or "learning_rate" in key
        }
    return content


def _is_measured_cost(row: dict[str, Any]) -> bool:
    """A row of the table of costs that a clock has filled."""
    return any(word in str(row.get("cost", "")) for word in _CLOCK)


def _hash(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
