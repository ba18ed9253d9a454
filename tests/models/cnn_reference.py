"""Convolutional networks written a second time: key lists and forward passes from the papers.

A forward pass here works on a state dict alone, so it says which tensor stands where. B clips,
C channels, T frames, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn

State = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]


def norm_shapes(key: str, channels: int) -> Shapes:
    """The five tensors of a batch norm."""
    names = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{key}.{name}": (channels,) for name in names}, f"{key}.num_batches_tracked": ()}


def shapes_of(module: nn.Module) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}


def count_weights(shapes: Shapes) -> int:
    """Numbers in all tensors that are learned."""
    learned = [shape for key, shape in shapes.items() if key.endswith(("weight", "bias"))]
    return sum(torch.Size(shape).numel() for shape in learned)


def shake(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random norms and biases, so that none is the identity; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in module.state_dict().items():
        noise = torch.rand(tensor.shape, generator=generator)
        if key.endswith(("running_var", "running_mean")):
            tensor.copy_(noise + 0.5 if "var" in key else noise - 0.5)
        elif tensor.ndim == 1:
            tensor.copy_(noise + 0.25 if key.endswith("weight") else noise - 0.5)
    return module.eval()


def conv(
    state: State, key: str, x_BCTHW: torch.Tensor, strides: tuple[int, int, int] = (1, 1, 1)
) -> torch.Tensor:
    """Convolution padded by half its kernel; as many groups as the weight's shape asks for."""
    weight = state[f"{key}.weight"]
    padding = tuple(side // 2 for side in weight.shape[2:])
    groups = x_BCTHW.shape[1] // weight.shape[1]
    return F.conv3d(x_BCTHW, weight, state.get(f"{key}.bias"), strides, padding, groups=groups)


def norm(state: State, key: str, x_BCTHW: torch.Tensor) -> torch.Tensor:
    """(x - mean) / sqrt(variance + 1e-5) * weight + bias, per channel (Ioffe and Szegedy 2015)."""
    mean, variance, weight, bias = (
        state[f"{key}.{name}"][:, None, None, None]
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x_BCTHW - mean) / (variance + 1e-5).sqrt() * weight + bias


def bottleneck(
    state: State,
    key: str,
    x_BCTHW: torch.Tensor,
    *,
    stride: int,
    middle: Callable[[str, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """A block with branch1 and branch2; `middle` takes the key of norm_b."""
    strides = (1, stride, stride)
    y = F.relu(norm(state, f"{key}.branch2.norm_a", conv(state, f"{key}.branch2.conv_a", x_BCTHW)))
    y = middle(f"{key}.branch2.norm_b", conv(state, f"{key}.branch2.conv_b", y, strides))
    y = norm(state, f"{key}.branch2.norm_c", conv(state, f"{key}.branch2.conv_c", y))
    if f"{key}.branch1_conv.weight" in state:
        x_BCTHW = conv(state, f"{key}.branch1_conv", x_BCTHW, strides)
    if f"{key}.branch1_norm.weight" in state:
        x_BCTHW = norm(state, f"{key}.branch1_norm", x_BCTHW)
    return F.relu(x_BCTHW + y)


def classify(state: State, key: str, features_BC: torch.Tensor) -> torch.Tensor:
    return F.linear(features_BC, state[f"{key}.weight"], state[f"{key}.bias"])


def output_shapes(
    module: nn.Module, names: Iterable[str], video_BTCHW: torch.Tensor
) -> dict[str, list[tuple[int, ...]]]:
    """Shapes, without B, of what the named submodules give for a clip."""
    seen: dict[str, list[tuple[int, ...]]] = {}

    def remember(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            seen[name] = [tuple(o.shape[1:]) for o in outputs if isinstance(o, torch.Tensor)]

        return hook

    handles = [module.get_submodule(n).register_forward_hook(remember(n)) for n in names]
    module(video_BTCHW)
    for handle in handles:
        handle.remove()
    return seen
