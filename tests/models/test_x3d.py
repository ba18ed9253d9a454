"""X3D-XS, -S and -M against their publication and the published tables."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from regatta.core.errors import ConfigError
from regatta.models.spec import count_flops, count_parameters, make_spec
from regatta.models.video.x3d import gate_width
from tests.models.cnn_reference import (
    Shapes,
    State,
    bottleneck,
    classify,
    conv,
    count_weights,
    norm,
    norm_shapes,
    output_shapes,
    shake,
    shapes_of,
)

NAMES = ["x3d-xs", "x3d-s", "x3d-m"]
INNER = (54, 108, 216, 432)
GATES = (8, 8, 16, 32)


def published_shapes(classes: int) -> Shapes:
    """Keys and shapes of the state dict (paper: table 3; names: the hub checkpoints)."""
    shapes: Shapes = {
        "blocks.0.conv.conv_t.weight": (24, 3, 1, 3, 3),
        "blocks.0.conv.conv_xy.weight": (24, 1, 5, 1, 1),
        **norm_shapes("blocks.0.norm", 24),
        "blocks.5.pool.pre_conv.weight": (432, 192, 1, 1, 1),
        **norm_shapes("blocks.5.pool.pre_norm", 432),
        "blocks.5.pool.post_conv.weight": (2048, 432, 1, 1, 1),
        "blocks.5.proj.weight": (classes, 2048),
        "blocks.5.proj.bias": (classes,),
    }
    entering = 24
    for stage, (width, depth) in enumerate(zip((24, 48, 96, 192), (3, 5, 11, 7), strict=True)):
        for block in range(depth):
            key = f"blocks.{stage + 1}.res_blocks.{block}"
            gate = GATES[stage] if block % 2 == 0 else None
            shapes |= block_shapes(f"{key}.branch2", entering, INNER[stage], width, gate)
            if block == 0:
                shapes[f"{key}.branch1_conv.weight"] = (width, entering, 1, 1, 1)
                shapes |= norm_shapes(f"{key}.branch1_norm", width) if stage else {}
            entering = width
    return shapes


def block_shapes(key: str, entering: int, inner: int, width: int, gate: int | None) -> Shapes:
    shapes = {
        f"{key}.conv_a.weight": (inner, entering, 1, 1, 1),
        f"{key}.conv_b.weight": (inner, 1, 3, 3, 3),
        f"{key}.conv_c.weight": (width, inner, 1, 1, 1),
        **norm_shapes(f"{key}.norm_a", inner),
        **norm_shapes(f"{key}.norm_b.0", inner),
        **norm_shapes(f"{key}.norm_c", width),
    }
    if gate:
        shapes[f"{key}.norm_b.1.block.0.weight"] = (gate, inner, 1, 1, 1)
        shapes[f"{key}.norm_b.1.block.0.bias"] = (gate,)
        shapes[f"{key}.norm_b.1.block.2.weight"] = (inner, gate, 1, 1, 1)
        shapes[f"{key}.norm_b.1.block.2.bias"] = (inner,)
    return shapes


def reference_logits(state: State, video_BTCHW: torch.Tensor) -> torch.Tensor:
    """The forward pass of the paper with the blocks (1, 1, 2, 1) of size tiny."""

    def middle(key: str, x: torch.Tensor) -> torch.Tensor:
        x = norm(state, f"{key}.0", x)
        if f"{key}.1.block.0.weight" in state:
            gate = F.relu(conv(state, f"{key}.1.block.0", x.mean(dim=(2, 3, 4), keepdim=True)))
            x = x * torch.sigmoid(conv(state, f"{key}.1.block.2", gate))
        return x * torch.sigmoid(x)

    x = conv(state, "blocks.0.conv.conv_t", video_BTCHW.transpose(1, 2), (1, 2, 2))
    x = F.relu(norm(state, "blocks.0.norm", conv(state, "blocks.0.conv.conv_xy", x)))
    for stage, depth in enumerate((1, 1, 2, 1), 1):
        for block in range(depth):
            key = f"blocks.{stage}.res_blocks.{block}"
            x = bottleneck(state, key, x, stride=1 if block else 2, middle=middle)
    key = "blocks.5.pool"
    x = F.relu(norm(state, f"{key}.pre_norm", conv(state, f"{key}.pre_conv", x)))
    x = F.avg_pool3d(x, x.shape[2:])
    features = F.relu(conv(state, f"{key}.post_conv", x)).flatten(1)
    return classify(state, "blocks.5.proj", features)


@pytest.mark.parametrize("model", NAMES)
def test_keys_and_shapes_are_the_published_ones(model: str) -> None:
    assert shapes_of(make_spec(model, "base", {}).build(400)) == published_shapes(400)


@pytest.mark.parametrize(
    ("model", "clip", "multiply_adds"),
    # PySlowFast's model zoo for one view of the training crop: 0.60, 1.96 and 4.73 G.
    [("x3d-xs", (4, 160), 0.60e9), ("x3d-s", (13, 160), 1.96e9), ("x3d-m", (16, 224), 4.73e9)],
)
def test_size_and_cost_are_the_published_ones(
    model: str, clip: tuple[int, int], multiply_adds: float
) -> None:
    spec = make_spec(model, "base", {})
    module = spec.build(400)
    assert (spec.frames, spec.image_size) == clip
    assert round(count_parameters(module) / 1e6, 2) == 3.79
    assert count_parameters(module) == count_weights(published_shapes(400)) == 3_794_274
    assert count_flops(module, spec) == pytest.approx(2 * multiply_adds, rel=0.01)


@pytest.mark.parametrize(
    ("model", "side", "published"),
    [("x3d-xs", 182, 0.91e9), ("x3d-s", 182, 2.96e9), ("x3d-m", 256, 6.72e9)],
)
def test_cost_of_the_test_crop_is_the_published_one_where_norms_count_too(
    model: str, side: int, published: float
) -> None:
    # PyTorchVideo's table is larger by 5 operations for every number that a batch norm gives.
    spec = make_spec(model, "base", {"image_size": side})
    module = spec.build(400).eval()
    normalised = 0

    def add(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal normalised
        normalised += output.numel()

    for norm_layer in module.modules():
        if isinstance(norm_layer, nn.BatchNorm3d):
            norm_layer.register_forward_hook(add)
    convolutions = count_flops(module, spec) / 2
    assert convolutions + 5 * normalised == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("model", NAMES)
def test_clips_are_normalised_as_the_published_weights_want(model: str) -> None:
    spec = make_spec(model, "base", {})
    assert spec.mean == (0.45, 0.45, 0.45)
    assert spec.std == (0.225, 0.225, 0.225)


def test_stages_halve_space_and_never_time() -> None:
    module = make_spec("x3d-s", "tiny", {}).build(4).eval()
    names = [f"blocks.{block}" for block in range(5)]
    seen = output_shapes(module, names, torch.zeros(1, 13, 3, 32, 32))
    assert [seen[name] for name in names] == [
        [(16, 13, 16, 16)],
        [(16, 13, 8, 8)],
        [(16, 13, 4, 4)],
        [(32, 13, 2, 2)],
        [(64, 13, 1, 1)],
    ]


def test_the_forward_pass_is_that_of_the_paper(clips) -> None:
    spec = make_spec("x3d-xs", "tiny", {"image_size": 67})
    module = shake(spec.build(4))
    video = clips(spec)
    with torch.no_grad():
        expected = reference_logits(dict(module.state_dict()), video)
        torch.testing.assert_close(module(video), expected, rtol=1e-4, atol=1e-5)


def test_gates_have_the_published_widths() -> None:
    assert tuple(gate_width(inner) for inner in INNER) == GATES


def test_too_small_a_clip_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="1 frames at 32 px are too small for x3d-xs"):
        make_spec("x3d-xs", "tiny", {"frames": 1})
