"""Where a run stands: everything that a resume needs besides weights and optimizer state."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

SCORE_KEYS = {
    "accuracy": "val_acc",
    "balanced_accuracy": "val_balanced_accuracy",
    "macro_f1": "val_macro_f1",
    "rmse": "val_rmse",
    "joint": "val_joint",
}
"""`train.select_by` -> its column of the history."""
LOWER_IS_BETTER = ("val_rmse",)
HISTORY_KEYS = (
    "epoch",
    "step",
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "val_balanced_accuracy",
    "val_macro_f1",
    "learning_rates",
    "epoch_times",
)
"""Columns of the history: one value per epoch; fractions, the last rate, seconds."""
HEAD_LOSSES = ("loss_global", "loss_individual")
"""Parts of the training loss of a model with several heads; the second before it is weighted."""
MOTION_KEYS = ("loss_class", "loss_position", "val_mse", "val_rmse", "val_joint")
"""What a model that says places has beside: parts of its training loss, and of validation the error
in world units and `selection.joint_score`."""
ROUNDING_POINTS = 1e-9
"""A gain of exactly the least difference is none, however its subtraction is rounded."""


def score_of(record: dict[str, Any], by: str) -> float:
    """The score that `train.select_by` means, turned so that higher is better."""
    key = SCORE_KEYS[by]
    return -record[key] if key in LOWER_IS_BETTER else record[key]


@dataclass
class TrainerState:
    """Numbers and lists, saved as JSON with every checkpoint; it keeps all bits of a float."""

    epoch: int = 0
    """Epochs whose validation is done."""
    position: int = 0
    """Micro-batches of the current epoch that each rank has consumed."""
    step: int = 0
    """Optimizer steps taken, skipped ones included."""
    samples_seen: int = 0
    loss_sum: float = 0.0
    """Of the current epoch, over samples that weigh `loss_weight` and are `loss_samples`."""
    loss_weight: float = 0.0
    loss_samples: int = 0
    correct: float = 0.0
    """Of those samples, in training mode."""
    head_sums: dict[str, float] = field(default_factory=dict)
    """Parts of `loss_sum`, where it has two: column -> sum."""
    lr: float = 0.0
    """Of the last step."""
    epoch_seconds: float = 0.0
    train_seconds: float = 0.0
    """Time of all attempts whose work is kept."""
    energy_joules: float | None = None
    """Energy of that time; None = not measured in one of them. A run begins with 0."""
    energy_source: str | None = None
    """What the energy covers; see energy.py."""
    peak_memory_gib: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    gain_score: float | None = None
    """The last score that counted as a gain for patience, and its epoch."""
    gain_epoch: int = 0
    skipped: list[dict[str, Any]] = field(default_factory=list)
    scaler_backoffs: int = 0
    stopped_early: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def count_time(self, seconds: float) -> None:
        self.epoch_seconds += seconds
        self.train_seconds += seconds

    def count_energy(self, joules: float | None, source: str | None) -> None:
        """Add the energy since the last call; of two sources the sum would mean nothing."""
        if self.energy_joules is None or joules is None or self.energy_source not in (None, source):
            self.energy_joules = self.energy_source = None
        else:
            self.energy_joules, self.energy_source = self.energy_joules + joules, source

    def count_samples(
        self,
        *,
        loss_sum: float,
        weight: float,
        correct: float,
        count: int,
        part_sums: dict[str, float] | None = None,
    ) -> None:
        """Add a step to the current epoch's training loss and accuracy."""
        for column, value in (part_sums or {}).items():
            self.head_sums[column] = self.head_sums.get(column, 0.0) + value
        self.loss_sum += loss_sum
        self.loss_weight += weight
        self.correct += correct
        self.loss_samples += count

    def head_losses(self) -> dict[str, float]:
        """Both parts of the epoch's training loss so far, means over its samples; none where it has
        one part."""
        return {column: value / self.loss_weight for column, value in self.head_sums.items()}

    def close_epoch(self, **scores: float) -> dict[str, Any]:
        """Append the epoch to the history, begin the next one, and return the record.

        Args:
            scores: val_loss and the columns of `SCORE_KEYS`.
        """
        self.epoch += 1
        trained = self.loss_samples > 0
        record = {
            "epoch": self.epoch,
            "step": self.step,
            "train_loss": self.loss_sum / self.loss_weight if trained else None,
            "train_acc": self.correct / self.loss_samples if trained else None,
            **scores,
            "learning_rates": self.lr,
            "epoch_times": self.epoch_seconds,
            **self.head_losses(),
        }
        self.history.append(record)
        self.position, self.loss_samples, self.head_sums = 0, 0, {}
        self.loss_sum = self.loss_weight = self.correct = self.epoch_seconds = 0.0
        return record

    def history_columns(self) -> dict[str, list[Any]]:
        """The columns of `HISTORY_KEYS`, and those of `HEAD_LOSSES` and `MOTION_KEYS` that any
        epoch has."""
        more = (*HEAD_LOSSES, *MOTION_KEYS)
        columns = (*HISTORY_KEYS, *(k for k in more if any(k in r for r in self.history)))
        return {key: [record.get(key) for record in self.history] for key in columns}

    def is_better(self, record: dict[str, Any], *, by: str) -> bool:
        """A better validation score than the best so far; if equal, a lower validation loss.

        Equal in both keeps the earlier epoch.
        """
        if self.best is None:
            return True
        score = (score_of(record, by), -record["val_loss"])
        return score > (score_of(self.best, by), -self.best["val_loss"])

    def count_gain(self, record: dict[str, Any], *, by: str, least_points: float) -> None:
        """Take the record's score as a gain when it is more than `least_points` percentage points
        above the last one that was.

        Many small steps up count once they add up: each is measured from the same score.
        """
        score = score_of(record, by)
        before = self.gain_score
        if before is None or 100 * (score - before) > least_points + ROUNDING_POINTS:
            self.gain_score, self.gain_epoch = score, record["epoch"]

    def epochs_without_gain(self) -> int:
        return self.epoch - self.gain_epoch
