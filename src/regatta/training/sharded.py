"""FSDP2: a model whose weights, gradients and optimizer state are cut over the ranks.

Every rank holds a slice of each parameter (a DTensor) and asks the others for the rest of a block
when it needs it. What goes to a file is put together first, under the plain names, so a model that
was trained like this is loaded as any other. Whatever puts tensors together is done by all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from regatta.core.errors import ConfigError
from regatta.models.contracts import Backbone


def shard_over_ranks(module: nn.Module, device: torch.device) -> nn.Module:
    """Cut the parameters of `module` over the ranks, where they stand; returns the module.

    Each block of a list of blocks is put together on its own while it computes; the rest of the
    parameters make one more unit. Frozen parameters are cut like the others. Rank 0's weights and
    buffers are given to all first.
    """
    for tensor in [*module.parameters(), *module.buffers()]:
        dist.broadcast(tensor.detach(), src=0)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in _blocks(module):
        fully_shard(block, mesh=mesh)
    # Without this the outermost unit stays whole after its forward pass, and the parameters that
    # the module names then are not those that the optimizer knows.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return module


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network: members of its outermost lists, where they have weights."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList) and any(isinstance(part, Backbone) for part in child):
            # A fusion asks its experts for features and not by a call, which alone puts a block
            # together; their own blocks are called.
            found += _blocks(child)
        elif isinstance(child, nn.ModuleList) and len(child) > 1:
            found += [block for block in child if any(True for _ in block.parameters())]
        else:
            found += _blocks(child)
    return found


def is_sharded(module: nn.Module) -> bool:
    return isinstance(module, FSDPModule)


def no_gradients(module: nn.Module) -> AbstractContextManager[None]:
    """The context in which `module` is scored."""
    # What FSDP puts together in inference mode it could not use again in training.
    return torch.no_grad() if is_sharded(module) else torch.inference_mode()


def refuse_scaled_gradients(precision: str) -> None:
    """ConfigError for fp16: each rank would judge the overflow of its own slice alone."""
    if precision == "fp16":
        raise ConfigError(
            "train.parallel: fsdp does not go with fp16",
            where="train.precision",
            hint="use train.precision: bf16 or fp32, or train.parallel: ddp",
        )


def gradient_sync_hold(module: FSDPModule) -> Callable[[], AbstractContextManager[None]]:
    """A context in which backward passes add up gradients without exchanging them."""

    @contextmanager
    def hold() -> Iterator[None]:
        module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)

    return hold


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, or the whole of one that is cut over the ranks; then all ranks call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as they go to a file. Those that were cut come to the CPU, and to rank 0 alone."""
    whole: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            whole[name] = tensor
            continue
        gathered = tensor.full_tensor()
        if dist.get_rank() == 0:
            whole[name] = gathered.cpu()
    return whole


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load a plain state dict into a plain module or into one that is cut over the ranks.

    Every rank cuts its slice out of its own copy of `weights`, without asking the others.
    """
    own = module.state_dict() if is_sharded(module) else {}
    module.load_state_dict(
        {name: _cut_like(own.get(name), tensor) for name, tensor in weights.items()}
    )


def cut_optimizer_state(
    module: nn.Module, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Whole tensors `<parameter name>/<key>` as the optimizer of `module` holds them here."""
    own = dict(module.named_parameters())
    return {
        name: tensor if tensor.dim() == 0 else _cut_like(own.get(name.rpartition("/")[0]), tensor)
        for name, tensor in tensors.items()
    }


def _cut_like(pattern: torch.Tensor | None, tensor: torch.Tensor) -> torch.Tensor:
    if not isinstance(pattern, DTensor):
        return tensor
    return distribute_tensor(tensor, pattern.device_mesh, pattern.placements, src_data_rank=None)
