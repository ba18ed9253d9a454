"""The host's memory runs out: the cause and the sizes are named, and nothing else changes."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from regatta.orchestrate.causes import diagnose
from regatta.orchestrate.devices import Machine, Memory
from regatta.orchestrate.local import LocalLauncher, kernel_oom_kills
from regatta.orchestrate.plan import Resources, Task
from tests.orchestrate.toy import launch_section, wait_until
from tests.training.test_training_real_workers import real_workers

GROUPS = Path("/sys/fs/cgroup")
LIMIT = 64 * 2**20


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of 64 MiB; its `cgroup.procs` takes who is to live in it."""
    own = f"regatta-test-{uuid.uuid4().hex[:8]}"
    old = (GROUPS / "memory").is_dir()
    group = (GROUPS / "memory" if old else GROUPS) / own
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(LIMIT))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"needs the right to make a control group: {error}")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), "nobody is in the group")
    group.rmdir()


GREEDY = """
import os, sys
from pathlib import Path
Path(sys.argv[1]).write_text(str(os.getpid()))
print("joined", flush=True)
held = [bytearray(2**20) for _ in range(400)]
print("had room", flush=True)
"""


@pytest.mark.fault(17)
@pytest.mark.usefixtures("no_leaks")
def test_a_kill_by_the_kernel_for_want_of_memory_is_named_and_harms_no_other(
    small_group: Path, tmp_path: Path
):
    machine = Machine(2, Memory(8.0, 8.0))
    launcher = LocalLauncher(machine, launch_section(device="cpu", max_parallel=2), runs=2)
    before, little = kernel_oom_kills(), Resources(memory_gib=0.05, memory_is_fixed=True)
    greedy = (sys.executable, "-c", GREEDY, str(small_group / "cgroup.procs"))
    beside = (sys.executable, "-c", "import time; time.sleep(4); print('well')")
    logs = {name: tmp_path / f"{name}.log" for name in ("greedy", "beside")}
    try:
        ended = {}
        for name, command in {"beside": beside, "greedy": greedy}.items():
            task = Task(name, "prepare", command, logs[name], resources=little)
            launcher.start(task, threads=1)
        while len(ended) < 2:
            ended |= {end.task_id: end for end in launcher.wait(0.2)}
    finally:
        launcher.close()
    assert logs["greedy"].read_text() == "joined\n", "the fault did not fire"
    assert kernel_oom_kills() > before
    failure = diagnose(ended["greedy"], status=None, log=logs["greedy"], log_start=0)
    assert failure.cause == "out_of_memory"
    assert "the host ran out of memory and killed it; it held " in failure.message
    assert "GiB were free at the lowest" in failure.message
    assert "launch.memory_gib_per_run" in failure.next_step
    assert failure.retry
    assert failure.alone
    assert ended["beside"].exit_code == 0
    assert logs["beside"].read_text() == "well\n"


@pytest.mark.soak
@pytest.mark.fault(17)
@pytest.mark.usefixtures("no_leaks")
def test_a_worker_without_memory_names_cause_and_sizes_and_goes_on_to_the_same_results(
    tmp_path: Path,
):
    report = real_workers(tmp_path, "signal", "memory")
    for name, fault in report["faults"].items():
        assert fault["ended"] == 1, f"{name} did not fire"
        assert (fault["status"]["state"], fault["status"]["cause"]) == ("failed", "out_of_memory")
        assert set(fault["finished"]) == {0}
        # Also the recipe that is recorded: no batch was made smaller in silence.
        assert fault["outcome"] == report["reference"]
    training = report["faults"]["train"]["status"]
    assert "batch 16 of" in training["message"]
    assert "peak " in training["message"]
    assert "train.batch_size=8 with train.accumulate=2" in training["next_step"]
