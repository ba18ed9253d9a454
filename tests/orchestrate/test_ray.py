"""Promises of the Ray launcher, on a real Ray cluster of this machine with pretended GPUs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from regatta.core.errors import (
    ConfigError,
    DeviceError,
    EnvironmentFault,
    MissingExtraError,
)
from regatta.core.files import read_json
from regatta.core.signals import StopFlag
from regatta.orchestrate.devices import Machine, Memory
from regatta.orchestrate.plan import Resources, Task
from regatta.orchestrate.ray_cluster import Node, Shape
from regatta.orchestrate.ray_jobs import RayLauncher
from regatta.orchestrate.run_states import SUPERVISED_VARIABLE
from regatta.orchestrate.supervise import run_study
from tests.orchestrate.toy import (
    HERE,
    HOLDING,
    ORDERS_VARIABLE,
    STEPS,
    WORKER_COMMAND,
    Toy,
    launch_section,
    lives,
    processes_of,
    toy_mapping,
    wait_until,
)

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'regatta[ray]')")

MACHINE = Machine(cores=2, memory=Memory(8, 8))
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
SHOW = """
import json, os, sys
keys = ("CUDA_VISIBLE_DEVICES", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
        "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "REGATTA_TEST_WORD")
shown = {key: os.environ.get(key) for key in keys} | {"argv": sys.argv}
open(f"{sys.argv[1]}-{os.environ.get('RANK', 0)}", "w").write(json.dumps(shown))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node with 4 CPUs and 2 GPUs that do not exist; this process is connected to it."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        before = signal.getsignal(signal.SIGTERM)
        head = {"num_cpus": 4, "num_gpus": 2, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def study(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Toy]]:
    """Makes prepared toy studies; at the end no process of theirs may be left."""
    monkeypatch.setenv(ORDERS_VARIABLE, str(tmp_path))

    def make(entries: tuple[str, ...] = ("ann", "bob"), **launch: Any) -> Toy:
        toy = Toy(tmp_path, toy_mapping(entries, on="ray", **launch))
        toy.prepare()
        return toy

    yield make
    wait_until(lambda: not processes_of(tmp_path), "every worker is gone")
    wait_until(all_is_free, "all GPUs were given back")


def all_is_free() -> bool:
    return ray.available_resources().get("GPU") == ray.cluster_resources()["GPU"]


def supervise(
    toy: Toy, *, stop: StopFlag | None = None, tick: Callable[[], None] | None = None
) -> tuple[int, str]:
    said: list[str] = []
    code = run_study(
        toy.open(),
        toy.study,
        stop=stop or StopFlag(),
        echo=said.append,
        tick=tick,
        machine=MACHINE,
        worker_command=WORKER_COMMAND,
        make_launcher=RayLauncher,
    )
    return code, "\n".join(said)


def test_sixteen_runs_of_which_one_fails_are_all_accounted_for(study: Callable[..., Toy]):
    names = tuple(f"e{number}" for number in range(16))
    toy = study(names, max_parallel=4)
    toy.order({"train:e3": ["exit:2"]})
    code, said = supervise(toy)
    assert code == 1, said
    assert "Ray at" in said
    assert toy.status("e3").state == "failed"
    assert toy.status("e3").message == "ValueError: the toy was told to fail"
    assert {toy.status(name).state for name in names if name != "e3"} == {"done"}
    assert len(toy.starts("train")) == 16
    assert {s["env"]["CUDA_VISIBLE_DEVICES"] for s in toy.starts()} == {""}
    before = toy.starts()
    toy.order({})
    assert supervise(toy)[0] == 0
    assert [s["names"] for s in toy.starts("train")[16:]] == [["e3"]]
    assert len(toy.starts()) > len(before)


def test_a_crashed_run_resumes_from_its_checkpoint(study: Callable[..., Toy]):
    toy = study(("ann",))
    toy.order({"train:ann": ["kill"]})
    code, said = supervise(toy)
    assert code == 0, said
    assert [(s["order"], s["begin"]) for s in toy.starts("train")] == [("kill", 0), ("ok", 2)]
    assert "SIGKILL" in said
    assert read_json(toy.run("ann").checkpoints / "step.json") == {"step": STEPS}


def test_a_silent_run_is_dumped_killed_and_restarted(study: Callable[..., Toy]):
    toy = study(("ann",), stall_seconds=1.5)
    toy.order({"train:ann": ["hang"]})
    code, said = supervise(toy)
    assert code == 0, said
    assert "no sign of life" in said
    assert "in obey" in toy.run("ann").log.read_text()


def test_shares_of_a_gpu_lie_on_one_and_a_stop_saves_both_runs(study: Callable[..., Toy]):
    toy = study(("ann", "bob"), device="auto", devices=0.5, max_parallel=2)
    toy.order({"train:ann": ["hold"], "train:bob": ["hold"]})
    stop = StopFlag()

    def stop_when_both_hold() -> None:
        if {toy.status(name).step for name in ("ann", "bob")} == {HOLDING}:
            stop.request("SIGINT")

    code, _ = supervise(toy, stop=stop, tick=stop_when_both_hold)
    assert code == 130
    starts = toy.starts("train")
    assert [s["env"]["CUDA_VISIBLE_DEVICES"] for s in starts] == ["0", "0"]
    assert all("cuda:0" in s["argv"] for s in starts)
    for name in ("ann", "bob"):
        assert (toy.status(name).state, toy.status(name).process) == ("interrupted", None)
    toy.order({})
    assert supervise(toy)[0] == 0
    assert [s["begin"] for s in toy.starts("train")[2:]] == [2, 2]


def show_task(folder: Path, name: str = "ann", *, code: str = SHOW, **resources: Any) -> Task:
    command = (sys.executable, "-c", code, str(folder / "shown"))
    env = {SUPERVISED_VARIABLE: str(folder)}
    needs = Resources(**{"memory_gib": 0.05, **resources})
    log = folder / f"{name}.txt"
    return Task(f"train:{name}", "train", command, log, (name,), resources=needs, env=env)


def start(launcher: RayLauncher, task: Task) -> Task:
    wait_until(lambda: launcher.refusal(task, alone=False) is None, "Ray has room")
    launcher.start(task, threads=1)
    return task


def ends_of(launcher: RayLauncher, count: int = 1) -> list[Any]:
    ended: list[Any] = []
    wait_until(lambda: ended.extend(launcher.wait(0.2)) or len(ended) >= count, "tasks end")
    return ended


@pytest.fixture
def launcher(cluster: Any) -> Iterator[Callable[..., RayLauncher]]:
    made: list[RayLauncher] = []

    def make(**launch: Any) -> RayLauncher:
        made.append(RayLauncher(MACHINE, launch_section(on="ray", **launch), runs=4))
        return made[-1]

    yield make
    for one in made:
        one.close()
    wait_until(all_is_free, "all GPUs were given back")


@pytest.fixture
def second_node(cluster: Any) -> Iterator[Any]:
    node = cluster.add_node(num_cpus=2, num_gpus=1)
    wait_until(lambda: ray.cluster_resources().get("GPU") == 3, "the second node is there")
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)
        wait_until(lambda: ray.cluster_resources().get("GPU") == 2, "the second node is gone")


def test_ranks_are_told_their_places_on_two_nodes(
    second_node: Any, launcher: Callable[..., RayLauncher], tmp_path: Path, monkeypatch: Any
):
    monkeypatch.setenv("REGATTA_TEST_WORD", "handed on")
    ranks = launcher(devices=3)
    task = start(ranks, show_task(tmp_path, devices=3))
    [ended] = ends_of(ranks)
    assert (ended.task_id, ended.exit_code) == (task.id, 0), task.log.read_text()
    shown = [json.loads((tmp_path / f"shown-{rank}").read_text()) for rank in range(3)]
    assert [s["RANK"] for s in shown] == ["0", "1", "2"]
    assert {s["WORLD_SIZE"] for s in shown} == {"3"}
    # Two ranks share the head node and see both its GPUs, the third is alone on the other.
    places = sorted(
        (s["LOCAL_WORLD_SIZE"], s["LOCAL_RANK"], s["CUDA_VISIBLE_DEVICES"]) for s in shown
    )
    assert [place[:2] for place in places] == [("1", "0"), ("2", "0"), ("2", "1")]
    assert [sorted(place[2].split(",")) for place in places] == [["0"], ["0", "1"], ["0", "1"]]
    assert len({(s["MASTER_ADDR"], s["MASTER_PORT"]) for s in shown}) == 1
    assert shown[0]["MASTER_ADDR"] != "127.0.0.1"
    assert {s["REGATTA_TEST_WORD"] for s in shown} == {"handed on"}
    assert all(s["argv"][-4:] == ["--device", "cuda:0", "--threads", "1"] for s in shown)


def test_a_rank_that_fails_ends_the_others_and_its_code_counts(
    launcher: Callable[..., RayLauncher], tmp_path: Path, monkeypatch: Any
):
    monkeypatch.setattr("regatta.orchestrate.ray_jobs.PARTING_SECONDS", 0.5)
    code = "import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(3)\ntime.sleep(600)"
    ranks = launcher(devices=2)
    start(ranks, show_task(tmp_path, code=code, devices=2))
    [ended] = ends_of(ranks)
    assert ended.exit_code == 3


def test_work_shows_in_cpu_time_and_one_may_ask_to_run_alone(
    launcher: Callable[..., RayLauncher], tmp_path: Path
):
    one = launcher()
    assert one.refusal(show_task(tmp_path, "bob"), alone=True) is None
    task = start(one, show_task(tmp_path, code="while True: pass"))
    assert one.refusal(show_task(tmp_path, "cyd"), alone=True)
    before = one.work_done(task.id)
    wait_until(lambda: one.work_done(task.id) > before, "it works")
    one.kill(task.id)
    assert [end.exit_code for end in ends_of(one)] == [-signal.SIGKILL]


def test_memory_that_is_taken_is_waited_for_and_named(
    launcher: Callable[..., RayLauncher], tmp_path: Path
):
    one = launcher(device="cpu")
    most = ray.cluster_resources()["memory"] / 2**30
    start(one, show_task(tmp_path, code="import time; time.sleep(600)", memory_gib=0.9 * most))
    refused = one.refusal(show_task(tmp_path, "bob", memory_gib=0.5 * most), alone=False)
    assert refused
    assert refused.is_memory
    assert "GiB" in refused.reason


@pytest.mark.parametrize(
    ("launch", "kind", "words"),
    [
        ({"devices": 64}, DeviceError, "64 GPUs"),
        ({"memory_gib_per_run": 1e6}, DeviceError, "GiB of memory"),
        ({"device_ids": [0]}, ConfigError, "device_ids"),
        ({"address": "127.0.0.1:1"}, EnvironmentFault, "ray start --head"),
        ({"address": "nowhere"}, ConfigError, "no address"),
    ],
)
def test_what_the_cluster_cannot_do_is_said_at_once(
    cluster: Any, launch: dict[str, Any], kind: type[Exception], words: str
):
    with pytest.raises(kind, match=words):
        RayLauncher(MACHINE, launch_section(on="ray", **launch), runs=1)


def test_one_process_never_gets_gpus_of_two_nodes(
    launcher: Callable[..., RayLauncher], second_node: Any, tmp_path: Path
):
    with pytest.raises(DeviceError, match="3 GPUs in one node"):
        launcher().refusal(show_task(tmp_path, devices=3, one_process=True), alone=False)


def test_an_address_where_no_ray_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("regatta.orchestrate.ray_cluster.REACH_SECONDS", 4.0)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(EnvironmentFault, match="no answer within 4 s"):
            RayLauncher(MACHINE, launch_section(on="ray", address=address), runs=1)
        assert time.monotonic() - began < 8


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("regatta.orchestrate.ray_cluster.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="ray is not installed"):
        RayLauncher(MACHINE, launch_section(on="ray"), runs=1)


def test_a_node_without_the_study_folder_is_named(
    launcher: Callable[..., RayLauncher], tmp_path: Path
):
    task = show_task(tmp_path / "elsewhere")
    one = launcher()
    with pytest.raises(EnvironmentFault, match="does not see the study folder"):
        start(one, task)
    assert not task.log.exists()


def test_processes_share_a_node_evenly():
    shape = Shape((Node("a", "a", 16, 4, 64), Node("b", "b", 16, 4, 64)), on_gpu=True, places=99)
    assert [shape.at_once(devices) for devices in (0.25, 1, 2, 8)] == [32, 8, 4, 1]
    assert shape.cpus_each(1, tasks=8) == 4
    assert shape.cpus_each(4, tasks=2) == 4


SECONDS = 60
"""For a supervisor that loads Ray, and may have to start it first, on a busy machine."""


@pytest.fixture
def driver() -> Iterator[Callable[[Toy], subprocess.Popen[str]]]:
    """Starts the supervisor in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start_one(toy: Toy) -> subprocess.Popen[str]:
        started.append(start_driver(toy))
        return started[-1]

    yield start_one
    for child in started:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def start_driver(toy: Toy) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(HERE / "toy_ray.py"), str(toy.file), toy.runs_root],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**toy.environment(), "RAY_ADDRESS": ""},
        start_new_session=True,
    )


def test_a_stop_signal_saves_the_runs_of_a_cluster_that_was_joined(
    cluster: Any, study: Callable[..., Toy], driver: Callable[[Toy], subprocess.Popen[str]]
):
    toy = study(("ann",), address=cluster.address)
    toy.order({"train:ann": ["hold"]})
    supervisor = driver(toy)
    wait_until(lambda: toy.status("ann").step == HOLDING, "ann holds", seconds=SECONDS)
    supervisor.send_signal(signal.SIGTERM)
    output, _ = supervisor.communicate(timeout=20)
    assert supervisor.returncode == 143, output
    assert (toy.status("ann").state, toy.status("ann").cause) == ("interrupted", "stopped")


def test_a_lost_node_is_the_end_of_its_task_alone(second_node: Any, cluster: Any, tmp_path: Path):
    three = RayLauncher(MACHINE, launch_section(on="ray"), runs=4)
    for name in ("ann", "bob", "cyd"):
        start(three, show_task(tmp_path, name, code="import time; time.sleep(600)"))
    fourth = show_task(tmp_path, "dan")
    assert three.refusal(fourth, alone=False)
    cluster.remove_node(second_node, allow_graceful=False)
    [ended] = ends_of(three)
    assert ended.exit_code == -signal.SIGKILL
    assert "Ray actor or node was lost" in ended.memory_text
    assert three.wait(0.5) == []
    three.close()


def session_of(leader: int) -> list[int]:
    """Living processes of a session; Ray's own ones change their environment, but not this."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def test_a_killed_supervisor_ends_its_workers_and_the_next_one_finishes(
    tmp_path: Path, driver: Callable[[Toy], subprocess.Popen[str]]
):
    """With a Ray of its own. Two of Ray's agents outlive a kill for a minute, idle."""
    toy = Toy(tmp_path, toy_mapping(on="ray"))
    toy.prepare()
    toy.order({"train:ann": ["hold"], "train:bob": ["hold"]})
    supervisor = driver(toy)
    names = ("ann", "bob")
    wait_until(lambda: {toy.status(n).step for n in names} == {HOLDING}, "hold", seconds=SECONDS)
    workers = toy.starts("train")
    assert all(map(lives, workers))
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.communicate()
    wait_until(lambda: not any(map(lives, workers)), "the workers are gone")
    toy.order({})
    again = driver(toy)
    wait_until(lambda: len(session_of(again.pid)) > 4, "the second Ray is up", seconds=SECONDS)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert [s["begin"] for s in toy.starts("train")[2:]] == [2, 2]
    assert {toy.status(name).state for name in ("ann", "bob")} == {"done"}
    wait_until(lambda: not session_of(again.pid), "nothing is left of the second one's Ray")


ADMIT = """
import os, subprocess, sys
from regatta.config.schema import LaunchSection
from regatta.orchestrate.devices import this_machine
from regatta.orchestrate.ray_cluster import join_cluster
launch = LaunchSection.model_validate({"on": "ray", "device": "cpu"})
join_cluster(this_machine(launch), launch)
import ray
address = ray.get_runtime_context().gcs_address
knows = dict(os.environ)
stranger = {k: v for k, v in knows.items() if not k.startswith("RAY_AUTH")}
join = f"import ray; ray.init(address='{address}', log_to_driver=False)"
for variables in (stranger, knows):
    done = subprocess.run([sys.executable, "-c", join], env=variables, capture_output=True)
    print(done.returncode, flush=True)
"""


@pytest.mark.slow
def test_a_cluster_of_our_own_admits_nobody_who_lacks_its_token():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", ADMIT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout.split() == ["1", "0"], done.stderr[-2000:]
