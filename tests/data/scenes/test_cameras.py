"""Promises of the cameras: projection, sight of the whole cube, and finding a point again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from regatta.core.errors import ConfigError
from regatta.data.scenes.cameras import camera_ring, cameras_from, moved, project, triangulate

POINTS = np.random.default_rng(4).uniform(-1.2, 1.2, (200, 3))


def project_with_matrices(eye: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """The textbook way: a homogeneous look-at matrix, then an intrinsic matrix."""
    back = eye / np.linalg.norm(eye)
    side = np.cross([0, 0, 1], back)
    side = side / np.linalg.norm(side)
    view = np.eye(4)
    view[:3, :3] = [side, np.cross(back, side), back]
    view[:3, 3] = -view[:3, :3] @ eye
    # From axes of graphics (y up, z backward) to those of vision.
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    focal, middle = 80 * size / 64, (size - 1) / 2
    intrinsic = np.array([[focal, 0, middle, 0], [0, focal, middle, 0], [0, 0, 1, 0]])
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    image = homogeneous @ (intrinsic @ flip @ view).T
    return image[:, :2] / image[:, 2:]


@pytest.mark.parametrize(("count", "size"), [(4, 64), (1, 64), (3, 32), (7, 112)])
def test_projection_agrees_with_homogeneous_matrices(count: int, size: int) -> None:
    cameras = camera_ring(count, size)
    pixels, _ = project(cameras, POINTS)
    for eye, found in zip(cameras.positions, pixels, strict=True):
        np.testing.assert_allclose(found, project_with_matrices(eye, POINTS, size), atol=1e-9)


def test_the_ring_of_four_stands_at_its_four_points() -> None:
    expected = [[5, 0, 2], [0, 5, 2], [-5, 0, 2], [0, -5, 2]]
    assert camera_ring(4, 64).positions.tolist() == expected


def test_points_worked_out_by_hand() -> None:
    """Camera 0 at (5, 0, 2), sqrt(29) from the origin, looks along (-5, 0, -2) / sqrt(29)."""
    pixels, depth = project(camera_ring(4, 64), np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1.0]]))
    root = 29**0.5
    np.testing.assert_allclose(depth[0], [root, root, root - 2 / root], atol=1e-12)
    np.testing.assert_allclose(pixels[0, 0], [31.5, 31.5], atol=1e-12)
    np.testing.assert_allclose(pixels[0, 1], [31.5 + 80 / root, 31.5], atol=1e-12)
    # One up: 5 / sqrt(29) against the downward axis, and 2 / sqrt(29) nearer; 29 - 2 = 27.
    np.testing.assert_allclose(pixels[0, 2], [31.5, 31.5 - 80 * 5 / 27], atol=1e-12)


def test_every_corner_of_the_cube_is_in_every_picture() -> None:
    corners = np.array(list(itertools.product((-1.2, 1.2), repeat=3)))
    pixels, depth = project(camera_ring(4, 64), corners)
    assert pixels.min() >= 6.4
    assert pixels.max() <= 58.0
    assert depth.min() > 3.8
    assert depth.max() < 7


def test_what_is_behind_a_camera_is_not_in_its_picture() -> None:
    pixels, depth = project(camera_ring(2, 64), np.array([[9.0, 0, 2]]))
    assert depth[0, 0] < 0
    assert np.isnan(pixels[0]).all()
    assert np.isfinite(pixels[1]).all()


def test_a_point_is_found_again_from_two_or_more_views() -> None:
    cameras = camera_ring(4, 64)
    pixels, _ = project(cameras, POINTS)
    for unseen in ((), (1,), (0, 2), (1, 2)):
        partial = pixels.copy()
        partial[list(unseen)] = np.nan
        points, residual = triangulate(cameras, partial)
        np.testing.assert_allclose(points, POINTS, atol=1e-9)
        assert residual.max() < 1e-9
    pixels[1:, 5] = np.nan
    points, residual = triangulate(cameras, pixels)
    assert np.isnan(points[5]).all()
    assert np.isnan(residual[5])
    assert np.isfinite(points[6]).all()


def test_noise_of_a_fifth_of_a_pixel_moves_a_point_by_8_thousandths() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (500, 32, 3))
    cameras = camera_ring(4, 64)
    pixels, _ = project(cameras, points)
    noisy = pixels + np.random.default_rng(1).normal(0, 0.2, pixels.shape)
    found, residual = triangulate(cameras, noisy)
    assert found.shape == points.shape
    assert residual.shape == points.shape[:-1]
    assert np.sqrt(((found - points) ** 2).mean()) == pytest.approx(0.008, abs=0.0005)


def test_a_moved_camera_stays_and_looks_elsewhere_by_the_angle() -> None:
    cameras = camera_ring(4, 64)
    turned = moved(cameras, 3.0, np.random.default_rng(2))
    assert turned.positions.tolist() == cameras.positions.tolist()
    cosine = (turned.rotations[:, 2] * cameras.rotations[:, 2]).sum(axis=1)
    np.testing.assert_allclose(np.degrees(np.arccos(cosine)), 3.0, atol=1e-6)
    product = turned.rotations @ turned.rotations.transpose(0, 2, 1)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turned.rotations), 1, atol=1e-12)
    # The origin leaves the middle by f tan(3 degrees).
    pixels, _ = project(turned, np.zeros((1, 3)))
    away = np.linalg.norm(pixels[:, 0] - 31.5, axis=1)
    np.testing.assert_allclose(away, 80 * np.tan(np.radians(3)), atol=1e-9)


def test_no_camera_is_refused_and_a_ring_comes_back_from_json() -> None:
    with pytest.raises(ConfigError, match="0 cameras"):
        camera_ring(0, 64)
    cameras = camera_ring(3, 32)
    again = cameras_from(cameras.facts())
    assert again.facts() == cameras.facts()
    assert again.size == 32
