"""Two processes train what one process trains, decide together and end together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from regatta.core.errors import ConfigError, DeviceError, RecordError
from regatta.training.distributed import ONE_PROCESS, process_group
from regatta.training.loop import train_run
from tests.training.tiny_training import outcome
from tests.training.two_ranks import CLIPS, rank_run

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two real processes, started by torchrun, went through all scenarios."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launch, "-m", "tests.training.two_ranks", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


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


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_stop_asked_of_one_rank_makes_both_save_and_leave(
    ranks: list[dict[str, Any]], where: str
):
    first, second = (rank[f"stopped in {where}"] for rank in ranks)
    assert first == second
    assert first["error"] == "StopRequested"
    assert first["exit_code"] == 143


def test_stopped_ranks_resume_to_the_same_bits(root: Path):
    assert outcome(root / "stopped") == outcome(root / "even")


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
