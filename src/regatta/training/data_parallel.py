"""DataParallel: one process drives several GPUs. Kept for compatibility; `ddp` does it better.

The batch of the one process (`train.batch_size`) is cut over the GPUs along its first axis, so a
sample is never cut: channels are folded inside the model's forward. The first GPU holds weights,
gradients and optimizer and gathers all scores, so it needs more memory than the others.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from regatta.core.errors import DeviceError

logger = logging.getLogger(__name__)

NOTE = (
    "train.parallel: dp is kept for compatibility: one process drives all GPUs, which is slower "
    "and fills the first one more; train.parallel=ddp trains the same faster"
)


def spread_over_gpus(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` on `device`, called on all GPUs that this process sees.

    Raises:
        DeviceError: there are fewer than two.
    """
    found = torch.cuda.device_count() if device.type == "cuda" else 0
    if found < 2:
        raise DeviceError(
            f"dp needs 2 or more GPUs; this process sees {found}",
            where="train.parallel",
            hint="use train.parallel=ddp, which also trains on a CPU, or none for one device",
        )
    logger.warning(NOTE)
    first = device.index or 0
    others = [number for number in range(found) if number != first]
    return nn.DataParallel(module, device_ids=[first, *others])
