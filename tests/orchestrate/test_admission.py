"""Promises of admission: nothing starts that would not fit, and nothing waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from regatta.core.errors import EnvironmentFault
from regatta.orchestrate import admission
from regatta.orchestrate.admission import Admission, Need, place_task
from regatta.orchestrate.devices import (
    DevicePool,
    Gpu,
    Machine,
    Memory,
    Placement,
    free_processes,
    host_memory,
)
from regatta.orchestrate.local import LocalLauncher
from regatta.orchestrate.plan import Resources, Task
from tests.orchestrate.test_devices import group_tree
from tests.orchestrate.toy import launch_section, wait_until

MEMORY = Memory(8.0, 8.0)


def task(name: str, *, devices: float = 1, key: str = "ann", gib: float = 0.01) -> Task:
    resources = Resources(devices, gib, key)
    code = "import time\nwhile True: time.sleep(60)"
    return Task(name, "prepare", (sys.executable, "-c", code), Path("log"), resources=resources)


@dataclass
class Runs:
    """What an admission is told of a task that runs."""

    task: Task
    placement: Placement
    resident_gib: float = 0.0


def on_gpu(name: str, key: str = "ann", gpu: int = 0) -> Runs:
    return Runs(task(name, devices=0.25, key=key), Placement("cuda:0", (gpu,)))


class Cards:
    """GPUs whose free memory a test sets; counts how often they were asked."""

    def __init__(self, **free: float) -> None:
        self.free = {int(name[1:]): gib for name, gib in free.items()}
        self.asked = 0

    def __call__(self) -> list[Gpu]:
        self.asked += 1
        return [Gpu(i, f"GPU-{i}", "A100", 40.0, gib) for i, gib in self.free.items()]


def shortage(admission: Admission, asked: Task, running: list[Runs], gpu: int = 0) -> str | None:
    return admission.shortage(asked, Placement("cuda:0", (gpu,)), running, threads=1)


@pytest.fixture(autouse=True)
def no_wait_between_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "LOOK_SECONDS", 0.0)


def test_a_run_starts_where_the_memory_of_the_gpu_has_room_beside_what_was_promised():
    cards = Cards(g0=40.0)
    rule = Admission(launch_section(devices=0.25), ask_gpus=cards)
    rule.expect({"ann": Need(device_gib=15.0)})
    quarter = [task(name, devices=0.25) for name in "abc"]
    assert shortage(rule, quarter[0], []) is None
    # The first has taken nothing yet, but 15 of 40 GiB are promised to it: two fit, three do not.
    assert shortage(rule, quarter[1], [on_gpu("a")]) is None
    told = shortage(rule, quarter[2], [on_gpu("a"), on_gpu("b")])
    assert told == "needs 15.0 GiB of GPU 0, 10.0 GiB are free"


def test_memory_that_strangers_hold_on_a_gpu_is_not_free():
    cards = Cards(g0=40.0)
    rule = Admission(launch_section(devices=0.25), ask_gpus=cards)
    rule.expect({"ann": Need(device_gib=10.0)})
    assert shortage(rule, task("a", devices=0.25), []) is None
    cards.free[0] = 4.0
    told = shortage(rule, task("b", devices=0.25), [on_gpu("a")])
    assert told == "needs 10.0 GiB of GPU 0, 4.0 GiB are free"


def test_runs_of_unknown_size_share_a_gpu_only_once_the_first_was_measured():
    cards = Cards(g0=40.0)
    rule = Admission(launch_section(devices=0.25), ask_gpus=cards)
    first, second = on_gpu("a"), task("b", devices=0.25)
    assert shortage(rule, first.task, []) is None
    told = shortage(rule, second, [first])
    assert told
    assert "measured" in told
    cards.free[0] = 28.0  # it took 12 GiB, and takes no more
    for _ in range(1 + admission.SETTLED_LOOKS):
        rule.learn_from([first])
    assert shortage(rule, second, [first]) is None
    cards.free[0] = 16.0
    assert shortage(rule, task("c", devices=0.25), [first, on_gpu("b")]) is None
    told = shortage(rule, task("d", devices=0.25), [first, on_gpu("b"), on_gpu("c")])
    assert told == "needs 12.0 GiB of GPU 0, 4.0 GiB are free"


def test_whole_gpus_of_unknown_need_ask_no_driver():
    cards = Cards(g0=1.0)
    rule = Admission(launch_section(), ask_gpus=cards)
    assert shortage(rule, task("a"), []) is None
    rule.learn_from([Runs(task("a"), Placement("cuda:0", (0,)))])
    assert cards.asked == 0


def test_a_run_larger_than_the_gpu_is_an_error_with_the_sizes_and_a_cure():
    rule = Admission(launch_section(), ask_gpus=Cards(g0=40.0))
    rule.expect({"ann": Need(device_gib=60.0)})
    with pytest.raises(
        EnvironmentFault, match=r"60\.0 GiB of GPU memory, A100 has 40\.0"
    ) as caught:
        shortage(rule, task("a"), [])
    assert "batch_size" in str(caught.value)


def test_another_gpu_is_tried_when_the_emptiest_has_too_little_memory():
    cards = Cards(g0=2.0, g1=40.0)
    rule = Admission(launch_section(), ask_gpus=cards)
    rule.expect({"ann": Need(device_gib=10.0)})
    pool, asked = DevicePool((0, 1), 2), task("a")
    placement, _ = place_task(pool, asked, lambda place: rule.shortage(asked, place, [], threads=1))
    assert placement is not None
    assert placement.gpu_ids == (1,)


def test_a_run_that_was_measured_larger_than_the_machine_never_starts():
    memory = host_memory()
    rule = Admission(launch_section(device="cpu"))
    rule.expect({"ann": Need(host_gib=memory.total_gib + 6)})
    with pytest.raises(EnvironmentFault) as caught:
        rule.shortage(task("a"), Placement("cpu"), [], threads=1)
    assert f"{memory.total_gib + 6:.1f} GiB of memory" in caught.value.what
    assert f"{memory.total_gib:.1f}" in caught.value.what
    assert caught.value.hint


def test_a_guess_forbids_nothing_where_nothing_else_runs():
    rule = Admission(launch_section(device="cpu"))
    asked = task("a", gib=10_000.0)
    assert rule.shortage(asked, Placement("cpu"), [], threads=1) is None
    beside = [Runs(task("b", key="bob"), Placement("cpu"))]
    assert "10000.0 GiB of memory" in (
        rule.shortage(asked, Placement("cpu"), beside, threads=1) or ""
    )


def test_memory_that_nobody_of_ours_holds_is_waited_for_and_then_an_error(
    monkeypatch: pytest.MonkeyPatch,
):
    memory = host_memory()
    rule = Admission(launch_section(device="cpu"))
    rule.expect({"ann": Need(host_gib=(memory.available_gib + memory.total_gib) / 2)})
    asked = task("a")
    if memory.total_gib - memory.available_gib < 0.5:
        pytest.skip("nearly all memory of this machine is free")
    told = rule.shortage(asked, Placement("cpu"), [], threads=1)
    assert told is not None
    assert "are free" in told
    monkeypatch.setattr(admission, "WAIT_SECONDS", 0.0)
    with pytest.raises(EnvironmentFault, match="no other run holds it"):
        rule.shortage(asked, Placement("cpu"), [], threads=1)


@pytest.mark.fault(16)
def test_too_little_shared_memory_for_the_processes_of_a_run_is_an_error(tmp_path: Path):
    small = tmp_path / "shm"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False
    )
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        rule = Admission(launch_section(devices=2), shared_memory=small)
        with pytest.raises(EnvironmentFault, match="64 MiB of shared memory") as caught:
            rule.shortage(task("a", devices=2), Placement("cuda:0", (0, 1)), [], threads=1)
        assert "--shm-size" in str(caught.value)
        assert rule.shortage(task("b"), Placement("cpu"), [], threads=1) is None
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"pids.max": "100\n", "pids.current": "40\n"}, 60),
        ({"pids.max": "max\n", "pids.current": "40\n"}, None),
        ({}, None),
    ],
)
def test_the_process_limit_of_a_control_group_is_read(
    tmp_path: Path, files: dict[str, str], expected: int | None
):
    tree = {f"sys/fs/cgroup/pids/x/{name}": text for name, text in files.items()}
    assert free_processes(group_tree(tmp_path, "3:pids:/x\n", tree)) == expected


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_a_limit_on_processes_lets_fewer_start_and_is_named():
    code = """
import os, resource
from pathlib import Path
from regatta.core.errors import EnvironmentFault
from regatta.orchestrate.admission import Admission
from regatta.orchestrate.devices import Placement
from tests.orchestrate.test_admission import Runs, task
from tests.orchestrate.toy import launch_section
rule = Admission(launch_section(device="cpu"))
resource.setrlimit(resource.RLIMIT_NPROC, (40, 40))
os.setuid(12345)
print(rule.shortage(task("a"), Placement("cpu"), [], threads=2))
two = [Runs(task("a"), Placement("cpu"))] * 2
print(rule.shortage(task("b"), Placement("cpu"), two, threads=2))
try:
    rule.shortage(task("a"), Placement("cpu"), [], threads=100)
except EnvironmentFault as error:
    print(error.hint)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second, third = child.stdout.splitlines()
    assert first == "None"
    assert second == "needs about 18 processes and threads, 8 are allowed"
    assert "ulimit" in third or "limit" in third


@pytest.fixture
def launcher() -> Iterator[LocalLauncher]:
    made = LocalLauncher(Machine(4, MEMORY), launch_section(device="cpu", max_parallel=60), runs=60)
    yield made
    made.close()


def test_what_is_known_before_the_first_start_decides(launcher: LocalLauncher):
    launcher.expect({"ann": Need(host_gib=host_memory().total_gib + 1)})
    with pytest.raises(EnvironmentFault):
        launcher.refusal(task("a"), alone=False)
    assert launcher.refusal(task("b", key="bob"), alone=False) is None


def test_watching_fifty_runs_costs_next_to_nothing(launcher: LocalLauncher, tmp_path: Path):
    for number in range(50):
        sleeper = Task(
            f"t{number}",
            "prepare",
            ("sleep", "600"),
            tmp_path / "log",
            resources=task("x").resources,
        )
        launcher.start(sleeper, threads=1)
        launcher.reported(sleeper.id)
    launcher.wait(0.01)
    before, began = time.process_time(), time.monotonic()
    extra = Task(
        "extra", "prepare", ("sleep", "1"), tmp_path / "log", resources=task("x").resources
    )

    def asked_for_six_seconds() -> bool:
        launcher.wait(0.25)
        launcher.refusal(extra, alone=False)
        return time.monotonic() - began >= 6

    wait_until(asked_for_six_seconds, "six seconds of watching")
    # 1 % of a core is the promise; twice that leaves room for a busy machine's timer.
    assert time.process_time() - before < 0.02 * (time.monotonic() - began)
