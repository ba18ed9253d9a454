"""Names of the fusion types, for the tower that never imports torch."""

from __future__ import annotations

import re

from regatta.core.errors import UnknownNameError
from regatta.core.registry import nearest

FUSION_TYPES = (
    "multiplicative",
    "multiplicativeAddition",
    "multiplicativeShifted",
    "TransformerBase",
    "concatenation",
    "simpleAddition",
    "multiplicativeGeometric",
    "multiplicativeGated",
)
"""The last two are stable products: their values stay bounded where a plain product's do not."""
STABLE_PRODUCTS = ("multiplicativeGeometric", "multiplicativeGated")


def canonical_fusion(name: str, where: object = None) -> str:
    """The fusion type that `name` means, whatever its case, with - or _ between its words.

    Raises:
        UnknownNameError: no type is called so; names the nearest.
    """
    by_letters = {_letters(known): known for known in FUSION_TYPES}
    found = by_letters.get(_letters(name))
    if found is not None:
        return found
    close = nearest(_letters(name), by_letters)
    guess = f"did you mean '{by_letters[close]}'? " if close else ""
    raise UnknownNameError(
        f"there is no fusion type named '{name}'",
        where=where,
        hint=f"{guess}known: {', '.join(FUSION_TYPES)}",
    )


def entry_form(name: str) -> str:
    """A fusion type as it stands in names of entries: `multiplicativeAddition` is
    "multiplicative-addition"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", canonical_fusion(name)).lower()


def _letters(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()
