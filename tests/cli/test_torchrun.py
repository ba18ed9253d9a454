"""Promises of `regatta train` under torchrun: all ranks train, one speaks, nothing hangs.

Real torchrun, real workers, real video files.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regatta.core.files import read_json, write_json
from regatta.core.seeds import stream
from regatta.data.manifest import Manifest
from regatta.orchestrate.rank_places import Place, under_torchrun
from regatta.records.run_folder import StudyFolder
from regatta.worker.rank_notes import RankNotes
from tests.cli.torchrun_home import RECIPE, SMALL, WHAT, Home, open_home, sets
from tests.orchestrate.toy import Toy, lives, toy_mapping, toy_study, wait_until


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One folder for all: the clips are generated once."""
    with open_home(tmp_path_factory.mktemp("home")) as opened:
        yield opened


@pytest.fixture(scope="module")
def trained(home: Home) -> str:
    """The name of a study of two models that two ranks have trained."""
    models = ["--name", "two", "--model", "videomae,timesformer"]
    code, output = home.call("train", *models, *WHAT, *RECIPE, "--epochs", "1", *sets(), ranks=2)
    assert code == 0, output
    assert "torchrun, 2 processes" in output
    return "two"


@pytest.mark.slow
def test_all_ranks_train_each_named_model_in_turn(home: Home, trained: str):
    for entry in ("videomae", "timesformer"):
        results = read_json(home.run(trained, entry).training_results)
        assert (results["world"], results["samples_seen"]) == (2, SMALL["train_clips"])
    assert not home.study(trained).lease.exists()


@pytest.mark.slow
def test_again_nothing_is_redone_under_torchrun_or_without(home: Home, trained: str):
    def written() -> dict[Path, int]:
        found = (home.study(trained).path / "runs").rglob("*")
        return {path: path.stat().st_mtime_ns for path in found if path.name != "status.json"}

    before = written()
    for ranks in (2, 0):
        words = ["--name", trained, "--data", "rotors", "--model", "videomae,timesformer"]
        code, output = home.call("train", *words, ranks=ranks)
        assert code == 0, output
        assert "nothing to do" in output
        assert written() == before


def endless(home: Home, name: str, *, after: int = 0, **keys: Any) -> subprocess.Popen[str]:
    """A training that has gone beyond step `after` and would go on for long."""
    words = ["--name", name, "--model", "videomae", "--epochs", "2000"]
    more = sets(**keys)
    child = home.start("train", *words, *WHAT, *RECIPE, *more, ranks=2)

    def has_begun() -> bool:
        assert child.poll() is None, child.communicate()[0]
        return home.study(name).study_yaml.is_file() and home.status(name).step > after

    wait_until(has_begun, "the training is under way", seconds=120)
    return child


@pytest.mark.slow
@pytest.mark.fault(3)
def test_a_signal_to_torchrun_saves_and_a_killed_worker_is_named(home: Home):
    child = endless(home, "long", **{"launch.retries": 0})
    child.terminate()
    assert home.end(child)[0] != 0
    status = home.status("long")
    assert (status.state, status.exit_code) == ("interrupted", 143)
    assert "is saved" in (status.message or "")
    wait_until(lambda: not home.processes(), "no process is left")
    assert not home.study("long").lease.exists()
    child = endless(home, "long", after=status.step, **{"launch.retries": 0})
    (worker,) = home.processes(rank="1", worker=True)
    os.kill(worker, signal.SIGKILL)
    code, output = home.end(child)
    assert code == 1
    assert "failed: killed: by SIGKILL from outside" in output
    assert home.status("long").state == "failed"
    wait_until(lambda: not home.processes(), "no process is left")


@pytest.mark.slow
@pytest.mark.fault(19)
def test_an_error_of_another_rank_is_the_error_of_the_run(home: Home, trained: str):
    words = ["--name", "gone", "--model", "videomae", "--epochs", "1", *WHAT, *RECIPE, *sets()]
    folder = home.study("gone")
    samples = Manifest.load(home.study(trained).manifest).split("train")
    order = stream(0, "order", 0).permutation(len(samples))
    # Cards are dealt in turn: the second sample of an epoch is rank 1's first.
    victim = Path(sorted(samples, key=lambda sample: sample.sample_id)[order[1]].path)
    hidden = victim.with_suffix(".hidden")
    absolute = home.path / victim
    child = home.start("train", *words, ranks=2)
    wait_until(folder.manifest.is_file, "the data is prepared", seconds=60)
    absolute.rename(home.path / hidden)
    try:
        code, output = home.end(child)
    finally:
        (home.path / hidden).rename(absolute)
    assert code == 1
    status = home.status("gone")
    assert (status.state, status.cause) == ("failed", "data")
    assert victim.name in (status.message or "")
    assert victim.name in output


@pytest.mark.slow
def test_a_wrong_command_is_told_once_and_ends_every_rank(home: Home):
    code, output = home.call("train", "--model", "vivit", "--name", "one", *WHAT, ranks=2)
    assert code == 1
    assert output.count("add --parallel ddp") == 1
    assert "exitcode  : 2 " in output
    assert not home.study("one").path.exists()


@pytest.mark.slow
def test_devices_train_one_run_as_so_many_processes(home: Home):
    words = ["--name", "three", "--model", "videomae", "--epochs", "1", "--devices", "3"]
    code, output = home.call("train", *words, *WHAT, *RECIPE, *sets(), ranks=0)
    assert code == 0, output
    results = read_json(home.run("three").training_results)
    assert (results["world"], results["samples_seen"]) == (3, SMALL["train_clips"])
    assert results["threads"] == max(1, len(os.sched_getaffinity(0)) // 3)


class Ranks:
    """Two ranks of a toy study, started as torchrun would, but with nothing of torch."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])

    def start(self, rank: int) -> subprocess.Popen[str]:
        numbers = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": self.port}
        texts = {key: str(value) for key, value in numbers.items()}
        return subprocess.Popen(
            self.toy.command("train", *self.toy.arguments("train")),
            env={**self.toy.environment(), **texts, "TORCHELASTIC_RUN_ID": "none"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_workers(self) -> list[dict[str, Any]]:
        return wait_until(
            lambda: len(found := self.toy.starts("train")) == 2 and found, "two workers"
        )


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    with toy_study(tmp_path):
        mapping = toy_mapping(("ann",))
        toy = Toy(tmp_path, {**mapping, "train": {"epochs": 1, "parallel": "ddp"}})
        toy.order({"train:ann": ["hold", "hold"]})
        toy.prepare()
        yield Ranks(toy)


def ends(children: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    outputs = [child.communicate(timeout=60)[0] for child in children]
    return [child.returncode for child in children], outputs


def test_every_rank_works_and_only_the_first_speaks(ranks: Ranks):
    children = [ranks.start(1), ranks.start(0)]
    starts = ranks.wait_for_workers()
    assert {start["env"]["RANK"] for start in starts} == {"0", "1"}
    ports = {start["env"]["MASTER_PORT"] for start in starts}
    assert len(ports) == 1
    assert ports != {ranks.port}, "torchrun's own store still holds the addresses of before"
    ranks.toy.release()
    codes, outputs = ends(children)
    assert codes == [0, 0]
    assert outputs[0] == ""
    assert "torchrun, 2 processes, CPU" in outputs[1]


@pytest.mark.fault(4)
def test_one_rank_that_is_asked_to_stop_stops_all(ranks: Ranks):
    children = [ranks.start(0), ranks.start(1)]
    ranks.wait_for_workers()
    children[1].terminate()
    assert ends(children)[0] == [143, 143]
    assert ranks.toy.status("ann").state == "interrupted"
    assert not ranks.toy.folder.lease.exists()


@pytest.mark.fault(1)
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_gone_ends_the_other_and_all_workers(ranks: Ranks, victim: int):
    children = [ranks.start(0), ranks.start(1)]
    starts = ranks.wait_for_workers()
    children[victim].kill()
    codes, _ = ends(children)
    assert codes[1 - victim] in (1, 143)
    wait_until(lambda: not any(map(lives, starts)), "no worker is left")


def test_an_error_before_the_work_ends_every_rank_with_its_code(ranks: Ranks):
    ranks.toy.file.write_text("name: toy\nentrees: []\n")
    codes, outputs = ends([ranks.start(0), ranks.start(1)])
    assert codes == [2, 2]
    assert "did you mean 'entries'" in outputs[0]
    assert outputs[1] == ""


def test_only_a_group_on_one_machine_counts_restarts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert under_torchrun(tmp_path) is None
    numbers = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "MASTER_PORT": "29500"}
    for key, value in {**numbers, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(key, value)

    def places() -> tuple[Place, Place]:
        found = []
        for count in ("0", "1"):
            monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
            place = under_torchrun(tmp_path)
            assert place is not None
            found.append(place)
        return found[0], found[1]

    first, second = places()
    assert (first.rank, first.world, first.spans_machines) == (3, 4, False)
    assert first.socket_path != second.socket_path, "a restart must not meet the group before"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    first, second = places()
    assert first.spans_machines
    assert first.meeting_file == second.meeting_file, "machines count their restarts apart"


def test_the_first_rank_reads_only_notes_of_its_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    folder = StudyFolder(tmp_path)

    def notes(rank: str) -> RankNotes:
        monkeypatch.setenv("RANK", rank)
        return RankNotes(folder, ["run"])

    write_json(folder.run("run").path / "failed-rank-1.json", {"cause": "old"})
    os.utime(folder.run("run").path / "failed-rank-1.json", (1, 1))
    first, second = notes("0"), notes("1")
    assert first.of_others() is None
    second.forget_own()
    second.leave({"cause": "data"})
    first.leave({"cause": "mine"})
    assert first.of_others() == {"cause": "data"}
    assert second.of_others() is None
    assert [path.name for path in folder.run("run").path.iterdir()] == ["failed-rank-1.json"]
    assert json.loads((folder.run("run").path / "failed-rank-1.json").read_text())
