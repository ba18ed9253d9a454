"""Logistic regression on hand-made features: fitted by scikit-learn, computed by torch alone.

Shapes: B windows, N training windows, F features, K classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.logistic import LogisticRegressor
from regatta.models.sensor.window_features import count_features, window_features
from regatta.models.spec import ModelSpec, Size, describe_config, signal_spec


@MODELS.register("features-linear")
def features_linear(*, size: Size = "base", channels: int = 9, length: int = 128) -> ModelSpec:
    """Logistic regression on hand-made features of the signal; its penalty chosen on validation."""
    features = count_features(channels, length)

    def build(num_classes: int) -> nn.Module:
        return LogisticRegressor(window_features, features=features, num_classes=num_classes)

    return signal_spec(
        "features-linear",
        build,
        channels=channels,
        length=length,
        config=describe_config("features-linear", size),
    )


@MODELS.register("features561-linear")
def features561_linear(
    *, size: Size = "base", channels: int = 9, length: int = 128, features: int = 561
) -> ModelSpec:
    """Logistic regression on the hand-made columns that the data set itself brings."""

    def build(num_classes: int) -> nn.Module:
        return LogisticRegressor(torch.Tensor.double, features=features, num_classes=num_classes)

    spec = signal_spec(
        "features561-linear",
        build,
        channels=channels,
        length=length,
        config=describe_config("features561-linear", size, features=features),
    )
    return replace(spec, reads="features", shape=(features,))
