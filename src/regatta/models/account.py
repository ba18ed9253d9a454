"""What becomes of every key when a checkpoint is laid over a module."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from regatta.models.encoder_files import ENCODER
from regatta.models.key_report import KeyReport
from regatta.models.spec import ModelSpec, State


def account_keys(
    target: State, state: State, spec: ModelSpec, config: dict[str, Any], *, keep_head: bool
) -> tuple[KeyReport, State]:
    """Compare a checkpoint's state (module keys) with the module's; what would be loaded.

    Args:
        target: the module's own state.
        state: the checkpoint's; position embeddings in it are resized where the layout says how.
        keep_head: the checkpoint's head is for the study's classes.
    """
    heads = _new_heads(target, state, spec, keep_head=keep_head)
    state = {key: tensor for key, tensor in state.items() if not key.startswith(heads)}
    silent = [key for key, tensor in state.items() if _is_silent(key, tensor, target, spec)]
    state = {key: tensor for key, tensor in state.items() if key not in silent}
    fit = spec.layout.fit_positions
    interpolated = fit(state, config) if fit else {}
    fitted = {key: tensor for key, tensor in state.items() if key in target}
    reshaped = {
        key: f"{list(tensor.shape)} in the file, {list(target[key].shape)} in the model"
        for key, tensor in fitted.items()
        if tensor.shape != target[key].shape
    }
    new_head = [key for key in target if key.startswith(heads)]
    missing = [
        k for k in target if k not in fitted and not k.startswith((*heads, *spec.layout.unused))
    ]
    unexpected = set(state) - set(target)
    allowed = _allowed(spec.layout.allow_keys, missing, unexpected, reshaped)
    fitted = {key: tensor for key, tensor in fitted.items() if key not in allowed}
    report = KeyReport(
        source="",
        loaded=tuple(sorted(fitted)),
        new_head=tuple(new_head),
        interpolated=interpolated,
        missing=tuple(sorted(set(missing) - set(allowed))),
        unexpected=tuple(sorted(unexpected - set(allowed))),
        reshaped={key: what for key, what in reshaped.items() if key not in allowed},
        without_effect=tuple(sorted(silent)),
        allowed=allowed,
    )
    return report, fitted


def _allowed(
    patterns: Sequence[str],
    missing: Collection[str],
    unexpected: Collection[str],
    reshaped: dict[str, str],
) -> dict[str, str]:
    """Misfits that the entry's option allow_keys names, and what becomes of each."""
    told = dict.fromkeys(missing, "missing, stays new")
    told |= dict.fromkeys(unexpected, "extra, left out")
    told |= {key: f"{what}, stays new" for key, what in reshaped.items()}
    return {
        key: told[key]
        for key in sorted(told)
        if any(fnmatchcase(key, pattern) for pattern in patterns)
    }


def _is_silent(key: str, tensor: torch.Tensor, target: State, spec: ModelSpec) -> bool:
    """Whether a stored tensor that the module has no place for cannot change any output."""
    if key.startswith(spec.layout.unused):
        return key not in target or target[key].shape != tensor.shape
    return key.endswith(spec.layout.without_effect) and key not in target


def _new_heads(target: State, state: State, spec: ModelSpec, *, keep_head: bool) -> tuple[str, ...]:
    """Prefixes of the parts that stay as they are: the head, or all but an encoder."""
    if spec.layout.encoder is not None:
        parts = {key.partition(".")[0] + "." for key in target} - {ENCODER}
        return () if keep_head else tuple(sorted(parts))
    reusable = spec.layout.reusable_head
    absent = [part for part in reusable if not any(key.startswith(part) for key in state)]
    fixed = [part for part in spec.head_prefixes if part not in reusable and not keep_head]
    return (*absent, *fixed)
