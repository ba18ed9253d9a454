"""Maps of where a model of scenes looks, and what is measured of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F

from regatta.core.errors import RunError
from regatta.models.scene.attention_maps import attention_maps, delete_pixels, faithfulness
from regatta.models.scene.space_time import SpaceTime
from regatta.models.scene.trajectory import Trajectory

METHODS = {
    "i3d": "gradient",
    "slowfast": "gradient",
    "magvit": "time-weighted gradient map",
    "transformer": "rollout",
}
ModelOf = Callable[..., Trajectory]


@pytest.fixture
def model_of(tiny_spec) -> ModelOf:
    """A tiny model of 8 frames at 32 px, warmed, in evaluation mode."""

    def build(extractor: str, **options: Any) -> Trajectory:
        spec = tiny_spec(
            "trajectory", extractor=extractor, frames=8, image_size=32, views=[0, 1], **options
        )
        module = cast("Trajectory", spec.build(4)).train()
        with torch.no_grad():
            module(scenes(8, seed=5))
        return module.eval()

    return build


def scenes(batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 2, 8, 3, 32, 32, generator=generator)


@pytest.mark.parametrize("name", list(METHODS))
def test_maps_are_shares_of_every_clip(name: str, model_of: ModelOf) -> None:
    maps, method = attention_maps(model_of(name), scenes(3))
    assert method == METHODS[name]
    assert maps.shape == (3, 2, 8, 32, 32)
    assert maps.dtype == torch.float32
    assert maps.min() >= 0
    assert torch.allclose(maps.sum(dim=(2, 3, 4)), torch.ones(3, 2), atol=1e-4)


@pytest.mark.parametrize("name", list(METHODS))
def test_a_map_does_not_depend_on_the_scenes_beside_it(name: str, model_of: ModelOf) -> None:
    module, video = model_of(name), scenes(3)
    together, alone = attention_maps(module, video)[0], attention_maps(module, video[1:2])[0]
    assert torch.allclose(together[1:2], alone, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("name", list(METHODS))
def test_maps_leave_gradients_and_buffers_alone(name: str, model_of: ModelOf) -> None:
    module = model_of(name)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    with torch.no_grad():
        attention_maps(module, scenes(2))
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())


@pytest.mark.parametrize("name", list(METHODS))
def test_a_missing_camera_has_the_same_number_everywhere(name: str, model_of: ModelOf) -> None:
    video = scenes(2)
    video[0, 1] = math.nan
    maps, _ = attention_maps(model_of(name), video)
    assert torch.allclose(maps[0, 1], torch.full((8, 32, 32), 1 / (8 * 32 * 32)))
    assert maps.isfinite().all()
    assert maps[0, 0].std() > 1e-7


def test_models_in_training_are_refused(model_of: ModelOf) -> None:
    with pytest.raises(RunError, match="evaluation mode"):
        attention_maps(model_of("magvit").train(), scenes(1))


def test_the_gradient_is_that_of_the_answered_logit(model_of: ModelOf) -> None:
    module, video = model_of("slowfast"), scenes(1)
    map_VTHW = attention_maps(module, video)[0][0]
    answered = int(module(video)[0, :4].argmax())
    module, video = module.double(), video.double()

    def logit(changed: torch.Tensor) -> float:
        # Not `forward`, whose answers are float32: too coarse for a difference.
        seen = module.seen_views(changed)
        pooled = module.pool(module.join_views(module.encode_views(changed, seen), seen))
        return module.heads.classifier(pooled)[0, answered].item()

    def size_at(place: tuple[int, ...]) -> float:
        view, frame, y, x = place
        size = 0.0
        for colour in range(3):
            step = torch.zeros_like(video)
            step[0, view, frame, colour, y, x] = 1e-6
            size += abs(logit(video + step) - logit(video - step)) / 2e-6
        return size

    # A map is a share of its clip, so numbers of one clip keep their ratio.
    places = [(0, 2, 11, 13), (0, 7, 16, 16), (0, 4, 20, 8)]
    sizes = torch.tensor([size_at(place) for place in places])
    found = torch.stack([map_VTHW[place] for place in places])
    assert sizes.min() > 0
    assert torch.allclose(found / found.sum(), sizes / sizes.sum(), atol=1e-3)


def test_the_gradient_map_is_the_one_that_hooks_give(model_of: ModelOf) -> None:
    module, video = model_of("magvit"), scenes(2)
    kept: list[torch.Tensor] = []
    cnn = cast("Any", module.extractor).cnn
    hook = cnn.register_forward_hook(lambda *arguments: kept.append(arguments[2]))
    answers = module(video)
    hook.remove()
    (gradient,) = torch.autograd.grad(answers[:, :4].amax(dim=1).sum(), kept[0])
    points = (gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).relu()
    seen = torch.ones(2, 2, dtype=torch.bool)
    shares = module.time_weights(module.encode_views(video, seen), seen)
    large = F.interpolate(points[:, None], size=(32, 32), mode="bilinear").view(2, 2, 8, 32, 32)
    wanted = large * shares[:, None, :, None, None]
    wanted = wanted / wanted.sum(dim=(2, 3, 4), keepdim=True)
    assert torch.allclose(attention_maps(module, video)[0], wanted, atol=1e-6)


def test_rollout_is_the_published_product(model_of: ModelOf) -> None:
    module, video = model_of("transformer", time_pool="mean"), scenes(1)
    extractor = cast("SpaceTime", module.extractor)
    with torch.no_grad():
        _, layers = extractor.attend(video.flatten(0, 1))
    product = torch.eye(64)
    for weights in layers:
        product = (0.5 * weights[0] + 0.5 * torch.eye(64)) @ product
    # Every frame and every patch counts alike, so that the queries are averaged.
    wanted = product.mean(dim=0).view(4, 4, 4).detach()
    wanted = F.interpolate(wanted[:, None], size=(32, 32), mode="bilinear")[:, 0]
    wanted = wanted.repeat_interleave(2, dim=0)
    maps, _ = attention_maps(module, video)
    assert torch.allclose(maps[0, 0], wanted / wanted.sum(), atol=1e-7)


def test_faithfulness_of_maps_made_by_hand() -> None:
    discs = torch.zeros(2, 1, 2, 4, 4, dtype=torch.bool)
    discs[:, :, :, :2, :2] = True
    blind = torch.full((2, 1, 2, 4, 4), 1 / 32)
    assert faithfulness(blind, discs) == {"mass_in_disc": 0.25, "area_share": 0.25, "ratio": 1.0}
    pointing = discs / discs.sum(dim=(2, 3, 4), keepdim=True)
    assert faithfulness(pointing, discs)["ratio"] == pytest.approx(4.0)
    half = torch.cat([blind[:1], pointing[:1]])
    assert faithfulness(half, discs)["mass_in_disc"] == pytest.approx((0.25 + 1) / 2)


def test_faithfulness_without_a_disc_is_not_a_number() -> None:
    maps = torch.full((1, 1, 1, 2, 2), 0.25)
    found = faithfulness(maps, torch.zeros_like(maps, dtype=torch.bool))
    assert found["area_share"] == 0
    assert math.isnan(found["ratio"])
    with pytest.raises(RunError, match="beside discs"):
        faithfulness(maps, torch.zeros(1, 1, 1, 2, 3, dtype=torch.bool))


def test_the_largest_pixels_of_every_clip_are_deleted() -> None:
    video, maps = scenes(2), scenes(2, seed=1)[:, :, :, 0].exp()
    kept = video.clone()
    without = delete_pixels(video, maps, share=0.1, fill=1.0, choice="top")
    assert torch.equal(video, kept)
    gone = (without == 1.0).all(dim=3)
    assert gone.sum(dim=(2, 3, 4)).eq(round(0.1 * 8 * 32 * 32)).all()
    for scene in range(2):
        for view in range(2):
            clip, deleted = maps[scene, view], gone[scene, view]
            assert clip[deleted].min() > clip[~deleted].max()
    untouched = ~gone.unsqueeze(3).expand_as(video)
    assert torch.equal(without[untouched], video[untouched])


def test_random_pixels_are_as_many_and_follow_the_generator() -> None:
    video, maps = scenes(2), scenes(2, seed=1)[:, :, :, 0].exp()

    def gone(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        without = delete_pixels(
            video, maps, share=0.1, fill=1.0, choice="random", generator=generator
        )
        return (without == 1.0).all(dim=3)

    assert gone(0).sum(dim=(2, 3, 4)).eq(round(0.1 * 8 * 32 * 32)).all()
    assert torch.equal(gone(0), gone(0))
    assert not torch.equal(gone(0), gone(1))


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.5, 4096), (1.0, 8192)])
def test_equal_values_are_deleted_by_lot(share: float, count: int) -> None:
    video, maps = scenes(1), torch.ones(1, 2, 8, 32, 32)
    without = delete_pixels(
        video, maps, share=share, fill=9.0, choice="top", generator=torch.Generator().manual_seed(0)
    )
    gone = (without == 9.0).all(dim=3)
    assert gone.sum(dim=(2, 3, 4)).eq(count).all()
    if share == 0.5:
        # Not the first frames: every frame loses about half, sd of a frame's share .015.
        assert ((gone.float().mean(dim=(3, 4)) - 0.5).abs() < 0.08).all()


def test_a_share_beyond_all_pixels_is_refused() -> None:
    with pytest.raises(RunError, match=r"between 0 and 1, not 1\.5"):
        delete_pixels(scenes(1), torch.ones(1, 2, 8, 32, 32), share=1.5, fill=0.0, choice="random")
