"""The base of all sections of a study file."""

from __future__ import annotations

import math
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """Base of all sections: frozen, and no key passes unread."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_section(cls, value: Any) -> Any:
        """A section whose keys are all commented out reads as nothing: it means all defaults."""
        return {} if value is None else value

    @model_validator(mode="after")
    def _finite_settings(self) -> Self:
        """Settings of any kind too: the written study would have nothing in the place of NaN."""
        for name, value in vars(self).items():
            if isinstance(value, dict | list) and not _is_finite(value):
                raise ValueError(f"{name} holds a number that is not finite")
        return self


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
