"""Kill a small run wherever it can die, let it resume, and print what came out as JSON.

python -m tests.training.kill_everywhere FOLDER steps|mixed|writes|terms|third

Children are forked from one process that has torch loaded but has computed nothing, so that each
death costs milliseconds. What dies is a real process, by a real SIGKILL that it sends to itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # The first optimizer step imports it: once here, not in every child.

from regatta.core.errors import StopRequested
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.records.metrics_stream import read_metrics
from regatta.training import checkpoint
from regatta.training.loop import train_run
from tests.training.tiny_training import outcome, tiny_clips, tiny_run

RECIPE: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "accumulate": 2,
    "checkpoint_every_steps": 2,
    "log_every_steps": 1,
}
CLIPS = 14
"""4 micro-batches, 2 optimizer steps an epoch, the last of 2 + 4 clips."""


def in_child(work: Callable[[], Any]) -> int:
    """Run `work` in a forked process; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            work()
            status = 0
        except StopRequested as stop:
            status = stop.exit_code
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(path: Path, **changes: Any) -> None:
    loader = tiny_clips(CLIPS, before_batch=changes.pop("before_batch", None))
    train_run(**tiny_run(path, train_loader=loader, **RECIPE, **changes))


def die_at(number: int) -> Callable[..., None]:
    """A function that kills this process when it is called for the `number`-th time."""
    calls = iter(range(1, number + 1))

    def count(*args: Any) -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


WRITES = [
    (os, "mkdir"),
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (os, "unlink"),
    (os, "write"),
    (shutil, "rmtree"),
    (checkpoint, "save_file"),
]


def before_each_write(act: Callable[[], object]) -> None:
    """From now on, `act` just before each call that changes the disk."""

    def watched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            act()
            return original(*args, **options)

        return call

    for owner, name in WRITES:
        setattr(owner, name, watched(getattr(owner, name)))


def note(path: Path, event: str) -> None:
    """For what an exit code cannot tell."""
    with open(path.with_suffix(".notes"), "a") as notes:
        notes.write(event + "\n")


def notes_of(path: Path) -> list[str]:
    notes = path.with_suffix(".notes")
    return notes.read_text().splitlines() if notes.exists() else []


def count_writes(path: Path) -> int:
    """How many calls an undisturbed run makes that change the disk."""
    tiny_run(path)
    reader, writer = os.pipe()
    write = os.write

    def work() -> None:
        before_each_write(lambda: write(writer, b"."))
        train(path)

    assert in_child(work) == 0
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return len(pipe.read())


def kill_and_resume(path: Path, work: Callable[[Path], None]) -> dict[str, Any]:
    """What a run came to that was killed once and started again."""
    tiny_run(path)
    ended = in_child(lambda: work(path))
    left_by_fault = len(list(path.rglob("*.partial")))
    logged = read_metrics(path / "metrics.jsonl")
    slots = checkpoint.list_slots(path / "checkpoints")
    step = read_json(slots[0] / "state.json")["progress"]["step"] if slots else 0
    done = max([record["step"] for record in logged], default=0)
    resumed = in_child(lambda: train(path))
    return {
        "ended": ended,
        "left_by_fault": left_by_fault,
        "resumed": resumed,
        "notes": notes_of(path),
        "steps_lost": max(0, done - step),
        "left": [entry.name for entry in path.rglob("*.partial")],
        "outcome": outcome(path) if resumed == 0 else None,
    }


def faults_at_steps(path: Path) -> Iterator[Callable[[Path], None]]:
    """One death before each micro-batch of the run."""
    for number in range(1, RECIPE["epochs"] * -(-CLIPS // RECIPE["batch_size"]) + 1):
        yield lambda path, number=number: train(path, before_batch=die_at(number))


def faults_at_writes(path: Path) -> Iterator[Callable[[Path], None]]:
    """One death before each change of the disk; as many as an undisturbed run in `path` makes."""
    for number in range(1, count_writes(path) + 1):

        def die_at_write(path: Path, number: int = number) -> None:
            before_each_write(die_at(number))
            train(path)

        yield die_at_write


def faults_at_third(path: Path) -> Iterator[Callable[[Path], None]]:
    """TERM in training, two more before one of the first writes of the save."""
    yield from faults_at_save(path, more=2)


def faults_at_save(path: Path, *, more: int = 1) -> Iterator[Callable[[Path], None]]:
    """TERM in training, and `more` before one of the first writes of the save."""
    for number in range(1, 11):

        def terminate(path: Path, number: int = number) -> None:
            stop, writes, fired = StopFlag().install(), iter(range(1, 10**6)), []

            def again() -> None:
                if stop.requested and next(writes) == number:
                    fired.append(number)
                    note(path, "fired")
                    for _ in range(more):
                        os.kill(os.getpid(), signal.SIGTERM)

            def first(epoch: int, position: int) -> None:
                if position == 3:
                    os.kill(os.getpid(), signal.SIGTERM)

            before_each_write(again)
            try:
                train(path, before_batch=first, stop=stop)
            finally:
                note(path, "left in order")
                assert fired == [number], "the second TERM was not sent"

        yield terminate


def main(root: Path, mode: str) -> None:
    torch.set_num_threads(1)
    if mode == "mixed":
        RECIPE.update(optimizer="sgd", ema=0.9, mixup=0.4, cutmix=1.0, label_smoothing=0.1)
    modes = {
        "steps": faults_at_steps,
        "mixed": faults_at_steps,
        "writes": faults_at_writes,
        "terms": faults_at_save,
        "third": faults_at_third,
    }
    in_child(lambda: train(root / "reference"))
    faults = modes[mode](root / "counted")
    report = [
        kill_and_resume(root / f"fault-{number}", work) for number, work in enumerate(faults, 1)
    ]
    print(json.dumps({"reference": outcome(root / "reference"), "faults": report}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
