"""What one training run promises about its best weights, its records and its end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from regatta.core.errors import ConfigError, DataError, NonFiniteError
from regatta.records.metrics_stream import read_metrics
from regatta.training.loop import train_run
from regatta.training.progress import Progress
from regatta.training.schedule import lr_factor
from regatta.training.state import HISTORY_KEYS, SCORE_KEYS, TrainerState
from tests.training.tiny_training import (
    TinyBatch,
    TinyClips,
    TinyNet,
    outcome,
    tiny_clips,
    tiny_net,
    tiny_run,
    tiny_spec,
)


def file_weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model" / "model.safetensors")


def closed(state: TrainerState, accuracy: float, loss: float) -> bool:
    """Close an epoch with these scores and keep it if it is the best; whether it was."""
    scores = dict.fromkeys(SCORE_KEYS.values(), accuracy)
    record = state.close_epoch(val_loss=loss, **scores)
    better = state.is_better(record, by="accuracy")
    state.best = record if better else state.best
    state.count_gain(record, by="accuracy", least_points=0.0)
    return better


def test_training_learns_what_there_is_to_learn(tmp_path: Path):
    train_loader, validation = tiny_clips(48, noise=10.0), tiny_clips(30, seed=1, noise=10.0)
    results = train_run(
        **tiny_run(tmp_path, train_loader=train_loader, validation=validation, epochs=5)
    )
    assert results["best_val_accuracy"] == 1.0
    assert results["history"]["train_loss"][-1] < math.log(3) / 2


def test_best_is_highest_accuracy_then_lowest_loss_then_earliest_epoch():
    state = TrainerState()
    scores = [(0.5, 1.0), (0.6, 2.0), (0.6, 1.5), (0.6, 1.5), (0.5, 0.1)]
    assert [closed(state, *score) for score in scores] == [True, True, True, False, False]
    assert state.best is not None
    assert state.best["epoch"] == 3
    # Equal accuracy is no gain for patience, though the lower loss makes the better weights.
    assert state.epochs_without_gain() == 3


def test_model_holds_the_weights_of_the_best_epoch_and_not_the_last(tmp_path: Path):
    # A validation set of wrong labels: what is learned makes it worse, so an early epoch is best.
    clips = tiny_clips(12, seed=1, noise=10.0)
    module, validated = tiny_net(), []

    def remember(epoch: int, position: int) -> None:
        if position == 0:
            validated.append({k: v.clone() for k, v in module.state_dict().items()})

    wrong = TinyClips(clips.videos, (clips.labels + 1) % 3, before_batch=remember)
    train_loader = tiny_clips(48, noise=10.0)
    results = train_run(
        **tiny_run(tmp_path, module=module, validation=wrong, train_loader=train_loader, epochs=4)
    )
    assert results["best_epoch"] < len(validated) == 4
    best, saved = validated[results["best_epoch"] - 1], file_weights(tmp_path)
    assert all(torch.equal(saved[name], best[name]) for name in best)


def test_early_stopping_ends_after_patience_epochs_without_gain(tmp_path: Path):
    # With nothing to learn and no rate to learn at, epoch 1 stays the best.
    results = train_run(**tiny_run(tmp_path, lr=1e-12, epochs=9, early_stopping_patience=2))
    assert results["stopped_early"] is True
    assert results["history"]["epoch"] == [1, 2, 3]


def test_zero_epochs_give_the_model_as_it_is(tmp_path: Path):
    run = tiny_run(tmp_path, epochs=0)
    results = train_run(**run)
    saved = file_weights(tmp_path)
    assert all(torch.equal(saved[name], value) for name, value in tiny_net().state_dict().items())
    assert results["history"] == {key: [] for key in HISTORY_KEYS}
    assert (results["best_epoch"], results["steps"], results["temperature"]) == (0, 0, None)
    assert results["best_val_accuracy"] is None


def test_a_trained_run_is_read_back_and_not_trained_again(tmp_path: Path):
    first = train_run(**tiny_run(tmp_path))

    def fail(epoch: int, position: int) -> None:
        raise AssertionError("a finished run asked for data")

    assert train_run(**tiny_run(tmp_path, train_loader=tiny_clips(22, before_batch=fail))) == first


def test_two_equal_runs_are_equal_and_another_seed_is_not(tmp_path: Path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        train_run(**tiny_run(tmp_path / name, seed=seed))
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
    assert outcome(tmp_path / "a")["weights"] != outcome(tmp_path / "c")["weights"]


def test_results_count_what_was_done(tmp_path: Path):
    results = train_run(**tiny_run(tmp_path, accumulate=4))
    # 22 clips in micro-batches of 4 are 6; in groups of 4 that is 2 steps an epoch.
    assert results["steps"] == 6
    assert results["samples_seen"] == 66
    assert results["parameters"] == (96 * 8 + 8) + 16 + (8 * 3 + 3)
    assert results["flops_per_clip"] == 2 * (96 * 8 + 8 * 3)
    assert results["config"]["accumulate"] == 4
    assert results["threads"] == torch.get_num_threads()
    assert results["torch"] == torch.__version__
    assert results["train_seconds"] >= sum(results["history"]["epoch_times"])
    assert json.loads((tmp_path / "training_results.json").read_text()) == results


def test_metrics_carry_the_scheduled_rate_and_one_validation_per_epoch(tmp_path: Path):
    train_run(**tiny_run(tmp_path, log_every_steps=1, lr=0.01, warmup_fraction=0.25))
    records = read_metrics(tmp_path / "metrics.jsonl")
    steps = [record for record in records if record["split"] == "train"]
    assert [record["step"] for record in steps] == list(range(1, 19))
    for record in steps:
        # round(18 * 0.25 = 4.5) upwards is 5 steps of warm-up.
        factor = lr_factor(record["step"] - 1, total_steps=18, warmup_steps=5, min_fraction=0.0)
        assert record["lr"] == pytest.approx(0.01 * factor)
    validations = [record for record in records if record["split"] == "validation"]
    assert [(record["epoch"], record["step"]) for record in validations] == [
        (1, 6),
        (2, 12),
        (3, 18),
    ]


def test_validation_loss_and_accuracy_equal_a_plain_computation_without_smoothing(tmp_path: Path):
    run = tiny_run(tmp_path, lr=1e-30, weight_decay=0, epochs=1, label_smoothing=0.3)
    results = train_run(**run)
    module, clips = tiny_net().eval(), run["validation"]
    with torch.no_grad():
        logits = module((clips.videos / 255 - 0.5) / 0.25)
    loss = nn.functional.cross_entropy(logits, clips.labels).item()
    correct = (logits.argmax(1) == clips.labels).sum().item()
    assert results["best_val_loss"] == pytest.approx(loss, rel=1e-6)
    assert results["best_val_accuracy"] == correct / 13
    assert results["history"]["train_loss"][0] > loss


def poisoned(batches: set[tuple[int, int]], **options: Any) -> TinyClips:
    """Clips of which some (epoch, position) are white."""

    class Poisoned(TinyClips):
        def batches(self, epoch: int, *, start: int = 0):
            for position, batch in enumerate(super().batches(epoch, start=start), start):
                white = torch.full_like(batch.inputs, 255)
                videos = white if (epoch, position) in batches else batch.inputs
                yield TinyBatch(videos, batch.labels, batch.sample_ids)

    clips = tiny_clips(22, **options)
    return Poisoned(clips.videos, clips.labels)


class NanOnWhite(TinyNet):
    """Divides zero by zero when a clip is white, as a log of an empty mask would."""

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        room = (1.99 - video_BTCHW).clamp(min=0).flatten(1).sum(1, keepdim=True)
        return super().forward(video_BTCHW * (room / room)[:, :, None, None, None])


def nan_net() -> NanOnWhite:
    torch.manual_seed(0)
    return NanOnWhite(batch_norm=True)


def test_nonfinite_stop_names_step_and_samples_and_keeps_the_last_checkpoint(tmp_path: Path):
    run = tiny_run(tmp_path, module=nan_net(), train_loader=poisoned({(1, 2)}))
    with pytest.raises(NonFiniteError, match="at step 9: loss nan") as caught:
        train_run(**run)
    event = json.loads((tmp_path / "nonfinite.json").read_text())
    expected = [batch.sample_ids for batch in run["train_loader"].batches(1)][2]
    assert event["sample_ids"] == expected
    assert expected[0] in str(caught.value)
    assert (event["step"], event["epoch"], event["loss"]) == (9, 2, "nan")
    [slot] = (tmp_path / "checkpoints").glob("slot-*")
    assert json.loads((slot / "state.json").read_text())["progress"]["step"] == 6


@pytest.mark.fault(18)
def test_nonfinite_skip_counts_the_step_and_leaves_no_trace_in_weights_or_statistics(
    tmp_path: Path,
):
    run = tiny_run(
        tmp_path, module=nan_net(), train_loader=poisoned({(1, 2)}), nonfinite="skip", epochs=2
    )
    results = train_run(**run)
    assert results["skipped_steps"] == 1
    assert results["skipped"][0]["step"] == 9
    assert results["steps"] == 12
    assert all(torch.isfinite(value).all() for value in file_weights(tmp_path).values())
    batches_seen = {1: 6, 2: 11}[results["best_epoch"]]
    assert int(run["module"].norm.num_batches_tracked) == batches_seen
    assert math.isfinite(results["history"]["train_loss"][1])


@pytest.mark.fault(18)
def test_nonfinite_skip_ends_the_run_beyond_its_limit(tmp_path: Path):
    loader = poisoned({(0, 1), (0, 3), (1, 0)})
    run = tiny_run(
        tmp_path, module=nan_net(), train_loader=loader, nonfinite="skip", nonfinite_limit=2
    )
    with pytest.raises(NonFiniteError, match=r"at step 7 \(after 2 skipped steps\)"):
        train_run(**run)


def test_scores_that_are_not_finite_in_validation_name_the_samples(tmp_path: Path):
    white = TinyClips(torch.full((2, 2, 3, 4, 4), 255, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(NonFiniteError, match="2 samples are not finite in validation: clip-"):
        train_run(**tiny_run(tmp_path, module=nan_net(), validation=white))


@pytest.mark.parametrize("part", ["train_loader", "validation"])
def test_an_empty_split_is_an_error_that_names_it(tmp_path: Path, part: str):
    empty = TinyClips(
        torch.zeros((0, 2, 3, 4, 4), dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    )
    word = "training" if part == "train_loader" else "validation"
    with pytest.raises(DataError, match=f"the {word} split has no sample"):
        train_run(**{**tiny_run(tmp_path), part: empty})


def test_gradient_checkpointing_is_refused_by_a_model_without_blocks(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot recompute"):
        train_run(**tiny_run(tmp_path, gradient_checkpointing=True))


def test_reports_name_the_phases_and_the_steps(tmp_path: Path):
    reports: list[dict[str, Any]] = []
    train_run(**tiny_run(tmp_path, report=reports.append))
    assert [r["phase"] for r in reports] == ["train", "validate"] * 3
    assert [r["epoch"] for r in reports] == [1, 1, 2, 2, 3, 3]
    assert {r["total_steps"] for r in reports} == {18}
    assert reports[0]["metric"] is None
    assert 0 <= reports[-1]["metric"] <= 1


def test_reports_come_once_a_second_and_tell_speed_and_time_left():
    now, reports = [0.0], []
    progress = Progress(reports.append, total_steps=100, epochs=1, clock=lambda: now[0])
    for step in range(1, 26):
        now[0] += 0.25
        progress.count_step(samples=8, seconds=0.25)
        progress.tell("train", step=step, epoch=1, metric=None)
    assert [r["step"] for r in reports] == [1, 5, 9, 13, 17, 21, 25]
    assert reports[-1]["samples_per_second"] == pytest.approx(32.0)
    assert reports[-1]["seconds_left"] == pytest.approx(75 * 0.25)
    progress.validated(4.0)
    progress.tell("validate", step=25, epoch=1, metric=0.5)
    assert reports[-1]["seconds_left"] == pytest.approx(75 * 0.25 + 4.0)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # torch's compiler uses torch's old parts.
def test_a_compiled_run_saves_plain_keys_and_learns_the_same(tmp_path: Path):
    def train(name: str, *, compile: bool) -> dict[str, Any]:
        loader, module = tiny_clips(8), tiny_net(dropout=0.0)
        changes = {"train_loader": loader, "module": module, "epochs": 1, "compile": compile}
        return train_run(**tiny_run(tmp_path / name, **changes))

    plain, compiled = train("plain", compile=False), train("compiled", compile=True)
    assert file_weights(tmp_path / "compiled").keys() == file_weights(tmp_path / "plain").keys()
    assert compiled["history"]["train_loss"][0] == pytest.approx(
        plain["history"]["train_loss"][0], rel=1e-5
    )


def test_model_config_names_the_classes_and_the_best_epoch(tmp_path: Path):
    results = train_run(**tiny_run(tmp_path, spec=tiny_spec()))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "left", "1": "right", "2": "up"}
    assert config["regatta"]["extra"]["best_epoch"] == results["best_epoch"]
