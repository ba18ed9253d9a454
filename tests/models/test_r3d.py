"""R3D-18, R(2+1)D-18 and MC3-18 against their publication and torchvision's published table."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from regatta.core.errors import ConfigError, RunError
from regatta.models.spec import count_flops, count_parameters, make_spec
from tests.models.cnn_reference import (
    Shapes,
    State,
    classify,
    conv,
    norm,
    norm_shapes,
    output_shapes,
    shake,
    shapes_of,
)

NAMES = ["r3d18", "r2plus1d18", "mc3-18"]
WIDTHS = (64, 128, 256, 512)


def published_shapes(model: str, classes: int) -> Shapes:
    """Keys and shapes of the state dict, as the published 18-layer networks have them."""
    shapes: Shapes = {"fc.weight": (classes, 512), "fc.bias": (classes,)}
    if model == "r2plus1d18":
        shapes |= {"stem.0.weight": (45, 3, 1, 7, 7), **norm_shapes("stem.1", 45)}
        shapes |= {"stem.3.weight": (64, 45, 3, 1, 1), **norm_shapes("stem.4", 64)}
    else:
        shapes |= {"stem.0.weight": (64, 3, 3, 7, 7), **norm_shapes("stem.1", 64)}
    channels = 64
    for layer, width in enumerate(WIDTHS, 1):
        for block in (0, 1):
            key = f"layer{layer}.{block}"
            inputs = channels if block == 0 else width
            middle = inputs * width * 27 // (inputs * 9 + 3 * width)
            for part, entering in (("conv1", inputs), ("conv2", width)):
                shapes |= norm_shapes(f"{key}.{part}.1", width)
                if model == "r2plus1d18":
                    shapes[f"{key}.{part}.0.0.weight"] = (middle, entering, 1, 3, 3)
                    shapes |= norm_shapes(f"{key}.{part}.0.1", middle)
                    shapes[f"{key}.{part}.0.3.weight"] = (width, middle, 3, 1, 1)
                else:
                    depth = 1 if model == "mc3-18" and layer > 1 else 3
                    shapes[f"{key}.{part}.0.weight"] = (width, entering, depth, 3, 3)
            if inputs != width:
                shapes[f"{key}.downsample.0.weight"] = (width, inputs, 1, 1, 1)
                shapes |= norm_shapes(f"{key}.downsample.1", width)
        channels = width
    return shapes


def reference_logits(state: State, model: str, video_BTCHW: torch.Tensor) -> torch.Tensor:
    """The forward pass of the paper on a state dict with one block per stage."""
    split = model == "r2plus1d18"

    def convolution(key: str, x: torch.Tensor, stride: int, *, flat: bool) -> torch.Tensor:
        if not split:
            return conv(state, key, x, (1 if flat else stride, stride, stride))
        x = F.relu(norm(state, f"{key}.1", conv(state, f"{key}.0", x, (1, stride, stride))))
        return conv(state, f"{key}.3", x, (stride, 1, 1))

    x = F.relu(norm(state, "stem.1", conv(state, "stem.0", video_BTCHW.transpose(1, 2), (1, 2, 2))))
    if split:
        x = F.relu(norm(state, "stem.4", conv(state, "stem.3", x)))
    for layer in (1, 2, 3, 4):
        key, stride = f"layer{layer}.0", 1 if layer == 1 else 2
        flat = model == "mc3-18" and layer > 1
        y = convolution(f"{key}.conv1.0", x, stride, flat=flat)
        y = F.relu(norm(state, f"{key}.conv1.1", y))
        y = norm(state, f"{key}.conv2.1", convolution(f"{key}.conv2.0", y, 1, flat=flat))
        if layer > 1:
            strides = (1 if flat else 2, 2, 2)
            x = norm(state, f"{key}.downsample.1", conv(state, f"{key}.downsample.0", x, strides))
        x = F.relu(x + y)
    return classify(state, "fc", x.mean(dim=(2, 3, 4)))


@pytest.mark.parametrize("model", NAMES)
def test_keys_and_shapes_are_the_published_ones(model: str) -> None:
    module = make_spec(model, "base", {}).build(400)
    assert shapes_of(module) == published_shapes(model, 400)


@pytest.mark.parametrize(
    ("model", "parameters", "multiply_adds"),
    # Both from the weight tables of torchvision (num_params, _ops in 1e9).
    [
        ("r3d18", 33_371_472, 40.697e9),
        ("r2plus1d18", 31_505_325, 40.519e9),
        ("mc3-18", 11_695_440, 43.343e9),
    ],
)
def test_size_and_cost_are_the_published_ones(
    model: str, parameters: int, multiply_adds: float
) -> None:
    spec = make_spec(model, "base", {})
    module = spec.build(400)
    assert (spec.frames, spec.image_size) == (16, 112)
    assert count_parameters(module) == parameters
    assert count_flops(module, spec) == pytest.approx(2 * multiply_adds, rel=1e-4)


@pytest.mark.parametrize("model", NAMES)
def test_clips_are_normalised_as_the_published_weights_want(model: str) -> None:
    spec = make_spec(model, "base", {})
    assert spec.mean == (0.43216, 0.394666, 0.37645)
    assert spec.std == (0.22803, 0.22145, 0.216989)


@pytest.mark.parametrize(
    ("model", "frames"),
    [("r3d18", [8, 8, 4, 2, 1]), ("r2plus1d18", [8, 8, 4, 2, 1]), ("mc3-18", [8, 8, 8, 8, 8])],
)
def test_stages_halve_what_the_paper_says(model: str, frames: list[int]) -> None:
    module = make_spec(model, "tiny", {"frames": 8}).build(4).eval()
    names = ["stem", "layer1", "layer2", "layer3", "layer4"]
    seen = output_shapes(module, names, torch.zeros(1, 8, 3, 32, 32))
    sides, widths = [16, 16, 8, 4, 2], [16, 16, 32, 64, 128]
    expected = [[(c, t, s, s)] for c, t, s in zip(widths, frames, sides, strict=True)]
    assert [seen[name] for name in names] == expected


@pytest.mark.parametrize("model", NAMES)
def test_the_forward_pass_is_that_of_the_paper(model: str, clips) -> None:
    spec = make_spec(model, "tiny", {"frames": 5, "image_size": 33})
    module = shake(spec.build(4))
    video = clips(spec)
    with torch.no_grad():
        expected = reference_logits(dict(module.state_dict()), model, video)
        torch.testing.assert_close(module(video), expected, rtol=1e-4, atol=1e-5)


def test_a_split_stem_and_block_have_their_published_middle_widths() -> None:
    # Tran et al. 2018 size the split so that it has about the weights of the whole.
    module = make_spec("r2plus1d18", "base", {}).build(2)
    middles = {
        layer: module.get_parameter(f"layer{layer}.0.conv1.0.0.weight").shape[0]
        for layer in (1, 2, 3, 4)
    }
    assert middles == {1: 144, 2: 230, 3: 460, 4: 921}
    for layer, middle in middles.items():
        inputs, width = 64 * 2 ** max(0, layer - 2), 64 * 2 ** (layer - 1)
        whole, split = 27 * inputs * width, middle * (9 * inputs + 3 * width)
        assert whole - (9 * inputs + 3 * width) < split <= whole


def test_too_small_a_clip_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="1 frames at 16 px are too small for r3d18"):
        make_spec("r3d18", "tiny", {"frames": 1, "image_size": 16})
    with pytest.raises(ConfigError, match="0 frames"):
        make_spec("r3d18", "tiny", {"frames": 0})
    # The same clip keeps two frames in MC3, which never halves time.
    make_spec("mc3-18", "tiny", {"frames": 2, "image_size": 16})


def test_another_clip_shape_is_refused() -> None:
    module = make_spec("r3d18", "tiny", {"frames": 4}).build(2).eval()
    with pytest.raises(RunError, match=r"takes clips of \[4, 3, 32, 32\]"):
        module(torch.zeros(1, 5, 3, 32, 32))
