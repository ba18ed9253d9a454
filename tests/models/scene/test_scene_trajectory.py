"""The model of scenes: its answers, cameras, buffers, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from regatta.core.errors import ConfigError, RunError, UnknownNameError
from regatta.core.registry import MODELS
from regatta.models.contracts import HasPositions
from regatta.models.scene.heads import AttendViews, TimePool, time_code
from regatta.models.scene.trajectory import Trajectory
from regatta.models.spec import ModelSpec, count_flops, count_parameters
from regatta.models.weights import load_model, save_model

NAMES = ["i3d", "magvit", "slowfast", "transformer"]
FUSIONS = ["mean", "concat", "attention"]
SpecOf = Callable[..., ModelSpec]


@pytest.fixture
def spec_of(tiny_spec) -> SpecOf:
    """A tiny spec of 8 frames at 32 px."""

    def resolve(extractor: str = "magvit", *, seed: int = 0, **options: Any) -> ModelSpec:
        return tiny_spec(
            "trajectory", seed=seed, extractor=extractor, frames=8, image_size=32, **options
        )

    return resolve


def model_of(spec: ModelSpec) -> Trajectory:
    """Warmed, in evaluation mode, with targets away from 0 and 1."""
    module = cast("Trajectory", spec.build(4))
    module.fit_targets(1 + 3 * numbers(20, len(module.position_names), 3))
    module.train()
    with torch.no_grad():
        module(scenes(spec, batch=8, seed=9))
    return module.eval()


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scenes(spec: ModelSpec, *, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return numbers(batch, *spec.input_shape, seed=seed)


def test_the_model_is_listed_as_one_of_scenes() -> None:
    listed = MODELS.listed["trajectory"]
    assert listed.kind == "scene"
    assert listed.options is not None
    assert listed.options["extractor"] == "'i3d'"
    assert listed.options["views"] == "[0]"


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_logits_and_positions(name: str, spec_of: SpecOf) -> None:
    spec = spec_of(name, views=[0, 2], targets=["last-visible", "forecast"])
    assert spec.kind == "scene"
    assert spec.input_shape == (2, 8, 3, 32, 32)
    module = model_of(spec)
    assert isinstance(module, HasPositions)
    assert module.position_names == ("last-visible", "forecast")
    answers = module(scenes(spec, batch=3))
    assert answers.shape == (3, 4 + 6)
    assert answers.dtype == torch.float32
    assert answers.isfinite().all()


def test_positions_are_in_world_units(spec_of: SpecOf) -> None:
    spec = spec_of(targets=["forecast", "last-visible"])
    module = model_of(spec)
    raw = module(scenes(spec))
    units = cast("Trajectory", spec.build(4)).eval()
    units.load_state_dict({**module.state_dict(), **statistics(torch.zeros(2, 3), 1.0)})
    plain = units(scenes(spec))
    assert torch.equal(raw[:, :4], plain[:, :4])
    mean, sd = module.position_mean.flatten(), module.position_sd.flatten()
    assert torch.allclose(raw[:, 4:], mean + sd * plain[:, 4:], atol=1e-5)


def statistics(mean_P3: torch.Tensor, sd: float) -> dict[str, torch.Tensor]:
    return {"position_mean": mean_P3, "position_sd": torch.full_like(mean_P3, sd)}


def test_targets_are_kept_as_mean_and_sd(spec_of: SpecOf) -> None:
    module = cast("Trajectory", spec_of(targets=["forecast", "last-visible"]).build(4))
    targets = torch.tensor([[[0.0, 1, 5], [1, 1, 1]], [[4, 3, 5], [3, 1, 1]]])
    module.fit_targets(targets)
    assert module.position_mean.tolist() == [[2, 2, 5], [2, 1, 1]]
    # A coordinate that never changes keeps a small positive sd.
    expected = torch.tensor([[2.0, 1, 1e-6], [1, 1e-6, 1e-6]])
    assert torch.allclose(module.position_sd, expected)


def test_unknown_targets_take_no_part_in_mean_and_sd(spec_of: SpecOf) -> None:
    module = cast("Trajectory", spec_of().build(4))
    targets = torch.tensor([[[0.0, 0, 0]], [[math.nan] * 3], [[2, 4, 6]]])
    module.fit_targets(targets)
    assert module.position_mean.tolist() == [[1, 2, 3]]
    assert module.position_sd.tolist() == [[1, 2, 3]]


def test_targets_of_another_shape_or_number_are_refused(spec_of: SpecOf) -> None:
    module = cast("Trajectory", spec_of().build(4))
    with pytest.raises(RunError, match=r"must be \[N, 1, 3\], not \[5, 3\]"):
        module.fit_targets(torch.zeros(5, 3))
    with pytest.raises(RunError, match="fewer than two training targets"):
        module.fit_targets(torch.full((5, 1, 3), math.nan))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_saved_model_answers_the_same(
    fusion: str, spec_of: SpecOf, tmp_path: Path, classes
) -> None:
    spec = spec_of(
        views=[1, 0, 3], view_fusion=fusion, targets=["forecast", "last-visible"],
        balance="uncertainty", camera_drop=0.2,
    )  # fmt: skip
    module = model_of(spec)
    save_model(tmp_path, module, spec, classes)
    loaded, found, names = load_model(tmp_path)
    assert names == classes
    assert (found.views, found.config) == ((1, 0, 3), spec.config)
    state = module.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.state_dict().items())
    assert torch.equal(loaded(scenes(spec)), module(scenes(spec)))


@pytest.mark.parametrize("name", NAMES)
def test_every_extractor_is_saved_and_loaded(
    name: str, spec_of: SpecOf, tmp_path: Path, classes
) -> None:
    spec = spec_of(name)
    module = model_of(spec)
    save_model(tmp_path, module, spec, classes)
    loaded, _, _ = load_model(tmp_path)
    assert torch.equal(loaded(scenes(spec)), module(scenes(spec)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_scene_alone_gets_the_answer_that_it_gets_beside_others(
    name: str, fusion: str, spec_of: SpecOf
) -> None:
    spec = spec_of(name, views=[0, 1], view_fusion=fusion)
    module, batch = model_of(spec), scenes(spec, batch=4)
    with torch.no_grad():
        assert torch.allclose(module(batch)[1:2], module(batch[1:2]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pool", ["attention", "mean"])
def test_every_parameter_gets_a_gradient_from_both_losses(
    fusion: str, pool: str, spec_of: SpecOf
) -> None:
    spec = spec_of(
        views=[0, 1, 2], view_fusion=fusion, time_pool=pool, camera_drop=0.3, balance="uncertainty",
        targets=["forecast", "last-visible"],
    )  # fmt: skip
    module = cast("Trajectory", spec.build(4)).train()
    answers = module(scenes(spec, batch=6))
    losses = torch.stack([answers[:, :4].logsumexp(dim=1).mean(), answers[:, 4:].square().mean()])
    assert module.log_variances is not None
    ((-module.log_variances).exp() * losses + module.log_variances).sum().backward()
    without = [name for name, p in module.named_parameters() if p.grad is None]
    assert without == []


def test_a_learned_balance_exists_only_when_asked_for(spec_of: SpecOf) -> None:
    fixed = cast("Trajectory", spec_of().build(4))
    learned = cast("Trajectory", spec_of(balance="uncertainty").build(4))
    assert fixed.log_variances is None
    assert learned.log_variances is not None
    assert learned.log_variances.tolist() == [0, 0]


def test_heads_and_fusion_have_the_layers_of_the_form(spec_of: SpecOf) -> None:
    def parameters(**options: Any) -> int:
        return count_parameters(spec_of(**options).build(4))

    one = parameters()
    pool = 32 + 1
    heads = 2 * (32 * 512 + 512) + 512 * 4 + 4 + 512 * 3 + 3
    extractor = count_parameters(cast("Trajectory", spec_of().build(4)).extractor)
    assert one == extractor + 32 + pool + heads
    assert parameters(time_pool="mean") == one - pool
    assert parameters(targets=["forecast", "last-visible"]) == one + 33 * 512 + 512 * 3 + 3
    assert parameters(views=[0, 1, 2, 3]) == one + 3 * 32
    assert parameters(views=[0, 1, 2, 3], view_fusion="concat") == one + 3 * 32 + 129 * 32
    assert parameters(views=[0, 1, 2, 3], view_fusion="attention") == one + 3 * 32 + 4 * 33 * 32


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_grows_with_the_cameras(name: str, spec_of: SpecOf) -> None:
    def flops(views: list[int]) -> int:
        spec = spec_of(name, views=views)
        return count_flops(spec.build(4), spec)

    # Two per multiply-add: scores and pooling of 8 frames, both heads.
    once = 2 * (2 * 8 * 32 + 2 * 32 * 512 + 512 * 4 + 512 * 3)
    assert flops([0, 1, 2]) - once == 3 * (flops([0]) - once)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("value", [math.nan, -1.0])
def test_a_missing_camera_leaves_no_trace(fusion: str, value: float, spec_of: SpecOf) -> None:
    spec = spec_of(views=[0, 1, 2], view_fusion=fusion)
    module, video = model_of(spec), scenes(spec)
    video[0, 1] = value
    with torch.no_grad():
        answers = module(video)
        assert answers.isfinite().all()
        changed = module.answer(
            module.encode_views(video, module.seen_views(video))
            + torch.tensor([0.0, 5.0, 0.0])[:, None, None]
            * torch.tensor([1.0, 0.0])[:, None, None, None],
            module.seen_views(video),
        )
    assert torch.allclose(changed, answers, atol=1e-5)


def test_of_one_camera_black_pictures_are_pictures(spec_of: SpecOf) -> None:
    spec = spec_of()
    module = model_of(spec)
    black = torch.full((2, *spec.input_shape), -1.0)
    assert module.seen_views(black).all()
    assert module(black).isfinite().all()


def test_the_mean_over_cameras_is_that_of_the_ones_that_are_seen(spec_of: SpecOf) -> None:
    spec = spec_of(views=[0, 1, 2])
    module = model_of(spec)
    features = numbers(2, 3, 8, 32)
    seen = torch.tensor([[True, False, True], [False, False, True]])
    joined = module.join_views(features, seen)
    coded = features + module.camera_code[:, None]
    assert torch.allclose(joined[0], (coded[0, 0] + coded[0, 2]) / 2, atol=1e-6)
    assert torch.allclose(joined[1], coded[1, 2], atol=1e-6)


def test_attention_over_cameras_is_the_one_of_torch() -> None:
    torch.manual_seed(0)
    ours = AttendViews(16)
    theirs = nn.MultiheadAttention(16, 8, batch_first=True)
    state = ours.state_dict()
    theirs.load_state_dict(
        {
            key: state[key.replace("in_proj_", "qkv.").replace("out_proj.", "out.")]
            for key in theirs.state_dict()
        }
    )
    features = numbers(2, 3, 5, 16)
    seen = torch.tensor([[True, True, True], [True, False, True]])
    for scene in range(2):
        for frame in range(5):
            tokens = features[scene : scene + 1, :, frame]
            mask = ~seen[scene : scene + 1]
            attended = tokens + theirs(tokens, tokens, tokens, key_padding_mask=mask)[0]
            wanted = attended[0, seen[scene]].mean(dim=0)
            found = ours(features, seen)[scene, frame]
            assert torch.allclose(found, wanted, atol=1e-5)


def test_cameras_are_dropped_in_training_at_the_rate_but_never_all(spec_of: SpecOf) -> None:
    spec = spec_of(views=[0, 1, 2], camera_drop=0.4)
    module = cast("Trajectory", spec.build(4)).train()
    video = numbers(4000, 3, 2, 1, 1, 1)
    torch.manual_seed(0)
    seen = module._seen(video)
    assert seen.any(dim=1).all()
    # Of three, all would be dropped with probability .4^3; then one of them stays.
    stays = 1 - (0.4 - 0.4**3 / 3)
    deviation = math.sqrt(stays * (1 - stays) / seen.numel())
    assert abs(float(seen.float().mean()) - stays) < 4 * deviation
    assert module.eval()._seen(video).all()


def test_a_missing_camera_is_not_the_one_that_stays(spec_of: SpecOf) -> None:
    spec = spec_of(views=[0, 1, 2], camera_drop=0.9)
    module = cast("Trajectory", spec.build(4)).train()
    video = numbers(500, 3, 2, 1, 1, 1)
    video[:, 0] = math.nan
    seen = module._seen(video)
    assert not seen[:, 0].any()
    assert seen.any(dim=1).all()


def test_time_code_is_the_published_formula() -> None:
    code = time_code(5, 6)
    for frame in range(5):
        for column in range(6):
            angle = frame / 10000 ** (2 * (column // 2) / 6)
            wanted = math.cos(angle) if column % 2 else math.sin(angle)
            assert code[frame, column].item() == pytest.approx(wanted, abs=1e-6)
    assert time_code(3, 5).shape == (3, 5)


def test_the_time_pool_is_a_mean_weighted_by_softmax_of_the_scores() -> None:
    torch.manual_seed(0)
    pool = TimePool(6, 4)
    features = numbers(2, 4, 6)
    coded = (features + time_code(4, 6)).double()
    weight, bias = pool.score.weight.double(), pool.score.bias.double()
    scores = (coded @ weight.T + bias)[..., 0]
    shares = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
    assert torch.allclose(pool.weights(features).double(), shares, atol=1e-6)
    wanted = (coded * shares[..., None]).sum(dim=1)
    assert torch.allclose(pool(features).double(), wanted, atol=1e-6)


def test_mean_pool_gives_every_frame_the_same_share(spec_of: SpecOf) -> None:
    module = model_of(spec_of(time_pool="mean"))
    features, seen = numbers(2, 1, 8, 32), torch.ones(2, 1, dtype=torch.bool)
    assert torch.equal(module.time_weights(features, seen), torch.full((2, 8), 1 / 8))


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_float32_under_autocast(name: str, spec_of: SpecOf) -> None:
    spec = spec_of(name, views=[0, 1], view_fusion="attention")
    module, video = model_of(spec), scenes(spec)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        answers = module(video)
    assert answers.dtype == torch.float32
    assert answers.isfinite().all()


@pytest.mark.parametrize("name", ["magvit", "transformer"])
def test_forward_is_one_graph_to_the_compiler(name: str, spec_of: SpecOf) -> None:
    spec = spec_of(name, views=[0, 1], view_fusion="attention", camera_drop=0.5)
    module, video = model_of(spec), scenes(spec)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(video), module(video), atol=1e-6)
    compiled.train()
    compiled(video).sum().backward()


def test_another_clip_is_refused(spec_of: SpecOf) -> None:
    module = cast("Trajectory", spec_of().build(4))
    words = r"takes scenes of \[1, 8, 3, 32, 32\] .* not \[1, 8, 3, 32, 40\]"
    with pytest.raises(RunError, match=words):
        module(torch.zeros(2, 1, 8, 3, 32, 40))
    with pytest.raises(RunError, match=r"not \[8, 3, 32, 32\]"):
        module(torch.zeros(2, 8, 3, 32, 32))


def test_an_unknown_extractor_is_named_with_the_nearest(spec_of: SpecOf) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'slowfast'"):
        spec_of("slow-fast")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": []}, "different camera numbers from 0, not"),
        ({"views": [0, 0]}, "different camera numbers"),
        ({"views": [-1]}, "different camera numbers"),
        ({"targets": []}, "at least one"),
        ({"targets": ["forecast", "forecast"]}, "different names"),
        ({"targets": ["middle"]}, "option 'targets'"),
        ({"camera_drop": 1.0, "views": [0, 1]}, "camera_drop must be at least 0 and below 1"),
        ({"camera_drop": 0.2}, "camera_drop needs more than one camera"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"dim": 30}, "dim of magvit must be a positive multiple of 4, not 30"),
        ({"dim": 36, "views": [0, 1], "view_fusion": "attention"}, "8 heads"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: dict[str, Any], words: str, spec_of: SpecOf
) -> None:
    with pytest.raises(ConfigError, match=words):
        spec_of(**options)


def test_describing_a_model_draws_no_random_number(spec_of: SpecOf) -> None:
    before = torch.get_rng_state()
    spec_of("i3d")
    assert torch.equal(torch.get_rng_state(), before)


def test_first_weights_follow_from_the_seed(spec_of: SpecOf) -> None:
    first, again, other = (spec_of(seed=seed).build(4).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["camera_code"], other["camera_code"])
