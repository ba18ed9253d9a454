"""What a training run of experts and their fusion promises: records, selection, rates, resume."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from regatta.config.schema import TrainSection
from regatta.core.errors import NonFiniteError, StopRequested
from regatta.core.signals import StopFlag
from regatta.records.metrics_stream import read_metrics
from regatta.training.components import rest_experts
from regatta.training.distributed import ONE_PROCESS
from regatta.training.loop import build_parts, train_run
from regatta.training.schedule import lr_factor, restart_factor
from regatta.training.temperature import fit_temperature
from tests.training.tiny_fusion import FEATURES, TinyFusion, fusion_run, fusion_spec, tiny_fusion
from tests.training.tiny_training import TinyClips, outcome, tiny_clips, tiny_run

STILL = {"lr": 1e-30, "weight_decay": 0.0}
ALL_ON: dict[str, Any] = {
    "loss": {"alpha": 0.5, "reduction": "mean"},
    "clip_norms": {"experts.": 5.0},
    "schedule": "restarts",
    "min_lr_fraction": 0.1,
    "gradient_conflict": "pcgrad",
    "freeze_experts_epochs": 1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "mix_share": 0.5,
    "ema": 0.9,
    "label_smoothing": 0.1,
    "accumulate": 2,
    "nonfinite": "skip",
}


def logits_of(module: TinyFusion, clips: TinyClips) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()((clips.videos / 255 - 0.5) / 0.25)


def records_of(path: Path, split: str) -> list[dict[str, Any]]:
    return [record for record in read_metrics(path / "metrics.jsonl") if record["split"] == split]


def test_validation_scores_the_global_head_and_records_every_other_one(tmp_path: Path):
    run = fusion_run(tmp_path, epochs=1, **STILL)
    results = train_run(**run)
    clips = run["validation"]
    logits = logits_of(tiny_fusion(), clips)
    losses = [functional.cross_entropy(logits[:, k], clips.labels).item() for k in range(3)]
    rights = [(logits[:, k].argmax(1) == clips.labels).sum().item() for k in range(3)]
    [record] = records_of(tmp_path, "validation")
    assert record["loss"] == pytest.approx(losses[0], rel=1e-6)
    assert record["accuracy"] == results["best_val_accuracy"] == rights[0] / 13
    assert record["heads"] == results["heads"]
    assert list(record["heads"]) == ["expert-0", "expert-1"]
    for row, scores in enumerate(record["heads"].values(), 1):
        assert scores["loss"] == pytest.approx(losses[row], rel=1e-6)
        assert scores["accuracy"] == rights[row] / 13
    expected = fit_temperature(logits[:, 0].numpy(), clips.labels.numpy())
    assert results["temperature"] == pytest.approx(expected, rel=1e-5)


def test_the_global_head_selects_the_best_epoch(tmp_path: Path):
    results = train_run(**fusion_run(tmp_path, epochs=4))
    validations = records_of(tmp_path, "validation")
    assert results["history"]["val_acc"] == [record["accuracy"] for record in validations]
    best = max(validations, key=lambda record: (record["accuracy"], -record["loss"]))
    assert results["best_epoch"] == best["epoch"]
    assert results["heads"] == best["heads"]
    module = tiny_fusion()
    module.load_state_dict(load_file(tmp_path / "model" / "model.safetensors"))
    clips = tiny_clips(13, seed=1)
    right = (logits_of(module, clips)[:, 0].argmax(1) == clips.labels).sum().item()
    assert right / 13 == results["best_val_accuracy"]


def test_parts_of_the_loss_are_means_over_the_whole_epoch(tmp_path: Path):
    # 22 clips in batches of 4: a mean of batch means, or the last batch, is another number.
    loss = {"alpha": 2.0, "reduction": "mean"}
    run = fusion_run(tmp_path, epochs=1, loss=loss, log_every_steps=100, **STILL)
    results = train_run(**run)
    clips = run["train_loader"]
    logits = logits_of(tiny_fusion(), clips)
    losses = [functional.cross_entropy(logits[:, k], clips.labels).item() for k in range(3)]
    [record] = records_of(tmp_path, "train")
    assert record["loss_global"] == pytest.approx(losses[0], rel=1e-5)
    assert record["loss_individual"] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-5)
    history = results["history"]
    assert history["loss_global"] == [record["loss_global"]]
    assert history["loss_individual"] == [record["loss_individual"]]
    expected = record["loss_global"] + 2 * record["loss_individual"]
    assert history["train_loss"] == [pytest.approx(expected, rel=1e-6)]
    right = (logits[:, 0].argmax(1) == clips.labels).sum().item()
    assert history["train_acc"] == [right / 22]


def test_training_learns_with_the_global_head_and_with_every_expert(tmp_path: Path):
    run = fusion_run(tmp_path, epochs=12, lr=0.02, train_loader=tiny_clips(48, noise=10.0))
    results = train_run(**{**run, "validation": tiny_clips(30, seed=1, noise=10.0)})
    assert results["best_val_accuracy"] == 1.0
    assert min(scores["accuracy"] for scores in results["heads"].values()) >= 0.9


@pytest.mark.parametrize("schedule", ["cosine", "constant", "restarts"])
def test_each_part_follows_its_own_rate(tmp_path: Path, schedule: str):
    recipe = {"schedule": schedule, "min_lr_fraction": 0.1, "warmup_epochs": 0.5}
    factors = {"experts.": 0.2, "head.classifier": 3.0}
    train_run(**fusion_run(tmp_path, log_every_steps=1, lr_factors=factors, **recipe))
    for record in records_of(tmp_path, "train"):
        place = {"total_steps": 18, "warmup_steps": 3, "min_fraction": 0.1}
        step = record["step"] - 1
        shared = min(1.0, (step + 1) / 3) if schedule == "constant" else lr_factor(step, **place)
        experts = restart_factor(step, **place) if schedule == "restarts" else shared
        assert record["experts_lr"] == pytest.approx(0.01 * 0.2 * experts)
        assert record["fusion_lr"] == record["lr"] == pytest.approx(0.01 * shared)
        assert record["global_head_lr"] == pytest.approx(0.01 * 3.0 * shared)
        assert record["grad_norm_experts"] > 0
        assert record["grad_norm_fusion"] > 0


def test_a_model_with_one_head_has_none_of_these_columns(tmp_path: Path):
    results = train_run(**tiny_run(tmp_path, epochs=1))
    columns = {"heads", "loss_global", "experts_lr", "grad_norm_fusion"}
    assert not columns & set().union(*read_metrics(tmp_path / "metrics.jsonl"))
    assert not columns & (set(results) | set(results["history"]))


def experts_state(module: TinyFusion) -> dict[str, torch.Tensor]:
    state = module.state_dict().items()
    return {name: value.clone() for name, value in state if name.startswith("experts.")}


@pytest.mark.parametrize("epochs", [1, 2])
def test_experts_rest_in_the_first_epochs_and_learn_then(tmp_path: Path, epochs: int):
    module, seen = tiny_fusion(batch_norm=True), []

    def remember(epoch: int, position: int) -> None:
        if position == 0:
            seen.append(
                module.state_dict() and {k: v.clone() for k, v in module.state_dict().items()}
            )

    validation = tiny_clips(13, seed=1, before_batch=remember)
    run = fusion_run(
        tmp_path,
        module=module,
        validation=validation,
        freeze_experts_epochs=epochs,
        log_every_steps=1,
        schedule="constant",
    )
    first = experts_state(module)
    train_run(**run)
    for epoch, state in enumerate(seen):
        rested = epoch < epochs
        # Weights and statistics of batch norm alike.
        same = [torch.equal(state[name], value) for name, value in first.items()]
        assert all(same) if rested else not any(same)
    assert not torch.equal(seen[0]["head.fusion.weight"], tiny_fusion().head.fusion.weight)
    for record in records_of(tmp_path, "train"):
        rests = record["epoch"] <= epochs
        assert (record["experts_lr"] == 0.0) is rests
        assert (record["grad_norm_experts"] is None) is rests
        assert record["grad_norm_fusion"] > 0


def test_resting_experts_are_in_evaluation_mode_and_the_head_is_not():
    module = tiny_fusion(batch_norm=True).train()
    rest_experts(module)
    assert not any(part.training for part in module.experts.modules())
    assert all(part.training for part in module.head.modules())


@pytest.mark.parametrize("after", [1, 3, 7, 9, 12])
def test_a_run_with_every_setting_on_resumes_to_the_same_bits(tmp_path: Path, after: int):
    def begin(path: Path, **changes: Any) -> dict[str, Any]:
        return fusion_run(path, module=tiny_fusion(batch_norm=True), **ALL_ON, **changes)

    train_run(**begin(tmp_path / "whole"))
    stop, handed = StopFlag(), []

    def count(epoch: int, position: int) -> None:
        handed.append(position)
        if len(handed) == after:
            stop.request()

    loader = tiny_clips(22, before_batch=count)
    with pytest.raises(StopRequested):
        train_run(**begin(tmp_path / "cut", train_loader=loader, stop=stop))
    train_run(**begin(tmp_path / "cut"))
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_the_head_alone_on_kept_features_learns_as_with_frozen_experts(tmp_path: Path):
    recipe = {"freeze_encoder": True, "loss": {"alpha": 2.0}, "clip_norms": {"head.fusion": 0.5}}
    recipe["min_lr_fraction"] = 0.1
    frozen = train_run(**fusion_run(tmp_path / "whole", **recipe))
    whole = tiny_fusion()
    loaders = {}
    for name, clips in (("train_loader", tiny_clips(22)), ("validation", tiny_clips(13, seed=1))):
        with torch.no_grad():
            encoded = whole.eval().encode((clips.videos / 255 - 0.5) / 0.25)
        assert encoded.shape[1:] == (2, FEATURES + 3)
        size = 4 if name == "train_loader" else 5
        loaders[name] = TinyClips(encoded, clips.labels, size, clips.seed)
    run = fusion_run(tmp_path / "kept", module=whole.head, whole=whole, **loaders, **recipe)
    kept = train_run(**run)
    for key, column in frozen["history"].items():
        if key != "epoch_times":
            assert kept["history"][key] == pytest.approx(column, rel=1e-5), key
    assert kept["heads"].keys() == frozen["heads"].keys()
    saved = [
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "kept")
    ]
    for name, first in tiny_fusion().state_dict().items():
        torch.testing.assert_close(saved[1][name], saved[0][name], rtol=1e-4, atol=1e-6)
        assert torch.equal(saved[0][name], first) is name.startswith("experts.")
    for record in records_of(tmp_path / "kept", "train"):
        assert record["experts_lr"] == 0.0
        assert record["fusion_lr"] > 0
        assert "grad_norm_experts" not in record
        assert record["grad_norm_fusion"] > 0


class BurstingFusion(TinyFusion):
    """Its product grows beyond float32 on the clips of one place."""

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        logits = super().forward(video_BTCHW)
        if self.training:
            self.head.fusion.largest_product = torch.tensor(3.5e38, dtype=torch.float64)
            logits = logits * math.inf
        return logits


def test_a_product_that_overflows_is_named_with_the_bounded_types(tmp_path: Path):
    torch.manual_seed(0)
    run = fusion_run(tmp_path, module=BurstingFusion())
    before = {name: value.clone() for name, value in run["module"].state_dict().items()}
    with pytest.raises(
        NonFiniteError, match=r"largest absolute product of the fusion 3\.5e\+38"
    ) as caught:
        train_run(**run)
    assert "multiplicativeGeometric and multiplicativeGated" in str(caught.value.hint)
    event = json.loads((tmp_path / "nonfinite.json").read_text())
    assert event["largest_product"] == 3.5e38
    after = run["module"].state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_other_models_are_not_offered_bounded_products(tmp_path: Path):
    module = tiny_fusion()
    module.head.classifier.register_forward_hook(lambda *call: call[2] * math.nan)
    with pytest.raises(NonFiniteError, match="loss nan") as caught:
        train_run(**fusion_run(tmp_path, module=module))
    assert "multiplicative" not in str(caught.value)


def test_rates_of_the_recipe_reach_the_groups_of_a_fusion():
    train = TrainSection.model_validate({"lr": 0.01, "lr_factors": {"experts.": 0.1}})
    parts = build_parts(
        tiny_fusion(), fusion_spec(), train, device=torch.device("cpu"), ranks=ONE_PROCESS
    )
    assert {round(rate, 12) for rate in parts.base_rates} == {0.001, 0.01}
    assert sum(parts.group_is_experts) == parts.base_rates.count(0.001)


def run_script(name: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", f"tests.training.{name}", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_real_fusion_that_is_killed_at_any_step_resumes_to_the_same_bits(tmp_path: Path):
    report = run_script("fusion_kills", tmp_path)
    assert len(report["faults"]) == 6
    for fault in report["faults"]:
        assert fault["ended"] == -9
        assert fault["resumed"] == 0
        assert fault["outcome"] == report["reference"]


def test_two_ranks_train_a_fusion_as_one_process_does(tmp_path: Path):
    report = run_script("fusion_ranks", tmp_path)
    assert report["exits"] == {"ddp": [0, 0], "fsdp": [0, 0]}
    for two in (report["ddp"], report["fsdp"]):
        assert len(two) == len(report["one"]) > 0
        for ours, expected in zip(two, report["one"], strict=True):
            assert ours == {key: pytest.approx(value, abs=1e-5) for key, value in expected.items()}
