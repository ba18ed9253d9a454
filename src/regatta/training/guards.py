"""The two accidents that a step must name: numbers that are not finite, and memory that ran out."""

from __future__ import annotations

import logging
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regatta.config.schema import TrainSection
from regatta.core.errors import NonFiniteError, RunError, StopRequested
from regatta.core.files import write_json
from regatta.core.signals import StopFlag
from regatta.training.distributed import Ranks
from regatta.training.state import TrainerState
from regatta.training.step import StepOutcome

logger = logging.getLogger(__name__)


class OutOfMemoryError(RunError):
    """A device or the host had no memory left for one step."""

    cause = "out_of_memory"


def keep_buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the buffers: one bad batch would leave NaN in batch-norm statistics for ever."""
    return {name: buffer.detach().clone() for name, buffer in module.named_buffers()}


def put_buffers_back(module: nn.Module, kept: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(kept[name])


def nonfinite_error(event: dict[str, Any], *, skipped: int, path: Path) -> NonFiniteError:
    """The error that ends a run: names step, samples and where the details lie."""
    ids = event["sample_ids"]
    shown = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
    after = f" (after {skipped} skipped steps)" if skipped else ""
    product, bounded = "", ""
    if "largest_product" in event:
        product = f"; largest absolute product of the fusion {event['largest_product']}"
        bounded = "; products that stay bounded are multiplicativeGeometric and multiplicativeGated"
    return NonFiniteError(
        f"loss or gradient is not finite at step {event['step']}{after}: "
        f"loss {event['loss']}, gradient norm {event['gradient_norm']}{product}; samples {shown}",
        where=path,
        hint="look at those samples; lower train.lr, or use train.precision: fp32; "
        "train.nonfinite: skip leaves out up to nonfinite_limit such steps and counts them"
        + bounded,
    )


def skip_or_end(
    outcome: StepOutcome,
    state: TrainerState,
    train: TrainSection,
    *,
    ranks: Ranks,
    module: nn.Module,
    folder: Path,
) -> None:
    """Count a step that is not finite as left out where the policy allows one more, else end.

    Raises:
        NonFiniteError: on every rank; nonfinite.json in the run's folder says the same.
    """
    shares = ranks.gather((outcome.sample_ids, largest_product(module)))
    event = {
        "step": state.step,
        "epoch": state.epoch + 1,
        "loss": number_as_text(outcome.loss),
        "gradient_norm": number_as_text(outcome.gradient_norm),
        "sample_ids": [name for share, _ in shares for name in share],
    }
    products = [product for _, product in shares if product is not None]
    if products:
        # NaN is neither above nor below another number: it must not hide behind one.
        worst = next((value for value in products if math.isnan(value)), max(products))
        event["largest_product"] = number_as_text(worst)
    if train.nonfinite == "stop" or len(state.skipped) >= train.nonfinite_limit:
        path = folder / "nonfinite.json"
        ranks.on_first(lambda: write_json(path, {**event, "skipped": state.skipped}))
        raise nonfinite_error(event, skipped=len(state.skipped), path=path)
    logger.warning("step %d is left out, it is not finite: %s", state.step, event)
    state.skipped.append(event)


def largest_product(module: nn.Module) -> float | None:
    """Largest absolute value of the last product of a fusion that keeps it (`largest_product` of
    `head.fusion`); `module` may be the head alone."""
    fusion = getattr(getattr(module, "head", module), "fusion", None)
    found = getattr(fusion, "largest_product", None)
    return None if found is None else float(found)


def stopped_error(stop: StopFlag, *, step: int, path: Path) -> StopRequested:
    """What ends a run that was asked to stop, on this rank or on another."""
    if not stop.requested:
        # Another rank was asked; this one leaves in the same way.
        stop.request("SIGTERM")
    saved = f"; the state of step {step} is saved" if step else " before the first step"
    error = StopRequested(
        f"stopped by {stop.signal_name}{saved}",
        where=path,
        hint="run the same command again: it continues from there",
    )
    error.exit_code = stop.exit_code
    return error


def warn_of_other_threads(before: int, device: torch.device) -> None:
    """Say that a run goes on with another number of CPU threads than it was saved with."""
    if device.type == "cpu" and before != torch.get_num_threads():
        logger.warning(
            "this run began with %d threads and goes on with %d: sums are rounded differently, "
            "so the last bits of the weights are not those of an uninterrupted run",
            before,
            torch.get_num_threads(),
        )


def number_as_text(value: float) -> float | str:
    """The number, or "nan" or "inf", which JSON has no number for."""
    return value if math.isfinite(value) else repr(value)


@contextmanager
def named_out_of_memory(
    *, batch_size: int, accumulate: int, of: str, device: torch.device
) -> Iterator[None]:
    """Turn a failed allocation into an error that names the sizes. The batch is never changed here.

    Args:
        of: one sample in words.
    Raises:
        OutOfMemoryError: the device, or the host of a CPU run, had no memory left.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"out of memory on {device}: batch {batch_size} of {of}, "
            f"peak {peak_memory_gib(device):.2f} GiB",
            where=f"train.batch_size: {batch_size}",
            hint=_less_memory(batch_size, accumulate),
        ) from error


def _less_memory(batch_size: int, accumulate: int) -> str:
    """What to try next; a smaller batch keeps batch x accumulate exactly."""
    if batch_size == 1:
        return "try train.gradient_checkpointing=true, fewer frames or a smaller image"
    smaller = max(size for size in range(1, batch_size // 2 + 1) if batch_size % size == 0)
    return (
        f"try train.batch_size={smaller} with train.accumulate="
        f"{accumulate * batch_size // smaller}, the same effective batch"
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU allocator raises a plain RuntimeError; only its text tells it from others.
    return "DefaultCPUAllocator" in str(error)


def peak_memory_gib(device: torch.device) -> float:
    """Most memory in GiB so far: allocated on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
