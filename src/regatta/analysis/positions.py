"""How far a said place is from the true one, in world units (u).

Shapes: S seeds, N samples. Squared errors are means over the three coordinates, so that three times
their mean is the mean squared distance.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]


def squared_error(said: Any, true: Any) -> Floats:
    """Mean over coordinates of the squared difference of places [..., 3], in u^2; [...]."""
    return ((np.asarray(said, dtype=float) - np.asarray(true, dtype=float)) ** 2).mean(axis=-1)


def absolute_error(said: Any, true: Any) -> Floats:
    """Mean over coordinates of the absolute difference of places [..., 3], in u; [...]."""
    return np.abs(np.asarray(said, dtype=float) - np.asarray(true, dtype=float)).mean(axis=-1)


def distance(said: Any, true: Any) -> Floats:
    """Euclidean distance of places [..., 3], in u; [...]."""
    return np.sqrt(3 * squared_error(said, true))


def split_by_motion(error: Any, velocity_N3: Any) -> tuple[Floats, Floats]:
    """Squares (u^2) of an error [..., N, 3] along the direction of motion and across it, [..., N].

    They add up to the squared distance. Both are NaN where an object stands still: it has no
    direction.
    """
    error = np.asarray(error, dtype=float)
    velocity = np.asarray(velocity_N3, dtype=float)
    speed = np.linalg.norm(velocity, axis=-1, keepdims=True)
    direction = np.divide(velocity, speed, out=np.full_like(velocity, np.nan), where=speed > 0)
    along = (error * direction).sum(axis=-1) ** 2
    return along, np.maximum((error**2).sum(axis=-1) - along, 0)


def split_by_camera(error: Any, rotation_33: Any) -> tuple[Floats, Floats]:
    """Squares (u^2) of an error [..., 3] in depth and in the image plane of a camera, [...].

    Depth is along the optical axis, the third row of `rotation_33` (X right, Y down, Z forward).
    They add up to the squared distance.
    """
    seen = np.asarray(error, dtype=float) @ np.asarray(rotation_33, dtype=float).T
    return seen[..., 2] ** 2, (seen[..., :2] ** 2).sum(axis=-1)


def error_quantiles(said_SN3: Any, true_N3: Any) -> dict[str, float]:
    """Median and 90 % quantile of the Euclidean distance, in u: of all samples, mean over seeds."""
    found = distance(said_SN3, true_N3)
    return {
        "median": float(np.median(found, axis=-1).mean()),
        "p90": float(np.quantile(found, 0.9, axis=-1).mean()),
    }


def skill(error: float | None, reference: float | None) -> float | None:
    """1 - error / reference of two mean squared errors; None where the reference has none, as
    constant velocity on straight lines."""
    if error is None or reference is None or reference <= NO_ERROR:
        return None
    return 1 - error / reference


NO_ERROR = 1e-9
"""A mean squared error up to here, in u^2, is rounding of single-precision places."""
