"""What the convolutional entries with batch norm share: spec, residual blocks, first weights.

Shapes: B clips, C channels, T frames, H and W pixels. Names of submodules are those of the
published checkpoints: they are the keys of its state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from regatta.core.errors import ConfigError
from regatta.models.spec import (
    CheckpointLayout,
    Colours,
    ModelSpec,
    Size,
    check_dropout,
    describe_config,
)

Shape = TypeVar("Shape")


@runtime_checkable
class Recomputing(Protocol):
    """A block that can make its activations again in the backward pass, when told to."""

    recomputes: bool
    training: bool

    def modules(self) -> Iterator[nn.Module]: ...


def choose_shape(sizes: Mapping[Size, Shape], size: Size) -> Shape:
    """The dimensions of a size name; ConfigError for another word."""
    if size not in sizes:
        raise ConfigError(f"there is no size '{size}'", hint=f"known: {', '.join(sizes)}")
    return sizes[size]


def cnn_spec(
    name: str,
    size: Size,
    *,
    frames: int,
    image_size: int,
    dropout: float,
    normalisation: tuple[Colours, Colours],
    head: str,
    last_positions: int,
    build: Callable[[int], nn.Module],
) -> ModelSpec:
    """The spec of a convolutional model.

    Args:
        normalisation: mean and std on pixels in [0, 1].
        head: prefix of the classifier's keys.
        last_positions: T x H x W of the smallest features that are normalised.

    Raises:
        ConfigError: no clip, or one so small that batch norm cannot train on it.
    """
    check_dropout(dropout)
    if frames < 1 or image_size < 1:
        raise ConfigError(f"a clip cannot have {frames} frames at {image_size} px")
    if last_positions < 2:
        # The variance of one number is none: a last micro-batch of one clip would end the run.
        raise ConfigError(
            f"clips of {frames} frames at {image_size} px are too small for {name}: its last stage "
            "keeps one number per channel, which batch norm cannot normalise",
            hint="raise frames or image_size",
        )
    return ModelSpec(
        name=name,
        frames=frames,
        image_size=image_size,
        mean=normalisation[0],
        std=normalisation[1],
        resize="crop",
        default_checkpoint=None,
        build=build,
        head_prefixes=(head,),
        config=describe_config(name, size, frames=frames, image_size=image_size, dropout=dropout),
        # Published weights of these models are bare state dicts; shapes tell all there is to tell.
        layout=CheckpointLayout(architecture={"model_type": name}, config_optional=True),
    )


def halved(length: int, times: int) -> int:
    """What `times` padded convolutions of stride 2 leave of a length, each rounding up."""
    return -(-length // 2**times)


class Stage(nn.Module):
    """Residual blocks, one after the other."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList(blocks)

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        for block in self.res_blocks:
            features_BCTHW = block(features_BCTHW)
        return features_BCTHW


class BottleneckBlock(nn.Module):
    """A bottleneck beside a shortcut, as SlowFast and X3D have it.

    Args:
        branch: the bottleneck.
        shortcut: convolution that fits the input to the branch's output; None = the input itself.
        normalise_shortcut: a batch norm follows that convolution.
    """

    def __init__(
        self, branch: nn.Module, shortcut: nn.Conv3d | None, *, normalise_shortcut: bool = True
    ) -> None:
        super().__init__()
        self.recomputes = False
        self.branch1_conv = shortcut
        self.branch1_norm = None
        if shortcut is not None and normalise_shortcut:
            self.branch1_norm = nn.BatchNorm3d(shortcut.out_channels)
        self.branch2 = branch

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        return run_block(self, self._add_branches, features_BCTHW)

    def _add_branches(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        kept = features_BCTHW
        if self.branch1_conv is not None:
            kept = self.branch1_conv(kept)
        if self.branch1_norm is not None:
            kept = self.branch1_norm(kept)
        return F.relu(kept + self.branch2(features_BCTHW))


class Bottleneck(nn.Module):
    """Three convolutions, each with its batch norm: narrow, look around, widen.

    Args:
        middle: what follows the second convolution: its batch norm, and more if need be.
        activation: stands between `middle` and the third convolution.
    """

    def __init__(
        self,
        convolutions: tuple[nn.Conv3d, nn.Conv3d, nn.Conv3d],
        *,
        middle: nn.Module,
        activation: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        super().__init__()
        self.conv_a, self.conv_b, self.conv_c = convolutions
        self.norm_a = nn.BatchNorm3d(self.conv_a.out_channels)
        self.norm_b = middle
        self.norm_c = nn.BatchNorm3d(self.conv_c.out_channels)
        self.activation = activation

    def forward(self, features_BCTHW: torch.Tensor) -> torch.Tensor:
        narrow = F.relu(self.norm_a(self.conv_a(features_BCTHW)))
        seen = self.activation(self.norm_b(self.conv_b(narrow)))
        return self.norm_c(self.conv_c(seen))


def run_block(
    block: Recomputing, compute: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor
) -> torch.Tensor:
    """`compute(features)`; if the block recomputes, its activations are not kept but made again."""
    if not (block.recomputes and block.training):
        return compute(features)
    if torch.compiler.is_compiling():
        # The compiler accepts no context. It writes statistics once, with the forward pass.
        return checkpoint(compute, features, use_reentrant=False, preserve_rng_state=False)
    return checkpoint(
        compute,
        features,
        use_reentrant=False,
        # No block draws random numbers.
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _counted_once(block)),
    )


def recompute_blocks(network: nn.Module) -> None:
    """Let every residual block of `network` recompute its activations in the backward pass."""
    for module in network.modules():
        if isinstance(module, Recomputing):
            module.recomputes = True


def initialise(network: nn.Module) -> None:
    """First weights: He et al. 2015 for convolutions (fan out), N(0, 0.01) for the classifier.

    The last batch norm of a bottleneck begins at zero, so that every block begins as its shortcut
    (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.norm_c.weight)


@contextmanager
def _counted_once(block: Recomputing) -> Iterator[None]:
    """Batch norms of `block` normalise as in training but leave their running statistics alone.

    The recomputation in the backward pass would otherwise count every micro-batch twice.
    """
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm3d)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Not track_running_stats: without statistics fewer tensors are saved for the backward pass
        # than the first time, which checkpointing refuses.
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, counter in kept:
            norm.momentum, norm.num_batches_tracked = momentum, counter
