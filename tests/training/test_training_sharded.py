"""Weights that are cut over processes (fsdp) learn, are saved and are resumed as whole ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from regatta.core.errors import ConfigError
from regatta.training.checkpoint import list_slots, read_slot
from regatta.training.sharded import refuse_scaled_gradients
from tests.training.sharded_ranks import RECIPES, Blocks
from tests.training.tiny_training import outcome

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process and two processes made of the same runs."""
    folder = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", "tests.training.sharded_ranks", str(folder)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (folder / "ends.json").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def ends(root: Path) -> dict[str, Any]:
    return json.loads((root / "ends.json").read_text())


@pytest.mark.parametrize("name", list(RECIPES))
def test_two_processes_with_half_the_weights_each_learn_what_one_learns(
    root: Path, ends: dict[str, Any], name: str
):
    assert (ends["one"], ends["two"]) == ([0], [0, 0])
    one, two = (load_file(root / n / name / "model/model.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-5)
    for first, second in zip(
        *(outcome(root / n / name)["history"] for n in ("one", "two")), strict=True
    ):
        assert second == pytest.approx(first, abs=1e-5)
        assert second["val_acc"] == first["val_acc"]


def test_saved_weights_and_optimizer_state_are_whole_and_bear_the_plain_names(
    root: Path, ends: dict[str, Any]
):
    assert ends["two"] == [0, 0]
    shapes = {name: tensor.shape for name, tensor in Blocks().state_dict().items()}
    trained = {name for name, _ in Blocks().named_parameters()}
    slot = read_slot(list_slots(root / "two" / "clipped" / "checkpoints")[0])
    assert {name: tensor.shape for name, tensor in slot.weights.items()} == shapes
    moments = {key: v.shape for key, v in slot.optimizer.items() if key.endswith("/exp_avg")}
    assert moments == {f"{name}/exp_avg": shapes[name] for name in trained}
    results = json.loads((root / "two" / "clipped" / "training_results.json").read_text())
    assert results["parameters"] == sum(p.numel() for p in Blocks().parameters())


def test_frozen_parameters_stay_to_the_bit_and_are_not_counted_as_trained(root: Path):
    torch.manual_seed(0)  # Rank 0's first weights.
    before = Blocks().state_dict()
    after = load_file(root / "two" / "frozen" / "model/model.safetensors")
    frozen = [name for name in before if name.startswith(("stem", "blocks.0"))]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["blocks.1.1.weight"], after["blocks.1.1.weight"])
    results = json.loads((root / "two" / "frozen" / "training_results.json").read_text())
    assert results["trained_parameters"] == sum(
        p.numel() for name, p in Blocks().named_parameters() if name not in frozen
    )


def test_stopped_in_training_and_in_validation_they_resume_to_the_same_bits(
    root: Path, ends: dict[str, Any]
):
    for where in ("in training", "in validation", "in training again"):
        assert ends[where] == [143, 143], where
    assert ends["resumed"] == [0, 0]
    assert outcome(root / "stopped") == outcome(root / "two" / "averaged")


def test_fp16_is_refused_with_what_to_take():
    refuse_scaled_gradients("bf16")
    with pytest.raises(ConfigError, match="does not go with fp16") as refused:
        refuse_scaled_gradients("fp16")
    assert "ddp" in str(refused.value)
