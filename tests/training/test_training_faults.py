"""Interrupted equals uninterrupted: whatever ends a run, starting it again gives the same bits."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from regatta.core.errors import RunError, StopRequested
from regatta.core.signals import StopFlag
from regatta.training.checkpoint import list_slots, read_slot
from regatta.training.guards import named_out_of_memory
from regatta.training.loop import train_run
from tests.training.harness import run_module
from tests.training.tiny_training import outcome, tiny_clips, tiny_run

REPOSITORY = Path(__file__).parents[2]


def kill_everywhere(folder: Path, mode: str) -> dict[str, Any]:
    return json.loads(run_module("kill_everywhere", folder, mode).stdout)


def check_each_fault(report: dict[str, Any], *, ended: int = -signal.SIGKILL) -> None:
    for number, fault in enumerate(report["faults"], 1):
        assert fault["ended"] == ended, f"fault {number} did not fire"
        assert fault["resumed"] == 0, f"fault {number}"
        assert fault["outcome"] == report["reference"], f"fault {number}"
        assert fault["left"] == [], f"fault {number}"


@pytest.mark.slow
@pytest.mark.fault(1)
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("mode", ["steps", "mixed"])
def test_killed_before_any_micro_batch_a_run_resumes_to_the_same_bits(tmp_path: Path, mode: str):
    report = kill_everywhere(tmp_path, mode)
    assert len(report["faults"]) == 8
    check_each_fault(report)
    # 2 steps lie between two checkpoints: what is done again is less than that.
    assert max(fault["steps_lost"] for fault in report["faults"]) == 1


@pytest.mark.slow
@pytest.mark.fault(2)
@pytest.mark.usefixtures("no_leaks")
def test_killed_before_any_write_a_run_resumes_to_the_same_bits_and_leaves_nothing(tmp_path: Path):
    report = kill_everywhere(tmp_path, "writes")
    check_each_fault(report)
    assert sum(fault["left_by_fault"] > 0 for fault in report["faults"]) > 20
    # At worst a save that was under way is lost, with the interval before it.
    assert max(fault["steps_lost"] for fault in report["faults"]) == 2


@pytest.mark.slow
@pytest.mark.fault(5)
@pytest.mark.usefixtures("no_leaks")
def test_a_second_term_anywhere_in_the_save_lets_the_save_finish(tmp_path: Path):
    report = kill_everywhere(tmp_path, "terms")
    check_each_fault(report, ended=143)
    assert not any(fault["left_by_fault"] for fault in report["faults"])
    assert all(fault["notes"] == ["fired", "left in order"] for fault in report["faults"])


@pytest.mark.slow
@pytest.mark.fault(5)
@pytest.mark.usefixtures("no_leaks")
def test_a_third_term_anywhere_in_the_save_leaves_at_once_and_the_checkpoint_before_stays_good(
    tmp_path: Path,
):
    report = kill_everywhere(tmp_path, "third")
    check_each_fault(report, ended=143)
    assert all(fault["notes"] == ["fired"] for fault in report["faults"])
    assert sum(fault["left_by_fault"] > 0 for fault in report["faults"]) > 5


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("uninterrupted")
    train_run(**tiny_run(path))
    return outcome(path)


@pytest.mark.fault(3)
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize(("phase", "step"), [("train", 2), ("validate", 6)])
def test_term_saves_at_the_next_safe_point_and_leaves_with_143(
    tmp_path: Path, reference: dict[str, Any], phase: str, step: int
):
    command = [sys.executable, "-m", "tests.training.stoppable_run", str(tmp_path / "run"), phase]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGTERM)
        child.communicate("go on\n", timeout=60)
    assert child.returncode == 143
    [slot] = list_slots(tmp_path / "run" / "checkpoints")
    assert read_slot(slot).record["progress"]["step"] == step
    train_run(**tiny_run(tmp_path / "run"))
    assert outcome(tmp_path / "run") == reference


def interrupt(path: Path, *, after: int) -> int:
    """Ask a run to stop after so many micro-batches; the step it was saved at."""
    stop, handed = StopFlag(), []

    def count(epoch: int, position: int) -> None:
        handed.append(position)
        if len(handed) == after:
            stop.request("SIGINT")

    with pytest.raises(StopRequested, match="stopped by SIGINT; the state of step") as caught:
        train_run(**tiny_run(path, train_loader=tiny_clips(22, before_batch=count), stop=stop))
    assert caught.value.exit_code == 130
    return read_slot(list_slots(path / "checkpoints")[0]).record["progress"]["step"]


@pytest.mark.fault(3)
def test_a_run_stopped_again_and_again_equals_the_uninterrupted_one(
    tmp_path: Path, reference: dict[str, Any]
):
    assert [interrupt(tmp_path, after=n) for n in (1, 3, 2, 1)] == [1, 4, 6, 7]
    train_run(**tiny_run(tmp_path))
    assert outcome(tmp_path) == reference


def test_time_of_all_attempts_is_counted(tmp_path: Path):
    interrupt(tmp_path, after=3)
    first = read_slot(list_slots(tmp_path / "checkpoints")[0]).record["progress"]["train_seconds"]
    assert train_run(**tiny_run(tmp_path))["train_seconds"] > first > 0


def test_another_number_of_threads_on_resume_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    interrupt(tmp_path, after=3)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        train_run(**tiny_run(tmp_path))
    finally:
        torch.set_num_threads(threads)
    assert f"began with {threads} threads and goes on with {threads + 1}" in caplog.text


@pytest.mark.fault(3)
def test_a_stop_on_the_last_step_of_the_last_epoch_still_resumes_to_the_end(
    tmp_path: Path, reference: dict[str, Any]
):
    assert interrupt(tmp_path, after=18) == 18
    train_run(**tiny_run(tmp_path))
    assert outcome(tmp_path) == reference


class Greedy(nn.Module):
    """Wants 4 TiB in its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(96, 3)

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        return self.head(video_BTCHW.flatten(1)) + torch.empty(2**40).sum()


@pytest.mark.fault(17)
def test_out_of_memory_names_batch_frames_size_and_peak_and_changes_nothing(tmp_path: Path):
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**40, limit[1]))
    try:
        with pytest.raises(
            RunError, match=r"batch 4 of 2 frames at 4 x 4 pixels, peak \d"
        ) as caught:
            train_run(**tiny_run(tmp_path, module=Greedy(), accumulate=3))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    assert getattr(caught.value, "cause", None) == "out_of_memory"
    assert "train.batch_size=2 with train.accumulate=6" in str(caught.value.hint)


@pytest.mark.fault(17)
@pytest.mark.parametrize(
    ("batch_size", "advice"),
    [
        (6, "train.batch_size=3 with train.accumulate=4,"),
        (5, "train.batch_size=1 with train.accumulate=10,"),
        (1, "gradient_checkpointing"),
    ],
)
def test_out_of_memory_advice_keeps_the_effective_batch(batch_size: int, advice: str):
    sizes = {"accumulate": 2, "of": "1 frame"}
    with (
        pytest.raises(RunError) as caught,
        named_out_of_memory(batch_size=batch_size, device=torch.device("cpu"), **sizes),
    ):
        raise MemoryError
    assert advice in str(caught.value.hint)


def test_other_runtime_errors_pass_through_unchanged():
    with (
        pytest.raises(RuntimeError, match="mat1 and mat2"),
        named_out_of_memory(batch_size=1, accumulate=1, of="1 frame", device=torch.device("cpu")),
    ):
        nn.Linear(2, 2)(torch.zeros(1, 3))


def test_a_file_size_limit_is_a_named_disk_error(tmp_path: Path):
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from regatta.core.errors import DiskError\n"
        "from regatta.training.loop import train_run\n"
        "from tests.training.tiny_training import tiny_run\n"
        "run = tiny_run(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\n"
        "try:\n"
        "    train_run(**run)\n"
        "except DiskError as error:\n"
        "    sys.exit(str(error)[:40].startswith('file too large: need') and 3)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    assert done.returncode == 3, done.stderr.decode()
    assert not list((tmp_path / "run" / "checkpoints").glob("**/*partial"))
    assert not os.path.exists(tmp_path / "run" / "training_results.json")


@pytest.mark.fault(2)
def test_an_epoch_to_keep_is_kept_though_its_writer_died_just_before(tmp_path: Path):
    """Child processes die right before each keeping of a checkpoint; every epoch is kept."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from regatta.training import checkpoint\n"
        "from regatta.training.loop import train_run\n"
        "from tests.training.tiny_training import tiny_run\n"
        "calls = iter(range(9))\n"
        "keep = checkpoint.keep_slot\n"
        "def die_or_keep(slot, name):\n"
        "    if next(calls) == int(sys.argv[2]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    keep(slot, name)\n"
        "checkpoint.keep_slot = die_or_keep\n"
        "train_run(**tiny_run(Path(sys.argv[1]), epochs=3, keep_every_epochs=1))\n"
    )
    ended = []
    # The second attempt keeps what the first could not, then dies before the next.
    for survived in (0, 1, 99):
        command = [sys.executable, "-c", code, str(tmp_path / "run"), str(survived)]
        ended.append(subprocess.run(command, cwd=REPOSITORY, check=False).returncode)
    assert ended == [-signal.SIGKILL, -signal.SIGKILL, 0]
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("epoch_*"))
    assert kept == ["epoch_01", "epoch_02", "epoch_03"]
