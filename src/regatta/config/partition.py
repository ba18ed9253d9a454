"""How the training images of a fusion study are dealt out to experts, fusion and validation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from regatta.config.section import Section


class PartitionSection(Section):
    """Pool for the experts, hold-out for the fusion, and validation out of the hold-out."""

    kind: Literal["iid", "noniid"] = "iid"
    """iid = each expert gets a shared part of the pool and one of its own; noniid = a block of
    classes."""
    experts: int = Field(default=4, ge=1, le=1000)
    shared: float = Field(default=0.40, ge=0, le=1)
    """Share of the pool that every expert trains on."""
    unique: float = Field(default=0.15, ge=0, le=1)
    """Share of the pool that one expert alone trains on."""
    holdout: float = Field(default=0.20, gt=0, lt=1)
    """Share of all training images that no expert trains on."""
    validation: float = Field(default=0.04, gt=0, lt=1)
    """Share of all training images, out of the hold-out, that selection uses."""
    stratified: bool = True
    seed: int = Field(default=42, ge=0)
    pool_file: str | None = None
    holdout_file: str | None = None

    @model_validator(mode="after")
    def _shares_fit(self) -> PartitionSection:
        if self.kind == "iid" and self.shared + self.experts * self.unique > 1 + 1e-9:
            raise ValueError(
                f"shared {self.shared:g} + {self.experts} x unique {self.unique:g} is more than 1"
            )
        if self.validation >= self.holdout:
            raise ValueError("validation is taken out of the hold-out: it must be smaller")
        return self

    @property
    def expert_share(self) -> float:
        """Share of all training images that one expert trains on, the mean over experts."""
        pool = 1 - self.holdout
        return pool * (self.shared + self.unique) if self.kind == "iid" else pool / self.experts

    @property
    def fusion_share(self) -> float:
        """Share of all training images that a fusion trains on."""
        return self.holdout - self.validation


def class_blocks(classes: int, experts: int) -> list[range]:
    """Labels of each expert of a class-split partition: blocks whose sizes differ by at most 1."""
    size, rest = divmod(classes, experts)
    starts = [k * size + min(k, rest) for k in range(experts + 1)]
    return [range(starts[k], starts[k + 1]) for k in range(experts)]
