"""A small convolutional network on raw windows of signals."""

from __future__ import annotations

import torch
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.spec import ModelSpec, Size, check_dropout, describe_config, signal_spec


class Standardise(nn.Module):
    """(signal - mean) / sd per channel, over the training windows; both are kept as buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean_C: torch.Tensor
        self.sd_C: torch.Tensor
        self.register_buffer("mean_C", torch.zeros(channels))
        self.register_buffer("sd_C", torch.ones(channels))

    def fit(self, signals_NCL: torch.Tensor) -> None:
        """Measure the training windows; a channel that never changes keeps sd 1."""
        sd, mean = torch.std_mean(signals_NCL.double(), dim=(0, 2), correction=0)
        self.mean_C.copy_(mean)
        self.sd_C.copy_(torch.where(sd > 0, sd, torch.ones_like(sd)))

    def forward(self, signals_BCL: torch.Tensor) -> torch.Tensor:
        return (signals_BCL - self.mean_C[:, None]) / self.sd_C[:, None]


class Cnn1d(nn.Module):
    """Three stages of two convolutions and a max-pool; mean and max over time; linear."""

    def __init__(self, *, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.standardise = Standardise(channels)
        layers: list[nn.Module] = []
        inputs = channels
        for width in (64, 128, 128):
            for _ in range(2):
                layers += [
                    nn.Conv1d(inputs, width, 5, padding=2, bias=False),
                    nn.BatchNorm1d(width),
                    nn.ReLU(),
                ]
                inputs = width
            layers.append(nn.MaxPool1d(2))
        self.stages = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * inputs, num_classes)

    def fit_statistics(self, signals_NCL: torch.Tensor) -> None:
        self.standardise.fit(signals_NCL)

    def forward(self, signals_BCL: torch.Tensor) -> torch.Tensor:
        maps = self.stages(self.standardise(signals_BCL))
        pooled = torch.cat([maps.mean(dim=2), maps.amax(dim=2)], dim=1)
        return self.head(self.dropout(pooled))


@MODELS.register("cnn1d")
def cnn1d(
    *, size: Size = "base", channels: int = 9, length: int = 128, dropout: float = 0.2
) -> ModelSpec:
    """1-D CNN on raw signals: 3 stages (64, 128, 128), kernel 5, about 313 k parameters."""
    check_dropout(dropout)

    def build(num_classes: int) -> nn.Module:
        return Cnn1d(channels=channels, num_classes=num_classes, dropout=dropout)

    return signal_spec(
        "cnn1d",
        build,
        channels=channels,
        length=length,
        config=describe_config("cnn1d", size, dropout=dropout),
    )
