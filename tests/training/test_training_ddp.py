"""Several processes train what one process trains, decide together and end together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from regatta.core.errors import ConfigError, DeviceError, RecordError
from regatta.training.distributed import ONE_PROCESS, process_group, spread_over_devices
from regatta.training.loop import train_run
from tests.training.ranks_on_files import EPOCHS, TRAINED, one_thread, train_on_files, write_samples
from tests.training.tiny_training import outcome
from tests.training.two_ranks import CLIPS, rank_run

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two real processes, started by torchrun, went through all scenarios."""
    folder = tmp_path_factory.mktemp("ranks")
    torchrun(2, "tests.training.two_ranks", str(folder))
    return folder


def torchrun(processes: int, module: str, *arguments: str) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *launch, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ranks(root: Path) -> list[dict[str, Any]]:
    return [json.loads((root / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", list(CLIPS))
def test_two_ranks_equal_one_process_with_the_same_global_batch(
    root: Path, tmp_path: Path, name: str
):
    train_run(**rank_run(tmp_path, clips=CLIPS[name]))
    one, two = outcome(tmp_path), outcome(root / name)
    weights = [load_file(path / "model" / "model.safetensors") for path in (tmp_path, root / name)]
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], rtol=0, atol=1e-5)
    for first, second in zip(one["history"], two["history"], strict=True):
        assert second == pytest.approx(first, abs=1e-5)
    for key in ("steps", "samples_seen", "best_epoch"):
        assert one[key] == two[key]


def test_saved_keys_carry_no_prefix_of_a_wrapper(root: Path):
    keys = load_file(root / "even" / "model" / "model.safetensors").keys()
    assert {"body.weight", "head.bias"} <= set(keys)
    assert not [key for key in keys if key.startswith("module.")]


@pytest.mark.fault(4)
@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_stop_asked_of_one_rank_makes_both_save_and_leave(
    ranks: list[dict[str, Any]], where: str
):
    first, second = (rank[f"stopped in {where}"] for rank in ranks)
    assert first == second
    assert first["error"] == "StopRequested"
    assert first["exit_code"] == 143


@pytest.mark.fault(4)
def test_stopped_ranks_resume_to_the_same_bits(root: Path):
    assert outcome(root / "stopped") == outcome(root / "even")


@pytest.mark.fault(18)
def test_a_loss_that_is_nan_on_one_rank_ends_both_and_names_the_samples_of_both(
    root: Path, ranks: list[dict[str, Any]]
):
    first, second = (rank["poisoned"] for rank in ranks)
    assert first == second
    assert first["error"] == "NonFiniteError"
    event = json.loads((root / "poisoned" / "nonfinite.json").read_text())
    # Step 2 of the epoch is its third global batch of 8: the last 6 clips.
    assert event["step"] == 2
    assert len(set(event["sample_ids"])) == 6


def test_an_error_of_the_first_rank_is_the_error_of_all(ranks: list[dict[str, Any]]):
    first, second = (rank["damaged again"] for rank in ranks)
    assert first == second
    assert "every checkpoint is damaged" in first["text"]


def test_every_rank_validates_with_the_buffers_of_the_first(ranks: list[dict[str, Any]]):
    assert [rank["buffer"] for rank in ranks] == [5.0, 5.0]


@pytest.mark.fault(21)
def test_a_checkpoint_of_two_processes_is_refused_by_one(root: Path):
    with pytest.raises(RecordError, match="'processes' is 2 there and 1 here"):
        train_run(**rank_run(root / "two"))


def test_several_processes_for_a_study_of_one_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match="torchrun started 2 processes"),
        process_group("none", CPU),
    ):
        pass


def test_ddp_without_torchrun_is_one_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("ddp", CPU) as ranks:
        assert ranks == ONE_PROCESS


def test_ranks_that_cannot_meet_are_a_named_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(DeviceError, match="cannot reach each other"), process_group("ddp", CPU):
        pass


BATCH_SIZE = 2
"""Clips per process and step: 7 clips are 4 + 3 for two processes, 6 + 1 for three."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real video files, and what two and three processes made of them."""
    folder = tmp_path_factory.mktemp("files")
    samples = [asdict(sample) for sample in write_samples(folder)]
    (folder / "samples.json").write_text(json.dumps(samples))
    for processes in (2, 3):
        torchrun(processes, "tests.training.ranks_on_files", str(folder), str(BATCH_SIZE))
    return folder


@pytest.fixture(params=[2, 3])
def world(request: pytest.FixtureRequest) -> int:
    return request.param


def saw(files: Path, world: int) -> list[dict[str, Any]]:
    folder = files / f"world-{world}"
    return [json.loads((folder / f"saw-{rank}.json").read_text()) for rank in range(world)]


def alone(files: Path, path: Path, world: int) -> dict[str, Any]:
    """One process with the global batch of `world` of them."""
    with one_thread():
        return train_on_files(files, path, batch_size=BATCH_SIZE * world)


@pytest.mark.fault(20)
def test_every_video_is_seen_exactly_once_per_epoch_over_all_processes(files: Path, world: int):
    shares = [rank["seen"] for rank in saw(files, world)]
    expected = Counter({f"v{number:02d}.avi": 1 for number in range(TRAINED)})
    for epoch in range(EPOCHS):
        assert sum((Counter(share[str(epoch)]) for share in shares), Counter()) == expected


def test_processes_on_video_files_learn_what_one_learns_to_1e_5(
    files: Path, tmp_path: Path, world: int
):
    alone(files, tmp_path, world)
    one, many = outcome(tmp_path), outcome(files / f"world-{world}")
    for first, second in zip(one["history"], many["history"], strict=True):
        assert second == pytest.approx(first, abs=1e-5)
        assert second["val_acc"] == first["val_acc"]
    weights = [
        load_file(path / "model" / "model.safetensors")
        for path in (tmp_path, files / f"world-{world}")
    ]
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], rtol=0, atol=1e-5)
    assert many["samples_seen"] == one["samples_seen"] == TRAINED * EPOCHS


@pytest.mark.fault(20)
def test_equal_weights_score_equal_accuracy_in_any_number_of_processes(
    files: Path, tmp_path: Path, world: int
):
    one = alone(files, tmp_path, world)["score"]
    for rank in saw(files, world):
        assert rank["score"]["accuracy"] == one["accuracy"]
        assert rank["score"]["samples"] == one["samples"] == 5
        assert rank["score"]["loss"] == pytest.approx(one["loss"], abs=1e-6)


def test_dp_in_a_process_without_two_gpus_is_refused_with_what_it_sees():
    module = torch.nn.Linear(1, 1)
    with pytest.raises(DeviceError, match="needs 2 or more GPUs; this process sees 0"):
        spread_over_devices(module, ONE_PROCESS, parallel="dp", precision="fp32")


@pytest.mark.parametrize("parallel", ["none", "ddp", "fsdp"])
def test_one_process_trains_the_plain_module(parallel: str):
    module = torch.nn.Linear(1, 1)
    spread = spread_over_devices(module, ONE_PROCESS, parallel=parallel, precision="fp32")
    assert spread is module
