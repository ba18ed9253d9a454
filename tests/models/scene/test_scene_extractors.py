"""Extractors of scenes: their layers, counted by hand, and what every extractor promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.errors import ConfigError
from regatta.core.registry import EXTRACTORS
from regatta.models.scene.extractor_parts import StretchTime
from regatta.models.scene.frame_cnn import FrameCnn, TimeAttention
from regatta.models.scene.i3d import I3d, MaxPool, Unit
from regatta.models.scene.space_time import SIZES as TRANSFORMER_SIZES
from regatta.models.scene.space_time import Layer, SpaceTime
from regatta.models.spec import count_parameters, seeded_build

NAMES = ["i3d", "magvit", "slowfast", "transformer"]
DIMS = {
    "i3d": (32, 512, 1024),
    "slowfast": (32, 512, 1024),
    "transformer": (32, 256, 512),
    "magvit": (32, 512, 1024),
}


def make(
    name: str,
    size: str = "tiny",
    *,
    seed: int = 0,
    frames: int = 8,
    image_size: int = 32,
    **more: Any,
) -> nn.Module:
    def build(_: int) -> nn.Module:
        return EXTRACTORS.get(name)(size=size, frames=frames, image_size=image_size, **more)

    return seeded_build(build, seed)(0)


def on_meta(name: str, size: str, **more: Any) -> nn.Module:
    with torch.device("meta"):
        return make(name, size, frames=32, image_size=64, **more)


def clips(batch: int, frames: int = 8, side: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, 3, side, side, generator=generator)


def norm(channels: int) -> int:
    return 2 * channels


# Carreira and Zisserman 2017; branch widths are those of Inception v1 (Szegedy et al. 2015, table
# 1) with 3 x 3 x 3 in the place of 5 x 5.
INCEPTION = [
    (192, 64, 96, 128, 16, 32, 32),
    (256, 128, 128, 192, 32, 96, 64),
    (480, 192, 96, 208, 16, 48, 64),
    (512, 160, 112, 224, 24, 64, 64),
    (512, 128, 128, 256, 24, 64, 64),
    (512, 112, 144, 288, 32, 64, 64),
    (528, 256, 160, 320, 32, 128, 128),
    (832, 256, 160, 320, 32, 128, 128),
    (832, 384, 192, 384, 48, 128, 128),
]


def i3d_layers() -> Iterator[int]:
    yield 3 * 7**3 * 64 + norm(64)
    yield 64 * 64 + norm(64)
    yield 64 * 27 * 192 + norm(192)
    for inputs, one, reduce3, three, reduce5, five, pooled in INCEPTION:
        yield inputs * one + norm(one)
        yield inputs * reduce3 + norm(reduce3) + 27 * reduce3 * three + norm(three)
        yield inputs * reduce5 + norm(reduce5) + 27 * reduce5 * five + norm(five)
        yield inputs * pooled + norm(pooled)


def slowfast_layers(slow: int, blocks: int, dim: int) -> Iterator[int]:
    fast = slow // 8
    yield 3 * 49 * slow + norm(slow)
    yield 3 * 5 * 49 * fast + norm(fast)
    kernels = ((1, 3), (1, 3), (3, 3), (3, 3))
    inputs = (slow, fast)
    for number, (slow_kernel, fast_kernel) in enumerate(kernels):
        told = 2 * inputs[1]
        yield 5 * inputs[1] * told + norm(told)
        outputs = (slow * 2**number, fast * 2**number)
        for channels, width, kernel in (
            (inputs[0] + told, outputs[0], slow_kernel),
            (inputs[1], outputs[1], fast_kernel),
        ):
            taps = 9 * kernel
            yield taps * channels * width + norm(width)
            yield (2 * blocks - 1) * (taps * width * width + norm(width))
            if number or channels != width:
                yield channels * width + norm(width)
        inputs = outputs
    yield 9 * slow * dim + dim


def transformer_layers(width: int, layers: int, hidden: int) -> Iterator[int]:
    yield 3 * 2 * 8 * 8 * width + width
    yield (16 + 64) * width
    for _ in range(layers):
        yield 2 * norm(width) + 4 * width * (width + 1)
        yield width * hidden + hidden + hidden * width + width
    yield norm(width)


def magvit_layers(widths: tuple[int, int, int], frame_dim: int, dim: int) -> Iterator[int]:
    first, second, third = widths
    yield 3 * 49 * first + norm(first)
    yield 9 * first * second + norm(second) + 9 * second * third + norm(third)
    yield third * frame_dim + frame_dim
    yield 3 * frame_dim * dim + dim + 3 * dim * dim + dim
    yield 4 * dim * (dim + 1) + norm(dim)


COUNTS = {
    ("i3d", "base"): sum(i3d_layers()),
    ("slowfast", "base"): sum(slowfast_layers(64, 2, 1024)),
    ("slowfast", "tiny"): sum(slowfast_layers(8, 1, 32)),
    ("transformer", "base"): sum(transformer_layers(512, 4, 2048)),
    ("transformer", "tiny"): sum(transformer_layers(32, 2, 128)),
    ("magvit", "base"): sum(magvit_layers((64, 128, 256), 512, 1024)),
    ("magvit", "tiny"): sum(magvit_layers((8, 16, 32), 32, 32)),
}


def test_the_four_extractors_are_found_by_name() -> None:
    assert EXTRACTORS.names() == NAMES


@pytest.mark.parametrize(("name", "size"), list(COUNTS))
def test_every_layer_is_the_one_of_the_form(name: str, size: str) -> None:
    assert count_parameters(on_meta(name, size)) == COUNTS[name, size]


def test_i3d_has_the_published_number_of_parameters() -> None:
    # Table 1 of the paper: two streams of I3D, each with 400 classes, have 25 M.
    stream = count_parameters(on_meta("i3d", "base")) + 1024 * 400 + 400
    assert round(2 * stream / 1e6) == 25


@pytest.mark.parametrize("name", NAMES)
def test_dims_are_those_of_the_presets(name: str) -> None:
    found = tuple(cast("Any", on_meta(name, s)).feature_dim for s in ("tiny", "small", "base"))
    assert found == DIMS[name]


@pytest.mark.parametrize("name", NAMES)
def test_sizes_grow(name: str) -> None:
    counts = [count_parameters(on_meta(name, size)) for size in ("tiny", "small", "base")]
    assert counts[0] < 250_000 < counts[1] < counts[2] / 2


@pytest.mark.parametrize(("name", "dim"), [("slowfast", 2048), ("magvit", 256), ("i3d", 96)])
def test_another_dim_is_the_width_of_the_features(name: str, dim: int) -> None:
    module = make(name, dim=dim).eval()
    assert module.feature_dim == dim
    assert module(clips(1)).shape == (1, 8, dim)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("frames", "side"), [(8, 32), (12, 40), (32, 64)])
def test_features_of_every_frame_are_finite(name: str, frames: int, side: int) -> None:
    module = make(name, frames=frames, image_size=side).eval()
    with torch.no_grad():
        features = module(clips(2, frames, side))
    assert features.shape == (2, frames, 32)
    assert features.isfinite().all()
    # I3D keeps an eighth of the frames: of 8 it has one step.
    one_step = name == "i3d" and frames == 8
    assert (features.std(dim=1).max() > 1e-4) != one_step


@pytest.mark.parametrize("name", NAMES)
def test_base_runs(name: str) -> None:
    module = make(name, "base").eval()
    with torch.no_grad():
        assert module(clips(1)).shape == (1, 8, DIMS[name][2])


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_alone_gets_the_features_that_it_gets_beside_others(name: str) -> None:
    module = warmed(make(name))
    batch = clips(5, seed=3)
    with torch.no_grad():
        together, alone = module(batch), module(batch[2:3])
    assert torch.allclose(together[2:3], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    module = make(name).train()
    weights = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    (module(clips(4)) * weights).sum().backward()
    without = [
        key
        for key, parameter in module.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
def test_first_weights_follow_from_the_seed(name: str) -> None:
    first, again, other = (make(name, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_frames_matters(name: str) -> None:
    module = warmed(make(name))
    video = clips(2, seed=4)
    with torch.no_grad():
        forwards, backwards = module(video).mean(dim=1), module(video.flip(1)).mean(dim=1)
    assert (forwards - backwards).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_one_short_clip_can_be_trained_on(name: str) -> None:
    module = make(name).train()
    features = module(clips(1))
    features.square().sum().backward()
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("i3d", {"frames": 4}, "frames of the extractor i3d must be at least 8, not 4"),
        ("magvit", {"image_size": 16}, "image_size of the extractor magvit must be at least 32"),
        ("slowfast", {"frames": 10}, "a multiple of 4, at least 8, not 10"),
        ("transformer", {"frames": 9}, "a multiple of 2, at least 8, not 9"),
        ("transformer", {"image_size": 36}, "a multiple of 8, at least 32, not 36"),
        ("magvit", {"dim": 30}, "dim of magvit must be a positive multiple of 4, not 30"),
        ("i3d", {"dim": 0}, "dim of i3d must be positive, not 0"),
        ("i3d", {"size": "huge"}, "there is no size 'huge'"),
    ],
)
def test_what_an_extractor_cannot_take_is_refused(
    name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make(name, **options)


@pytest.mark.parametrize(("steps", "frames"), [(1, 8), (2, 12), (4, 32), (8, 8), (3, 20)])
def test_time_is_stretched_as_torch_interpolates(steps: int, frames: int) -> None:
    features = torch.randn(2, steps, 5, generator=torch.Generator().manual_seed(0))
    wanted = F.interpolate(features.transpose(1, 2), size=frames, mode="linear").transpose(1, 2)
    assert torch.allclose(StretchTime(steps, frames)(features), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "kernel", "stride", "padding"),
    [
        (MaxPool(1, 3, time_stride=1), (1, 3, 3), (1, 2, 2), (0, 1, 1)),
        (MaxPool(3, 3, time_stride=2), (3, 3, 3), (2, 2, 2), (1, 1, 1)),
        (MaxPool(3, 3, time_stride=1, space_stride=1), (3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("extent", [(8, 8, 8), (5, 7, 9)])
def test_the_maximum_in_two_steps_is_the_3d_maximum(ours, kernel, stride, padding, extent) -> None:
    features = torch.randn(2, 3, *extent, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(features), F.max_pool3d(features, kernel, stride, padding))


@pytest.mark.parametrize("extent", [(4, 4, 4), (3, 5, 1)])
def test_the_maximum_of_two_keeps_an_odd_end(extent: tuple[int, int, int]) -> None:
    features = torch.randn(2, 3, *extent, generator=torch.Generator().manual_seed(0))
    wanted = F.max_pool3d(features, 2, 2, ceil_mode=True)
    assert torch.equal(MaxPool(2, 2, time_stride=2)(features), wanted)


def test_one_number_per_channel_is_normalised_by_the_running_statistics() -> None:
    unit = Unit(2, 3, kernel=1).train()
    with torch.no_grad():
        for tensor, value in ((unit.norm.weight, 2.0), (unit.norm.bias, 0.5)):
            tensor.fill_(value)
        unit.norm.running_mean, unit.norm.running_var = torch.full((3,), 1.0), torch.full((3,), 4.0)
        unit.conv.weight.fill_(1.0)
    found = unit(torch.full((1, 2, 1, 1, 1), 2.5))
    # (5 - 1) / 2 * 2 + 0.5
    assert torch.allclose(found, torch.full_like(found, 4.5), atol=1e-4)


def test_the_slow_path_sees_every_fourth_frame() -> None:
    module = cast("Any", make("slowfast", frames=16)).eval()
    seen: list[torch.Tensor] = []
    module.slow_stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    video = clips(1, 16)
    module(video)
    assert torch.equal(seen[0], video[:, [0, 4, 8, 12]].transpose(1, 2))


def test_i3d_keeps_an_eighth_of_the_frames_and_a_32nd_of_the_side() -> None:
    module = cast("I3d", on_meta("i3d", "base"))
    video = torch.empty(1, 3, 32, 64, 64, device="meta")
    assert module.layers(video).shape == (1, 1024, 4, 2, 2)


def test_a_transformer_layer_is_the_one_of_torch() -> None:
    shape = TRANSFORMER_SIZES["tiny"]
    torch.manual_seed(0)
    ours = Layer(shape).eval()
    theirs = nn.TransformerEncoderLayer(
        32, 4, 128, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    names = {
        "self_attn.in_proj_": "qkv.",
        "self_attn.out_proj.": "out.",
        "linear1.": "widen.",
        "linear2.": "narrow.",
    }
    state = ours.state_dict()
    theirs.load_state_dict({key: state[renamed(key, names)] for key in theirs.state_dict()})
    tokens = torch.randn(2, 6, 32)
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs(tokens), atol=1e-5)
        weights = theirs.self_attn(*[theirs.norm1(tokens)] * 3, need_weights=True)[1]
        assert torch.allclose(ours.attention_weights(tokens), weights, atol=1e-6)


def test_attention_over_frames_is_the_one_of_torch() -> None:
    torch.manual_seed(0)
    ours = TimeAttention(32).eval()
    theirs = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    names = {"in_proj_": "qkv.", "out_proj.": "out."}
    state = ours.state_dict()
    theirs.load_state_dict({key: state[renamed(key, names)] for key in theirs.state_dict()})
    frames = torch.randn(2, 9, 32)
    with torch.no_grad():
        assert torch.allclose(ours(frames), theirs(frames, frames, frames)[0], atol=1e-5)


def test_showing_attention_changes_no_feature() -> None:
    module = cast("SpaceTime", make("transformer").eval())
    video = clips(2)
    with torch.no_grad():
        features, layers = module.attend(video)
        assert torch.equal(features, module(video))
    assert [tuple(weights.shape) for weights in layers] == [(2, 64, 64)] * 2
    assert torch.allclose(layers[0].sum(dim=2), torch.ones(2, 64), atol=1e-5)


def test_the_frame_network_sees_every_picture_by_itself() -> None:
    module = cast("FrameCnn", warmed(make("magvit")))
    video = clips(2)
    with torch.no_grad():
        together = module.frame_maps(video)
        alone = module.frame_maps(video[1:, 3:4])
    assert torch.allclose(together[8 + 3 : 8 + 4], alone, atol=1e-5)


def warmed(module: nn.Module) -> nn.Module:
    """In evaluation mode, with the statistics of some noise."""
    module.train()
    with torch.no_grad():
        module(clips(8, seed=9))
    return module.eval()


def renamed(key: str, names: dict[str, str]) -> str:
    for theirs, ours in names.items():
        key = key.replace(theirs, ours)
    return key
