"""Windows of signals in one, two and three processes: each once, and the same result."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regatta.training.distributed import ONE_PROCESS
from regatta.training.guards import OutOfMemoryError
from tests.training.signal_ranks import (
    EPOCHS,
    GROUPS,
    TRAINED,
    VALIDATED,
    Window1d,
    folder,
    train,
)
from tests.training.tiny_training import outcome

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("windows")
    command = [sys.executable, "-m", "tests.training.signal_ranks", str(root)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.fault(20)
@pytest.mark.parametrize("world", list(GROUPS))
def test_every_window_is_seen_once_per_epoch_over_all_processes(root: Path, world: int):
    shares = [
        json.loads((folder(root, world, GROUPS[world]) / f"saw-{rank}.json").read_text())
        for rank in range(world)
    ]
    for epoch in range(EPOCHS):
        seen = Counter(name for share in shares for name in share["train"][str(epoch)])
        assert seen == Counter(f"t-{row}" for row in range(TRAINED))
    validated = Counter(name for share in shares for name in share["validation"].get("0", []))
    assert validated == {f"v-{row}": EPOCHS for row in range(VALIDATED)}


@pytest.mark.fault(20)
@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_with_one_global_batch_learn_what_one_process_learns(root: Path, world: int):
    paths = [folder(root, count, GROUPS[world]) for count in (1, world)]
    one, many = map(outcome, paths)
    assert many["samples_seen"] == one["samples_seen"] == TRAINED * EPOCHS
    for first, second in zip(one["history"], many["history"], strict=True):
        assert second == pytest.approx(first, abs=1e-5)
        for key in ("val_acc", "val_balanced_accuracy", "val_macro_f1"):
            assert second[key] == first[key]
    weights = [load_file(path / "model/model.safetensors") for path in paths]
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], rtol=0, atol=1e-5)


def test_a_signal_run_out_of_memory_names_window_and_batch_to_try(tmp_path: Path):
    class Greedy(Window1d):
        def forward(self, signals_BCL: torch.Tensor) -> torch.Tensor:
            torch.empty(2**60)
            return super().forward(signals_BCL)

    with pytest.raises(OutOfMemoryError, match="batch 6 of 3 channels of 16 samples") as ended:
        train(tmp_path, ONE_PROCESS, module=Greedy())
    assert "train.batch_size=3 with train.accumulate=4" in str(ended.value)
    assert ended.value.cause == "out_of_memory"
