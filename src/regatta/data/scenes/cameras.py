"""A ring of pinhole cameras that look at the origin.

Shapes: V cameras. Camera axes: X right, Y down, Z forward. Pixels: (x, y), the centre of the first
pixel is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regatta.core.errors import ConfigError

RING_RADIUS, RING_HEIGHT = 5.0, 2.0
FOCAL_OF_64 = 80.0
"""Focal length in pixels, for a picture of 64 x 64."""


@dataclass(frozen=True)
class Cameras:
    """positions: float64 [V, 3]; rotations: [V, 3, 3] with rows X, Y, Z; focal length and
    principal point (the same in x and y) in pixels."""

    positions: np.ndarray
    rotations: np.ndarray
    focal: float
    centre: float

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def size(self) -> int:
        """Pixels of the picture, in both directions."""
        return round(2 * self.centre + 1)

    def select(self, views: Sequence[int]) -> Cameras:
        """Some of them, in this order."""
        chosen = list(views)
        return replace(self, positions=self.positions[chosen], rotations=self.rotations[chosen])

    def facts(self) -> dict[str, Any]:
        """As plain JSON types; `cameras_from` reads it."""
        return {
            "positions": self.positions.tolist(),
            "rotations": self.rotations.tolist(),
            "focal": self.focal,
            "centre": self.centre,
        }


def cameras_from(facts: dict[str, Any]) -> Cameras:
    """The cameras that `Cameras.facts` described; KeyError or ValueError when it is no such."""
    positions = np.asarray(facts["positions"], dtype=np.float64).reshape(-1, 3)
    rotations = np.asarray(facts["rotations"], dtype=np.float64).reshape(len(positions), 3, 3)
    return Cameras(positions, rotations, float(facts["focal"]), float(facts["centre"]))


def camera_ring(count: int, size: int) -> Cameras:
    """`count` cameras at equal angles, the first at (5, 0, 2), for pictures of size x size.

    Raises:
        ConfigError: there is no camera.
    """
    if count < 1:
        raise ConfigError(f"{count} cameras see nothing", where="cameras", hint="ask for 1 or more")
    angles = 2 * np.pi * np.arange(count) / count
    level = RING_RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    # A sine of pi is 1e-16, and (-5, 0, 2) is what was meant.
    level = np.round(level, 12) + 0.0
    positions = np.concatenate([level, np.full((count, 1), RING_HEIGHT)], axis=-1)
    forward = -positions / np.linalg.norm(positions, axis=-1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    rotations = np.stack([right, np.cross(forward, right), forward], axis=1)
    return Cameras(positions, rotations, FOCAL_OF_64 * size / 64, (size - 1) / 2)


def project(cameras: Cameras, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels float64 [V, ..., 2] and depth [V, ...] of points [..., 3]; NaN where depth is not
    positive, and never clamped.

    u = f X / Z + c, v = f Y / Z + c.
    """
    # Sums written out: a matrix product may round otherwise for another number of points.
    many = (len(cameras), *([1] * (np.ndim(points) - 1)))
    offset = [
        np.asarray(points)[None, ..., axis] - cameras.positions[:, axis].reshape(many)
        for axis in range(3)
    ]
    turned = [
        sum(cameras.rotations[:, row, axis].reshape(many) * offset[axis] for axis in range(3))
        for row in range(3)
    ]
    depth = np.asarray(turned[2])
    safe = np.where(depth > 0, depth, np.nan)
    pixels = [cameras.focal * turned[row] / safe + cameras.centre for row in range(2)]
    return np.stack(pixels, axis=-1), depth


def triangulate(cameras: Cameras, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [..., 3] seen at pixels [V, ..., 2], and the root mean square residual in pixels.

    Least squares of the picture error, by reweighted linear equations (Hartley and Sturm 1997,
    "Iterative-LS"). Views with NaN are left out; points with fewer than two views are NaN.
    """
    pixels = np.asarray(pixels, dtype=np.float64)
    shape = pixels.shape[1:-1]
    flat = pixels.reshape(len(cameras), -1, 2)
    seen = np.asarray(np.isfinite(flat).all(axis=-1))
    known = np.where(np.isnan(flat), 0.0, flat)
    slopes = (known - cameras.centre) / cameras.focal
    # Rows a with a . (P - C) = 0 of both coordinates: [2, V, M, 3].
    rows = cameras.rotations[:, None, :2] - slopes[..., None] * cameras.rotations[:, None, 2:]
    rows = np.moveaxis(rows, 2, 0)
    goals = np.einsum("cvmk,vk->cvm", rows, cameras.positions)
    enough = seen.sum(axis=0) >= 2
    weights: np.ndarray = seen.astype(np.float64)
    points = np.full((flat.shape[1], 3), np.nan)
    for _ in range(3):
        points = _solve(rows, goals, weights, enough)
        depth = np.einsum(
            "vmk,vk->vm", points - cameras.positions[:, None], cameras.rotations[:, 2]
        )
        usable = seen & (np.nan_to_num(depth) > 1e-6)
        weights = np.asarray(usable / np.where(usable, depth, 1.0) ** 2)
    back, _ = project(cameras, points)
    square = np.where(seen, ((back - known) ** 2).sum(-1), 0.0)
    residual = np.sqrt(square.sum(axis=0) / np.maximum(seen.sum(axis=0), 1))
    return points.reshape(*shape, 3), np.where(enough, residual, np.nan).reshape(shape)


def _solve(
    rows: np.ndarray, goals: np.ndarray, weights: np.ndarray, enough: np.ndarray
) -> np.ndarray:
    """Weighted least squares of each point [M, 3]; NaN where the rays do not cross."""
    weighted = rows * weights[None, ..., None]
    normal = np.einsum("cvmi,cvmj->mij", weighted, rows)
    right = np.einsum("cvmi,cvm->mi", weighted, goals)
    scale = np.trace(normal, axis1=1, axis2=2)
    crossing = enough & (np.linalg.det(normal) > 1e-12 * scale**3)
    points = np.full(right.shape, np.nan)
    points[crossing] = np.linalg.solve(normal[crossing], right[crossing][..., None])[..., 0]
    return points


def moved(cameras: Cameras, degrees: float, rng: np.random.Generator) -> Cameras:
    """The same cameras, each looking elsewhere by this angle, in a direction drawn for each."""
    turn = rng.uniform(0, 2 * np.pi, len(cameras))
    angle = np.deg2rad(degrees)
    right, down, forward = np.moveaxis(cameras.rotations, 1, 0)
    toward = np.cos(turn)[:, None] * right + np.sin(turn)[:, None] * down
    axis = np.cross(forward, toward)
    rotated = [_rotate(rows, axis, angle) for rows in (right, down, forward)]
    return replace(cameras, rotations=np.stack(rotated, axis=1))


def _rotate(vectors: np.ndarray, axis: np.ndarray, angle: float) -> np.ndarray:
    """Rodrigues' formula, for vectors and unit axes [V, 3]."""
    along = (vectors * axis).sum(-1, keepdims=True) * axis
    across = np.cross(axis, vectors)
    return vectors * np.cos(angle) + across * np.sin(angle) + along * (1 - np.cos(angle))
