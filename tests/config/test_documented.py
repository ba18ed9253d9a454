"""The page on training names every key of the recipe, and the defaults that it states are true."""

from __future__ import annotations

import re
from pathlib import Path

from regatta.config.schema import TrainSection

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def documented() -> dict[str, str]:
    """Key -> its default as the page's tables state it."""
    found: dict[str, str] = {}
    for keys, defaults in re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) \|", PAGE.read_text(), re.M
    ):
        names = re.findall(r"\w+", keys)
        values = re.split(r", (?![^(]*\))", defaults)
        found |= dict(zip(names, values, strict=len(names) > 1))
    return found


def test_every_key_of_the_recipe_is_explained():
    missing = set(TrainSection.model_fields) - set(documented())
    assert not missing


def test_the_stated_defaults_are_those_of_the_code():
    wrong = {}
    for name, field in TrainSection.model_fields.items():
        stated, default = documented()[name], field.default
        if isinstance(default, list):
            continue  # Stated as a range.
        if isinstance(default, float):
            agrees = default == float(stated)
        else:
            agrees = stated in (str(default), str(default).lower())
        if not agrees:
            wrong[name] = (stated, default)
    assert not wrong
