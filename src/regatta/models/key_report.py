"""The account of every key of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from regatta.core.errors import WeightsError

KEYS_SHOWN = 12


@dataclass(frozen=True)
class KeyReport:
    """What became of every key of a checkpoint; keys are the module's.

    Only `new_head` and `interpolated` may differ from the file; `missing`, `unexpected` and
    `reshaped` are errors. `without_effect` are stored values that cannot change any output.
    """

    source: str
    loaded: tuple[str, ...] = ()
    new_head: tuple[str, ...] = ()
    interpolated: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: dict[str, str] = field(default_factory=dict)
    without_effect: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    """Keys of the file, not of the module: parts that an encoder of features has no use for."""
    allowed: dict[str, str] = field(default_factory=dict)
    """Misfits that the entry's option `allow_keys` names."""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.summary()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def summary(self) -> str:
        """One line for logs and the report."""
        if self.source == "none":
            return "random weights, nothing loaded"
        parts = [f"{len(self.loaded)} tensors from {self.source}"]
        if self.new_head:
            parts.append(f"new head ({', '.join(self.new_head)})")
        parts += [f"interpolated {key}: {what}" for key, what in self.interpolated.items()]
        if self.without_effect:
            parts.append(f"{len(self.without_effect)} stored tensors without effect left out")
        if self.unused:
            parts.append(f"not used: {', '.join(self.unused)}")
        parts += [f"allowed {key}: {what}" for key, what in self.allowed.items()]
        return "; ".join([*parts, *self.notes])

    def refuse_misfit(self, where: object, *, can_allow: bool = False) -> None:
        """Raise WeightsError, keys listed, when anything but the head is not as in the model.

        Args:
            can_allow: the entry has an option `allow_keys`.
        """
        reshaped = [f"{key} ({what})" for key, what in self.reshaped.items()]
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "reshaped": reshaped}
        parts = [f"{kind}: {list_keys(keys)}" for kind, keys in kinds.items() if keys]
        if parts:
            raise WeightsError(
                "the checkpoint does not fit the model; " + "; ".join(parts),
                where=where,
                hint="choose the encoder that the checkpoint was made with, or name keys that "
                "may differ in the entry's option allow_keys"
                if can_allow
                else "only the classifier may be new: use a checkpoint fine-tuned for "
                "classification, with the same model, size, tubelet and patch",
            )


def list_keys(keys: Sequence[str]) -> str:
    """The first dozen keys, then how many more."""
    shown = ", ".join(keys[:KEYS_SHOWN])
    return shown if len(keys) <= KEYS_SHOWN else f"{shown} and {len(keys) - KEYS_SHOWN} more"
