"""V-JEPA 2: the published size, checkpoints with and without a classifier, a frozen encoder."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model

from regatta.config.schema import EntrySection
from regatta.core.errors import ConfigError, RunError, WeightsError
from regatta.models.hub import HUB_ID
from regatta.models.parameters import parameter_groups
from regatta.models.spec import (
    count_parameters,
    enable_gradient_checkpointing,
    make_spec,
    resolve_model,
)
from regatta.models.weights import load_checkpoint, load_model, save_model

TINY: dict[str, Any] = {
    "patch_size": 8,
    "crop_size": 32,
    "frames_per_clip": 16,
    "hidden_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_pooler_layers": 1,
    # A predictor as published files have one, of another shape than ours.
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 2,
}


def publish(folder: Path, lively, kind: type[nn.Module], **settings: Any) -> Any:
    """A checkpoint as the library itself writes it, with its processor file's published name."""
    library = lively(kind(VJEPA2Config(**{**TINY, **settings})), 3)
    library.save_pretrained(folder)
    processor = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(processor))
    return library


def test_base_is_the_published_vit_l() -> None:
    spec = make_spec("vjepa2", "base", {})
    assert (spec.frames, spec.image_size) == (16, 256)
    with torch.device("meta"):
        ours = spec.build(174)
        library = VJEPA2Model(VJEPA2Config())
    # 325,971,328 numbers in facebook/vjepa2-vitl-fpc64-256, its predictor among them.
    assert count_parameters(library) == 325_971_328
    encoder = 325_971_328 - count_parameters(library.predictor)
    width, layers = 1024, 24
    patch = (3 * 2 * 16 * 16 + 1) * width
    assert encoder == layers * (12 * width**2 + 13 * width) + patch + 2 * width
    layer = 12 * width**2 + 13 * width
    # Three layers, one cross-attention layer without output projection, and the query.
    pooler = 3 * layer + (layer - width**2 - width) + width
    assert count_parameters(ours) == encoder + pooler + 174 * (width + 1)


def test_the_default_checkpoint_is_one_commit_of_the_hub() -> None:
    published = make_spec("vjepa2", "base", {}).default_checkpoint or ""
    match = HUB_ID.fullmatch(published)
    assert match is not None
    assert match["name"].startswith("facebook/vjepa2-vitl-")
    assert len(match["revision"]) == 40


def test_the_answer_is_the_librarys_own(tiny_spec, lively, clips) -> None:
    spec = tiny_spec("vjepa2")
    module = lively(spec.build(4))
    expected = module.hf(pixel_values_videos=clips(spec)).logits
    assert torch.equal(module(clips(spec)), expected)


def test_clips_that_the_library_takes_unseen_are_refused(tiny_spec, lively) -> None:
    module = lively(tiny_spec("vjepa2").build(4))
    for shape in ((1, 20, 3, 32, 32), (1, 16, 3, 48, 48)):
        video = torch.randn(shape)
        assert module.hf(pixel_values_videos=video).logits.shape == (1, 4)
        with pytest.raises(RunError, match="the model takes clips of"):
            module(video)


def test_a_bare_encoder_gets_a_new_pooler_and_head(
    tmp_path: Path, tiny_spec, lively, clips, classes
) -> None:
    library = publish(tmp_path, lively, VJEPA2Model)
    spec = tiny_spec("vjepa2", checkpoint=str(tmp_path))
    module = spec.build(4).eval()
    fresh = copy.deepcopy(module.state_dict())
    report = load_checkpoint(module, spec, str(tmp_path), classes=classes)
    video = clips(spec)
    expected = library.get_vision_features(video)
    assert torch.equal(module.hf.vjepa2.encoder(video).last_hidden_state, expected)
    assert {key.split(".")[1] for key in report.new_head} == {"pooler", "classifier"}
    assert all(torch.equal(module.state_dict()[key], fresh[key]) for key in report.new_head)
    assert all(".encoder." in key for key in report.loaded)
    assert report.without_effect
    assert all(".predictor." in key for key in report.without_effect)
    assert not report.interpolated


def test_a_published_classifier_loads_whole_for_its_classes_and_keeps_its_pooler_for_others(
    tmp_path: Path, tiny_spec, lively, clips, classes
) -> None:
    labels = {"id2label": dict(enumerate(classes)), "num_labels": 4}
    library = publish(tmp_path, lively, VJEPA2ForVideoClassification, **labels)
    spec = tiny_spec("vjepa2", checkpoint=str(tmp_path))
    same = spec.build(4).eval()
    assert load_checkpoint(same, spec, str(tmp_path), classes=classes).new_head == ()
    video = clips(spec)
    assert torch.equal(same(video), library(pixel_values_videos=video).logits)

    other = spec.build(3)
    report = load_checkpoint(other, spec, str(tmp_path), classes=["a", "b", "c"])
    assert report.new_head == ("hf.classifier.weight", "hf.classifier.bias")
    assert torch.equal(other.hf.pooler.query_tokens, library.pooler.query_tokens)


def test_half_a_pooler_is_refused(tmp_path: Path, tiny_spec, lively, edit_weights) -> None:
    publish(tmp_path, lively, VJEPA2ForVideoClassification)
    edit_weights(tmp_path, lambda state: state.pop("pooler.query_tokens"))
    spec = tiny_spec("vjepa2", checkpoint=str(tmp_path))
    with pytest.raises(WeightsError, match=r"missing: hf\.pooler\.query_tokens"):
        load_checkpoint(spec.build(4), spec, str(tmp_path))


def test_a_saved_model_without_its_head_is_refused(saved, edit_weights) -> None:
    folder, _, _ = saved("vjepa2")
    heads = [key for key in load_file(folder / "model.safetensors") if key.startswith("pooler")]
    edit_weights(folder, lambda state: [state.pop(key) for key in heads])
    with pytest.raises(WeightsError, match=r"no tensors for hf\.pooler"):
        load_model(folder)


def test_other_clips_than_the_checkpoint_saw_are_reported(
    tmp_path: Path, tiny_spec, lively
) -> None:
    publish(tmp_path, lively, VJEPA2Model, frames_per_clip=64)
    spec = tiny_spec("vjepa2", checkpoint=str(tmp_path))
    report = load_checkpoint(spec.build(4), spec, str(tmp_path))
    assert "32 -> 8 time steps" in report.summary()
    larger = tiny_spec("vjepa2", checkpoint=str(tmp_path), frames=64, image_size=48)
    report = load_checkpoint(larger.build(4), larger, str(tmp_path))
    assert "4x4 -> 6x6 patches" in report.summary()


def test_the_processor_file_is_found_by_its_newer_name(
    tmp_path: Path, tiny_spec, lively, edit_json
) -> None:
    publish(tmp_path, lively, VJEPA2Model)
    edit_json(tmp_path / "video_preprocessor_config.json", image_mean=[0.5, 0.25, 0.125])
    entry = EntrySection(name="e", model="vjepa2", size="tiny", checkpoint=str(tmp_path))
    assert resolve_model(entry, 4, seed=0).mean == (0.5, 0.25, 0.125)
    plain = tiny_spec("vjepa2")
    with pytest.raises(WeightsError, match="trained with mean") as caught:
        load_checkpoint(plain.build(4), plain, str(tmp_path))
    assert "video_preprocessor_config.json" in str(caught.value.where)


def train_a_little(module: nn.Module, spec, video: torch.Tensor, steps: int = 2) -> None:
    groups = parameter_groups(module, spec, lr=1e-2, head_lr_factor=1, weight_decay=0.1)
    optimizer = torch.optim.AdamW(groups)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(video), torch.tensor([0, 3])).backward()
        optimizer.step()


def test_a_frozen_encoder_learns_nothing_and_the_pooler_and_head_do(
    tiny_spec, lively, clips
) -> None:
    spec = tiny_spec("vjepa2", frozen=True, dropout=0.3)
    module = lively(spec.build(4)).train()
    before = copy.deepcopy(module.state_dict())
    groups = parameter_groups(module, spec, lr=1e-3, head_lr_factor=1, weight_decay=0.1)
    assert {group["name"] for group in groups} == {"head", "head_no_decay"}
    train_a_little(module, spec, clips(spec))
    changed = {
        key.split(".")[1]
        for key, value in module.state_dict().items()
        if not torch.equal(value, before[key])
    }
    assert changed == {"pooler", "classifier"}
    head = [p for key, p in module.named_parameters() if ".vjepa2." not in key]
    assert count_parameters(module, trainable_only=True) == sum(p.numel() for p in head)


def test_a_frozen_encoder_stays_in_evaluation_mode(tiny_spec, lively, clips) -> None:
    spec = tiny_spec("vjepa2", frozen=True, dropout=0.5)
    module = lively(spec.build(4)).train()
    assert module.hf.pooler.training
    assert not any(part.training for part in module.hf.vjepa2.modules())
    video = clips(spec)
    tokens = [module.hf.vjepa2.encoder(video).last_hidden_state for _ in range(2)]
    assert torch.equal(*tokens)
    assert not tokens[0].requires_grad
    learning = lively(tiny_spec("vjepa2", dropout=0.5).build(4)).train()
    assert all(part.training for part in learning.modules())


@pytest.mark.parametrize("frozen", [True, False])
def test_ddp_finds_no_parameter_without_gradient(
    tmp_path: Path, tiny_spec, lively, clips, frozen: bool
) -> None:
    spec = tiny_spec("vjepa2", frozen=frozen)
    module = lively(spec.build(4)).train()
    alone = copy.deepcopy(module)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        # A second step fails when the first left a parameter of DDP without its gradient.
        train_a_little(nn.parallel.DistributedDataParallel(module), spec, clips(spec))
    finally:
        torch.distributed.destroy_process_group()
    train_a_little(alone, spec, clips(spec))
    for a, b in zip(module.parameters(), alone.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_gradient_checkpointing_with_a_frozen_encoder_gives_the_same_gradients(
    tiny_spec, lively, clips
) -> None:
    spec = tiny_spec("vjepa2", frozen=True)
    plain, recomputing = (lively(spec.build(4)).train() for _ in range(2))
    enable_gradient_checkpointing(recomputing)
    for module in (plain, recomputing):
        F.cross_entropy(module(clips(spec)), torch.tensor([1, 2])).backward()
    for (key, a), b in zip(plain.named_parameters(), recomputing.parameters(), strict=True):
        if ".vjepa2." in key:
            assert a.grad is None
            assert b.grad is None
        else:
            assert a.grad is not None
            assert b.grad is not None
            assert torch.equal(a.grad, b.grad)


def test_a_frozen_model_comes_back_frozen(
    tmp_path: Path, tiny_spec, lively, clips, classes
) -> None:
    spec = tiny_spec("vjepa2", frozen=True)
    module = lively(spec.build(4))
    save_model(tmp_path, module, spec, classes)
    again, spec_again, _ = load_model(tmp_path)
    assert spec_again.config["options"]["frozen"] is True
    assert torch.equal(again(clips(spec)), module(clips(spec)))
    learning = [key for key, p in again.named_parameters() if p.requires_grad]
    assert {key.split(".")[1] for key in learning} == {"pooler", "classifier"}


def test_files_hold_no_predictor_to_speak_of(saved) -> None:
    folder, _, _ = saved("vjepa2")
    state = load_file(folder / "model.safetensors")
    left = {key: tensor for key, tensor in state.items() if "predictor" in key}
    assert sum(tensor.numel() for tensor in left.values()) < 4 * 96
    assert not any(tensor.any() for tensor in left.values())
    assert json.loads((folder / "config.json").read_text())["pred_num_hidden_layers"] == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"frames": 15}, "multiple of the tubelet 2"),
        ({"image_size": 36}, "multiple of the patch size 8"),
        ({"frozen": "yes"}, "cannot be 'yes'"),
        ({"dropout": 1.0}, "below 1"),
        ({"freeze": True}, "did you mean 'frozen'"),
    ],
)
def test_a_wrong_option_is_refused(tiny_spec, options, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_spec("vjepa2", **options)
    assert told in str(caught.value)
