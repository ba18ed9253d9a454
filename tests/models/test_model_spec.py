"""What a model declares, how options are checked, and how random weights are drawn."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from regatta.config.schema import EntrySection
from regatta.core.errors import ConfigError, RunError, UnknownNameError
from regatta.core.registry import MODELS
from regatta.models.parameters import parameter_groups
from regatta.models.spec import (
    count_flops,
    count_parameters,
    enable_gradient_checkpointing,
    make_spec,
    resolve_model,
)

MODEL_NAMES = ["cnn3d", "timesformer", "videomae", "vivit", "vjepa2"]
SOURCE = Path(__file__).resolve().parents[2] / "src" / "regatta"


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def entry(**changes) -> EntrySection:
    base = {"name": "e", "model": "videomae", "size": "tiny", "checkpoint": "none"}
    return EntrySection(**{**base, **changes})


def test_models_are_listed_without_importing_torch() -> None:
    listed = run_python(
        "import sys; from regatta.core.registry import MODELS; print(MODELS.names());"
        "assert 'torch' not in sys.modules"
    )
    for name in MODEL_NAMES:
        assert repr(name) in listed


def test_resolving_a_model_imports_neither_transformers_nor_torchvision() -> None:
    run_python(
        "import sys; from regatta.models.spec import make_spec;"
        f"[make_spec(name, 'base', {{}}) for name in {MODEL_NAMES}];"
        "assert not {'transformers', 'torchvision'} & set(sys.modules)"
    )


def test_torchvision_is_neither_imported_nor_required() -> None:
    files = (SOURCE / "models").rglob("*.py")
    assert [path for path in files if "import torchvision" in path.read_text()] == []
    assert "torchvision" not in (SOURCE.parents[1] / "pyproject.toml").read_text()


# Frames, pixels and statistics from the models' papers and published processor files.
@pytest.mark.parametrize(
    ("model", "frames", "pixels", "mean", "std"),
    [
        ("timesformer", 8, 224, (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
        ("videomae", 16, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("vivit", 32, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("cnn3d", 16, 112, (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    ],
)
def test_base_is_what_was_published(model, frames, pixels, mean, std) -> None:
    spec = make_spec(model, "base", {})
    assert (spec.name, spec.frames, spec.image_size) == (model, frames, pixels)
    assert (spec.mean, spec.std, spec.resize) == (mean, std, "crop")


# facebook/timesformer-base: 121,258,752 without its head (model card); R3D-18: 33,371,472 with 400
# classes (torchvision's table). The others: width 768, 12 layers, counted by hand below.
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("timesformer", 121_258_752 + 400 * 769),
        ("videomae", 12 * (12 * 768**2 + 12 * 768) + 768 * 1537 + 2 * 768 + 400 * 769),
        (
            "vivit",
            12 * (12 * 768**2 + 13 * 768) + 768 * 1537 + 768 * (3137 + 1 + 2) + 400 * 769,
        ),
        ("cnn3d", 33_371_472),
    ],
)
def test_base_has_the_published_number_of_parameters(model: str, expected: int) -> None:
    with torch.device("meta"):
        module = make_spec(model, "base", {}).build(400)
    assert count_parameters(module) == expected


def test_flops_of_videomae_base_are_the_closed_form() -> None:
    spec = make_spec("videomae", "base", {})
    with torch.device("meta"):
        module = spec.build(400)
    tokens, width, layers = 8 * 14 * 14, 768, 12
    patches = tokens * width * (3 * 2 * 16 * 16)
    layer = 12 * tokens * width**2 + 2 * tokens**2 * width
    multiply_adds = patches + layers * layer + width * 400
    assert count_flops(module, spec) == 2 * multiply_adds
    # The paper's table gives 180 billion multiply-adds for this model.
    assert multiply_adds / 1e9 == pytest.approx(180, rel=0.01)


# Multiply-adds per clip: Bertasius et al. 2021, table 3 (0.59 T for three views); Arnab et al.
# 2021, table 2 (joint attention); torchvision's table for R3D-18.
@pytest.mark.parametrize(
    ("model", "published"), [("timesformer", 0.59e12 / 3), ("vivit", 455.2e9), ("cnn3d", 40.697e9)]
)
def test_flops_of_base_agree_with_the_published_ones(model: str, published: float) -> None:
    spec = make_spec(model, "base", {})
    with torch.device("meta"):
        module = spec.build(400)
    assert count_flops(module, spec) / 2 == pytest.approx(published, rel=0.01)


def test_counting_flops_leaves_the_module_as_it_was(tiny_spec, clips) -> None:
    spec = tiny_spec("timesformer")
    module = spec.build(4)
    before = module(clips(spec))
    assert count_flops(module, spec) > 0
    assert module.training
    assert torch.equal(module(clips(spec)), before)


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_random_weights_depend_on_the_seed_and_on_nothing_else(tiny_spec, model: str) -> None:
    torch.manual_seed(1)
    first = tiny_spec(model, seed=5).build(4).state_dict()
    torch.manual_seed(2)
    again = tiny_spec(model, seed=5).build(4).state_dict()
    other = tiny_spec(model, seed=6).build(4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def numpy_key() -> np.ndarray:
    return np.random.get_state(legacy=False)["state"]["key"]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_building_leaves_the_global_generators_as_they_were(tiny_spec, model: str) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    torch_state, numpy_state = torch.get_rng_state(), numpy_key()
    tiny_spec(model).build(4)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(numpy_key(), numpy_state)


def test_options_reach_the_model_and_its_config(tiny_spec, clips) -> None:
    spec = tiny_spec("videomae", frames=8, image_size=48, tubelet=4, dropout=0.1)
    assert spec.config == {
        "name": "videomae",
        "size": "tiny",
        "options": {"frames": 8, "image_size": 48, "tubelet": 4, "dropout": 0.1},
    }
    assert (spec.frames, spec.image_size) == (8, 48)
    assert spec.build(4)(clips(spec)).shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"frame": 8}, "did you mean 'frames'"),
        ({"img_size": 64}, "did you mean 'image_size'"),
        ({"size": "base"}, "known: dropout, frames"),
        ({"frames": "8"}, "cannot be '8'"),
        ({"frames": 8.0}, "cannot be 8.0"),
        ({"frames": True}, "cannot be True"),
        ({"dropout": "none"}, "cannot be 'none'"),
        ({"frames": 7}, "multiple of the tubelet 2"),
        ({"frames": 0}, "multiple of the tubelet 2"),
        ({"image_size": 36}, "multiple of the patch size 8"),
        ({"tubelet": 0}, "multiple of the tubelet 0"),
        ({"dropout": 1.0}, "below 1"),
    ],
)
def test_a_wrong_option_is_refused_with_its_place_or_the_nearest_name(options, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_model(entry(options=options), 4, seed=0)
    assert told in str(caught.value)


def test_unknown_models_and_single_classes_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="videomea") as caught:
        resolve_model(entry(model="videomea"), 4, seed=0)
    assert "did you mean 'videomae'" in str(caught.value)
    with pytest.raises(ConfigError, match="at least 2 classes"):
        resolve_model(entry(), 1, seed=0)


@pytest.mark.parametrize(
    ("model", "size"), [("videomae", "tiny"), ("vivit", "small"), ("cnn3d", "base")]
)
def test_a_size_without_published_weights_asks_for_checkpoint_none(model: str, size: str) -> None:
    with pytest.raises(ConfigError, match="no published checkpoint") as caught:
        resolve_model(entry(model=model, size=size, checkpoint="default"), 4, seed=0)
    assert "checkpoint: none" in str(caught.value.hint)


def test_the_default_checkpoint_is_resolved_without_network_and_counts_as_pretrained() -> None:
    spec = resolve_model(entry(size="base", checkpoint="default"), 4, seed=0)
    assert spec.pretrained
    assert not resolve_model(entry(), 4, seed=0).pretrained


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_another_clip_shape_is_refused(tiny_spec, clips, model: str) -> None:
    spec = tiny_spec(model)
    module = spec.build(4)
    video = clips(spec)
    for wrong in (video[:, :-1], video[..., :-8], video[:, :, :1], video[0], video.transpose(1, 2)):
        with pytest.raises(RunError, match="the model takes clips of"):
            module(wrong)


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_every_trainable_parameter_is_in_exactly_one_group(tiny_spec, model: str) -> None:
    spec = tiny_spec(model)
    module = spec.build(4)
    frozen = next(module.parameters()).requires_grad_(False)
    groups = parameter_groups(module, spec, lr=1e-3, head_lr_factor=10, weight_decay=0.05)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in module.parameters() if p is not frozen)
    assert {group["name"] for group in groups} == {
        "backbone",
        "backbone_no_decay",
        "head",
        "head_no_decay",
    }
    torch.optim.AdamW(groups).step()


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_biases_norms_and_positions_are_not_decayed(tiny_spec, model: str) -> None:
    spec = tiny_spec(model)
    module = spec.build(4)
    groups = parameter_groups(module, spec, lr=1e-3, head_lr_factor=10, weight_decay=0.05)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in module.named_parameters():
        plain = parameter.ndim == 1 or "embeddings" in name.rsplit(".", 1)[-1] or "cls" in name
        assert (id(parameter) in decayed) is not plain, name


def test_only_a_pretrained_backbone_gives_the_head_its_own_rate(tiny_spec) -> None:
    spec = tiny_spec("videomae")
    module = spec.build(4)

    def rates(pretrained: bool) -> dict[str, float]:
        declared = replace(spec, pretrained=pretrained)
        groups = parameter_groups(module, declared, lr=1e-3, head_lr_factor=10, weight_decay=0.0)
        return {group["name"]: group["lr"] for group in groups}

    assert rates(True) == {
        "backbone": 1e-3,
        "backbone_no_decay": 1e-3,
        "head": 1e-2,
        "head_no_decay": 1e-2,
    }
    assert set(rates(False).values()) == {1e-3}


def test_a_model_without_blocks_says_that_it_cannot_recompute() -> None:
    with pytest.raises(ConfigError, match="Linear cannot recompute"):
        enable_gradient_checkpointing(nn.Linear(2, 2))


def test_registered_names_are_the_files_names() -> None:
    assert set(MODEL_NAMES) <= set(MODELS.names())
