"""Support vectors on hand-made features: fitted by scikit-learn, computed by torch alone.

Shapes: B windows, N training windows, F features, S support vectors, K classes, P = K (K - 1) / 2
pairs of classes in the order 0-1, 0-2 ... 1-2 ....
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from regatta.core.registry import MODELS
from regatta.models.logistic import FeatureScale
from regatta.models.sensor.window_features import count_features, window_features
from regatta.models.spec import ModelSpec, Size, describe_config, signal_spec

PENALTIES_C = (1.0, 3.0, 10.0, 30.0)
WIDTHS = (0.1, 0.3, 1.0)
"""Gamma of the kernel times F: standardised features lie about 2 F apart, squared."""


class PairVotes(nn.Module):
    """RBF support vector machines of all pairs of classes, their votes, and a share below 1/3 of a
    vote for the margins, as scikit-learn's `decision_function_shape="ovr"` counts them."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.first_P: torch.Tensor
        self.second_P: torch.Tensor
        first_P, second_P = torch.triu_indices(num_classes, num_classes, offset=1)
        self.register_buffer("first_P", first_P, persistent=False)
        self.register_buffer("second_P", second_P, persistent=False)
        self.set_size(0, features)
        self.intercept_P = _fixed(torch.zeros(len(first_P)))
        self.gamma: torch.Tensor
        self.register_buffer("gamma", torch.tensor(1.0, dtype=torch.double))
        self.count_K: torch.Tensor
        self.register_buffer("count_K", torch.zeros(num_classes, dtype=torch.int64))

    def set_size(self, support: int, features: int) -> None:
        """Make room for so many support vectors."""
        self.support_SF = _fixed(torch.zeros(support, features))
        self.weights_SP = _fixed(torch.zeros(support, len(self.first_P)))

    def forward(self, features_BF: torch.Tensor) -> torch.Tensor:
        squares = features_BF.square().sum(1)[:, None] + self.support_SF.square().sum(1)
        distance_BS = (squares - 2 * features_BF @ self.support_SF.T).clamp_min(0)
        kernel_BS = torch.exp(-self.gamma * distance_BS)
        margin_BP = kernel_BS @ self.weights_SP + self.intercept_P
        shape = (len(features_BF), len(self.count_K))
        votes, sums = margin_BP.new_zeros(shape), margin_BP.new_zeros(shape)
        wins = (margin_BP >= 0).to(margin_BP.dtype)
        for places, sign, won in ((self.first_P, 1, wins), (self.second_P, -1, 1 - wins)):
            votes.index_add_(1, places, won)
            sums.index_add_(1, places, sign * margin_BP)
        return votes + sums / (3 * (sums.abs() + 1))


class FeaturesSvm(nn.Module):
    """Hand-made features, standardised with the mean and sd of training, and an RBF support vector
    machine whose C and gamma validation chooses."""

    def __init__(self, *, features: int, num_classes: int) -> None:
        super().__init__()
        self.scale = FeatureScale(features)
        self.head = PairVotes(features, num_classes)

    def take_sizes(self, state: dict[str, torch.Tensor]) -> None:
        support = state.get("head.support_SF")
        if support is not None and support.ndim == 2:
            self.head.set_size(len(support), self.head.support_SF.shape[1])

    def describe(self, inputs: torch.Tensor) -> torch.Tensor:
        return window_features(inputs)

    def decide(self, features_BF: torch.Tensor) -> torch.Tensor:
        return self.head(self.scale(features_BF)).float()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.decide(self.describe(inputs))

    def candidates(self) -> list[dict[str, float]]:
        features = self.head.support_SF.shape[1]
        return [
            {"C": penalty, "gamma": width / features} for penalty in PENALTIES_C for width in WIDTHS
        ]

    def fit(
        self,
        features_NF: torch.Tensor,
        labels_N: torch.Tensor,
        *,
        setting: dict[str, float],
        balanced: bool,
        seed: int,  # noqa: ARG002 - libsvm draws nothing here
    ) -> dict[str, Any]:
        from sklearn.svm import SVC

        self.scale.fit(features_NF)
        options: dict[str, Any] = {**setting, "class_weight": "balanced" if balanced else None}
        solver = SVC(**options)
        solver.fit(self.scale(features_NF).numpy(), labels_N.numpy())
        head = self.head
        head.set_size(len(solver.support_vectors_), features_NF.shape[1])
        head.support_SF.copy_(torch.from_numpy(solver.support_vectors_))
        weights, intercept = _pair_weights(
            solver, list(zip(head.first_P.tolist(), head.second_P.tolist(), strict=True))
        )
        head.weights_SP.copy_(torch.from_numpy(weights))
        head.intercept_P.copy_(torch.from_numpy(intercept))
        head.gamma.fill_(setting["gamma"])
        head.count_K.copy_(torch.from_numpy(solver.n_support_))
        return {"support_vectors": int(solver.n_support_.sum())}


def _pair_weights(solver: Any, pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Weight [S, P] of each support vector in each pair, and intercepts [P], from libsvm's table.

    Support vectors stand class by class; row k of the table holds a vector's weight against the
    k-th of the other classes. Of two classes, scikit-learn turns the sign round.
    """
    ends = np.cumsum(solver.n_support_)
    rows_of = [slice(end - count, end) for end, count in zip(ends, solver.n_support_, strict=True)]
    table = solver.dual_coef_
    weights = np.zeros((table.shape[1], len(pairs)))
    for pair, (first, second) in enumerate(pairs):
        weights[rows_of[first], pair] = table[second - 1, rows_of[first]]
        weights[rows_of[second], pair] = table[first, rows_of[second]]
    sign = -1.0 if len(rows_of) == 2 else 1.0
    return sign * weights, sign * solver.intercept_


def _fixed(values: torch.Tensor) -> nn.Parameter:
    """Learned numbers, so they count as parameters, but not by gradients."""
    return nn.Parameter(values.double(), requires_grad=False)


@MODELS.register("features-svm")
def features_svm(*, size: Size = "base", channels: int = 9, length: int = 128) -> ModelSpec:
    """Support vector machine on hand-made features; C and gamma chosen on validation."""
    features = count_features(channels, length)

    def build(num_classes: int) -> nn.Module:
        return FeaturesSvm(features=features, num_classes=num_classes)

    return signal_spec(
        "features-svm",
        build,
        channels=channels,
        length=length,
        config=describe_config("features-svm", size),
    )
