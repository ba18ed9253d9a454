"""A study small enough to be run hundreds of times, and the real processes that run it.

`toy_worker.py` obeys the worker's contract; `toy_launch.py` is the command line with that worker.
What a worker does at each start is ordered in `orders.json`; starts are recorded in `starts.jsonl`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regatta.config.expand import RunSpec, expand_study, protocol_id
from regatta.config.load import study_from_mapping
from regatta.config.schema import LaunchSection, Study
from regatta.core.files import write_json, write_text
from regatta.core.registry import MODELS, PROTOCOLS, SOURCES
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.records.status import Status, process_start, read_status

HERE = Path(__file__).parent
WORKER_COMMAND = (sys.executable, str(HERE / "toy_worker.py"))
CLI_COMMAND = (sys.executable, str(HERE / "toy_finish.py"))
ORDERS_VARIABLE = "REGATTA_TOY_ORDERS"
STEPS = 5
HOLDING = 99
"""The step that a worker names while it was ordered to hold."""


def register_toys() -> None:
    """Make the names that a toy study uses known in this process."""
    MODELS.register("toy")(register_toys)
    SOURCES.register("toy")(register_toys)
    PROTOCOLS.register("toy")(plain_toy)


def plain_toy() -> Any:
    """The plain protocol under the toys' name: the command line asks it for its conditions."""
    from regatta.evaluation.protocols import plain_protocol

    return plain_protocol()


@contextmanager
def toy_names() -> Iterator[None]:
    """Make the names of a toy study known for the length of the block."""
    registries = (MODELS, SOURCES, PROTOCOLS)
    before = [dict(registry._loaded) for registry in registries]
    register_toys()
    yield
    for registry, loaded in zip(registries, before, strict=True):
        registry._loaded = loaded


_STARTED: list[subprocess.Popen[str]] = []


def end_started() -> None:
    """End what a failed test has left running."""
    while _STARTED:
        child = _STARTED.pop()
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        if child.stdout and not child.stdout.closed:
            child.communicate()


@contextmanager
def toy_study(root: Path) -> Iterator[Toy]:
    """A study of two runs in `root`; at the end no process of it may be left."""
    with toy_names():
        try:
            yield Toy(root)
        finally:
            end_started()
        wait_until(lambda: not processes_of(root), "every process of the study is gone")


def launch_section(**keys: Any) -> LaunchSection:
    """A launch section from its keys, checked as in a study file."""
    return LaunchSection.model_validate(keys)


def toy_mapping(entries: Sequence[str] = ("ann", "bob"), **launch: Any) -> dict[str, Any]:
    """A study as a mapping; `launch` overrides the launch section."""
    return {
        "name": "toy",
        "data": {"source": "toy"},
        "entries": [{"name": name, "model": "toy", "size": "tiny"} for name in entries],
        "train": {"epochs": 1, "frame_cache_gib": 0},
        "protocol": {"name": "toy"},
        "launch": {
            "device": "cpu",
            "max_parallel": 2,
            "memory_gib_per_run": 0.05,
            "grace_seconds": 5,
            **launch,
        },
    }


@dataclass
class Toy:
    """One study in a temporary folder with everything a test asks of it."""

    root: Path
    mapping: dict[str, Any] = field(default_factory=toy_mapping)

    def __post_init__(self) -> None:
        self.write()
        self.order({})

    def write(self) -> None:
        """Write the study file and what the workers must know of it."""
        self.file.write_text(json.dumps(self.mapping))
        study = self.study
        facts = {
            "protocol": protocol_id(study.protocol),
            "settings": study.data.model_dump(mode="json"),
            "entries": {spec.run_id: spec.entry.name for spec in expand_study(study)},
        }
        (self.root / "facts.json").write_text(json.dumps(facts))

    @property
    def file(self) -> Path:
        # JSON is YAML, and needs no writer here.
        return self.root / "toy.yaml"

    @property
    def runs_root(self) -> Path:
        return self.root / "runs"

    @property
    def study(self) -> Study:
        return study_from_mapping(self.mapping)

    @property
    def specs(self) -> list[RunSpec]:
        return expand_study(self.study)

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.runs_root / "toy")

    def open(self) -> StudyFolder:
        return open_study(self.runs_root, self.study)

    def run_id(self, entry: str) -> str:
        return next(spec.run_id for spec in self.specs if spec.entry.name == entry)

    def run(self, entry: str) -> RunFolder:
        return self.folder.run(self.run_id(entry))

    def status(self, entry: str) -> Status:
        return read_status(self.run(entry).status)

    def is_judged(self, entry: str) -> bool:
        return self.run(entry).is_judged(protocol_id(self.study.protocol))

    def order(self, orders: dict[str, list[str]]) -> None:
        """What starts do, in turn: {"train:ann": ["kill", "ok"]}; "ok" by default."""
        (self.root / "orders.json").write_text(json.dumps(orders))

    def starts(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Every start of a worker so far, as the workers recorded it."""
        path = self.root / "starts.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        records = [json.loads(line) for line in lines]
        return [r for r in records if kind in (None, r["kind"])]

    def release(self) -> None:
        """Let workers go on that were ordered to hold."""
        (self.root / "release").touch()

    def environment(self) -> dict[str, str]:
        places = [str(HERE.parents[1]), str(self._installed()), os.environ.get("PYTHONPATH", "")]
        search = os.pathsep.join(places)
        return {
            **os.environ,
            ORDERS_VARIABLE: str(self.root),
            "PYTHONPATH": search.rstrip(os.pathsep),
        }

    def _installed(self) -> Path:
        """A folder that makes the toys' names known to any process that has it on its path."""
        facts = self.root / "site" / "regatta_toys-1.0.dist-info"
        if not facts.is_dir():
            facts.mkdir(parents=True)
            (facts / "METADATA").write_text(
                "Metadata-Version: 2.1\nName: regatta-toys\nVersion: 1.0\n"
            )
            kinds = ("model", "source", "protocol")
            groups = [f"[regatta.{kind}]\ntoy = tests.orchestrate.toy\n" for kind in kinds]
            (facts / "entry_points.txt").write_text("\n".join(groups))
        return facts.parent

    def command(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, str(HERE / "toy_launch.py"), verb, *arguments]

    def start(self, verb: str = "run", *arguments: str) -> subprocess.Popen[str]:
        """Start a verb in a child, output piped."""
        child = subprocess.Popen(
            self.command(verb, *(arguments or self.arguments(verb))),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
            start_new_session=True,
        )
        _STARTED.append(child)
        return child

    def prepare(self) -> StudyFolder:
        """Open the study with its data prepared, so that a test starts no process for that."""
        folder = self.open()
        write_text(folder.manifest, "a manifest")
        settings = self.study.data.model_dump(mode="json")
        write_json(folder.data_json, {"settings": settings, "counts": {"test": {"a": 40}}})
        return folder

    def finish_training(self, *entries: str) -> None:
        for entry in entries:
            write_json(self.run(entry).training_results, {"steps": STEPS})

    def finish_judging(self, *entries: str) -> None:
        protocol = protocol_id(self.study.protocol)
        for entry in entries:
            write_json(self.run(entry).predictions(protocol) / "complete.json", {"parts": {}})

    def arguments(self, verb: str) -> list[str]:
        target = (
            [str(self.file)] if verb in {"run", "train", "supervise"} else [str(self.folder.path)]
        )
        return [*target, "--runs", str(self.runs_root)]

    def call(self, verb: str = "run", *arguments: str, seconds: float = 60) -> Finished:
        """Run a verb to its end."""
        child = self.start(verb, *arguments)
        try:
            output, _ = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            output, _ = child.communicate()
            raise AssertionError(f"{verb} did not end within {seconds} s:\n{output}") from None
        return Finished(child.returncode, output)


@dataclass(frozen=True)
class Finished:
    code: int
    output: str


def wait_until(holds: Callable[[], Any], what: str, *, seconds: float = 20) -> Any:
    """Poll until `holds()` is true and return it; fail with `what` after a deadline."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


def processes_of(root: Path) -> list[int]:
    """Every living process that was started for the toy in `root`, whoever its parent is now."""
    marker = f"{ORDERS_VARIABLE}={root}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if marker in environment.split(b"\0") and process_start(int(entry.name)):
            found.append(int(entry.name))
    return found


def lives(start: dict[str, Any]) -> bool:
    """Whether the worker of a recorded start still exists."""
    return process_start(start["pid"]) == start["started"] != ""
