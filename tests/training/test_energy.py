"""Energy: counters are added up right, and what was not measured is never a number."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from regatta.core.errors import StopRequested
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.training.checkpoint import list_slots, read_slot, write_slot
from regatta.training.energy import (
    CPU_PACKAGE,
    GPU_BOARD,
    EnergyMeter,
    gpu_counters,
    joules_between,
    open_meter,
    package_counters,
)
from regatta.training.loop import train_run
from regatta.training.state import TrainerState
from tests.training.tiny_training import outcome, tiny_clips, tiny_run

CPU = torch.device("cpu")
RANGE = 262_143_328_850
"""Microjoules after which a real package counter begins anew."""


def zone(root: Path, place: str, name: str, *, energy: int = 0, span: int = RANGE) -> Path:
    """One power zone as the kernel shows it."""
    folder = root / place
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return count(folder, energy)


def count(folder: Path, microjoules: int) -> Path:
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_packages_are_summed_and_their_parts_are_not_counted_twice(tmp_path: Path) -> None:
    first, second = (
        zone(tmp_path, f"intel-rapl:{n}", f"package-{n}", energy=5_000_000) for n in (0, 1)
    )
    inside = [
        zone(tmp_path, "intel-rapl:0:0", "core"),
        zone(tmp_path, "intel-rapl:0:1", "dram"),
        zone(tmp_path, "intel-rapl:2", "psys"),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0"),
    ]
    meter = open_meter(CPU, powercap=tmp_path)
    count(first, 12_000_000)
    count(second, 5_500_000)
    for folder in inside:
        count(folder, 900_000_000)
    assert meter.take() == pytest.approx(7.5)
    assert meter.source == CPU_PACKAGE
    assert meter.take() == 0.0


def test_a_counter_that_begins_anew_is_counted_across_its_end(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", energy=RANGE - 3_000_000)
    meter = open_meter(CPU, powercap=tmp_path)
    count(package, 4_000_000)
    assert meter.take() == pytest.approx(7.0)


def test_polls_keep_a_long_run_whole_over_many_turns(tmp_path: Path) -> None:
    """Four hours at a steady 150 W, eight turns of the counter: 2.16 MJ."""
    package, clock = zone(tmp_path, "intel-rapl:0", "package-0"), Clock()
    meter = EnergyMeter(package_counters(tmp_path), clock=clock)
    for second in range(0, 4 * 3600 + 1, 60):
        clock.now = float(second)
        count(package, 150_000_000 * second % RANGE)
        meter.poll()
    assert 150 * 4 * 3600 / (RANGE / 1e6) > 8
    assert meter.take() == pytest.approx(150 * 4 * 3600)


def test_a_silence_in_which_the_counter_may_have_turned_is_not_measured(tmp_path: Path) -> None:
    package, clock = zone(tmp_path, "intel-rapl:0", "package-0"), Clock()
    meter = EnergyMeter(package_counters(tmp_path), clock=clock)
    clock.now = 3600.0
    count(package, 1_000_000)
    assert meter.take() is None
    clock.now += 10.0
    count(package, 3_000_000)
    assert meter.take() == pytest.approx(2.0)


def test_polls_read_the_files_rarely(tmp_path: Path) -> None:
    package, clock = zone(tmp_path, "intel-rapl:0", "package-0"), Clock()
    meter = EnergyMeter(package_counters(tmp_path), clock=clock)
    (package / "energy_uj").unlink()
    for _ in range(1000):
        meter.poll()
    count(package, 1_000_000)
    assert meter.take() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("first", "last", "span", "seconds", "expected"),
    [
        (1.0, 4.0, math.inf, 1e6, 3.0),
        (4.0, 1.0, math.inf, 1.0, None),
        (90.0, 10.0, 100.0, 0.05, 20.0),
        (10.0, 20.0, 100.0, 5.0, None),
    ],
)
def test_joules_between_two_readings(
    first: float, last: float, span: float, seconds: float, expected: float | None
) -> None:
    assert joules_between(first, last, span=span, seconds=seconds) == expected


def no_zone(root: Path) -> None:
    """A machine without counters."""


def no_folder(root: Path) -> None:
    root.rmdir()


def no_counter(root: Path) -> None:
    (zone(root, "intel-rapl:0", "package-0") / "energy_uj").unlink()


def a_part_alone(root: Path) -> None:
    zone(root, "intel-rapl:0:0", "core")


def one_of_two(root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0")
    no_counter_of = zone(root, "intel-rapl:1", "package-1") / "energy_uj"
    no_counter_of.unlink()


def no_number(root: Path) -> None:
    (zone(root, "intel-rapl:0", "package-0") / "energy_uj").write_text("")


@pytest.mark.parametrize(
    "damage", [no_zone, no_folder, no_counter, a_part_alone, one_of_two, no_number]
)
def test_what_cannot_be_read_whole_is_not_measured(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(tmp_path)
    meter = open_meter(CPU, powercap=tmp_path)
    meter.poll()
    assert (meter.take(), meter.source) == (None, None)


@contextmanager
def anyone() -> Iterator[None]:
    """Without the rights of root, which may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_counter_that_only_root_may_read_is_not_measured() -> None:
    # Not in pytest's own folder, which nobody else may even enter.
    with TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        package = zone(root, "intel-rapl:0", "package-0")
        with anyone():
            assert open_meter(CPU, powercap=root).take() == 0.0
        (package / "energy_uj").chmod(0)
        with anyone():
            assert open_meter(CPU, powercap=root).take() is None


def test_a_counter_that_vanishes_leaves_the_run_unmeasured_not_cheaper(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0")
    meter = open_meter(CPU, powercap=tmp_path)
    (package / "energy_uj").unlink()
    assert meter.take() is None


def test_only_the_first_process_of_a_machine_counts_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0")
    meters = []
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        meters.append(open_meter(CPU, powercap=tmp_path))
    count(package, 9_000_000)
    assert [meter.take() for meter in meters] == [pytest.approx(9.0), 0.0]


def test_without_the_gpus_package_a_gpu_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_counters(["GPU-a"]) is None


def stand_in_for_nvml(millijoules: dict[str, int]) -> types.ModuleType:
    """The four names of the library that we call, with its units and its error."""
    module: Any = types.ModuleType("pynvml")
    module.NVMLError = type("NVMLError", (Exception,), {})

    def handle(name: str) -> str:
        if name not in millijoules:
            raise module.NVMLError("not found")
        return name

    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByUUID = handle
    module.nvmlDeviceGetTotalEnergyConsumption = lambda name: millijoules[name]
    return module


def test_the_boards_of_a_run_are_summed_in_joules(monkeypatch: pytest.MonkeyPatch) -> None:
    board = {"GPU-a": 7_000_000_000_123, "GPU-b": 5, "GPU-c": 0}
    monkeypatch.setitem(sys.modules, "pynvml", stand_in_for_nvml(board))
    clock = Clock()
    meter = EnergyMeter(gpu_counters(["GPU-a", "GPU-b"]), clock=clock)
    board.update({"GPU-a": 7_000_000_001_123, "GPU-b": 2_505, "GPU-c": 10**9})
    clock.now = 1e6
    assert meter.take() == pytest.approx(3.5)
    assert meter.source == GPU_BOARD
    assert gpu_counters(["GPU-a", "GPU-missing"]) is None


def test_a_run_writes_its_energy_with_what_it_covers(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0")
    meter = open_meter(CPU, powercap=tmp_path)
    count(package, 8_000_000)
    results = train_run(**tiny_run(tmp_path / "run"), meter=meter)
    assert results["energy_joules"] == pytest.approx(8.0)
    assert results["energy_source"] == "cpu package"
    assert results["devices"] == 1
    assert read_json(tmp_path / "run" / "training_results.json") == results


def stopped(path: Path, meter: EnergyMeter, *, at: tuple[int, int]) -> dict[str, Any]:
    """Stop a run at a micro-batch; returns what its checkpoint says."""
    stop = StopFlag()

    def ask(epoch: int, position: int) -> None:
        if (epoch, position) == at:
            stop.request("SIGTERM")

    loader = tiny_clips(22, before_batch=ask)
    with pytest.raises(StopRequested):
        train_run(**tiny_run(path, train_loader=loader, stop=stop), meter=meter)
    return read_slot(list_slots(path / "checkpoints")[0]).record["progress"]


def test_energy_of_all_attempts_is_summed_and_changes_no_bit(tmp_path: Path) -> None:
    package = zone(tmp_path / "power", "intel-rapl:0", "package-0")
    spent = {}
    for attempt, microjoules in (("first", 2_000_000), ("second", 5_000_000)):
        meter = open_meter(CPU, powercap=tmp_path / "power")
        count(package, microjoules)
        if attempt == "first":
            spent["first"] = stopped(tmp_path / "run", meter, at=(1, 2))["energy_joules"]
        else:
            spent["all"] = train_run(**tiny_run(tmp_path / "run"), meter=meter)["energy_joules"]
    assert spent == {"first": pytest.approx(2.0), "all": pytest.approx(5.0)}
    train_run(**tiny_run(tmp_path / "plain"), meter=EnergyMeter(None))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "plain")


def test_an_attempt_that_was_not_measured_leaves_the_whole_run_unmeasured(tmp_path: Path) -> None:
    zone(tmp_path / "power", "intel-rapl:0", "package-0")
    assert stopped(tmp_path / "run", EnergyMeter(None), at=(1, 2))["energy_joules"] is None
    meter = open_meter(CPU, powercap=tmp_path / "power")
    results = train_run(**tiny_run(tmp_path / "run"), meter=meter)
    assert (results["energy_joules"], results["energy_source"]) == (None, None)


def test_a_checkpoint_from_before_energy_was_counted_still_resumes(tmp_path: Path) -> None:
    zone(tmp_path / "power", "intel-rapl:0", "package-0")
    meter = open_meter(CPU, powercap=tmp_path / "power")
    progress = stopped(tmp_path / "run", meter, at=(1, 2))
    former = {key: value for key, value in progress.items() if not key.startswith("energy")}
    assert TrainerState(**former).energy_joules is None
    slots = list_slots(tmp_path / "run" / "checkpoints")
    saved = read_slot(slots[0])
    for slot in slots:
        shutil.rmtree(slot)
    record = {**saved.record, "progress": former}
    write_slot(tmp_path / "run" / "checkpoints", replace(saved, record=record))
    results = train_run(**tiny_run(tmp_path / "run"), meter=meter)
    assert (results["steps"], results["energy_joules"]) == (18, None)


def test_encoding_of_unknown_energy_leaves_the_run_unmeasured(tmp_path: Path) -> None:
    zone(tmp_path / "power", "intel-rapl:0", "package-0")
    meter = open_meter(CPU, powercap=tmp_path / "power")
    results = train_run(**tiny_run(tmp_path / "run"), meter=meter, seconds_before=3.0)
    assert results["energy_joules"] is None


def test_two_kinds_of_counters_are_never_added() -> None:
    state = TrainerState(energy_joules=0.0)
    state.count_energy(4.0, CPU_PACKAGE)
    state.count_energy(4.0, CPU_PACKAGE)
    assert (state.energy_joules, state.energy_source) == (8.0, CPU_PACKAGE)
    state.count_energy(4.0, GPU_BOARD)
    assert (state.energy_joules, state.energy_source) == (None, None)
    state.count_energy(4.0, GPU_BOARD)
    assert state.energy_joules is None


@pytest.mark.slow
def test_two_ranks_of_a_machine_count_its_package_once(tmp_path: Path) -> None:
    zone(tmp_path / "power", "intel-rapl:0", "package-0")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", "-m", "tests.training.energy_ranks", str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = read_json(tmp_path / "run" / "training_results.json")
    assert results["energy_joules"] == pytest.approx(8.0)
    assert (results["devices"], results["world"]) == (2, 2)
