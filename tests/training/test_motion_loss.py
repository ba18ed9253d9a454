"""The loss of a class and of places, against values worked out by hand and against torch's own."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from regatta.config.schema import TrainSection
from regatta.core.errors import ConfigError, RunError
from regatta.models.contracts import HasPositions
from regatta.models.spec import make_spec
from regatta.training.loss import TrainingLoss
from regatta.training.motion_loss import MotionLoss, loss_of, recipe_loss
from regatta.training.recipe import check_recipe
from regatta.training.records import progress_text
from regatta.training.validation import joint_score

NAN = float("nan")
LABELS = torch.tensor([0, 1])
OUTPUTS = torch.tensor(
    # Two logits, then x, y, z of one target.
    [[2.0, 0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]]
)
TARGETS = torch.tensor([[[0.0, 2.0, 5.0]], [[3.0, 0.0, 0.0]]])
SD = torch.tensor([[1.0, 1.0, 2.0]])
# Errors over sd: (1, 0, -1) and (-3, 0, 0): means of squares 2/3 and 3.
OF_PLACES = 2 / 3 + 3.0
OF_CLASS = math.log(1 + math.exp(-2)) + math.log(2)


class SaysPlaces(nn.Module):
    position_names = ("forecast",)

    def __init__(self, *, learned: bool = False) -> None:
        super().__init__()
        self.register_buffer("position_mean", torch.zeros(1, 3))
        self.register_buffer("position_sd", SD)
        self.log_variances = nn.Parameter(torch.zeros(2)) if learned else None

    def fit_targets(self, targets_NP3: torch.Tensor) -> None:
        raise NotImplementedError

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs


def test_class_and_place_are_weighed_and_errors_are_divided_by_their_spread():
    found = MotionLoss(SD, class_weight=2.0, position_weight=0.5).of(OUTPUTS, LABELS, TARGETS)
    assert found.sums().tolist() == pytest.approx(
        [2 * OF_CLASS + 0.5 * OF_PLACES, 2.0, 1.0, OF_CLASS, OF_PLACES], rel=1e-6
    )


def test_raw_world_units_leave_the_errors_as_they_are():
    train = TrainSection.model_validate({"positions": {"units": "world"}})
    found = recipe_loss(train, SaysPlaces()).of(OUTPUTS, LABELS, TARGETS)  # pyright: ignore[reportCallIssue]
    assert found.second_loss is not None
    assert found.second_loss.item() == pytest.approx((1 + 4) / 3 + 3.0)


def test_a_place_that_is_not_known_teaches_nothing_and_breaks_nothing():
    outputs = OUTPUTS.clone().requires_grad_()
    unknown = torch.full_like(TARGETS, NAN)
    unknown[1] = TARGETS[1]
    found = MotionLoss(SD).of(outputs, LABELS, unknown)
    assert found.second_loss is not None
    assert found.second_loss.item() == pytest.approx(3.0)
    found.loss.backward()
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()
    assert outputs.grad[0, 2:].tolist() == [0.0, 0.0, 0.0]


def test_two_targets_are_added():
    twice = torch.cat([OUTPUTS, OUTPUTS[:, 2:]], dim=1)
    found = MotionLoss(SD.repeat(2, 1)).of(twice, LABELS, TARGETS.repeat(1, 2, 1))
    assert found.second_loss is not None
    assert found.second_loss.item() == pytest.approx(2 * OF_PLACES)


def test_learned_weights_are_least_where_each_is_the_log_of_its_loss():
    """d/ds (exp(-s) L + s) = 0 at s = log L, the closed form of Kendall's weighting."""
    module = SaysPlaces(learned=True)
    assert isinstance(module, HasPositions)
    loss = recipe_loss(TrainSection(), module)
    assert isinstance(loss, MotionLoss)
    assert module.log_variances is not None
    with torch.no_grad():
        module.log_variances.copy_(torch.tensor([OF_CLASS / 2, OF_PLACES / 2]).log())
    found = loss.of(OUTPUTS, LABELS, TARGETS)
    found.loss.backward()
    assert module.log_variances.grad is not None
    assert module.log_variances.grad.tolist() == pytest.approx([0.0, 0.0], abs=1e-5)
    best = sum(2 + 2 * math.log(part / 2) for part in (OF_CLASS, OF_PLACES))
    assert found.loss.item() == pytest.approx(best, rel=1e-6)


def test_a_batch_without_scenes_has_a_gradient_of_zero_for_every_parameter():
    module = SaysPlaces(learned=True)
    loss = recipe_loss(TrainSection(), module)
    outputs = OUTPUTS[:1].clone().requires_grad_()
    nothing = loss.nothing(outputs)
    assert nothing.sums().tolist() == [0.0] * 5
    nothing.loss.backward()
    assert module.log_variances is not None
    assert module.log_variances.grad is not None
    assert not module.log_variances.grad.any()


def test_class_weights_weigh_a_scene_as_a_whole():
    weights = torch.tensor([1.0, 3.0])
    found = MotionLoss(SD, class_weights_K=weights).of(OUTPUTS, LABELS, TARGETS)
    of_class = functional.cross_entropy(OUTPUTS[:, :2], LABELS, weight=weights, reduction="sum")
    by_hand = of_class.item() + 2 / 3 + 3 * 3.0
    assert found.loss.item() == pytest.approx(by_hand, rel=1e-6)
    assert found.weight.item() == 4.0


def test_samples_without_places_are_refused_by_name():
    batch = SimpleNamespace(inputs=OUTPUTS, labels=LABELS, sample_ids=["a", "b"])
    with pytest.raises(RunError, match="trained on places"):
        loss_of(MotionLoss(SD), OUTPUTS, LABELS, batch)
    plain = loss_of(TrainingLoss(), OUTPUTS[:, :2], LABELS, batch)
    assert plain.loss.item() == pytest.approx(OF_CLASS, rel=1e-6)


def test_the_score_that_selects_weighs_accuracy_and_error_as_written():
    assert joint_score(0.9, 0.2, 0.5) == pytest.approx(0.9 - 0.1 * 0.4)


@pytest.mark.parametrize("key", [{"mixup": 0.2}, {"cutmix": 1.0}])
def test_mixed_scenes_are_refused(key: dict[str, float]):
    spec = make_spec("trajectory", "tiny", {"extractor": "magvit"})
    with pytest.raises(ConfigError, match="no place of their own"):
        check_recipe(TrainSection.model_validate(key), spec)


@pytest.mark.parametrize("by", ["rmse", "joint"])
def test_a_model_without_places_cannot_be_selected_by_them(by: str):
    with pytest.raises(ConfigError, match="says no places"):
        check_recipe(TrainSection.model_validate({"select_by": by}), make_spec("cnn3d", "tiny", {}))


def test_progress_is_a_line_per_epoch_that_people_can_read():
    first = {"epoch": 1, "train_loss": 1.25, "val_loss": 1.5, "val_acc": 0.5, "epoch_times": 3.2}
    second = {**first, "epoch": 2, "train_loss": None, "val_rmse": 0.3217}
    assert progress_text([first, second], 10) == (
        "epoch   1 of 10  training loss 1.2500  validation loss 1.5000  accuracy 50.0%  3 s\n"
        "epoch   2 of 10  validation loss 1.5000  accuracy 50.0%  rmse 0.322  3 s\n"
    )
