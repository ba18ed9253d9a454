"""Number formats of a run, the loss scaler that fp16 needs, and repeatable arithmetic."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import backends

from regatta.core.errors import ConfigError, DeviceError

PrecisionName = Literal["fp32", "bf16", "fp16"]
_MEMORY: Any = torch.utils.deterministic
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The format of a run's forward and backward pass; weights and optimizer state stay float32."""

    name: PrecisionName
    device_type: str

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPES[self.name]

    def autocast(self) -> AbstractContextManager[object]:
        """The context of every forward pass."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    def new_scaler(self) -> torch.amp.GradScaler:
        """Loss scaler: keeps small fp16 gradients from becoming zero; a pass-through otherwise."""
        return torch.amp.GradScaler(self.device_type, enabled=self.name == "fp16")


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """The format for `device`: auto = bf16 on GPUs that have it, fp16 on others, fp32 on CPUs.

    Decided on the device type, so `cuda:0` is a GPU. On a CPU bf16 is used only when asked for.

    Raises:
        ConfigError: fp16 on a CPU.
        DeviceError: bf16 on a GPU without it.
    """
    on_gpu = device.type == "cuda"
    if wanted == "auto":
        return Precision(("bf16" if _gpu_has_bf16() else "fp16") if on_gpu else "fp32", device.type)
    if wanted == "fp32":
        return Precision("fp32", device.type)
    if wanted == "fp16":
        if not on_gpu:
            raise ConfigError(
                f"fp16 needs a GPU, this run is on {device}",
                where="train.precision",
                hint="use train.precision: auto, which takes fp32 on a CPU",
            )
        return Precision("fp16", device.type)
    if on_gpu and not _gpu_has_bf16():
        raise DeviceError(
            f"{torch.cuda.get_device_name(device)} has no bf16",
            where="train.precision",
            hint="use train.precision: auto, which takes fp16 on this GPU",
        )
    return Precision("bf16", device.type)


def _gpu_has_bf16() -> bool:
    # Emulated bf16 is slower than fp32: only real support counts.
    return torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def reproducible_math(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Set torch's global arithmetic switches for one run and put them back afterwards.

    Deterministic: an operation without a repeatable form is an error on CPU and a warning on GPU;
    TF32 and the timing-based choice of convolutions are off. Otherwise both are on.
    """
    before = torch.are_deterministic_algorithms_enabled()
    before_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    before_fill = _MEMORY.fill_uninitialized_memory
    before_gpu = _read_gpu_switches()
    if device.type == "cuda" and deterministic:
        # cuBLAS reads it with its first handle; without it matrix products may differ between runs.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(deterministic, warn_only=device.type == "cuda")
        # Filling memory that is written next anyway costs 4 % of a small network's step.
        _MEMORY.fill_uninitialized_memory = False
        fp32 = "ieee" if deterministic else "tf32"
        _write_gpu_switches((not deterministic, fp32, fp32))
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=before_warn_only)
        _MEMORY.fill_uninitialized_memory = before_fill
        _write_gpu_switches(before_gpu)


def _read_gpu_switches() -> tuple[bool, str, str]:
    return (
        backends.cudnn.benchmark,
        str(backends.cuda.matmul.fp32_precision),
        str(getattr(backends.cudnn, "conv").fp32_precision),  # noqa: B009  (absent in torch's stubs)
    )


def _write_gpu_switches(values: tuple[bool, str, str]) -> None:
    backends.cudnn.benchmark, backends.cuda.matmul.fp32_precision, convolution = values
    getattr(backends.cudnn, "conv").fp32_precision = convolution  # noqa: B009
