"""Conditions of a protocol, by name: all that whoever only plans needs of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from regatta.core.errors import ConfigError
from regatta.core.registry import nearest

IMAGE_PART = 500
"""Images of a prediction file, at least: they are small, and a file per head is written."""


@dataclass(frozen=True)
class Condition:
    """One cell of a protocol as the light side knows it.

    `axes` holds what varies, for the temporal grid {"coverage": 50, "stride": 4}.
    """

    id: str
    axes: dict[str, Any] = field(default_factory=dict)
    is_reference: bool = False


def find_condition(conditions: Sequence[Condition], wanted: str) -> int:
    """Position of the condition called `wanted`; `reference` is the protocol's own.

    Raises ConfigError with the nearest id. Without a marked reference it is the first.
    """
    ids = [condition.id for condition in conditions]
    if wanted in ids:
        return ids.index(wanted)
    if wanted != "reference":
        close = nearest(wanted, ids)
        guess = f"did you mean '{close}'? " if close else ""
        raise ConfigError(
            f"the protocol has no condition '{wanted}'",
            where="compare.condition",
            hint=f"{guess}reference, or one of: {', '.join(ids)}",
        )
    return next((i for i, c in enumerate(conditions) if c.is_reference), 0)
