"""Kill, or ask to stop, real workers on a tiny study of each kind of data; print what came out.

python -m tests.training.real_workers FOLDER KIND kill|kill-all|term|memory

KIND is video, image, signal, scene or fusion.

Each worker is a process that runs `regatta.worker` with its command line, forked from one that has
all imports but has computed nothing. What is injected is a real signal at a named step or phase.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch._dynamo

import regatta.worker.judge
import regatta.worker.prepare
import regatta.worker.train
from regatta.config.load import study_from_mapping
from regatta.evaluation.progress import Progress
from regatta.records.leftovers import sweep_partials
from regatta.records.metrics_stream import read_metrics
from regatta.records.run_folder import RunFolder, StudyFolder, open_study
from regatta.records.status import read_status
from regatta.training import run as training_run
from regatta.worker import __main__ as worker
from regatta.worker.status_writer import StatusWriter
from tests.fusion_here import fusion_mapping, write_pictures
from tests.scenes_here import scene_entry, scene_mapping
from tests.training.kill_everywhere import before_each_write, die_at, in_child
from tests.training.tiny_training import without_timing
from tests.worker.small_windows import drawn

STEP: dict[str, Any] = {"epochs": 2, "checkpoint_every_steps": 2, "log_every_steps": 1}
ROTORS = {"train_clips": 12, "validation_clips": 4, "test_clips": 6, "frames": 16}
WINDOWS = {"subjects": 6, "windows_per_class": 2}


def study_of(kind: str, root: Path) -> dict[str, Any]:
    """A study of this kind as a mapping."""
    if kind == "video":
        entry = {"name": "vmae", "model": "videomae", "size": "tiny", "checkpoint": "none"}
        return {
            "name": "video",
            "data": {"source": "rotors", "root": str(root / "rotors"), "options": ROTORS},
            "entries": [entry],
            "train": {**STEP, "batch_size": 4, "flip": False},
            "protocol": {
                "name": "temporal-grid",
                "part_samples": 2,
                "options": {"coverage": [100], "stride": [1]},
            },
        }
    if kind == "signal":
        return {
            "name": "signal",
            "data": {
                "source": "har-synthetic",
                "root": str(root / "har"),
                "options": WINDOWS,
                "validation_groups": 1,
            },
            "entries": [drawn("drawn")],
            "train": {**STEP, "batch_size": 16, "augment": "none"},
            "protocol": {"name": "plain", "part_samples": 8},
        }
    if kind == "scene":
        train = {**STEP, "batch_size": 16, "select_by": "joint"}
        entries = [scene_entry("frames")]
        plain = {"name": "plain", "batch_size": 2, "part_samples": 2}
        return scene_mapping(None, entries=entries) | {"train": train, "protocol": plain}
    pictures = root / "pictures"
    if not pictures.exists():
        write_pictures(pictures, train=20, test=6)
    learn = {**STEP, "batch_size": 8, "warmup_epochs": 0}
    fusion: dict[str, Any] = {"baselines": [], "types": ["concatenation"]}
    fusion |= {"expert_train": {**learn, "batch_size": 24}, "fusion_train": learn}
    return fusion_mapping(pictures, fusion=fusion)


def call(*words: str, before: Callable[[], object] = lambda: None) -> int:
    """Run one worker to its end; its exit status, negative for a signal."""

    def work() -> None:
        before()
        sys.argv = ["regatta.worker", *words]
        os._exit(worker.main())

    return in_child(work)


def task(kind: str, study: StudyFolder, run: RunFolder) -> list[str]:
    runs = [] if kind == "prepare" else ["--runs", run.run_id]
    return [kind, "--study", str(study.path), *runs, "--threads", "1"]


def outcome(run: RunFolder) -> dict[str, Any]:
    """All that a trained and judged run left that must not depend on interruptions."""
    results = json.loads(run.training_results.read_text())
    parts = sorted((run.path / "predictions").rglob("*.parquet"))
    assert parts
    return {
        "weights": sha256((run.model / "model.safetensors").read_bytes()).hexdigest(),
        "metrics": without_timing(read_metrics(run.metrics)),
        "predictions": {
            str(path.relative_to(run.path)): sha256(path.read_bytes()).hexdigest() for path in parts
        },
        **{key: results[key] for key in ("best_epoch", "steps", "samples_seen", "best_val_loss")},
    }


def children_seconds() -> float:
    """CPU time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def kill_at_step(number: int) -> Callable[[], None]:
    """Have this process die before its optimizer step of this number."""

    def arm() -> None:
        die, step = die_at(number), training_run.take_step

        def watched(*args: Any, **options: Any) -> Any:
            die()
            return step(*args, **options)

        setattr(training_run, "take_step", watched)  # noqa: B010

    return arm


def kill_at_write(number: int) -> Callable[[], None]:
    return lambda: before_each_write(die_at(number))


def term_in(phase: str, note: Path) -> Callable[[], None]:
    """Have this process get TERM in a phase, and note when."""

    def send() -> None:
        note.write_text(json.dumps([time.monotonic(), time.process_time()]))
        os.kill(os.getpid(), signal.SIGTERM)

    def at_call(owner: Any, name: str, number: int = 1) -> None:
        calls, original = iter(range(1, 10**6)), getattr(owner, name)

        def watched(*args: Any, **options: Any) -> Any:
            found = original(*args, **options)
            if next(calls) == number:
                send()
            return found

        setattr(owner, name, watched)

    def at_word() -> None:
        update = StatusWriter.update

        def watched(writer: StatusWriter, progress: dict[str, Any]) -> None:
            update(writer, progress)
            if progress.get("phase") == phase and not note.exists():
                send()

        setattr(StatusWriter, "update", watched)  # noqa: B010

    return {
        "warm-up": lambda: at_call(regatta.worker.train, "load_run_data"),
        "train": lambda: at_call(training_run, "take_step", 3),
        "judge": lambda: at_call(Progress, "poll"),
    }.get(phase, at_word)


class Bench:
    """A prepared study, whose runs are copied for every fault."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root, self.kind = root, kind
        self.mapping = study_of(kind, root)
        self.victim = {"image": "resnet-expert-0"}.get(kind, "")

    def open(self, name: str) -> tuple[StudyFolder, RunFolder]:
        study = study_from_mapping(self.mapping)
        folder = open_study(self.root / name, study)
        runs = {spec.entry.name: run for spec, run in folder.runs()}
        # Of a fusion the last one, which is built on all others.
        return folder, runs[self.victim] if self.victim else list(runs.values())[-1]

    def prepare(self) -> None:
        folder, run = self.open("prepared")
        assert call(*task("prepare", folder, run)) == 0
        for spec, other in folder.runs():
            if self.kind == "fusion" and other != run:
                assert call(*task("train", folder, other)) == 0, spec.entry.name

    def copied(self, name: str) -> tuple[StudyFolder, RunFolder]:
        shutil.copytree(self.root / "prepared", self.root / name)
        return self.open(name)

    def finish(self, folder: StudyFolder, run: RunFolder) -> list[int]:
        return [call(*task("train", folder, run)), call(*task("judge", folder, run))]

    def reference(self) -> dict[str, Any]:
        folder, run = self.copied("reference")
        assert self.finish(folder, run) == [0, 0]
        return outcome(run)

    def fault(self, name: str, phase: str, before: Callable[[], object]) -> dict[str, Any]:
        """What a run came to of which one worker met this, and which was then finished."""
        folder, run = self.open(name) if phase == "prepare" else self.copied(name)
        if phase == "judge":
            assert call(*task("train", folder, run)) == 0
        spent = children_seconds()
        ended = call(*task(phase, folder, run), before=before)
        at = [time.monotonic(), children_seconds() - spent]
        status = asdict(read_status(folder.prepare_status if phase == "prepare" else run.status))
        again = [call(*task("prepare", folder, run))] if phase == "prepare" else []
        finished = [*again, *self.finish(folder, run)]
        # As a launch does once its workers are gone: only then may what they left be touched.
        sweep_partials(folder.path / "runs")
        return {
            "ended": ended,
            "ended_at": at,
            "status": {key: status[key] for key in ("state", "cause", "message", "next_step")},
            "finished": finished,
            "left": [str(path.relative_to(run.path)) for path in run.path.rglob("*.partial")],
            "outcome": outcome(run) if not any(finished) else None,
        }


def kills(bench: Bench, steps: int, *, every: bool) -> dict[str, Any]:
    numbers = range(1, steps + 1) if every else [steps // 2 + 1]
    report = {f"step {k}": bench.fault(f"step-{k}", "train", kill_at_step(k)) for k in numbers}
    for number in range(1, 40, 3) if every else [8]:
        found = bench.fault(f"judge-{number}", "judge", kill_at_write(number))
        if every and found["ended"] == 0:
            # An undisturbed judging of this kind changes the disk less often.
            break
        report[f"write {number} of judging"] = found
    return report


def terms(bench: Bench) -> dict[str, Any]:
    phases = ["warm-up", "train", "validate", "judge"]
    # Generated signals are there at once: there is no scan to stop.
    phases = phases if bench.kind == "signal" else ["scan", *phases]
    report = {}
    for phase in phases:
        at = bench.root / f"{phase}.sent"
        verb = {"scan": "prepare", "judge": "judge"}.get(phase, "train")
        found = bench.fault(phase, verb, term_in(phase, at))
        sent = json.loads(at.read_text())
        found["wall"], found["cpu"] = (b - a for a, b in zip(sent, found["ended_at"], strict=True))
        report[phase] = found
    return report


def memory(bench: Bench) -> dict[str, Any]:
    """More memory is asked for than the limit of the process, in training and in judging."""

    def ask_for_more(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def greedy(*args: Any, **options: Any) -> Any:
            torch.empty(2**38)
            return original(*args, **options)

        setattr(owner, name, greedy)

    def arm(owner: Any, name: str) -> Callable[[], None]:
        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))
            ask_for_more(owner, name)

        return limited

    places = {"train": (training_run, "take_step"), "judge": (Progress, "poll")}
    return {verb: bench.fault(verb, verb, arm(*place)) for verb, place in places.items()}


def main(root: Path, kind: str, mode: str) -> None:
    torch.set_num_threads(1)
    bench = Bench(root, kind)
    bench.prepare()
    reference = bench.reference()
    if mode == "term":
        faults = terms(bench)
    elif mode == "memory":
        faults = memory(bench)
    else:
        faults = kills(bench, reference["steps"], every=mode == "kill-all")
    print("\n" + json.dumps({"reference": reference, "faults": faults}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
