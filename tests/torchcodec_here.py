"""Whether torchcodec can run: it needs FFmpeg's libraries, which its wheel does not hold."""

from __future__ import annotations

import pytest


def needs_torchcodec() -> None:
    """Skip the test, and say why, where torchcodec is not installed or finds no FFmpeg."""
    try:
        import torchcodec.decoders  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except (ImportError, RuntimeError, OSError) as error:
        first = str(error).strip().splitlines()[0][:80]
        pytest.skip(f"torchcodec does not load ({first}): apt-get install ffmpeg")
