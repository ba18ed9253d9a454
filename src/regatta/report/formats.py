"""The files of a figure: three formats, unless a variable of the environment names fewer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from regatta.core.errors import ConfigError

FORMATS = ("svg", "pdf", "png")
ON_PAGE = ("svg", "png")
"""Those that a browser shows; the page embeds one of them."""
VARIABLE = "REGATTA_FIGURE_FORMATS"
"""`REGATTA_FIGURE_FORMATS=svg regatta run ...` draws each figure once in place of three times."""

_drawn: ContextVar[tuple[str, ...]] = ContextVar("formats of figures", default=FORMATS)


def current_formats() -> tuple[str, ...]:
    """The formats that figures are drawn in now."""
    return _drawn.get()


@contextmanager
def drawing_formats(formats: Sequence[str]) -> Iterator[None]:
    """Inside the block figures are drawn in `formats` only."""
    token = _drawn.set(tuple(formats))
    try:
        yield
    finally:
        _drawn.reset(token)


def wanted_formats(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The formats that VARIABLE names, in the order of FORMATS; all three without it.

    Raises:
        ConfigError: it names something else, or nothing that a page can show.
    """
    text = environment.get(VARIABLE, "").strip()
    names = {name.strip().lower() for name in text.split(",")} if text else set(FORMATS)
    if unknown := sorted(names - set(FORMATS)):
        raise ConfigError(
            f"there is no figure format {unknown[0]!r}",
            where=f"environment variable {VARIABLE}={text}",
            hint=f"name some of {', '.join(FORMATS)} with commas between them",
        )
    if not names & set(ON_PAGE):
        raise ConfigError(
            "the page cannot show a figure that is only a PDF",
            where=f"environment variable {VARIABLE}={text}",
            hint=f"add {' or '.join(ON_PAGE)}",
        )
    return tuple(name for name in FORMATS if name in names)
