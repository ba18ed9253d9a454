"""Picture encoders against the library's ViT and written-out blocks; every key accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from regatta.config.schema import EntrySection
from regatta.core.errors import ConfigError, UnknownNameError, WeightsError
from regatta.models.key_report import KeyReport
from regatta.models.sensor.blocks import Block
from regatta.models.sensor.encoders import ENCODERS, EncoderShape, PictureEncoder
from regatta.models.sensor.har_vit import HarVit
from regatta.models.spec import (
    ModelSpec,
    check_default_checkpoint,
    count_flops,
    count_parameters,
    make_spec,
    resolve_model,
)
from regatta.models.weights import load_checkpoint, load_model, save_model

MICRO: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "patch_size": 8,
    "image_size": 32,
}


def har_vit(checkpoint: object, *, window: tuple[int, int] = (3, 20), **options: Any) -> ModelSpec:
    options = {"encoder": "vit-micro", **options}
    entry = EntrySection(name="e", model="har-vit", checkpoint=str(checkpoint), options=options)
    return resolve_model(entry, 4, seed=2, window=window)


def built(spec: ModelSpec, classes: int = 4) -> HarVit:
    module = spec.build(classes)
    assert isinstance(module, HarVit)
    return module.eval()


def load(checkpoint: Path, classes: list[str], **options: Any) -> tuple[HarVit, KeyReport]:
    spec = har_vit(checkpoint, **options)
    module = built(spec)
    return module, load_checkpoint(module, spec, str(checkpoint), classes=classes)


@pytest.fixture
def library(lively, tmp_path: Path):
    """library(ViTModel) -> the library's model with large random weights, saved in tmp_path."""

    def make(kind: type = ViTForImageClassification, **settings: Any) -> Any:
        model = lively(kind(ViTConfig(**{**MICRO, **settings})), 5)
        model.save_pretrained(tmp_path)
        return model

    return make


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randint(
        0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def as_library_takes(pictures: torch.Tensor, mean: float = 0.5, sd: float = 0.5) -> torch.Tensor:
    return ((pictures[:, None].float() / 255 - mean) / sd).expand(-1, 3, -1, -1)


@pytest.mark.parametrize(
    ("kind", "unused"),
    [
        (ViTForImageClassification, ("classifier.bias", "classifier.weight")),
        (ViTModel, ("pooler.dense.bias", "pooler.dense.weight")),
    ],
)
def test_hidden_states_are_those_of_the_librarys_vit(
    tmp_path: Path, library, pictures, classes, kind, unused
) -> None:
    theirs = library(kind)
    module, report = load(tmp_path, classes)
    base = theirs.vit if kind is ViTForImageClassification else theirs
    expected = base(as_library_takes(pictures)).last_hidden_state
    assert expected.std() > 0.1
    assert torch.allclose(module.encoder(pictures), expected, atol=1e-5, rtol=0)
    assert report.unused == unused
    assert unused[0] in report.summary()
    assert {key for key in module.state_dict() if key.startswith("encoder.")} == set(report.loaded)
    outside = {key for key in module.state_dict() if not key.startswith("encoder.")}
    assert outside == set(report.new_head)
    assert "mean 0.5, 0.5, 0.5 and sd 0.5, 0.5, 0.5 (the encoder's default" in report.summary()


def test_another_picture_size_is_resized_as_the_library_does_and_reported(
    tmp_path: Path, library, classes
) -> None:
    theirs = library(ViTModel)
    module, report = load(tmp_path, classes, image_size=64)
    larger = torch.randint(0, 256, (2, 64, 64), dtype=torch.uint8)
    expected = theirs(as_library_takes(larger), interpolate_pos_encoding=True).last_hidden_state
    assert torch.allclose(module.encoder(larger), expected, atol=1e-5, rtol=0)
    assert report.interpolated == {"encoder.position_embeddings": "4x4 -> 8x8 patches"}


def test_the_checkpoints_own_normalisation_is_used_and_saved(
    tmp_path: Path, library, pictures, classes
) -> None:
    theirs = library(ViTModel)
    processor = {"image_mean": [0.4] * 3, "image_std": [0.25] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    spec = har_vit(tmp_path)
    module = built(spec)
    report = load_checkpoint(module, spec, str(tmp_path))
    expected = theirs(as_library_takes(pictures, 0.4, 0.25)).last_hidden_state
    assert torch.allclose(module.encoder(pictures), expected, atol=1e-5, rtol=0)
    assert "sd 0.25, 0.25, 0.25 (its processor file)" in report.summary()
    save_model(tmp_path / "saved", module, spec, classes)
    again = load_model(tmp_path / "saved")[0]
    assert isinstance(again, HarVit)
    assert torch.equal(again.encoder(pictures), module.encoder(pictures))


def test_a_key_that_is_missing_extra_or_reshaped_stops_unless_it_is_allowed(
    tmp_path: Path, library, classes, edit_weights
) -> None:
    library()

    def damage(state: dict[str, torch.Tensor]) -> None:
        del state["vit.layernorm.bias"]
        state["vit.embeddings.mask_token"] = torch.zeros(1, 1, 32)
        state["vit.embeddings.patch_embeddings.projection.bias"] = torch.zeros(31)

    edit_weights(tmp_path, damage)
    keys = ["encoder.norm.bias", "encoder.embeddings.mask_token", "encoder.stem.bias"]
    for listed in ([], keys[:2], keys[1:], [keys[0], keys[2]]):
        with pytest.raises(WeightsError) as told:
            load(tmp_path, classes, allow_keys=listed)
        for key in keys:
            assert (key in str(told.value)) is (key not in listed)
    assert "allow_keys" in str(told.value)
    module, report = load(tmp_path, classes, allow_keys=["encoder.norm.*", *keys[1:]])
    assert report.allowed == {
        "encoder.norm.bias": "missing, stays new",
        "encoder.embeddings.mask_token": "extra, left out",
        "encoder.stem.bias": "[31] in the file, [32] in the model, stays new",
    }
    assert "encoder.norm.weight" in report.loaded
    assert "allowed encoder.norm.bias: missing, stays new" in report.summary()
    assert torch.isfinite(module(torch.randn(2, 3, 20))).all()


def test_heads_and_activation_that_shapes_do_not_betray_are_refused(
    tmp_path: Path, library, classes
) -> None:
    library(num_attention_heads=4, hidden_act="relu")
    with pytest.raises(WeightsError, match=r"num_attention_heads: 4 .*hidden_act: 'relu'"):
        load(tmp_path, classes)


def test_an_encoder_of_ours_serves_other_channels_and_classes(
    tmp_path: Path, lively, classes, pictures
) -> None:
    spec = har_vit("none", window=(3, 20))
    module = lively(built(spec))
    save_model(tmp_path, module, spec, classes)
    other = har_vit(tmp_path, window=(7, 50), mode="average", head=[8])
    loaded = built(other, 2)
    before = loaded.head.state_dict()["mlp.0.weight"].clone()
    report = load_checkpoint(loaded, other, str(tmp_path), classes=["a", "b"])
    assert torch.equal(loaded.encoder(pictures), module.encoder(pictures))
    assert torch.equal(loaded.head.state_dict()["mlp.0.weight"], before)
    assert all(key.startswith(("head.", "drawing.")) for key in report.new_head)
    with pytest.raises(WeightsError, match="holds encoder vit-micro, the entry asks for vit-tiny"):
        load(tmp_path, classes, encoder="vit-tiny")


def test_a_bare_encoder_file_of_ours_is_enough(tmp_path: Path, lively, classes, pictures) -> None:
    module = lively(built(har_vit("none")))
    (tmp_path / "config.json").write_text("{}")
    state = module.state_dict()
    save_file(
        {k: v for k, v in state.items() if k.startswith("encoder.")}, tmp_path / "model.safetensors"
    )
    loaded, report = load(tmp_path, classes)
    assert torch.equal(loaded.encoder(pictures), module.encoder(pictures))
    assert "head.mlp.0.weight" in report.new_head


def test_a_saved_model_with_a_hole_is_not_filled_with_random_weights(
    tmp_path: Path, classes, edit_weights
) -> None:
    spec = har_vit("none", allow_keys=["encoder.*", "drawing.*"])
    save_model(tmp_path, spec.build(4), spec, classes)
    for key in ("drawing.low_C", "encoder.norm.bias"):
        whole = load_file(tmp_path / "model.safetensors")
        edit_weights(tmp_path, lambda state, key=key: state.pop(key))
        with pytest.raises(WeightsError, match=f"no tensors for {key}"):
            load_model(tmp_path)
        save_file(whole, tmp_path / "model.safetensors")


def test_no_encoder_gets_random_weights_unasked() -> None:
    published = check_default_checkpoint(make_spec("har-vit", "base", {}))
    assert published.startswith("google/vit-base-patch16-224@")
    for encoder in ("vit-b8-detection", "vit-tiny", "vit-micro"):
        entry = EntrySection(name="e", model="har-vit", options={"encoder": encoder})
        with pytest.raises(ConfigError, match=f"{encoder} has no published checkpoint"):
            resolve_model(entry, 4, seed=0)


def test_an_unknown_encoder_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as told:
        make_spec("har-vit", "base", {"encoder": "vit-b-16"})
    assert "did you mean 'vit-b16'" in str(told.value)


def on_meta(name: str) -> PictureEncoder:
    with torch.device("meta"):
        shape = ENCODERS[name]
        return PictureEncoder(shape, side=shape.side, dropout=0.1)


def test_the_large_encoders_have_the_published_sizes() -> None:
    # 86,567,656 parameters of the published ViT-B/16-224 less its classifier of 1,000 classes.
    assert count_parameters(on_meta("vit-b16")) == 86_567_656 - 769_000
    # DeiT-Ti: 5,717,416 less its classifier.
    assert count_parameters(on_meta("vit-tiny")) == 5_717_416 - 193_000
    # Patch 8: stem 3 * 64 * 768 + 768, its norm, 784 positions, 12 layers, last norm.
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert count_parameters(on_meta("vit-b8-detection")) == (
        3 * 64 * 768 + 768 + 2 * 768 + 784 * 768 + 12 * layer + 2 * 768
    )


def test_operations_of_a_window_of_nine_channels_in_closed_form() -> None:
    spec = make_spec("har-vit", "base", {}, window=(9, 128))
    with torch.device("meta"):
        module = spec.build(6)
    tokens, width, mlp = 197, 768, 3072
    layer = tokens * (4 * width**2 + 2 * width * mlp) + 2 * tokens**2 * width
    encoder = 196 * 16 * 16 * 3 * width + 12 * layer
    assert count_flops(module, spec) == 2 * (9 * encoder + 9 * width * 512 + 512 * 6)


def block_by_definition(x: torch.Tensor, state: dict[str, torch.Tensor], heads: int, post: bool):
    """Attention pre-norm; MLP pre-norm, or y = LN(x + MLP(x))."""

    def dense(y: torch.Tensor, name: str) -> torch.Tensor:
        return y @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(y: torch.Tensor, name: str) -> torch.Tensor:
        gap = y - y.mean(-1, keepdim=True)
        scaled = gap / (gap.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def mlp(y: torch.Tensor) -> torch.Tensor:
        return dense(F.gelu(dense(y, "mlp_in")), "mlp_out")

    y = norm(x, "norm_attention")
    query, key, value = (
        dense(y, f"attention.{name}").unflatten(-1, (heads, -1)).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    x = x + dense(mixed, "attention.output")
    return norm(x + mlp(x), "norm_mlp") if post else x + mlp(norm(x, "norm_mlp"))


@pytest.mark.parametrize("place", ["pre", "post"])
def test_a_block_is_its_definition(lively, place) -> None:
    block = lively(Block(12, 3, mlp=20, dropout=0.1, mlp_norm=place, epsilon=1e-6))
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    expected = block_by_definition(x, block.state_dict(), 3, place == "post")
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_the_detection_encoder_is_its_definition(lively, pictures) -> None:
    full = ENCODERS["vit-b8-detection"]
    assert (full.width, full.layers, full.heads, full.mlp, full.patch) == (768, 12, 12, 3072, 8)
    small = EncoderShape(
        12,
        2,
        3,
        mlp=20,
        patch=full.patch,
        mlp_norm=full.mlp_norm,
        class_token=full.class_token,
        stem_norm=full.stem_norm,
        epsilon=full.epsilon,
    )
    encoder = lively(PictureEncoder(small, side=32, dropout=0.1))
    state = encoder.state_dict()
    grey = as_library_takes(pictures)
    patches = (
        grey.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    )
    x = patches @ state["stem.weight"].flatten(1).T + state["stem.bias"]
    x = F.layer_norm(x, (12,), state["stem_norm.weight"], state["stem_norm.bias"], 1e-6)
    x = x + state["position_embeddings"]
    for layer in range(2):
        part = {
            key.removeprefix(f"blocks.{layer}."): value
            for key, value in state.items()
            if key.startswith(f"blocks.{layer}.")
        }
        x = block_by_definition(x, part, 3, post=True)
    expected = F.layer_norm(x, (12,), state["norm.weight"], state["norm.bias"], 1e-6)
    assert expected.shape == (3, 16, 12)
    assert torch.allclose(encoder(pictures), expected, atol=1e-4)


def test_recomputed_blocks_give_the_same_gradients(pictures) -> None:
    grads = []
    for recompute in (False, True):
        module = built(har_vit("none", dropout=0.0)).train()
        if recompute:
            module.enable_gradient_checkpointing()
        module(torch.linspace(-1, 1, 120).reshape(2, 3, 20)).square().sum().backward()
        grads.append({name: p.grad for name, p in module.named_parameters()})
    for name, grad in grads[0].items():
        assert torch.equal(grad, grads[1][name]), name
