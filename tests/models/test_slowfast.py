"""SlowFast 8x8 R50 against its publication and PyTorchVideo's published table."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from regatta.core.errors import ConfigError
from regatta.models.spec import count_flops, count_parameters, make_spec
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


def published_shapes(classes: int) -> Shapes:
    """Keys and shapes of the state dict (paper: table 1; names: the hub checkpoint)."""
    shapes: Shapes = {"blocks.6.proj.weight": (classes, 2304), "blocks.6.proj.bias": (classes,)}
    for path, (width, kernel) in enumerate([(64, 1), (8, 5)]):
        key = f"blocks.0.multipathway_blocks.{path}"
        shapes |= {
            f"{key}.conv.weight": (width, 3, kernel, 7, 7),
            **norm_shapes(f"{key}.norm", width),
        }
    for block, fast in enumerate((8, 32, 64, 128)):
        key = f"blocks.{block}.multipathway_fusion"
        shapes[f"{key}.conv_fast_to_slow.weight"] = (2 * fast, fast, 7, 1, 1)
        shapes |= norm_shapes(f"{key}.norm", 2 * fast)
    for path, kernels in enumerate([(1, 1, 3, 3), (3, 3, 3, 3)]):
        for stage, (kernel, depth) in enumerate(zip(kernels, (3, 4, 6, 3), strict=True), 1):
            width = 128 * 2**stage // (8 if path else 1)
            entering = width // 2 if stage > 1 else width // 4
            # The slow pathway also gets twice the channels of the fast one.
            entering += 0 if path else entering // 4
            for block in range(depth):
                key = f"blocks.{stage}.multipathway_blocks.{path}.res_blocks.{block}"
                shapes |= block_shapes(key, entering if block == 0 else width, width, kernel)
    return shapes


def block_shapes(key: str, entering: int, width: int, kernel: int) -> Shapes:
    inner = width // 4
    shapes = {
        f"{key}.branch2.conv_a.weight": (inner, entering, kernel, 1, 1),
        f"{key}.branch2.conv_b.weight": (inner, inner, 1, 3, 3),
        f"{key}.branch2.conv_c.weight": (width, inner, 1, 1, 1),
        **norm_shapes(f"{key}.branch2.norm_a", inner),
        **norm_shapes(f"{key}.branch2.norm_b", inner),
        **norm_shapes(f"{key}.branch2.norm_c", width),
    }
    if entering != width:
        shapes[f"{key}.branch1_conv.weight"] = (width, entering, 1, 1, 1)
        shapes |= norm_shapes(f"{key}.branch1_norm", width)
    return shapes


def reference_logits(state: State, video_BTCHW: torch.Tensor) -> torch.Tensor:
    """The forward pass of the paper, in 3-D pools and a head of windows, one block per stage."""

    def middle(key: str, x: torch.Tensor) -> torch.Tensor:
        return F.relu(norm(state, key, x))

    def fuse(block: int, slow: torch.Tensor, fast: torch.Tensor) -> torch.Tensor:
        key = f"blocks.{block}.multipathway_fusion"
        told = conv(state, f"{key}.conv_fast_to_slow", fast, (4, 1, 1))
        return torch.cat([slow, F.relu(norm(state, f"{key}.norm", told))], dim=1)

    frames = video_BTCHW.shape[1]
    places = [int(place * (frames - 1) / (frames // 4 - 1)) for place in range(frames // 4)]
    paths = [video_BTCHW[:, places].transpose(1, 2), video_BTCHW.transpose(1, 2)]
    for path in (0, 1):
        key = f"blocks.0.multipathway_blocks.{path}"
        x = F.relu(norm(state, f"{key}.norm", conv(state, f"{key}.conv", paths[path], (1, 2, 2))))
        paths[path] = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for stage in (1, 2, 3, 4):
        paths[0] = fuse(stage - 1, *paths)
        for path in (0, 1):
            key = f"blocks.{stage}.multipathway_blocks.{path}.res_blocks.0"
            stride = 1 if stage == 1 else 2
            paths[path] = bottleneck(state, key, paths[path], stride=stride, middle=middle)
    side = min(7, paths[0].shape[-1])
    pooled = [F.avg_pool3d(x, (x.shape[2], side, side), stride=1) for x in paths]
    windows = torch.cat(pooled, dim=1).permute(0, 2, 3, 4, 1)
    return classify(state, "blocks.6.proj", windows).mean(dim=(1, 2, 3))


def test_keys_and_shapes_are_the_published_ones() -> None:
    assert shapes_of(make_spec("slowfast-r50", "base", {}).build(400)) == published_shapes(400)


def test_size_and_cost_are_the_published_ones() -> None:
    # PyTorchVideo's model zoo: 34.57 M parameters, 65.71 G multiply-adds at 256 px.
    spec = make_spec("slowfast-r50", "base", {"image_size": 256})
    module = spec.build(400)
    assert round(count_parameters(module) / 1e6, 2) == 34.57
    assert count_parameters(module) == count_weights(published_shapes(400)) == 34_566_488
    assert count_flops(module, spec) == pytest.approx(2 * 65.71e9, rel=1e-3)


def test_defaults_are_the_published_training_clip() -> None:
    spec = make_spec("slowfast-r50", "base", {})
    assert (spec.frames, spec.image_size) == (32, 224)
    assert spec.mean == (0.45, 0.45, 0.45)
    assert spec.std == (0.225, 0.225, 0.225)


@pytest.mark.parametrize(
    ("frames", "places"),
    [(32, [0, 4, 8, 13, 17, 22, 26, 31]), (16, [0, 5, 10, 15]), (8, [0, 7]), (4, [0])],
)
def test_the_slow_pathway_sees_the_published_frames(frames: int, places: list[int]) -> None:
    # The published packing is linspace from the first frame to the last, rounded down.
    module = make_spec("slowfast-r50", "tiny", {"frames": frames, "image_size": 64}).build(2)
    assert module.get_buffer("slow_frames").tolist() == places
    assert "slow_frames" not in module.state_dict()


def test_stages_have_the_shapes_of_the_paper() -> None:
    # Table 1 of the paper at 224 px and 32 frames; 1/4 of the channels, 1/7 of the pixels here.
    module = make_spec("slowfast-r50", "tiny", {}).build(4).eval()
    names = [f"blocks.{block}" for block in range(5)]
    seen = output_shapes(module, names, torch.zeros(1, 32, 3, 32, 32))
    assert [seen[name] for name in names] == [
        [(16 + 4, 8, 8, 8), (2, 32, 8, 8)],
        [(64 + 16, 8, 8, 8), (8, 32, 8, 8)],
        [(128 + 32, 8, 4, 4), (16, 32, 4, 4)],
        [(256 + 64, 8, 2, 2), (32, 32, 2, 2)],
        [(512, 8, 1, 1), (64, 32, 1, 1)],
    ]


@pytest.mark.parametrize("image_size", [33, 256])
def test_the_forward_pass_is_that_of_the_paper(image_size: int, clips) -> None:
    # 256 px leave 8 x 8 positions: four overlapping windows of 7 x 7.
    spec = make_spec("slowfast-r50", "tiny", {"frames": 8, "image_size": image_size})
    module = shake(spec.build(4))
    video = clips(spec, batch=1)
    with torch.no_grad():
        expected = reference_logits(dict(module.state_dict()), video)
        torch.testing.assert_close(module(video), expected, rtol=1e-4, atol=1e-5)


def test_every_bottleneck_begins_as_its_shortcut() -> None:
    state = make_spec("slowfast-r50", "tiny", {}).build(2).state_dict()
    last = [key for key in state if key.endswith("norm_c.weight")]
    assert len(last) == 2 * 4
    assert not any(state[key].any() for key in last)


def test_frames_that_four_does_not_divide_are_refused() -> None:
    refused = partial(pytest.raises, ConfigError)
    with refused(match="frames must be a multiple of the frame ratio 4, not 30"):
        make_spec("slowfast-r50", "tiny", {"frames": 30})
    with refused(match="4 frames at 32 px are too small for slowfast-r50"):
        make_spec("slowfast-r50", "tiny", {"frames": 4})
