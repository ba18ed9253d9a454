"""The four families of experts: their published size, features, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.errors import ConfigError, RunError
from regatta.core.registry import MODELS
from regatta.models.contracts import Backbone
from regatta.models.image.densenet import DenseLayer
from regatta.models.image.resnet import BasicBlock
from regatta.models.spec import CIFAR100_MEAN, ModelSpec, count_flops, count_parameters, make_spec
from regatta.models.weights import load_model, save_model

FAMILIES = ["densenet121", "resnet18", "improved_wideresnet28_10", "preact_resnext29_8x64d"]
DROPPING = ["densenet121", "improved_wideresnet28_10"]


def on_meta(spec: ModelSpec, num_classes: int) -> nn.Module:
    """Shapes alone, without memory."""
    with torch.device("meta"):
        return spec.build(num_classes)


def images(batch: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def norm(channels: int) -> int:
    return 2 * channels


def densenet_layers(growth: int, blocks: tuple[int, ...]) -> Iterator[int]:
    channels = 2 * growth
    yield 27 * channels
    for number, layers in enumerate(blocks):
        for _ in range(layers):
            yield norm(channels) + channels * 4 * growth
            yield norm(4 * growth) + 9 * 4 * growth * growth
            channels += growth
        if number < len(blocks) - 1:
            yield norm(channels) + channels * (channels // 2)
            channels //= 2
    yield norm(channels)


def resnet_layers(widths: tuple[int, ...], blocks: int) -> Iterator[int]:
    channels = widths[0]
    yield 27 * channels + norm(channels)
    for width in widths:
        for _ in range(blocks):
            yield 9 * channels * width + norm(width)
            yield 9 * width * width + norm(width)
            if channels != width:
                yield channels * width + norm(width)
            channels = width


def wide_layers(widths: tuple[int, ...], blocks: int) -> Iterator[int]:
    channels = 16
    yield 27 * channels
    for width in widths:
        for _ in range(blocks):
            yield norm(channels) + 9 * channels * width
            yield norm(width) + 9 * width * width
            if channels != width:
                yield channels * width
            channels = width
    yield norm(channels)


def next_layers(
    stem: int, outputs: tuple[int, ...], middle: int, groups: int, blocks: int
) -> Iterator[int]:
    channels = stem
    yield 27 * channels
    for number, output in enumerate(outputs):
        wide = middle * 2**number
        for _ in range(blocks):
            yield norm(channels) + channels * wide
            yield norm(wide) + 9 * wide * wide // groups
            yield norm(wide) + wide * output
            if channels != output:
                yield channels * output
            channels = output
    yield norm(channels)


BASE = {
    "densenet121": (1024, sum(densenet_layers(32, (6, 12, 24, 16)))),
    "resnet18": (512, sum(resnet_layers((64, 128, 256, 512), 2))),
    "improved_wideresnet28_10": (640, sum(wide_layers((160, 320, 640), 4))),
    "preact_resnext29_8x64d": (1024, sum(next_layers(64, (256, 512, 1024), 512, 8, 3))),
}
TINY = {
    "densenet121": (32, sum(densenet_layers(8, (2, 2, 2, 2)))),
    "resnet18": (64, sum(resnet_layers((8, 16, 32, 64), 2))),
    "improved_wideresnet28_10": (64, sum(wide_layers((16, 32, 64), 1))),
    "preact_resnext29_8x64d": (64, sum(next_layers(16, (16, 32, 64), 16, 2, 1))),
}


# Layers counted one by one above: a count of the module by itself would agree with anything.
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "forms"), [("base", BASE), ("tiny", TINY)])
def test_every_layer_is_the_one_of_the_form(family: str, size: str, forms) -> None:
    dim, body = forms[family]
    module = on_meta(make_spec(family, size, {}), 100)
    assert isinstance(module, Backbone)
    assert module.feature_dim == dim
    assert count_parameters(module) == body + 100 * (dim + 1)


# Huang et al. 2017 with a stem of 3 x 3; He et al. 2016 with widths from 64; Zagoruyko and
# Komodakis 2016, table 4 (36.5 M); Xie et al. 2017, table 7 (34.4 M). The tables are for CIFAR-10.
@pytest.mark.parametrize(
    ("family", "millions"), list(zip(FAMILIES, ["7.0", "11.2", "36.5", "34.4"], strict=True))
)
def test_base_has_the_published_number_of_parameters(family: str, millions: str) -> None:
    module = on_meta(make_spec(family, "base", {}), 10)
    assert f"{count_parameters(module) / 1e6:.1f}" == millions


@pytest.mark.parametrize(
    ("family", "millions"), list(zip(FAMILIES, ["7.0", "11.2", "36.5", "34.5"], strict=True))
)
def test_base_has_this_number_of_parameters_for_100_classes(family: str, millions: str) -> None:
    module = on_meta(make_spec(family, "base", {}), 100)
    assert f"{count_parameters(module) / 1e6:.1f}" == millions


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_grow_and_the_tiny_one_is_tiny(family: str) -> None:
    sizes = [
        count_parameters(on_meta(make_spec(family, size, {}), 100))
        for size in ("tiny", "small", "base")
    ]
    assert sizes[0] < 200_000 < sizes[1] < 1_000_000 < sizes[2]


def test_flops_of_wide_resnet_are_the_closed_form() -> None:
    spec = make_spec("improved_wideresnet28_10", "base", {})
    products, channels, side = 32**2 * 27 * 16, 16, 32
    for number, width in enumerate((160, 320, 640)):
        side = side if number == 0 else side // 2
        products += side**2 * (9 * channels * width + channels * width)
        products += side**2 * 7 * 9 * width**2
        channels = width
    assert count_flops(on_meta(spec, 100), spec) == 2 * (products + 640 * 100)


@pytest.mark.parametrize("family", FAMILIES)
def test_twice_the_width_costs_about_four_times(family: str) -> None:
    specs = [make_spec(family, "small", {"width": width}) for width in (1.0, 2.0)]
    modules = [on_meta(spec, 100) for spec in specs]
    first, second = (count_flops(m, spec) for m, spec in zip(modules, specs, strict=True))
    # All but the stem, whose colours stay three, grows by four.
    assert second / first == pytest.approx(4, rel=0.05)
    dims = [m.feature_dim for m in modules if isinstance(m, Backbone)]
    assert dims[1] == 2 * dims[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", [16, 32])
def test_logits_are_the_head_on_the_features(tiny_spec, family: str, side: int) -> None:
    module = tiny_spec(family, image_size=side).build(4).eval()
    with torch.no_grad():
        features, logits = module.features_and_logits(images(3, side))
        assert features.shape == (3, module.feature_dim)
        assert torch.equal(features, module.features(images(3, side)))
        assert torch.equal(logits, module(images(3, side)))
        assert torch.equal(logits, F.linear(features, module.head.weight, module.head.bias))
    assert logits.shape == (3, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_is_judged_as_if_it_were_alone(tiny_spec, family: str) -> None:
    module = tiny_spec(family).build(4).eval()
    with torch.no_grad():
        together = module(images(4))
        alone = torch.cat([module(image[None]) for image in images(4)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_means_over_space(tiny_spec, family: str) -> None:
    module = tiny_spec(family).build(4).eval()
    with torch.no_grad():
        maps = module.body(images(2))
        assert torch.allclose(module.features(images(2)), maps.flatten(2).mean(2), atol=1e-6)
    side = {"densenet121": 4, "resnet18": 4}.get(family, 8)
    assert maps.shape == (2, module.feature_dim, side, side)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_learns(tiny_spec, family: str) -> None:
    module = tiny_spec(family).build(4)
    F.cross_entropy(module(images(4)), torch.tensor([0, 1, 2, 3])).backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_steps_learn_four_images(tiny_spec, family: str) -> None:
    module = tiny_spec(family, **({"dropout": 0.0} if family in DROPPING else {})).build(4)
    labels = torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for _ in range(25):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(images(4)), labels)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_first_weights_are_kaimings_fan_out(family: str) -> None:
    module = make_spec(family, "small", {}).build(4)
    for conv in (part for part in module.modules() if isinstance(part, nn.Conv2d)):
        expected = (2 / (conv.out_channels * conv.kernel_size[0] ** 2)) ** 0.5
        if conv.weight.numel() > 5_000:
            assert conv.weight.std().item() == pytest.approx(expected, rel=0.1)
        assert conv.bias is None
    for part in (part for part in module.modules() if isinstance(part, nn.BatchNorm2d)):
        assert torch.equal(part.weight, torch.ones_like(part.weight))
        assert part.bias is not None
        assert not part.bias.any()
    assert isinstance(module, Backbone)
    assert not module.head.bias.any()  # pyright: ignore[reportCallIssue]


def test_the_wide_resnets_classifier_starts_as_xavier_says() -> None:
    head = make_spec("improved_wideresnet28_10", "small", {}).build(100).head
    assert isinstance(head, nn.Linear)
    bound = (6 / (128 + 100)) ** 0.5
    assert 0.98 * bound < head.weight.abs().max().item() <= bound


@pytest.mark.parametrize("family", DROPPING)
def test_dropout_acts_in_training_alone(tiny_spec, family: str) -> None:
    module = tiny_spec(family, dropout=0.5).build(4)
    dropped = [part.p for part in module.modules() if isinstance(part, nn.Dropout)]
    assert dropped
    assert set(dropped) == {0.5}
    with torch.no_grad():
        torch.manual_seed(0)
        first = module.train()(images(4))
        assert not torch.equal(first, module(images(4)))
        module.eval()
        assert torch.equal(module(images(4)), module(images(4)))


def test_dropout_by_default_is_the_forms() -> None:
    for family, share in (("densenet121", 0.2), ("improved_wideresnet28_10", 0.3)):
        options = MODELS.listed[family].options or {}
        assert options["dropout"] == str(share)


def test_a_dense_layer_keeps_what_it_got() -> None:
    layer = DenseLayer(6, 4, dropout=0.0).eval()
    maps = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        grown = layer(maps.clone())
    assert grown.shape == (2, 10, 5, 5)
    assert torch.equal(grown[:, :6], maps)


def test_a_block_whose_convolutions_are_zero_is_its_shortcut() -> None:
    block = BasicBlock(6, 6, stride=1).eval()
    nn.init.zeros_(block.conv2.weight)
    maps = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(block(maps), maps.clamp(min=0))


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_models_load_as_they_were(tmp_path: Path, tiny_spec, classes, family: str) -> None:
    spec = tiny_spec(family, image_size=16, width=0.5)
    module = spec.build(4)
    module.train()(images(4, 16))
    save_model(tmp_path, module, spec, classes)
    again, loaded, names = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(images(2, 16)), module.eval()(images(2, 16)))
    assert (loaded.config, names) == (spec.config, classes)


@pytest.mark.parametrize("family", FAMILIES)
def test_specs_are_those_of_small_images(family: str) -> None:
    spec = make_spec(family, "tiny", {})
    assert (spec.kind, spec.input_shape, spec.mean) == ("image", (3, 32, 32), CIFAR100_MEAN)
    assert MODELS.listed[family].kind == "image"


@pytest.mark.parametrize(
    ("family", "options", "told"),
    [
        ("densenet121", {"image_size": 15}, "15 px are too small for densenet121"),
        ("resnet18", {"image_size": 8}, "8 px are too small for resnet18"),
        ("improved_wideresnet28_10", {"image_size": 7}, "7 px are too small"),
        ("preact_resnext29_8x64d", {"image_size": 0}, "0 px are too small"),
        ("resnet18", {"width": 0.0}, "width must be above 0"),
        ("densenet121", {"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ("resnet18", {"dropout": 0.1}, "unknown option 'dropout'"),
    ],
)
def test_impossible_settings_are_refused(family: str, options, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_spec(family, "tiny", options)


@pytest.mark.parametrize(("family", "smallest"), list(zip(FAMILIES, [16, 9, 8, 8], strict=True)))
def test_the_smallest_size_that_is_named_trains_on_one_image(family: str, smallest: int) -> None:
    with pytest.raises(ConfigError) as told:
        make_spec(family, "tiny", {"image_size": smallest - 1})
    assert told.value.hint == f"set image_size to {smallest} or more"
    module = make_spec(family, "tiny", {"image_size": smallest}).build(4)
    assert torch.isfinite(module.train()(images(1, smallest))).all()


def test_images_of_another_size_are_refused(tiny_spec) -> None:
    with pytest.raises(RunError, match=r"takes images of \[3, 32, 32\], not \[3, 16, 16\]"):
        tiny_spec("resnet18").build(4)(images(1, 16))
