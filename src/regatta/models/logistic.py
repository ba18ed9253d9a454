"""Logistic regression on features of any kind: fitted by scikit-learn, computed by torch alone.

Shapes: B samples, N training samples, F features, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

PENALTIES_C = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""scikit-learn's C, the inverse of the L2 penalty."""
MOST_STEPS = 5000


class FeatureScale(nn.Module):
    """(feature - mean) / sd over the training windows, kept as float64 buffers."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean_F: torch.Tensor
        self.sd_F: torch.Tensor
        self.register_buffer("mean_F", torch.zeros(features, dtype=torch.double))
        self.register_buffer("sd_F", torch.ones(features, dtype=torch.double))

    def fit(self, features_NF: torch.Tensor) -> None:
        """Measure the training windows; a feature that never changes keeps sd 1."""
        sd, mean = torch.std_mean(features_NF, dim=0, correction=0)
        self.mean_F.copy_(mean)
        self.sd_F.copy_(torch.where(sd > 0, sd, torch.ones_like(sd)))

    def forward(self, features_BF: torch.Tensor) -> torch.Tensor:
        return (features_BF - self.mean_F) / self.sd_F


class LinearScores(nn.Module):
    """features @ weight.T + bias in float64; not trained by steps, so no gradients."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        weight, bias = torch.zeros(num_classes, features), torch.zeros(num_classes)
        self.weight_KF = nn.Parameter(weight.double(), requires_grad=False)
        self.bias_K = nn.Parameter(bias.double(), requires_grad=False)

    def forward(self, features_BF: torch.Tensor) -> torch.Tensor:
        return features_BF @ self.weight_KF.T + self.bias_K


class LogisticRegressor(nn.Module):
    """Features, standardised with the mean and sd of training, and a multinomial logistic
    regression with an L2 penalty that validation chooses."""

    def __init__(
        self, describe: Callable[[torch.Tensor], torch.Tensor], *, features: int, num_classes: int
    ) -> None:
        super().__init__()
        self.describe = describe
        self.scale = FeatureScale(features)
        self.head = LinearScores(features, num_classes)

    def decide(self, features_BF: torch.Tensor) -> torch.Tensor:
        return self.head(self.scale(features_BF)).float()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.decide(self.describe(inputs))

    def candidates(self) -> list[dict[str, float]]:
        return [{"C": penalty} for penalty in PENALTIES_C]

    def fit(
        self,
        features_NF: torch.Tensor,
        labels_N: torch.Tensor,
        *,
        setting: dict[str, float],
        balanced: bool,
        seed: int,
    ) -> dict[str, Any]:
        """Solve with L-BFGS; two classes get halves of scikit-learn's one row, of either sign."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        self.scale.fit(features_NF)
        solver = LogisticRegression(
            C=setting["C"],
            max_iter=MOST_STEPS,
            class_weight="balanced" if balanced else None,
            random_state=seed % 2**32,
        )
        with warnings.catch_warnings():
            # The facts say whether it converged.
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit(self.scale(features_NF).numpy(), labels_N.numpy())
        weight, bias = torch.from_numpy(solver.coef_), torch.from_numpy(solver.intercept_)
        if len(weight) == 1:
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self.head.weight_KF.copy_(weight)
        self.head.bias_K.copy_(bias)
        steps = int(solver.n_iter_.max())
        return {"solver_steps": steps, "converged": steps < MOST_STEPS}
