"""Promises of the inventory: limits hold, GPUs are never guessed, nothing is oversold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regatta.config.schema import LaunchSection
from regatta.core.errors import ConfigError, DeviceError
from regatta.orchestrate.devices import (
    DevicePool,
    Gpu,
    Machine,
    Memory,
    cpu_cores,
    host_memory,
    list_gpus,
    make_pool,
)
from tests.orchestrate.toy import launch_section

GIB = 2**30
CARDS = "0, GPU-aaaa-1, NVIDIA A100, 40960, 40000\n2, GPU-bbbb-2, NVIDIA A100, 40960, 8192\n"


def machine(*gpu_ids: int, cores: int = 8, trouble: str = "") -> Machine:
    gpus = tuple(Gpu(i, f"GPU-{i}", "NVIDIA A100", 40.0, 40.0) for i in gpu_ids)
    return Machine(cores, Memory(64.0, 60.0), gpus, trouble)


def group_tree(root: Path, lines: str, files: dict[str, str]) -> Path:
    """A /proc and /sys as a container shows them."""
    for name, text in {"proc/self/cgroup": lines, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_cores_are_those_that_this_process_may_use():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from regatta.orchestrate.devices import cpu_cores; print(cpu_cores())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "1"
    assert 1 <= cpu_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize(
    ("lines", "files"),
    [
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "50000 100000\n"}),  # v2, set on the parent
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "100000 100000\n"}),
        (
            "4:cpu,cpuacct:/x\n",
            {
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
        ),
    ],
)
def test_a_container_quota_of_one_core_is_one_core(tmp_path: Path, lines: str, files: dict):
    assert cpu_cores(group_tree(tmp_path, lines, files)) == 1


def test_no_quota_leaves_all_cores(tmp_path: Path):
    root = group_tree(tmp_path, "0::/a\n", {"sys/fs/cgroup/a/cpu.max": "max 100000\n"})
    assert cpu_cores(root) == len(os.sched_getaffinity(0))


def test_memory_of_this_machine_is_what_the_system_says():
    memory = host_memory()
    assert 0 < memory.available_gib <= memory.total_gib
    assert memory.total_gib <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB * 1.01


MEMINFO = f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {48 * 2**20} kB\n"


def test_a_container_limit_holds_and_its_file_cache_counts_as_free(tmp_path: Path):
    files = {
        "proc/meminfo": MEMINFO,
        "sys/fs/cgroup/a/memory.max": f"{8 * GIB}\n",
        "sys/fs/cgroup/a/memory.current": f"{6 * GIB}\n",
        "sys/fs/cgroup/a/memory.stat": f"anon 1\ninactive_file {2 * GIB}\nactive_file {1 * GIB}\n",
    }
    memory = host_memory(group_tree(tmp_path, "0::/a/b\n", files))
    # 8 GiB limit - (6 GiB used - 3 GiB of file cache)
    assert (memory.total_gib, memory.available_gib) == (8.0, 5.0)


def test_an_old_style_container_limit_holds(tmp_path: Path):
    files = {
        "proc/meminfo": MEMINFO,
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{4 * GIB}\n",
        "sys/fs/cgroup/memory/x/memory.usage_in_bytes": f"{1 * GIB}\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{20 * GIB}\n",
    }
    memory = host_memory(group_tree(tmp_path, "3:memory:/x\n0::/\n", files))
    assert (memory.total_gib, memory.available_gib) == (4.0, 3.0)


def test_the_machine_limits_when_the_container_is_larger(tmp_path: Path):
    files = {
        "proc/meminfo": MEMINFO,
        "sys/fs/cgroup/memory.max": f"{512 * GIB}\n",
        "sys/fs/cgroup/memory.current": f"{1 * GIB}\n",
    }
    memory = host_memory(group_tree(tmp_path, "0::/\n", files))
    assert (memory.total_gib, memory.available_gib) == (64.0, 48.0)


def install_nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a driver tool of our own first on the PATH."""
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_are_those_that_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    install_nvidia_smi(tmp_path, f"printf '{CARDS}'", monkeypatch)
    gpus, trouble = list_gpus()
    assert trouble == ""
    assert gpus == (
        Gpu(0, "GPU-aaaa-1", "NVIDIA A100", 40.0, 40000 / 1024),
        Gpu(2, "GPU-bbbb-2", "NVIDIA A100", 40.0, 8.0),
    )


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("2", [2]), ("2,0", [2, 0]), ("GPU-bbbb", [2]), ("", []), ("-1", []), ("0,7,2", [0])],
)
def test_gpus_hidden_by_a_scheduler_stay_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[int]
):
    install_nvidia_smi(tmp_path, f"printf '{CARDS}'", monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpus, trouble = list_gpus()
    assert [gpu.index for gpu in gpus] == expected
    assert bool(trouble) == (not expected)


@pytest.mark.parametrize(
    ("script", "said"),
    [("echo driver mismatch; exit 9", "driver mismatch"), ("exec sleep 60", "no answer")],
)
def test_a_sick_driver_means_no_gpu_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
):
    install_nvidia_smi(tmp_path, script, monkeypatch)
    gpus, trouble = list_gpus(timeout_seconds=0.3)
    assert gpus == ()
    assert said in trouble


def test_a_machine_without_a_driver_has_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list_gpus() == ((), "nvidia-smi is not installed")


def test_a_device_that_does_not_exist_is_named_with_those_that_do():
    launch = launch_section(device_ids=[0, 5])
    with pytest.raises(DeviceError) as caught:
        make_pool(machine(0, 1), launch, runs=4)
    text = str(caught.value)
    assert "5" in caught.value.what
    assert "GPU 0 (NVIDIA A100, 40 GiB), GPU 1" in text
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("launch", [launch_section(device="cuda"), launch_section(device_ids=[0])])
def test_asking_for_a_gpu_where_there_is_none_says_why(launch: LaunchSection):
    with pytest.raises(DeviceError, match="the driver is ill") as caught:
        make_pool(machine(trouble="the driver is ill"), launch, runs=1)
    assert "8 CPU cores and no usable GPU" in str(caught.value)


def test_more_devices_per_run_than_there_are_is_an_error():
    with pytest.raises(DeviceError, match="needs 4 GPUs"):
        make_pool(machine(0, 1), launch_section(devices=4), runs=1)


def test_contradicting_launch_sections_are_refused():
    with pytest.raises(ConfigError, match="device is cpu"):
        make_pool(machine(0), launch_section(device="cpu", device_ids=[0]), runs=1)
    with pytest.raises(ConfigError, match=r"launch\.devices is"):
        make_pool(machine(0, 1), launch_section(devices=1.5), runs=1)


@pytest.mark.parametrize(
    ("gpus", "section", "runs", "expected"),
    [
        ((), {}, 20, 8),  # one per core
        ((), {}, 3, 3),  # more places than runs would only waste threads
        ((), {"max_parallel": 2}, 20, 2),
        ((), {"devices": 4}, 20, 2),  # four processes each on eight cores
        ((0, 1), {}, 20, 2),
        ((0, 1), {"devices": 0.25}, 20, 8),
        ((0, 1), {"devices": 0.25, "max_parallel": 3}, 20, 3),
        ((0, 1, 2), {"devices": 2}, 20, 1),
        ((0, 1), {"device_ids": [1]}, 20, 1),
        ((0, 1), {"device": "cpu"}, 20, 8),
        ((0,), {"devices": 1 / 3}, 20, 3),
    ],
)
def test_places_follow_from_devices_and_shares(
    gpus: tuple[int, ...], section: dict, runs: int, expected: int
):
    launch = launch_section(**section)
    assert make_pool(machine(*gpus), launch, runs=runs).at_once(launch.devices) == expected


DEMANDS = st.lists(st.sampled_from([0.2, 0.25, 1 / 3, 0.5, 1, 2]), max_size=12)


@given(gpus=st.integers(1, 4), demands=DEMANDS)
def test_no_gpu_is_ever_sold_twice(gpus: int, demands: list[float]):
    pool = DevicePool(tuple(range(gpus)), places=99)
    used = dict.fromkeys(range(gpus), 0.0)
    held = []
    for devices in demands:
        placement = pool.take(devices)
        if placement is None:
            continue
        held.append((placement, devices))
        assert len(placement.gpu_ids) == max(1, int(devices))
        for gpu in placement.gpu_ids:
            used[gpu] += min(devices, 1.0)
    assert all(share <= 1 + 1e-6 for share in used.values())
    for placement, devices in held:
        pool.give_back(placement, devices)
    # All is free again: every GPU can be had whole.
    assert [pool.take(1) is not None for _ in range(gpus)] == [True] * gpus


@given(gpus=st.integers(0, 4), places=st.integers(1, 8), devices=st.sampled_from([0.25, 0.5, 1]))
def test_as_many_fit_side_by_side_as_promised(gpus: int, places: int, devices: float):
    pool = DevicePool(tuple(range(gpus)), places)
    promised = pool.at_once(devices)
    taken = [pool.take(devices) for _ in range(promised + 1)]
    assert all(placement is not None for placement in taken[:-1])
    assert taken[-1] is None


def test_runs_spread_over_gpus_before_they_share_one():
    pool = DevicePool((0, 1), places=4)
    first, second = pool.take(0.5), pool.take(0.5)
    assert first is not None
    assert second is not None
    assert first.gpu_ids != second.gpu_ids
