"""Where a run stands: everything that a resume needs besides weights and optimizer state."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


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
    """Of the current epoch, over `loss_samples` samples."""
    loss_samples: int = 0
    lr: float = 0.0
    """Of the last step."""
    epoch_seconds: float = 0.0
    train_seconds: float = 0.0
    """Time of all attempts whose work is kept."""
    peak_memory_gib: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    skipped: list[dict[str, Any]] = field(default_factory=list)
    scaler_backoffs: int = 0
    stopped_early: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def count_time(self, seconds: float) -> None:
        self.epoch_seconds += seconds
        self.train_seconds += seconds

    def close_epoch(self, *, val_loss: float, val_accuracy: float) -> dict[str, Any]:
        """Append the epoch to the history, begin the next one, and return the record."""
        self.epoch += 1
        record = {
            "epoch": self.epoch,
            "step": self.step,
            "train_loss": self.loss_sum / self.loss_samples if self.loss_samples else None,
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "lr": self.lr,
            "seconds": self.epoch_seconds,
        }
        self.history.append(record)
        self.position, self.loss_sum, self.loss_samples, self.epoch_seconds = 0, 0.0, 0, 0.0
        return record

    def is_better(self, record: dict[str, Any]) -> bool:
        """Higher validation accuracy than the best so far; if equal, a lower validation loss.

        Equal in both keeps the earlier epoch.
        """
        if self.best is None:
            return True
        score = (record["val_accuracy"], -record["val_loss"])
        return score > (self.best["val_accuracy"], -self.best["val_loss"])

    def epochs_without_gain(self) -> int:
        return self.epoch - (self.best["epoch"] if self.best else 0)
