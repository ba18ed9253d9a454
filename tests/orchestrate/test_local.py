"""Promises of the local launcher: bound processes, honest ends, placement within limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from regatta.core.errors import DiskError
from regatta.orchestrate.devices import Machine, Memory, Placement, host_memory
from regatta.orchestrate.local import Ended, LocalLauncher, bound_command, task_environment
from regatta.orchestrate.plan import Resources, Task
from regatta.orchestrate.processes import descendants, kill_tree, resident_gib, signal_process
from regatta.orchestrate.task_folders import sweep_task_folders
from regatta.records.status import process_identity, process_start
from tests.orchestrate.toy import launch_section, wait_until

MACHINE = Machine(4, Memory(8.0, 8.0))
SMALL = Resources(memory_gib=0.05, memory_is_fixed=True)
FOREVER = "import time\nwhile True: time.sleep(60)\n"


def python_task(name: str, code: str, log: Path, resources: Resources = SMALL) -> Task:
    """A task that runs Python text; the kind `prepare` adds no arguments."""
    resources = (
        replace(resources, memory_is_fixed=True) if resources.memory_key == "" else resources
    )
    return Task(name, "prepare", (sys.executable, "-c", code), log, resources=resources)


@pytest.fixture
def launcher() -> Iterator[LocalLauncher]:
    with_places = LocalLauncher(MACHINE, launch_section(device="cpu", max_parallel=3), runs=3)
    yield with_places
    with_places.close()


def run_to_end(launcher: LocalLauncher, task: Task) -> Ended:
    launcher.start(task, threads=1)
    return wait_until(lambda: launcher.wait(0.1), f"{task.id} has ended")[0]


def words(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []


def test_output_is_appended_and_the_exit_code_told(launcher: LocalLauncher, tmp_path: Path):
    log = tmp_path / "deep" / "log.txt"
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    assert run_to_end(launcher, python_task("a", code, log)).exit_code == 7
    assert run_to_end(launcher, python_task("b", code, log)).exit_code == 7
    assert sorted(words(log)) == ["err", "err", "out", "out"]


def test_a_signal_is_told_as_a_negative_code(launcher: LocalLauncher, tmp_path: Path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run_to_end(launcher, python_task("a", code, tmp_path / "log")).exit_code == -9


def test_a_worker_leads_its_own_session_and_sees_its_place_only(
    launcher: LocalLauncher, tmp_path: Path
):
    code = (
        "import os\n"
        "print(os.getsid(0) == os.getpid(), os.environ['CUDA_VISIBLE_DEVICES'] == '')\n"
        "print(os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])\n"
    )
    task = python_task("a", code, tmp_path / "log")
    launcher.start(task, threads=3)
    wait_until(lambda: launcher.wait(0.1), "the task has ended")
    assert words(task.log) == ["True", "True", "3", "3"]


def test_a_placed_worker_sees_its_gpus_by_bus_order():
    environment = task_environment(Placement("cuda:0", (3, 5)), threads=2)
    assert environment["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_log_that_cannot_be_written_is_a_named_error(launcher: LocalLauncher, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(DiskError):
        launcher.start(python_task("a", "pass", tmp_path / "file" / "log"), threads=1)
    assert run_to_end(launcher, python_task("b", "pass", tmp_path / "log")).exit_code == 0


PARENT = """
import os, subprocess, sys
from regatta.orchestrate.local import bound_command
code = "import os; print(os.getpid(), flush=True)\\nimport time\\nwhile True: time.sleep(60)"
inner = [sys.executable, "-c", code]
parent = os.getpid() if sys.argv[1] == "own" else 0
subprocess.Popen(bound_command(parent, inner), start_new_session=True)
import time
while True: time.sleep(60)
"""


@pytest.mark.parametrize("parent", ["own", "whoever"])
def test_killing_the_parent_ends_its_bound_children(parent: str):
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, parent], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    child = int(process.stdout.readline())
    started = process_start(child)
    assert started
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until(lambda: process_start(child) != started, "the child is gone", seconds=5)


def test_a_child_whose_parent_died_before_it_was_bound_does_not_start():
    # A parent id that is not ours stands for one that is already gone.
    command = bound_command(2**22 - 1, [sys.executable, "-c", "print('started')"])
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 143
    assert child.stdout == ""


def test_a_command_that_does_not_exist_says_so():
    command = bound_command(os.getpid(), ["/no/such/program"])
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert "cannot start /no/such/program" in child.stderr


GRANDCHILD = """
import subprocess, sys, time
inner = [sys.executable, "-c", "import time\\nwhile True: time.sleep(60)"]
print(subprocess.Popen(inner, start_new_session={own_session}).pid, flush=True)
{after}
"""


def test_killing_a_task_ends_helpers_in_other_sessions_too(launcher: LocalLauncher, tmp_path: Path):
    code = GRANDCHILD.format(own_session=True, after=FOREVER)
    task = python_task("a", code, tmp_path / "log")
    launcher.start(task, threads=1)
    helper = int(wait_until(lambda: words(task.log), "the helper is up")[0])
    launcher.kill("a")
    assert wait_until(lambda: launcher.wait(0.1), "the task has ended")[0].exit_code == -9
    wait_until(lambda: not process_start(helper), "the helper is gone", seconds=5)


def test_helpers_that_a_worker_leaves_behind_are_ended(launcher: LocalLauncher, tmp_path: Path):
    code = GRANDCHILD.format(own_session=False, after="")
    task = python_task("a", code, tmp_path / "log")
    assert run_to_end(launcher, task).exit_code == 0
    helper = int(words(task.log)[0])
    wait_until(lambda: not process_start(helper), "the helper is gone", seconds=5)


def test_closing_the_launcher_ends_everything(tmp_path: Path):
    launcher = LocalLauncher(MACHINE, launch_section(device="cpu", max_parallel=2), runs=2)
    started = [
        launcher.start(python_task(name, FOREVER, tmp_path / name), threads=1) for name in "ab"
    ]
    assert all(process.is_alive() for process in started)
    launcher.close()
    assert not any(process.is_alive() for process in started)


def test_stacks_are_asked_only_of_processes_that_can_write_them(
    launcher: LocalLauncher, tmp_path: Path
):
    able = "import faulthandler, signal\nfaulthandler.register(signal.SIGUSR1)\n"
    up = "print('up', flush=True)\n"
    tasks = {
        "able": python_task("able", able + up + FOREVER, tmp_path / "able"),
        "deaf": python_task("deaf", up + FOREVER, tmp_path / "deaf"),
    }
    processes = {name: launcher.start(task, threads=1) for name, task in tasks.items()}
    for task in tasks.values():
        wait_until(lambda log=task.log: words(log), "the task is up")
    assert launcher.dump_stacks("able")
    assert not launcher.dump_stacks("deaf")
    wait_until(lambda: "most recent call first" in tasks["able"].log.read_text(), "a dump")
    assert all(process.is_alive() for process in processes.values())


def test_work_shows_in_cpu_time_and_sleep_does_not(launcher: LocalLauncher, tmp_path: Path):
    launcher.start(python_task("busy", "while True: pass", tmp_path / "busy"), threads=1)
    before = launcher.work_done("busy")
    wait_until(lambda: launcher.work_done("busy") > before + 2, "CPU time has passed")


def test_a_task_waits_for_memory_that_others_hold_and_starts_when_alone(tmp_path: Path):
    free = host_memory().available_gib
    launcher = LocalLauncher(MACHINE, launch_section(device="cpu", max_parallel=2), runs=2)
    greedy = Resources(memory_gib=free * 0.7, memory_is_fixed=True)
    first = python_task("first", FOREVER, tmp_path / "first", greedy)
    second = python_task("second", FOREVER, tmp_path / "second", greedy)
    # Together they expect 1.4 times what is free, though neither has taken any of it yet.
    assert launcher.refusal(first, alone=False) is None
    launcher.start(first, threads=1)
    launcher.reported("first")
    refusal = launcher.refusal(second, alone=False)
    assert refusal
    assert refusal.is_memory
    assert "GiB" in refusal.reason
    launcher.kill("first")
    wait_until(lambda: launcher.wait(0.1), "the first has ended")
    assert launcher.refusal(second, alone=False) is None
    launcher.close()


def test_measured_memory_replaces_the_guess(launcher: LocalLauncher, tmp_path: Path):
    guess = Resources(memory_gib=10_000.0, memory_key="ann")
    hold = "held = bytearray(300 * 2**20)\nprint('up', flush=True)\ninput()\n"
    first = python_task(
        "first", "import time\n" + hold.replace("input()", "time.sleep(0.1)"), tmp_path / "1", guess
    )
    launcher.start(first, threads=1)
    wait_until(lambda: words(first.log), "memory is taken")
    launcher._measure()
    ended = wait_until(lambda: launcher.wait(0.1), "the first has ended")[0]
    assert 0.29 < ended.peak_gib < 0.5
    launcher.start(python_task("other", FOREVER, tmp_path / "2"), threads=1)
    launcher.reported("other")
    # The guess would never fit beside anything; the measurement does.
    assert launcher.refusal(python_task("next", "pass", tmp_path / "3", guess), alone=False) is None


def test_starts_are_staggered_until_the_last_one_reports(launcher: LocalLauncher, tmp_path: Path):
    guessed = Resources(memory_gib=0.1, memory_key="of nobody measured")
    task = python_task("first", FOREVER, tmp_path / "first", guessed)
    other = python_task("other", FOREVER, tmp_path / "other")
    launcher.start(task, threads=1)
    assert launcher.refusal(other, alone=False) is not None
    launcher.reported("first")
    assert launcher.refusal(other, alone=False) is None


def test_a_task_whose_memory_is_known_holds_up_no_other(launcher: LocalLauncher, tmp_path: Path):
    launcher.start(python_task("first", FOREVER, tmp_path / "first"), threads=1)
    other = python_task("other", FOREVER, tmp_path / "other")
    assert launcher.refusal(other, alone=False) is None


def test_a_task_that_must_run_alone_waits_for_the_others(launcher: LocalLauncher, tmp_path: Path):
    launcher.start(python_task("first", FOREVER, tmp_path / "first"), threads=1)
    launcher.reported("first")
    other = python_task("other", FOREVER, tmp_path / "other")
    assert launcher.refusal(other, alone=True) is not None


def test_threads_share_the_cores_over_the_places():
    def threads(cores: int, runs: int, **launch: object) -> int:
        section = launch_section(device="cpu", **launch)
        task = Task("t", "train", ("x",), Path("log"), resources=Resources(section.devices))
        return LocalLauncher(Machine(cores, MACHINE.memory), section, runs=runs).threads_for(task)

    assert threads(8, 3) == 2
    assert threads(8, 100) == 1
    assert threads(8, 1) == 8
    assert threads(8, 100, max_parallel=2) == 4
    assert threads(2, 100, max_parallel=5) == 1
    assert threads(8, 100, threads_per_run=3) == 3
    assert threads(8, 1, devices=4) == 2


def test_memory_of_a_process_is_what_it_holds(tmp_path: Path):
    code = "held = bytearray(200 * 2**20)\nprint('up', flush=True)\ninput()\n"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    child.stdout.readline()
    assert 200 / 1024 < resident_gib([child.pid]) < 300 / 1024
    child.communicate("\n")
    assert resident_gib([child.pid]) == 0


def test_only_the_very_process_is_signalled():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    for stranger in (
        replace(identity, started="1"),
        replace(identity, boot="another boot"),
        replace(identity, host="another-host"),
    ):
        assert not signal_process(stranger, signal.SIGKILL)
        kill_tree(stranger)
    assert child.poll() is None
    assert descendants([os.getpid()])[os.getpid()].count(identity) == 1
    assert signal_process(identity, signal.SIGKILL)
    child.communicate()
    assert child.returncode == -9


@pytest.mark.slow
@pytest.mark.fault(6)
def test_killing_the_supervisor_of_torchrun_ends_every_rank(tmp_path: Path):
    """torchrun gives each rank a session of its own, so nothing but the binding reaches them."""
    code = f"""
import sys, time
from pathlib import Path
from regatta.config.schema import LaunchSection
from regatta.orchestrate.devices import Machine, Memory
from regatta.orchestrate.local import LocalLauncher
from regatta.orchestrate.plan import Resources, Task
launcher = LocalLauncher(Machine(4, Memory(8, 8)), LaunchSection(device="cpu", devices=2), runs=1)
rank = "import os, time; print(os.environ['RANK'], os.getpid(), flush=True); time.sleep(600)"
task = Task("a", "prepare", (sys.executable, "-c", rank), Path({str(tmp_path / "log")!r}),
            resources=Resources(devices=2))
launcher.start(task, threads=1)
while True: launcher.wait(60)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "log"
    ranks = wait_until(
        lambda: (
            (
                found := [line.split() for line in log.read_text().splitlines()]
                if log.is_file()
                else []
            )
            and len(found) == 2
            and found
        ),
        "two ranks are up",
        seconds=60,
    )
    assert sorted(number for number, _ in ranks) == ["0", "1"]
    supervisor.kill()
    supervisor.wait()
    for _, pid in ranks:
        wait_until(lambda pid=pid: not process_start(int(pid)), "the rank is gone", seconds=5)
    # As the next launch does: nobody else can remove the temporary files of who was killed.
    sweep_task_folders()
