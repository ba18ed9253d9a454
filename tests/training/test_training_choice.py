"""Which weights a run judges and keeps: frozen parts, running means, the score that chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import nn

from regatta.core.errors import ConfigError, StopRequested
from regatta.core.signals import StopFlag
from regatta.models.parameters import set_training_mode
from regatta.training.ema import WeightAverage
from regatta.training.loop import train_run
from regatta.training.state import SCORE_KEYS, TrainerState
from regatta.training.temperature import fit_temperature
from tests.training.tiny_training import (
    TinyClips,
    TinyNet,
    outcome,
    tiny_clips,
    tiny_net,
    tiny_run,
    tiny_spec,
)

ALL_ON = {
    "optimizer": "sgd",
    "ema": 0.9,
    "mixup": 0.4,
    "cutmix": 1.0,
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "class_counts": [8, 7, 7],
    "early_stopping_patience": 9,
    "early_stopping_min_delta": 1.0,
    "select_by": "balanced_accuracy",
}


def test_the_running_mean_follows_its_recursion_and_skips_frozen_weights():
    module = nn.Linear(1, 1)
    module.bias.requires_grad_(False)
    with torch.no_grad():
        module.weight.fill_(4.0)
    average, by_hand = WeightAverage(module, 0.25), 4.0
    for number, weight in enumerate([1.0, -2.0, 3.0, 0.5]):
        with torch.no_grad():
            module.weight.fill_(weight)
        average.update(number)
        # (1 + n) / (10 + n) is 0.1, 0.18, 0.25, 0.31: the decay itself rules from n = 2 on.
        decay = min(0.25, (1 + number) / (10 + number))
        by_hand = decay * by_hand + (1 - decay) * weight
    assert set(average.tensors()) == {"weight/average"}
    assert average.tensors()["weight/average"].item() == pytest.approx(by_hand)
    with average.in_place():
        assert module.weight.item() == pytest.approx(by_hand)
    assert module.weight.item() == 0.5
    assert average.tensors()["weight/average"].item() == pytest.approx(by_hand)


def test_the_mean_is_validated_and_saved_with_the_live_statistics(tmp_path: Path):
    module, steps = tiny_net(batch_norm=True), []

    def look(epoch: int, position: int) -> None:
        steps.append({name: value.clone() for name, value in module.state_dict().items()})

    clips = tiny_clips(22, before_batch=look)
    validation = tiny_clips(13, seed=1, batch_size=13)
    run = tiny_run(tmp_path, module=module, epochs=1, ema=0.5, train_loader=clips)
    results = train_run(**{**run, "validation": validation})
    saved = load_file(tmp_path / "model" / "model.safetensors")
    live = json.loads((tmp_path / "checkpoints/slot-000001/state.json").read_text())
    after = load_file(tmp_path / "checkpoints/slot-000001/weights.safetensors")
    # The weights before each step and after the last one.
    path = [*(step["head.weight"] for step in steps), after["head.weight"]]
    mean = path[0]
    for number, weight in enumerate(path[1:]):
        decay = min(0.5, (1 + number) / (10 + number))
        mean = decay * mean + (1 - decay) * weight
    torch.testing.assert_close(saved["head.weight"], mean)
    assert not torch.equal(saved["head.weight"], after["head.weight"])
    assert torch.equal(saved["norm.running_mean"], after["norm.running_mean"])
    module.load_state_dict(saved)
    with torch.no_grad():
        logits = module.eval()((validation.videos / 255 - 0.5) / 0.25)
    assert results["best_val_acc"] == (logits.argmax(1) == validation.labels).sum().item() / 13
    assert results["temperature"] == live["progress"]["best"]["temperature"]
    assert results["temperature"] == pytest.approx(fit_temperature(logits, validation.labels))


def test_with_everything_on_a_stopped_run_resumes_to_the_same_bits(tmp_path: Path):
    train_run(**tiny_run(tmp_path / "whole", module=tiny_net(batch_norm=True), **ALL_ON))
    for after in (1, 4, 6, 11):
        stop, handed, path = StopFlag(), [], tmp_path / f"stopped-{after}"

        def count(*place: int, stop: StopFlag = stop, handed: list = handed, n: int = after):
            handed.append(place)
            if len(handed) == n:
                stop.request()

        def begin(path: Path = path, **changes: Any) -> dict[str, Any]:
            return tiny_run(path, module=tiny_net(batch_norm=True), **ALL_ON, **changes)

        loader = tiny_clips(22, before_batch=count)
        with pytest.raises(StopRequested):
            train_run(**begin(train_loader=loader, stop=stop))
        train_run(**begin())
        assert outcome(path) == outcome(tmp_path / "whole"), f"stopped after {after}"


class Guarded(TinyNet):
    """Notes the mode of each part whenever it computes."""

    def __init__(self) -> None:
        super().__init__(dropout=0.5, batch_norm=True)
        self.modes: list[tuple[bool, ...]] = []

    def forward(self, video_BTCHW: torch.Tensor) -> torch.Tensor:
        self.modes.append((self.norm.training, self.dropout.training, self.head.training))
        return super().forward(video_BTCHW)


def test_a_frozen_encoder_changes_nothing_and_works_in_evaluation_mode(tmp_path: Path):
    module = Guarded()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run = tiny_run(tmp_path, module=module, epochs=1, freeze_encoder=True, weight_decay=0.5)
    results = train_run(**run)
    after = module.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}
    assert set(module.modes[:6]) == {(False, False, True)}
    assert results["trained_parameters"] == 8 * 3 + 3
    assert results["parameters"] == sum(p.numel() for p in module.parameters())


def test_a_head_on_features_trains_as_in_the_frozen_model(tmp_path: Path):
    # Features computed once must give the very run that the frozen model gives.
    def run(name: str, part: bool) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        net, clips = tiny_net(dropout=0.0), tiny_clips(22)
        spec = tiny_spec(pretrained=True)
        changes: dict[str, Any] = {"freeze_encoder": True, "spec": spec, "epochs": 2}
        arguments = tiny_run(tmp_path / name, module=net, train_loader=clips, **changes)
        if part:
            for key in ("train_loader", "validation"):
                source = arguments[key]
                pictures = (source.videos / 255 - 0.5) / 0.25
                with torch.no_grad():
                    features = net.norm(net.body(pictures.flatten(1))).relu()
                arguments[key] = TinyClips(features, source.labels, source.batch_size)
            arguments |= {"module": net.head, "whole": net}
        results = train_run(**arguments)
        return results, load_file(tmp_path / name / "model" / "model.safetensors")

    (frozen, weights), (cached, others) = run("frozen", part=False), run("cached", part=True)
    assert weights.keys() == others.keys()
    for key in weights:
        torch.testing.assert_close(weights[key], others[key], rtol=1e-5, atol=1e-6)
    for key in ("parameters", "trained_parameters", "best_epoch", "flops_per_clip"):
        assert frozen[key] == cached[key]


def test_freezing_a_model_without_a_head_is_refused(tmp_path: Path):
    run = tiny_run(tmp_path, freeze_encoder=True, spec=tiny_spec(head_prefixes=("top.",)))
    with pytest.raises(ConfigError, match="nothing is left to train: tiny has no parameter under"):
        train_run(**run)


def test_without_freezing_all_parts_are_in_training_mode():
    module = tiny_net().eval()
    set_training_mode(module, tiny_spec(), frozen=False)
    assert all(part.training for part in module.modules())


def scored(*values: float, least_points: float = 0.0, by: str = "accuracy") -> TrainerState:
    """A state after epochs with these scores and equal losses."""
    state = TrainerState()
    for value in values:
        scores = dict.fromkeys(SCORE_KEYS.values(), 0.0) | {SCORE_KEYS[by]: value}
        record = state.close_epoch(val_loss=1.0, **scores)
        if state.is_better(record, by=by):
            state.best = record
        state.count_gain(record, by=by, least_points=least_points)
    return state


@pytest.mark.parametrize(
    ("scores", "best", "gain"),
    [
        ((0.900, 0.901), 2, 1),  # exactly the least difference is none
        ((0.900, 0.9011), 2, 2),
        ((0.900, 0.9006, 0.9012), 3, 3),  # small steps add up against the same score
        ((0.900, 0.8, 0.9005, 0.9009), 4, 1),
    ],
)
def test_patience_counts_gains_above_the_least_difference_and_best_any(
    scores: tuple[float, ...], best: int, gain: int
):
    state = scored(*scores, least_points=0.1, by="macro_f1")
    assert state.best is not None
    assert state.best["epoch"] == best
    assert state.epochs_without_gain() == len(scores) - gain


def test_a_run_stops_when_no_gain_is_large_enough(tmp_path: Path):
    recipe = {"epochs": 9, "early_stopping_patience": 2, "early_stopping_min_delta": 100.0}
    results = train_run(**tiny_run(tmp_path, **recipe))
    assert results["stopped_early"]
    assert results["history"]["epoch"] == [1, 2, 3]


@pytest.mark.parametrize("by", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_the_chosen_score_picks_the_best_epoch(tmp_path: Path, by: str):
    train_run(**tiny_run(tmp_path, epochs=4, select_by=by))
    results = json.loads((tmp_path / "training_results.json").read_text())
    history = results["history"]
    order = list(zip(history[SCORE_KEYS[by]], [-x for x in history["val_loss"]], strict=True))
    assert results["best_epoch"] == 1 + order.index(max(order))
    assert results["selected_by"] == by
    assert results["best_score"] == max(history[SCORE_KEYS[by]])


def test_validation_scores_are_scikit_learns(tmp_path: Path):
    uneven = tiny_clips(40, seed=2)
    keep = torch.tensor([row for row in range(40) if row % 3 or row % 4 == 0])
    validation = TinyClips(uneven.videos[keep], uneven.labels[keep])
    module = tiny_net()
    results = train_run(**tiny_run(tmp_path, module=module, epochs=1, validation=validation))
    with torch.no_grad():
        predicted = module.eval()((validation.videos / 255 - 0.5) / 0.25).argmax(1)
    labels, history = validation.labels.numpy(), results["history"]
    assert history["val_balanced_accuracy"][0] == pytest.approx(
        balanced_accuracy_score(labels, predicted)
    )
    assert history["val_macro_f1"][0] == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_temperature_undoes_a_known_scale_and_agrees_with_another_search():
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((20_000, 4))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn from softmax(logits)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3.0, rel=0.05)

    def loss(values: np.ndarray) -> float:
        scaled = 3 * logits / values[0]
        return float(
            (np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]).mean()
        )

    other = minimize(loss, [1.0], bounds=[(0.1, 10)], method="L-BFGS-B", tol=1e-12).x[0]
    assert fit_temperature(3 * logits, labels) == pytest.approx(other, rel=1e-4)


def test_temperature_has_bounds_where_the_best_would_be_none_or_endless():
    right = np.eye(3)
    # From 0.03 downwards its loss is 0 to the last bit.
    assert 0.01 <= fit_temperature(right, np.arange(3)) < 0.03
    assert fit_temperature(right, np.array([1, 2, 0])) == pytest.approx(100.0, rel=0.01)
