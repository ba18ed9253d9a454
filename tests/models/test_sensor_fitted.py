"""Hand-made features and what is fitted on them, against numpy, scipy and scikit-learn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from regatta.core.seeds import stream
from regatta.models.contracts import FitsDirectly
from regatta.models.sensor.window_features import count_features, window_features
from regatta.models.spec import ModelSpec, count_flops, count_parameters, make_spec
from regatta.models.weights import load_model, save_model

CHANNELS, LENGTH = 3, 80
FITTED = ("majority", "features-linear", "features-svm", "features561-linear")


def windows(count: int, *, seed: int = 0, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise whose class sets the level of one channel and the frequency of a tone in another."""
    rng = stream(seed, "windows")
    labels = np.arange(count) % classes
    signals = rng.standard_normal((count, CHANNELS, LENGTH))
    time = np.arange(LENGTH)
    signals[:, 0] += 0.5 * labels[:, None]
    signals[:, 1] += np.sin(2 * np.pi * (2 + labels[:, None]) * time / LENGTH)
    return torch.from_numpy(signals.astype(np.float32)), torch.from_numpy(labels)


def fitted(
    name: str, *, classes: int = 3, setting: int = 2, balanced: bool = False
) -> tuple[Any, ModelSpec, torch.Tensor, torch.Tensor]:
    """(module after a fit on 90 windows or features, its spec, what it was fitted on, labels)."""
    spec = make_spec(name, "base", {}, window=(CHANNELS, LENGTH))
    module: Any = spec.build(classes)
    assert isinstance(module, FitsDirectly)
    inputs, labels = windows(90, classes=classes)
    if spec.reads == "features":
        inputs = inputs.flatten(1)[:, :40]
        spec = make_spec(name, "base", {"features": 40}, window=(CHANNELS, LENGTH))
        module = spec.build(classes)
    features = module.describe(inputs)
    candidates = module.candidates()
    module.fit(
        features,
        labels,
        setting=candidates[min(setting, len(candidates) - 1)],
        balanced=balanced,
        seed=0,
    )
    return module, spec, inputs, labels


def test_features_are_those_of_numpy_and_scipy():
    """One window, feature by feature, in the documented order."""
    signals, _ = windows(4)
    found = window_features(signals)[2].numpy()
    x = signals[2].numpy().astype(np.float64)
    power = np.abs(np.fft.rfft(x - x.mean(axis=1, keepdims=True)))[:, 1:] ** 2
    top = np.argsort(-power, axis=1)[:, :3]
    share = power / power.sum(axis=1, keepdims=True)
    expected = [
        *x.mean(axis=1),
        *x.std(axis=1),
        *x.min(axis=1),
        *x.max(axis=1),
        # torch gives the lower of the two middle values.
        *np.sort(x, axis=1)[:, (LENGTH - 1) // 2],
        *np.abs(np.diff(x, axis=1)).mean(axis=1),
        *(x**2).mean(axis=1),
        *np.take_along_axis(power, top, axis=1).ravel(),
        *np.fft.rfftfreq(LENGTH)[1:][top].ravel(),
        *np.atleast_1d(stats.entropy(share, axis=1, base=LENGTH // 2)),
        *np.log(power[:, :32] + 1e-3).ravel(),
        *np.array(np.corrcoef(x))[np.triu_indices(CHANNELS, 1)],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    channels=st.integers(1, 4),
    length=st.integers(2, 70),
    level=st.floats(-1e3, 1e3, width=32),
    still=st.booleans(),
)
def test_constant_channels_and_any_shape_give_finite_features(
    channels: int, length: int, level: float, still: bool
):
    signals = torch.full((2, channels, length), level)
    if not still:
        signals[:, 0] += torch.from_numpy(stream(0).standard_normal(length)).float()
    features = window_features(signals)
    assert features.shape == (2, count_features(channels, length))
    assert torch.isfinite(features).all()
    if still:
        spread = features[:, channels : 2 * channels]
        assert torch.equal(spread, torch.zeros_like(spread))


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_scores_are_the_decision_function_of_sklearn(classes: int):
    module, _, inputs, labels = fitted("features-linear", classes=classes)
    features = module.describe(inputs).numpy()
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    solver = LogisticRegression(C=module.candidates()[2]["C"], max_iter=5000)
    expected = solver.fit(scaled, labels.numpy()).decision_function(scaled)
    scores = module(inputs).double().numpy()
    if classes == 2:
        scores = scores[:, 1] - scores[:, 0]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("balanced", [False, True])
def test_support_vector_scores_are_the_decision_function_of_sklearn(classes: int, balanced: bool):
    module, _, inputs, labels = fitted("features-svm", classes=classes, balanced=balanced)
    features = module.describe(inputs).numpy()
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    setting = module.candidates()[2]
    solver = SVC(
        C=setting["C"],
        gamma=setting["gamma"],  # pyright: ignore[reportArgumentType]
        class_weight="balanced" if balanced else None,
        break_ties=classes > 2,
    ).fit(scaled, labels.numpy())
    fresh, _ = windows(50, seed=9, classes=classes)
    new = (module.describe(fresh).numpy() - features.mean(axis=0)) / features.std(axis=0)
    scores = module(fresh).double().numpy()
    np.testing.assert_array_equal(scores.argmax(axis=1), solver.predict(new))
    if classes > 2:
        expected = solver.decision_function(new)
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_majority_scores_are_the_log_shares_of_training():
    module, _, inputs, _ = fitted("majority")
    labels = torch.tensor([0] * 10 + [1] * 60 + [2] * 20)
    module.fit(module.describe(inputs), labels, setting={}, balanced=False, seed=0)
    probabilities = module(inputs[:2]).softmax(dim=1)
    torch.testing.assert_close(probabilities, torch.tensor([[1 / 9, 6 / 9, 2 / 9]] * 2))


@pytest.mark.parametrize("name", FITTED)
def test_saved_models_give_the_same_scores_and_count_what_was_learned(name: str, tmp_path: Path):
    module, spec, inputs, _ = fitted(name)
    save_model(tmp_path, module, spec, ["a", "b", "c"])
    loaded, loaded_spec, classes = load_model(tmp_path)
    assert classes == ["a", "b", "c"]
    assert loaded_spec.input_shape == spec.input_shape
    torch.testing.assert_close(loaded(inputs), module(inputs), rtol=0, atol=0)
    assert count_flops(loaded, loaded_spec) >= 0
    features = count_features(CHANNELS, LENGTH)
    learned = {
        "majority": 3,
        "features-linear": 3 * features + 3,
        "features561-linear": 3 * 40 + 3,
        "features-svm": None,
    }[name]
    if learned is None:
        assert count_parameters(loaded) % (features + 3) == 3
    else:
        assert count_parameters(loaded) == learned


def test_judging_a_fitted_model_needs_torch_alone(tmp_path: Path):
    module, spec, *_ = fitted("features-svm")
    save_model(tmp_path, module, spec, ["a", "b", "c"])
    script = (
        "import sys, torch; from pathlib import Path\n"
        "from regatta.models.weights import load_model\n"
        f"module, spec, _ = load_model(Path({str(tmp_path)!r}))\n"
        "module(torch.zeros(1, *spec.input_shape)); assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_autocast_does_not_touch_the_features():
    """Judging on a GPU runs in bf16; scores of fitted entries stay what they are."""
    module, _, inputs, _ = fitted("features-linear")
    plain = module(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module(inputs), plain, rtol=0, atol=0)
