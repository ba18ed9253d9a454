"""har-vit: modes, pools, head, the frozen-features contract, picture augmentation, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from regatta.core.errors import ConfigError, UnknownNameError
from regatta.models.contracts import EncodesOnce, FitsStatistics
from regatta.models.sensor import har_vit as har_vit_file
from regatta.models.sensor.har_vit import AttentionPool, HarVit
from regatta.models.sensor.picture_augment import (
    PictureChanges,
    change_pictures,
    draw_changes,
)
from regatta.models.spec import count_parameters, make_spec
from regatta.models.weights import load_model, save_model

WINDOW = (3, 24)


def har_vit(lively=None, **options) -> HarVit:
    spec = make_spec("har-vit", "base", {"encoder": "vit-micro", **options}, window=WINDOW)
    module = spec.build(4)
    assert isinstance(module, HarVit)
    module.fit_statistics(windows(16))
    return lively(module) if lively else module.eval()


def windows(count: int = 5, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(count, *WINDOW, generator=torch.Generator().manual_seed(seed))
    return noise.cumsum(dim=2)


@pytest.mark.parametrize("pool", ["mean", "attention", "cls"])
@pytest.mark.parametrize("mode", ["flatten", "average", "first", "average-image"])
def test_it_is_its_head_on_the_features_of_single_channels(lively, mode: str, pool: str) -> None:
    module = har_vit(lively, mode=mode, pool=pool, first_channel=1)
    assert isinstance(module, EncodesOnce)
    assert isinstance(module, FitsStatistics)
    parts = [module.encode_channel(windows(), channel) for channel in module.feature_channels]
    assert len(parts) == {"flatten": 3, "average": 3}.get(mode, 1)
    assert parts[0].shape == (5, *module.feature_shape)
    assert module.feature_shape == ((16, 32) if pool == "attention" else (32,))
    logits = module(windows())
    assert logits.std() > 0.01
    assert torch.allclose(module.head(torch.stack(parts, dim=1)), logits, atol=1e-4)


def test_each_mode_sees_the_channels_that_it_says(lively) -> None:
    signals = windows()
    turned = signals[:, [2, 0, 1]]
    flatten, average, first = (
        har_vit(lively, mode=mode, first_channel=1, scale="window")
        for mode in ("flatten", "average", "first")
    )
    assert not torch.allclose(flatten(signals), flatten(turned), atol=1e-3)
    assert torch.allclose(average(signals), average(turned), atol=1e-5)
    changed = signals.clone()
    changed[:, [0, 2]] += torch.linspace(0, 9, 24).sin()
    assert torch.equal(first(changed), first(signals))
    assert not torch.allclose(first(turned), first(signals), atol=1e-3)
    assert first.feature_channels == (1,)


def test_average_image_encodes_the_mean_of_the_pictures(lively) -> None:
    module = har_vit(lively, mode="average-image")
    drawn = module.drawing(windows(), (0, 1, 2)).double()
    mean = drawn.mean(dim=1).round().to(torch.uint8)
    expected = module.encoder(mean)[:, 1:].mean(dim=1)
    assert torch.allclose(module.encode_channel(windows(), 0), expected, atol=1e-5)


def test_attention_pool_is_its_formula() -> None:
    pool = AttentionPool(8)
    tokens = torch.randn(2, 5, 8)
    scores = torch.tanh(tokens @ pool.w1.weight.T + pool.w1.bias) @ pool.w2.weight[0]
    weights = np.exp(scores.detach().numpy())
    weights /= weights.sum(axis=1, keepdims=True)
    expected = np.einsum("bt,btd->bd", weights, tokens.numpy())
    assert np.allclose(pool(tokens).detach(), expected, atol=1e-5)
    assert pool.w1.out_features == 2


@pytest.mark.parametrize(
    ("head", "sizes"),
    [
        ("default", [512]),
        ("reference-late", [64]),
        ("deep", [1024, 512, 256]),
        ([20, 10], [20, 10]),
        ([], []),
    ],
)
@pytest.mark.parametrize(("mode", "inputs"), [("flatten", 3 * 32), ("average", 32)])
def test_the_head_has_a_linear_and_a_norm_per_hidden_size(head, sizes, mode, inputs) -> None:
    widths = [inputs, *sizes]
    expected = sum(a * b + b + 2 * b for a, b in zip(widths, sizes, strict=False))
    expected += widths[-1] * 4 + 4
    assert count_parameters(har_vit(head=head, mode=mode).head) == expected


def test_flatten_of_nine_published_vectors_takes_6912_numbers() -> None:
    with torch.device("meta"):
        module = make_spec("har-vit", "base", {}, window=(9, 128)).build(6)
    assert isinstance(module, HarVit)
    assert module.head.mlp[0].in_features == 6_912


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mode": "flaten"}, "did you mean 'flatten'"),
        ({"pool": "attn"}, "known: attention, cls, mean"),
        ({"head": "depe"}, "did you mean 'deep'"),
        ({"first_channel": 3, "mode": "first"}, "channels count from 0 to 2"),
        ({"first_channel": -1}, "channels count from 0"),
        ({"head": [0]}, "at least 1"),
        ({"image_size": 36}, "multiple of the patch size 8"),
        ({"encoder": "vit-b8-detection", "pool": "cls"}, "no class token"),
        ({"kind": "dots"}, "'line' or 'heatmap'"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(options, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        make_spec("har-vit", "base", {"encoder": "vit-micro", **options}, window=WINDOW)
    assert told in str(error.value)
    if "did you mean" in told:
        assert isinstance(error.value, UnknownNameError)


def test_a_channel_is_not_refused_before_the_data_is_known() -> None:
    options = {"encoder": "vit-micro", "mode": "first", "first_channel": 15}
    assert make_spec("har-vit", "base", options)
    make_spec("har-vit", "base", options, window=(16, 24))


def test_how_many_pictures_go_at_once_changes_no_answer(
    lively, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = har_vit(lively, pool="attention")
    changes = draw_changes(5, device=torch.device("cpu"))
    together, changed = module(windows()), module.encode_channel(windows(), 1, changes)
    assert not torch.allclose(changed, module.encode_channel(windows(), 1), atol=0.1)
    monkeypatch.setattr(har_vit_file, "CPU_PIXELS_AT_ONCE", 2 * 3 * 32 * 32)
    assert torch.allclose(module(windows()), together, atol=1e-5)
    monkeypatch.setattr(har_vit_file, "CPU_PIXELS_AT_ONCE", 2 * 32 * 32)
    assert torch.allclose(module.encode_channel(windows(), 1, changes), changed, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"pool": "attention", "mode": "average", "head": "deep"}])
def test_a_saved_model_gives_the_same_bits_and_brings_its_range(
    tmp_path: Path, classes, lively, options
) -> None:
    spec = make_spec("har-vit", "base", {"encoder": "vit-micro", **options}, window=WINDOW)
    module = lively(spec.build(4))
    assert isinstance(module, HarVit)
    module.fit_statistics(windows(16))
    save_model(tmp_path, module, spec, classes)
    loaded, found, names = load_model(tmp_path)
    assert isinstance(loaded, HarVit)
    assert torch.equal(loaded(windows()), module(windows()))
    assert torch.equal(loaded.drawing.low_C, module.drawing.low_C)
    assert (found.window, names) == (WINDOW, classes)
    assert loaded.encoding_identity() == module.encoding_identity()


def test_the_identity_tells_what_the_features_depend_on() -> None:
    def identity(**options) -> str:
        return json.dumps(har_vit(**options).encoding_identity(), sort_keys=True)

    # One cache serves these.
    same = [{}, {"mode": "average"}, {"mode": "first"}, {"head": [8]}, {"dropout": 0.3}]
    assert len({identity(**options) for options in same}) == 1
    others = [
        {},
        {"mode": "average-image"},
        {"pool": "cls"},
        {"pool": "attention"},
        {"kind": "heatmap"},
        {"scale": "window"},
        {"image_size": 64},
    ]
    assert len({identity(**options) for options in others}) == len(others)


def unchanged(**changes: float) -> PictureChanges:
    values = {"flip": 1.0, "angle": 0.0, "brightness": 1.0, "contrast": 1.0, **changes}
    return PictureChanges(**{name: torch.tensor([value]) for name, value in values.items()})


def test_each_change_of_a_picture_is_what_its_name_says() -> None:
    pictures = har_vit().drawing(windows(1), (0, 1, 2))
    assert torch.equal(change_pictures(pictures, unchanged()), pictures)
    assert torch.equal(change_pictures(pictures, unchanged(flip=-1.0)), pictures.flip(3))
    turned = change_pictures(pictures, unchanged(angle=torch.pi / 2)).int()
    assert (turned - torch.rot90(pictures, 1, (2, 3)).int()).abs().max() <= 1
    dark = change_pictures(pictures, unchanged(brightness=0.8)).double()
    assert (dark - 0.8 * pictures).abs().max() <= 0.5
    flat = change_pictures(pictures, unchanged(contrast=0.8)).double()
    middle = pictures.double().mean(dim=(2, 3), keepdim=True)
    assert (flat - (middle + 0.8 * (pictures - middle))).abs().max() <= 0.5001
    # White comes in at the corners of a rotated picture.
    assert change_pictures(torch.full_like(pictures, 255), unchanged(angle=0.2)).min() == 255


def test_changes_have_the_stated_ranges_and_the_channels_share_them() -> None:
    generator = torch.Generator().manual_seed(0)
    changes = draw_changes(4000, device=torch.device("cpu"), generator=generator)
    assert abs(float((changes.flip == -1).double().mean()) - 0.5) < 0.04
    degrees = changes.angle.rad2deg()
    assert -15 <= degrees.min() < -14.5
    assert 14.5 < degrees.max() <= 15
    for factor in (changes.brightness, changes.contrast):
        assert 0.8 <= factor.min() < 0.81
        assert 1.19 < factor.max() <= 1.2
    picture = har_vit().drawing(windows(1)[:, :1], (0,)).expand(4, 3, 32, 32)
    few = PictureChanges(*(values[:4] for values in changes))
    changed = change_pictures(picture, few)
    assert torch.equal(changed[:, 0], changed[:, 1])
    assert not torch.equal(changed[0, 0], changed[1, 0])


def test_pictures_are_changed_in_training_mode_only() -> None:
    module = har_vit(dropout=0.0)
    plain = module(windows())
    module.picture_augment = True
    assert torch.equal(module(windows()), plain)
    module.train()
    torch.manual_seed(0)
    assert not torch.allclose(module(windows()), plain, atol=1e-4)
    module.picture_augment = False
    assert torch.allclose(module(windows()), plain, atol=1e-6)


def test_gradients_reach_encoder_pool_and_head() -> None:
    module = har_vit(pool="attention").train()
    module(windows()).square().sum().backward()
    # Scores that all move by one number leave a softmax as it is; the class token still attends.
    silent = {"head.pool.w2.bias"}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        if name not in silent and not name.endswith("attention.key.bias"):
            assert parameter.grad.abs().max() > 0, name
