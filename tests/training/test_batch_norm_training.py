"""Batch norm in real runs: statistics of every micro-batch once, kept, shared and then at rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from regatta.core.errors import StopRequested
from regatta.data.transforms import normalise
from regatta.models.weights import load_model
from regatta.training.loop import train_run
from tests.training.batch_norm_ranks import CLIPS, colour_clips, norm_run, small_spec, stopped_run
from tests.training.tiny_training import CLASSES, outcome

REPOSITORY = Path(__file__).parents[2]


def expected_stem_means(*, batch_size: int, rank: int = 0, world: int = 1) -> torch.Tensor:
    """Running means [C] of the stem after one epoch in which no weight moved.

    r <- 0.9 r + 0.1 mean over the micro-batch (Ioffe and Szegedy 2015, momentum 0.1), from 0.
    """
    spec = small_spec()
    weight = spec.build(len(CLASSES)).state_dict()["stem.0.weight"]
    running = torch.zeros(weight.shape[0])
    loader = colour_clips(CLIPS, batch_size=batch_size, rank=rank, world=world)
    for batch in loader.batches(0):
        if len(batch.labels):
            video = normalise(batch.inputs, spec.mean, spec.std).transpose(1, 2)
            seen = F.conv3d(video, weight, stride=(1, 2, 2), padding=(1, 3, 3))
            running = 0.9 * running + 0.1 * seen.mean(dim=(0, 2, 3, 4))
    return running


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("recompute", [False, True])
def test_each_micro_batch_is_counted_once_a_last_single_clip_too(tmp_path: Path, recompute: bool):
    # 17 clips in 8 + 8 + 1, with two micro-batches to a step.
    recipe = {"accumulate": 2, "gradient_checkpointing": recompute, "weight_decay": 0.0}
    run = norm_run(tmp_path, epochs=1, lr=1e-30, **recipe)
    results = train_run(**run)
    state = load_file(tmp_path / "model" / "model.safetensors")
    assert results["steps"] == 2
    counters = {int(v) for key, v in state.items() if key.endswith("num_batches_tracked")}
    assert counters == {3}
    expected = expected_stem_means(batch_size=8)
    torch.testing.assert_close(state["stem.1.running_mean"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("one_thread")
def test_recomputing_gives_the_same_run_to_the_bit(tmp_path: Path):
    for switch in (False, True):
        train_run(**norm_run(tmp_path / str(switch), gradient_checkpointing=switch))
    assert outcome(tmp_path / "False") == outcome(tmp_path / "True")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("model", "options"),
    [("r3d18", {}), ("x3d-xs", {"dropout": 0.5}), ("slowfast-r50", {"frames": 8, "dropout": 0.5})],
)
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, model: str, options):
    train_run(**norm_run(tmp_path / "whole", model=model, options=options))
    for place in ((0, 1), (1, 0), (1, 2)):
        with pytest.raises(StopRequested):
            train_run(**stopped_run(tmp_path / "cut", place, model=model, options=options))
    train_run(**norm_run(tmp_path / "cut", model=model, options=options))
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_validation_scores_clips_with_the_kept_statistics_as_judging_does(tmp_path: Path):
    # Scored one by one here, in batches of two there: at rest the batch does not matter.
    run = norm_run(tmp_path, epochs=3)
    results = train_run(**run)
    module, spec, _ = load_model(tmp_path / "model")
    videos, labels = run["validation"].videos, run["validation"].labels
    with torch.inference_mode():
        logits = torch.cat([module(normalise(v[None], spec.mean, spec.std)) for v in videos])
    assert F.cross_entropy(logits, labels).item() == pytest.approx(results["best_val_loss"], 1e-5)
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    assert accuracy == results["best_val_accuracy"]
    history = json.loads((tmp_path / "training_results.json").read_text())["history"]
    assert history["epoch"] == [1, 2, 3]


def test_validation_leaves_the_statistics_alone(tmp_path: Path):
    # One epoch counts its 3 micro-batches; 4 batches of validation follow and add none.
    run = norm_run(tmp_path, epochs=1)
    train_run(**run)
    assert int(run["module"].get_buffer("stem.1.num_batches_tracked")) == 3


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two real processes trained; the last global batch left rank 1 empty."""
    folder = tmp_path_factory.mktemp("ranks")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launch, "-m", "tests.training.batch_norm_ranks", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_ranks_share_the_statistics_of_the_first_whose_batches_are_never_empty(ranks: Path):
    # Rank 1 runs a black clip in place of its empty micro-batch; no trace of it may stay.
    first, second = (load_file(ranks / f"rank-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    expected = expected_stem_means(batch_size=4, rank=0, world=2)
    torch.testing.assert_close(first["stem.1.running_mean"], expected, rtol=1e-4, atol=1e-6)
    saved = load_file(ranks / "still" / "model" / "model.safetensors")
    assert torch.equal(saved["stem.1.running_var"], first["stem.1.running_var"])


@pytest.mark.slow
def test_interrupted_ranks_end_with_the_same_bits(ranks: Path):
    assert outcome(ranks / "cut") == outcome(ranks / "whole")
