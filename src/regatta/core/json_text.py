"""JSON text as all our readers take it: what cannot be kept as JSON again is no JSON."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MOST_DEPTH = 100
_LARGE_NUMBER = re.compile(r"\d{19}|[eE]\+?\d{3}")
_WHOLE = range(-(2**63), 2**64)


def parse_json(text: str | bytes, *, half_characters: bool = False) -> Any:
    """What the text says.

    Args:
        half_characters: take them too: names of files need not be Unicode, and our own records
            hold them as Python does.

    Raises:
        ValueError: it is no JSON in UTF-8, is nested deeper than `MOST_DEPTH`, or holds NaN,
            infinity, a number beyond 64 bits or half a character. `json.JSONDecodeError` is one.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    hooks: dict[str, Any] = {"parse_constant": _refuse_constant}
    if _LARGE_NUMBER.search(text):
        hooks |= {"parse_int": _whole, "parse_float": _finite}
    try:
        found = json.loads(text, **hooks)
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {MOST_DEPTH}") from error
    if text.count("[") + text.count("{") > MOST_DEPTH and _is_deep(found):
        raise ValueError(f"it is nested deeper than {MOST_DEPTH}")
    if not half_characters and ("\\ud" in text or "\\uD" in text):
        # Half a character can be read, but neither written to a file nor shown.
        json.dumps(found, ensure_ascii=False).encode("utf-8")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _whole(digits: str) -> int:
    if len(digits) > 20 or int(digits) not in _WHOLE:
        raise ValueError(f"the number {digits[:20]}... is beyond 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f"the number {digits[:20]} is too large")
    return float(digits)


def _is_deep(found: Any) -> bool:
    level = [found]
    for _ in range(MOST_DEPTH):
        level = [
            item
            for held in level
            if isinstance(held, dict | list)
            for item in (held.values() if isinstance(held, dict) else held)
        ]
        if not level:
            return False
    return True
