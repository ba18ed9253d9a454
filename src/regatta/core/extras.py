"""Optional packages: whether they are there, and how to get them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from regatta.core.errors import MissingExtraError

TRACKER_PACKAGES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
}
"""Tracker -> the package that it is imported as. The extra has the tracker's name."""


def check_trackers(names: Iterable[str]) -> None:
    """MissingExtraError for a tracker that is not installed; imports none of them."""
    missing = [name for name in names if find_spec(TRACKER_PACKAGES[name]) is None]
    if missing:
        raise MissingExtraError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            where="launch.track",
            hint=f"pip install -c constraints.txt 'regatta[{','.join(missing)}]', "
            "or take it out of launch.track",
        )
