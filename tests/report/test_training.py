"""Training records become curves in epochs and percent, whatever they leave out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from regatta.report.training import training_curve
from regatta.report.training_plots import TrainingCurve


def curve(*records: dict[str, Any]) -> TrainingCurve:
    return training_curve(list(records), {}, entry="vivit", position=2, seed=3)


def train(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "split": "train", **values}


def validation(epoch: int, **values: Any) -> dict[str, Any]:
    return {"step": 20 * epoch, "epoch": epoch, "split": "validation", **values}


def test_steps_become_epochs_by_the_validation_records() -> None:
    found = curve(
        train(5, loss=2.0), train(10, loss=1.0), validation(1, loss=1.5), validation(2, loss=1.2)
    )
    assert found.train_loss[0].tolist() == [0.25, 0.5]
    assert found.train_loss[1].tolist() == [2.0, 1.0]
    assert found.validation_loss[0].tolist() == [1.0, 2.0]


def test_accuracy_is_shown_in_percent() -> None:
    found = curve(validation(1, accuracy=0.25), validation(2, accuracy=0.5))
    assert found.validation_accuracy[1].tolist() == [25.0, 50.0]


def test_without_validation_the_recorded_epoch_places_a_point() -> None:
    found = curve(train(5, epoch=1, lr=0.1), train(10, epoch=2, lr=0.05))
    assert found.lr[0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("value", [None, "high", True, float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_left_out(value: Any) -> None:
    found = curve(train(5, loss=value), train(10, loss=1.0), validation(1))
    assert found.train_loss[1].tolist() == [1.0]


def test_a_record_of_neither_step_nor_epoch_is_left_out() -> None:
    assert curve({"split": "train", "loss": 1.0}).is_empty()


def test_an_empty_record_gives_an_empty_curve() -> None:
    found = curve()
    assert found.is_empty()
    assert all(x.shape == y.shape == (0,) for x, y in found.series())
    assert isinstance(found.lr[0], np.ndarray)


def history(**columns: Any) -> TrainingCurve:
    records = [train(5, loss=9.0, lr=0.1), train(10, loss=9.0, lr=0.05), validation(1)]
    return training_curve(records, {"history": columns}, entry="vivit", position=2, seed=3)


def test_whole_epochs_of_the_results_stand_for_the_steps() -> None:
    found = history(
        epoch=[1, 2], train_loss=[0.8, 0.4], val_acc=[0.5, 0.75], epoch_times=[9.0, 2.0]
    )
    assert found.train_loss[0].tolist() == [1.0, 2.0]
    assert found.train_loss[1].tolist() == [0.8, 0.4]
    assert found.validation_accuracy[1].tolist() == [50.0, 75.0]
    assert found.epoch_seconds[1].tolist() == [9.0, 2.0]


def test_the_learning_rate_is_that_of_every_step_though_epochs_are_known() -> None:
    found = history(epoch=[1], learning_rates=[0.05])
    assert found.lr[0].tolist() == [5 / 20, 10 / 20]
    assert found.lr[1].tolist() == [0.1, 0.05]


def test_an_epoch_without_a_value_leaves_no_point() -> None:
    found = history(epoch=[1, 2, 3], train_acc=[None, 0.5, float("nan")])
    assert found.train_accuracy[0].tolist() == [2.0]
    assert found.train_accuracy[1].tolist() == [50.0]
